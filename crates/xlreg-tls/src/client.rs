//! The side that connects: the pin, and why a server is refused.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use pkcs8::der::asn1::BitStringRef;
use pkcs8::der::{Decode, Reader, SliceReader};
use pkcs8::spki::AlgorithmIdentifierRef;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::verify_tls13_signature;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use webpki::{
    EndEntityCert, KeyUsage, RawPublicKeyEntity, anchor_from_trusted_cert, spki_for_anchor,
};
use xlreg_core::{Fingerprint, PublicKey};
use xlreg_proto::keys::PrivateKey;

use crate::certificate::NodeCertificate;
use crate::error::{ServerRefused, TlsError, WrongKey};
use crate::{ALPN, crypto};

/// Servers whose tickets are remembered: one, as a pin means one registry.
const SERVERS: usize = 1;

/// The registry that a client means: the one that holds this sig key.
///
/// The fingerprint stands for the key, so a full public key and an invitation's SHA-256 pin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(Fingerprint);

impl Pin {
    /// The SHA-256 of the key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.0
    }
}

impl From<&PublicKey> for Pin {
    fn from(key: &PublicKey) -> Self {
        Self(key.fingerprint())
    }
}

impl From<Fingerprint> for Pin {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint)
    }
}

/// A node's TLS towards one registry: its certificate, the pin, and tickets to come back with.
///
/// Cheap to clone; the clones share the tickets.
#[derive(Clone)]
pub struct ClientTls {
    pin: Pin,
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Makes the configuration for the node with this sig key. One RSA operation, as is each full
    /// handshake with it.
    ///
    /// # Errors
    /// Those of [`NodeCertificate::new`], and [`TlsError::Setup`] if rustls refuses.
    pub fn new(pin: Pin, key: &PrivateKey) -> Result<Self, TlsError> {
        Self::with_certificate(pin, &NodeCertificate::new(key, &[""; 0])?)
    }

    /// The same with a certificate that is there already. No RSA operation.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if rustls refuses.
    pub fn with_certificate(pin: Pin, certificate: &NodeCertificate) -> Result<Self, TlsError> {
        let node = SingleCertAndKey::from(Arc::clone(certificate.certified_key()));
        let mut config = ClientConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedRoot(pin)))
            .with_client_cert_resolver(Arc::new(node));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SERVERS);
        // SNI would tell the network which registry is meant, in clear, and the server has only one.
        config.enable_sni = false;
        Ok(Self { pin, config: Arc::new(config) })
    }

    /// What to make connections with, together with [`Self::server_name`].
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name to give to rustls for any registry. It is neither sent nor checked, and only has to
    /// be always the same: tickets are kept under it, so they serve at each of a registry's
    /// addresses.
    #[must_use]
    pub fn server_name() -> ServerName<'static> {
        ServerName::DnsName(DnsName::try_from("xlreg").expect("a constant that is a DNS name"))
    }

    /// The registry that is meant.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// The root certificate that the server showed, once the handshake is done: checked, so it may be
/// given to stock clients. Also after resumption.
#[must_use]
pub fn presented_root(connection: &ClientConnection) -> Option<CertificateDer<'static>> {
    if connection.is_handshaking() {
        return None;
    }
    connection.peer_certificates()?.get(1).cloned()
}

/// Takes the one server whose root is made of the pinned key.
///
/// Host names are not checked: the key is the identity, wherever its owner is found.
#[derive(Debug)]
struct PinnedRoot(Pin);

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let [root] = intermediates else {
            return Err(ServerRefused::Chain { got: 1 + intermediates.len() }.into());
        };
        check_chain(self.0, root, end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &crypto::LEAF_SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::LEAF_SCHEMES.supported_schemes()
    }
}

/// Checks that `root` is the pinned key's, and that it issued `leaf` for a server at this time.
///
/// The key comes first, so that whoever meets another registry is told that and nothing else.
pub(crate) fn check_chain(
    pin: Pin,
    root: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), ServerRefused> {
    let anchor = anchor_from_trusted_cert(root)?;
    let key = spki_for_anchor(&anchor);
    let got = fingerprint(&key);
    if got != pin.fingerprint() {
        return Err(WrongKey { expected: pin.fingerprint(), got }.into());
    }
    check_self_signature(root, &key)?;
    EndEntityCert::try_from(leaf)?.verify_for_usage(
        &[crypto::ROOT_SIGNATURE],
        &[anchor],
        &[],
        now,
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    Ok(())
}

fn fingerprint(key: &SubjectPublicKeyInfoDer<'_>) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, key);
    Fingerprint::try_from(digest.as_ref()).expect("a SHA-256 has 32 bytes")
}

/// Checks that `key` signed the root that holds it. A leaf is bound to the key without that; but the
/// rest of the root, which users hand on to stock clients, is not.
fn check_self_signature(
    root: &CertificateDer<'_>,
    key: &SubjectPublicKeyInfoDer<'_>,
) -> Result<(), ServerRefused> {
    let (signed, signature) = split(root).map_err(|_| ServerRefused::Root)?;
    RawPublicKeyEntity::try_from(key)
        .and_then(|key| key.verify_signature(crypto::ROOT_SIGNATURE, signed, signature))
        .map_err(|_| ServerRefused::Root)
}

/// What a certificate's signature covers, and the signature: RFC 5280, section 4.1.
fn split<'a>(certificate: &'a CertificateDer<'_>) -> pkcs8::der::Result<(&'a [u8], &'a [u8])> {
    let mut reader = SliceReader::new(certificate)?;
    let parts = reader.sequence(|body| -> pkcs8::der::Result<_> {
        let signed = body.tlv_bytes()?;
        AlgorithmIdentifierRef::decode(body)?;
        Ok((signed, BitStringRef::decode(body)?.raw_bytes()))
    })?;
    reader.finish()?;
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls::sign::CertifiedKey;
    use xlreg_core::NodeId;

    use super::*;
    use crate::Root;
    use crate::certificate::LEAF_LIFE;
    use crate::error::{server_refused, wrong_key};
    use crate::server::config;
    use crate::testing::{
        Failed, ID, NO_HOSTS, connect, node, node_key, other_key, registry, registry_key,
    };

    fn root() -> Root {
        Root::new(registry_key(), ID).unwrap()
    }

    /// A server that shows this chain, and signs with the key of `leaf`.
    fn showing(leaf: &crate::Leaf, chain: Vec<CertificateDer<'static>>) -> Arc<ServerConfig> {
        let key = Arc::clone(&leaf.certified_key().key);
        let certified = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        Arc::new(config(Arc::new(certified)).unwrap())
    }

    async fn refusal(client: &ClientTls, server: Arc<ServerConfig>) -> Failed {
        connect(client.config(), server).await.err().expect("a server to refuse")
    }

    fn reason(failed: &Failed) -> &ServerRefused {
        server_refused(failed.client.as_ref().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_fingerprint_pins_as_well_as_a_key() {
        let pin = Pin::from(registry_key().public().fingerprint());
        assert_eq!(pin, node().pin());
        let client = ClientTls::new(pin, &node_key()).unwrap();
        connect(client.config(), registry(Duration::ZERO).config()).await.unwrap();
    }

    #[tokio::test]
    async fn another_registrys_key_is_refused_and_both_are_named() {
        let other = other_key();
        let (expected, got) = (other.public().fingerprint(), registry_key().public().fingerprint());
        for pin in [Pin::from(other.public()), Pin::from(expected)] {
            let client = ClientTls::new(pin, &node_key()).unwrap();
            let failed = refusal(&client, registry(Duration::ZERO).config()).await;
            let error = failed.client.as_ref().unwrap();
            assert_eq!(wrong_key(error), Some(WrongKey { expected, got }));
            let says = format!(
                "the registry there has sig key sha256 {got}, \
                 but the credentials pin sha256 {expected}"
            );
            assert_eq!(wrong_key(error).unwrap().to_string(), says);
            assert!(error.to_string().contains(&says), "{error}");
            // However deep it is buried.
            let buried = io::Error::other(io::Error::other(failed.client.unwrap()));
            assert_eq!(wrong_key(&buried), Some(WrongKey { expected, got }));
        }
        assert_eq!(wrong_key(&io::Error::other("something else")), None);
    }

    #[tokio::test]
    async fn clocks_are_named_where_dates_do_not_fit() {
        let failed = refusal(&node(), registry(LEAF_LIFE).config()).await;
        assert!(failed.client().contains("ran out 36"), "{failed:?}");
        assert!(failed.client().contains("look at the clocks of both machines"), "{failed:?}");
        assert!(matches!(reason(&failed), ServerRefused::Expired { seconds: 3600.. }));
        assert_eq!(wrong_key(failed.client.as_ref().unwrap()), None);

        let leaf = root().issue(NO_HOSTS, SystemTime::now() + LEAF_LIFE).unwrap();
        let failed = refusal(&node(), showing(&leaf, leaf.certified_key().cert.clone())).await;
        assert!(failed.client().contains("look at the clocks of both machines"), "{failed:?}");
        assert!(matches!(reason(&failed), ServerRefused::NotYet { .. }));
    }

    #[tokio::test]
    async fn a_clock_that_is_an_hour_behind_is_no_reason() {
        let leaf = root().issue(NO_HOSTS, SystemTime::now() + Duration::from_secs(3590)).unwrap();
        let server = showing(&leaf, leaf.certified_key().cert.clone());
        connect(node().config(), server).await.unwrap();
    }

    #[tokio::test]
    async fn a_leaf_below_another_key_does_not_hold_with_the_right_root_behind_it() {
        let impostor = Root::new(other_key(), ID).unwrap();
        let leaf = impostor.issue(NO_HOSTS, SystemTime::now()).unwrap();
        let chain = vec![leaf.certified_key().cert[0].clone(), root().der().clone()];
        let failed = refusal(&node(), showing(&leaf, chain)).await;
        assert!(matches!(reason(&failed), ServerRefused::Leaf(_)), "{failed:?}");
    }

    #[tokio::test]
    async fn the_right_chain_without_the_leafs_key_does_not_hold() {
        let own = registry(Duration::ZERO).leaf();
        let chain = own.certified_key().cert.clone();
        let impostor = root().issue(NO_HOSTS, SystemTime::now()).unwrap();
        let failed = refusal(&node(), showing(&impostor, chain)).await;
        assert!(failed.client().contains("BadSignature"), "{failed:?}");
    }

    #[tokio::test]
    async fn a_root_that_its_key_did_not_sign_is_refused() {
        let leaf = root().issue(NO_HOSTS, SystemTime::now()).unwrap();
        let [end, root] = leaf.certified_key().cert.as_slice() else { panic!("a chain of two") };
        let mut signature = root.to_vec();
        *signature.last_mut().unwrap() ^= 1;
        let mut id = root.to_vec();
        let digits = ID.to_string();
        let at = id.windows(40).position(|window| window == digits.as_bytes()).unwrap();
        id[at] = b'b';
        for bad in [signature, id] {
            let chain = vec![end.clone(), CertificateDer::from(bad)];
            let failed = refusal(&node(), showing(&leaf, chain)).await;
            assert!(matches!(reason(&failed), ServerRefused::Root), "{failed:?}");
        }
    }

    #[tokio::test]
    async fn a_chain_is_a_leaf_and_its_root_and_nothing_else() {
        let leaf = root().issue(NO_HOSTS, SystemTime::now()).unwrap();
        let [end, root] = leaf.certified_key().cert.as_slice() else { panic!("a chain of two") };
        for (chain, got) in [
            (vec![end.clone()], 1),
            (vec![end.clone(), root.clone(), root.clone()], 3),
            (vec![end.clone(), end.clone(), root.clone()], 3),
        ] {
            let failed = refusal(&node(), showing(&leaf, chain)).await;
            let expected = format!("{got} certificates instead of two");
            assert!(failed.client().contains(&expected), "{failed:?}");
        }
        for chain in [vec![root.clone(), root.clone()], vec![root.clone(), end.clone()]] {
            assert!(refusal(&node(), showing(&leaf, chain)).await.client.is_some());
        }
    }

    /// What the key's owner signs for another use, or under another ID, is not a server's leaf.
    #[test]
    fn only_a_servers_leaf_of_this_very_root_holds() {
        let root = root();
        let pin = node().pin();
        let now = UnixTime::now();
        let leaf = root.issue(NO_HOSTS, SystemTime::now()).unwrap();
        let [end, _] = leaf.certified_key().cert.as_slice() else { panic!("a chain of two") };
        check_chain(pin, root.der(), end, now).unwrap();

        let elsewhere = Root::new(registry_key(), NodeId::from_bytes([1; 20])).unwrap();
        assert!(check_chain(pin, elsewhere.der(), end, now).is_err());
        let node = NodeCertificate::new(&registry_key(), NO_HOSTS).unwrap();
        assert!(check_chain(pin, root.der(), node.der(), now).is_err());
        assert!(check_chain(pin, root.der(), root.der(), now).is_err());
        let stranger = KeyPair::generate().unwrap();
        let stranger = CertificateParams::default().self_signed(&stranger).unwrap();
        assert!(check_chain(pin, root.der(), stranger.der(), now).is_err());
        let rubbish = CertificateDer::from(vec![0x30; 100]);
        assert!(check_chain(pin, root.der(), &rubbish, now).is_err());
        assert!(check_chain(pin, &rubbish, end, now).is_err());
        for length in 0..root.der().len() {
            let cut = CertificateDer::from(root.der()[..length].to_vec());
            assert!(check_chain(pin, &cut, end, now).is_err());
        }
    }
}
