//! What the registry refuses over the old wire, and how that reads.

use xlreg::{ClusterId, ClusterKey, Dialect, Error, NodeId, Reason, Registry};
use xlreg_core::Refusal;

use crate::support::{Running, by_name, cluster, endpoint, identity, identity_of, key, new_key};

#[track_caller]
fn assert_refused(error: &Error, request: &str, expected: Refusal) {
    match error {
        Error::Refused { request: got, reason: Reason::Known(refusal) } => {
            assert_eq!((*got, *refusal), (request, expected));
        }
        other => panic!("{other}, not {expected}"),
    }
}

#[tokio::test]
async fn clusters_that_are_not_there_are_unknown() {
    let server = Running::in_memory_old().await;
    let a = identity("a").await;
    let unknown_id = ClusterKey::Id(ClusterId::from_bytes([9; 20]));
    for (cluster, expected) in
        [(by_name("nowhere"), Refusal::UnknownClusterName), (unknown_id, Refusal::UnknownClusterId)]
    {
        let joined = server.registry.join(&a, &cluster, vec![endpoint(1)]).await;
        assert_refused(&joined.err().unwrap(), "Join", expected);
        let shown = server.registry.show(&a, &cluster).await;
        assert_refused(&shown.unwrap_err(), "GetCluster", expected);
        let waited = server.registry.wait(&a, &cluster, crate::support::ENOUGH).await;
        assert_refused(&waited.unwrap_err(), "GetCluster", expected);
    }
}

#[tokio::test]
async fn a_full_cluster_has_no_room_for_one_more() {
    let server = Running::in_memory_old().await;
    server.people("full", 2, 2).await;
    let (c, mine) = (identity("c").await, vec![endpoint(4001)]);
    let joined = server.registry.join(&c, &by_name("full"), mine).await;
    assert_refused(&joined.err().unwrap(), "Join", Refusal::ClusterFull { size: 0 });
}

#[tokio::test]
async fn names_and_ids_are_their_owners() {
    let server = Running::in_memory_old().await;
    let registry = &server.registry;
    let (cluster_key, mine) = (by_name("alpha"), vec![endpoint(4001)]);
    let owner = identity("a").await;
    registry.create(&owner, &cluster("alpha", 5)).await.unwrap();
    registry.join(&owner, &cluster_key, mine.clone()).await.unwrap();

    let other = new_key();
    let namesake = identity_of("a", NodeId::from_bytes([7; 20]), &other).await;
    let joined = registry.join(&namesake, &cluster_key, mine.clone()).await;
    assert_refused(&joined.err().unwrap(), "Join", Refusal::MemberNameInUse);

    let thief = identity_of("b", owner.id().unwrap(), &other).await;
    assert_refused(&registry.register(&thief).await.unwrap_err(), "Member", Refusal::IdInUse);
    let joined = registry.join(&thief, &cluster_key, mine.clone()).await;
    assert_refused(&joined.err().unwrap(), "Member", Refusal::IdInUse);

    let renamed = owner.clone().with_name("b".parse().unwrap());
    let joined = registry.join(&renamed, &cluster_key, mine).await;
    assert_refused(&joined.err().unwrap(), "Join", Refusal::MemberIdInUse);

    let joined = registry.join(&identity("c").await, &cluster_key, vec![]).await;
    assert_refused(&joined.err().unwrap(), "Join", Refusal::NoEndpoint);
    let roster = registry.show(&owner, &cluster_key).await.unwrap();
    assert_eq!(crate::support::names(&roster), ["a"], "nothing has changed");
}

/// A registry that can't open a hello hangs up without a word, and may not do more.
#[tokio::test]
async fn credentials_of_another_registry_are_named_as_the_likely_cause() {
    let server = Running::in_memory().await;
    let mut credentials = server.registry.credentials().clone();
    credentials.comms_key = key().public().clone();
    let registry = Registry::new(credentials).with_dialect(Dialect::V1_9);
    let error = registry.describe().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("credentials") && text.contains("hello"), "{text}");
}
