//! Clients that shook hands in good order, and then break the rules of TLS or HTTP/2, send what is
//! too large, or take no answers: each ends within bounds, and others are served meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tonic::Code;
use xlreg_api::v2;
use xlreg_api::v2::ErrorReason;
use xlreg_core::limits::Limits;
use xlreg_server::Config;
use xlreg_server::config::{Connections, Modern};
use xlreg_store::LocalEngine;

use crate::caller::{Caller, defined, reference, refused};
use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GET_CLUSTER, GOAWAY, HEADERS,
    HEALTH_WATCH, INITIAL_WINDOW_SIZE, PING, PREFACE, RST_STREAM, Raw, SETTINGS, WATCH_CLUSTER,
    WINDOW_UPDATE, call, call_headers, frame, header, opening, settings,
};
use crate::support::{Running, fill, make_keys, patient, soon};

/// One connection a key, so that who comes back finds its place free or is turned away.
fn one_a_key() -> Modern {
    Modern { connections_per_key_max: 1, ..Modern::default() }
}

async fn serve(modern: Modern) -> Running {
    Running::bounded(Config { modern, connections: patient(), ..Config::default() }).await
}

/// Sends `bytes` after the greeting, and gives what comes before the server closes.
async fn until_closed(address: SocketAddr, bytes: &[u8]) -> Vec<Frame> {
    let mut raw = Raw::greeted(2, address, 0, &[]).await;
    // It may be closed before all of it is written.
    let _reset = raw.send(bytes).await;
    raw.rest().await
}

#[tokio::test]
async fn who_breaks_the_rules_of_http_loses_the_connection_and_nobody_else_does() {
    let server = serve(one_a_key()).await;
    let mut honest = Caller::connect(server.address, 1).await;
    let window = |by: u32| frame(WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
    for (what, bytes) in [
        ("a window that grows by nothing", window(0)),
        ("a window beyond what 31 bits hold", [window(i32::MAX as u32), window(1)].concat()),
        ("streams' windows beyond that", settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])),
        ("frames of one byte at most", settings(&[(5, 1)])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("an answer to settings with some in it", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("data for a stream that is not open", frame(DATA, 0, 1, b"?")),
        ("a stream of the server's", opening(2, GET_CLUSTER)),
        ("a stream that was there before", [opening(3, "/"), opening(1, "/")].concat()),
        ("a reset of what never was", frame(RST_STREAM, 0, 7, &[0; 4])),
        ("a promise", frame(5, END_HEADERS, 1, &[0; 8])),
        ("a frame of 17 KiB", frame(DATA, 0, 1, &[0; 17 * 1024])),
        ("headers that can't be decompressed", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("headers with something in between", {
            [frame(HEADERS, 0, 1, &call_headers("/")), frame(PING, 0, 0, &[0; 8])].concat()
        }),
        ("headers that go on without having begun", frame(CONTINUATION, 0, 1, b"")),
    ] {
        let frames = until_closed(server.address, &bytes).await;
        assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{what}: {frames:?}");
        assert!(honest.is_served().await, "{what}");
    }
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "its place is free");
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn who_sends_something_else_after_the_handshake_is_closed() {
    let server = serve(one_a_key()).await;
    let mut honest = Caller::connect(server.address, 1).await;
    for round in 0..6 {
        let mut raw = Raw::connect(2, server.address, 0).await;
        let sent = match round {
            0 => raw.send(b"GET / HTTP/1.1\r\nhost: xlreg\r\n\r\n").await,
            1 => raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!").await,
            2 => raw.send(&[0; 4096]).await,
            // Below TLS: rubbish, an alert in clear, and the end.
            3 => raw.stream.get_mut().0.write_all(&[0x17, 3, 3, 0, 32, 7, 7, 7]).await,
            4 => raw.stream.get_mut().0.write_all(&[0x15, 3, 3, 0, 2, 2, 40]).await,
            _ => raw.stream.shutdown().await,
        };
        sent.unwrap();
        if round == 3 {
            raw.stream.get_mut().0.write_all(&[7; 29]).await.unwrap();
        }
        let answered = raw.rest().await;
        assert!(answered.iter().all(|frame| [SETTINGS, GOAWAY].contains(&frame.kind)));
        assert!(honest.is_served().await, "{round}");
    }
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "its place is free");
    assert_eq!(server.stop().await.aborted, 0);
}

/// The handshake is over only when the client has said that it speaks HTTP/2.
#[tokio::test]
async fn who_says_nothing_after_the_handshake_is_closed_when_the_time_for_it_is_over() {
    make_keys(2);
    let connections = Connections { hello: Duration::from_secs(2), ..patient() };
    let modern = Modern { handshakes_per_address_max: 2, ..one_a_key() };
    let server = Running::bounded(Config { modern, connections, ..Config::default() }).await;
    let silent = Raw::connect(2, server.address, 0).await;
    let mut halting = Raw::connect(2, server.address, 1).await;
    halting.send(&PREFACE[..PREFACE.len() - 1]).await.unwrap();
    for raw in [silent, halting] {
        assert_eq!(raw.rest().await, []);
    }
    for number in 0..2 {
        assert!(Caller::from(2, server.address, number).await.is_served().await);
    }
}

#[tokio::test]
async fn who_is_idle_is_closed_whether_or_not_it_agrees() {
    let modern = Modern {
        idle: Duration::from_millis(100),
        request: Duration::from_millis(50),
        stall: Duration::from_millis(50),
        ..one_a_key()
    };
    let server = serve(modern).await;
    // Who follows something is not idle, even if nothing comes.
    let mut following = Raw::greeted(2, server.address, 2, &[]).await;
    following.send(&call(1, HEALTH_WATCH, &())).await.unwrap();
    let idle = Caller::connect(server.address, 1).await;
    // One that never says that it has understood, with a stream that it never finishes.
    let mut deaf = Raw::greeted(2, server.address, 0, &[]).await;
    deaf.deaf = true;
    deaf.send(&opening(1, WATCH_CLUSTER)).await.unwrap();
    let frames = deaf.rest().await;
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "{frames:?}");
    idle.cut_off().await;
    following.send(&call(3, HEALTH_WATCH, &())).await.unwrap();
    while following.next_of(HEADERS).await.unwrap().stream != 3 {}
    following.hang_up().await;
    assert_eq!(server.stop().await.aborted, 0);
}

/// What is refused for its size is refused, and the connection goes on.
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = serve(one_a_key()).await;
    let mut caller = Caller::known(server.address, 0).await;
    for bytes in [64 * 1024, 1024 * 1024] {
        let large = caller.grpc.create_cluster(defined(&"a".repeat(bytes), 3)).await;
        assert_eq!(large.unwrap_err().code(), Code::OutOfRange, "{bytes}");
    }
    let mut lists = v2::CreateClusterRequest { size: 3, ..v2::CreateClusterRequest::default() };
    lists.name = "a".repeat(1024);
    refused(caller.define(lists).await, ErrorReason::InvalidField);
    assert!(caller.is_served().await);
    // Four GiB to come; and something compressed, but who knows how.
    for (prefix, code) in
        [([0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange), ([1, 0, 0, 0, 0], Code::Internal)]
    {
        assert_eq!(caller.code_for(GET_CLUSTER, &prefix).await, code);
    }
    assert!(caller.is_served().await);
}

/// What is HTTP/2, and no call of ours.
#[tokio::test]
async fn what_is_no_call_is_answered_and_the_connection_goes_on() {
    let server = serve(one_a_key()).await;
    let mut raw = Raw::greeted(1, server.address, 0, &[]).await;
    let path = header(":path", "/");
    let connect = [header(":method", "CONNECT"), header(":authority", "xlreg")].concat();
    let get = [header(":method", "GET"), header(":scheme", "https"), path].concat();
    let bare =
        [header(":method", "POST"), header(":scheme", "https"), header(":path", GET_CLUSTER)];
    for (stream, block) in (1..).step_by(2).zip([
        connect,
        get,
        bare.concat(),
        call_headers("/xlreg.v2.Registry/NoSuchCall"),
        call_headers("/"),
    ]) {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await.unwrap();
        let answer = raw.next_of(HEADERS).await.unwrap();
        assert_eq!(answer.stream, stream);
    }
    raw.send(&call(99, GET_CLUSTER, &v2::GetClusterRequest { cluster: reference("a") }))
        .await
        .unwrap();
    let answer = raw.next_of(HEADERS).await.unwrap();
    assert_eq!((answer.stream, answer.is_success()), (99, true));
    raw.hang_up().await;
    assert_eq!(server.stop().await.aborted, 0);
}

/// A list of headers may be as long as any honest one, and no longer, however it is put.
#[tokio::test]
async fn headers_that_are_too_many_are_refused_or_end_the_connection() {
    let server = serve(one_a_key()).await;
    let mut honest = Caller::connect(server.address, 1).await;
    let block = |count: usize| {
        let large = header("x", &"y".repeat(100));
        [call_headers(GET_CLUSTER), large.repeat(count)].concat()
    };
    let mut raw = Raw::greeted(2, server.address, 0, &[]).await;
    // Over 16 KiB, as an honest client may send once by mistake.
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(140))).await.unwrap();
    let answer = raw.next_of(HEADERS).await.unwrap();
    assert!(!answer.is_success(), "{answer:?}");
    // Again and again it is no mistake.
    let streams = (3..).step_by(2).take(1000);
    let again = streams.map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(140)));
    let _cut = raw.send(&again.collect::<Vec<_>>().concat()).await;
    raw.rest().await;

    // A large header that is remembered, and then named by one byte each: 60 MiB.
    let remembered = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    let bomb = [call_headers(GET_CLUSTER), remembered, vec![0xbe; 12_000]].concat();
    let mut endless = frame(HEADERS, 0, 1, &call_headers(GET_CLUSTER));
    endless.extend(frame(CONTINUATION, 0, 1, &header("x", "y")).repeat(20_000));
    let mut hollow = frame(HEADERS, 0, 1, &call_headers(GET_CLUSTER));
    hollow.extend(frame(CONTINUATION, 0, 1, &[]).repeat(20_000));
    for bomb in [frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb), endless, hollow] {
        let mut raw = Raw::greeted(2, server.address, 0, &[]).await;
        let _cut = raw.send(&bomb).await;
        let _cut = raw.send(&frame(PING, 0, 0, &[0; 8])).await;
        while let Some(frame) = raw.next().await
            && frame.kind != PING
        {
            assert!(!frame.is_success(), "{frame:?}");
        }
        assert!(honest.is_served().await);
    }
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "its place is free");
}

#[tokio::test]
async fn streams_beyond_what_a_connection_may_have_are_refused_one_by_one() {
    let modern = Modern { streams_per_connection_max: 3, ..Modern::default() };
    let server = serve(modern).await;
    let mut honest = Caller::known(server.address, 1).await;
    honest.create("alpha", 3).await.unwrap();
    let mut raw = Raw::greeted(1, server.address, 0, &[]).await;
    let watch = |stream| {
        let request = v2::WatchClusterRequest { cluster: reference("alpha"), after_revision: None };
        call(stream, WATCH_CLUSTER, &request)
    };
    raw.send(&[1, 3, 5, 7, 9].map(watch).concat()).await.unwrap();
    for stream in [7, 9] {
        let reset = raw.next_of(RST_STREAM).await.unwrap();
        let refused_stream = 7_u32.to_be_bytes().to_vec();
        assert_eq!((reset.stream, reset.payload), (stream, refused_stream));
    }
    // Those that were there go on, and what one gives up another may have.
    raw.send(&[frame(RST_STREAM, 0, 3, &8_u32.to_be_bytes()), watch(11)].concat()).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        honest.join("alpha", "a").await.unwrap();
        let data = raw.next_of(DATA).await.unwrap();
        if [1, 11].contains(&data.stream) && !told.contains(&data.stream) {
            told.push(data.stream);
        }
    }
}

/// The size of the cluster whose roster nobody takes, which is larger than what is sent unasked.
const LARGE: u8 = 64;

async fn serve_large(modern: Modern) -> Running {
    let engine = Arc::new(LocalEngine::in_memory(Limits::default()));
    fill(&*engine, "alpha", LARGE).await;
    let config = Config { modern, connections: patient(), ..Config::default() };
    Running::with(engine, config).await
}

/// Clients that ask for as many rosters as this, and take a part of each, or nothing.
async fn greedy(server: &Running, count: u32) -> Vec<Raw> {
    let get = v2::GetClusterRequest { cluster: reference("alpha") };
    let calls: Vec<_> = (0..count).flat_map(|n| call(2 * n + 1, GET_CLUSTER, &get)).collect();
    let mut all = Vec::new();
    for (number, window) in [0, 1, 10_000].into_iter().enumerate() {
        let own = [(INITIAL_WINDOW_SIZE, window)];
        let mut raw = Raw::greeted(2, server.address, number, &own).await;
        raw.send(&calls).await.unwrap();
        all.push(raw);
    }
    all
}

/// An answer is memory, and its request counts until it is taken.
#[tokio::test]
async fn who_takes_no_answers_has_no_more_of_them_than_one_may_have() {
    const MAX: usize = 4;
    let patient = Duration::from_secs(600);
    let modern = Modern { requests_per_key_max: MAX, request: patient, ..Modern::default() };
    let server = serve_large(modern).await;
    for (number, mut raw) in greedy(&server, MAX as u32).await.into_iter().enumerate() {
        for _ in 0..MAX {
            assert!(raw.next_of(HEADERS).await.unwrap().is_success());
        }
        let mut same_key = Caller::connect(server.address, number).await;
        let fault = refused(same_key.get("alpha").await, ErrorReason::RateLimited);
        assert_eq!(fault.metadata["what"], "requests under way");
        assert!(fault.retry_after.is_some());
        // Who gives them up may ask again.
        raw.hang_up().await;
        assert!(same_key.get("alpha").await.is_ok());
    }
}

#[tokio::test]
async fn who_takes_no_answers_for_too_long_is_cut_off() {
    let (request, stall) = (Duration::from_millis(200), Duration::from_millis(200));
    let server = serve_large(Modern { request, stall, ..one_a_key() }).await;
    for (number, raw) in greedy(&server, 4).await.into_iter().enumerate() {
        raw.rest().await;
        assert!(Caller::from(2, server.address, number).await.is_served().await);
    }
    assert_eq!(server.stop().await.aborted, 0);
}

/// The same where not even TCP is read: there is no telling it that it is over.
#[tokio::test]
async fn who_reads_nothing_at_all_is_cut_off() {
    let modern = Modern {
        request: Duration::from_millis(300),
        stall: Duration::from_millis(200),
        ..one_a_key()
    };
    let server = serve_large(modern).await;
    let wide = [(INITIAL_WINDOW_SIZE, i32::MAX as u32)];
    let mut greedy = Raw::greeted(2, server.address, 0, &wide).await;
    let more = frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes());
    greedy.send(&more).await.unwrap();
    let get = v2::GetClusterRequest { cluster: reference("alpha") };
    let mut stream = 1;
    // Until the server reads no more, either: both sides are full.
    let full = async {
        while greedy.send(&call(stream, GET_CLUSTER, &get)).await.is_ok() {
            stream += 2;
        }
    };
    soon(full).await;
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "its place is free");
    assert_eq!(server.stop().await.aborted, 0);
}

/// Health checks and reflection go on for ever, and a call that does not finds a place all the same.
#[tokio::test]
async fn streams_without_an_end_take_no_places_of_calls_that_have_one() {
    const MAX: u32 = 16;
    let modern = Modern { requests_per_key_max: 1, requests_max: 1, ..Modern::default() };
    let server = serve(modern).await;
    let mut raw = Raw::greeted(1, server.address, 0, &[]).await;
    let calls = (0..=MAX).map(|number| call(2 * number + 1, HEALTH_WATCH, &()));
    raw.send(&calls.collect::<Vec<_>>().concat()).await.unwrap();
    let mut ended = Vec::new();
    for _ in 0..=MAX {
        let answer = raw.next_of(HEADERS).await.unwrap();
        ended.extend((answer.flags & END_STREAM != 0).then_some(answer.stream));
    }
    assert_eq!(ended.len(), 1, "one too many for a key");
    let mut same_key = Caller::known(server.address, 0).await;
    same_key.create("alpha", 2).await.unwrap();
    assert!(same_key.get("alpha").await.is_ok());
}

/// Watchers of a large cluster who take no more than a byte of its roster.
async fn frozen(server: &Running, number: usize, count: u32) -> Raw {
    let watch = v2::WatchClusterRequest { cluster: reference("alpha"), after_revision: None };
    let mut raw = Raw::greeted(2, server.address, number, &[(INITIAL_WINDOW_SIZE, 1)]).await;
    let calls = (0..count).map(|number| call(2 * number + 1, WATCH_CLUSTER, &watch));
    raw.send(&calls.collect::<Vec<_>>().concat()).await.unwrap();
    raw
}

/// No heartbeat comes in this time that it could fail to take as well.
#[tokio::test]
async fn a_watcher_who_does_not_take_the_roster_is_cut_off() {
    let (request, stall) = (Duration::from_millis(200), Duration::from_millis(200));
    let server = serve_large(Modern { request, stall, ..one_a_key() }).await;
    frozen(&server, 0, 1).await.rest().await;
    assert!(Caller::from(2, server.address, 0).await.is_served().await, "its place is free");
    assert_eq!(server.stop().await.aborted, 0);
}

#[tokio::test]
async fn what_watchers_have_not_taken_is_bounded_for_each_address() {
    let patient = Duration::from_secs(600);
    let max = 200_000;
    let modern =
        Modern { unread_bytes_per_address_max: max, request: patient, ..Modern::default() };
    let server = serve_large(modern).await;
    let mut raw = frozen(&server, 0, 10).await;
    let ended = async {
        loop {
            let headers = raw.next_of(HEADERS).await.unwrap();
            if headers.flags & END_STREAM != 0 {
                return headers.stream;
            }
        }
    };
    assert!(soon(ended).await > 1, "the first roster fits");
    let mut elsewhere = Caller::from(3, server.address, 1).await;
    elsewhere.watch("alpha", None).await.unwrap().snapshot().await;
    let mut neighbour = Caller::from(2, server.address, 2).await;
    let mut told = neighbour.watch("alpha", None).await.unwrap();
    let crowded = soon(told.0.message()).await.unwrap_err();
    let fault = xlreg_api::Fault::read(&crowded).unwrap();
    assert_eq!(
        (fault.reason, &*fault.metadata["what"]),
        (ErrorReason::RateLimited, "news under way")
    );
    // Who gives it up makes room.
    raw.hang_up().await;
    let room =
        async { while neighbour.watch("alpha", None).await.unwrap().0.message().await.is_err() {} };
    soon(room).await;
}
