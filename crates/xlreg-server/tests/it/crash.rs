//! What was acknowledged is there after a crash.

use std::path::Path;
use std::sync::Arc;

use xlreg_core::NodeId;
use xlreg_core::limits::Limits;
use xlreg_proto::channel::Dialect;
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::message::Reply;
use xlreg_store::LocalEngine;

use crate::support::{Client, REGISTRY, Running, claim, create, get, join, member, names, patient};

async fn serve(dir: &Path) -> Running {
    let engine = LocalEngine::open(dir, REGISTRY, Limits::default()).unwrap();
    Running::start(Arc::new(engine), patient()).await
}

/// A copy of the files of a running registry is what a killed one leaves.
fn copy_as_crashed(from: &Path, to: &Path) {
    let entries = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = entries.collect();
    // The log, `registry.db-wal`, before the database: it might be emptied into it meanwhile.
    files.sort_by(|a, b| b.cmp(a));
    for file in files {
        std::fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

#[tokio::test]
async fn acknowledged_registrations_clusters_and_ranks_survive_a_crash() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = serve(before.path()).await;
    let mut maker = Client::known(server.address, 100).await;
    let Reply::Created(made) = maker.ask(&create("alpha", 5)).await else { panic!("created") };
    let mut members = Vec::new();
    for number in [3, 1, 4] {
        let mut member = Client::known(server.address, number).await;
        assert!(matches!(member.ask(&join("alpha")).await, Reply::Joined(_)));
        members.push(member);
    }
    copy_as_crashed(before.path(), after.path());
    drop(server);

    let server = serve(after.path()).await;
    let mut client = Client::known(server.address, 100).await;
    let Reply::Created(found) = client.ask(&create("alpha", 64)).await else { panic!("found") };
    assert_eq!(found, made, "the cluster of that name, not a new one");
    assert_eq!(names(&client.ask(&get("alpha", u64::MAX)).await), ["m3", "m1", "m4"]);

    let mut back = Client::known(server.address, 1).await;
    back.ask(&join("alpha")).await;
    let roster = back.ask(&get("alpha", 0b010)).await;
    assert_eq!(names(&roster), ["m1"], "the rank it had");

    let other = PrivateKey::generate().unwrap();
    for number in [1, 3, 4, 100] {
        let mut thief = Client::connect(server.address, Dialect::V1_8).await;
        let reply = thief.ask(&claim(number, &other)).await;
        assert_eq!(reply, Reply::Error("ID already in use".to_owned()));
    }
    let mut newcomer = Client::connect(server.address, Dialect::V1_8).await;
    let id = NodeId::from_bytes([9; 20]);
    assert_eq!(newcomer.ask(&member(9)).await, Reply::MemberOk { id, attrs: 0 });
}
