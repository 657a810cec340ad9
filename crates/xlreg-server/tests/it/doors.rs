//! Two doors on one port: told apart by the first bytes however they come, and shut together.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use xlreg_api::Fault;
use xlreg_api::v2::ErrorReason;
use xlreg_proto::channel::Dialect;
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::random;
use xlreg_proto::message::Reply;
use xlreg_server::Config;
use xlreg_server::config::{Access, Connections};

use crate::caller::{Caller, tls};
use crate::frames::{
    DATA, HEALTH_WATCH, PREFACE, REFLECTION, Raw, SETTINGS, WATCH_CLUSTER, call, opening, settings,
};
use crate::support::{Client, Running, join, key, patient, rest, sig_key, soon};

/// Passes on byte by byte, each in a packet of its own, what one end of `near` is given for `far`.
async fn dribble(near: tokio::io::DuplexStream, far: TcpStream) {
    far.set_nodelay(true).unwrap();
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut from_far, mut to_far) = far.into_split();
    let there = async {
        while let Ok(byte) = from_near.read_u8().await {
            if to_far.write_u8(byte).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let back = async { tokio::io::copy(&mut from_far, &mut to_near).await };
    tokio::join!(there, back).1.unwrap();
}

/// A connection whose bytes arrive one by one.
async fn slow(server: &Running) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(dribble(far, TcpStream::connect(server.address).await.unwrap()));
    near
}

#[tokio::test]
async fn first_bytes_that_come_one_by_one_lead_to_the_right_door() {
    let server = Running::in_memory(patient()).await;
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let secrets = Secrets::from_random(random());
        let (hello, packet) =
            ClientHello::new(dialect, key().public(), xlreg_core::Version::CURRENT, secrets)
                .unwrap();
        let mut stream = slow(&server).await;
        stream.write_all(&packet).await.unwrap();
        let mut reply = vec![0; hello.reply_bytes()];
        soon(stream.read_exact(&mut reply)).await.unwrap();
        hello.finish(&reply).unwrap();
    }
    let connector = tokio_rustls::TlsConnector::from(tls(sig_key(0)).config());
    let name = xlreg_tls::ClientTls::server_name();
    let mut stream = soon(connector.connect(name, slow(&server).await)).await.unwrap();
    stream.write_all(&[PREFACE, &settings(&[])].concat()).await.unwrap();
    stream.flush().await.unwrap();
    let mut frame = [0; 9];
    soon(stream.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[3], SETTINGS);
}

#[tokio::test]
async fn a_shut_old_door_turns_its_clients_away_and_nobody_else() {
    let access = Access { legacy: Some(false), ..Access::default() };
    let config = Config { access, connections: patient(), ..Config::default() };
    let server = Running::bounded(config).await;
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let (stream, _) = Client::knock(server.address, dialect).await;
        assert_eq!(soon(rest(stream)).await, []);
    }
    let mut caller = Caller::known(server.address, 0).await;
    assert!(!caller.describe().await.unwrap().legacy_wire);
    caller.create("alpha", 2).await.unwrap();
    assert_eq!(server.stop().await.aborted, 0);
}

/// Clients at all stages of a connection: none holds up the end, and who waits is told.
#[tokio::test]
async fn a_stop_ends_what_is_open_at_both_doors_without_waiting_for_anybody() {
    let patient = Connections { drain: Duration::from_secs(600), ..patient() };
    let server = Running::in_memory(patient).await;
    let address = server.address;
    let mut caller = Caller::known(address, 0).await;
    caller.create("alpha", 3).await.unwrap();
    let mut watch = caller.watch("alpha", None).await.unwrap();
    watch.snapshot().await;
    let mut old = Client::known(address, 101).await;
    assert!(matches!(old.ask(&join("alpha")).await, Reply::Joined(_)));
    assert_eq!(watch.change().await.1, "m101");

    let silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7]).await.unwrap();
    let unheard = Raw::connect(1, address, 1).await;
    let idle = Caller::connect(address, 2).await;
    // Streams that have no end of their own, one of them not even a beginning.
    let mut endless = Raw::greeted(1, address, 3, &[]).await;
    let begun = [opening(1, WATCH_CLUSTER), opening(3, REFLECTION)].concat();
    endless.send(&[begun, call(5, HEALTH_WATCH, &())].concat()).await.unwrap();
    endless.next_of(DATA).await.unwrap();
    let endless = tokio::spawn(endless.rest());

    server.stop.cancel();
    let status = soon(watch.0.message()).await.unwrap_err();
    assert_eq!(Fault::read(&status).unwrap().reason, ErrorReason::ShuttingDown);
    let report = soon(server.stop()).await;
    assert_eq!((report.aborted, report.accepted), (0, 7));
    for stream in [silent, half, old.stream] {
        assert_eq!(rest(stream).await, []);
    }
    unheard.rest().await;
    endless.await.unwrap();
    idle.cut_off().await;
    caller.cut_off().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
