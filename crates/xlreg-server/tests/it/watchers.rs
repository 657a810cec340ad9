//! Following a cluster: every change once and in order, whoever else stands still.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use xlreg_api::convert::{self, News as Told};
use xlreg_api::v2;
use xlreg_api::v2::ErrorReason;
use xlreg_core::cluster::Gone;
use xlreg_core::limits::{CLUSTER_EVENTS_MAX, Limits};
use xlreg_core::registry::Who;
use xlreg_core::{ClusterKey, Command};
use xlreg_server::Config;
use xlreg_server::config::Modern;
use xlreg_store::{Engine, LocalEngine};

use crate::caller::{Caller, asked, reference, refused};
use crate::frames::{INITIAL_WINDOW_SIZE, Raw, WATCH_CLUSTER, WINDOW_UPDATE, call, frame};
use crate::support::{REGISTRY, Running, fill, key, make_keys, name, patient, sig_key, soon};

async fn serve(modern: Modern) -> (Arc<LocalEngine>, Running) {
    let engine = Arc::new(LocalEngine::in_memory(Limits::default()));
    let config = Config { modern, connections: patient(), ..Config::default() };
    let server = Running::with(Arc::clone(&engine) as _, config).await;
    (engine, server)
}

/// Makes as many changes of `alpha`, which has been filled: `m0` moves about.
async fn change(engine: &dyn Engine, count: u32) {
    for number in 0..count {
        let who = Who { sig_key: key().public().fingerprint(), name: Some(name("m0")) };
        let endpoints = vec![format!("127.0.0.1:{}", 5000 + number).parse().unwrap()];
        let cluster = ClusterKey::Name(name("alpha"));
        engine.apply(Command::Move { cluster, who, endpoints, signed: None }).await.unwrap();
    }
}

/// The revisions of the next changes.
async fn revisions(news: &mut crate::caller::News, count: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    for _ in 0..count {
        revisions.push(news.change().await.0);
    }
    revisions
}

/// However a watcher freezes, it loses its connection, and what it had is free for the next.
#[tokio::test]
async fn two_hundred_watchers_hear_every_change_while_frozen_ones_are_dropped() {
    const CHANGES: u32 = 100;
    make_keys(5);
    let stall = Duration::from_secs(2);
    let (engine, server) =
        serve(Modern { stall, watches_per_key_max: 200, ..Modern::default() }).await;
    fill(&*engine, "alpha", 2).await;
    let mut watchers = JoinSet::new();
    for number in 0..4 {
        let mut caller = Caller::connect(server.address, number).await;
        for _ in 0..50 {
            let mut news = caller.watch("alpha", None).await.unwrap();
            assert_eq!(news.snapshot().await.revision, 2);
            watchers.spawn(async move { revisions(&mut news, CHANGES as usize).await });
        }
    }
    let request = v2::WatchClusterRequest { cluster: reference("alpha"), after_revision: None };
    let mut frozen = Vec::new();
    // One takes not a byte; one as much as it can be sent without being asked, which is less than
    // all; and one says that it takes everything, but does not read.
    let all = i32::MAX as u32;
    for (window, streams) in [(0, 50), (10_000, 50), (all, 100)] {
        let own = [(INITIAL_WINDOW_SIZE, window)];
        let mut raw = Raw::greeted(2, server.address, 4, &own).await;
        let more = frame(WINDOW_UPDATE, 0, 0, &(all - 65_535).to_be_bytes());
        let calls = (0..streams).flat_map(|n| call(2 * n + 1, WATCH_CLUSTER, &request));
        raw.send(&more.into_iter().chain(calls).collect::<Vec<_>>()).await.unwrap();
        frozen.push(raw);
    }
    let mut same_key = Caller::connect(server.address, 4).await;
    let full = async { while same_key.watch("alpha", None).await.is_ok() {} };
    soon(full).await;

    change(&*engine, CHANGES).await;
    while let Some(told) = soon(watchers.join_next()).await {
        assert_eq!(told.unwrap(), (3..3 + u64::from(CHANGES)).collect::<Vec<_>>());
    }
    // On two connections, since one has no more than 128 streams.
    let mut once_more = Caller::connect(server.address, 4).await;
    let mut again = Vec::new();
    let all = async {
        while again.len() < 200 {
            again.extend(same_key.watch("alpha", None).await);
            again.extend(once_more.watch("alpha", None).await);
        }
    };
    soon(all).await;
    drop((again, same_key, once_more));
    for raw in frozen {
        raw.rest().await;
    }
    assert_eq!(server.stop().await.aborted, 0);
}

/// By its name it might be another by now, with revisions of its own.
#[tokio::test]
async fn a_revision_counts_only_with_the_id_of_its_cluster() {
    let (engine, server) = serve(Modern::default()).await;
    fill(&*engine, "alpha", 2).await;
    let mut caller = Caller::connect(server.address, 0).await;
    let request = v2::WatchClusterRequest { cluster: reference("alpha"), after_revision: Some(1) };
    let mut news = crate::caller::News(asked(caller.grpc.watch_cluster(request)).await.unwrap());
    assert_eq!(news.snapshot().await.revision, 2);
}

#[tokio::test]
async fn who_comes_back_hears_all_that_it_missed_and_nothing_twice() {
    let (engine, server) = serve(Modern::default()).await;
    fill(&*engine, "alpha", 2).await;
    let mut caller = Caller::connect(server.address, 0).await;
    let mut news = caller.watch("alpha", None).await.unwrap();
    assert_eq!(news.snapshot().await.revision, 2);
    change(&*engine, 3).await;
    assert_eq!(revisions(&mut news, 2).await, [3, 4]);
    drop(news);
    change(&*engine, 2).await;
    let mut news = caller.watch("alpha", Some(4)).await.unwrap();
    assert_eq!(revisions(&mut news, 3).await, [5, 6, 7]);

    // As much as is remembered; and one more, for which there is the whole cluster.
    let all = CLUSTER_EVENTS_MAX as u32;
    change(&*engine, all).await;
    let mut just = caller.watch("alpha", Some(7)).await.unwrap();
    assert_eq!(revisions(&mut just, 128).await, (8..136).collect::<Vec<_>>());
    let mut late = caller.watch("alpha", Some(6)).await.unwrap();
    let cluster = late.snapshot().await;
    assert_eq!((cluster.revision, cluster.seats.len()), (135, 2));
    // Who is up to date hears of nothing, and who is ahead of time is told what there is.
    let mut present = caller.watch("alpha", Some(135)).await.unwrap();
    let mut ahead = caller.watch("alpha", Some(136)).await.unwrap();
    assert_eq!(ahead.snapshot().await.revision, 135);
    change(&*engine, 1).await;
    for news in [&mut just, &mut late, &mut present, &mut ahead] {
        assert_eq!(revisions(news, 1).await, [136]);
    }
}

#[tokio::test]
async fn who_watches_a_quiet_cluster_hears_from_time_to_time_that_it_is_quiet() {
    let heartbeat = Duration::from_millis(20);
    let (engine, server) = serve(Modern { heartbeat, ..Modern::default() }).await;
    fill(&*engine, "alpha", 2).await;
    let mut caller = Caller::connect(server.address, 0).await;
    let mut news = caller.watch("alpha", Some(2)).await.unwrap();
    for _ in 0..3 {
        let told = soon(news.0.message()).await.unwrap().unwrap();
        assert_eq!((told.revision, told.complete), (2, true));
        assert_eq!(convert::news(&told).unwrap(), Some(Told::Heartbeat));
    }
}

#[tokio::test]
async fn a_watch_ends_when_its_cluster_is_deleted_and_there_is_none_of_what_is_not_there() {
    let (_, server) = serve(Modern::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut other = Caller::connect(server.address, 1).await;
    refused(other.watch("alpha", None).await.map(drop), ErrorReason::ClusterNotFound);
    owner.create("alpha", 2).await.unwrap();
    let mut news = other.watch("alpha", None).await.unwrap();
    news.snapshot().await;
    owner.join("alpha", "a").await.unwrap();
    owner.delete("alpha").await.unwrap();
    assert_eq!(news.change().await, (1, "a".to_owned()), "what came before the end is told");
    assert_eq!(news.next().await, Some(Told::Gone(Gone::Deleted)));
    assert_eq!(news.next().await, None);
}

/// Also for whoever begins to watch while somebody else does already.
#[tokio::test]
async fn a_snapshot_tells_who_owns_the_cluster_now() {
    let (_, server) = serve(Modern::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.create("alpha", 2).await.unwrap();
    let mut other = Caller::connect(server.address, 1).await;
    let mut early = other.watch("alpha", None).await.unwrap();
    let before = early.snapshot().await.owner;
    assert_eq!(before, Some(sig_key(0).public().fingerprint()));
    owner.rotate(sig_key(2)).await.unwrap();
    let mut late = other.watch("alpha", None).await.unwrap();
    assert_eq!(late.snapshot().await.owner, Some(sig_key(2).public().fingerprint()));
}

#[tokio::test]
async fn a_restart_loses_and_repeats_nothing() {
    async fn serve(dir: &Path) -> (Arc<LocalEngine>, Running) {
        let engine = Arc::new(LocalEngine::open(dir, REGISTRY, Limits::default()).unwrap());
        let server = Running::start(Arc::clone(&engine) as _, patient()).await;
        (engine, server)
    }
    let dir = tempfile::tempdir().unwrap();
    let (engine, server) = serve(dir.path()).await;
    fill(&*engine, "alpha", 3).await;
    let mut caller = Caller::connect(server.address, 0).await;
    let mut news = caller.watch("alpha", Some(3)).await.unwrap();
    change(&*engine, 2).await;
    assert_eq!(revisions(&mut news, 2).await, [4, 5]);
    let address = server.address;
    assert_eq!(server.stop().await.aborted, 0);
    let status = soon(news.0.message()).await.unwrap_err();
    let fault = xlreg_api::Fault::read(&status).unwrap();
    assert_eq!(fault.reason, ErrorReason::ShuttingDown);
    drop(engine);

    let (engine, server) = serve(dir.path()).await;
    assert_ne!(server.address, address);
    let mut caller = Caller::connect(server.address, 0).await;
    let mut present = caller.watch("alpha", Some(5)).await.unwrap();
    let mut behind = caller.watch("alpha", Some(4)).await.unwrap();
    let cluster = behind.snapshot().await;
    assert_eq!((cluster.revision, cluster.seats.len()), (5, 3));
    change(&*engine, 1).await;
    for news in [&mut present, &mut behind] {
        assert_eq!(revisions(news, 1).await, [6]);
    }
    let roster =
        asked(caller.grpc.get_cluster(v2::GetClusterRequest { cluster: reference("alpha") }));
    assert_eq!(roster.await.unwrap().cluster.unwrap().revision, 6);
}
