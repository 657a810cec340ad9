//! Small worlds: IDs, keys and members made from numbers.

use std::path::Path;
use std::sync::Arc;

use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::registry::Who;
use xlreg_core::{
    Admission, Cluster, ClusterId, ClusterKey, Command, EntrySignature, Fingerprint, Member, Name,
    NodeId, Outcome, PublicKey, Time,
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

pub(crate) fn key(number: u32) -> PublicKey {
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
        entry_signature: None,
    })
}

/// The same member, with a signature; no store knows whether it is one.
pub(crate) fn signed(member: &Member, fill: u8) -> Arc<Member> {
    let entry_signature = EntrySignature::new(&[fill; 256]);
    Arc::new(Member { entry_signature, ..member.clone() })
}

/// A node that brings its ID.
pub(crate) fn register(number: u32) -> Command {
    Command::Register {
        claimed: Some(node_id(number)),
        fresh: node_id(u32::MAX),
        sig_key: print(number),
        comms_key: None,
    }
}

pub(crate) fn create(text: &str, size: u32, fresh: u32) -> Command {
    Command::Create {
        new: NewCluster { attrs: u64::MAX, ..NewCluster::open(name(text), size, 1) },
        owner: print(1),
        fresh: cluster_id(fresh),
        strict: false,
    }
}

pub(crate) fn join(cluster: &str, number: u32) -> Command {
    Command::Join {
        cluster: by_name(cluster),
        member: member(number, &format!("node_{number}"), number, 1),
        admission: Admission::OldWire,
    }
}

pub(crate) fn join_signed(cluster: &str, number: u32, fill: u8) -> Command {
    let plain = member(number, &format!("node_{number}"), number, 1);
    let (cluster, member) = (by_name(cluster), signed(&plain, fill));
    Command::Join { cluster, member, admission: Admission::Key }
}

pub(crate) fn leave(cluster: &str, number: u32) -> Command {
    let who = Who { sig_key: print(number), name: None };
    Command::Leave { cluster: by_name(cluster), who }
}

/// One sig key in the place of another.
pub(crate) fn rotate(old: u32, new: u32) -> Command {
    Command::Rotate { old: print(old), sig_key: Some(key(new)), comms_key: None }
}

pub(crate) async fn joined(engine: &dyn Engine, command: Command) -> (Arc<Cluster>, usize) {
    match engine.apply(command).await.unwrap() {
        Outcome::Joined { cluster, rank, .. } => (cluster, rank),
        other => panic!("expected to have joined, got {other:?}"),
    }
}

/// A cluster as it is compared: without the time of its last change, which is not kept, and with the
/// members' keys beside it, since [`PublicKey`]s are equal if their fingerprints are.
pub(crate) fn with_keys(cluster: &Cluster) -> (Cluster, Vec<[Vec<u8>; 2]>) {
    let keys = cluster.holders();
    let keys = keys.map(|(_, member)| [member.comms_key.der().into(), member.sig_key.der().into()]);
    (without_time(cluster), keys.collect())
}

pub(crate) fn without_time(cluster: &Cluster) -> Cluster {
    Cluster { active: Time::default(), ..cluster.clone() }
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
