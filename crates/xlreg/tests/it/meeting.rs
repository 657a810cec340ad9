//! Members meet: everybody gets the same complete roster, or an error that says who is missing.

use std::time::Duration;

use tokio::task::JoinSet;
use xlreg::{ClusterKey, Dialect, Error};

use crate::support::{ENOUGH, Running, by_name, cluster, endpoint, identity, name, names};

#[tokio::test]
async fn a_cluster_comes_into_being_in_both_dialects() {
    let server = Running::in_memory().await;
    for (dialect, title) in [(Dialect::V1_8, "alpha"), (Dialect::V1_9, "beta")] {
        let registry = server.registry.clone().with_dialect(dialect);
        let (a, b, other) = (identity("a").await, identity("b").await, identity("other").await);
        let made = registry.create(&other, &cluster(title, 2)).await.unwrap();
        assert_eq!((made.size, made.endpoint_count), (2, 1));
        let again = registry.create(&other, &cluster(title, 64)).await.unwrap();
        assert_eq!(again, made, "the cluster that has the name");

        let mut in_a = registry.join(&a, &by_name(title), vec![endpoint(4001)]).await.unwrap();
        let early = in_a.roster().await.unwrap();
        assert!(!early.is_complete());
        assert_eq!(names(&early), ["a"]);
        let by_id = ClusterKey::Id(made.id);
        let mut in_b = registry.join(&b, &by_id, vec![endpoint(4002)]).await.unwrap();
        assert_eq!((in_b.cluster(), Some(in_b.id())), (made.id, b.id()));

        let roster = in_a.wait(ENOUGH).await.unwrap();
        assert_eq!(in_b.wait(ENOUGH).await.unwrap(), roster);
        assert_eq!(registry.show(&other, &by_name(title)).await.unwrap(), roster);
        assert_eq!(registry.show(&other, &by_id).await.unwrap(), roster);
        assert_eq!(registry.wait(&other, &by_name(title), ENOUGH).await.unwrap(), roster);
        assert_eq!(roster.name, Some(name(title)));
        assert_eq!(names(&roster), ["a", "b"]);
        assert_eq!(roster.members[1].endpoints, [endpoint(4002)]);
        assert_eq!(roster.members[1].comms_key, *b.comms_key());
        assert_eq!(roster.rank_of_key(b.sig_key(), b.name()), Some(1));
        in_a.close().await;
        in_b.close().await;
    }
}

#[tokio::test]
async fn a_registry_says_who_it_is() {
    let server = Running::in_memory().await;
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let registry = server.registry.clone().with_dialect(dialect);
        let (version, entry) = registry.describe().await.unwrap();
        let credentials = registry.credentials();
        assert_eq!((version, &entry.name), (credentials.version, &credentials.name));
        assert_eq!(entry.sig_key, credentials.sig_key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_members_who_come_at_once_all_get_the_same_roster() {
    let server = Running::in_memory().await;
    server.registry.create(&identity("maker").await, &cluster("alpha", 8)).await.unwrap();
    let mut members = JoinSet::new();
    for number in 0..8u16 {
        let dialect = if number % 2 == 0 { Dialect::V1_8 } else { Dialect::V1_9 };
        let registry = server.registry.clone().with_dialect(dialect);
        members.spawn(async move {
            let me = identity(&format!("m{number}")).await;
            let mine = vec![endpoint(4000 + number)];
            let mut membership = registry.join(&me, &by_name("alpha"), mine).await.unwrap();
            membership.wait(ENOUGH).await.unwrap()
        });
    }
    let rosters = members.join_all().await;
    assert!(rosters.iter().all(|roster| *roster == rosters[0]));
    assert!(rosters[0].is_complete());
    let mut all = names(&rosters[0]);
    all.sort_unstable();
    assert_eq!(all, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"]);
}

/// Held lookups tell of each joiner as it comes, so the error knows who did.
#[tokio::test]
async fn a_wait_that_is_too_short_tells_who_came_and_how_many_are_missing() {
    let server = Running::in_memory().await;
    let maker = identity("maker").await;
    server.registry.create(&maker, &cluster("alpha", 3)).await.unwrap();
    let at_most = Duration::from_millis(700);
    let cluster = by_name("alpha");

    let nobody = server.registry.wait(&maker, &cluster, at_most).await;
    let Err(Error::Incomplete(nobody)) = nobody else { panic!("{nobody:?}") };
    assert_eq!((nobody.size, nobody.joined.len()), (3, 0));

    let mut a =
        server.registry.join(&identity("a").await, &cluster, vec![endpoint(1)]).await.unwrap();
    let _b = server.registry.join(&identity("b").await, &cluster, vec![endpoint(2)]).await.unwrap();
    let outside = server.registry.wait(&maker, &cluster, at_most).await;
    for waited in [a.wait(at_most).await, outside] {
        let Err(Error::Incomplete(incomplete)) = waited else { panic!("{waited:?}") };
        assert_eq!((incomplete.cluster.as_str(), incomplete.size), ("alpha", 3));
        assert_eq!(incomplete.joined, [name("a"), name("b")]);
        assert_eq!(incomplete.silence, None);
        assert!(incomplete.waited >= at_most / 2, "{incomplete}");
        assert!(incomplete.to_string().contains("still missing 1; joined: a, b"), "{incomplete}");
    }
    // The membership outlives the wait: the same one sees the cluster fill.
    let _c = server.registry.join(&identity("c").await, &cluster, vec![endpoint(3)]).await.unwrap();
    assert_eq!(names(&a.wait(ENOUGH).await.unwrap()), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_wait_of_no_time_is_incomplete_and_one_of_all_time_is_none() {
    let server = Running::in_memory().await;
    let (a, cluster) = (identity("a").await, by_name("alpha"));
    server.registry.create(&a, &crate::support::cluster("alpha", 2)).await.unwrap();
    let mut membership = server.registry.join(&a, &cluster, vec![endpoint(1)]).await.unwrap();
    let waited = membership.wait(Duration::ZERO).await;
    assert!(matches!(waited, Err(Error::Incomplete(_))), "{waited:?}");
    let _b = server.registry.join(&identity("b").await, &cluster, vec![endpoint(2)]).await.unwrap();
    assert!(membership.wait(Duration::MAX).await.unwrap().is_complete());
    assert!(server.registry.wait(&a, &cluster, Duration::MAX).await.unwrap().is_complete());
}

#[tokio::test]
async fn who_comes_back_with_another_endpoint_has_the_same_rank_and_everyone_the_new_endpoint() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let cluster = by_name("alpha");
    let (a, b, c) = (identity("a").await, identity("b").await, identity("c").await);
    registry.create(&a, &crate::support::cluster("alpha", 3)).await.unwrap();
    let crashed = registry.join(&a, &cluster, vec![endpoint(4001)]).await.unwrap();
    let mut in_b = registry.join(&b, &cluster, vec![endpoint(4002)]).await.unwrap();
    assert_eq!(in_b.roster().await.unwrap().members[0].endpoints, [endpoint(4001)]);
    // It waits, and so has seen the old endpoint, while the member comes back.
    assert!(in_b.wait(Duration::from_millis(50)).await.is_err());
    drop(crashed);
    let mut in_a = registry.join(&a, &cluster, vec![endpoint(5001)]).await.unwrap();
    let mut in_c = registry.join(&c, &cluster, vec![endpoint(4003)]).await.unwrap();
    for membership in [&mut in_a, &mut in_b, &mut in_c] {
        let roster = membership.wait(ENOUGH).await.unwrap();
        assert_eq!(names(&roster), ["a", "b", "c"]);
        assert_eq!(roster.members[0].endpoints, [endpoint(5001)]);
    }
    let late = registry.join(&a, &cluster, vec![endpoint(6001)]).await.unwrap();
    assert_eq!(Some(late.id()), a.id(), "a full cluster has room for its own members");
    let shown = registry.show(&b, &cluster).await.unwrap();
    assert_eq!(shown.members[0].endpoints, [endpoint(6001)]);
}
