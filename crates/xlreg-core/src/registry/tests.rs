//! The rules, one by one, then against random sequences of commands.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::admission::TokenProof;
use crate::cluster::EventKind;
use crate::limits::{CLUSTER_EVENTS_MAX, CLUSTER_TOKENS_MAX};
use crate::{EntrySignature, Lifetime, Policy, Seat, Time};

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
        entry_signature: None,
    })
}

/// What stands for the one signature that this entry can have.
fn signature(member: &Member) -> EntrySignature {
    let Member { id, name, attrs, comms_key, sig_key, endpoints, .. } = member;
    let mut hasher = DefaultHasher::new();
    (id, name, attrs, comms_key, sig_key, endpoints).hash(&mut hasher);
    EntrySignature::new(&hasher.finish().to_be_bytes().repeat(32)).unwrap()
}

fn signed(member: &Member) -> Arc<Member> {
    Arc::new(Member { entry_signature: Some(signature(member)), ..member.clone() })
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
        self.define(&NewCluster::open(name(text), size, endpoint_count), fresh).unwrap()
    }

    /// A cluster that key 1 owns.
    fn define(&mut self, new: &NewCluster, fresh: u8) -> Result<Arc<Cluster>, Refusal> {
        let fresh = ClusterId::from_bytes([fresh; 20]);
        let owner = key(1).fingerprint();
        match self.run(&Command::Create { new: new.clone(), owner, fresh, strict: false })? {
            Outcome::Created { cluster, .. } => Ok(cluster),
            other => panic!("created, but {other:?}"),
        }
    }

    fn with_policy(&mut self, policy: Policy) {
        self.define(&NewCluster { policy, ..NewCluster::open(name("alpha"), 3, 1) }, 1).unwrap();
    }

    fn with_life(&mut self, lifetime: Lifetime) {
        let new = NewCluster { lifetime, ..NewCluster::open(name("alpha"), 2, 1) };
        self.define(&new, 1).unwrap();
    }

    fn join(&mut self, cluster: &str, member: &Arc<Member>) -> Result<usize, Refusal> {
        self.join_by(cluster, member, Admission::OldWire)
    }

    fn join_by(
        &mut self,
        cluster: &str,
        member: &Arc<Member>,
        admission: Admission,
    ) -> Result<usize, Refusal> {
        let (cluster, member) = (by_name(cluster), Arc::clone(member));
        match self.run(&Command::Join { cluster, member, admission })? {
            Outcome::Joined { rank, .. } => Ok(rank),
            other => panic!("joined, but {other:?}"),
        }
    }

    /// Three members with keys 1, 2 and 3 in a cluster for three.
    fn alpha_of_three(&mut self) {
        self.create("alpha", 3, 1, 1);
        for n in 1..=3 {
            self.register(Some(n), 90, n).unwrap();
            self.join("alpha", &member(n, &format!("m{n}"), n, 1)).unwrap();
        }
    }

    fn leave(&mut self, sig: u8) -> Result<Outcome, Refusal> {
        self.run(&Command::Leave { cluster: by_name("alpha"), who: who(sig, None) })
    }

    fn expel(&mut self, by: Actor, id: u8) -> Result<Outcome, Refusal> {
        self.run(&Command::Expel { cluster: by_name("alpha"), by, member: node_id(id) })
    }

    fn issue(&mut self, by: Actor, n: u8, uses: u32) -> Result<Outcome, Refusal> {
        let token = NewToken {
            id: TokenId::from_bytes([n; 4]),
            digest: TokenDigest::from_bytes([n; 32]),
            label: Label::default(),
            ttl: Duration::from_millis(100),
            uses,
        };
        self.run(&Command::IssueToken { cluster: by_name("alpha"), by, token })
    }

    fn rotate(&mut self, old: u8, new: u8) -> Result<Outcome, Refusal> {
        let (old, sig_key) = (key(old).fingerprint(), Some(key(new)));
        self.run(&Command::Rotate { old, sig_key, comms_key: None })
    }

    fn delete(&mut self, by: Actor) -> Result<Outcome, Refusal> {
        self.run(&Command::Delete { cluster: by_name("alpha"), by })
    }

    fn alpha(&self) -> Arc<Cluster> {
        self.0.find(&by_name("alpha")).unwrap()
    }

    fn uses(&self, n: u8) -> u32 {
        self.alpha().token(&TokenId::from_bytes([n; 4])).unwrap().uses
    }
}

const OWNER: Actor = Actor { sig_key: Fingerprint::from_bytes([1; 32]), admin: false };
const ADMIN: Actor = Actor { sig_key: Fingerprint::from_bytes([99; 32]), admin: true };
const STRANGER: Actor = Actor { sig_key: Fingerprint::from_bytes([2; 32]), admin: false };

fn by_name(text: &str) -> ClusterKey {
    ClusterKey::Name(name(text))
}

fn who(sig: u8, name: Option<Name>) -> Who {
    Who { sig_key: key(sig).fingerprint(), name }
}

fn token(id: u8, secret: u8) -> Admission {
    let (id, digest) = (TokenId::from_bytes([id; 4]), TokenDigest::from_bytes([secret; 32]));
    Admission::Token(TokenProof { id, digest })
}

fn m(n: u8) -> Arc<Member> {
    member(n, &format!("m{n}"), n, 1)
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
    let (rank, first) = cluster.present().next().unwrap();
    assert_eq!((rank, first.id, first.endpoints.len()), (0, node_id(9), 3));
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
    let command = Command::Join {
        cluster: by_name("alpha"),
        member: member(1, "a", 1, 1),
        admission: Admission::Key,
    };
    assert_eq!(decide(&command, bench.1, &bench.0).unwrap().changes, []);
}

#[test]
fn an_entrys_signature_stays_as_long_as_the_entry_does() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    let plain = member(1, "m1", 1, 1);
    let has = |bench: &Bench| bench.alpha().member(&node_id(1)).unwrap().1.entry_signature.clone();
    assert_eq!(has(&bench), None);
    // To sign what is there already is a change, and told; to sign it again is none.
    let whole = signed(&plain);
    bench.join("alpha", &whole).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (whole.entry_signature.clone(), 4));
    let told = bench.alpha().events_after(3).unwrap()[0].clone();
    assert_eq!((told.kind, &told.member), (EventKind::Updated, &whole));
    bench.join("alpha", &whole).unwrap();
    // Nor is to come back without it, or to leave and return.
    bench.join("alpha", &plain).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (whole.entry_signature.clone(), 4));
    bench.leave(1).unwrap();
    bench.join("alpha", &plain).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (whole.entry_signature.clone(), 6));
    // Whoever says something else without signing it has signed nothing.
    bench.join("alpha", &member(1, "m1", 1, 2)).unwrap();
    assert_eq!(has(&bench), None);
    bench.join("alpha", &whole).unwrap();
    assert!(has(&bench).is_some());
    // Other keys, and then the very same once more.
    bench.rotate(1, 50).unwrap();
    assert_eq!(has(&bench), None);
    let alpha = bench.alpha();
    let renewed = alpha.member(&node_id(1)).unwrap().1;
    bench.join("alpha", &signed(renewed)).unwrap();
    let same = Command::Rotate { old: key(50).fingerprint(), sig_key: None, comms_key: None };
    bench.run(&same).unwrap();
    assert!(has(&bench).is_some());
}

#[test]
fn who_moves_signs_the_entry_that_comes_of_it_or_none() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    let at = |endpoints| member(1, "m1", 1, endpoints);
    let relocate = |bench: &mut Bench, endpoints, signed: Option<Arc<Member>>| {
        let endpoints = at(endpoints).endpoints.clone();
        let (cluster, who) = (by_name("alpha"), who(1, None));
        bench.run(&Command::Move { cluster, who, endpoints, signed })
    };
    let has = |bench: &Bench| bench.alpha().member(&node_id(1)).unwrap().1.entry_signature.clone();
    relocate(&mut bench, 2, Some(signed(&at(2)))).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (Some(signature(&at(2))), 4));
    // To stay where one is keeps it, signed again or not.
    relocate(&mut bench, 2, Some(signed(&at(2)))).unwrap();
    relocate(&mut bench, 2, None).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (Some(signature(&at(2))), 4));
    for other in [at(1), member(9, "m1", 1, 3), member(1, "m9", 1, 3), member(1, "m1", 9, 3)] {
        let moved = relocate(&mut bench, 3, Some(signed(&other)));
        assert_eq!(moved, Err(Refusal::EntryDiffers), "{other:?}");
    }
    assert_eq!(bench.alpha().revision, 4);
    relocate(&mut bench, 3, None).unwrap();
    assert_eq!((has(&bench), bench.alpha().revision), (None, 5));
    bench.leave(1).unwrap();
    assert_eq!(relocate(&mut bench, 3, Some(signed(&at(3)))), Err(Refusal::NotAMember));
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
    let limits = Limits { nodes_max: 1, clusters_max: 1, members_max: 1, ..Limits::default() };
    let mut bench = Bench(Registry::new(limits), Time::default());
    bench.register(Some(1), 90, 1).unwrap();
    assert_eq!(bench.register(Some(2), 91, 1), Err(Refusal::RegistryFull));
    assert!(bench.register(None, 92, 1).is_ok());
    bench.create("alpha", 2, 1, 1);
    bench.create("alpha", 2, 1, 2);
    let beta = NewCluster::open(name("beta"), 2, 1);
    assert_eq!(bench.define(&beta, 3), Err(Refusal::RegistryFull));
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 1)), Ok(0));
    assert_eq!(bench.join("alpha", &member(2, "b", 2, 1)), Err(Refusal::RegistryFull));
    assert_eq!(bench.join("alpha", &member(9, "a", 1, 2)), Ok(0));
    // A retired key is known for ever, so those are counted, too.
    assert!(bench.rotate(1, 5).is_ok());
    assert_eq!(bench.rotate(5, 6), Err(Refusal::RegistryFull));
}

#[test]
fn one_key_has_so_many_ids_clusters_and_ranks() {
    let limits = Limits {
        ids_per_key_max: 1,
        clusters_per_key_max: 1,
        memberships_per_key_max: 1,
        ..Limits::default()
    };
    let mut bench = Bench(Registry::new(limits), Time::default());
    bench.register(Some(1), 90, 1).unwrap();
    assert_eq!(bench.register(Some(2), 91, 1), Err(Refusal::Quota { what: "IDs", max: 1 }));
    bench.with_life(Lifetime { ttl: Some(Duration::from_millis(5)), ..Lifetime::default() });
    let beta = NewCluster::open(name("beta"), 2, 1);
    assert_eq!(bench.define(&beta, 2), Err(Refusal::Quota { what: "clusters", max: 1 }));
    bench.join("alpha", &member(1, "a", 1, 1)).unwrap();
    let full = Err(Refusal::Quota { what: "ranks", max: 1 });
    assert_eq!(bench.join("alpha", &member(2, "b", 1, 1)), full);
    // One whose time is over makes room for the one that takes its name.
    bench.1 = Time::from_millis(5);
    assert_eq!(bench.create("alpha", 2, 1, 3).id, ClusterId::from_bytes([3; 20]));
}

#[test]
fn each_policy_lets_in_whom_it_names() {
    let mut open = Bench::default();
    open.with_policy(Policy::Open);
    assert_eq!(open.join("alpha", &m(1)), Ok(0));
    assert_eq!(open.join_by("alpha", &m(2), Admission::Key), Ok(1));
    assert_eq!(open.join_by("alpha", &m(3), token(9, 9)), Ok(2));

    let mut keys = Bench::default();
    keys.with_policy(Policy::Keys([key(2).fingerprint()].into()));
    assert_eq!(keys.join("alpha", &m(2)), Err(Refusal::NotByOldWire));
    assert_eq!(keys.join_by("alpha", &m(3), token(9, 9)), Err(Refusal::KeyNotAllowed));
    assert_eq!(keys.join_by("alpha", &m(2), Admission::Key), Ok(0));

    let mut tokens = Bench::default();
    tokens.with_policy(Policy::Token);
    assert_eq!(tokens.join("alpha", &m(2)), Err(Refusal::NotByOldWire));
    assert_eq!(tokens.join_by("alpha", &m(2), Admission::Key), Err(Refusal::TokenRequired));
    assert_eq!(tokens.join_by("alpha", &m(2), token(9, 9)), Err(Refusal::TokenInvalid));
}

#[test]
fn a_list_keeps_a_rank_for_each_of_its_keys() {
    let listed = |keys: &[u8]| Policy::Keys(keys.iter().map(|n| key(*n).fingerprint()).collect());
    let by_key = |n, sig| member(n, &format!("m{n}"), sig, 1);
    // As long as the cluster is large, or longer: one for each.
    for keys in [&[1, 2, 3][..], &[1, 2, 3, 4, 5]] {
        let mut bench = Bench::default();
        bench.with_policy(listed(keys));
        let mut join = |n, sig| bench.join_by("alpha", &by_key(n, sig), Admission::Key);
        assert_eq!(join(1, 1), Ok(0));
        assert_eq!(join(11, 1), Err(Refusal::RanksKept));
        assert_eq!(join(2, 2), Ok(1));
        assert_eq!(join(12, 2), Err(Refusal::RanksKept));
        assert_eq!(join(1, 1), Ok(0), "what it has it may have again");
        assert_eq!(join(3, 3), Ok(2));
        assert_eq!(join(13, 3), Err(Refusal::ClusterFull { size: 3 }));
    }
    // Shorter: what is over goes to who comes first.
    let mut bench = Bench::default();
    bench.with_policy(listed(&[1, 2]));
    assert_eq!(bench.join_by("alpha", &by_key(1, 1), Admission::Key), Ok(0));
    assert_eq!(bench.join_by("alpha", &by_key(11, 1), Admission::Key), Ok(1));
    let third = by_key(21, 1);
    assert_eq!(bench.join_by("alpha", &third, Admission::Key), Err(Refusal::RanksKept));
    // Nothing is kept for who can't come any more.
    assert_eq!(bench.join_by("alpha", &by_key(2, 2), Admission::Key), Ok(2));
    bench.expel(OWNER, 2).unwrap();
    assert_eq!(bench.join_by("alpha", &third, Admission::Key), Ok(2));
}

#[test]
fn a_key_keeps_its_place_on_a_list_where_it_is_a_member_or_the_owner() {
    let list = |keys: [u8; 2]| Policy::Keys(keys.map(|n| key(n).fingerprint()).into());
    let mut bench = Bench::default();
    bench.with_policy(list([1, 2]));
    bench.register(Some(2), 90, 2).unwrap();
    bench.join_by("alpha", &m(2), Admission::Key).unwrap();
    bench.rotate(2, 50).unwrap();
    assert_eq!(bench.alpha().policy, list([1, 50]));
    // The owner, which has not joined yet.
    bench.register(Some(1), 90, 1).unwrap();
    bench.rotate(1, 51).unwrap();
    let alpha = bench.alpha();
    assert_eq!((&alpha.policy, alpha.owner), (&list([50, 51]), Some(key(51).fingerprint())));
    assert_eq!(bench.join_by("alpha", &member(1, "m1", 51, 1), Admission::Key), Ok(1));
}

#[test]
fn a_token_is_used_once_for_each_rank_and_never_for_coming_back() {
    let mut bench = Bench::default();
    bench.with_policy(Policy::Token);
    bench.issue(OWNER, 9, 2).unwrap();
    assert_eq!(bench.join_by("alpha", &m(1), token(9, 8)), Err(Refusal::TokenInvalid));
    assert_eq!(bench.join_by("alpha", &m(1), token(9, 9)), Ok(0));
    assert_eq!(bench.join_by("alpha", &m(1), token(9, 9)), Ok(0));
    bench.leave(1).unwrap();
    assert_eq!(bench.join_by("alpha", &m(1), Admission::Key), Ok(0));
    assert_eq!(bench.uses(9), 1);
    assert_eq!(bench.join_by("alpha", &m(2), token(9, 9)), Ok(1));
    assert_eq!(bench.join_by("alpha", &m(3), token(9, 9)), Err(Refusal::TokenSpent));
    assert_eq!(bench.uses(9), 2);
    // Where there is no room, another token would be of no use.
    bench.issue(OWNER, 8, 1).unwrap();
    assert_eq!(bench.join_by("alpha", &m(3), token(8, 8)), Ok(2));
    assert_eq!(bench.alpha().size, 3);
    assert_eq!(bench.join_by("alpha", &m(4), token(9, 9)), Err(Refusal::ClusterFull { size: 3 }));
    assert_eq!(bench.join_by("alpha", &m(4), token(9, 8)), Err(Refusal::TokenInvalid));
}

#[test]
fn a_token_that_has_expired_or_is_revoked_lets_nobody_in() {
    let mut bench = Bench::default();
    bench.with_policy(Policy::Token);
    bench.issue(OWNER, 9, 0).unwrap();
    assert_eq!(bench.issue(OWNER, 9, 0), Err(Refusal::IdInUse));
    bench.1 = Time::from_millis(100);
    assert_eq!(bench.join_by("alpha", &m(1), token(9, 9)), Err(Refusal::TokenExpired));
    bench.issue(OWNER, 8, 0).unwrap();
    let token_id = TokenId::from_bytes([8; 4]);
    let revoke = |by| Command::RevokeToken { cluster: by_name("alpha"), by, token: token_id };
    assert_eq!(bench.run(&revoke(STRANGER)), Err(Refusal::NotOwner));
    bench.run(&revoke(ADMIN)).unwrap();
    assert_eq!(bench.run(&revoke(OWNER)), Err(Refusal::UnknownToken));
    assert_eq!(bench.join_by("alpha", &m(1), token(8, 8)), Err(Refusal::TokenInvalid));
}

#[test]
fn no_token_outlives_its_cluster() {
    for (ends, expires) in [(60, 60), (200, 100)] {
        let mut bench = Bench::default();
        let ttl = Some(Duration::from_millis(ends));
        bench.with_life(Lifetime { ttl, ..Lifetime::default() });
        bench.issue(OWNER, 9, 0).unwrap();
        let alpha = bench.alpha();
        let token = alpha.token(&TokenId::from_bytes([9; 4])).unwrap();
        assert_eq!(token.expires, Time::from_millis(expires));
    }
}

#[test]
fn tokens_that_are_over_make_room_for_new_ones() {
    let mut bench = Bench::default();
    bench.with_policy(Policy::Token);
    for n in 0..CLUSTER_TOKENS_MAX as u8 {
        bench.issue(OWNER, n, 1).unwrap();
    }
    let full = Refusal::Quota { what: "tokens of this cluster", max: CLUSTER_TOKENS_MAX };
    assert_eq!(bench.issue(OWNER, 200, 1), Err(full));
    bench.join_by("alpha", &m(1), token(7, 7)).unwrap();
    bench.issue(OWNER, 200, 1).unwrap();
    let alpha = bench.alpha();
    assert_eq!(alpha.tokens.len(), CLUSTER_TOKENS_MAX);
    assert_eq!(alpha.token(&TokenId::from_bytes([7; 4])), None);
}

#[test]
fn who_leaves_keeps_the_rank_for_itself() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    bench.leave(2).unwrap();
    assert!(!bench.alpha().is_complete());
    assert_eq!(bench.join("alpha", &m(4)), Err(Refusal::ClusterFull { size: 3 }));
    assert_eq!(bench.join("alpha", &member(4, "m2", 4, 1)), Err(Refusal::MemberNameInUse));
    assert_eq!(bench.leave(4), Err(Refusal::NotAMember));
    assert_eq!(bench.join("alpha", &m(2)), Ok(1));
    assert!(bench.alpha().is_complete());
}

#[test]
fn a_key_with_several_ranks_says_which() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    bench.join("alpha", &member(1, "a", 1, 1)).unwrap();
    bench.join("alpha", &member(2, "b", 1, 1)).unwrap();
    assert_eq!(bench.leave(1), Err(Refusal::WhichMember));
    let leave = Command::Leave { cluster: by_name("alpha"), who: who(1, Some(name("b"))) };
    bench.run(&leave).unwrap();
    assert_eq!(bench.alpha().present().map(|(rank, _)| rank).collect::<Vec<_>>(), [0]);
}

#[test]
fn who_is_expelled_loses_all_ranks_and_never_comes_back() {
    let mut bench = Bench::default();
    bench.create("alpha", 4, 1, 1);
    for (id, text, sig) in [(1, "a", 1), (2, "b", 2), (3, "c", 3), (4, "d", 2)] {
        bench.join("alpha", &member(id, text, sig, 1)).unwrap();
    }
    assert_eq!(bench.expel(STRANGER, 1), Err(Refusal::NotOwner));
    bench.expel(OWNER, 4).unwrap();
    let alpha = bench.alpha();
    assert_eq!((alpha.seats.len(), &alpha.seats[1]), (3, &Seat::Free));
    assert_eq!((bench.0.counts().members, alpha.revision), (2, 6));
    for again in [member(2, "b", 2, 1), member(9, "z", 2, 1)] {
        assert_eq!(bench.join("alpha", &again), Err(Refusal::Expelled));
    }
    // The lowest free rank first.
    assert_eq!(bench.join("alpha", &m(5)), Ok(1));
    assert_eq!(bench.join("alpha", &m(6)), Ok(3));
    assert_eq!(bench.expel(ADMIN, 2), Err(Refusal::NotAMember));
}

/// Or it would be gone whenever somebody who has looked at the roster comes to expel it.
#[test]
fn a_member_is_expelled_by_whichever_of_its_ids_it_is_named() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    bench.register(Some(9), 90, 2).unwrap();
    assert_eq!(bench.join("alpha", &member(9, "m2", 2, 1)), Ok(1));
    bench.register(Some(7), 90, 7).unwrap();
    assert_eq!(bench.expel(OWNER, 7), Err(Refusal::NotAMember));
    bench.expel(OWNER, 2).unwrap();
    assert_eq!(bench.alpha().seats[1], Seat::Free);
    assert_eq!(bench.join("alpha", &member(9, "m2", 2, 1)), Err(Refusal::Expelled));
}

#[test]
fn owners_and_administrators_alone_command_a_cluster() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    assert_eq!(bench.issue(STRANGER, 9, 0), Err(Refusal::NotOwner));
    assert!(bench.issue(ADMIN, 9, 0).is_ok() && bench.issue(OWNER, 8, 0).is_ok());
    assert_eq!(bench.delete(STRANGER), Err(Refusal::NotOwner));
    assert!(matches!(bench.delete(OWNER), Ok(Outcome::Ended(_))));
    assert_eq!(bench.delete(OWNER), Err(Refusal::UnknownClusterName));
    let counts = bench.0.counts();
    assert_eq!((counts.clusters, counts.members), (0, 0));
    // The name is free, and nobody is in it.
    assert!(bench.create("alpha", 2, 1, 2).seats.is_empty());
    assert!(bench.delete(ADMIN).is_ok());
}

#[test]
fn a_cluster_that_is_not_full_in_time_is_unknown_and_its_name_free() {
    let mut bench = Bench::default();
    let life = Lifetime { fill_within: Some(Duration::from_millis(9)), ..Lifetime::default() };
    bench.with_life(life);
    bench.join("alpha", &m(1)).unwrap();
    assert_eq!(bench.0.next_deadline().map(|next| next.0), Some(Time::from_millis(9)));
    bench.1 = Time::from_millis(9);
    assert_eq!(bench.join("alpha", &m(2)), Err(Refusal::UnknownClusterName));
    assert_eq!(bench.leave(1), Err(Refusal::UnknownClusterName));
    assert_eq!(bench.delete(ADMIN), Err(Refusal::UnknownClusterName));
    assert!(bench.create("alpha", 2, 1, 2).seats.is_empty());
    assert_eq!((bench.0.counts().clusters, bench.0.counts().members), (1, 0));
    assert_eq!(bench.0.next_deadline(), None);
}

#[test]
fn once_full_a_cluster_need_not_be_filled_again() {
    let mut bench = Bench::default();
    let life = Lifetime { fill_within: Some(Duration::from_millis(9)), ..Lifetime::default() };
    bench.with_life(life);
    bench.join("alpha", &m(1)).unwrap();
    bench.join("alpha", &m(2)).unwrap();
    bench.leave(2).unwrap();
    bench.1 = Time::from_millis(9);
    assert_eq!(bench.0.next_deadline(), None);
    assert_eq!(bench.join("alpha", &m(2)), Ok(1));
}

#[test]
fn a_cluster_ends_when_its_time_has_come_and_not_before() {
    let life = |ttl: Option<u64>, idle: Option<u64>, with_owner| Lifetime {
        fill_within: None,
        ttl: ttl.map(Duration::from_millis),
        idle: idle.map(Duration::from_millis),
        with_owner,
    };
    let cluster = ClusterId::from_bytes([1; 20]);
    for (life, because, at) in [
        (life(Some(9), None, false), Because::Time, 9),
        (life(None, Some(9), false), Because::Idle, 9),
        (life(None, None, true), Because::OwnerGone, 0),
    ] {
        let mut bench = Bench::default();
        bench.with_life(life);
        for other in [Because::Time, Because::Idle, Because::OwnerGone] {
            // Long after, for another reason; and just before, for the right one.
            bench.1 = Time::from_millis(if other == because { 8 } else { 1000 });
            if other != because || at > 0 {
                let expire = Command::Expire { cluster, because: other };
                assert_eq!(bench.run(&expire), Ok(Outcome::Nothing));
            }
        }
        bench.1 = Time::from_millis(at);
        let ended = bench.run(&Command::Expire { cluster, because });
        assert!(matches!(ended, Ok(Outcome::Ended(_))), "{because:?}");
    }
    let mut bench = Bench::default();
    bench.with_life(life(None, Some(9), false));
    bench.1 = Time::from_millis(5);
    bench.run(&Command::Touch { cluster }).unwrap();
    bench.1 = Time::from_millis(13);
    let idle = Command::Expire { cluster, because: Because::Idle };
    assert_eq!(bench.run(&idle), Ok(Outcome::Nothing));
    bench.1 = Time::from_millis(14);
    assert!(matches!(bench.run(&idle), Ok(Outcome::Ended(_))));
}

#[test]
fn all_that_a_key_has_follows_it_and_the_old_one_is_of_no_use() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    bench.register(Some(7), 90, 1).unwrap();
    bench.join("alpha", &member(7, "m1", 1, 1)).unwrap();
    let (old, new) = (key(1).fingerprint(), key(50).fingerprint());
    let ids = vec![node_id(1), node_id(7)];
    assert_eq!(bench.rotate(1, 50), Ok(Outcome::Rotated { ids: ids.clone(), sig_key: new }));
    let alpha = bench.alpha();
    assert_eq!((alpha.owner, alpha.ranks_of(&new).collect::<Vec<_>>()), (Some(new), vec![0]));
    assert_eq!(bench.0.key(&new).ids().collect::<Vec<_>>(), ids);
    assert_eq!(bench.0.key(&new).owned(), [alpha.id]);
    assert!(bench.0.key(&old).is_retired() && bench.0.key(&old).joined().is_empty());
    for refused in [
        bench.register(Some(1), 90, 1),
        bench.rotate(1, 60),
        bench.leave(1),
        bench.delete(OWNER),
        bench.issue(OWNER, 9, 0),
        bench.join("alpha", &member(7, "m1", 1, 1)).map(|_| Outcome::Nothing),
        bench.define(&NewCluster::open(name("beta"), 2, 1), 9).map(|_| Outcome::Nothing),
    ] {
        assert_eq!(refused, Err(Refusal::KeyRetired));
    }
    assert_eq!(bench.join("alpha", &member(7, "m1", 50, 1)), Ok(0));
    // Neither a key that was retired nor one that has something is new.
    for known in [1, 2] {
        assert_eq!(bench.rotate(50, known), Err(Refusal::KeyInUse));
    }
    assert_eq!(bench.rotate(77, 78), Err(Refusal::NotRegistered));
}

#[test]
fn a_rotation_reaches_all_ranks_and_may_be_of_the_comms_key_alone() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    bench.register(Some(1), 90, 1).unwrap();
    bench.join("alpha", &member(1, "a", 1, 1)).unwrap();
    bench.join("alpha", &member(2, "b", 1, 1)).unwrap();
    bench.rotate(1, 50).unwrap();
    assert_eq!((bench.alpha().revision, bench.0.counts().members), (4, 2));
    let comms = |n| {
        let (old, comms_key) = (key(50).fingerprint(), Some(key(n)));
        Command::Rotate { old, sig_key: None, comms_key }
    };
    bench.run(&comms(60)).unwrap();
    let alpha = bench.alpha();
    assert!(alpha.present().all(|(_, member)| member.comms_key == key(60)));
    assert_eq!((alpha.revision, bench.0.comms_key(&node_id(1))), (6, Some(key(60))));
    // Once more the same is nothing new.
    assert_eq!(decide(&comms(60), bench.1, &bench.0).unwrap().changes, []);
}

#[test]
fn who_was_expelled_does_not_come_back_with_another_key() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    bench.expel(OWNER, 3).unwrap();
    bench.rotate(3, 50).unwrap();
    let alpha = bench.alpha();
    let (old, new) = (key(3).fingerprint(), key(50).fingerprint());
    assert_eq!(alpha.expelled, [new].into());
    assert_eq!(
        (bench.0.key(&old).barred(), bench.0.key(&new).barred()),
        (&[][..], &[alpha.id][..])
    );
    let again = member(3, "m3", 50, 1);
    assert_eq!(bench.join("alpha", &again), Err(Refusal::Expelled));
}

#[test]
fn an_id_keeps_its_comms_key() {
    let mut bench = Bench::default();
    bench.create("alpha", 2, 1, 1);
    let mut register = |n| {
        let (sig_key, id) = (key(1).fingerprint(), node_id(1));
        let comms_key = Some(key(n));
        bench.run(&Command::Register { claimed: Some(id), fresh: id, sig_key, comms_key })
    };
    assert!(register(60).is_ok() && register(60).is_ok());
    assert_eq!(register(61), Err(Refusal::CommsKeyDiffers));
    assert_eq!(bench.join("alpha", &member(1, "a", 1, 1)), Err(Refusal::CommsKeyDiffers));
}

#[test]
fn events_are_exactly_the_changes_as_far_as_they_are_remembered() {
    let mut bench = Bench::default();
    bench.alpha_of_three();
    bench.leave(2).unwrap();
    bench.join("alpha", &m(2)).unwrap();
    bench.rotate(2, 50).unwrap();
    bench.expel(OWNER, 3).unwrap();
    let alpha = bench.alpha();
    let kinds = |after| -> Vec<_> {
        alpha.events_after(after).unwrap().iter().map(|event| (event.kind, event.rank)).collect()
    };
    let later = [
        (EventKind::Left, 1),
        (EventKind::Returned, 1),
        (EventKind::Rotated, 1),
        (EventKind::Expelled, 2),
    ];
    assert_eq!((alpha.revision, kinds(3)), (7, later.to_vec()));
    assert_eq!((kinds(7), alpha.events_after(8)), (vec![], None));
    // The end is no change of the roster.
    let ended = alpha.ended(crate::cluster::Gone::Deleted);
    assert_eq!(ended.events_after(6).map(<[_]>::len), Some(1));
    assert_eq!(ended.events_after(7).map(<[_]>::len), Some(0));
    for _ in 0..CLUSTER_EVENTS_MAX {
        bench.leave(1).unwrap();
        bench.join("alpha", &m(1)).unwrap();
    }
    let alpha = bench.alpha();
    let oldest = alpha.revision - CLUSTER_EVENTS_MAX as u64;
    assert_eq!(alpha.events_after(oldest).map(<[_]>::len), Some(CLUSTER_EVENTS_MAX));
    assert_eq!(alpha.events_after(oldest - 1), None);
}

fn any_actor() -> impl Strategy<Value = Actor> {
    (0u8..8, any::<bool>()).prop_map(|(n, admin)| Actor { sig_key: key(n).fingerprint(), admin })
}

fn any_cluster() -> impl Strategy<Value = ClusterKey> {
    (0u8..3).prop_map(|n| by_name(&format!("c{n}")))
}

fn any_lifetime() -> impl Strategy<Value = Lifetime> {
    let time = || prop::option::weighted(0.3, (1u64..60).prop_map(Duration::from_millis));
    (time(), time(), time(), any::<bool>()).prop_map(|(fill_within, ttl, idle, with_owner)| {
        Lifetime { fill_within, ttl, idle, with_owner }
    })
}

/// Commands over so few keys, names and IDs that they collide all the time.
fn any_of_nodes() -> impl Strategy<Value = Command> {
    let comms = || prop::option::weighted(0.2, (0u8..8).prop_map(key));
    let register = (prop::option::of(0u8..6), 100u8..255, 0u8..8, comms());
    let register = register.prop_map(|(claimed, fresh, sig, comms_key)| Command::Register {
        claimed: claimed.map(node_id),
        fresh: node_id(fresh),
        sig_key: key(sig).fingerprint(),
        comms_key,
    });
    let rotate = (0u8..8, prop::option::of((0u8..8).prop_map(key)), comms());
    let rotate = rotate.prop_map(|(old, sig_key, comms_key)| {
        let old = key(old).fingerprint();
        Command::Rotate { old, sig_key, comms_key }
    });
    let admission = prop_oneof![
        Just(Admission::OldWire),
        Just(Admission::Key),
        (0u8..3).prop_map(|n| token(n, n))
    ];
    let join = (any_cluster(), 0u8..6, 0u8..5, 0u8..8, 0usize..4, admission, any::<bool>());
    let join = join.prop_map(|(cluster, id, n, sig, ends, admission, signs)| {
        let plain = member(id, &format!("m{n}"), sig, ends);
        Command::Join { cluster, member: if signs { signed(&plain) } else { plain }, admission }
    });
    let leave = (any_cluster(), 0u8..8, 0u8..5, any::<bool>(), any::<bool>(), any::<bool>());
    let leave = leave.prop_map(|(cluster, sig, n, named, leaves, signs)| {
        let who = who(sig, named.then(|| name(&format!("m{n}"))));
        let to = member(sig, &format!("m{n}"), sig, usize::from(n));
        let relocate = Command::Move {
            cluster: cluster.clone(),
            who: who.clone(),
            endpoints: to.endpoints.clone(),
            signed: signs.then(|| signed(&to)),
        };
        if leaves { Command::Leave { cluster, who } } else { relocate }
    });
    prop_oneof![2 => register, 1 => rotate, 5 => join, 2 => leave]
}

fn any_of_owners() -> impl Strategy<Value = Command> {
    let policy = select(vec![
        Policy::Open,
        Policy::Token,
        Policy::Keys((0..4).map(|n| key(n).fingerprint()).collect()),
    ]);
    let create = (0u8..3, 0u32..6, 0u32..4, policy, any_lifetime(), 0u8..8, 0u8..9);
    let create = create.prop_map(|(n, size, endpoint_count, policy, lifetime, owner, fresh)| {
        let open = NewCluster::open(name(&format!("c{n}")), size, endpoint_count);
        Command::Create {
            new: NewCluster { policy, lifetime, ..open },
            owner: key(owner).fingerprint(),
            fresh: ClusterId::from_bytes([fresh; 20]),
            strict: false,
        }
    });
    let expel = (any_cluster(), any_actor(), (0u8..6).prop_map(node_id));
    let expel = expel.prop_map(|(cluster, by, member)| Command::Expel { cluster, by, member });
    let delete = (any_cluster(), any_actor());
    let delete = delete.prop_map(|(cluster, by)| Command::Delete { cluster, by });
    let tokens = (any_cluster(), any_actor(), 0u8..3, 0u32..3, any::<bool>());
    let tokens = tokens.prop_map(|(cluster, by, n, uses, revoke)| {
        let id = TokenId::from_bytes([n; 4]);
        if revoke {
            return Command::RevokeToken { cluster, by, token: id };
        }
        let (digest, ttl) = (TokenDigest::from_bytes([n; 32]), Duration::from_millis(50));
        let token = NewToken { id, digest, label: Label::default(), ttl, uses };
        Command::IssueToken { cluster, by, token }
    });
    let why = select(vec![Because::Time, Because::Idle, Because::OwnerGone]);
    let end = (0u8..9, why, any::<bool>()).prop_map(|(n, because, touch)| {
        let cluster = ClusterId::from_bytes([n; 20]);
        if touch { Command::Touch { cluster } } else { Command::Expire { cluster, because } }
    });
    prop_oneof![4 => create, 2 => expel, 1 => delete, 4 => tokens, 1 => end]
}

fn any_command() -> impl Strategy<Value = (u64, Command)> {
    (0u64..4, prop_oneof![any_of_nodes(), any_of_owners()])
}

/// Whoever holds a rank holds it with a name and a place of its own, and has signed what it says, if
/// anything.
fn check_roster(cluster: &Cluster) -> Result<(), TestCaseError> {
    prop_assert!(cluster.seats.len() <= cluster.size as usize);
    prop_assert_ne!(cluster.seats.last(), Some(&Seat::Free));
    let holders: Vec<_> = cluster.holders().map(|(_, member)| member).collect();
    let names: HashSet<_> = holders.iter().map(|member| &member.name).collect();
    let ids: HashSet<_> = holders.iter().map(|member| member.id).collect();
    prop_assert_eq!((names.len(), ids.len()), (holders.len(), holders.len()));
    for member in &holders {
        let own = signature(member);
        prop_assert!(member.entry_signature.as_ref().is_none_or(|over| *over == own));
    }
    prop_assert!(cluster.tokens.iter().all(|token| token.uses <= token.uses_max));
    prop_assert!(!cluster.is_complete() || cluster.life.fill_by.is_none());
    Ok(())
}

/// What is counted and indexed is what going through all clusters gives.
fn check_counts(registry: &Registry) -> Result<(), TestCaseError> {
    let clusters = &registry.maps.clusters;
    let counts = registry.counts();
    let members: usize = clusters.values().map(|cluster| cluster.holders().count()).sum();
    prop_assert_eq!((counts.clusters, counts.members), (clusters.len(), members));
    prop_assert_eq!(counts.nodes, registry.maps.owners.len());
    prop_assert_eq!(registry.maps.names.len(), clusters.len());
    let soonest = clusters.values().filter_map(|one| Some((one.deadline()?, one.id))).min();
    prop_assert_eq!(registry.next_deadline(), soonest);
    let bound = clusters.values().filter(|cluster| cluster.life.with_owner);
    prop_assert_eq!(registry.with_owner().count(), bound.count());
    let mut retired = 0;
    for (key, record) in &registry.maps.keys {
        let sorted = |mut ids: Vec<ClusterId>| {
            ids.sort_unstable();
            ids
        };
        let owned = clusters.values().filter(|cluster| cluster.owner == Some(*key));
        let owned: Vec<_> = owned.map(|cluster| cluster.id).collect();
        prop_assert_eq!(sorted(record.owned().to_vec()), sorted(owned));
        let joined = clusters.values();
        let joined = joined.flat_map(|cluster| cluster.ranks_of(key).map(|_| cluster.id));
        prop_assert_eq!(sorted(record.joined().to_vec()), sorted(joined.collect()));
        let ids: BTreeSet<_> = record.ids().collect();
        let bound = registry.maps.owners.iter().filter(|(_, owner)| *owner == key);
        prop_assert_eq!(ids, bound.map(|(id, _)| *id).collect::<BTreeSet<_>>());
        if record.is_retired() {
            retired += 1;
            prop_assert!(record.latest.is_none());
            prop_assert!(record.owned().is_empty() && record.joined().is_empty());
        }
    }
    prop_assert_eq!(counts.retired, retired);
    Ok(())
}

/// A rank changes hands only by expulsion, its key only by rotation, and each change is an event.
fn check_step(command: &Command, old: &Cluster, new: &Cluster) -> Result<(), TestCaseError> {
    let events = new.events_after(old.revision).unwrap_or_default();
    prop_assert_eq!(events.len() as u64, new.revision - old.revision);
    for (rank, was) in old.holders() {
        match new.seats.get(rank).and_then(Seat::holder) {
            None => {
                let expels = matches!(command, Command::Expel { .. });
                prop_assert!(expels);
            }
            Some(now) => {
                prop_assert_eq!(&was.name, &now.name);
                let rotates = matches!(command, Command::Rotate { .. });
                prop_assert!(rotates || was.sig_key == now.sig_key);
            }
        }
    }
    for token in &old.tokens {
        let taken = new.holders().count().saturating_sub(old.holders().count());
        let uses = new.token(&token.id).map_or(token.uses, |now| now.uses);
        prop_assert!((token.uses..=token.uses + taken as u32).contains(&uses));
    }
    Ok(())
}

proptest! {
    /// Whatever is asked in whatever order, while time moves on: the promises hold, nothing is
    /// miscounted, and an overlay decides as the state itself would.
    #[test]
    fn promises_hold_under_any_sequence(
        commands in prop::collection::vec(any_command(), 1..120),
    ) {
        let mut bench = Bench::default();
        let base = Registry::default();
        let mut overlay = Overlay::new(&base);
        for (wait, command) in &commands {
            bench.1 = bench.1.after(Duration::from_millis(*wait));
            let before = bench.0.maps.clusters.clone();
            let layered = decide(command, bench.1, &overlay);
            for change in layered.iter().flat_map(|decision| &decision.changes) {
                overlay.apply(change);
            }
            prop_assert_eq!(bench.run(command), layered.map(|decision| decision.outcome));
            prop_assert_eq!(bench.0.counts(), overlay.counts());
            for (id, cluster) in &bench.0.maps.clusters {
                check_roster(cluster)?;
                if let Some(old) = before.get(id) {
                    check_step(command, old, cluster)?;
                }
            }
            check_counts(&bench.0)?;
        }
    }
}
