//! What a member keeps: the roster as JSON, and as the original library keeps it.

use std::sync::Arc;

use xlreg::{Error, Identity};
use xlreg_core::Member;
use xlreg_proto::text::MemberFile;

use crate::support::{ENOUGH, Running, by_name, cluster, endpoint, identity, name};

#[tokio::test]
async fn a_kept_roster_reads_back_as_the_same_members() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let dir = tempfile::tempdir().unwrap();
    let me = Identity::load_or_create(dir.path(), name("me")).await.unwrap();
    registry.create(&me, &cluster("alpha", 2)).await.unwrap();
    let (other, theirs) = (identity("other").await, vec![endpoint(4001)]);
    registry.join(&other, &by_name("alpha"), theirs).await.unwrap();
    let mine = vec![endpoint(4002), endpoint(4003)];
    let mut membership = registry.join(&me, &by_name("alpha"), mine.clone()).await.unwrap();
    let roster = membership.wait(ENOUGH).await.unwrap();
    let path = me.keep_roster(dir.path(), &roster, registry.credentials()).await.unwrap();

    assert_eq!(path, dir.path().join("roster.json"));
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(json, roster.to_file_json());
    assert_eq!(json["cluster"], "alpha");
    assert_eq!(json["complete"], true);
    assert_eq!(json["members"][1]["endpoints"][1], "127.0.0.1:4003");

    let text = std::fs::read_to_string(dir.path().join(".xlattice/cluster.member.config")).unwrap();
    let kept = MemberFile::parse(&text).unwrap();
    let members: Vec<Member> =
        kept.members.iter().map(|member| member.to_member().unwrap()).collect();
    // That file has no place for signatures.
    let plain = |member: &Arc<Member>| Member { entry_signature: None, ..Member::clone(member) };
    assert_eq!(members, roster.members.iter().map(plain).collect::<Vec<_>>());
    assert_eq!((kept.cluster_name, kept.cluster_id.cluster_id()), (name("alpha"), Some(roster.id)));
    assert_eq!((kept.cluster_max_size, kept.endpoint_count, kept.self_index), (2, 1, 1));
    assert_eq!((kept.node.name, kept.node.id.node_id()), (name("me"), me.id()));
    assert_eq!(kept.node.endpoints, mine);
    assert_eq!(kept.node.sig_key.public(), me.sig_key());
    assert_eq!(kept.node.peers[0].comms_key, registry.credentials().comms_key);

    // The identity beside it stands, and keeping a roster again replaces the one before.
    assert_eq!(Identity::load(dir.path()).await.unwrap().id(), me.id());
    me.keep_roster(dir.path(), &roster, registry.credentials()).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn what_holds_private_keys_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = Running::in_memory().await;
    server.people("alpha", 2, 1).await;
    let me = identity("me").await;
    let mut membership =
        server.registry.join(&me, &by_name("alpha"), vec![endpoint(4001)]).await.unwrap();
    let roster = membership.wait(ENOUGH).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    me.keep_roster(dir.path(), &roster, server.registry.credentials()).await.unwrap();
    let path = dir.path().join(".xlattice/cluster.member.config");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Who only looked has no membership to keep.
#[tokio::test]
async fn an_outsider_keeps_the_roster_alone() {
    let server = Running::in_memory().await;
    server.people("alpha", 2, 2).await;
    let looker = identity("looker").await;
    let roster = server.registry.show(&looker, &by_name("alpha")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    looker.keep_roster(dir.path(), &roster, server.registry.credentials()).await.unwrap();
    assert!(dir.path().join("roster.json").exists());
    assert!(!dir.path().join(".xlattice").exists());
}

#[tokio::test]
async fn a_place_that_can_not_be_written_is_named() {
    let server = Running::in_memory().await;
    server.people("alpha", 2, 2).await;
    let looker = identity("looker").await;
    let roster = server.registry.show(&looker, &by_name("alpha")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let kept = looker.keep_roster(&file, &roster, server.registry.credentials()).await;
    let Err(error @ Error::Identity(_)) = kept else { panic!("{kept:?}") };
    assert!(error.to_string().contains("roster.json"), "{error}");
}
