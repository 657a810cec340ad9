//! The server's side of a conversation: which request may follow which, and what each leads to.
//!
//! A [`Session`] is consumed by each step, so a stale one can't be used. It decides nothing about
//! the registry itself: it hands its owner a command to apply or a cluster to look up, and turns
//! what comes of it into a reply. After an error it is gone. Source: docs/protocol.md, section 4.

use std::sync::Arc;

use thiserror::Error;
use xlreg_core::cluster::NewCluster;
use xlreg_core::{
    Admission, Cluster, ClusterId, ClusterKey, Command, Member, NodeId, Outcome, Refusal, Version,
};

use crate::keys::BadSignature;
use crate::message::{ClusterInfo, Entry, MessageError, Proven, Reply, Request, Room};
use crate::wire::XlRegMsg;

/// GetClusters that a deployed client asks before it gives up, and takes what it has for all.
const LOOKUPS_MAX: u32 = 32;

/// GetClusters that a session answers as soon as there is news. From then on it waits until all
/// that was asked for is there, so that a large cluster that fills one by one leaves a deployed
/// client lookups enough to fetch the rest.
const NEWS_REPLIES_MAX: u32 = LOOKUPS_MAX / 2;

/// A conversation in one of its states, waiting for a request.
#[derive(Debug)]
pub struct Session {
    registry: Arc<Identity>,
    state: State,
    /// GetClusters answered so far.
    lookups: u32,
}

/// What a registry says of itself when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The version its server presents.
    pub version: Version,
    /// Its own entry.
    pub entry: Entry,
}

/// How far a client has come. Each state holds exactly what is known by then.
#[derive(Debug)]
enum State {
    /// The hello has been answered.
    Anonymous,
    /// The client has proven who it is.
    Known { member: Arc<Member> },
    /// It has named a cluster with Create.
    Created { member: Arc<Member>, cluster: ClusterId },
    /// It is a member.
    Joined { cluster: ClusterId },
}

/// What a request leads to.
#[derive(Debug)]
#[must_use = "the session has moved into the step"]
pub enum Step {
    /// Send the reply, and wait for the next request.
    Reply(Session, Reply),
    /// Have the registry apply the command, then call [`Applying::applied`].
    Apply(Applying, Box<Command>),
    /// Find the cluster, then call [`Showing::shown`].
    Show(Showing),
    /// Send the reply, and close.
    End(Reply, End),
    /// Send nothing, and close when the time for the message is over: it must look like one that
    /// never came to its end, or whoever alters messages on their way learns what became of them.
    Silence(End),
}

/// How a session ended.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye.
    #[error("goodbye")]
    Bye,
    /// A message that is no request.
    #[error("bad message: {0}")]
    Message(#[from] MessageError),
    /// A claim that its key did not sign.
    #[error("{0}")]
    Signature(#[from] BadSignature),
    /// A request out of turn.
    #[error("{got} out of turn: the session was {state}")]
    OutOfTurn {
        /// How far the session had come.
        state: &'static str,
        /// What was asked.
        got: &'static str,
    },
    /// The rules say no.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
}

/// A session whose command is being applied.
#[derive(Debug)]
#[must_use = "the client waits for an answer"]
pub struct Applying {
    session: Session,
    pending: Pending,
}

#[derive(Debug)]
enum Pending {
    Registering(Proven),
    Creating { member: Arc<Member>, attrs: u64 },
    Joining,
}

/// A session that asked who is in a cluster.
#[derive(Debug)]
#[must_use = "the client waits for an answer"]
pub struct Showing {
    session: Session,
    cluster: ClusterKey,
    which: Option<u64>,
}

impl Session {
    /// A conversation whose hello has just been answered.
    #[must_use]
    pub fn new(registry: Arc<Identity>) -> Self {
        Self { registry, state: State::Anonymous, lookups: 0 }
    }

    /// The member that this session has proven to be, if it has.
    #[must_use]
    pub fn member(&self) -> Option<&Arc<Member>> {
        match &self.state {
            State::Known { member } | State::Created { member, .. } => Some(member),
            State::Anonymous | State::Joined { .. } => None,
        }
    }

    /// Takes a message as it was decrypted. `fresh` draws random bytes, for an ID that may have to
    /// be issued; most requests need none.
    pub fn receive(self, message: XlRegMsg, fresh: impl FnOnce() -> [u8; 20]) -> Step {
        match Request::decode(message) {
            Ok(request) => self.step(request, fresh),
            Err(error) => Step::bad_message(error),
        }
    }

    /// The transition table.
    pub fn step(self, request: Request, fresh: impl FnOnce() -> [u8; 20]) -> Step {
        let Self { registry, state, lookups } = self;
        let stay = |state| Self { registry: Arc::clone(&registry), state, lookups };
        match (state, request) {
            (_, Request::Bye) => Step::End(Reply::Ack, End::Bye),
            (state, Request::Credentials) => {
                let reply = Reply::Credentials {
                    version: registry.version,
                    registry: Arc::clone(&registry.entry),
                };
                Step::Reply(stay(state), reply)
            }
            (State::Anonymous, Request::Member(claim)) => match claim.prove() {
                Ok(proven) => stay(State::Anonymous).register(proven, fresh()),
                Err(bad) => Step::Silence(bad.into()),
            },
            (State::Known { member }, Request::Create { name, attrs, size, endpoint_count }) => {
                let fresh = ClusterId::from_bytes(fresh());
                let new = NewCluster { attrs, ..NewCluster::open(name, size, endpoint_count) };
                let owner = member.sig_key.fingerprint();
                let command = Command::Create { new, owner, fresh, strict: false };
                let pending = Pending::Creating { member: Arc::clone(&member), attrs };
                Step::Apply(
                    Applying { session: stay(State::Known { member }), pending },
                    Box::new(command),
                )
            }
            (State::Known { member }, Request::Join { cluster }) => {
                stay(State::Known { member: Arc::clone(&member) }).join(member, cluster)
            }
            (State::Created { member, cluster: own }, Request::Join { cluster }) => {
                let cluster = cluster.or(Some(ClusterKey::Id(own)));
                stay(State::Known { member: Arc::clone(&member) }).join(member, cluster)
            }
            (state @ State::Known { .. }, Request::GetCluster { cluster, which }) => {
                stay(state).show(cluster, which)
            }
            (
                state @ (State::Created { cluster: own, .. } | State::Joined { cluster: own }),
                Request::GetCluster { cluster, which },
            ) => stay(state).show(cluster.or(Some(ClusterKey::Id(own))), which),
            (state, got) => Step::out_of_turn(&state, &got),
        }
    }

    fn register(self, proven: Proven, fresh: [u8; 20]) -> Step {
        let command = Command::Register {
            claimed: proven.claimed_id(),
            fresh: NodeId::from_bytes(fresh),
            sig_key: proven.sig_key(),
            comms_key: None,
        };
        Step::Apply(
            Applying { session: self, pending: Pending::Registering(proven) },
            Box::new(command),
        )
    }

    fn join(self, member: Arc<Member>, cluster: Option<ClusterKey>) -> Step {
        let Some(cluster) = cluster else {
            return Step::bad_message(MessageError::NoCluster);
        };
        let command = Command::Join { cluster, member, admission: Admission::OldWire };
        Step::Apply(Applying { session: self, pending: Pending::Joining }, Box::new(command))
    }

    fn show(self, cluster: Option<ClusterKey>, which: Option<u64>) -> Step {
        match cluster {
            Some(cluster) => Step::Show(Showing { session: self, cluster, which }),
            None => Step::bad_message(MessageError::NoCluster),
        }
    }
}

impl Step {
    /// Whoever sends a message that deployed clients know a text for is told so. All others are
    /// ended like rubbish, and so is a wrong signature. Without a tag it is rubbish most likely: of
    /// garbled messages, some one in a hundred parses.
    fn bad_message(error: MessageError) -> Self {
        match error {
            MessageError::Tag { got: Some(_) }
            | MessageError::Direction { .. }
            | MessageError::NoCluster => Self::End(Reply::from(&error), error.into()),
            _ => Self::Silence(error.into()),
        }
    }

    fn out_of_turn(state: &State, got: &Request) -> Self {
        let end = End::OutOfTurn { state: state.name(), got: got.tag().as_str_name() };
        Self::End(Reply::Error("invalid msg type for current state".to_owned()), end)
    }

    fn refused(refusal: Refusal) -> Self {
        Self::End(Reply::from(refusal), refusal.into())
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Known { .. } => "known",
            Self::Created { .. } => "created",
            Self::Joined { .. } => "joined",
        }
    }
}

impl Applying {
    /// Goes on with what the registry made of the command.
    pub fn applied(self, result: Result<Outcome, Refusal>) -> Step {
        let Self { mut session, pending } = self;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(refusal) => return Step::refused(refusal),
        };
        let (state, reply) = match (pending, outcome) {
            (Pending::Registering(proven), Outcome::Registered(id)) => {
                let member = Arc::new(proven.with_id(id));
                let reply = Reply::MemberOk { id, attrs: member.attrs };
                (State::Known { member }, reply)
            }
            (Pending::Creating { member, attrs }, Outcome::Created { cluster, .. }) => {
                // The requester's own attrs come back, as with the originals.
                let reply = Reply::Created(ClusterInfo { attrs, ..ClusterInfo::of(&cluster) });
                (State::Created { member, cluster: cluster.id }, reply)
            }
            (Pending::Joining, Outcome::Joined { cluster, .. }) => {
                let reply = Reply::Joined(ClusterInfo::of(&cluster));
                (State::Joined { cluster: cluster.id }, reply)
            }
            (pending, outcome) => {
                unreachable!("{pending:?} cannot lead to {outcome:?}: decide() answers in kind")
            }
        };
        session.state = state;
        Step::Reply(session, reply)
    }
}

impl Showing {
    /// The cluster to find.
    #[must_use]
    pub fn cluster(&self) -> &ClusterKey {
        &self.cluster
    }

    /// Whether to answer now, with the cluster as it is, or to hold the answer until there is news
    /// or it has been held long enough.
    ///
    /// Held is only who asks for members by number, none of whom is there while some may still
    /// come. Deployed clients ask so every 50 ms, and set no read deadline. Who waits has been told
    /// of rank 0 first of all, so who asks for it again looks at what is there now.
    #[must_use]
    pub fn is_ready(&self, cluster: &Cluster) -> bool {
        if cluster.gone.is_some() {
            return true;
        }
        let Some(which) = self.which else { return true };
        let asked = which & low_bits(cluster.size as usize);
        let there = asked & cluster.present().fold(0, |there, (rank, _)| there | 1 << rank);
        if self.session.lookups < NEWS_REPLIES_MAX {
            asked == 0 || there != 0
        } else {
            there == asked || there & 1 != 0
        }
    }

    /// Answers with as many of the members asked for as there is room for: a `segment` of the path
    /// and a whole `message`, both in bytes of plaintext.
    pub fn shown(
        mut self,
        cluster: Result<&Cluster, Refusal>,
        segment: usize,
        message: usize,
    ) -> Step {
        match cluster {
            Ok(cluster) => {
                let entries_min = self.entries_min(cluster);
                self.session.lookups = self.session.lookups.saturating_add(1);
                let which = self.which.unwrap_or(u64::MAX);
                let room = Room { segment, message, entries_min };
                Step::Reply(self.session, Reply::members(cluster, which, room))
            }
            Err(refusal) => Step::refused(refusal),
        }
    }

    /// Entries that the answer needs, whatever a segment holds: so many that a deployed client has
    /// all it asked for within its lookups; and besides rank 0, when that is asked for again, one
    /// that is news.
    fn entries_min(&self, cluster: &Cluster) -> usize {
        let asked = self.which.unwrap_or(u64::MAX) & low_bits(cluster.size as usize);
        let left = LOOKUPS_MAX.saturating_sub(self.session.lookups).max(1);
        let looks_again = self.session.lookups > 0 && asked & 1 != 0;
        asked.count_ones().div_ceil(left).max(1 + u32::from(looks_again)) as usize
    }
}

/// A number whose lowest `count` bits are set, at most 64.
fn low_bits(count: usize) -> u64 {
    u64::MAX.checked_shr(64_u32.saturating_sub(count as u32)).unwrap_or(0)
}
