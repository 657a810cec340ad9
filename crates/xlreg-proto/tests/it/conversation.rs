//! The server's side of a conversation: every state and request, as a table kept in the
//! repository. Its diff in a review *is* the change of protocol.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use xlreg_core::cluster::NewCluster;
use xlreg_core::registry::{Registry, decide};
use xlreg_core::{
    Admission, ClusterId, ClusterKey, Command, Fingerprint, Member, NodeId, Outcome, Refusal, Time,
    Version, View,
};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::message::{Claim, Reply, Request, Room};
use xlreg_proto::session::{Identity, Session, Step};
use xlreg_proto::wire::{Tag, Token, XlRegMsg};

const BYTES_MAX: usize = 16 * 1024;

fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate().unwrap())
}

fn claim(name: &str, id: Option<NodeId>) -> Claim {
    let endpoints = vec!["127.0.0.1:4000".parse().unwrap()];
    let public = key().public().clone();
    Claim::sign(id, name.parse().unwrap(), 0, public, key(), endpoints).unwrap()
}

/// A registry that keeps nothing, with clusters of two: `alpha` has nobody in it, `half` one member
/// and `full` both.
struct World {
    registry: Registry,
    identity: Arc<Identity>,
    /// Bytes that a segment of the path carries.
    segment: usize,
}

fn joining(cluster: ClusterKey, member: Arc<Member>) -> Command {
    Command::Join { cluster, member, admission: Admission::OldWire }
}

impl World {
    fn new() -> Self {
        let entry = Arc::new(member("xlReg", 250));
        let identity = Arc::new(Identity { version: Version::CURRENT, entry });
        let mut world = Self { registry: Registry::default(), identity, segment: BYTES_MAX };
        for (name, fresh) in [("alpha", 1), ("full", 2), ("half", 3)] {
            world.create(name, 2, fresh);
        }
        for (cluster, n) in [("full", 0), ("full", 1), ("half", 0)] {
            let cluster = ClusterKey::Name(cluster.parse().unwrap());
            let member = Arc::new(member(&format!("m{n}"), 100 + n));
            world.run(&joining(cluster, member)).unwrap();
        }
        world
    }

    fn create(&mut self, name: &str, size: u32, fresh: u8) {
        let new = NewCluster::open(name.parse().unwrap(), size, 1);
        let (owner, fresh) =
            (Fingerprint::from_bytes([fresh; 32]), ClusterId::from_bytes([fresh; 20]));
        self.run(&Command::Create { new, owner, fresh, strict: false }).unwrap();
    }

    fn run(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let decision = decide(command, Time::default(), &self.registry)?;
        for change in &decision.changes {
            self.registry.apply(change);
        }
        Ok(decision.outcome)
    }

    /// Carries out a step until there is a reply.
    fn settle(&mut self, step: Step) -> (Option<Session>, Reply, String) {
        match step {
            Step::Reply(session, reply) => (Some(session), reply, String::new()),
            Step::End(reply, end) => (None, reply, end.to_string()),
            Step::Silence(end) => panic!("no answer: {end}"),
            Step::Apply(applying, command) => {
                let result = self.run(&command);
                self.settle(applying.applied(result))
            }
            Step::Show(showing) => {
                let found = self.registry.find(showing.cluster());
                let found = found.as_deref().map_err(|refusal| *refusal);
                self.settle(showing.shown(found, self.segment, BYTES_MAX))
            }
        }
    }

    fn ask(&mut self, session: Session, request: Request) -> (Option<Session>, Reply, String) {
        let step = session.receive(request.encode(), || [77; 20]);
        self.settle(step)
    }

    fn session_in(&mut self, state: &str) -> Session {
        let mut session = Session::new(Arc::clone(&self.identity));
        let path = match state {
            "anonymous" => vec![],
            "known" => vec![Request::Member(claim("a", None))],
            "created" => vec![Request::Member(claim("a", None)), create("alpha")],
            "joined" => vec![Request::Member(claim("a", None)), join(Some("alpha"))],
            other => panic!("no state {other}"),
        };
        for request in path {
            session = self.ask(session, request).0.expect("the way to a state is free");
        }
        session
    }
}

fn member(name: &str, id: u8) -> Member {
    Member {
        id: NodeId::from_bytes([id; 20]),
        name: name.parse().unwrap(),
        attrs: 0,
        comms_key: key().public().clone(),
        sig_key: key().public().clone(),
        endpoints: vec!["127.0.0.1:4000".parse().unwrap()],
        entry_signature: None,
    }
}

fn named(name: &str) -> ClusterKey {
    ClusterKey::Name(name.parse().unwrap())
}

fn create(name: &str) -> Request {
    Request::Create { name: name.parse().unwrap(), attrs: 1, size: 99, endpoint_count: 1 }
}

fn join(name: Option<&str>) -> Request {
    Request::Join { cluster: name.map(named) }
}

fn get(name: Option<&str>, which: Option<u64>) -> Request {
    Request::GetCluster { cluster: name.map(named), which }
}

fn requests() -> Vec<(&'static str, Request)> {
    let unknown_id = ClusterKey::Id(ClusterId::from_bytes([9; 20]));
    vec![
        ("RegCredRequest", Request::Credentials),
        ("Member", Request::Member(claim("a", None))),
        ("Create beta", create("beta")),
        ("Create alpha, which exists", create("alpha")),
        ("Join alpha", join(Some("alpha"))),
        ("Join without a cluster", join(None)),
        ("Join full", join(Some("full"))),
        ("Join an unknown name", join(Some("omega"))),
        ("Join an unknown ID", Request::Join { cluster: Some(unknown_id.clone()) }),
        ("GetCluster full", get(Some("full"), None)),
        ("GetCluster full, rank 1", get(Some("full"), Some(2))),
        ("GetCluster full, ranks beyond", get(Some("full"), Some(!3))),
        ("GetCluster without a cluster", get(None, None)),
        ("GetCluster of an unknown name", get(Some("omega"), None)),
        (
            "GetCluster of an unknown ID",
            Request::GetCluster { cluster: Some(unknown_id), which: None },
        ),
        ("Bye", Request::Bye),
    ]
}

fn summary(reply: &Reply) -> String {
    match reply {
        Reply::Credentials { version, registry } => {
            format!("RegCredReply {} {version}", registry.name)
        }
        Reply::MemberOk { .. } => "MemberOK".to_owned(),
        Reply::Created(info) => format!("CreateReply size {} attrs {}", info.size, info.attrs),
        Reply::Joined(info) => format!("JoinReply size {} attrs {}", info.size, info.attrs),
        Reply::Members { which, entries, about, .. } => {
            let about = about.as_ref().unwrap();
            format!("ClusterMembers {} which {which:#b} tokens {}", about.name, entries.len())
        }
        Reply::Ack => "Ack, then close".to_owned(),
        Reply::Error(text) => format!("Error {text:?}, then close"),
    }
}

#[test]
fn every_state_and_request_has_its_answer() {
    let mut table = String::new();
    for state in ["anonymous", "known", "created", "joined"] {
        for (label, request) in requests() {
            let mut world = World::new();
            let session = world.session_in(state);
            let (_, reply, end) = world.ask(session, request);
            let log = if end.is_empty() { end } else { format!("   [log: {end}]") };
            writeln!(table, "{state:<10} {label:<32} {}{log}", summary(&reply)).unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

/// Messages that are no request at all.
#[test]
fn every_bad_message_has_its_answer() {
    let good = Request::Member(claim("a", None)).encode();
    let good_create = create("beta").encode();
    type Change = Box<dyn Fn(&mut XlRegMsg)>;
    let token = |change: fn(&mut Token)| -> Change {
        Box::new(move |msg: &mut XlRegMsg| change(msg.member_specs.as_mut().unwrap()))
    };
    let small = vec![0x30, 0x0d];
    let cases: Vec<(&str, &XlRegMsg, Change)> = vec![
        ("no tag", &good, Box::new(|msg| msg.op = None)),
        ("tag 0", &good, Box::new(|msg| msg.op = Some(0))),
        ("tag 14", &good, Box::new(|msg| msg.op = Some(14))),
        ("tag -1", &good, Box::new(|msg| msg.op = Some(-1))),
        ("a reply", &good, Box::new(|msg| msg.op = Some(Tag::Ack as i32))),
        ("an Error", &good, Box::new(|msg| msg.op = Some(Tag::Error as i32))),
        ("Member without specs", &good, Box::new(|msg| msg.member_specs = None)),
        ("Member without a name", &good, token(|t| t.name = None)),
        ("Member with an empty name", &good, token(|t| t.name = Some(String::new()))),
        ("Member with a space in its name", &good, token(|t| t.name = Some("a b".into()))),
        ("Member with a newline in its name", &good, token(|t| t.name = Some("a\nb".into()))),
        ("Member with a long name", &good, token(|t| t.name = Some("a".repeat(9999)))),
        ("Member with a short ID", &good, token(|t| t.id = Some(vec![1; 19]))),
        ("Member with an empty ID", &good, token(|t| t.id = Some(vec![]))),
        ("Member without a sig key", &good, token(|t| t.sig_key = None)),
        ("Member without a comms key", &good, token(|t| t.comms_key = None)),
        (
            "Member with a rubbish key",
            &good,
            Box::new(move |msg| msg.member_specs.as_mut().unwrap().sig_key = Some(small.clone())),
        ),
        ("Member without a signature", &good, token(|t| t.dig_sig = None)),
        ("Member with a wrong signature", &good, token(|t| t.attrs = Some(u64::MAX))),
        ("Member with a rubbish endpoint", &good, token(|t| t.my_ends = vec!["here".into()])),
        ("Member with nine endpoints", &good, token(|t| t.my_ends = vec!["h:1".into(); 9])),
        ("Create without a name", &good_create, Box::new(|msg| msg.cluster_name = None)),
        (
            "Create with a bad name",
            &good_create,
            Box::new(|msg| msg.cluster_name = Some("1".into())),
        ),
    ];
    let mut table = String::new();
    for (label, base, change) in cases {
        let mut msg = base.clone();
        change(&mut msg);
        let mut world = World::new();
        let state = if base.op == good.op { "anonymous" } else { "known" };
        let answer = match world.session_in(state).receive(msg, || [77; 20]) {
            Step::Silence(end) => format!("nothing until the deadline, then close   [log: {end}]"),
            step => summary(&world.settle(step).1),
        };
        writeln!(table, "{label:<36} {answer}").unwrap();
    }
    insta::assert_snapshot!(table);
}

#[test]
fn each_refusal_has_its_text() {
    let refusals = [
        Refusal::IdInUse,
        Refusal::UnknownClusterId,
        Refusal::UnknownClusterName,
        Refusal::MemberNameInUse,
        Refusal::MemberIdInUse,
        Refusal::NoEndpoint,
        Refusal::TooFewEndpoints { got: 1, asked: 2 },
        Refusal::TooManyEndpoints { got: 9 },
        Refusal::ClusterFull { size: 2 },
        Refusal::RegistryFull,
        Refusal::TooManyRegistrations,
    ];
    let texts: Vec<_> = refusals.map(|refusal| summary(&Reply::from(refusal))).into();
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn an_id_belongs_to_its_key_across_sessions() {
    let mut world = World::new();
    let other = PrivateKey::generate().unwrap();
    let id = NodeId::from_bytes([5; 20]);
    let session = Session::new(Arc::clone(&world.identity));
    let (_, reply, _) = world.ask(session, Request::Member(claim("a", Some(id))));
    assert_eq!(reply, Reply::MemberOk { id, attrs: 0 });

    let public = other.public().clone();
    let thief = Claim::sign(Some(id), "a".parse().unwrap(), 0, public, &other, vec![]).unwrap();
    let session = Session::new(Arc::clone(&world.identity));
    let (session, reply, _) = world.ask(session, Request::Member(thief));
    assert_eq!(reply, Reply::Error("ID already in use".to_owned()));
    assert!(session.is_none());
}

#[test]
fn a_lookup_is_held_only_for_members_who_may_still_come() {
    let mut world = World::new();
    let mut ready = |name: &str, which: Option<u64>, lookups: u32| {
        let mut session = world.session_in("known");
        for _ in 0..lookups {
            session = world.ask(session, get(Some("full"), None)).0.unwrap();
        }
        let Step::Show(showing) = session.step(get(Some(name), which), || [0; 20]) else {
            panic!("a lookup")
        };
        showing.is_ready(&world.registry.find(showing.cluster()).unwrap())
    };
    assert!(!ready("alpha", Some(0b01), 0));
    assert!(!ready("alpha", Some(u64::MAX), 0));
    assert!(ready("alpha", None, 0), "without Which, whoever is there");
    assert!(ready("alpha", Some(0), 0), "nobody was asked for");
    assert!(ready("alpha", Some(0b100), 0), "rank 2 can never come");
    assert!(ready("full", Some(0b10), 0));
    assert!(ready("full", Some(u64::MAX), 20));
    assert!(!ready("alpha", Some(0b11), 20));
    assert!(ready("half", Some(0b11), 20), "who asks for rank 0 again only looks");
    assert!(!ready("half", Some(0b10), 20));
}

#[test]
fn a_reply_holds_as_many_members_as_there_is_room_for() {
    let world = World::new();
    let cluster = world.registry.find(&named("full")).unwrap();
    for (segment, message, entries_min, expected) in [
        (0, 0, 1, 0b01),
        (900, BYTES_MAX, 1, 0b01),
        (900, BYTES_MAX, 2, 0b11),
        (900, 900, 2, 0b01),
        (2000, BYTES_MAX, 1, 0b11),
    ] {
        let room = Room { segment, message, entries_min };
        let Reply::Members { which, entries, .. } = Reply::members(&cluster, u64::MAX, room) else {
            panic!("members");
        };
        assert_eq!(which, expected, "{room:?}");
        assert_eq!(entries.len(), which.count_ones() as usize);
    }
}

/// A deployed client asks 32 times for whoever is missing, and takes what it has then for all. It
/// must have all, over loopback and over Ethernet, whether the others came before it or one by one.
#[test]
fn sixty_four_members_form_within_a_deployed_clients_lookups() {
    for segment in [700, 1_400, BYTES_MAX] {
        for there_at_first in [1, 20, 63, 64] {
            let have = fetch_as_deployed(segment, there_at_first);
            assert_eq!(have.count_ones(), 64, "{segment} bytes, {there_at_first} at first");
        }
    }
}

/// What such a client ends up with, in a cluster of 64 whose other members come one by one as soon
/// as it waits for them.
fn fetch_as_deployed(segment: usize, there_at_first: usize) -> u64 {
    let mut world = World { segment, ..World::new() };
    world.create("large", 64, 64);
    let come = |world: &mut World, n: usize| {
        let member = Arc::new(member(&format!("m{n}"), n as u8));
        world.run(&joining(named("large"), member)).unwrap();
    };
    (0..there_at_first).for_each(|n| come(&mut world, n));
    let (mut next, mut have) = (there_at_first, 0u64);
    let mut session = world.session_in("known");
    for _ in 0..32 {
        let Step::Show(showing) = session.step(get(Some("large"), Some(!have)), || [0; 20]) else {
            panic!("a lookup");
        };
        while !showing.is_ready(&world.registry.find(showing.cluster()).unwrap()) {
            come(&mut world, next);
            next += 1;
        }
        let (after, reply, _) = world.settle(Step::Show(showing));
        let Reply::Members { which, .. } = reply else { panic!("members") };
        (session, have) = (after.unwrap(), have | which);
        if have == u64::MAX {
            break;
        }
    }
    have
}
