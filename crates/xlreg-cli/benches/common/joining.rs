//! Clients that join and hang up, over and over.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use xlreg::{ClusterKey, Identity, Registry};

/// What a client holds a session with, given what it holds all of them with.
pub(crate) type By = fn(&Registry) -> Registry;

/// The same registry for somebody who has never been there: without tickets, so that each session begins
/// with a full handshake.
pub(crate) fn anew(registry: &Registry) -> Registry {
    Registry::new(registry.credentials().clone())
}

/// So many clients, each with tickets of its own, as on a machine of its own: each has been there once.
pub(crate) async fn clients(
    registry: &Registry,
    identity: &Identity,
    cluster: &ClusterKey,
    count: usize,
) -> Vec<Registry> {
    let clients: Vec<_> = (0..count).map(|_| anew(registry)).collect();
    hold(&clients, Registry::clone, identity, cluster, count).await;
    clients
}

/// What each of so many sessions took, which the clients share.
pub(crate) async fn hold(
    clients: &[Registry],
    by: By,
    identity: &Identity,
    cluster: &ClusterKey,
    sessions: usize,
) -> Vec<Duration> {
    let each = sessions / clients.len();
    let mut holding = JoinSet::new();
    for client in clients {
        let (client, identity, cluster) = (client.clone(), identity.clone(), cluster.clone());
        holding.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..each {
                let registry = by(&client);
                let endpoints = vec!["127.0.0.1:4000".parse().unwrap()];
                let began = Instant::now();
                registry.join(&identity, &cluster, endpoints).await.unwrap().close().await;
                times.push(began.elapsed());
            }
            times
        });
    }
    let mut times = Vec::new();
    while let Some(held) = holding.join_next().await {
        times.extend(held.unwrap());
    }
    times
}
