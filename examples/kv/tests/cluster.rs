//! The store as a cluster: first with members in this process, then as real programs. Members are
//! killed, paused and come back, and nothing that was acknowledged is lost.
//!
//! The two modules show the two ways to test a program. In process is faster and can be debugged;
//! the real thing is what will be deployed. What both have in common is below.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

use kv::ask;
use xlreg::testing::{TestCluster, TestError};

/// Sends a client's request to the member of this rank.
async fn request(cluster: &TestCluster, rank: usize, request: &str) -> String {
    let answer = ask(&cluster.member(rank).address(0).to_string(), request).await;
    answer.unwrap_or_else(|error| panic!("{request:?} to member {rank}: {error}"))
}

/// What the member has in its own copy, whatever the others have.
async fn own_copy(cluster: &TestCluster, rank: usize, key: &str) -> Option<String> {
    let entry = request(cluster, rank, &format!("READ {key}")).await;
    entry.split(' ').nth(3).map(str::to_owned)
}

/// The life of a cluster of three, whatever its members are.
async fn survives_a_killed_member(cluster: &TestCluster) -> Result<(), TestError> {
    cluster.wait_ready().await?;
    assert_eq!(request(cluster, 0, "GET color").await, "NONE");
    assert_eq!(request(cluster, 0, "SET color red").await, "OK");
    assert_eq!(request(cluster, 1, "GET color").await, "VALUE red");

    // Two of three are a majority, so they go on.
    cluster.kill(2).await?;
    assert_eq!(request(cluster, 1, "GET color").await, "VALUE red");
    assert_eq!(request(cluster, 1, "SET color blue").await, "OK");
    assert_eq!(request(cluster, 0, "GET color").await, "VALUE blue");

    // The third comes back as who it was, with what it had, and learns what it has missed.
    cluster.restart(2).await?;
    cluster.wait_ready().await?;
    assert_eq!(request(cluster, 2, "GET color").await, "VALUE blue");

    // Now it can stand in for another.
    cluster.kill(0).await?;
    assert_eq!(request(cluster, 2, "GET color").await, "VALUE blue");

    // One of three is no majority, and must not act as if it were.
    cluster.kill(1).await?;
    let alone = request(cluster, 2, "SET color green").await;
    assert_eq!(alone, "ERR 1 of 3 members answer");
    Ok(())
}

mod in_process {
    use kv::Config;
    use kv::node::Node;
    use xlreg::testing::{TestCluster, TestError, TestMember};

    use super::{own_copy, request};

    /// A member of the store, made of what the test cluster gives it.
    async fn serve(member: TestMember) {
        let address = |member: &xlreg::Member| member.endpoints[0].to_string();
        let config = Config {
            rank: member.rank(),
            members: member.roster().members.iter().map(|member| address(member)).collect(),
            dir: member.dir().to_owned(),
        };
        let listener = member.take_listener(0).unwrap();
        let node = Node::open(config).unwrap();
        tokio::try_join!(node.serve(listener), node.catch_up()).unwrap();
    }

    #[tokio::test]
    async fn it_survives_a_killed_member() -> Result<(), TestError> {
        let cluster = TestCluster::builder().size(3).serve(serve).start().await?;
        super::survives_a_killed_member(&cluster).await?;
        cluster.stop().await
    }

    /// A paused member is worse than a dead one: it takes connections, and says nothing.
    #[tokio::test]
    async fn it_does_not_wait_for_a_paused_member() -> Result<(), TestError> {
        let cluster = TestCluster::builder().size(5).serve(serve).start().await?;
        cluster.pause(3).await?;
        cluster.kill(4).await?;
        assert_eq!(request(&cluster, 0, "SET color red").await, "OK");
        cluster.resume(3).await?;
        assert_eq!(request(&cluster, 3, "GET color").await, "VALUE red");
        assert_eq!(own_copy(&cluster, 3, "color").await.as_deref(), Some("red"));
        cluster.stop().await
    }

    /// Clients at all members write at once. Whatever won, all give the same answer in the end.
    #[tokio::test]
    async fn all_members_agree_after_many_writes() -> Result<(), TestError> {
        let cluster = TestCluster::builder().size(3).serve(serve).start().await?;
        for round in 0..10 {
            let requests = [0, 1, 2].map(|rank| format!("SET key {round}-{rank}"));
            let [a, b, c] = &requests;
            let answers = tokio::join!(
                request(&cluster, 0, a),
                request(&cluster, 1, b),
                request(&cluster, 2, c)
            );
            assert_eq!(answers, ("OK".into(), "OK".into(), "OK".into()));
            let first = request(&cluster, 0, "GET key").await;
            assert!(first.starts_with(&format!("VALUE {round}-")), "{first} is of a round before");
            for rank in 1..3 {
                assert_eq!(request(&cluster, rank, "GET key").await, first);
            }
        }
        cluster.stop().await
    }
}

mod as_programs {
    use xlreg::testing::{Builder, TestCluster, TestError};

    /// Real processes. They say when they have caught up.
    fn programs() -> Builder {
        TestCluster::builder().command(env!("CARGO_BIN_EXE_kv")).ready("line:caught up")
    }

    #[tokio::test]
    async fn it_survives_a_killed_member() -> Result<(), TestError> {
        let cluster = programs().size(3).start().await?;
        super::survives_a_killed_member(&cluster).await?;
        cluster.stop().await
    }

    /// All at once, as in a power cut.
    #[tokio::test]
    async fn it_survives_the_death_of_all() -> Result<(), TestError> {
        let cluster = programs().size(3).start().await?;
        cluster.wait_ready().await?;
        assert_eq!(super::request(&cluster, 0, "SET color red").await, "OK");
        for rank in 0..3 {
            cluster.kill(rank).await?;
        }
        for rank in 0..3 {
            cluster.restart(rank).await?;
        }
        cluster.wait_ready().await?;
        assert_eq!(super::request(&cluster, 2, "GET color").await, "VALUE red");
        cluster.stop().await
    }
}
