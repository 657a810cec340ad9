//! Members that the test drives by itself: who they are, and what they listen on.

use std::collections::HashSet;
use std::net::TcpStream;

use tokio::task::JoinSet;
use xlreg::Identity;
use xlreg::testing::{MemberState, TestCluster, TestError, TestRegistry};

use crate::support::{answers, echo_on};

#[tokio::test]
async fn each_knows_who_and_where_it_is_and_who_the_others_are() {
    let cluster = TestCluster::builder().size(4).endpoints(2).name("alpha").start().await.unwrap();
    let roster = cluster.roster();
    assert!(roster.is_complete());
    assert_eq!(roster.title(), "alpha");
    for (rank, member) in cluster.members().enumerate() {
        assert_eq!((member.rank(), member.name().as_str()), (rank, &*format!("member_{rank}")));
        assert_eq!(member.roster(), roster);
        assert_eq!(roster.rank(&member.id()), Some(rank));
        assert_eq!(roster.rank_of_key(member.identity().sig_key(), member.name()), Some(rank));
        assert_eq!(member.endpoints(), roster.members[rank].endpoints);
        assert_eq!(member.endpoints()[1].to_string(), member.address(1).to_string());
        let peers: Vec<_> = member.peers().map(|(rank, peer)| (rank, peer.id)).collect();
        assert_eq!(peers.len(), 3);
        assert!(peers.iter().all(|(peer, id)| roster.rank(id) == Some(*peer) && *peer != rank));

        // What is in its directory is what a program would find there.
        let kept = Identity::load(member.dir()).await.unwrap();
        assert_eq!(kept.sig_key(), member.identity().sig_key());
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(member.roster_file()).unwrap()).unwrap();
        assert_eq!(json, roster.to_file_json());
        // And the registry still knows it.
        let known = cluster.registry().show(&kept, &xlreg::ClusterKey::Id(roster.id)).await;
        assert_eq!(known.unwrap().members, roster.members);
    }
    let keys = cluster.members().flat_map(|member| {
        [member.identity().sig_key().clone(), member.identity().comms_key().clone()]
    });
    assert_eq!(keys.map(|key| key.fingerprint()).collect::<HashSet<_>>().len(), 8);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn connections_wait_before_a_listener_is_taken_and_it_is_taken_once() {
    let cluster = TestCluster::builder().size(2).start().await.unwrap();
    let member = cluster.member(1);
    let _early = TcpStream::connect(member.address(0)).unwrap();
    let listener = member.take_listener(0).unwrap();
    listener.accept().await.unwrap();
    for number in [0, 1] {
        let error = cluster.member(1).take_listener(number).unwrap_err();
        assert!(matches!(error, TestError::NoListener { .. }), "{error}");
    }
    let outside = {
        let member = cluster.member(0);
        std::thread::spawn(move || member.take_listener(0)).join().unwrap()
    };
    assert!(matches!(outside, Err(TestError::Io { .. })), "there is no runtime");
    let listener = cluster.member(0).take_std_listener(0).unwrap();
    let _client = TcpStream::connect(cluster.member(0).address(0)).unwrap();
    listener.accept().unwrap();
}

/// The test has its own way to end a member; what is left to the cluster is to give it new
/// listeners where it was.
#[tokio::test]
async fn a_member_that_the_test_drives_gets_new_listeners() {
    let cluster = TestCluster::builder().start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(echo_on(cluster.member(0).take_listener(0).unwrap()));
    let address = cluster.member(0).address(0);
    assert!(answers(address).await);
    for refused in [cluster.kill(0).await, cluster.pause(0).await, cluster.resume(0).await] {
        assert!(matches!(refused, Err(TestError::Nothing { .. })), "{refused:?}");
    }
    let taken = cluster.restart(0).await;
    assert!(matches!(taken, Err(TestError::Io { .. })), "it still listens: {taken:?}");
    assert!(matches!(cluster.state(0), MemberState::Failed(_)));
    tasks.shutdown().await;
    assert!(!answers(address).await);
    cluster.restart(0).await.unwrap();
    tasks.spawn(echo_on(cluster.member(0).take_listener(0).unwrap()));
    assert!(answers(address).await);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn clusters_at_one_registry_are_each_their_own() {
    let registry = TestRegistry::start().await.unwrap();
    let build = || TestCluster::builder().size(2).registry(&registry);
    let (one, other) = (build().start().await.unwrap(), build().start().await.unwrap());
    assert_ne!(one.roster().id, other.roster().id);
    assert_ne!(one.roster().name, other.roster().name);
    assert_ne!(one.member(0).id(), other.member(0).id());
    let key = |cluster: &TestCluster| cluster.member(0).identity().sig_key().clone();
    assert_eq!(key(&one), key(&other), "test keys are shared");
    let fresh = build().fresh_keys().start().await.unwrap();
    assert_ne!(key(&one), key(&fresh));
}
