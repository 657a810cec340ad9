//! Many at once: promises hold under any race.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use xlreg_core::{Command, Outcome, Refusal};
use xlreg_store::{ApplyError, Engine, LocalEngine};

use crate::support::{both, create, find, join, node_id, open, print, register};

/// Exactly as many as declared, each with a rank of its own, however many come at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn joins_never_exceed_the_size() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()).map(Arc::new) {
        engine.apply(create("alpha", 10, 1)).await.unwrap();
        let ranks = race_to_join(&engine, 200).await;
        assert!(ranks.keys().copied().eq(0..10), "{ranks:?}");
        let cluster = find(&*engine, "alpha").await;
        assert_eq!((cluster.seats.len(), cluster.revision), (10, 10));
        for (rank, number) in &ranks {
            assert_eq!(cluster.seats[*rank].holder().unwrap().id, node_id(*number));
        }
    }
    let again = open(dir.path());
    let cluster = find(&again, "alpha").await;
    assert_eq!(cluster.seats.len(), 10);
    assert_eq!(again.counts().members, 10);
}

/// Who joined, by rank.
async fn race_to_join(engine: &Arc<LocalEngine>, contenders: u32) -> BTreeMap<usize, u32> {
    let mut tasks = JoinSet::new();
    for number in 0..contenders {
        let engine = Arc::clone(engine);
        tasks.spawn(async move { (number, engine.apply(join("alpha", number)).await) });
    }
    let mut ranks = BTreeMap::new();
    for (number, answer) in tasks.join_all().await {
        match answer {
            Ok(Outcome::Joined { rank, .. }) => {
                assert_eq!(ranks.insert(rank, number), None, "rank {rank} was given twice");
            }
            Err(ApplyError::Refused(Refusal::ClusterFull { size: 10 })) => {}
            other => panic!("{other:?}"),
        }
    }
    ranks
}

/// One ID that many keys ask for goes to one of them, and stays there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_id_goes_to_one_key_only() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()).map(Arc::new) {
        let claim = |sig| Command::Register {
            claimed: Some(node_id(1)),
            fresh: node_id(2),
            sig_key: print(sig),
            comms_key: None,
        };
        let mut tasks = JoinSet::new();
        for sig in 0..100 {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move { (sig, engine.apply(claim(sig)).await.is_ok()) });
        }
        let answers = tasks.join_all().await;
        let winners: Vec<_> = answers.iter().filter(|(_, won)| *won).collect();
        assert_eq!(winners.len(), 1);
        assert!(engine.apply(claim(winners[0].0)).await.is_ok());
        assert_eq!(engine.counts().nodes, 1);
    }
}

/// What was answered can be seen at once, by everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_was_answered_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    for engine in both(dir.path()).map(Arc::new) {
        let mut tasks = JoinSet::new();
        for number in 0..50 {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move {
                let name = format!("c{number}");
                engine.apply(create(&name, 2, number)).await.unwrap();
                for member in 0..2 {
                    engine.apply(join(&name, member)).await.unwrap();
                    let seen = find(&*engine, &name).await;
                    assert_eq!(seen.seats.len(), member as usize + 1);
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(engine.counts().members, 100);
    }
}

/// A task that gives up takes nothing with it: the others are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_that_gives_up_costs_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(dir.path()));
    let mut tasks = JoinSet::new();
    for number in 0..400 {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move {
            if number % 2 == 0 {
                // Polled once, so as to be queued, then dropped.
                let mut apply = engine.apply(register(number));
                std::future::poll_fn(|context| {
                    let _ = apply.as_mut().poll(context);
                    std::task::Poll::Ready(())
                })
                .await;
            } else {
                engine.apply(register(number)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    engine.close().await.unwrap();
    assert!(engine.counts().nodes >= 200);
}
