//! A few nodes with keys of their own, and listeners for them.

use std::sync::OnceLock;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::time::timeout;
use xlreg::peers::TurnedAway;
use xlreg::{
    Endpoint, Identity, Member, PeerListener, PeerStream, Peers, PrivateKey, Registry, Roster,
};

use crate::support::{ENOUGH, Running, by_name, cluster, name};

/// Nodes that the tests have, at most.
const COUNT: usize = 4;

/// The node of this number, under its usual name `n0` and so on; made once. One key does for both.
pub(crate) fn node(number: usize) -> Identity {
    static NODES: OnceLock<Vec<Identity>> = OnceLock::new();
    let make = |number| {
        let key = || private(number);
        Identity::from_keys(name(&format!("n{number}")), key(), key())
    };
    NODES.get_or_init(|| (0..COUNT).map(make).collect())[number].clone()
}

/// The key of this node.
pub(crate) fn private(number: usize) -> PrivateKey {
    static KEYS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let make = || PrivateKey::generate().unwrap().pkcs1().to_vec();
    let keys = KEYS.get_or_init(|| (0..COUNT).map(|_| make()).collect());
    PrivateKey::from_pkcs1(&keys[number]).unwrap()
}

pub(crate) async fn port() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, endpoint)
}

/// A member that follows its cluster, and listens.
pub(crate) struct Site {
    pub(crate) peers: Peers,
    pub(crate) listener: PeerListener,
}

/// A cluster `alpha` of this many nodes at a registry.
pub(crate) async fn sites(server: &Running, count: usize) -> Vec<Site> {
    sites_at(&server.registry, count).await
}

pub(crate) async fn sites_at(registry: &Registry, count: usize) -> Vec<Site> {
    registry.create(&node(0), &cluster("alpha", count as u32)).await.unwrap();
    let mut joined = Vec::new();
    for number in 0..count {
        let (listener, endpoint) = port().await;
        let joining = registry.join(&node(number), &by_name("alpha"), vec![endpoint]).await;
        joined.push((joining.unwrap(), listener));
    }
    let mut sites = Vec::new();
    for (mut membership, listener) in joined {
        membership.wait(ENOUGH).await.unwrap();
        let peers = membership.peers().await.unwrap();
        let listener = peers.listen(listener);
        sites.push(Site { peers, listener });
    }
    sites
}

/// Both ends of a link from one site to another.
pub(crate) async fn link(from: &Peers, to: &mut Site) -> (PeerStream, PeerStream) {
    let rank = to.peers.rank().unwrap();
    let (near, far) = tokio::join!(from.connect(rank), accept(&mut to.listener));
    (near.unwrap(), far)
}

pub(crate) async fn accept(listener: &mut PeerListener) -> PeerStream {
    timeout(ENOUGH, listener.accept()).await.unwrap().unwrap()
}

/// A word each way.
pub(crate) async fn talk(one: &mut PeerStream, other: &mut PeerStream) {
    let mut heard = [0; 4];
    for word in [b"ping", b"pong"] {
        one.write_all(word).await.unwrap();
        one.flush().await.unwrap();
        other.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, word);
        std::mem::swap(&mut *one, &mut *other);
    }
}

/// The next who is turned away.
pub(crate) async fn refusal(refusals: &mut broadcast::Receiver<TurnedAway>) -> TurnedAway {
    timeout(ENOUGH, refusals.recv()).await.unwrap().unwrap()
}

/// A roster changed by hand: such as an impostor makes for itself, or such as is out of date.
pub(crate) fn altered(roster: &Roster, change: impl FnOnce(&mut Vec<Member>)) -> Roster {
    let mut members: Vec<_> = roster.members.iter().map(|member| (**member).clone()).collect();
    change(&mut members);
    let mut altered = roster.clone();
    altered.members = members.into_iter().map(Into::into).collect();
    altered
}
