//! Peers that have not shown who they are: each costs one handshake at most, in its place and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use tokio_rustls::rustls::{AlertDescription, ClientConfig, Error};
use xlreg_server::Config;
use xlreg_server::config::{Connections, Modern};
use xlreg_server::rates::Rate;
use xlreg_tls::{ClientTls, NodeCertificate};

use crate::caller::{Caller, reach, secured, tls};
use crate::support::{Running, make_keys, patient, rest, sig_key, soon};

/// A hello of TLS 1.3 that has come halfway: its record has 512 bytes, and here are 12 of them.
const HALF_A_HELLO: [u8; 12] = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7];

/// Time for a hello that an honest client has under any load.
const HELLO: Duration = Duration::from_secs(2);

async fn serve(modern: Modern, hello: Duration) -> Running {
    make_keys(1);
    let connections = Connections { hello, ..patient() };
    Running::bounded(Config { modern, connections, ..Config::default() }).await
}

/// One handshake at a time, so that who comes next finds the place free or is turned away.
fn one_at_a_time() -> Modern {
    Modern { handshakes_max: 1, handshakes_per_address_max: 1, ..Modern::default() }
}

/// The TLS of node 0, but for what `change` makes of it.
fn changed(change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&tls(sig_key(0)).config());
    change(&mut config);
    Arc::new(config)
}

/// Shows these certificates, and signs with that key.
fn showing(chain: Vec<CertificateDer<'static>>, signer: Arc<dyn SigningKey>) -> Arc<ClientConfig> {
    let shown = SingleCertAndKey::from(CertifiedKey::new(chain, signer));
    changed(|config| config.client_auth_cert_resolver = Arc::new(shown))
}

/// The alert that a handshake ends with; it may come only after the client's own part is done.
async fn alert(address: SocketAddr, config: Arc<ClientConfig>) -> AlertDescription {
    let stream = TcpStream::connect(address).await.unwrap();
    let shaken = TlsConnector::from(config).connect(ClientTls::server_name(), stream).await;
    let error = match shaken {
        Ok(mut stream) => soon(stream.read_u8()).await.unwrap_err(),
        Err(error) => error,
    };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("{error}"),
    }
}

#[tokio::test]
async fn who_does_not_show_one_certificate_of_its_own_rsa_key_is_refused() {
    let server = serve(one_at_a_time(), HELLO).await;
    let node = NodeCertificate::new(sig_key(0), &[""; 0]).unwrap();
    let (own, signer) = (node.der().clone(), Arc::clone(&node.certified_key().key));
    let ec = KeyPair::generate().unwrap();
    let of_ec = CertificateParams::default().self_signed(&ec).unwrap().der().clone();
    let others = NodeCertificate::new(sig_key(1), &[""; 0]).unwrap().der().clone();
    for (chain, expected) in [
        (vec![], AlertDescription::CertificateRequired),
        (vec![of_ec], AlertDescription::CertificateUnknown),
        (vec![own.clone(), own], AlertDescription::CertificateUnknown),
        (vec![vec![0x30, 0].into()], AlertDescription::CertificateUnknown),
        (vec![others], AlertDescription::DecryptError),
    ] {
        let config = showing(chain, Arc::clone(&signer));
        assert_eq!(alert(server.address, config).await, expected);
    }
    assert!(Caller::connect(server.address, 0).await.is_served().await, "the place is free");
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn who_speaks_another_protocol_or_an_older_tls_is_refused() {
    let server = serve(one_at_a_time(), HELLO).await;
    let other = changed(|config| config.alpn_protocols = vec![b"http/1.1".to_vec()]);
    let refusal = alert(server.address, other).await;
    assert_eq!(refusal, AlertDescription::NoApplicationProtocol);

    // A hello of TLS 1.2, written by hand: no extension says that it knows a later one.
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xC0, 0x2F, 1, 0]].concat();
    let length = hello.len() as u8;
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    // A fatal alert; which one depends on what is missed first.
    let answer = soon(rest(stream)).await;
    assert_eq!((&answer[..6], answer.len()), (&[21, 3, 3, 0, 2, 2][..], 7), "{answer:?}");
    assert!(Caller::connect(server.address, 0).await.is_served().await, "the place is free");
}

/// A client that names no protocol has none but HTTP/2 to speak.
#[tokio::test]
async fn who_names_no_protocol_is_served_as_if_it_had() {
    let server = serve(one_at_a_time(), HELLO).await;
    let silent = changed(|config| config.alpn_protocols = Vec::new());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let shaken = TlsConnector::from(silent).connect(ClientTls::server_name(), stream).await;
    assert!(Caller::over(shaken.unwrap(), sig_key(0)).await.is_served().await);
}

/// Half a hello from each of hundreds of connections, and nothing at all from as many.
#[tokio::test]
async fn handshakes_that_never_end_are_bounded_for_each_address() {
    const MAX: usize = 100;
    let modern = Modern { handshakes_per_address_max: MAX, ..Modern::default() };
    let server = serve(modern, Duration::from_secs(600)).await;
    let (mut halves, mut silent) = (Vec::new(), Vec::new());
    for _ in 0..MAX + 50 {
        let mut half = reach(2, server.address).await;
        half.write_all(&HALF_A_HELLO).await.unwrap();
        halves.push(half);
        silent.push(reach(2, server.address).await);
    }
    for stream in halves.split_off(MAX) {
        assert_eq!(soon(rest(stream)).await, [], "one too many, closed at once");
    }
    assert!(Caller::from(1, server.address, 0).await.is_served().await, "another address");
    for stream in halves.iter().chain(&silent) {
        assert!(stream.try_read(&mut [0]).is_err(), "the others have their time");
    }
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn handshakes_that_never_end_are_over_in_time() {
    const MAX: usize = 50;
    let modern = Modern { handshakes_per_address_max: MAX, ..Modern::default() };
    let server = serve(modern, HELLO).await;
    let mut open = Vec::new();
    for _ in 0..MAX {
        let mut half = reach(2, server.address).await;
        half.write_all(&HALF_A_HELLO).await.unwrap();
        open.extend([half, reach(2, server.address).await]);
    }
    for stream in open {
        assert_eq!(soon(rest(stream)).await, []);
    }
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "all places are free");
}

#[tokio::test]
async fn handshakes_of_all_addresses_together_are_bounded() {
    let modern = Modern { handshakes_max: 3, ..Modern::default() };
    let server = serve(modern, Duration::from_secs(600)).await;
    let mut halves = Vec::new();
    for host in 2..=4 {
        let mut half = reach(host, server.address).await;
        half.write_all(&HALF_A_HELLO).await.unwrap();
        halves.push(half);
    }
    let mut late = reach(5, server.address).await;
    late.write_all(&HALF_A_HELLO).await.unwrap();
    assert_eq!(soon(rest(late)).await, []);
    // Who hangs up makes room for the next.
    drop(halves);
    let by = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let stream = reach(1, server.address).await;
        if let Ok(stream) = secured(stream, &tls(sig_key(0))).await {
            assert!(Caller::over(stream, sig_key(0)).await.is_served().await);
            break;
        }
        assert!(tokio::time::Instant::now() < by, "no room, though nobody is there");
    }
}

/// Whoever leaves handshakes half done keeps nobody out but himself.
#[tokio::test]
async fn who_has_most_handshakes_under_way_makes_room_for_who_has_fewer() {
    let modern = Modern { handshakes_max: 3, ..Modern::default() };
    let server = serve(modern, Duration::from_secs(600)).await;
    let half = async |host| {
        let mut half = reach(host, server.address).await;
        half.write_all(&HALF_A_HELLO).await.unwrap();
        half
    };
    let (one, other) = (half(2).await, half(2).await);
    let (third, fourth) = (half(3).await, half(4).await);
    let closed = soon(async {
        tokio::select! {
            closed = rest(one) => closed,
            closed = rest(other) => closed,
        }
    });
    assert_eq!(closed.await, []);
    for guest in [third, fourth] {
        assert!(guest.try_read(&mut [0]).is_err(), "the others have their time");
    }
}

#[tokio::test]
async fn handshakes_of_one_address_may_not_come_too_fast() {
    let handshakes = Rate { per_second: 1, burst: 3 };
    let server = serve(Modern { handshakes, ..Modern::default() }, HELLO).await;
    let mut let_in = 0;
    while secured(reach(2, server.address).await, &tls(sig_key(0))).await.is_ok() {
        let_in += 1;
        assert!(let_in < 50, "and one more for each second that goes by");
    }
    assert!(let_in >= 3, "{let_in}");
    assert!(Caller::from(3, server.address, 0).await.is_served().await, "another address");
}
