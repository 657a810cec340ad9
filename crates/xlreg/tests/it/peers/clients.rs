//! Clients of a cluster: where they connect to, whom they take, and who takes them.

use std::collections::BTreeSet;

use xlreg::peers::{Clients, PeerRefused};
use xlreg::{NewCluster, NewKeys, PeerError, PeerListener, Peers};

use super::support::{accept, node, port, refusal, talk};
use crate::support::{ENOUGH, Running, by_name, name, new_key};

/// A cluster of two endpoints a member, seen by the member n0: n1 is the other one.
struct Cluster {
    server: Running,
    peers: Peers,
    /// n0's first and second endpoint.
    first: PeerListener,
    second: tokio::net::TcpListener,
}

impl Cluster {
    async fn new() -> Self {
        let server = Running::in_memory().await;
        let registry = &server.registry;
        registry.create(&node(0), &NewCluster::open(name("alpha"), 2, 2)).await.unwrap();
        let ((first, one), (second, two)) = (port().await, port().await);
        let mut own = registry.join(&node(0), &by_name("alpha"), vec![one, two]).await.unwrap();
        let ((_, one), (_, two)) = (port().await, port().await);
        registry.join(&node(1), &by_name("alpha"), vec![one, two]).await.unwrap();
        own.wait(ENOUGH).await.unwrap();
        let peers = own.peers().await.unwrap();
        let first = peers.listen(first);
        Self { server, peers, first, second }
    }

    /// A client of this number, which is registered.
    async fn client(&self, number: usize) -> Peers {
        let registry = &self.server.registry;
        registry.register(&node(number)).await.unwrap();
        Peers::follow(registry, &node(number), &by_name("alpha")).await.unwrap()
    }
}

#[tokio::test]
async fn clients_come_to_the_second_endpoint_and_members_to_the_first() {
    let mut cluster = Cluster::new().await;
    let client = cluster.client(2).await;
    let mut guests = cluster.peers.listen_for_clients(cluster.second, Clients::Anyone);
    let (near, far) = tokio::join!(client.connect(0), accept(&mut guests));
    let (mut near, mut far) = (near.unwrap(), far);
    assert_eq!(near.peer().name(), Some(node(0).name()));
    assert_eq!((far.peer().is_member(), far.peer().id()), (false, None));
    assert_eq!(far.peer().fingerprint(), node(2).sig_key().fingerprint());
    assert!(far.peer().to_string().starts_with("client "), "{}", far.peer());
    talk(&mut near, &mut far).await;

    let member = Peers::new(&node(1), &client.roster()).await.unwrap();
    member.connect(0).await.unwrap();
    assert_eq!(accept(&mut cluster.first).await.peer().rank(), Some(1));
    assert_eq!((client.rank(), member.rank()), (None, Some(1)));
}

/// In a cluster of one endpoint a member, whoever listens there says whether clients may come.
#[tokio::test]
async fn where_there_is_one_endpoint_clients_come_there_and_only_if_they_may() {
    let server = Running::in_memory().await;
    let mut sites = super::support::sites(&server, 2).await;
    let client = Peers::new(&node(2), &sites[0].peers.roster()).await.unwrap();
    let mut refusals = sites[0].listener.refusals();
    let unreached = client.connect_once(0).await.unwrap_err();
    assert!(matches!(unreached.why, PeerError::NotTaken { .. }), "{unreached}");
    let why = refusal(&mut refusals).await;
    assert!(matches!(&*why.why, PeerError::Refused(PeerRefused::Stranger { .. })), "{why:?}");

    let (listener, endpoint) = port().await;
    server.registry.join(&node(1), &by_name("alpha"), vec![endpoint]).await.unwrap();
    client.update(&server.registry.show(&node(0), &by_name("alpha")).await.unwrap());
    let mut guests = sites.remove(1).peers.listen_for_clients(listener, Clients::Anyone);
    let (near, far) = tokio::join!(client.connect(1), accept(&mut guests));
    near.unwrap();
    assert!(!far.peer().is_member());
}

#[tokio::test]
async fn a_list_of_keys_takes_those_and_members() {
    let cluster = Cluster::new().await;
    let listed = node(2).sig_key().fingerprint();
    let policy = Clients::Keys(BTreeSet::from([listed]));
    let mut guests = cluster.peers.listen_for_clients(cluster.second, policy);
    let mut refusals = guests.refusals();
    let roster = cluster.peers.roster();
    for number in [2, 3] {
        let client = Peers::new(&node(number), &roster).await.unwrap();
        if number == 2 {
            client.connect(0).await.unwrap();
            assert_eq!(accept(&mut guests).await.peer().fingerprint(), listed);
            continue;
        }
        let unreached = client.connect_once(0).await.unwrap_err();
        assert!(unreached.to_string().contains("policy for clients"), "{unreached}");
        let refused = refusal(&mut refusals).await;
        assert_eq!(refused.key(), Some(node(3).sig_key().fingerprint()));
        assert!(matches!(&*refused.why, PeerError::Refused(PeerRefused::NotAllowed { .. })));
    }
    // A member that comes to the second endpoint as a client would.
    let roster = super::support::altered(&roster, |members| {
        let second = members[0].endpoints[1].clone();
        members[0].endpoints = vec![second];
    });
    Peers::new(&node(1), &roster).await.unwrap().connect(0).await.unwrap();
    assert_eq!(accept(&mut guests).await.peer().rank(), Some(1));
}

#[tokio::test]
async fn registered_nodes_are_told_from_strangers_by_the_registry() {
    let cluster = Cluster::new().await;
    let registry = cluster.server.registry.clone();
    let known = cluster.client(2).await;
    let policy = Clients::Registered(registry.clone());
    let mut guests = cluster.peers.listen_for_clients(cluster.second, policy);
    let mut refusals = guests.refusals();
    let (near, far) = tokio::join!(known.connect(0), accept(&mut guests));
    near.unwrap();
    assert!(!far.peer().is_member());

    let stranger = Peers::new(&node(3), &cluster.peers.roster()).await.unwrap();
    let unreached = stranger.connect_once(0).await.unwrap_err();
    assert!(unreached.to_string().contains("policy for clients"), "{unreached}");
    let refused = refusal(&mut refusals).await;
    assert!(matches!(&*refused.why, PeerError::Refused(PeerRefused::NotRegistered { .. })));

    // It is down: who is known already resumes or shakes hands as before, and others are refused with
    // the reason; whether they had been registered makes no difference.
    cluster.server.stop().await;
    let (near, _) = tokio::join!(known.connect(0), accept(&mut guests));
    near.unwrap();
    let late = loop {
        stranger.connect_once(0).await.unwrap_err();
        let refused = refusal(&mut refusals).await;
        // What it has said of a stranger holds for some seconds.
        if !matches!(&*refused.why, PeerError::Refused(PeerRefused::NotRegistered { .. })) {
            break refused;
        }
    };
    let PeerError::Refused(PeerRefused::Unsure { key, problem }) = &*late.why else {
        panic!("{late:?}");
    };
    assert_eq!(*key, node(3).sig_key().fingerprint());
    assert!(problem.contains("cannot reach the registry"), "{problem}");
}

#[tokio::test]
async fn a_registry_tells_the_ids_of_a_key_that_is_in_use() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let of =
        async |key: &xlreg::PublicKey| registry.ids_of(&node(0), &key.fingerprint()).await.unwrap();
    let node = node(2);
    assert_eq!(of(node.sig_key()).await, []);
    registry.register(&node).await.unwrap();
    assert_eq!(of(node.sig_key()).await, [node.id().unwrap()]);
    let keys = NewKeys { sig: Some(new_key()), comms: None };
    let next = registry.rotate(&node, keys).await.unwrap();
    assert_eq!(of(node.sig_key()).await, []);
    assert_eq!(of(next.sig_key()).await, [node.id().unwrap()]);

    let old = registry.clone().with_dialect(xlreg::Dialect::V1_9);
    let error = old.ids_of(&next, &next.sig_key().fingerprint()).await.unwrap_err();
    assert!(matches!(error, xlreg::Error::OldWire { .. }), "{error}");
}
