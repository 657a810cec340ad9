//! Clients that shook hands in good order, and then flood: each loses its connection and nothing
//! else happens.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xlreg_api::v2;
use xlreg_server::Config;
use xlreg_server::config::Modern;
use xlreg_server::rates::Rate;

use crate::caller::Caller;
use crate::frames::{
    DATA, GET_CLUSTER, PING, PRIORITY, REFLECTION, RST_STREAM, Raw, WINDOW_UPDATE, call, frame,
    opening, settings,
};
use crate::support::{Running, soon};

const GET_REGISTRY: &str = "/xlreg.v2.Registry/GetRegistry";

/// Bytes that a flood has been cut off by: what the kernel takes on both sides is a part of it.
const FLOOD_BYTES: usize = 32 * 1024 * 1024;

/// One connection a key, so that who comes back finds its place free or is turned away.
fn one_a_key() -> Config {
    let modern = Modern { connections_per_key_max: 1, ..Modern::default() };
    Config { modern, ..Config::default() }
}

/// Sends one piece after the other until the server has had enough.
async fn flooding(raw: Raw, mut piece: impl FnMut() -> Vec<u8>) {
    let (mut from, mut to) = tokio::io::split(raw.stream);
    // Who does not read its answers would be held up by that alone.
    let reading = async {
        let mut sink = [0; 16 * 1024];
        while matches!(from.read(&mut sink).await, Ok(1..)) {}
    };
    let writing = async {
        let mut sent = 0;
        loop {
            let piece = piece();
            sent += piece.len();
            assert!(sent < FLOOD_BYTES, "it takes whatever comes");
            if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    };
    soon(async {
        tokio::select! { () = reading => {}, () = writing => {} }
    })
    .await;
}

/// As many of one frame as make a piece.
fn many(frame: &[u8]) -> Vec<u8> {
    frame.repeat(64 * 1024 / frame.len())
}

async fn serve_honest(honest: &mut Caller) {
    for _ in 0..10 {
        assert!(honest.is_served().await);
    }
}

/// Floods with these pieces while somebody else is served, and then comes back.
async fn flood(address: SocketAddr, first: &[u8], piece: impl FnMut() -> Vec<u8>) {
    let mut honest = Caller::connect(address, 1).await;
    let mut raw = Raw::greeted(2, address, 0, &[]).await;
    raw.send(first).await.unwrap();
    tokio::join!(flooding(raw, piece), serve_honest(&mut honest));
    assert!(honest.is_served().await);
    assert!(Caller::from(2, address, 0).await.is_served().await, "its place is free");
}

#[tokio::test]
async fn frames_that_ask_for_nothing_are_taken_up_to_a_bound() {
    let server = Running::bounded(one_a_key()).await;
    for flooding in [
        frame(PING, 0, 0, &[7; 8]),
        settings(&[]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 16]),
        // Of no known type.
        frame(0xbb, 0, 0, b"whatever"),
    ] {
        flood(server.address, &[], || many(&flooding)).await;
    }
    // Data without end, and without a byte in it.
    let empty = frame(DATA, 0, 1, &[]);
    flood(server.address, &opening(1, GET_CLUSTER), || many(&empty)).await;
    assert_eq!(server.stop().await.aborted, 0);
}

/// CVE-2023-44487: each such stream is work for us, and none counts as open.
#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_open_end_the_connection() {
    let server = Running::bounded(one_a_key()).await;
    let mut streams = (1..).step_by(2);
    let mut open_and_reset = || {
        let stream = streams.next().unwrap();
        [opening(stream, GET_CLUSTER), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let piece = || (0..500).flat_map(|_| open_and_reset()).collect();
    flood(server.address, &[], piece).await;
    assert_eq!(server.stop().await.aborted, 0);
}

/// A client that does not look at the answers, which tell it to wait.
#[tokio::test]
async fn calls_that_come_much_too_fast_end_the_connection() {
    let modern = Modern { requests: Rate { per_second: 50, burst: 50 }, ..one_a_key().modern };
    let server = Running::bounded(Config { modern, ..Config::default() }).await;
    let request = v2::GetRegistryRequest {};
    let mut streams = (1..).step_by(2);
    let piece = || {
        let streams = streams.by_ref().take(100);
        streams.flat_map(|stream| call(stream, GET_REGISTRY, &request)).collect()
    };
    flood(server.address, &[], piece).await;
}

/// One stream takes any number of these questions, and no rate is asked for each.
#[tokio::test]
async fn questions_on_a_stream_without_end_are_taken_up_to_a_bound() {
    let server = Running::bounded(one_a_key()).await;
    // list_services of "*"
    let question = [0, 0, 0, 0, 3, 0x3a, 1, b'*'];
    let questions = frame(DATA, 0, 1, &question.repeat(200));
    // Answers take room, too.
    let room = [0, 1].map(|stream| frame(WINDOW_UPDATE, 0, stream, &(1_u32 << 30).to_be_bytes()));
    let first = [opening(1, REFLECTION), room.concat()].concat();
    flood(server.address, &first, || many(&questions)).await;
}
