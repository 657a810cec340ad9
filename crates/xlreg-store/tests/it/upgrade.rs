//! A store just as a program of an earlier schema left it opens, and has everything.
//! `tests/fixtures/README.md` says where it comes from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use xlreg_core::admission::Life;
use xlreg_core::{
    Admission, Cluster, ClusterId, Command, Fingerprint, Member, NodeId, Outcome, Policy,
    PublicKey, Refusal,
};
use xlreg_store::{ApplyError, Engine, LocalEngine, check};

use crate::support::{REGISTRY, by_name, find, name, open};

const SCHEMA_1: &[u8] = include_bytes!("../fixtures/schema-1.db");

/// A key and its SHA-256.
type Key = (&'static [u8], &'static str);

const ANNA: [Key; 2] = [
    (
        include_bytes!("../fixtures/anna-sig.der"),
        "4a00531c2f5f3385af32ba93985513cc3e319d14d50b00910cf191f9f47b6239",
    ),
    (
        include_bytes!("../fixtures/anna-comms.der"),
        "d434a7f4536e86059e4404af5928c673f55cf906bc34c9b75c22d4af7dc12899",
    ),
];
const BERT: [Key; 2] = [
    (
        include_bytes!("../fixtures/bert-sig.der"),
        "28d7da8ed6f79cd58b0f8b5e5d5fffad3760023ec6599ae35317f51ba4534ec7",
    ),
    (
        include_bytes!("../fixtures/bert-comms.der"),
        "895ae4f58c16dee8393e55e3d3f8691e5a88b7340d9e715b91ef339db3b63fd1",
    ),
];

fn print((_, sha256): Key) -> Fingerprint {
    sha256.parse().unwrap()
}

/// A member as it was when it joined last.
fn member(id: u8, text: &str, keys: [Key; 2], endpoints: &[&str]) -> Arc<Member> {
    let [sig_key, comms_key] = keys.map(|key| PublicKey::from_checked(key.0, print(key)));
    Arc::new(Member {
        id: NodeId::from_bytes([id; 20]),
        name: name(text),
        attrs: id.into(),
        comms_key,
        sig_key,
        endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        entry_signature: None,
    })
}

fn anna(endpoints: &[&str]) -> Arc<Member> {
    member(1, "anna", ANNA, endpoints)
}

/// Came back with another ID.
fn bert() -> Arc<Member> {
    member(3, "bert", BERT, &["127.0.0.1:5002", "h:2"])
}

/// The number of its ID, its size, endpoint count, attributes and revision; and its members by rank.
fn told(cluster: &Cluster) -> ([u64; 5], Vec<Arc<Member>>) {
    let id = cluster.id.as_bytes()[0];
    let numbers = [id.into(), cluster.size.into(), cluster.endpoint_count.into()];
    let [id, size, endpoint_count] = numbers;
    let members = cluster.present().map(|(rank, member)| {
        assert_eq!(cluster.seats[rank].present(), Some(member));
        Arc::clone(member)
    });
    ([id, size, endpoint_count, cluster.attrs, cluster.revision], members.collect())
}

async fn has_everything(engine: &LocalEngine) {
    let counts = engine.counts();
    assert_eq!((counts.nodes, counts.clusters, counts.members), (3, 3, 3));
    let in_beta = anna(&["host.example.org:1", "[2001:db8::1]:65535"]);
    for (text, numbers, members) in [
        ("alpha", [1, 2, 1, 0, 3], vec![anna(&["127.0.0.1:4001"]), bert()]),
        ("beta", [2, 64, 2, u64::MAX, 1], vec![in_beta]),
        ("gamma", [3, 3, 1, 1, 0], vec![]),
    ] {
        let cluster = find(engine, text).await;
        assert_eq!(told(&cluster), (numbers, members.clone()), "{text}");
        for (before, after) in members.iter().zip(cluster.present()) {
            assert_eq!(before.sig_key.der(), after.1.sig_key.der());
            assert_eq!(before.comms_key.der(), after.1.comms_key.der());
        }
        // What schema 1 had no place for.
        assert_eq!((cluster.owner, &cluster.policy), (None, &Policy::Open));
        assert_eq!(cluster.life, Life::default());
        assert!(cluster.tokens.is_empty() && cluster.expelled.is_empty());
    }
}

fn lay_out(dir: &Path) {
    let file = dir.join("registry.db");
    fs::write(&file, SCHEMA_1).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn a_store_of_schema_1_opens_and_has_everything_then_and_later() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    for _ in 0..2 {
        let engine = open(dir.path());
        has_everything(&engine).await;
        engine.close().await.unwrap();
    }
    let report = check(dir.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.schema, report.registry), (Some(2), Some(REGISTRY)));
}

/// Looking it over changes nothing of it, and finds nothing wrong.
#[test]
fn a_store_of_schema_1_is_looked_over_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    let report = check(dir.path()).unwrap();
    assert_eq!((report.schema, report.registry), (Some(1), Some(REGISTRY)));
    assert_eq!((report.nodes, report.clusters, report.members), (3, 3, 3));
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(fs::read(dir.path().join("registry.db")).unwrap(), SCHEMA_1);
}

/// IDs and names belong to the keys that they belonged to.
#[tokio::test]
async fn the_rules_go_on_where_schema_1_left_off() {
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    let engine = open(dir.path());
    let register = |claimed: Option<u8>, sig_key: Key| Command::Register {
        claimed: claimed.map(|id| NodeId::from_bytes([id; 20])),
        fresh: NodeId::from_bytes([99; 20]),
        sig_key: print(sig_key),
        comms_key: None,
    };
    let latest = engine.apply(register(None, BERT[0])).await;
    let expected = NodeId::from_bytes([3; 20]);
    assert!(matches!(latest, Ok(Outcome::Registered(id)) if id == expected), "{latest:?}");
    let theft = engine.apply(register(Some(2), ANNA[0])).await;
    assert!(matches!(theft, Err(ApplyError::Refused(Refusal::IdInUse))), "{theft:?}");

    let join =
        |member| Command::Join { cluster: by_name("alpha"), member, admission: Admission::OldWire };
    let back = engine.apply(join(anna(&["elsewhere:7"]))).await;
    assert!(matches!(back, Ok(Outcome::Joined { rank: 0, .. })), "{back:?}");
    let full = engine.apply(join(member(2, "carl", BERT, &["h:1"]))).await;
    assert!(matches!(full, Err(ApplyError::Refused(_))), "{full:?}");
    let alpha = find(&engine, "alpha").await;
    assert_eq!(alpha.id, ClusterId::from_bytes([1; 20]));
    assert_eq!(alpha.revision, 4);
}
