//! The registry goes away and comes back while members wait.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use xlreg::{Dialect, Error, Registry};
use xlreg_core::limits::Limits;
use xlreg_server::config::Connections;
use xlreg_store::LocalEngine;

use crate::support::{
    ENOUGH, Port, Running, by_name, cluster, credentials, endpoint, home, identity, name, names,
    patient,
};

/// The registry that is kept in `dir`.
pub(crate) fn serve(port: &Port, dir: &Path) -> Running {
    let engine = LocalEngine::open(dir, home().id(), Limits::default()).unwrap();
    // Stopped, it cuts sessions off as if it were killed.
    let bounds = Connections { drain: Duration::ZERO, ..patient() };
    Running::start(port.listen(), Arc::new(engine), bounds)
}

#[tokio::test]
async fn who_waits_meanwhile_reconnects_and_gets_the_roster() {
    let (port, dir) = (Port::reserve(), tempfile::tempdir().unwrap());
    let server = serve(&port, dir.path());
    let registry = server.registry.clone();
    let outsider = identity("outsider").await;
    registry.create(&outsider, &cluster("alpha", 3)).await.unwrap();

    let mut waiting = JoinSet::new();
    for (text, port) in [("a", 4001), ("b", 4002)] {
        let me = identity(text).await;
        let mut membership =
            registry.join(&me, &by_name("alpha"), vec![endpoint(port)]).await.unwrap();
        waiting.spawn(async move { membership.wait(ENOUGH).await.unwrap() });
    }
    server.stop().await;
    assert!(registry.describe().await.is_err(), "it is gone");
    let server = serve(&port, dir.path());
    let c = identity("c").await;
    let mut last = server.registry.join(&c, &by_name("alpha"), vec![endpoint(4003)]).await.unwrap();
    let roster = last.wait(ENOUGH).await.unwrap();
    assert_eq!(roster.members.len(), 3);
    assert_eq!(roster.members[2].name, name("c"), "ranks given before the restart stand");
    while let Some(waited) = waiting.join_next().await {
        assert_eq!(waited.unwrap(), roster);
    }
}

/// By either wire, and once for each silence, however often it is tried again.
#[tokio::test]
async fn a_listener_hears_of_each_silence_once() {
    for dialect in [None, Some(Dialect::V1_9)] {
        let (port, dir) = (Port::reserve(), tempfile::tempdir().unwrap());
        let server = serve(&port, dir.path());
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let registry = server.registry.clone();
        let registry = registry.with_listener(move |error| tell.send(error.to_string()).unwrap());
        let registry = match dialect {
            Some(dialect) => registry.with_dialect(dialect),
            None => registry,
        };
        let a = identity("a").await;
        registry.create(&a, &cluster("alpha", 2)).await.unwrap();
        let mut membership =
            registry.join(&a, &by_name("alpha"), vec![endpoint(4001)]).await.unwrap();
        server.stop().await;
        let gone_and_back = async {
            let why = told.recv().await.unwrap();
            let server = serve(&port, dir.path());
            let b = identity("b").await;
            registry.join(&b, &by_name("alpha"), vec![endpoint(4002)]).await.unwrap();
            (why, server)
        };
        let (roster, (why, server)) = tokio::join!(membership.wait(ENOUGH), gone_and_back);
        assert_eq!(names(&roster.unwrap()), ["a", "b"]);
        assert!(why.contains("registry"), "{why}");
        assert!(told.try_recv().is_err(), "it is told again and again");

        server.stop().await;
        let gone = async {
            told.recv().await.unwrap();
            serve(&port, dir.path())
        };
        let (roster, server) = tokio::join!(membership.wait(ENOUGH), gone);
        assert_eq!(names(&roster.unwrap()), ["a", "b"]);
        server.stop().await;
    }
}

/// A silence that is over explains nothing.
#[tokio::test]
async fn an_incomplete_wait_tells_of_the_registrys_silence_only_while_it_lasts() {
    let (port, dir) = (Port::reserve(), tempfile::tempdir().unwrap());
    let server = serve(&port, dir.path());
    let a = identity("a").await;
    server.registry.create(&a, &cluster("alpha", 2)).await.unwrap();
    let mut membership =
        server.registry.join(&a, &by_name("alpha"), vec![endpoint(4001)]).await.unwrap();
    server.stop().await;
    let silent = membership.wait(Duration::from_millis(200)).await;
    let Err(Error::Incomplete(silent)) = silent else { panic!("{silent:?}") };
    assert_eq!(silent.cluster, "alpha");
    assert!(silent.silence.is_some());

    // Gone and back again, amid a wait.
    let server = serve(&port, dir.path());
    membership.roster().await.unwrap();
    let revive = async {
        server.stop().await;
        serve(&port, dir.path())
    };
    let (again, server) = tokio::join!(membership.wait(Duration::from_secs(2)), revive);
    let Err(Error::Incomplete(again)) = again else { panic!("{again:?}") };
    assert_eq!((again.joined, again.silence), (vec![name("a")], None));

    let b = identity("b").await;
    let _b = server.registry.join(&b, &by_name("alpha"), vec![endpoint(4002)]).await.unwrap();
    assert_eq!(names(&membership.wait(ENOUGH).await.unwrap()), ["a", "b"]);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unreachable() {
    let port = Port::reserve();
    let registry = Registry::new(credentials(port.address));
    let a = identity("a").await;
    let cluster = by_name("alpha");
    for error in [
        registry.describe().await.unwrap_err(),
        registry.register(&a).await.unwrap_err(),
        registry.show(&a, &cluster).await.unwrap_err(),
        registry.wait(&a, &cluster, ENOUGH).await.unwrap_err(),
        registry.join(&a, &cluster, vec![endpoint(1)]).await.err().unwrap(),
    ] {
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&port.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn of_several_addresses_the_first_that_answers_is_taken() {
    let (dead, server) = (Port::reserve(), Running::in_memory().await);
    let mut both = server.registry.credentials().clone();
    both.endpoints.insert(0, dead.address.to_string().parse().unwrap());
    Registry::new(both).describe().await.unwrap();
}
