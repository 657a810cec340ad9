//! No more than one key or address may have: each limit says so, and when to come again.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Code;
use xlreg_api::Fault;
use xlreg_api::v2::{self, ErrorReason};
use xlreg_core::limits::Limits;
use xlreg_server::Config;
use xlreg_server::config::Modern;
use xlreg_server::rates::{Rate, SlowRate};

use crate::caller::{Asked, Caller, refused};
use crate::frames::{DATA, END_STREAM, HEADERS, REFLECTION, Raw, frame, opening};
use crate::rigged::{Mood, Rigged};
use crate::support::{Running, patient, sig_key, soon};

/// Checks what every limit says.
#[track_caller]
fn limited<T>(asked: Asked<T>, reason: ErrorReason, what: &str) -> Fault {
    let fault = refused(asked, reason);
    assert_eq!(fault.code(), Code::ResourceExhausted);
    assert_eq!(fault.metadata["what"], what, "{fault}");
    assert!(fault.retry_after.is_some_and(|wait| wait > Duration::ZERO), "{fault}");
    fault
}

#[track_caller]
fn over_quota<T>(asked: Asked<T>, what: &str, max: usize) {
    let fault = limited(asked, ErrorReason::QuotaExceeded, what);
    assert_eq!(fault.metadata["max"], max.to_string());
}

/// Asks until it is refused: a rate lets one more through for each second that goes by.
async fn until_refused<T>(mut ask: impl AsyncFnMut(u8) -> Asked<T>) -> Asked<T> {
    for number in 0..50 {
        ask(number).await?;
    }
    ask(50).await
}

async fn serve(limits: Limits, modern: Modern) -> Running {
    let config = Config { limits, modern, connections: patient(), ..Config::default() };
    Running::bounded(config).await
}

#[tokio::test]
async fn a_key_owns_and_holds_no_more_than_it_may_until_some_of_it_goes() {
    let limits = Limits {
        ids_per_key_max: 2,
        clusters_per_key_max: 2,
        memberships_per_key_max: 1,
        ..Limits::default()
    };
    let server = serve(limits, Modern::default()).await;
    let mut a = Caller::known(server.address, 0).await;
    let mut b = Caller::known(server.address, 1).await;
    a.register(&[100; 20]).await.unwrap();
    over_quota(a.register(&[101; 20]).await, "IDs", 2);
    a.register(&[100; 20]).await.unwrap();

    a.create("one", 2).await.unwrap();
    a.create("two", 2).await.unwrap();
    over_quota(a.create("three", 2).await, "clusters", 2);
    a.create("two", 2).await.unwrap();
    b.create("three", 2).await.unwrap();
    assert_eq!(a.join("one", "a").await, Ok(0));
    over_quota(a.join("two", "a").await, "ranks", 1);
    assert_eq!(a.join("one", "a").await, Ok(0), "what it has it may have again");
    a.delete("one").await.unwrap();
    a.create("four", 2).await.unwrap();
    assert_eq!(a.join("two", "a").await, Ok(0));
}

#[tokio::test]
async fn a_registry_that_is_full_says_so() {
    let limits = Limits { clusters_max: 1, nodes_max: 1, members_max: 1, ..Limits::default() };
    let server = serve(limits, Modern::default()).await;
    let mut a = Caller::known(server.address, 0).await;
    a.create("one", 2).await.unwrap();
    for fault in [
        refused(a.create("two", 2).await, ErrorReason::RegistryFull),
        refused(a.register(&[100; 20]).await, ErrorReason::RegistryFull),
    ] {
        assert_eq!(fault.code(), Code::ResourceExhausted);
        assert!(fault.retry_after.is_some());
    }
}

#[tokio::test]
async fn a_key_watches_no_more_than_it_may_and_neither_do_its_address_and_all_together() {
    let modern = Modern {
        watches_per_key_max: 2,
        watches_per_address_max: 3,
        watches_max: 4,
        ..Modern::default()
    };
    let server = serve(Limits::default(), modern).await;
    let mut a = Caller::known(server.address, 0).await;
    let mut b = Caller::known(server.address, 1).await;
    let mut elsewhere = Caller::from(2, server.address, 2).await;
    a.create("alpha", 2).await.unwrap();
    let mut first = a.watch("alpha", None).await.unwrap();
    let _second = a.watch("alpha", None).await.unwrap();
    over_quota(a.watch("alpha", None).await, "clusters that it watches", 2);
    let _third = b.watch("alpha", None).await.unwrap();
    let crowded = |asked| limited(asked, ErrorReason::RateLimited, "watches under way");
    crowded(b.watch("alpha", None).await.map(drop));
    let _fourth = elsewhere.watch("alpha", None).await.unwrap();
    crowded(elsewhere.watch("alpha", None).await.map(drop));

    first.snapshot().await;
    drop(first);
    let again = async {
        loop {
            if let Ok(news) = a.watch("alpha", None).await {
                return news;
            }
        }
    };
    soon(again).await.snapshot().await;
}

#[tokio::test]
async fn one_address_registers_no_faster_than_it_may() {
    let registrations = Rate { per_second: 1, burst: 2 };
    let server = serve(Limits::default(), Modern { registrations, ..Modern::default() }).await;
    Caller::known(server.address, 0).await;
    Caller::known(server.address, 1).await;
    let mut third = Caller::connect(server.address, 2).await;
    let third = until_refused(async |number| third.register(&[100 + number; 20]).await).await;
    let fault = limited(third, ErrorReason::RateLimited, "registrations");
    assert!(fault.retry_after.unwrap() <= Duration::from_secs(1), "{:?}", fault.retry_after);
    // What is known is no registration; and another address has a rate of its own.
    Caller::known(server.address, 0).await;
    Caller::from(2, server.address, 2).await.register(&[]).await.unwrap();
}

/// Each rotation brings another key, and no new rate with it.
#[tokio::test]
async fn one_node_rotates_no_faster_than_it_may_whatever_keys_it_has() {
    let rotations = SlowRate { per_minute: 1, burst: 2 };
    let server = serve(Limits::default(), Modern { rotations, ..Modern::default() }).await;
    Caller::known(server.address, 0).await.rotate(sig_key(1)).await.unwrap();
    let mut second = Caller::connect(server.address, 1).await;
    second.rotate_in_place().await.unwrap();
    let fault = limited(second.rotate(sig_key(2)).await, ErrorReason::RateLimited, "rotations");
    let minute = Duration::from_secs(60);
    assert!(fault.retry_after.unwrap() <= minute, "{:?}", fault.retry_after);
    assert!(second.is_served().await, "its key is the one that it was");
    Caller::known(server.address, 3).await.rotate(sig_key(2)).await.unwrap();
}

#[tokio::test]
async fn a_rotation_counts_as_a_registration_of_its_address() {
    let modern = Modern {
        registrations: Rate { per_second: 1, burst: 2 },
        rotations: SlowRate { per_minute: 1000, burst: 1000 },
        ..Modern::default()
    };
    let server = serve(Limits::default(), modern).await;
    let mut caller = Caller::known(server.address, 0).await;
    let fast = until_refused(async |_| caller.rotate_in_place().await.map(drop)).await;
    limited(fast, ErrorReason::RateLimited, "registrations");
}

#[tokio::test]
async fn one_key_asks_no_faster_than_it_may_on_all_its_connections_together() {
    let requests = Rate { per_second: 1, burst: 4 };
    let server = serve(Limits::default(), Modern { requests, ..Modern::default() }).await;
    let mut first = Caller::connect(server.address, 0).await;
    let mut second = Caller::from(2, server.address, 0).await;
    for _ in 0..2 {
        assert!(first.is_served().await && second.is_served().await);
    }
    for caller in [&mut first, &mut second] {
        let fast = until_refused(async |_| caller.describe().await).await;
        let fault = limited(fast, ErrorReason::RateLimited, "requests");
        assert!(fault.retry_after.unwrap() <= Duration::from_secs(1));
        // A stream is a request, too.
        let fast = until_refused(async |_| match caller.watch("alpha", None).await {
            Err(fault) if fault.reason == ErrorReason::ClusterNotFound => Ok(()),
            watched => watched.map(drop),
        });
        limited(fast.await, ErrorReason::RateLimited, "requests");
    }
    assert!(Caller::connect(server.address, 1).await.is_served().await);
}

/// Or a few keys could have all that the registry's thread can do.
#[tokio::test]
async fn what_takes_the_registry_longer_counts_for_more() {
    let requests = Rate { per_second: 1, burst: 25 };
    let server = serve(Limits::default(), Modern { requests, ..Modern::default() }).await;
    let mut caller = Caller::connect(server.address, 0).await;
    assert!(caller.list().await.is_ok() && caller.list().await.is_ok());
    let fault = limited(caller.list().await, ErrorReason::RateLimited, "requests");
    assert!(fault.retry_after.unwrap() > Duration::from_secs(1));
    assert!(caller.is_served().await, "five are left for what takes less");
}

/// The questions of one stream have no other bound.
#[tokio::test]
async fn answers_of_reflection_count_as_requests() {
    let requests = Rate { per_second: 1, burst: 8 };
    let server = serve(Limits::default(), Modern { requests, ..Modern::default() }).await;
    let mut raw = Raw::greeted(1, server.address, 0, &[]).await;
    // Which services there are, in the frame of a message.
    let question = frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 0x3A, 0]);
    raw.send(&[opening(1, REFLECTION), question.repeat(50)].concat()).await.unwrap();
    let (mut answers, mut trailers) = (0, 0);
    while trailers == 0 {
        let next = soon(raw.next()).await.unwrap();
        let ends = next.flags & END_STREAM != 0;
        answers += usize::from(next.kind == DATA && !next.payload.is_empty());
        trailers += usize::from(next.kind == HEADERS && ends);
    }
    assert!((1..50).contains(&answers), "{answers}");
    let mut same_key = Caller::from(2, server.address, 0).await;
    limited(same_key.describe().await, ErrorReason::RateLimited, "requests");
}

/// Keys are cheap to make, and an address has as many as it likes.
#[tokio::test]
async fn one_address_asks_no_faster_than_it_may_with_all_its_keys_together() {
    let address_requests = Rate { per_second: 1, burst: 4 };
    let server = serve(Limits::default(), Modern { address_requests, ..Modern::default() }).await;
    for number in 0..4 {
        assert!(Caller::connect(server.address, number).await.is_served().await);
    }
    let mut fifth = Caller::connect(server.address, 4).await;
    let fast = until_refused(async |_| fifth.describe().await).await;
    limited(fast, ErrorReason::RateLimited, "requests");
    assert!(Caller::from(2, server.address, 4).await.is_served().await);
}

/// Who comes with one connection too many hears why before it is closed.
#[tokio::test]
async fn one_key_has_no_more_connections_than_it_may() {
    let modern =
        Modern { connections_per_key_max: 2, handshakes_per_address_max: 1, ..Modern::default() };
    let server = serve(Limits::default(), modern).await;
    let mut first = Caller::connect(server.address, 0).await;
    let mut second = Caller::from(2, server.address, 0).await;
    assert!(first.is_served().await && second.is_served().await);
    for _ in 0..3 {
        let mut third = Caller::from(3, server.address, 0).await;
        over_quota(third.get("alpha").await, "connections", 2);
        third.cut_off().await;
    }
    assert!(Caller::from(3, server.address, 1).await.is_served().await);
    assert!(first.is_served().await && second.is_served().await);
    drop(first);
    // The server may hear of the hanging up only after the next connection.
    let again = async { while !is_let_in(&server).await {} };
    soon(again).await;
}

async fn is_let_in(server: &Running) -> bool {
    Caller::from(1, server.address, 0).await.is_served().await
}

/// A registry whose store answers nothing, with a request of each of these under way: the last byte
/// of its address, and the number of its key.
async fn stuck(
    modern: Modern,
    askers: &[(u8, usize)],
) -> (Running, Vec<JoinHandle<Asked<v2::Node>>>) {
    let engine = Rigged::new(Mood::Stuck);
    let config = Config { modern, connections: patient(), ..Config::default() };
    let server = Running::with(engine.clone(), config).await;
    let mut asking = Vec::new();
    for (host, number) in askers {
        let mut caller = Caller::from(*host, server.address, *number).await;
        asking.push(tokio::spawn(async move { caller.register(&[]).await }));
        soon(engine.asked.notified()).await;
    }
    (server, asking)
}

#[tokio::test]
async fn no_more_requests_are_under_way_of_a_key_or_an_address_or_in_all_than_may_be() {
    let modern = Modern {
        requests_per_key_max: 2,
        requests_per_address_max: 3,
        requests_max: 4,
        request: Duration::from_secs(600),
        ..Modern::default()
    };
    let (server, asking) = stuck(modern, &[(1, 0), (1, 0), (1, 1), (2, 2)]).await;
    for (host, number) in [(2, 0), (1, 2), (3, 3)] {
        let mut caller = Caller::from(host, server.address, number).await;
        limited(caller.list().await, ErrorReason::RateLimited, "requests under way");
    }
    asking.iter().for_each(JoinHandle::abort);
}

/// It will still be carried out, so it is still work, and one client can't heap that up.
#[tokio::test]
async fn a_create_that_the_store_has_not_answered_is_under_way_until_it_does() {
    let engine = Rigged::new(Mood::Late);
    let request = Duration::from_millis(100);
    let modern = Modern { requests_max: 1, request, ..Modern::default() };
    let config = Config { modern, connections: patient(), ..Config::default() };
    let server = Running::with(engine.clone(), config).await;
    engine.answer.notify_one();
    let mut caller = Caller::known(server.address, 0).await;
    refused(caller.create("alpha", 2).await, ErrorReason::StoreFailed);
    let crowded = caller.get("alpha").await;
    limited(crowded, ErrorReason::RateLimited, "requests under way");
    engine.answer.notify_one();
    soon(async { while caller.get("alpha").await.is_err() {} }).await;
}

#[tokio::test]
async fn a_request_that_the_store_does_not_answer_ends_in_time() {
    let request = Duration::from_millis(100);
    let modern = Modern { requests_max: 1, request, ..Modern::default() };
    let (server, asking) = stuck(modern, &[(1, 0)]).await;
    for asking in asking {
        refused(asking.await.unwrap(), ErrorReason::StoreFailed);
    }
    assert!(Caller::from(1, server.address, 1).await.is_served().await, "the place is free");
}
