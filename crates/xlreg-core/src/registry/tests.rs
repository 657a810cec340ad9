//! The rules, one by one, then against random sequences of commands.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::PublicKey;

fn node_id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 20])
}

fn key(n: u8) -> PublicKey {
    PublicKey::from_checked(&[n], Fingerprint::from_bytes([n; 32]))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn member(id: u8, text: &str, sig: u8, endpoints: usize) -> Arc<Member> {
    let endpoints = (0..endpoints).map(|n| format!("h:{}", n + 1).parse().unwrap()).collect();
    Arc::new(Member {
        id: node_id(id),
        name: name(text),
        attrs: 0,
        comms_key: key(sig),
        sig_key: key(sig),
        endpoints,
    })
}

/// A registry that takes commands one at a time, as a store without a disk would.
#[derive(Default)]
struct Bench(Registry, Time);

impl Bench {
    fn run(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let decision = decide(command, self.1, &self.0)?;
        for change in &decision.changes {
            self.0.apply(change);
        }
        Ok(decision.outcome)
    }

    fn register(&mut self, claimed: Option<u8>, fresh: u8, sig: u8) -> Result<Outcome, Refusal> {
        self.run(&Command::Register {
            claimed: claimed.map(node_id),
            fresh: node_id(fresh),
            sig_key: key(sig).fingerprint(),
            comms_key: None,
        })
    }

    fn create(&mut self, text: &str, size: u32, endpoint_count: u32, fresh: u8) -> Arc<Cluster> {
        let fresh = ClusterId::from_bytes([fresh; 20]);
        let new = plain(text, size, endpoint_count);
        let command = Command::Create { new, owner: key(1).fingerprint(), fresh, strict: false };
        match self.run(&command).unwrap() {
            Outcome::Created { cluster, .. } => cluster,
            other => panic!("created, but {other:?}"),
        }
    }

    fn join(&mut self, cluster: &str, member: &Arc<Member>) -> Result<usize, Refusal> {
        let cluster = ClusterKey::Name(name(cluster));
        match self.run(&Command::Join {
            cluster,
            member: Arc::clone(member),
            admission: Admission::OldWire,
        })? {
            Outcome::Joined { rank, .. } => Ok(rank),
            other => panic!("joined, but {other:?}"),
        }
    }
}

#[test]
fn an_id_belongs_to_the_key_that_first_registered_it() {
    let mut bench = Bench::default();
    assert_eq!(bench.register(Some(7), 90, 1), Ok(Outcome::Registered(node_id(7))));
    assert_eq!(bench.register(Some(7), 91, 1), Ok(Outcome::Registered(node_id(7))));
    assert_eq!(bench.register(Some(7), 92, 2), Err(Refusal::IdInUse));
}

#[test]
fn a_key_may_hold_several_ids_and_gets_its_latest_again() {
    let mut bench = Bench::default();
    assert_eq!(bench.register(None, 90, 1), Ok(Outcome::Registered(node_id(90))));
    assert_eq!(bench.register(None, 91, 1), Ok(Outcome::Registered(node_id(90))));
    assert_eq!(bench.register(Some(7), 92, 1), Ok(Outcome::Registered(node_id(7))));
    assert_eq!(bench.register(None, 93, 1), Ok(Outcome::Registered(node_id(7))));
    // Coming once more under the older ID does not make it the latest.
    assert_eq!(bench.register(Some(90), 94, 1), Ok(Outcome::Registered(node_id(90))));
    assert_eq!(bench.register(None, 95, 1), Ok(Outcome::Registered(node_id(7))));
}

#[test]
fn create_clamps_and_a_known_name_answers_with_what_is_there() {
    let mut bench = Bench::default();
    let first = bench.create("alpha", 0, 0, 1);
    assert_eq!((first.size, first.endpoint_count), (2, 1));
    let again = bench.create("alpha", 50, 2, 2);
    assert_eq!(again, first);
    let large = bench.create("beta", u32::MAX, u32::MAX, 3);
    assert_eq!((large.size, large.endpoint_count), (64, 2));
}

#[test]
fn join_gives_ranks_in_order_and_never_more_than_the_size() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 1)), Ok(0));
    assert_eq!(bench.join("alpha", &member(2, "b", 2, 1)), Ok(1));
    assert_eq!(bench.join("alpha", &member(3, "c", 3, 1)), Err(Refusal::ClusterFull { size: 2 }));
    assert_eq!(bench.join("omega", &member(3, "c", 3, 1)), Err(Refusal::UnknownClusterName));
}

#[test]
fn the_same_name_and_key_is_the_same_member_come_back() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    bench.join("alpha", &member(1, "a", 1, 1)).unwrap();
    bench.join("alpha", &member(2, "b", 2, 1)).unwrap();
    // Also when the cluster is full, with a new ID and other endpoints.
    assert_eq!(bench.join("alpha", &member(9, "a", 1, 3)), Ok(0));
    let cluster = bench.0.find(&ClusterKey::Name(name("alpha"))).unwrap();
    assert_eq!(cluster.members[0].id, node_id(9));
    assert_eq!(cluster.members[0].endpoints.len(), 3);
    assert_eq!(cluster.revision, 3);
    // Somebody else's name, and an ID that is there under another name.
    assert_eq!(bench.join("alpha", &member(3, "a", 3, 1)), Err(Refusal::MemberNameInUse));
    assert_eq!(bench.join("alpha", &member(9, "c", 1, 1)), Err(Refusal::MemberIdInUse));
    assert_eq!(bench.join("alpha", &member(2, "a", 1, 1)), Err(Refusal::MemberIdInUse));
}

#[test]
fn coming_back_unchanged_changes_nothing() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    bench.join("alpha", &member(1, "a", 1, 1)).unwrap();
    let command =
        Command::Join { cluster: ClusterKey::Name(name("alpha")), member: member(1, "a", 1, 1) };
    assert_eq!(decide(&command, &bench.0).unwrap().change, None);
}

#[test]
fn a_member_brings_as_many_endpoints_as_the_cluster_asks() {
    let mut bench = Bench::default();
    bench.create("alpha", 4, 2, 1);
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 0)), Err(Refusal::NoEndpoint));
    let few = Refusal::TooFewEndpoints { got: 1, asked: 2 };
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 1)), Err(few));
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 8)), Ok(0));
    let many = Refusal::TooManyEndpoints { got: 9 };
    assert_eq!(bench.join("alpha", &member(2, "b", 2, 9)), Err(many));
}

#[test]
fn a_full_registry_still_knows_whom_it_knows() {
    let limits = Limits { nodes_max: 1, clusters_max: 1, members_max: 1 };
    let mut bench = Bench(Registry::new(limits));
    bench.register(Some(1), 90, 1).unwrap();
    assert_eq!(bench.register(Some(2), 91, 1), Err(Refusal::RegistryFull));
    assert!(bench.register(None, 92, 1).is_ok());
    bench.create("alpha", 2, 1, 1);
    bench.create("alpha", 2, 1, 2);
    let beta = Command::Create {
        name: name("beta"),
        attrs: 0,
        size: 2,
        endpoint_count: 1,
        fresh: ClusterId::from_bytes([3; 20]),
    };
    assert_eq!(bench.run(&beta), Err(Refusal::RegistryFull));
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 1)), Ok(0));
    assert_eq!(bench.join("alpha", &member(2, "b", 2, 1)), Err(Refusal::RegistryFull));
    assert_eq!(bench.join("alpha", &member(9, "a", 1, 2)), Ok(0));
}

/// Commands over so few keys, names and IDs that they collide all the time.
fn any_command() -> impl Strategy<Value = Command> {
    let register =
        (prop::option::of(0u8..6), 100u8..255, 0u8..4).prop_map(|(claimed, fresh, sig)| {
            Command::Register {
                claimed: claimed.map(node_id),
                fresh: node_id(fresh),
                sig_key: key(sig).fingerprint(),
            }
        });
    let create = (0u8..3, 0u32..6, 0u32..4, any::<u8>()).prop_map(|(n, size, ends, fresh)| {
        Command::Create {
            name: name(&format!("c{n}")),
            attrs: 0,
            size,
            endpoint_count: ends,
            fresh: ClusterId::from_bytes([fresh; 20]),
        }
    });
    let join = (0u8..3, 0u8..6, 0u8..5, 0u8..4, 0usize..4).prop_map(|(c, id, n, sig, ends)| {
        Command::Join {
            cluster: ClusterKey::Name(name(&format!("c{c}"))),
            member: member(id, &format!("m{n}"), sig, ends),
        }
    });
    prop_oneof![register, create, join]
}

proptest! {
    /// Whatever is asked in whatever order: sizes hold, names and IDs are unique in a cluster,
    /// a rank's name and key never change, and an overlay decides as the state itself would.
    #[test]
    fn promises_hold_under_any_sequence(commands in prop::collection::vec(any_command(), 1..80)) {
        let mut bench = Bench::default();
        let base = Registry::default();
        let mut overlay = Overlay::new(&base);
        for command in &commands {
            let before = bench.0.maps.clusters.clone();
            let layered = decide(command, &overlay);
            if let Ok(Decision { change: Some(change), .. }) = &layered {
                overlay.apply(change);
            }
            prop_assert_eq!(bench.run(command), layered.map(|decision| decision.outcome));
            prop_assert_eq!(bench.0.counts(), overlay.counts());
            for (id, cluster) in &bench.0.maps.clusters {
                prop_assert!(cluster.members.len() <= cluster.size as usize);
                let names: HashSet<_> = cluster.members.iter().map(|m| &m.name).collect();
                let ids: HashSet<_> = cluster.members.iter().map(|m| m.id).collect();
                prop_assert_eq!(names.len(), cluster.members.len());
                prop_assert_eq!(ids.len(), cluster.members.len());
                for (rank, old) in before.get(id).iter().flat_map(|old| old.members.iter().enumerate()) {
                    prop_assert_eq!(&old.name, &cluster.members[rank].name);
                    prop_assert_eq!(&old.sig_key, &cluster.members[rank].sig_key);
                }
            }
        }
        let members: usize = bench.0.maps.clusters.values().map(|c| c.members.len()).sum();
        prop_assert_eq!(bench.0.counts().members, members);
    }
}
