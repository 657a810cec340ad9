//! Who follows a cluster sees its latest state, and never sleeps through it.

use std::sync::Arc;

use tokio::sync::watch;
use xlreg_core::Cluster;
use xlreg_core::limits::Limits;
use xlreg_store::{Engine, LocalEngine};

use crate::support::{both, cluster_id, create, join, open, register};

/// Waits for the full roster as a session does; a lost wake-up would make it wait for ever.
async fn until_full(mut receiver: watch::Receiver<Arc<Cluster>>) -> Arc<Cluster> {
    let mut revision = 0;
    loop {
        let cluster = Arc::clone(&receiver.borrow_and_update());
        assert!(cluster.revision >= revision, "went back");
        revision = cluster.revision;
        if cluster.is_complete() {
            return cluster;
        }
        receiver.changed().await.unwrap();
    }
}

/// Followers who come at any moment, before, between and after the joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_follower_misses_the_last_change() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()).map(Arc::new) {
        for round in 0..40 {
            let name = format!("c{round}");
            engine.apply(create(&name, 8, round)).await.unwrap();
            let mut followers = Vec::new();
            let mut joins = Vec::new();
            for number in 0..8 {
                let (one, other) = (Arc::clone(&engine), Arc::clone(&engine));
                let command = join(&name, number);
                joins.push(tokio::spawn(async move { one.apply(command).await }));
                followers.push(tokio::spawn(async move {
                    until_full(other.watch(&cluster_id(round)).unwrap()).await
                }));
            }
            for join in joins {
                join.await.unwrap().unwrap();
            }
            for follower in followers {
                assert_eq!(follower.await.unwrap().seats.len(), 8);
            }
        }
    }
}

/// A change is told by the time it is answered, and what is no change is not told.
#[tokio::test]
async fn each_change_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()) {
        engine.apply(create("alpha", 3, 1)).await.unwrap();
        let mut receiver = engine.watch(&cluster_id(1)).unwrap();
        assert!(receiver.borrow_and_update().seats.is_empty());
        for number in 0..3 {
            engine.apply(join("alpha", number)).await.unwrap();
            assert!(receiver.has_changed().unwrap());
            assert_eq!(receiver.borrow_and_update().seats.len(), number as usize + 1);
        }
        engine.apply(join("alpha", 0)).await.unwrap();
        engine.apply(join("alpha", 9)).await.unwrap_err();
        engine.apply(register(1)).await.unwrap();
        assert!(!receiver.has_changed().unwrap());
    }
}

#[tokio::test]
async fn there_is_nothing_to_follow_of_an_unknown_cluster() {
    let engine = LocalEngine::in_memory(Limits::default());
    assert!(engine.watch(&cluster_id(1)).is_none());
}

#[tokio::test]
async fn followers_learn_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()) {
        engine.apply(create("alpha", 3, 1)).await.unwrap();
        let mut receiver = engine.watch(&cluster_id(1)).unwrap();
        engine.close().await.unwrap();
        assert!(receiver.changed().await.is_err());
        assert!(engine.watch(&cluster_id(1)).is_none());
    }
}

/// After a restart followers start from what was kept.
#[tokio::test]
async fn a_follower_after_a_restart_sees_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.apply(create("alpha", 3, 1)).await.unwrap();
    engine.apply(join("alpha", 0)).await.unwrap();
    drop(engine);
    let receiver = open(dir.path()).watch(&cluster_id(1)).map(|now| now.borrow().seats.len());
    assert_eq!(receiver, Some(1));
}
