//! Following a cluster, over restarts and whatever else comes between.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use xlreg::{ClusterId, Error, EventKind, Gone, News, NodeId, Watch};
use xlreg_core::Command;
use xlreg_core::limits::Limits;
use xlreg_core::registry::Who;
use xlreg_proto::keys::random;
use xlreg_server::config::Connections;
use xlreg_store::LocalEngine;

use crate::restart::serve;
use crate::support::{
    ENOUGH, Port, Running, by_name, cluster, endpoint, identity, key, name, names, patient,
};

/// The next change, or what else there is in its place.
async fn change(watch: &mut Watch) -> (u64, EventKind, usize, String) {
    match timeout(ENOUGH, watch.next()).await.unwrap().unwrap() {
        News::Change(event) => {
            (event.revision, event.kind, event.rank, event.member.name.to_string())
        }
        other => panic!("{other:?}"),
    }
}

/// Each change is told once, whether it happens before, amid or after a restart.
#[tokio::test]
async fn five_restarts_lose_and_repeat_nothing_while_members_come_and_go() {
    let (port, dir) = (Port::reserve(), tempfile::tempdir().unwrap());
    let mut server = serve(&port, dir.path());
    let registry = server.registry.clone();
    let (looker, alpha) = (identity("looker").await, by_name("alpha"));
    registry.create(&looker, &cluster("alpha", 8)).await.unwrap();
    let mut watch = registry.watch(&looker, &alpha).await.unwrap();
    let News::Snapshot(first) = watch.next().await.unwrap() else { panic!() };
    assert_eq!((first.revision, first.seats.len()), (0, 0));

    let mut revision = 0;
    for round in 0..5usize {
        let who = identity(&format!("m{round}")).await;
        registry.join(&who, &alpha, vec![endpoint(1)]).await.unwrap();
        let stop = async {
            // The watch is in the midst of waiting, and gives it up.
            let early = timeout(Duration::from_millis(20), watch.next()).await;
            let told = early.is_ok_and(|news| matches!(news.unwrap(), News::Change(_)));
            if !told {
                change(&mut watch).await;
            }
            server.stop().await;
            assert!(timeout(Duration::from_millis(80), watch.next()).await.is_err());
            assert!(watch.silence().is_some());
            serve(&port, dir.path())
        };
        server = stop.await;
        // Before the watch is back.
        registry.leave(&who, &alpha).await.unwrap();
        registry.join(&who, &alpha, vec![endpoint(2)]).await.unwrap();
        let text = format!("m{round}");
        for kind in [EventKind::Left, EventKind::Returned] {
            let told = change(&mut watch).await;
            revision += 1;
            assert_eq!(told, (revision + round as u64 + 1, kind, round, text.clone()));
        }
    }
    let shown = registry.show(&looker, &alpha).await.unwrap();
    assert_eq!((watch.roster(), watch.cluster().revision), (shown, 15));
    registry.delete(&looker, &alpha).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), News::Gone(Some(Gone::Deleted)));
    watch.close().await;
}

/// More than a registry remembers is one snapshot; and the end is told once.
#[tokio::test]
async fn what_nobody_remembers_comes_as_a_snapshot() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    registry.create(&a, &cluster("alpha", 3)).await.unwrap();
    registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let mut watch = registry.watch(&a, &alpha).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), News::Snapshot(_)));
    for port in 2..200 {
        let move_it = Command::Move {
            cluster: alpha.clone(),
            who: Who { sig_key: a.sig_key().fingerprint(), name: None },
            endpoints: vec![endpoint(port)],
            signed: None,
        };
        server.engine.apply(move_it).await.unwrap();
    }
    let News::Snapshot(all) = timeout(ENOUGH, watch.next()).await.unwrap().unwrap() else {
        panic!("the first of the changes are forgotten");
    };
    assert_eq!((all.revision, names(&watch.roster())), (199, vec!["a"]));
    assert_eq!(watch.roster().members[0].endpoints, [endpoint(199)]);
    registry.delete(&a, &alpha).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), News::Gone(Some(Gone::Deleted)));
    assert!(matches!(watch.next().await, Err(Error::Gone { how: Some(_), .. })));
}

/// A registry that has restarted knows what is, and not how it came to be.
#[tokio::test]
async fn what_was_missed_before_a_restart_comes_as_a_snapshot() {
    let (port, dir) = (Port::reserve(), tempfile::tempdir().unwrap());
    let server = serve(&port, dir.path());
    let registry = server.registry.clone();
    let (a, b, alpha) = (identity("a").await, identity("b").await, by_name("alpha"));
    registry.create(&a, &cluster("alpha", 3)).await.unwrap();
    let mut watch = registry.watch(&a, &alpha).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), News::Snapshot(_)));
    for who in [&a, &b] {
        registry.join(who, &alpha, vec![endpoint(1)]).await.unwrap();
    }
    registry.leave(&a, &alpha).await.unwrap();
    server.stop().await;
    let _server = serve(&port, dir.path());
    let News::Snapshot(all) = timeout(ENOUGH, watch.next()).await.unwrap().unwrap() else {
        panic!("the changes are forgotten");
    };
    assert_eq!((all.revision, names(&watch.roster())), (3, vec!["b"]));
    assert_eq!(watch.roster().rank(&b.id().unwrap()), Some(1));
}

/// A registry that begins anew, in which somebody has made the cluster anew, or nobody has.
async fn forgetful(port: &Port, with_cluster: bool) -> Running {
    let engine = LocalEngine::in_memory(Limits::default());
    if with_cluster {
        let create = Command::Create {
            new: cluster("alpha", 2),
            owner: key().public().fingerprint(),
            fresh: ClusterId::from_bytes(random()),
            strict: false,
        };
        let register = Command::Register {
            claimed: None,
            fresh: NodeId::from_bytes(random()),
            sig_key: key().public().fingerprint(),
            comms_key: None,
        };
        xlreg_store::Engine::apply(&engine, register).await.unwrap();
        xlreg_store::Engine::apply(&engine, create).await.unwrap();
    }
    let bounds = Connections { drain: Duration::ZERO, ..patient() };
    Running::start(port.listen(), Arc::new(engine), bounds)
}

#[tokio::test]
async fn who_waits_joins_again_where_the_registry_has_lost_its_memory() {
    let port = Port::reserve();
    let server = forgetful(&port, true).await;
    let registry = server.registry.clone();
    let (a, b, alpha) = (identity("a").await, identity("b").await, by_name("alpha"));
    let mut in_a = registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let before = in_a.cluster();
    let come = async {
        server.stop().await;
        let server = forgetful(&port, true).await;
        let in_b = registry.join(&b, &alpha, vec![endpoint(2)]).await.unwrap();
        (server, in_b)
    };
    let (waited, (server, mut in_b)) = tokio::join!(in_a.wait(ENOUGH), come);
    let roster = waited.unwrap();
    assert_eq!(in_b.wait(ENOUGH).await.unwrap(), roster);
    assert!(roster.rank_of_key(a.sig_key(), &name("a")).is_some() && roster.is_complete());
    assert_ne!(in_a.cluster(), before);

    server.stop().await;
    let _server = forgetful(&port, false).await;
    for gone in [in_a.wait(ENOUGH).await, in_b.roster().await] {
        let error = gone.unwrap_err();
        assert!(matches!(error, Error::Gone { how: None, .. }), "{error}");
        assert!(error.to_string().contains("lost its memory"), "{error}");
    }
}
