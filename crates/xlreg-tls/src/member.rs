//! Members' certificates for any TLS program, and what makes such a program trust just a roster.
//!
//! A stock program trusts certificates, not keys, and looks at names. So a member shows a
//! certificate that holds its sig key, names its endpoints' hosts, and is signed by that same key;
//! and whoever trusts a roster has a bundle of *anchors*, one for each member, that say: what this
//! key signs is good, for this member's names and nobody else's. The one follows from a member's
//! key, the other from a roster, so no certificate has to be handed around.
//!
//! | certificate | subject | key | signed by |
//! |---|---|---|---|
//! | member | its name | its sig key | its sig key, as fingerprint |
//! | anchor | fingerprint of its sig key | its sig key | the bundle's root |
//! | root | one that no other bundle has | P-256, gone once the bundle is made | itself |
//!
//! An anchor has name constraints, so that one member can't issue itself a certificate of another.
//! The root is there since OpenSSL follows a chain up to a certificate that signed itself; Go and
//! rustls stop at the anchor. Its key is thrown away: were it the sig key of the bundle's owner, whoever
//! steals that could pose to the owner as anybody. All but the root say whose key signed them, which
//! OpenSSL asks for when it is strict, as Python has it be.
//!
//! Three things no anchor can say. A member's endpoints are what it says they are, another's address
//! among them; and ports are not in certificates. So under an address members can pose for each other,
//! though not under `<ID>.xlreg`, which no endpoint can claim. And the subject is free, as Go refuses
//! anchors that bind it: nobody should go by a certificate's common name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, PKCS_RSA_SHA256, PublicKeyData,
    SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer};
use xlreg_core::{Endpoint, Member, PublicKey};
use xlreg_proto::keys::{self, PrivateKey};

use crate::certificate::{
    EcSigner, RsaSigner, SECONDS_MAX, add_hosts, dns_name, endless, is_own_domain, lasting,
    own_name, serial,
};
use crate::crypto;
use crate::error::TlsError;

/// How far before its making a member's certificate begins: others' clocks may be that much behind.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Makes the certificate by which TLS programs know `member`: its sig key, signed by that key, good
/// for the hosts of its endpoints and for `<ID>.xlreg`, as server and as client, for `valid` from
/// `now` on. One RSA operation.
///
/// # Errors
/// [`TlsError::Host`] for an endpoint's host that no certificate can name, [`TlsError::Time`] for
/// dates that none can state, [`TlsError::Certificate`] if the cryptographic library refuses.
pub fn member_certificate(
    key: &PrivateKey,
    member: &Member,
    now: SystemTime,
    valid: Duration,
) -> Result<CertificateDer<'static>, TlsError> {
    let mut params = lasting(key.public());
    // Unlike the anchor's, as the two have one issuer.
    params.serial_number = Some(serial(keys::random()));
    params.not_before = date_time_ymd(1970, 1, 1) + seconds(now.checked_sub(BACKDATE))?;
    params.not_after = date_time_ymd(1970, 1, 1) + seconds(now.checked_add(valid))?;
    params.distinguished_name.push(DnType::OrganizationName, "xlreg member");
    params.distinguished_name.push(DnType::CommonName, common_name(member));
    params.subject_alt_names = names(member)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let own = issuer_params(key.public());
    let issuer = Issuer::from_params(&own, RsaSigner(key));
    Ok(params.signed_by(&PublicHalf(key.public()), &issuer)?.into())
}

/// What makes a program trust `members`, and nobody else: an anchor for each of them, and last the
/// root that they rest on. It is good for the members themselves too. No RSA operation.
///
/// Each call makes another root, so no two bundles are the same.
///
/// # Errors
/// [`TlsError::P256`] and [`TlsError::Certificate`] if the cryptographic library fails.
pub fn roster_bundle<'a>(
    members: impl IntoIterator<Item = &'a Member>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pair =
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| TlsError::P256)?;
    let root = root_params();
    let issuer = Issuer::from_params(&root, EcSigner(&pair));
    let mut bundle = Vec::new();
    for member in members {
        let anchor = anchor_params(member)?;
        bundle.push(anchor.signed_by(&PublicHalf(&member.sig_key), &issuer)?.into());
    }
    bundle.push(root.self_signed(&EcSigner(&pair))?.into());
    Ok(bundle)
}

/// How a stock program of a member connects to the others': it trusts `bundle` alone, wants to see the
/// name it connects to, and shows the member's `certificate`. TLS 1.3 only. No RSA operation but in
/// handshakes.
///
/// # Errors
/// [`TlsError::Setup`] if rustls takes a certificate or the key amiss.
pub fn stock_client(
    key: &PrivateKey,
    certificate: &CertificateDer<'static>,
    bundle: &[CertificateDer<'static>],
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for anchor in bundle {
        roots.add(anchor.clone())?;
    }
    let pkcs1 = PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.pkcs1().to_vec()));
    Ok(ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate.clone()], pkcs1)?)
}

/// The root of a bundle. Its subject is its own, so that bundles of several rosters can stand in one
/// file.
fn root_params() -> CertificateParams {
    let number = keys::random();
    let mut params = endless(number);
    params.distinguished_name.push(DnType::OrganizationName, "xlreg roster");
    let name = format!("{:032x}", u128::from_be_bytes(number));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// An anchor for whatever the member's sig key signs, for the member's names alone.
fn anchor_params(member: &Member) -> Result<CertificateParams, TlsError> {
    let mut params = issuer_params(&member.sig_key);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(just(&anchored_names(member)?));
    Ok(params)
}

/// Who signs a member's certificate: its own sig key, under the name that its anchors have too.
fn issuer_params(key: &PublicKey) -> CertificateParams {
    let mut params = lasting(key);
    params.distinguished_name.push(DnType::CommonName, key.fingerprint().to_string());
    params
}

/// 64 characters is all that a common name may have; the whole name is in the roster.
fn common_name(member: &Member) -> String {
    member.name.as_str().chars().take(64).collect()
}

/// The hosts of a member's endpoints, and the name that is its own wherever it is.
fn names(member: &Member) -> Result<Vec<SanType>, TlsError> {
    let mut names = vec![dns_name(&own_name(member.id))?];
    add_hosts(&mut names, &hosts(member).collect::<Vec<_>>())?;
    Ok(names)
}

/// The hosts of a member's endpoints, without any that would be somebody's own name.
fn hosts(member: &Member) -> impl Iterator<Item = &str> {
    member.endpoints.iter().map(Endpoint::host).filter(|host| !is_own_domain(host))
}

/// Of these names, those that a certificate can have. Under another host nobody can verify the member,
/// which is its own affair, and no reason to trust none of the others.
fn anchored_names(member: &Member) -> Result<Vec<SanType>, TlsError> {
    let mut names = vec![dns_name(&own_name(member.id))?];
    for host in hosts(member) {
        match add_hosts(&mut names, &[host]) {
            Ok(()) | Err(TlsError::Host { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// These DNS names and addresses, and no others.
///
/// A DNS name permits all below it, which may be another member's; hence the exclusion, with a dot in
/// front, as OpenSSL, Go and rustls understand it. A kind of name that no constraint speaks of is
/// free, so where there is no address, all addresses are excluded.
fn just(names: &[SanType]) -> NameConstraints {
    let mut constraints =
        NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: Vec::new() };
    let mut addresses = false;
    for name in names {
        match name {
            SanType::DnsName(name) => {
                let (name, below) = (name.as_str().to_owned(), format!(".{}", name.as_str()));
                constraints.permitted_subtrees.push(GeneralSubtree::DnsName(name));
                constraints.excluded_subtrees.push(GeneralSubtree::DnsName(below));
            }
            SanType::IpAddress(address) => {
                addresses = true;
                let bits = if address.is_ipv4() { 32 } else { 128 };
                constraints.permitted_subtrees.push(addresses_like(*address, bits));
            }
            _ => {}
        }
    }
    if !addresses {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        constraints.excluded_subtrees.extend(all.map(|any| addresses_like(any, 0)));
    }
    constraints
}

/// The addresses that begin with as many bits of `address`.
fn addresses_like(address: IpAddr, bits: u8) -> GeneralSubtree {
    GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, bits))
}

/// Seconds since 1970, if a certificate can state them.
fn seconds(time: Option<SystemTime>) -> Result<Duration, TlsError> {
    let since = time.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default());
    let seconds = since.map_or(u64::MAX, |since| since.as_secs());
    if (1..=SECONDS_MAX).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(TlsError::Time { seconds })
    }
}

/// A key whose private half is elsewhere, as rcgen wants to see it.
struct PublicHalf<'a>(&'a PublicKey);

impl PublicKeyData for PublicHalf<'_> {
    fn der_bytes(&self) -> &[u8] {
        keys::key_pkcs1(self.0)
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::{ServerName, UnixTime};
    use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
    use xlreg_core::NodeId;

    use super::*;
    use crate::crypto::ROOT_SIGNATURE;
    use crate::testing::{connect_as, node_key, other_key, registry_key};

    const LIFE: Duration = Duration::from_secs(1000);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn member(name: &str, number: u8, key: &PrivateKey, endpoints: &[&str]) -> Member {
        Member {
            id: NodeId::from_bytes([number; 20]),
            name: name.parse().unwrap(),
            attrs: 0,
            comms_key: key.public().clone(),
            sig_key: key.public().clone(),
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            entry_signature: None,
        }
    }

    /// Whether whoever trusts `bundle` takes `certificate` for `host` at `time`.
    fn trusts(
        bundle: &[CertificateDer<'static>],
        certificate: &CertificateDer<'static>,
        host: &str,
        time: SystemTime,
    ) -> Result<(), webpki::Error> {
        let anchors: Vec<_> =
            bundle.iter().map(|der| anchor_from_trusted_cert(der).unwrap()).collect();
        let certificate = EndEntityCert::try_from(certificate).unwrap();
        let time = UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap());
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            certificate.verify_for_usage(
                &[ROOT_SIGNATURE],
                &anchors,
                &[],
                time,
                usage,
                None,
                None,
            )?;
        }
        certificate.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap())
    }

    struct Two {
        a: (Arc<PrivateKey>, Member),
        b: (Arc<PrivateKey>, Member),
        bundle: Vec<CertificateDer<'static>>,
    }

    fn two() -> Two {
        let a = (node_key(), member("a", 1, &node_key(), &["192.0.2.1:1"]));
        let b = (other_key(), member("b", 2, &other_key(), &["b.example:1", "[2001:db8::1]:2"]));
        let bundle = roster_bundle([&a.1, &b.1]).unwrap();
        Two { a, b, bundle }
    }

    #[test]
    fn a_bundle_takes_each_member_under_all_its_names_while_its_certificate_is_valid() {
        let Two { a, b, bundle } = two();
        assert_eq!(bundle.len(), 3);
        let of_b = member_certificate(&b.0, &b.1, now(), LIFE).unwrap();
        for host in ["b.example", "2001:db8::1", &format!("{}.xlreg", b.1.id)] {
            assert_eq!(trusts(&bundle, &of_b, host, now()), Ok(()), "{host}");
        }
        assert!(trusts(&bundle, &of_b, "192.0.2.1", now()).is_err(), "a's address");
        let of_a = member_certificate(&a.0, &a.1, now(), LIFE).unwrap();
        assert_eq!(trusts(&bundle, &of_a, "192.0.2.1", now()), Ok(()), "itself");
        for (time, ok) in [
            (now() - BACKDATE, true),
            (now() - 2 * BACKDATE, false),
            (now() + LIFE, true),
            (now() + 2 * LIFE, false),
        ] {
            assert_eq!(trusts(&bundle, &of_b, "b.example", time).is_ok(), ok, "{time:?}");
        }
    }

    /// With a key of the roster, names of another member are out of reach, with or without them.
    #[test]
    fn a_member_can_not_issue_itself_anothers_names() {
        let Two { b, bundle, .. } = two();
        let mut impostor = b.1.clone();
        for endpoint in ["192.0.2.1:1", "c.example:1", "[2001:db8::2]:1", "a.b.example:1"] {
            impostor.endpoints = vec![endpoint.parse().unwrap()];
            let forged = member_certificate(&b.0, &impostor, now(), LIFE).unwrap();
            let host = impostor.endpoints[0].host();
            let error = trusts(&bundle, &forged, host, now()).unwrap_err();
            assert_eq!(error, webpki::Error::NameConstraintViolation, "{host}");
        }
    }

    /// Were a's own key trusted in its bundle for more than a's names, its thief could pose to a as
    /// anybody.
    #[test]
    fn who_steals_a_members_key_can_pose_to_it_as_no_other() {
        let Two { a, b, bundle } = two();
        let mut posing = b.1;
        posing.id = a.1.id;
        let forged = member_certificate(&a.0, &posing, now(), LIFE).unwrap();
        let error = trusts(&bundle, &forged, "b.example", now()).unwrap_err();
        assert_eq!(error, webpki::Error::NameConstraintViolation);
    }

    #[test]
    fn who_has_only_host_names_can_not_issue_itself_addresses() {
        let a = (node_key(), member("a", 1, &node_key(), &["192.0.2.1:1"]));
        let mut b = member("b", 2, &other_key(), &["b.example:1"]);
        let bundle = roster_bundle([&a.1, &b]).unwrap();
        b.endpoints.push("192.0.2.1:1".parse().unwrap());
        let forged = member_certificate(&other_key(), &b, now(), LIFE).unwrap();
        let error = trusts(&bundle, &forged, "192.0.2.1", now()).unwrap_err();
        assert_eq!(error, webpki::Error::NameConstraintViolation);
    }

    /// A host that the registry takes and no certificate can name is its member's trouble alone.
    #[test]
    fn a_member_at_an_unnameable_host_does_not_cost_the_others_their_bundle() {
        let a = (node_key(), member("a", 1, &node_key(), &["192.0.2.1:1"]));
        let b = (other_key(), member("b", 2, &other_key(), &["b.0x1:1", "192.0.2.2:1"]));
        let bundle = roster_bundle([&a.1, &b.1]).unwrap();
        let error = member_certificate(&b.0, &b.1, now(), LIFE).unwrap_err();
        assert!(matches!(&error, TlsError::Host { host } if host == "b.0x1"), "{error}");
        let elsewhere = member("b", 2, &other_key(), &["192.0.2.2:1"]);
        let of_b = member_certificate(&b.0, &elsewhere, now(), LIFE).unwrap();
        assert_eq!(trusts(&bundle, &of_b, "192.0.2.2", now()), Ok(()));
    }

    /// A member's endpoints are what it says they are, and it may say that it is at another's own name.
    #[test]
    fn no_endpoint_makes_a_member_another_under_the_name_that_is_its_own() {
        let Two { a, mut b, .. } = two();
        let own = format!("{}.xlreg", a.1.id);
        let claims = [&own, &own.to_uppercase(), &format!("x.{own}"), "xlreg"];
        b.1.endpoints = claims.map(|host| format!("{host}:1").parse().unwrap()).into();
        let bundle = roster_bundle([&a.1, &b.1]).unwrap();
        let of_b = member_certificate(&b.0, &b.1, now(), LIFE).unwrap();
        assert_eq!(trusts(&bundle, &of_b, &format!("{}.xlreg", b.1.id), now()), Ok(()));
        assert!(trusts(&bundle, &of_b, &own, now()).is_err(), "it names itself so");
        let posing = Member { id: a.1.id, ..b.1.clone() };
        let forged = member_certificate(&b.0, &posing, now(), LIFE).unwrap();
        let error = trusts(&bundle, &forged, &own, now()).unwrap_err();
        assert_eq!(error, webpki::Error::NameConstraintViolation);
    }

    #[test]
    fn who_is_not_in_the_roster_is_not_trusted() {
        let Two { b, bundle, .. } = two();
        let stranger = Member { sig_key: registry_key().public().clone(), ..b.1.clone() };
        let forged = member_certificate(&registry_key(), &stranger, now(), LIFE).unwrap();
        let error = trusts(&bundle, &forged, "b.example", now()).unwrap_err();
        assert_eq!(error, webpki::Error::UnknownIssuer);
        // Nor if it takes b's certificate, and holds another key.
        let of_b = member_certificate(&b.0, &b.1, now(), LIFE).unwrap();
        let key = EndEntityCert::try_from(&of_b).unwrap();
        assert_eq!(&*key.subject_public_key_info(), b.1.sig_key.der());
    }

    /// The whole of it, by rustls: who connects to whom under which name.
    #[tokio::test]
    async fn a_stock_client_meets_members_only_and_each_under_its_own_name() {
        let Two { a, b, bundle } = two();
        let shown = |key: &PrivateKey, member: &Member| {
            member_certificate(key, member, SystemTime::now(), LIFE).unwrap()
        };
        let client = |key: &PrivateKey, member: &Member| {
            Arc::new(stock_client(key, &shown(key, member), &bundle).unwrap())
        };
        let server = |key: &PrivateKey, member: &Member| {
            let roots = bundle.iter().cloned().fold(RootCertStore::empty(), |mut roots, anchor| {
                roots.add(anchor).unwrap();
                roots
            });
            let pkcs1 = PrivatePkcs1KeyDer::from(key.pkcs1().to_vec());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider());
            let config = ServerConfig::builder_with_provider(crypto::provider())
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_client_cert_verifier(verifier.build().unwrap())
                .with_single_cert(vec![shown(key, member)], pkcs1.into());
            Arc::new(config.unwrap())
        };
        let meets = async |client: Arc<ClientConfig>, server: Arc<ServerConfig>| {
            let name = ServerName::try_from("b.example").unwrap();
            let error = connect_as(name, client, server).await.err();
            error.and_then(|failed| failed.client).map(|error| error.to_string())
        };
        assert_eq!(meets(client(&a.0, &a.1), server(&b.0, &b.1)).await, None);
        let wrong = meets(client(&a.0, &a.1), server(&a.0, &a.1)).await.unwrap();
        assert!(wrong.contains("certificate not valid for name"), "{wrong}");
        let posing = meets(client(&a.0, &a.1), server(&a.0, &b.1)).await.unwrap();
        assert!(posing.contains("NameConstraintViolation"), "{posing}");
        let stranger = client(&registry_key(), &a.1);
        let refused = meets(stranger, server(&b.0, &b.1)).await.unwrap();
        assert!(refused.contains("UnknownCA"), "{refused}");
    }

    #[test]
    fn dates_that_no_certificate_states_are_refused() {
        let Two { a, .. } = two();
        for (now, life) in
            [(UNIX_EPOCH + BACKDATE, LIFE), (now(), Duration::from_secs(SECONDS_MAX))]
        {
            let error = member_certificate(&a.0, &a.1, now, life).unwrap_err();
            assert!(matches!(error, TlsError::Time { .. }), "{error}");
        }
    }
}
