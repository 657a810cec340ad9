//! Nothing acknowledged is lost: `kill -9` under load, again and again.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use xlreg::{ClusterKey, Error, Identity, Name, NewCluster, NodeId, Registry};

use crate::support::{Server, World, own_address};

const MEMBERS: usize = 4;
const KILLS: usize = 5;
const ACKNOWLEDGED_PER_LIFE: usize = 12;

/// A membership that the registry has confirmed.
struct Acknowledged {
    cluster: Name,
    member: Name,
    id: NodeId,
}

#[test]
fn whatever_was_acknowledged_before_a_kill_is_there_after_it() {
    let world = World::new();
    let runtime = Runtime::new().unwrap();
    let mut server = world.serve(&["--listen", &own_address(), "--data", "d"]);
    let address = server.address.to_string();
    let (tell, told) = channel();
    let mut members = JoinSet::new();
    for number in 0..MEMBERS {
        let credentials = server.credentials.clone();
        let tell = tell.clone();
        members
            .spawn_on(async move { join_on(number, &credentials, &tell).await }, runtime.handle());
    }
    drop(tell);

    let mut acknowledged = Vec::new();
    for _ in 0..KILLS {
        collect(&told, &mut acknowledged);
        server.running.kill();
        server = world.serve(&["--listen", &address, "--data", "d"]);
    }
    collect(&told, &mut acknowledged);
    members.abort_all();
    runtime.block_on(async { while members.join_next().await.is_some() {} });
    // What came after the last kill counts as well.
    acknowledged.extend(told.try_iter());
    runtime.block_on(look_for(&server, &acknowledged));
    server.stop();
}

fn collect(told: &Receiver<Acknowledged>, acknowledged: &mut Vec<Acknowledged>) {
    for _ in 0..ACKNOWLEDGED_PER_LIFE {
        acknowledged.push(told.recv_timeout(Duration::from_secs(60)).unwrap());
    }
}

/// One after another, clusters of its own, each joined as soon as it is there.
async fn join_on(number: usize, credentials: &Path, tell: &Sender<Acknowledged>) {
    let registry = Registry::open(credentials).unwrap();
    let member: Name = format!("m{number}").parse().unwrap();
    let identity = Identity::generate(member.clone()).await.unwrap();
    for round in 0.. {
        let cluster: Name = format!("c{number}_{round}").parse().unwrap();
        match found(&registry, &identity, &cluster).await {
            Ok(id) => {
                if tell.send(Acknowledged { cluster, member: member.clone(), id }).is_err() {
                    return;
                }
            }
            Err(error) if error.is_transient() => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn found(registry: &Registry, identity: &Identity, cluster: &Name) -> Result<NodeId, Error> {
    let new = NewCluster::open(cluster.clone(), 2, 1);
    registry.create(identity, &new).await?;
    let endpoints = vec!["127.0.0.1:4001".parse().unwrap()];
    let key = ClusterKey::Name(cluster.clone());
    Ok(registry.join(identity, &key, endpoints).await?.id())
}

async fn look_for(server: &Server, acknowledged: &[Acknowledged]) {
    let registry = Registry::open(&server.credentials).unwrap();
    let identity = Identity::generate("onlooker".parse().unwrap()).await.unwrap();
    assert!(acknowledged.len() >= KILLS * ACKNOWLEDGED_PER_LIFE);
    for Acknowledged { cluster, member, id } in acknowledged {
        let roster = registry.show(&identity, &ClusterKey::Name(cluster.clone())).await.unwrap();
        let there = roster.members.iter().any(|m| m.name == *member && m.id == *id);
        assert!(there, "{member} was acknowledged in {cluster}, and is gone");
    }
}
