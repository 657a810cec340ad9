//! Both sides in memory: who is taken, who is not, and what each hears.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::client::WebPkiServerVerifier;
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xlreg_core::Member;
use xlreg_proto::keys;

use super::*;
use crate::error::{Departure, peer_refused};
use crate::testing::{NO_HOSTS, node_key, old_hello, other_key, registry_key};
use crate::{NodeCertificate, member_certificate, roster_bundle};

const LIFE: Duration = Duration::from_secs(1000);

/// Lets in whoever is on its list, and nobody in another's place.
#[derive(Debug, Default)]
struct List(Mutex<Vec<Fingerprint>>);

impl List {
    fn of(keys: &[&PrivateKey]) -> Arc<Self> {
        let prints = keys.iter().map(|key| key.public().fingerprint());
        Arc::new(Self(Mutex::new(prints.collect())))
    }

    fn strike(&self, key: &PrivateKey) {
        self.0.lock().unwrap().retain(|print| *print != key.public().fingerprint());
    }
}

impl Admission for List {
    fn admit(&self, key: &Fingerprint, meant: Option<&Fingerprint>) -> Result<(), PeerRefused> {
        if !self.0.lock().unwrap().contains(key) {
            return Err(PeerRefused::Stranger { key: *key });
        }
        match meant {
            Some(meant) if meant != key => Err(PeerRefused::Swapped {
                meant: "meant".parse().unwrap(),
                got: "got".parse().unwrap(),
            }),
            _ => Ok(()),
        }
    }
}

/// A node with a certificate of its own, that knows these members.
fn side(key: &PrivateKey, members: &Arc<List>) -> PeerTls {
    let certificate = NodeCertificate::new(key, NO_HOSTS).unwrap();
    showing(key, certificate.der().clone(), members)
}

fn showing(key: &PrivateKey, certificate: CertificateDer<'static>, members: &Arc<List>) -> PeerTls {
    PeerTls::new(key, certificate, Arc::clone(members) as _).unwrap()
}

/// Both ends, after a word each way.
struct Both {
    near: tokio_rustls::client::TlsStream<DuplexStream>,
    far: tokio_rustls::server::TlsStream<DuplexStream>,
}

impl Both {
    fn kind(&self) -> Option<HandshakeKind> {
        self.near.get_ref().1.handshake_kind()
    }
}

/// What each side says that noticed.
#[derive(Debug)]
struct Failed {
    near: Option<io::Error>,
    far: Option<io::Error>,
    verdict: Option<PeerRefused>,
}

impl Failed {
    fn alert(&self) -> String {
        self.near.as_ref().unwrap().to_string()
    }
}

async fn meet(
    from: &PeerTls,
    meant: &PrivateKey,
    to: &PeerTls,
    admission: &Arc<List>,
) -> Result<Both, Failed> {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (config, verdict) = to.server(Arc::clone(admission) as _, vec![]).unwrap();
    let name = server_name(&meant.public().fingerprint());
    let near = async {
        let mut stream = TlsConnector::from(from.client()).connect(name, client).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        io::Result::Ok(stream)
    };
    let far = async {
        let mut stream = TlsAcceptor::from(config).accept(server).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    match tokio::join!(near, far) {
        (Ok(near), Ok(far)) => Ok(Both { near, far }),
        (near, far) => Err(Failed { near: near.err(), far: far.err(), verdict: verdict.refused() }),
    }
}

/// A meets B, and both know both.
struct Pair {
    list: Arc<List>,
    a: PeerTls,
    b: PeerTls,
}

fn pair() -> Pair {
    let list = List::of(&[&node_key(), &other_key()]);
    let (a, b) = (side(&node_key(), &list), side(&other_key(), &list));
    Pair { list, a, b }
}

impl Pair {
    async fn meet(&self) -> Result<Both, Failed> {
        meet(&self.a, &other_key(), &self.b, &self.list).await
    }
}

fn member(key: &PrivateKey, endpoint: &str) -> Member {
    Member {
        id: NodeId::from_bytes([7; 20]),
        name: "b".parse().unwrap(),
        attrs: 0,
        comms_key: key.public().clone(),
        sig_key: key.public().clone(),
        endpoints: vec![endpoint.parse().unwrap()],
        entry_signature: None,
    }
}

#[tokio::test]
async fn both_prove_their_keys_over_tls_1_3_and_post_quantum_cryptography() {
    let pair = pair();
    let both = pair.meet().await.unwrap();
    let (near, far) = (both.near.get_ref().1, both.far.get_ref().1);
    for side in [&**near as &CommonState, far] {
        assert_eq!(side.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = side.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        assert_eq!(side.handshake_kind(), Some(HandshakeKind::Full));
    }
    let meant = other_key().public().fingerprint();
    let known = peer_key(near, &*pair.list, Some(&meant)).unwrap();
    assert_eq!(&known, other_key().public());
    assert_eq!(&peer_key(far, &*pair.list, None).unwrap(), node_key().public());
    assert_eq!(far.server_name(), None, "it is nobody's business who is meant");
}

#[tokio::test]
async fn who_is_not_on_the_list_is_refused_by_either_side() {
    let Pair { list, a, b } = pair();
    list.strike(&node_key());
    let failed = meet(&a, &other_key(), &b, &list).await.err().unwrap();
    let key = node_key().public().fingerprint();
    assert_eq!(failed.verdict, Some(PeerRefused::Stranger { key }));
    assert!(failed.alert().contains("UnknownCA"), "{failed:?}");

    let everyone = List::of(&[&node_key(), &other_key()]);
    list.strike(&other_key());
    let failed = meet(&a, &other_key(), &b, &everyone).await.err().unwrap();
    let key = other_key().public().fingerprint();
    let refused = peer_refused(failed.near.as_ref().unwrap());
    assert_eq!(refused, Some(&PeerRefused::Stranger { key }));
    assert!(failed.far.unwrap().to_string().contains("CertificateUnknown"));
}

#[tokio::test]
async fn another_member_than_the_one_meant_is_refused() {
    let list = List::of(&[&node_key(), &other_key(), &registry_key()]);
    let (a, b) = (side(&node_key(), &list), side(&other_key(), &list));
    let failed = meet(&a, &registry_key(), &b, &list).await.err().unwrap();
    let refused = peer_refused(failed.near.as_ref().unwrap()).unwrap();
    assert_eq!(refused.to_string(), "it is got, and not meant");
}

#[tokio::test]
async fn a_certificate_is_good_whoever_signed_it_and_with_others_behind_it() {
    let Pair { list, a, .. } = pair();
    let key = other_key();
    let own = NodeCertificate::new(&key, NO_HOSTS).unwrap().der().clone();
    let entry = member(&key, "127.0.0.1:1");
    let issued = member_certificate(&key, &entry, SystemTime::now(), LIFE).unwrap();
    let by_somebody = certificate_of(&key, CertificateParams::default());
    let anchors = roster_bundle([&entry]).unwrap();
    for first in [own, issued, by_somebody] {
        for chain in [vec![], anchors.clone(), vec![first.clone(); 7]] {
            let chain = [vec![first.clone()], chain].concat();
            let b = showing_chain(&key, chain, &list);
            meet(&a, &key, &b, &list).await.unwrap();
            meet(&b, &node_key(), &a, &list).await.unwrap();
        }
    }
}

fn showing_chain(
    key: &PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    members: &Arc<List>,
) -> PeerTls {
    let side = side(key, members);
    let signer = Arc::clone(&side.shown.get().key);
    *side.shown.0.write().unwrap() = Arc::new(CertifiedKey::new(chain, signer));
    side
}

/// A certificate of a key, by somebody else.
fn certificate_of(key: &PrivateKey, params: CertificateParams) -> CertificateDer<'static> {
    struct Public(Vec<u8>);
    impl PublicKeyData for Public {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static SignatureAlgorithm {
            &PKCS_RSA_SHA256
        }
    }
    let somebody = rcgen::KeyPair::generate().unwrap();
    let issuer = CertificateParams::default();
    let issuer = rcgen::Issuer::from_params(&issuer, &somebody);
    let public = Public(keys::key_pkcs1(key.public()).to_vec());
    params.signed_by(&public, &issuer).unwrap().into()
}

#[tokio::test]
async fn dates_that_are_over_or_not_begun_are_refused_by_either_side_and_named() {
    let Pair { list, a, .. } = pair();
    let (key, now) = (other_key(), SystemTime::now());
    let entry = member(&key, "127.0.0.1:1");
    let issued = |from| member_certificate(&key, &entry, from, LIFE).unwrap();
    for (certificate, says, alert) in [
        (issued(now - 2 * LIFE), "expired 1", "CertificateExpired"),
        (issued(now + Duration::from_secs(7200)), "begins only in 3", "CertificateExpired"),
    ] {
        let b = showing(&key, certificate, &list);
        let failed = meet(&a, &key, &b, &list).await.err().unwrap();
        let refused = peer_refused(failed.near.as_ref().unwrap()).unwrap().to_string();
        assert!(refused.contains(says) && refused.contains("clocks"), "{refused}");
        let failed = meet(&b, &node_key(), &a, &list).await.err().unwrap();
        assert!(failed.verdict.as_ref().unwrap().to_string().contains(says), "{failed:?}");
        assert!(failed.alert().contains(alert), "{failed:?}");
    }
}

#[tokio::test]
async fn who_shows_the_certificate_of_another_is_refused() {
    let Pair { list, a, .. } = pair();
    let stolen = NodeCertificate::new(&other_key(), NO_HOSTS).unwrap().der().clone();
    let thief = showing(&registry_key(), stolen, &list);
    let failed = meet(&a, &other_key(), &thief, &list).await.err().unwrap();
    assert!(failed.near.unwrap().to_string().contains("BadSignature"));
    let failed = meet(&thief, &node_key(), &a, &list).await.err().unwrap();
    assert!(failed.far.as_ref().unwrap().to_string().contains("BadSignature"), "{failed:?}");
    assert!(failed.alert().contains("DecryptError"), "{failed:?}");
}

#[test]
fn what_is_no_certificate_of_a_nodes_key_is_refused() {
    let own = NodeCertificate::new(&node_key(), NO_HOSTS).unwrap().der().clone();
    let now = UnixTime::now();
    let elliptic = rcgen::KeyPair::generate().unwrap();
    let elliptic = CertificateParams::default().self_signed(&elliptic).unwrap();
    let refused = |certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]| {
        judge::judge(certificate, others, now).unwrap_err()
    };
    assert!(matches!(refused(elliptic.der(), &[]), PeerRefused::Key(_)));
    assert_eq!(refused(&own, &vec![own.clone(); 8]), PeerRefused::Chain { got: 9 });
    judge::judge(&own, &vec![own.clone(); 7], now).unwrap();
    for length in 0..own.len() {
        let cut = CertificateDer::from(own[..length].to_vec());
        refused(&cut, &[]);
    }
}

#[test]
fn no_byte_of_a_certificate_ends_us() {
    let own = NodeCertificate::new(&node_key(), NO_HOSTS).unwrap().der().clone();
    let mut refused = 0;
    for place in 0..own.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = own.to_vec();
            bytes[place] ^= flip;
            let judged = judge::judge(&CertificateDer::from(bytes), &[], UnixTime::now());
            refused += usize::from(judged.is_err());
        }
    }
    // Names and the signature don't count, and a modulus may be any number; the frame does count.
    assert!(refused > own.len() / 8, "{refused} of {}", 3 * own.len());
}

#[tokio::test]
async fn who_comes_back_resumes_as_long_as_it_would_be_let_in() {
    let Pair { list, a, b } = pair();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let both = meet(&a, &other_key(), &b, &list).await.unwrap();
        assert_eq!(both.kind(), Some(kind));
        assert_eq!(&peer_key(both.far.get_ref().1, &*list, None).unwrap(), node_key().public());
    }
    // Off the list, its ticket leads to a full handshake, and that to a reason.
    let of_b = List::of(&[&other_key()]);
    let failed = meet(&a, &other_key(), &b, &of_b).await.err().unwrap();
    let key = node_key().public().fingerprint();
    assert_eq!(failed.verdict, Some(PeerRefused::Stranger { key }));
    // And on it again, it is let in.
    assert!(meet(&a, &other_key(), &b, &list).await.is_ok());
}

#[tokio::test]
async fn a_resumed_session_is_checked_by_who_connects() {
    let Pair { list, a, b } = pair();
    drop(meet(&a, &other_key(), &b, &list).await.unwrap());
    let both = meet(&a, &other_key(), &b, &list).await.unwrap();
    assert_eq!(both.kind(), Some(HandshakeKind::Resumed));
    list.strike(&other_key());
    let meant = other_key().public().fingerprint();
    let refused = peer_key(both.near.get_ref().1, &*list, Some(&meant)).unwrap_err();
    assert_eq!(refused, PeerRefused::Stranger { key: meant });
}

#[test]
fn a_ticket_is_good_for_whom_it_was_sealed_and_until_its_certificate_ends() {
    let Pair { list, b, .. } = pair();
    let key = node_key().public().fingerprint();
    let now = UnixTime::now().as_secs();
    let sealed = |not_after| {
        let verdict = Arc::new(Verdict::new(Arc::clone(&list) as _));
        let tickets = Marked::new(Arc::clone(&b.ticketer), Arc::clone(&verdict));
        assert_eq!(tickets.encrypt(b"session"), None, "nobody has been let in yet");
        verdict.admit(key, not_after).unwrap();
        tickets.encrypt(b"session").unwrap()
    };
    let opened = |ticket: &[u8]| {
        let verdict = Arc::new(Verdict::new(Arc::clone(&list) as _));
        let plain = Marked::new(Arc::clone(&b.ticketer), Arc::clone(&verdict)).decrypt(ticket);
        (plain, verdict.admitted())
    };
    let (good, over) = (sealed(now + 60), sealed(now - 60));
    assert_eq!(opened(&good), (Some(b"session".to_vec()), Some((key, now + 60))));
    assert_eq!(opened(&over), (None, None));
    assert_eq!(opened(&good[..good.len() - 1]), (None, None));
    // One of before tickets said whose they are, or of another use of the sealing key.
    assert_eq!(opened(&b.ticketer.encrypt(b"session").unwrap()), (None, None));
    list.strike(&node_key());
    assert_eq!(opened(&good), (None, None));
}

#[tokio::test]
async fn forgotten_tickets_are_not_used() {
    let Pair { list, a, b } = pair();
    meet(&a, &other_key(), &b, &list).await.unwrap();
    a.forget(&other_key().public().fingerprint());
    let both = meet(&a, &other_key(), &b, &list).await.unwrap();
    assert_eq!(both.kind(), Some(HandshakeKind::Full));
}

#[tokio::test]
async fn new_keys_take_no_old_tickets() {
    let Pair { list, a, b } = pair();
    meet(&a, &other_key(), &b, &list).await.unwrap();
    // The same node after it was made anew, as after a rotation.
    let again = side(&other_key(), &list);
    let both = meet(&a, &other_key(), &again, &list).await.unwrap();
    assert_eq!(both.kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_client_of_tls_1_2_is_refused() {
    let Pair { list, b, .. } = pair();
    let (config, _) = b.server(list, vec![]).unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    server.read_tls(&mut old_hello().as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error}");
}

/// What a bundle of the roster is for: any TLS client takes our listener by it, under its own name.
#[tokio::test]
async fn a_stock_client_with_the_rosters_bundle_takes_a_listener() {
    let list = List::of(&[&node_key(), &other_key()]);
    let (ours, theirs) = (member(&other_key(), "127.0.0.1:1"), node_key());
    let issued = member_certificate(&other_key(), &ours, SystemTime::now(), LIFE).unwrap();
    let listener = showing(&other_key(), issued, &list);
    let mut roots = RootCertStore::empty();
    for anchor in roster_bundle([&ours]).unwrap() {
        roots.add(anchor).unwrap();
    }
    let provider = crypto::provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let own = NodeCertificate::new(&theirs, NO_HOSTS).unwrap();
    let pkcs1 = PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(theirs.pkcs1().to_vec()));
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_webpki_verifier(verifier.unwrap())
        .with_client_auth_cert(vec![own.der().clone()], pkcs1)
        .unwrap();
    for (name, taken) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (server, _) = listener.server(Arc::clone(&list) as _, vec![]).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let near = TlsConnector::from(Arc::new(config.clone())).connect(name, near);
        let (near, _) = tokio::join!(near, TlsAcceptor::from(server).accept(far));
        assert_eq!(near.is_ok(), taken);
    }
}

#[tokio::test]
async fn members_that_share_a_key_are_told_apart_by_what_they_claim() {
    let Pair { list, a, .. } = pair();
    let entry = member(&other_key(), "127.0.0.1:1");
    let issued = member_certificate(&other_key(), &entry, SystemTime::now(), LIFE).unwrap();
    let b = showing(&other_key(), issued, &list);
    let both = meet(&a, &other_key(), &b, &list).await.unwrap();
    assert!(claims(both.near.get_ref().1, entry.id));
    assert!(!claims(both.near.get_ref().1, NodeId::from_bytes([8; 20])));
    assert!(!claims(both.far.get_ref().1, entry.id));
}

#[test]
fn what_has_become_of_a_key_is_said() {
    let key = node_key().public().fingerprint();
    for (how, says) in [
        (Departure::Left, "a has left the cluster"),
        (Departure::Removed, "a was expelled from the cluster"),
        (Departure::Retired, "a has another key now"),
    ] {
        let refused = PeerRefused::Former { key, name: "a".parse().unwrap(), how };
        assert!(refused.to_string().ends_with(says), "{refused}");
    }
}
