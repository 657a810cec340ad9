//! A registry that is closed, or just dropped, and opened again is the same registry.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tokio::runtime::Builder;
use xlreg_core::admission::{Label, TokenDigest, TokenProof};
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::registry::{Actor, Because, NewToken, View, Who, decide};
use xlreg_core::{
    Admission, Cluster, ClusterKey, Command, Lifetime, Outcome, Policy, Refusal, Registry, Time,
    TokenId,
};
use xlreg_store::engine::{Listing, Node};
use xlreg_store::{ApplyError, Clock, Engine, LocalEngine};

use crate::support::{
    REGISTRY, by_name, cluster_id, create, find, join, join_signed, joined, key, leave, member,
    name, node_id, open, operator, print, register, rotate, signed, with_keys, without_time,
};

/// Low enough for random commands to reach.
const LIMITS: Limits = Limits {
    nodes_max: 9,
    clusters_max: 3,
    members_max: 9,
    ids_per_key_max: 4,
    clusters_per_key_max: 2,
    memberships_per_key_max: 6,
};

/// Keys that random commands are about.
const KEYS: u32 = 8;

#[derive(Clone, Debug)]
enum Step {
    Apply(Command),
    Wait(u64),
    CloseAndReopen,
    DropAndReopen,
}

fn any_cluster() -> impl Strategy<Value = ClusterKey> {
    (0u32..3).prop_map(|n| by_name(&format!("c{n}")))
}

fn any_actor() -> impl Strategy<Value = Actor> {
    (0..KEYS, prop::bool::weighted(0.7))
        .prop_map(|(sig, admin)| Actor { sig_key: print(sig), admin })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let keys = prop::collection::btree_set((0..KEYS).prop_map(print), 0..5);
    prop_oneof![2 => Just(Policy::Open), 2 => Just(Policy::Token), 1 => keys.prop_map(Policy::Keys)]
}

fn any_lifetime() -> impl Strategy<Value = Lifetime> {
    let time = || prop::option::weighted(0.3, (1u64..60).prop_map(Duration::from_secs));
    (time(), time(), time(), any::<bool>()).prop_map(|(fill_within, ttl, idle, with_owner)| {
        Lifetime { fill_within, ttl, idle, with_owner }
    })
}

fn any_admission() -> impl Strategy<Value = Admission> {
    let proof = (0u8..3).prop_map(|n| TokenProof {
        id: TokenId::from_bytes([n; 4]),
        digest: TokenDigest::from_bytes([n; 32]),
    });
    let token = proof.prop_map(Admission::Token);
    prop_oneof![1 => Just(Admission::OldWire), 1 => Just(Admission::Key), 2 => token]
}

/// Commands of nodes about themselves.
fn any_of_nodes() -> impl Strategy<Value = Command> {
    let comms = || prop::option::weighted(0.3, (50u32..53).prop_map(key));
    let register = (prop::option::of(0u32..6), 100u32..900, 0..KEYS, comms());
    let register = register.prop_map(|(claimed, fresh, sig, comms_key)| Command::Register {
        claimed: claimed.map(node_id),
        fresh: node_id(fresh),
        sig_key: print(sig),
        comms_key,
    });
    let rotate = (0..KEYS, prop::option::weighted(0.7, (0..KEYS).prop_map(key)), comms());
    let rotate = rotate.prop_map(|(old, sig_key, comms_key)| {
        let old = print(old);
        Command::Rotate { old, sig_key, comms_key }
    });
    prop_oneof![3 => register, 1 => rotate]
}

/// Commands of members.
fn any_of_members() -> impl Strategy<Value = Command> {
    let signature = || prop::option::of(1u8..3);
    let join = (any_cluster(), 0u32..6, 0u32..5, 0..KEYS, 0usize..10, any_admission(), signature());
    let join = join.prop_map(|(cluster, id, n, sig, endpoints, admission, signature)| {
        let plain = member(id, &format!("m{n}"), sig, endpoints);
        let member = signature.map_or(plain.clone(), |fill| signed(&plain, fill));
        Command::Join { cluster, member, admission }
    });
    let name = prop::option::weighted(0.3, (0u32..5).prop_map(|n| name(&format!("m{n}"))));
    let who = (0..KEYS, name).prop_map(|(sig, name)| Who { sig_key: print(sig), name });
    let act = (any_cluster(), who, any::<bool>(), 0u32..6, 0u32..5, 0usize..4, signature());
    let act = act.prop_map(|(cluster, who, leaves, id, n, ends, signature)| {
        let to = member(id, &format!("m{n}"), id, ends);
        let relocate = Command::Move {
            cluster: cluster.clone(),
            who: who.clone(),
            endpoints: to.endpoints.clone(),
            signed: signature.map(|fill| signed(&to, fill)),
        };
        if leaves { Command::Leave { cluster, who } } else { relocate }
    });
    prop_oneof![4 => join, 2 => act]
}

/// Commands of owners, and of nobody.
fn any_of_owners() -> impl Strategy<Value = Command> {
    let create = (0u32..3, any::<u64>(), 0u32..6, 0u32..4, any_policy(), any_lifetime());
    let create = (create, 0..KEYS, 0u32..9, any::<bool>()).prop_map(
        |((n, attrs, size, endpoint_count, policy, lifetime), owner, fresh, strict)| {
            let name = name(&format!("c{n}"));
            let new = NewCluster { name, attrs, size, endpoint_count, policy, lifetime };
            Command::Create { new, owner: print(owner), fresh: cluster_id(fresh), strict }
        },
    );
    let expel = (any_cluster(), any_actor(), (0u32..6).prop_map(node_id));
    let expel = expel.prop_map(|(cluster, by, member)| Command::Expel { cluster, by, member });
    let delete = (any_cluster(), any_actor());
    let delete = delete.prop_map(|(cluster, by)| Command::Delete { cluster, by });
    let issue = (any_cluster(), any_actor(), 0u8..3, 1u64..60, 0u32..3);
    let issue = issue.prop_map(|(cluster, by, n, ttl, uses)| Command::IssueToken {
        cluster,
        by,
        token: NewToken {
            id: TokenId::from_bytes([n; 4]),
            digest: TokenDigest::from_bytes([n; 32]),
            label: Label::new("été").unwrap(),
            ttl: Duration::from_secs(ttl),
            uses,
        },
    });
    let revoke = (any_cluster(), any_actor(), 0u8..3).prop_map(|(cluster, by, n)| {
        Command::RevokeToken { cluster, by, token: TokenId::from_bytes([n; 4]) }
    });
    let why = select(vec![Because::Time, Because::Idle, Because::OwnerGone]);
    let expire = (0u32..9, why).prop_map(|(n, because)| {
        let cluster = cluster_id(n);
        Command::Expire { cluster, because }
    });
    let touch = (0u32..9).prop_map(|n| Command::Touch { cluster: cluster_id(n) });
    prop_oneof![
        6 => create, 2 => expel, 1 => delete, 6 => issue, 1 => revoke, 1 => expire, 1 => touch
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let command = prop_oneof![3 => any_of_nodes(), 5 => any_of_members(), 5 => any_of_owners()];
    prop_oneof![
        20 => command.prop_map(Step::Apply),
        2 => (0u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::CloseAndReopen),
        1 => Just(Step::DropAndReopen),
    ]
}

/// The rules alone, with nothing to keep and nobody else.
fn run(registry: &mut Registry, command: &Command, now: Time) -> Result<Outcome, Refusal> {
    let decision = decide(command, now, registry)?;
    for change in &decision.changes {
        registry.apply(change);
    }
    Ok(decision.outcome)
}

/// An outcome as it is compared. When a cluster last changed is not kept.
fn plain(outcome: Outcome) -> Outcome {
    let plain = |cluster: std::sync::Arc<Cluster>| without_time(&cluster).into();
    match outcome {
        Outcome::Created { cluster, new } => Outcome::Created { cluster: plain(cluster), new },
        Outcome::Joined { cluster, rank, changed } => {
            Outcome::Joined { cluster: plain(cluster), rank, changed }
        }
        Outcome::Changed(cluster) => Outcome::Changed(plain(cluster)),
        Outcome::Unchanged(cluster) => Outcome::Unchanged(plain(cluster)),
        Outcome::Issued { cluster, token } => Outcome::Issued { cluster: plain(cluster), token },
        Outcome::Ended(cluster) => Outcome::Ended(plain(cluster)),
        other => other,
    }
}

/// What can be seen of a registry: clusters, deadline, counts and keys.
async fn check(engine: &LocalEngine, pure: &Registry, now: Time) -> Result<(), TestCaseError> {
    prop_assert_eq!(engine.counts(), pure.counts());
    prop_assert_eq!(*engine.next_deadline().borrow(), pure.next_deadline());
    let expected = pure.by_name(None).filter(|cluster| !cluster.is_over(now));
    let expected: Vec<_> = expected.map(|cluster| with_keys(cluster)).collect();
    let all = Listing { max: usize::MAX, ..Listing::default() };
    let got = engine.list(&all).await.unwrap();
    prop_assert_eq!(got.iter().map(|one| with_keys(one)).collect::<Vec<_>>(), expected);
    for sig in (0..KEYS).map(print) {
        let Node { ids, retired, comms_keys } = engine.node(&sig).await.unwrap();
        let record = pure.key(&sig);
        prop_assert_eq!((&ids, retired), (&record.ids().collect(), record.is_retired()));
        for id in ids {
            prop_assert_eq!(comms_keys.get(&id).cloned(), pure.comms_key(&id));
        }
        let of = Listing { of: Some(sig), ..all.clone() };
        let own = pure.by_name(None).filter(|cluster| {
            !cluster.is_over(now)
                && (record.owned().contains(&cluster.id) || record.joined().contains(&cluster.id))
        });
        let own: Vec<_> = own.map(|cluster| cluster.id).collect();
        let got = engine.list(&of).await.unwrap();
        prop_assert_eq!(got.iter().map(|cluster| cluster.id).collect::<Vec<_>>(), own);
    }
    prop_assert_eq!(engine.with_owner().await.unwrap().len(), pure.with_owner().count());
    Ok(())
}

async fn same_as_the_rules_alone(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::standing(Time::from_millis(1_800_000_000_000));
    let reopen = || LocalEngine::open_by(clock.clone(), dir.path(), REGISTRY, LIMITS).unwrap();
    let mut pure = Registry::new(LIMITS);
    let memory = LocalEngine::in_memory_by(clock.clone(), LIMITS);
    let mut durable = reopen();
    for step in steps {
        match step {
            Step::Apply(command) => {
                let expected = run(&mut pure, &command, clock.now());
                for engine in [&memory, &durable] {
                    match (engine.apply(command.clone()).await, expected.clone()) {
                        (Ok(got), Ok(expected)) => prop_assert_eq!(plain(got), plain(expected)),
                        (Err(ApplyError::Refused(got)), Err(expected)) => {
                            prop_assert_eq!(got, expected);
                        }
                        (got, expected) => prop_assert!(false, "{got:?} is not {expected:?}"),
                    }
                }
                continue;
            }
            Step::Wait(millis) => {
                clock.advance(Duration::from_millis(millis));
                continue;
            }
            Step::CloseAndReopen => durable.close().await.unwrap(),
            Step::DropAndReopen => {}
        }
        drop(durable);
        durable = reopen();
        // Whatever may be idle has been so since it was opened.
        for cluster in (0..9).map(cluster_id) {
            let touch = Command::Touch { cluster };
            run(&mut pure, &touch, clock.now()).unwrap();
            memory.apply(touch).await.unwrap();
        }
        check(&memory, &pure, clock.now()).await?;
        check(&durable, &pure, clock.now()).await?;
    }
    drop(durable);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is asked, and whenever it is closed or dropped in between: each answer and all
    /// that can be seen is what the rules say, as if nothing had happened.
    #[test]
    fn reopening_is_never_noticed(steps in prop::collection::vec(any_step(), 1..120)) {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(same_as_the_rules_alone(steps))?;
    }
}

/// A key's latest ID is the one registered last, also when the order of IDs is another.
#[tokio::test]
async fn the_latest_id_of_a_key_survives() {
    let dir = tempfile::tempdir().unwrap();
    let say = |claimed: Option<u32>| Command::Register {
        claimed: claimed.map(node_id),
        fresh: node_id(1000),
        sig_key: print(1),
        comms_key: None,
    };
    let engine = open(dir.path());
    for id in [50, 3, 99, 20] {
        engine.apply(say(Some(id))).await.unwrap();
    }
    drop(engine);
    let engine = open(dir.path());
    let latest = engine.apply(say(None)).await.unwrap();
    assert_eq!(latest, Outcome::Registered(node_id(20)));
}

/// A member who comes back has its rank, and the registry knows it as it is now.
#[tokio::test]
async fn a_member_come_back_is_kept_as_it_came_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.apply(create("alpha", 3, 1)).await.unwrap();
    engine.apply(join("alpha", 1)).await.unwrap();
    engine.apply(join("alpha", 2)).await.unwrap();
    let again = Command::Join {
        cluster: ClusterKey::Id(cluster_id(1)),
        member: member(70, "node_1", 1, 8),
        admission: Admission::OldWire,
    };
    let (before, rank) = joined(&engine, again.clone()).await;
    assert_eq!((rank, before.revision), (0, 3));
    engine.close().await.unwrap();
    let engine = open(dir.path());
    assert_eq!(with_keys(&*find(&engine, "alpha").await), with_keys(&before));
    let (after, rank) = joined(&engine, again).await;
    assert_eq!((rank, after.revision), (0, 3));
}

/// Registrations before and after a key's retirement come in their order, and who left stays away.
#[tokio::test]
async fn retired_keys_and_departures_survive() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for command in [register(1), create("alpha", 3, 1), join("alpha", 1), rotate(1, 2)] {
        engine.apply(command).await.unwrap();
    }
    engine.apply(register(2)).await.unwrap();
    engine.apply(leave("alpha", 2)).await.unwrap();
    let before = find(&engine, "alpha").await;
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(with_keys(&*find(&engine, "alpha").await), with_keys(&before));
    assert_eq!((before.owner, before.present().count()), (Some(print(2)), 0));
    let node = engine.node(&print(2)).await.unwrap();
    assert_eq!(node.ids, [node_id(1), node_id(2)]);
    assert!(engine.node(&print(1)).await.unwrap().retired);
}

/// Signatures come and go with the entries that they are over.
#[tokio::test]
async fn signatures_of_entries_survive() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = open(dir.path());
    for command in [register(1), create("alpha", 3, 1), join("alpha", 1)] {
        engine.apply(command).await.unwrap();
    }
    let plain = member(1, "node_1", 1, 1);
    let elsewhere = Command::Move {
        cluster: by_name("alpha"),
        who: Who { sig_key: print(1), name: None },
        endpoints: member(1, "node_1", 1, 2).endpoints.clone(),
        signed: Some(signed(&member(1, "node_1", 1, 2), 3)),
    };
    for (command, expected) in [
        (join("alpha", 1), None),
        (join_signed("alpha", 1, 1), Some(1)),
        (join_signed("alpha", 1, 2), Some(2)),
        (join("alpha", 1), Some(2)),
        (leave("alpha", 1), Some(2)),
        (join("alpha", 1), Some(2)),
        (elsewhere, Some(3)),
        (rotate(1, 2), None),
    ] {
        engine.apply(command).await.unwrap();
        let before = find(&engine, "alpha").await;
        drop(engine);
        engine = open(dir.path());
        let after = find(&engine, "alpha").await;
        assert_eq!(with_keys(&after), with_keys(&before));
        let (_, holder) = after.member(&plain.id).unwrap();
        let expected = expected.and_then(|fill| signed(&plain, fill).entry_signature.clone());
        assert_eq!(holder.entry_signature, expected);
    }
    let by = Actor { sig_key: print(2), admin: false };
    let expel = Command::Expel { cluster: by_name("alpha"), by, member: plain.id };
    engine.apply(expel).await.unwrap();
    engine.apply(join_signed("alpha", 3, 3)).await.unwrap();
    engine.apply(Command::Delete { cluster: by_name("alpha"), by }).await.unwrap();
    drop(engine);
    assert_eq!(open(dir.path()).counts().members, 0);
    let left: i64 = operator(dir.path())
        .query_row("SELECT count(*) FROM signatures", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

/// After closing there is one file, nothing is answered any more, and closing again is fine.
#[tokio::test]
async fn a_closed_engine_has_let_go_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.apply(register(1)).await.unwrap();
    engine.close().await.unwrap();
    engine.close().await.unwrap();
    for answer in [engine.apply(register(1)).await, engine.apply(register(2)).await] {
        assert!(matches!(answer, Err(ApplyError::Closed)), "{answer:?}");
    }
    let files = std::fs::read_dir(dir.path()).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["lock", "registry.db"]);
    let again = open(dir.path());
    assert_eq!(again.counts().nodes, 1);
}

/// What was accepted before the close is answered, though nobody waited for it yet.
#[tokio::test]
async fn closing_waits_for_what_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = std::sync::Arc::new(open(dir.path()));
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let engine = std::sync::Arc::clone(&engine);
            tokio::spawn(async move { engine.apply(register(n)).await })
        })
        .collect();
    tokio::task::yield_now().await;
    engine.close().await.unwrap();
    let mut kept = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => kept += 1,
            Err(ApplyError::Closed) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(kept > 0);
    drop(engine);
    assert_eq!(open(dir.path()).counts().nodes, kept);
}

/// An engine without a disk closes, too.
#[tokio::test]
async fn an_engine_in_memory_closes() {
    let engine = LocalEngine::in_memory(LIMITS);
    engine.apply(register(1)).await.unwrap();
    engine.close().await.unwrap();
    let answer = engine.apply(register(1)).await;
    assert!(matches!(answer, Err(ApplyError::Closed)), "{answer:?}");
}
