//! The rules: what a command leads to, given what the registry knows.
//!
//! [`decide`] is the whole of it, a pure function from a [`Command`] and a [`View`] to a
//! [`Decision`]: the answer, and the [`Change`]s that must be durable before the answer may go
//! out. It touches nothing. Whoever owns the state, one process or a replicated store, shows it
//! through `View`, makes the changes last, and only then answers.
//!
//! [`Registry`] is the state itself, in memory. [`Overlay`] is a registry with changes that are
//! decided but not yet durable; it lets a batch of commands be decided one after another and made
//! durable at once, while readers still see only what is.

mod decide;
mod state;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use self::decide::decide;
pub use self::state::{Overlay, Registry};
use crate::admission::{Label, TokenDigest};
use crate::cluster::NewCluster;
use crate::limits::{Limits, MEMBER_ENDPOINTS_MAX};
use crate::{
    Admission, Cluster, ClusterId, ClusterKey, Endpoint, Fingerprint, Member, Name, NodeId,
    PublicKey, Token, TokenId,
};

/// Something asked of the registry that may change it.
///
/// Random IDs come with the command, and the time with its decision, so that deciding stays free of
/// chance: deciding the same command twice against the same view gives the same decision.
#[derive(Clone, Debug)]
pub enum Command {
    /// A node with this sig key says who it is.
    Register {
        /// The ID it brings, if any.
        claimed: Option<NodeId>,
        /// A random ID, in case one must be issued.
        fresh: NodeId,
        /// Its sig key, already proven to be its own.
        sig_key: Fingerprint,
        /// The comms key to bind to the ID, already proven to be its own; the old wire binds none.
        comms_key: Option<PublicKey>,
    },
    /// Other keys take the place of a node's present ones.
    Rotate {
        /// The present sig key.
        old: Fingerprint,
        /// The sig key from now on, proven and signed in by the old one; none if it stays.
        sig_key: Option<PublicKey>,
        /// The comms key from now on, proven; none if it stays.
        comms_key: Option<PublicKey>,
    },
    /// A registered node defines a cluster.
    Create {
        /// What it is to be.
        new: NewCluster,
        /// The sig key that will own it.
        owner: Fingerprint,
        /// A random ID for it.
        fresh: ClusterId,
        /// Refuse if there is a cluster of that name that differs. The old wire answers with
        /// whatever is there.
        strict: bool,
    },
    /// A registered node becomes a member.
    Join {
        /// Which cluster.
        cluster: ClusterKey,
        /// The node as it presents itself; its ID has been registered by its sig key.
        member: Arc<Member>,
        /// What it brings to be let in.
        admission: Admission,
    },
    /// A member leaves, and keeps its rank.
    Leave {
        /// Which cluster.
        cluster: ClusterKey,
        /// Who.
        who: Who,
    },
    /// A member is reached elsewhere.
    Move {
        /// Which cluster.
        cluster: ClusterKey,
        /// Who.
        who: Who,
        /// Where it is reached now.
        endpoints: Vec<Endpoint>,
        /// Its whole entry as it is to be, with its signature over it, if it brings one.
        signed: Option<Arc<Member>>,
    },
    /// A member loses its rank, and its key the right to come back.
    Expel {
        /// Which cluster.
        cluster: ClusterKey,
        /// Who asks.
        by: Actor,
        /// Whom.
        member: NodeId,
    },
    /// A cluster is removed.
    Delete {
        /// Which.
        cluster: ClusterKey,
        /// Who asks.
        by: Actor,
    },
    /// A token is issued.
    IssueToken {
        /// For which cluster.
        cluster: ClusterKey,
        /// Who asks.
        by: Actor,
        /// The token: a random ID, the digest of its secret, how long and how often it is good.
        token: NewToken,
    },
    /// A token is made useless.
    RevokeToken {
        /// Of which cluster.
        cluster: ClusterKey,
        /// Who asks.
        by: Actor,
        /// Which.
        token: TokenId,
    },
    /// A cluster's time is over, if it is.
    Expire {
        /// Which.
        cluster: ClusterId,
        /// Why it should be.
        because: Because,
    },
    /// A cluster with an idle time has been watched until now.
    Touch {
        /// Which.
        cluster: ClusterId,
    },
}

/// A member that acts for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its sig key.
    pub sig_key: Fingerprint,
    /// Its name, in case its key holds several ranks of the cluster.
    pub name: Option<Name>,
}

/// Somebody who acts on a cluster as its owner or an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its sig key.
    pub sig_key: Fingerprint,
    /// Whether the registry's configuration makes it an administrator.
    pub admin: bool,
}

impl Actor {
    /// Whether it may do to `cluster` what its owner may.
    #[must_use]
    pub fn commands(&self, cluster: &Cluster) -> bool {
        self.admin || cluster.owner == Some(self.sig_key)
    }
}

/// A token to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// A random ID.
    pub id: TokenId,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// What its owner calls it.
    pub label: Label,
    /// How long it can be redeemed: at most for as long as its cluster lives.
    pub ttl: Duration,
    /// How many may join with it; 0 for as many as the cluster is for.
    pub uses: u32,
}

/// Why a cluster should end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It has a time by which to be full, or to end, and that has come.
    Time,
    /// Nothing has happened in it, and nobody watches it.
    Idle,
    /// Its owner has gone.
    OwnerGone,
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node's ID.
    Registered(NodeId),
    /// All IDs of the key, and the sig key they belong to now.
    Rotated {
        /// The IDs.
        ids: Vec<NodeId>,
        /// The sig key.
        sig_key: Fingerprint,
    },
    /// The cluster of that name.
    Created {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// Whether it was not there before.
        new: bool,
    },
    /// The cluster with the member in it.
    Joined {
        /// The cluster as it is with the member.
        cluster: Arc<Cluster>,
        /// The member's rank.
        rank: usize,
        /// Whether it was not there before, or as something else.
        changed: bool,
    },
    /// The cluster as it is now, after a change.
    Changed(Arc<Cluster>),
    /// The cluster, which was like that before.
    Unchanged(Arc<Cluster>),
    /// The token, and the cluster that it is for.
    Issued {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// The token.
        token: Arc<Token>,
    },
    /// The cluster as it was.
    Ended(Arc<Cluster>),
    /// There was nothing to do.
    Nothing,
}

/// One durable change. A store keeps exactly these, all of a decision or none.
///
/// A change of a cluster carries the cluster as it is after the whole decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An ID now belongs to a key.
    Node {
        /// The ID.
        id: NodeId,
        /// The sig key it belongs to.
        sig_key: Fingerprint,
    },
    /// An ID now has this comms key.
    Comms {
        /// The ID.
        id: NodeId,
        /// The key.
        key: PublicKey,
    },
    /// All that belonged to one sig key belongs to another from now on.
    Retired {
        /// The key that is of no use any more.
        old: Fingerprint,
        /// The key that takes its place.
        new: Fingerprint,
    },
    /// A cluster exists; its roster is empty.
    Cluster(Arc<Cluster>),
    /// A cluster's owner, policy or life is another.
    Terms {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// Who owned it.
        was: Option<Fingerprint>,
    },
    /// A rank is held by somebody else, or by the same member as something slightly different.
    Seat {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// The rank that changed.
        rank: usize,
        /// The sig key that held it before.
        was: Option<Fingerprint>,
    },
    /// A key may not join the cluster any more.
    Expelled {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// The key.
        key: Fingerprint,
        /// The key whose place it takes, if a rotation carries the mark on.
        was: Option<Fingerprint>,
    },
    /// A token is new, has been used, or is gone.
    Token {
        /// The cluster.
        cluster: Arc<Cluster>,
        /// Which token.
        token: TokenId,
    },
    /// A cluster was alive at this time. Nothing that need be kept.
    Touched(Arc<Cluster>),
    /// A cluster is gone, with its roster and its tokens.
    Gone(Arc<Cluster>),
}

/// A decided command: the answer, and what must be durable before it may go out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an outcome may be told only after its changes are durable"]
pub struct Decision {
    /// The answer.
    pub outcome: Outcome,
    /// None if the command told the registry nothing new. Bounded by what one key may hold.
    pub changes: Vec<Change>,
}

impl Decision {
    fn nothing_new(outcome: Outcome) -> Self {
        Self { outcome, changes: Vec::new() }
    }
}

/// Why the registry says no. The session that asked ends; nothing has changed.
///
/// **What each displays is what goes over the wire**, and what clients read a refusal from. The
/// first six are the exact strings that deployed clients know; for the others the originals have
/// none, as they never refuse so.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The ID belongs to another key.
    #[error("ID already in use")]
    IdInUse,
    /// No cluster has this ID.
    #[error("cannot find cluster with this ID")]
    UnknownClusterId,
    /// No cluster has this name.
    #[error("cannot find cluster with this name")]
    UnknownClusterName,
    /// Another key joined with this name.
    #[error("cluster member name already in use")]
    MemberNameInUse,
    /// This ID is a member already, under another name.
    #[error("cluster member id already in use")]
    MemberIdInUse,
    /// The member brought no endpoint.
    #[error("member must have at least one endPoint")]
    NoEndpoint,
    /// The member brought fewer endpoints than the cluster asks.
    #[error("member has too few endPoints: {got}, where the cluster asks for {asked}")]
    TooFewEndpoints {
        /// How many it brought.
        got: usize,
        /// How many the cluster asks.
        asked: u32,
    },
    /// The member brought more endpoints than the registry keeps.
    #[error("member has too many endPoints: {got}, at most {MEMBER_ENDPOINTS_MAX} are kept")]
    TooManyEndpoints {
        /// How many it brought.
        got: usize,
    },
    /// As many members as declared have joined, and this is none of them.
    #[error("cluster is full")]
    ClusterFull {
        /// The declared size.
        size: u32,
    },
    /// A cap on what the registry remembers is reached.
    #[error("registry is full")]
    RegistryFull,
    /// New IDs come too fast from one address. It passes by itself.
    #[error("too many registrations in too short a time, try again later")]
    TooManyRegistrations,
    /// One key has as much as one may have.
    #[error("this key has {max} {what} already, as many as one may have")]
    Quota {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// The key has registered no ID.
    #[error("this key has registered no ID")]
    NotRegistered,
    /// The member's entry is not the one that its signature is over.
    #[error("the signature is over another entry than this member has")]
    EntryDiffers,
    /// The key has been replaced by another.
    #[error("this key was retired: another has taken its place")]
    KeyRetired,
    /// The ID has another comms key.
    #[error("this ID has another comms key")]
    CommsKeyDiffers,
    /// The key that should take another's place is known already.
    #[error("the new key is known already")]
    KeyInUse,
    /// The name is taken by a cluster that differs.
    #[error(
        "there is a cluster of this name, for {size} members with {endpoint_count} endPoint(s) each"
    )]
    ClusterDiffers {
        /// How many members it is for.
        size: u32,
        /// How many endpoints each must bring.
        endpoint_count: u32,
    },
    /// The cluster takes nobody over the old wire.
    #[error("cluster does not take members over this wire")]
    NotByOldWire,
    /// The cluster asks for a token.
    #[error("cluster takes members with a token only")]
    TokenRequired,
    /// No token of this cluster.
    #[error("this is no token of this cluster")]
    TokenInvalid,
    /// The token's time is over.
    #[error("the token has expired")]
    TokenExpired,
    /// The token has been used up.
    #[error("the token has been used as often as it may be")]
    TokenSpent,
    /// The cluster has no such token.
    #[error("cluster has no token of this ID")]
    UnknownToken,
    /// The key is not among those that may join.
    #[error("this key is not among those that may join this cluster")]
    KeyNotAllowed,
    /// The key is on the list and has a rank, and those that are left are for the list's other keys.
    #[error("the ranks that are left are kept for other keys that may join this cluster")]
    RanksKept,
    /// The key was shut out.
    #[error("this key was expelled from this cluster")]
    Expelled,
    /// Who acts is neither the owner nor an administrator.
    #[error("only the cluster's owner and administrators may do this")]
    NotOwner,
    /// Who acts, or is acted upon, is no member.
    #[error("not a member of this cluster")]
    NotAMember,
    /// The key holds several ranks of the cluster, and does not say which is meant.
    #[error("this key has several members in this cluster: say which, by name")]
    WhichMember,
}

impl Refusal {
    /// That there is no cluster which a request means by `key`.
    #[must_use]
    pub fn unknown(key: &ClusterKey) -> Self {
        match key {
            ClusterKey::Id(_) => Self::UnknownClusterId,
            ClusterKey::Name(_) => Self::UnknownClusterName,
        }
    }
}

/// What the rules need to know of the state, wherever it is kept.
pub trait View {
    /// The sig key this ID belongs to.
    fn owner(&self, id: &NodeId) -> Option<Fingerprint>;
    /// What a sig key has; nothing for one that is unknown.
    fn key(&self, sig_key: &Fingerprint) -> KeyRecord;
    /// The comms key that is bound to this ID.
    fn comms_key(&self, id: &NodeId) -> Option<PublicKey>;
    /// The cluster with this ID.
    fn cluster(&self, id: &ClusterId) -> Option<Arc<Cluster>>;
    /// The ID of the cluster with this name.
    fn cluster_id(&self, name: &Name) -> Option<ClusterId>;
    /// How many nodes, clusters and members there are.
    fn counts(&self) -> Counts;
    /// How many there may be.
    fn limits(&self) -> Limits;

    /// The cluster a request means.
    ///
    /// # Errors
    /// The refusal that says which kind of key found nothing.
    fn find(&self, key: &ClusterKey) -> Result<Arc<Cluster>, Refusal> {
        let id = match key {
            ClusterKey::Id(id) => Some(*id),
            ClusterKey::Name(name) => self.cluster_id(name),
        };
        id.and_then(|id| self.cluster(&id)).ok_or(Refusal::unknown(key))
    }
}

/// How much the registry remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// IDs bound to keys.
    pub nodes: usize,
    /// Clusters.
    pub clusters: usize,
    /// Ranks that are held, in all clusters together.
    pub members: usize,
    /// Sig keys that others have taken the place of.
    pub retired: usize,
}

/// What belongs to a sig key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRecord {
    /// The ID it registered last.
    pub latest: Option<NodeId>,
    /// The rest, of which most keys have nothing.
    rest: Option<Box<Belongings>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Belongings {
    /// IDs registered before the latest.
    earlier: Vec<NodeId>,
    /// Clusters it owns.
    owned: Vec<ClusterId>,
    /// Clusters it holds a rank in, once for each rank.
    joined: Vec<ClusterId>,
    /// Clusters that it was expelled from.
    barred: Vec<ClusterId>,
    /// Whether another key has taken its place.
    retired: bool,
}

impl KeyRecord {
    /// All its IDs, the latest last.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        let earlier = self.rest.iter().flat_map(|rest| rest.earlier.iter().copied());
        earlier.chain(self.latest)
    }

    /// The clusters it owns.
    #[must_use]
    pub fn owned(&self) -> &[ClusterId] {
        self.rest.as_deref().map_or(&[], |rest| &rest.owned)
    }

    /// The clusters it holds a rank in, once for each rank.
    #[must_use]
    pub fn joined(&self) -> &[ClusterId] {
        self.rest.as_deref().map_or(&[], |rest| &rest.joined)
    }

    /// The clusters that it was expelled from.
    #[must_use]
    pub fn barred(&self) -> &[ClusterId] {
        self.rest.as_deref().map_or(&[], |rest| &rest.barred)
    }

    /// Whether another key has taken its place.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.rest.as_deref().is_some_and(|rest| rest.retired)
    }

    fn rest(&mut self) -> &mut Belongings {
        self.rest.get_or_insert_default()
    }

    fn register(&mut self, id: NodeId) {
        if let Some(earlier) = self.latest.replace(id) {
            self.rest().earlier.push(earlier);
        }
    }
}

/// Takes one `item` out, if there is one.
fn take_one(from: &mut Vec<ClusterId>, item: &ClusterId) {
    if let Some(place) = from.iter().position(|known| known == item) {
        from.swap_remove(place);
    }
}

#[cfg(test)]
mod tests;
