//! A registry that is closed, or just dropped, and opened again is the same registry.

use proptest::prelude::*;
use tokio::runtime::Builder;
use xlreg_core::limits::Limits;
use xlreg_core::registry::{View, decide};
use xlreg_core::{ClusterKey, Command, Outcome, Refusal, Registry};
use xlreg_store::{ApplyError, Engine, LocalEngine};

use crate::support::{
    REGISTRY, cluster_id, create, find, join, joined, member, name, node_id, open, print, register,
    with_keys,
};

/// Low enough for random commands to reach.
const LIMITS: Limits = Limits { nodes_max: 9, clusters_max: 2, members_max: 7 };

#[derive(Clone, Debug)]
enum Step {
    Apply(Command),
    CloseAndReopen,
    DropAndReopen,
}

fn any_command() -> impl Strategy<Value = Command> {
    let register = (prop::option::of(0u32..6), 100u32..900, 0u32..4);
    let register = register.prop_map(|(claimed, fresh, sig)| Command::Register {
        claimed: claimed.map(node_id),
        fresh: node_id(fresh),
        sig_key: print(sig),
    });
    let create = (0u32..3, any::<u64>(), 0u32..6, 0u32..4, 0u32..900);
    let create = create.prop_map(|(n, attrs, size, endpoint_count, fresh)| Command::Create {
        name: name(&format!("c{n}")),
        attrs,
        size,
        endpoint_count,
        fresh: cluster_id(fresh),
    });
    let join = (0u32..3, 0u32..6, 0u32..5, 0u32..4, 0usize..10);
    let join = join.prop_map(|(c, id, n, sig, endpoints)| Command::Join {
        cluster: ClusterKey::Name(name(&format!("c{c}"))),
        member: member(id, &format!("m{n}"), sig, endpoints),
    });
    prop_oneof![2 => register, 1 => create, 5 => join]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any_command().prop_map(Step::Apply),
        1 => Just(Step::CloseAndReopen),
        1 => Just(Step::DropAndReopen),
    ]
}

/// The rules alone, with nothing to keep and nobody else.
fn run(registry: &mut Registry, command: &Command) -> Result<Outcome, Refusal> {
    let decision = decide(command, registry)?;
    if let Some(change) = &decision.change {
        registry.apply(change);
    }
    Ok(decision.outcome)
}

async fn same_as_the_rules_alone(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let reopen = || LocalEngine::open(dir.path(), REGISTRY, LIMITS).unwrap();
    let mut pure = Registry::new(LIMITS);
    let memory = LocalEngine::in_memory(LIMITS);
    let mut durable = reopen();
    for step in steps {
        match step {
            Step::Apply(command) => {
                let expected = run(&mut pure, &command);
                for engine in [&memory, &durable] {
                    match (engine.apply(command.clone()).await, &expected) {
                        (Ok(got), Ok(expected)) => prop_assert_eq!(&got, expected),
                        (Err(ApplyError::Refused(got)), Err(expected)) => {
                            prop_assert_eq!(&got, expected);
                        }
                        (got, expected) => prop_assert!(false, "{got:?} is not {expected:?}"),
                    }
                }
            }
            Step::CloseAndReopen => {
                durable.close().await.unwrap();
                durable = reopen();
            }
            Step::DropAndReopen => {
                drop(durable);
                durable = reopen();
            }
        }
        prop_assert_eq!(durable.counts(), pure.counts());
        prop_assert_eq!(memory.counts(), pure.counts());
        for n in 0..3 {
            let key = ClusterKey::Name(name(&format!("c{n}")));
            let expected = pure.find(&key).map(|cluster| with_keys(&cluster)).ok();
            let got = durable.find(&key).await.ok();
            prop_assert_eq!(got.map(|cluster| with_keys(&cluster)), expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is asked, and whenever it is closed or dropped in between: each answer and all
    /// that can be seen is what the rules say, as if nothing had happened.
    #[test]
    fn reopening_is_never_noticed(steps in prop::collection::vec(any_step(), 1..60)) {
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
    };
    let (before, rank) = joined(&engine, again.clone()).await;
    assert_eq!((rank, before.revision), (0, 3));
    engine.close().await.unwrap();
    let engine = open(dir.path());
    assert_eq!(with_keys(&*find(&engine, "alpha").await), with_keys(&before));
    let (after, rank) = joined(&engine, again).await;
    assert_eq!((rank, after.revision), (0, 3));
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
