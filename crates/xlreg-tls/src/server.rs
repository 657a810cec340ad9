//! The side that listens: its configuration, its renewal, and which clients it takes.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CommonState, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;
use xlreg_core::{NodeId, PublicKey};
use xlreg_proto::keys::{self, KeyError, PrivateKey};

use crate::certificate::{Leaf, Root};
use crate::error::{ClientRefused, TlsError};
use crate::{ALPN, crypto};

/// Bits of the smallest key that a client may bring. The old wire goes lower, for nodes that are
/// already there; none of them speaks TLS.
pub const CLIENT_KEY_BITS_MIN: usize = keys::PSS_KEY_BITS_MIN;

/// A registry's TLS: its root, the leaf it shows at present, and the configuration that shows it.
///
/// Clients must show a certificate. Tickets are stateless, so that thousands of them cost no memory,
/// and there is no 0-RTT, whose data could be replayed.
pub struct ServerTls {
    root: Root,
    hosts: Vec<String>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Makes root, first leaf and configuration. Two RSA operations.
    ///
    /// `hosts` are the DNS names and IP addresses under which stock clients will come, besides
    /// those that [`Root::issue`] always adds.
    ///
    /// # Errors
    /// Those of [`Root::new`] and [`Root::issue`], and [`TlsError::Setup`] if rustls refuses.
    pub fn new(
        key: Arc<PrivateKey>,
        id: NodeId,
        hosts: Vec<String>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let root = Root::new(key, id)?;
        let current = Arc::new(Current(RwLock::new(root.issue(&hosts, now)?)));
        let config = Arc::new(config(Arc::clone(&current) as _)?);
        Ok(Self { root, hosts, current, config })
    }

    /// What to make connections with; the same for ever, as it finds the current leaf by itself.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The root, to hand to stock clients.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The leaf that new connections get.
    #[must_use]
    pub fn leaf(&self) -> Leaf {
        self.current.leaf()
    }

    /// When the leaf should be replaced.
    #[must_use]
    pub fn renewal_due(&self) -> SystemTime {
        self.leaf().renewal_due()
    }

    /// Replaces the leaf if it is due, and says whether it was. **One RSA operation** if so: not for
    /// an async thread. Connections that are open go on with what they have.
    ///
    /// It is due, too, if its life has not begun: then the clock was ahead when it was made.
    ///
    /// # Errors
    /// Those of [`Root::issue`]; the old leaf stays.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, TlsError> {
        let leaf = self.leaf();
        if (leaf.not_before()..leaf.renewal_due()).contains(&now) {
            return Ok(false);
        }
        self.current.replace(self.root.issue(&self.hosts, now)?);
        Ok(true)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = self.leaf();
        f.debug_struct("ServerTls")
            .field("hosts", &self.hosts)
            .field("not_after", &leaf.not_after())
            .finish_non_exhaustive()
    }
}

/// The key by which the peer of a connection is known, once the handshake is done.
///
/// Also after resumption: the ticket carries the certificate, sealed by this server. `None` before
/// the end of the handshake, and for a peer whose certificate does not hold a node's key.
#[must_use]
pub fn peer_key(connection: &CommonState) -> Option<PublicKey> {
    if connection.is_handshaking() {
        return None;
    }
    node_key(connection.peer_certificates()?.first()?).ok()
}

/// The configuration of a server that shows what `resolver` gives, and takes any node.
pub(crate) fn config(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(AnyNode))
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    // A client comes back with one connection at a time, and each ticket carries its certificate.
    config.ignore_client_order = true;
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The leaf that a server shows at present. The lock is held for the time it takes to clone or to
/// put an `Arc`.
#[derive(Debug)]
struct Current(RwLock<Leaf>);

impl Current {
    fn leaf(&self) -> Leaf {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, leaf: Leaf) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = leaf;
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.leaf().certified_key()))
    }
}

/// Takes any client that holds an RSA key, and leaves it to the caller who that is.
///
/// The key is the identity, and TLS's CertificateVerify proves that the client holds it. Dates,
/// names, usages and the certificate's own signature would prove nothing beyond that, and whoever
/// holds the key could sign others at will; so they are not looked at.
#[derive(Debug)]
pub(crate) struct AnyNode;

impl ClientCertVerifier for AnyNode {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if !intermediates.is_empty() {
            return Err(ClientRefused::Chain { got: 1 + intermediates.len() }.into());
        }
        node_key(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &crypto::NODE_SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::NODE_SCHEMES.supported_schemes()
    }
}

/// Bytes of a node's certificate: it is kept for as long as a connection is, and goes into tickets. One
/// with a key and a signature of 4096 bits has some 1.3 KiB, and names and addresses add to that.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// The key in a node's certificate.
pub(crate) fn node_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, ClientRefused> {
    if certificate.len() > CERTIFICATE_BYTES_MAX {
        return Err(ClientRefused::Size { got: certificate.len() });
    }
    let certificate = EndEntityCert::try_from(certificate).map_err(ClientRefused::Malformed)?;
    let key = keys::public_key(&certificate.subject_public_key_info())?;
    let bits = keys::key_bits(&key);
    if bits < CLIENT_KEY_BITS_MIN {
        return Err(KeyError::Size { bits, min: CLIENT_KEY_BITS_MIN }.into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm};
    use rustls::client::{ClientConnection, Resumption};
    use rustls::sign::SingleCertAndKey;
    use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

    use super::*;
    use crate::NodeCertificate;
    use crate::certificate::LEAF_RENEWAL_AGE;
    use crate::testing::{
        Failed, NO_HOSTS, connect, node, node_key, old_hello, other_key, registry, registry_key,
        still_works,
    };

    #[tokio::test]
    async fn both_sides_know_each_other_and_speak_the_best_there_is() {
        let server = registry(Duration::ZERO);
        let connection = connect(node().config(), server.config()).await.unwrap();
        let (_, server_side) = connection.server.get_ref();
        let (_, client_side) = connection.client.get_ref();
        assert_eq!(peer_key(server_side).as_ref(), Some(node_key().public()));
        assert_eq!(crate::presented_root(client_side).as_ref(), Some(server.root().der()));
        for side in [&**client_side as &CommonState, server_side] {
            assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            assert_eq!(side.alpn_protocol(), Some(ALPN));
            let group = side.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
            // No second round to agree on the group, either.
            assert_eq!(side.handshake_kind(), Some(HandshakeKind::Full));
        }
    }

    #[tokio::test]
    async fn whoever_comes_back_is_known_without_a_signature() {
        let server = registry(Duration::ZERO);
        let client = node();
        let kinds = [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed];
        for kind in kinds {
            let connection = connect(client.config(), server.config()).await.unwrap();
            let (_, server_side) = connection.server.get_ref();
            let (_, client_side) = connection.client.get_ref();
            assert_eq!(server_side.handshake_kind(), Some(kind));
            assert_eq!(peer_key(server_side).as_ref(), Some(node_key().public()));
            assert_eq!(crate::presented_root(client_side).as_ref(), Some(server.root().der()));
        }
        // Another server of the same registry knows nothing of the tickets, and takes the client all
        // the same: that is a restart.
        let connection = connect(client.config(), registry(Duration::ZERO).config()).await.unwrap();
        assert_eq!(connection.server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }

    #[test]
    fn nobody_is_known_before_the_handshake() {
        let server = ServerConnection::new(registry(Duration::ZERO).config()).unwrap();
        assert_eq!(peer_key(&server), None);
        let client =
            ClientConnection::new(node().config(), crate::ClientTls::server_name()).unwrap();
        assert_eq!(crate::presented_root(&client), None);
    }

    #[tokio::test]
    async fn a_leaf_is_replaced_after_two_thirds_of_its_life() {
        let server = registry(Duration::ZERO);
        let client = node();
        let first = server.leaf();
        let mut old = connect(client.config(), server.config()).await.unwrap();

        let begin = first.not_before();
        let before = begin + LEAF_RENEWAL_AGE - Duration::from_secs(1);
        assert!(!server.renew_if_due(begin).unwrap());
        assert!(!server.renew_if_due(before).unwrap());
        assert_eq!(server.renewal_due(), begin + LEAF_RENEWAL_AGE);
        // Real clients judge by the real clock, which has not moved; so this leaf is from the future
        // by hours, and the clock that then goes back is what makes the next one due.
        assert!(server.renew_if_due(begin + LEAF_RENEWAL_AGE).unwrap());
        assert!(server.leaf().not_before() > first.not_before());
        assert!(server.renew_if_due(SystemTime::now()).unwrap());

        still_works(&mut old).await;
        let fresh = connect(node().config(), server.config()).await.unwrap();
        let shown = |connection: &crate::testing::Connection| {
            connection.client.get_ref().1.peer_certificates().unwrap().to_vec()
        };
        assert_eq!(shown(&fresh), server.leaf().certified_key().cert);
        assert_ne!(shown(&fresh)[0], shown(&old)[0]);
        assert_eq!(shown(&fresh)[1], shown(&old)[1]);
        still_works(&mut old).await;
    }

    #[test]
    fn a_renewal_that_fails_keeps_the_leaf() {
        let server = registry(Duration::ZERO);
        let before = server.leaf();
        assert!(matches!(
            server.renew_if_due(SystemTime::UNIX_EPOCH),
            Err(TlsError::Time { seconds: 0 })
        ));
        assert_eq!(server.leaf().certified_key().cert, before.certified_key().cert);
    }

    /// A client that pins nothing and shows `certified`, whatever the server would like.
    fn showing(certified: Option<CertifiedKey>) -> Arc<ClientConfig> {
        let mut config = (*node().config()).clone();
        config.resumption = Resumption::disabled();
        config.client_auth_cert_resolver = match certified {
            Some(certified) => Arc::new(SingleCertAndKey::from(certified)),
            None => {
                ClientConfig::builder_with_provider(crypto::provider())
                    .with_protocol_versions(&[&TLS13])
                    .unwrap()
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth()
                    .client_auth_cert_resolver
            }
        };
        Arc::new(config)
    }

    async fn refusal(certified: Option<CertifiedKey>) -> Failed {
        let server = registry(Duration::ZERO).config();
        connect(showing(certified), server).await.err().expect("a client to refuse")
    }

    /// Why the server refused it.
    fn refused(failed: &Failed) -> String {
        crate::client_refused(failed.server.as_ref().unwrap()).unwrap().to_string()
    }

    fn node_certificate() -> NodeCertificate {
        NodeCertificate::new(&node_key(), NO_HOSTS).unwrap()
    }

    fn signer() -> Arc<dyn rustls::sign::SigningKey> {
        Arc::clone(&node_certificate().certified_key().key)
    }

    /// An RSA key whose private half nobody has.
    struct Numbers(Vec<u8>);

    impl PublicKeyData for Numbers {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }

        fn algorithm(&self) -> &'static SignatureAlgorithm {
            &PKCS_RSA_SHA256
        }
    }

    impl Numbers {
        /// A modulus of this many bits, as DER RSAPublicKey.
        fn new(bits: usize) -> Self {
            use pkcs8::der::{Encode, asn1::UintRef};
            let modulus = vec![0xC3; bits / 8];
            let key = pkcs1::RsaPublicKey {
                modulus: UintRef::new(&modulus).unwrap(),
                public_exponent: UintRef::new(&[1, 0, 1]).unwrap(),
            };
            Self(key.to_der().unwrap())
        }
    }

    /// A certificate of `key`, signed by somebody.
    fn certificate_of(key: &impl PublicKeyData) -> CertificateDer<'static> {
        let somebody = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        params.signed_by(key, &rcgen::Issuer::from_params(&params, &somebody)).unwrap().into()
    }

    #[tokio::test]
    async fn who_shows_no_certificate_is_refused() {
        let failed = refusal(None).await;
        assert!(failed.server().contains("peer sent no certificates"), "{failed:?}");
        assert!(failed.client().contains("CertificateRequired"), "{failed:?}");
    }

    #[tokio::test]
    async fn who_shows_a_key_that_nodes_do_not_have_is_refused() {
        let ec = certificate_of(&rcgen::KeyPair::generate().unwrap());
        let small = certificate_of(&Numbers::new(1024));
        let large = certificate_of(&Numbers::new(8192));
        let mut padded = certificate_of(&Numbers::new(2048)).to_vec();
        padded.resize(CERTIFICATE_BYTES_MAX + 1, 0);
        for (der, says) in [
            (CertificateDer::from(padded), "8193 bytes, and 8192 are the most"),
            (ec, "not an RSA key"),
            (small, "1024 bits; from 2048 to 4096"),
            (large, "8192 bits; from"),
            (CertificateDer::from(vec![0x30, 0]), "cannot be read"),
        ] {
            let failed = refusal(Some(CertifiedKey::new(vec![der], signer()))).await;
            assert!(refused(&failed).contains(says), "{failed:?}");
            assert!(failed.client().contains("CertificateUnknown"), "{failed:?}");
        }
    }

    #[tokio::test]
    async fn who_shows_two_certificates_is_refused() {
        let der = node_certificate().der().clone();
        let failed = refusal(Some(CertifiedKey::new(vec![der.clone(), der], signer()))).await;
        assert!(refused(&failed).contains("2 certificates instead of one"), "{failed:?}");
    }

    #[tokio::test]
    async fn who_shows_the_certificate_of_another_is_refused() {
        let stolen = NodeCertificate::new(&other_key(), NO_HOSTS).unwrap().der().clone();
        let failed = refusal(Some(CertifiedKey::new(vec![stolen], signer()))).await;
        assert!(failed.server().contains("BadSignature"), "{failed:?}");
    }

    #[tokio::test]
    async fn a_certificates_dates_and_signature_do_not_matter() {
        struct Node;
        impl PublicKeyData for Node {
            fn der_bytes(&self) -> &[u8] {
                static KEY: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
                KEY.get_or_init(|| keys::key_pkcs1(node_key().public()).to_vec())
            }
            fn algorithm(&self) -> &'static SignatureAlgorithm {
                &PKCS_RSA_SHA256
            }
        }
        let somebody = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(1999, 1, 1);
        params.not_after = rcgen::date_time_ymd(2000, 1, 1);
        let issuer = rcgen::Issuer::from_params(&params, &somebody);
        let der = params.signed_by(&Node, &issuer).unwrap().into();
        let client = showing(Some(CertifiedKey::new(vec![der], signer())));
        let connection = connect(client, registry(Duration::ZERO).config()).await.unwrap();
        let key = peer_key(connection.server.get_ref().1).unwrap();
        assert_eq!(&key, node_key().public());
        assert_ne!(&key, registry_key().public());
    }

    #[test]
    fn a_client_of_tls_1_2_is_refused() {
        let mut server = ServerConnection::new(registry(Duration::ZERO).config()).unwrap();
        server.read_tls(&mut old_hello().as_slice()).unwrap();
        let error = server.process_new_packets().unwrap_err();
        assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error}");
        let mut answer = vec![];
        server.write_tls(&mut answer).unwrap();
        // A fatal alert: protocol_version.
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
    }
}
