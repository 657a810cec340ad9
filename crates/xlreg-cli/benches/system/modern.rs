//! The modern door: what a session costs the server, and how fast and how many watchers hear news.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use xlreg::{ClusterKey, Identity, Name, NewCluster, News, Registry};

use crate::joining::{self, By, anew};
use crate::server::{Server, rsa_private_operation};
use crate::watching::watchers;

/// Sessions that are measured, of each kind: as many for each of sixteen clients.
const SESSIONS: usize = 3_200;

/// Watchers of one cluster, as many as it can have members, and changes they are told of.
const WATCHERS: usize = 64;
const CHANGES: usize = 300;

/// Watchers of one server, all on connections of their own.
const IDLE_WATCHERS: usize = 10_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn cluster(text: &str) -> ClusterKey {
    ClusterKey::Name(name(text))
}

/// The server's CPU for connect, handshake, Register, Join and close, in RSA private operations.
pub(crate) fn sessions() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let identity = runtime.block_on(Identity::generate(name("bench"))).unwrap();
    let shared = Registry::new(server.credentials.clone());
    let alpha = NewCluster::open(name("alpha"), 64, 1);
    // By its ID, since a name would have to be asked about: Register and Join are all.
    let alpha = ClusterKey::Id(runtime.block_on(shared.create(&identity, &alpha)).unwrap().id);
    let kinds: [(_, By); 2] = [("full handshake", anew), ("resumed", Registry::clone)];
    for (label, by) in kinds {
        for at_a_time in [1, 16] {
            let clients = runtime.block_on(joining::clients(&shared, &identity, &alpha, at_a_time));
            // Before and after, since the machine's speed drifts.
            let before = rsa_private_operation();
            let cpu = server.cpu("");
            runtime.block_on(joining::hold(&clients, by, &identity, &alpha, SESSIONS));
            let each = (server.cpu("") - cpu) / SESSIONS as f64;
            let rsa = f64::midpoint(before, rsa_private_operation());
            println!(
                "{label:<14}, {at_a_time:>2} at a time: {:.3} ms CPU a session; an RSA private operation \
                 takes {:.3}: ratio {:.2}",
                each * 1e3,
                rsa * 1e3,
                each / rsa
            );
        }
    }
}

/// From a change's answer to each of 64 watchers' having been told.
pub(crate) fn news() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let registry = Registry::new(server.credentials.clone());
    let spread = runtime.block_on(async {
        let identity = Identity::generate(name("bench")).await.unwrap();
        registry.create(&identity, &NewCluster::open(name("alpha"), 64, 1)).await.unwrap();
        let endpoint = |change: usize| vec![format!("127.0.0.1:{}", 1 + change).parse().unwrap()];
        let joined = registry.join(&identity, &cluster("alpha"), endpoint(0)).await.unwrap();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..WATCHERS {
            let mut watch = registry.watch(&identity, &cluster("alpha")).await.unwrap();
            let told = told.clone();
            tokio::spawn(async move {
                while let Ok(news) = watch.next().await {
                    if matches!(news, News::Change(_) | News::Snapshot(_)) {
                        told.send(Instant::now()).unwrap();
                    }
                }
            });
        }
        for _ in 0..WATCHERS {
            heard.recv().await.unwrap();
        }
        let mut spread = Vec::new();
        for change in 1..=CHANGES {
            let began = Instant::now();
            registry
                .update_endpoints(&identity, &cluster("alpha"), &endpoint(change))
                .await
                .unwrap();
            let answered = Instant::now();
            for _ in 0..WATCHERS {
                let at = heard.recv().await.unwrap();
                spread.push((at.saturating_duration_since(answered), at - began));
            }
        }
        joined.close().await;
        spread
    });
    for (label, mut times) in [
        ("the change's answer", spread.iter().map(|times| times.0).collect::<Vec<_>>()),
        ("asking for the change", spread.iter().map(|times| times.1).collect()),
    ] {
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{WATCHERS} watchers, {CHANGES} changes: from {label} to a watcher's hearing of it, median {:.2} ms, \
             p99 {:.2} ms, worst {:.2} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// What a watcher costs that hears nothing, and whether all of them hear of one change at last.
pub(crate) fn idle_watchers() {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let registry = Registry::new(server.credentials.clone());
    runtime.block_on(async {
        let identity = Identity::generate(name("bench")).await.unwrap();
        registry.create(&identity, &NewCluster::open(name("alpha"), 2, 1)).await.unwrap();
        let before = server.memory();
        let began = Instant::now();
        let watches = watchers(&registry, &identity, &cluster("alpha"), IDLE_WATCHERS).await;
        let memory = server.memory();
        println!(
            "{IDLE_WATCHERS} watchers, connected in {:.1} s: {:.0} MB in all, {:.1} KiB each",
            began.elapsed().as_secs_f64(),
            memory / 1e6,
            (memory - before) / IDLE_WATCHERS as f64 / 1024.0
        );
        let (cpu, idle) = (server.cpu(""), Duration::from_secs(10));
        tokio::time::sleep(idle).await;
        let busy = (server.cpu("") - cpu) / idle.as_secs_f64();
        println!("while nothing happens: {:.1} % of a core", busy * 100.0);
        let began = Instant::now();
        let endpoints = vec!["127.0.0.1:4000".parse().unwrap()];
        registry.join(&identity, &cluster("alpha"), endpoints).await.unwrap().close().await;
        let mut hearing = JoinSet::new();
        for mut watch in watches {
            hearing.spawn(async move {
                loop {
                    if matches!(watch.next().await.unwrap(), News::Change(_)) {
                        return;
                    }
                }
            });
        }
        let mut heard = 0;
        while let Some(Ok(())) = hearing.join_next().await {
            heard += 1;
        }
        println!(
            "one change: {heard} of {IDLE_WATCHERS} heard of it, the last after {:.2} s; then {:.0} MB",
            began.elapsed().as_secs_f64(),
            server.memory() / 1e6
        );
        assert_eq!(heard, IDLE_WATCHERS);
    });
}
