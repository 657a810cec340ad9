//! The certificates: a registry's root and the leaves it issues itself, and a node's own.
//!
//! | certificate | key | signed by | valid |
//! |---|---|---|---|
//! | root | the registry's sig key | itself | from 2020, for ever |
//! | leaf | a new P-256 key, in memory only | the root | [`LEAF_LIFE`] |
//! | node | the node's sig key | itself | from 2020, for ever |
//!
//! Root and node certificates are functions of the key (and ID): made again they are the same bytes,
//! so there is no file to keep, and a copy that someone exported stays right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey, date_time_ymd,
};
use rustls::crypto::aws_lc_rs::sign::{any_ecdsa_type, any_supported_type};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, ServerName,
};
use xlreg_core::{Fingerprint, NodeId, PublicKey};
use xlreg_proto::keys::{self, PrivateKey};

use crate::error::TlsError;

/// How long a leaf is valid. Short, as nothing can revoke one; long enough that there are hours to
/// mend a renewal that fails.
pub const LEAF_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How far before its making a leaf's life begins: clients' clocks may be that much behind.
pub const LEAF_BACKDATE: Duration = Duration::from_secs(3600);

/// How old a leaf gets before it is replaced, counted from the beginning of its life.
pub const LEAF_RENEWAL_AGE: Duration = Duration::from_secs(LEAF_LIFE.as_secs() / 3 * 2);

/// Bytes of a serial number. RFC 5280 allows 20.
const SERIAL_BYTES: usize = 16;

/// The last second that a certificate can state: 9999-12-31 23:59:59. RFC 5280 has it mean that
/// there is no end.
pub(crate) const SECONDS_MAX: u64 = 253_402_300_799;

/// Where the lives of the certificates without an end begin: a date before all of them.
const BEGINNING: (i32, u8, u8) = (2020, 1, 1);

/// The domain of the name that a certificate has besides its hosts. It exists in no DNS.
const DOMAIN: &str = "xlreg";

/// A registry's root: its sig key, and the certificate that the key signed for itself.
pub struct Root {
    key: Arc<PrivateKey>,
    id: NodeId,
    params: CertificateParams,
    certificate: rcgen::Certificate,
}

impl Root {
    /// Makes the root of the registry with this sig key and ID. One RSA operation.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] if the cryptographic library refuses to sign.
    pub fn new(key: Arc<PrivateKey>, id: NodeId) -> Result<Self, TlsError> {
        let mut params = lasting(key.public());
        params.distinguished_name.push(DnType::OrganizationName, "xlreg registry");
        params.distinguished_name.push(DnType::CommonName, id.to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&RsaSigner(&key))?;
        Ok(Self { key, id, params, certificate })
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// The certificate as PEM, for stock TLS clients.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Issues a leaf with a key made for it, good for `hosts`, this machine and `<ID>.xlreg`. One
    /// RSA operation.
    ///
    /// `hosts` are DNS names and IP addresses, without ports. Our own clients don't look at them;
    /// stock ones do.
    ///
    /// # Errors
    /// [`TlsError::Host`] for a host that is neither, [`TlsError::Time`] for a `now` that no
    /// certificate can state, [`TlsError::P256`] and [`TlsError::Certificate`] if the
    /// cryptographic library fails.
    pub fn issue(&self, hosts: &[impl AsRef<str>], now: SystemTime) -> Result<Leaf, TlsError> {
        let begin = leaf_begin(now)?;
        let name = own_name(self.id);
        let epoch = date_time_ymd(1970, 1, 1);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial(keys::random()));
        params.not_before = epoch + Duration::from_secs(begin);
        params.not_after = epoch + Duration::from_secs(begin) + LEAF_LIFE;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = own_names(&name)?;
        add_hosts(&mut params.subject_alt_names, hosts)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;

        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| TlsError::P256)?;
        let issuer = Issuer::from_params(&self.params, RsaSigner(&self.key));
        let certificate = params.signed_by(&EcSigner(&pair), &issuer)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| TlsError::P256)?;
        let key = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref())))?;
        let chain = vec![certificate.into(), self.der().clone()];
        let begin = UNIX_EPOCH + Duration::from_secs(begin);
        Ok(Leaf { certified: Arc::new(CertifiedKey::new(chain, key)), begin })
    }
}

/// A short-lived certificate with its key, below a registry's root.
#[derive(Clone, Debug)]
pub struct Leaf {
    certified: Arc<CertifiedKey>,
    begin: SystemTime,
}

impl Leaf {
    /// Leaf and root as a server shows them, and the leaf's key to sign handshakes with.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// When its life begins: [`LEAF_BACKDATE`] before it was issued.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.begin
    }

    /// When its life ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.begin + LEAF_LIFE
    }

    /// When it should be replaced: after two thirds of its life, so that a third is left to notice
    /// that it was not.
    #[must_use]
    pub fn renewal_due(&self) -> SystemTime {
        self.begin + LEAF_RENEWAL_AGE
    }
}

/// A node's certificate: its sig key in the form that TLS carries, signed by that key.
///
/// Whoever gets it looks at the key alone: the handshake proves that the node holds it.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    der: CertificateDer<'static>,
    certified: Arc<CertifiedKey>,
}

impl NodeCertificate {
    /// Makes the certificate of the node with this sig key, and names `hosts` in it if there are
    /// any: where it listens, for stock clients. One RSA operation.
    ///
    /// # Errors
    /// [`TlsError::Host`] for a host that is neither DNS name nor address,
    /// [`TlsError::Certificate`] and [`TlsError::Setup`] if the cryptographic library refuses.
    pub fn new(key: &PrivateKey, hosts: &[impl AsRef<str>]) -> Result<Self, TlsError> {
        let mut params = lasting(key.public());
        // 64 digits, which is all that a common name may have.
        params.distinguished_name.push(DnType::CommonName, key.public().fingerprint().to_string());
        add_hosts(&mut params.subject_alt_names, hosts)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let der = CertificateDer::from(params.self_signed(&RsaSigner(key))?);
        let pkcs1 = PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.pkcs1()));
        let certified = CertifiedKey::new(vec![der.clone()], any_supported_type(&pkcs1)?);
        Ok(Self { der, certified: Arc::new(certified) })
    }

    /// The certificate, and the key to sign handshakes with.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// What certificates without an end have in common, if they are of a key that lasts: all of it
/// follows from that.
pub(crate) fn lasting(key: &PublicKey) -> CertificateParams {
    endless(first_bytes(key.fingerprint()))
}

/// What certificates without an end have in common. The serial number is made of `number`.
pub(crate) fn endless(number: [u8; SERIAL_BYTES]) -> CertificateParams {
    let (year, month, day) = BEGINNING;
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial(number));
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(SECONDS_MAX);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn first_bytes(fingerprint: Fingerprint) -> [u8; SERIAL_BYTES] {
    let mut bytes = [0; SERIAL_BYTES];
    bytes.iter_mut().zip(fingerprint.as_bytes()).for_each(|(to, from)| *to = *from);
    bytes
}

/// A serial number of these bytes but for the upper two bits, which make it positive and of full
/// length in DER.
pub(crate) fn serial(mut bytes: [u8; SERIAL_BYTES]) -> SerialNumber {
    let [first, ..] = &mut bytes;
    *first = *first & 0x3F | 0x40;
    SerialNumber::from(bytes.to_vec())
}

/// The second in which the life of a leaf issued `now` begins, if the dates from there on exist.
fn leaf_begin(now: SystemTime) -> Result<u64, TlsError> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let begin = seconds.checked_sub(LEAF_BACKDATE.as_secs());
    begin
        .filter(|begin| *begin <= SECONDS_MAX - LEAF_LIFE.as_secs())
        .ok_or(TlsError::Time { seconds })
}

/// The name that is a node's own wherever it is: `<ID>.xlreg`.
pub(crate) fn own_name(id: NodeId) -> String {
    format!("{id}.{DOMAIN}")
}

/// Whether a host is of the domain in which each name is one node's own, by its ID. No endpoint can
/// claim such a name: who gave it might be another.
#[must_use]
pub fn is_own_domain(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|top| top.eq_ignore_ascii_case(DOMAIN))
}

/// The names that every leaf has: this machine's own, and one that is the registry's wherever it is.
fn own_names(name: &str) -> Result<Vec<SanType>, TlsError> {
    Ok(vec![
        dns_name(name)?,
        dns_name("localhost")?,
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ])
}

/// Adds those that are not there yet.
pub(crate) fn add_hosts(
    names: &mut Vec<SanType>,
    hosts: &[impl AsRef<str>],
) -> Result<(), TlsError> {
    for host in hosts {
        let host = host.as_ref();
        let name = match ServerName::try_from(host) {
            Ok(ServerName::IpAddress(address)) => SanType::IpAddress(address.into()),
            Ok(ServerName::DnsName(name)) => dns_name(name.as_ref())?,
            _ => return Err(TlsError::Host { host: host.to_owned() }),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(())
}

pub(crate) fn dns_name(name: &str) -> Result<SanType, TlsError> {
    Ok(SanType::DnsName(name.try_into()?))
}

/// A sig key as rcgen wants to see one that signs certificates.
pub(crate) struct RsaSigner<'a>(pub(crate) &'a PrivateKey);

impl PublicKeyData for RsaSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        keys::key_pkcs1(self.0.public())
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

impl SigningKey for RsaSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign_pkcs1(&[message]).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// The key of a leaf, or of a bundle's root, as rcgen wants to see it.
pub(crate) struct EcSigner<'a>(pub(crate) &'a EcdsaKeyPair);

impl PublicKeyData for EcSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for EcSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use webpki::EndEntityCert;

    use super::*;
    use crate::testing::{ID, NO_HOSTS, node_key, registry_key};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn root_and_node_certificates_follow_from_the_key() {
        let root = Root::new(registry_key(), ID).unwrap();
        let reloaded = Arc::new(PrivateKey::from_pkcs1(registry_key().pkcs1()).unwrap());
        let again = Root::new(reloaded, ID).unwrap();
        assert_eq!(root.der(), again.der());
        assert_eq!(root.pem(), again.pem());
        assert!(root.pem().starts_with("-----BEGIN CERTIFICATE-----"));
        let other = Root::new(registry_key(), NodeId::from_bytes([1; 20])).unwrap();
        assert_ne!(root.der(), other.der());

        let node = NodeCertificate::new(&node_key(), NO_HOSTS).unwrap();
        assert_eq!(node.der(), NodeCertificate::new(&node_key(), NO_HOSTS).unwrap().der());
        assert_ne!(node.der(), NodeCertificate::new(&node_key(), &["a.b"]).unwrap().der());
    }

    #[test]
    fn a_certificate_holds_the_key_in_the_bytes_that_are_pinned() {
        let root = Root::new(registry_key(), ID).unwrap();
        let node = NodeCertificate::new(&node_key(), NO_HOSTS).unwrap();
        for (der, key) in [(root.der(), registry_key()), (node.der(), node_key())] {
            let certificate = EndEntityCert::try_from(der).unwrap();
            assert_eq!(&*certificate.subject_public_key_info(), key.public().der());
        }
    }

    /// What stock clients look for, as bytes: dates, ID, and that the root may sign leaves alone.
    #[test]
    fn a_root_says_what_stock_clients_ask() {
        let root = Root::new(registry_key(), ID).unwrap();
        let contains = |part: &[u8]| root.der().windows(part.len()).any(|window| window == part);
        assert!(contains(b"\x17\x0d200101000000Z\x18\x0f99991231235959Z"));
        assert!(contains(b"xlreg registry"));
        assert!(contains(ID.to_string().as_bytes()));
        // basicConstraints, critical: CA, pathlen 0. keyUsage, critical: keyCertSign and cRLSign.
        assert!(contains(b"\x55\x1d\x13\x01\x01\xff\x04\x08\x30\x06\x01\x01\xff\x02\x01\x00"));
        assert!(contains(b"\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x01\x06"));
        assert!(contains(b"\x55\x1d\x0e"));
    }

    #[test]
    fn a_leaf_is_new_each_time_and_good_for_its_hosts_and_this_machine() {
        let root = Root::new(registry_key(), ID).unwrap();
        let hosts = ["registry.example.com", "192.0.2.7", "2001:db8::7", "localhost"];
        let leaf = root.issue(&hosts, now()).unwrap();
        let again = root.issue(&hosts, now()).unwrap();
        let [der, shown] = leaf.certified_key().cert.as_slice() else { panic!("a chain of two") };
        assert_eq!(shown, root.der());
        assert_ne!(der, &again.certified_key().cert[0]);
        leaf.certified_key().keys_match().unwrap();

        let certificate = EndEntityCert::try_from(der).unwrap();
        for name in hosts.iter().copied().chain(["127.0.0.1", "::1", &format!("{ID}.xlreg")]) {
            let name = ServerName::try_from(name).unwrap();
            certificate.verify_is_valid_for_subject_name(&name).unwrap();
        }
        assert_eq!(certificate.valid_dns_names().filter(|name| *name == "localhost").count(), 1);
        let elsewhere = ServerName::try_from("example.com").unwrap();
        assert!(certificate.verify_is_valid_for_subject_name(&elsewhere).is_err());
    }

    #[test]
    fn a_leafs_dates_are_what_the_constants_say() {
        let leaf = Root::new(registry_key(), ID).unwrap().issue(NO_HOSTS, now()).unwrap();
        assert_eq!(leaf.not_before(), now() - LEAF_BACKDATE);
        assert_eq!(leaf.not_after(), leaf.not_before() + LEAF_LIFE);
        assert_eq!(leaf.renewal_due(), leaf.not_before() + LEAF_LIFE * 2 / 3);
    }

    #[test]
    fn what_no_certificate_can_say_is_refused() {
        let root = Root::new(registry_key(), ID).unwrap();
        for host in ["", "a b", "-a", "registry:1", "*.example.com", "[::1]", "é.example.com"] {
            let error = root.issue(&[host], now()).unwrap_err();
            assert!(
                matches!(&error, TlsError::Host { host: got } if got == host),
                "{host}: {error}"
            );
        }
        let last = SECONDS_MAX + LEAF_BACKDATE.as_secs() - LEAF_LIFE.as_secs();
        for (seconds, fits) in [(0, false), (3599, false), (3600, true), (last, true)] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(root.issue(NO_HOSTS, time).is_ok(), fits, "{seconds}");
        }
        for beyond in [last + 1, SECONDS_MAX, SECONDS_MAX + 1] {
            let time = UNIX_EPOCH + Duration::from_secs(beyond);
            assert!(matches!(root.issue(NO_HOSTS, time), Err(TlsError::Time { .. })), "{beyond}");
        }
    }
}
