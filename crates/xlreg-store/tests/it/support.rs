//! Small worlds: IDs, keys and members made from numbers.

use std::path::Path;
use std::sync::Arc;

use xlreg_core::limits::Limits;
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Command, Fingerprint, Member, Name, NodeId, Outcome, PublicKey,
};
use xlreg_store::{ApplyError, Engine, LocalEngine, StoreError};

pub(crate) const REGISTRY: NodeId = NodeId::from_bytes([7; 20]);

pub(crate) fn try_open(dir: &Path) -> Result<LocalEngine, StoreError> {
    LocalEngine::open(dir, REGISTRY, Limits::default())
}

pub(crate) fn open(dir: &Path) -> LocalEngine {
    try_open(dir).unwrap()
}

/// Both kinds of engine, for what must hold for either.
pub(crate) fn both(dir: &Path) -> [LocalEngine; 2] {
    [LocalEngine::in_memory(Limits::default()), open(dir)]
}

fn bytes<const N: usize>(number: u32) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn node_id(number: u32) -> NodeId {
    NodeId::from_bytes(bytes(number))
}

pub(crate) fn cluster_id(number: u32) -> ClusterId {
    ClusterId::from_bytes(bytes(number))
}

pub(crate) fn print(number: u32) -> Fingerprint {
    Fingerprint::from_bytes(bytes(number))
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn by_name(text: &str) -> ClusterKey {
    ClusterKey::Name(name(text))
}

fn key(number: u32) -> PublicKey {
    let der = [number.to_be_bytes(); 70].concat();
    PublicKey::from_checked(&der, print(number))
}

/// A member with attributes that only fit into 64 unsigned bits.
pub(crate) fn member(id: u32, text: &str, sig: u32, endpoints: usize) -> Arc<Member> {
    let endpoint = |n| format!("host-{id}.example.org:{}", n + 1).parse().unwrap();
    Arc::new(Member {
        id: node_id(id),
        name: name(text),
        attrs: u64::MAX - u64::from(id),
        comms_key: key(!sig),
        sig_key: key(sig),
        endpoints: (0..endpoints).map(endpoint).collect(),
    })
}

/// A node that brings its ID.
pub(crate) fn register(number: u32) -> Command {
    Command::Register {
        claimed: Some(node_id(number)),
        fresh: node_id(u32::MAX),
        sig_key: print(number),
    }
}

pub(crate) fn create(text: &str, size: u32, fresh: u32) -> Command {
    Command::Create {
        name: name(text),
        attrs: u64::MAX,
        size,
        endpoint_count: 1,
        fresh: cluster_id(fresh),
    }
}

pub(crate) fn join(cluster: &str, number: u32) -> Command {
    Command::Join {
        cluster: by_name(cluster),
        member: member(number, &format!("node_{number}"), number, 1),
    }
}

pub(crate) async fn joined(engine: &dyn Engine, command: Command) -> (Arc<Cluster>, usize) {
    match engine.apply(command).await.unwrap() {
        Outcome::Joined { cluster, rank } => (cluster, rank),
        other => panic!("expected to have joined, got {other:?}"),
    }
}

/// The members as they are compared: [`PublicKey`]s are equal if their fingerprints are, so their
/// bytes stand beside them.
pub(crate) fn with_keys(cluster: &Cluster) -> (Cluster, Vec<[Vec<u8>; 2]>) {
    let keys = cluster.members.iter();
    let keys = keys.map(|member| [member.comms_key.der().into(), member.sig_key.der().into()]);
    (cluster.clone(), keys.collect())
}

pub(crate) async fn find(engine: &dyn Engine, text: &str) -> Arc<Cluster> {
    engine.find(&by_name(text)).await.unwrap()
}

pub(crate) fn is_failed<T: std::fmt::Debug>(answer: &Result<T, ApplyError>) -> bool {
    matches!(answer, Err(ApplyError::Failed(_)))
}

/// A connection beside the engine's, as an operator might have one.
pub(crate) fn operator(dir: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(dir.join("registry.db")).unwrap()
}
