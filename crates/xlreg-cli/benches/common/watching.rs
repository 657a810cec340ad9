//! Watchers by the thousand.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use xlreg::{ClusterKey, Identity, News, Registry, Watch};

/// Watchers that connect at a time.
const AT_ONCE: usize = 32;

/// So many watchers of a cluster, each on a connection of its own, that have heard how it is.
pub(crate) async fn watchers(
    registry: &Registry,
    identity: &Identity,
    cluster: &ClusterKey,
    count: usize,
) -> Vec<Watch> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut connecting = JoinSet::new();
    for _ in 0..count {
        let (room, registry, identity) = (Arc::clone(&room), registry.clone(), identity.clone());
        let cluster = cluster.clone();
        connecting.spawn(async move {
            let _permit = room.acquire_owned().await.unwrap();
            let mut watch = registry.watch(&identity, &cluster).await.unwrap();
            assert!(matches!(watch.next().await.unwrap(), News::Snapshot(_)));
            watch
        });
    }
    connecting.join_all().await
}
