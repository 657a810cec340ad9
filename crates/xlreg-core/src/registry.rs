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

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{Limits, MEMBER_ENDPOINTS_MAX};
use crate::{Cluster, ClusterId, ClusterKey, Fingerprint, Member, Name, NodeId};

/// Something asked of the registry that may change it.
///
/// Random IDs come with the command, so that deciding it stays free of chance: deciding the same
/// command twice against the same view gives the same decision.
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
    },
    /// A registered node defines a cluster.
    Create {
        /// The cluster's name.
        name: Name,
        /// `CLUSTER_ATTR_*` bits.
        attrs: u64,
        /// How many members, before clamping.
        size: u32,
        /// Endpoints each member must bring, before clamping.
        endpoint_count: u32,
        /// A random ID for it.
        fresh: ClusterId,
    },
    /// A registered node becomes a member.
    Join {
        /// Which cluster.
        cluster: ClusterKey,
        /// The node as it presents itself; its ID has been registered by its sig key.
        member: Arc<Member>,
    },
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node's ID.
    Registered(NodeId),
    /// The cluster of that name: the new one, or the one that was there.
    Created(Arc<Cluster>),
    /// The cluster with the member in it.
    Joined {
        /// The cluster as it is with the member.
        cluster: Arc<Cluster>,
        /// The member's rank.
        rank: usize,
    },
}

/// One durable change. A store keeps exactly these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An ID now belongs to a key.
    Node {
        /// The ID.
        id: NodeId,
        /// The sig key it belongs to, for good.
        sig_key: Fingerprint,
    },
    /// A cluster exists; its roster is empty.
    Cluster(Arc<Cluster>),
    /// A member holds a rank: it has come, or come back as something slightly different.
    Member {
        /// The cluster as it is after the change.
        cluster: Arc<Cluster>,
        /// The rank that changed.
        rank: usize,
    },
}

/// A decided command: the answer, and what must be durable before it may go out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an outcome may be told only after its changes are durable"]
pub struct Decision {
    /// The answer.
    pub outcome: Outcome,
    /// At most one change; none if the command told the registry nothing new.
    pub change: Option<Change>,
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
}

/// What the rules need to know of the state, wherever it is kept.
pub trait View {
    /// The sig key this ID belongs to.
    fn owner(&self, id: &NodeId) -> Option<Fingerprint>;
    /// The ID that this sig key registered last.
    fn latest_id(&self, sig_key: &Fingerprint) -> Option<NodeId>;
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
        match key {
            ClusterKey::Id(id) => self.cluster(id).ok_or(Refusal::UnknownClusterId),
            ClusterKey::Name(name) => {
                let id = self.cluster_id(name).ok_or(Refusal::UnknownClusterName)?;
                self.cluster(&id).ok_or(Refusal::UnknownClusterName)
            }
        }
    }
}

/// How much the registry remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// IDs bound to keys.
    pub nodes: usize,
    /// Clusters.
    pub clusters: usize,
    /// Members of all clusters together.
    pub members: usize,
}

/// What `command` leads to, given what `view` shows.
///
/// # Errors
/// A [`Refusal`], and then nothing changes.
pub fn decide(command: &Command, view: &impl View) -> Result<Decision, Refusal> {
    match command {
        Command::Register { claimed, fresh, sig_key } => {
            register(view, claimed.as_ref(), fresh, sig_key)
        }
        Command::Create { name, attrs, size, endpoint_count, fresh } => {
            let new = || Cluster::new(*fresh, name.clone(), *attrs, *size, *endpoint_count);
            create(view, name, new)
        }
        Command::Join { cluster, member } => join(view, cluster, member),
    }
}

/// An ID that is brought is taken if it is free or the key's own. Without one, a key gets its
/// latest ID again, and a new key a fresh one.
fn register(
    view: &impl View,
    claimed: Option<&NodeId>,
    fresh: &NodeId,
    sig_key: &Fingerprint,
) -> Result<Decision, Refusal> {
    let latest = view.latest_id(sig_key);
    let id = claimed.or(latest.as_ref()).unwrap_or(fresh);
    let change = match view.owner(id) {
        Some(owner) if owner == *sig_key => None,
        Some(_) => return Err(Refusal::IdInUse),
        None if view.counts().nodes >= view.limits().nodes_max => {
            return Err(Refusal::RegistryFull);
        }
        None => Some(Change::Node { id: *id, sig_key: *sig_key }),
    };
    Ok(Decision { outcome: Outcome::Registered(*id), change })
}

/// A known name answers with the cluster that has it, whatever was asked for.
fn create(view: &impl View, name: &Name, new: impl Fn() -> Cluster) -> Result<Decision, Refusal> {
    if let Ok(known) = view.find(&ClusterKey::Name(name.clone())) {
        return Ok(Decision { outcome: Outcome::Created(known), change: None });
    }
    if view.counts().clusters >= view.limits().clusters_max {
        return Err(Refusal::RegistryFull);
    }
    let cluster = Arc::new(new());
    // Chance alone does not bring a fresh ID up twice; a broken source of randomness would.
    if view.cluster(&cluster.id).is_some() {
        return Err(Refusal::IdInUse);
    }
    Ok(Decision {
        outcome: Outcome::Created(Arc::clone(&cluster)),
        change: Some(Change::Cluster(cluster)),
    })
}

/// A member that is there already with these very words changes nothing.
fn join(view: &impl View, key: &ClusterKey, member: &Arc<Member>) -> Result<Decision, Refusal> {
    let cluster = view.find(key)?;
    let rank = cluster.admit(member)?;
    let known = cluster.members.get(rank);
    if known == Some(member) {
        return Ok(Decision { outcome: Outcome::Joined { cluster, rank }, change: None });
    }
    if known.is_none() && view.counts().members >= view.limits().members_max {
        return Err(Refusal::RegistryFull);
    }
    let cluster = Arc::new(cluster.with_member(rank, Arc::clone(member)));
    Ok(Decision {
        outcome: Outcome::Joined { cluster: Arc::clone(&cluster), rank },
        change: Some(Change::Member { cluster, rank }),
    })
}

/// The maps behind both the state and what is layered over it.
#[derive(Debug, Default)]
struct Maps {
    owners: HashMap<NodeId, Fingerprint>,
    latest: HashMap<Fingerprint, NodeId>,
    clusters: HashMap<ClusterId, Arc<Cluster>>,
    names: HashMap<Name, ClusterId>,
    counts: Counts,
}

impl Maps {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Node { id, sig_key } => {
                self.owners.insert(*id, *sig_key);
                self.latest.insert(*sig_key, *id);
                self.counts.nodes += 1;
            }
            Change::Cluster(cluster) => {
                self.names.insert(cluster.name.clone(), cluster.id);
                self.clusters.insert(cluster.id, Arc::clone(cluster));
                self.counts.clusters += 1;
            }
            Change::Member { cluster, rank } => {
                // Revision and roster grow together until somebody comes back; only a new
                // rank, the last of the roster, can be a new member.
                let before = self.clusters.insert(cluster.id, Arc::clone(cluster));
                if before.is_none_or(|before| *rank >= before.members.len()) {
                    self.counts.members += 1;
                }
            }
        }
    }
}

/// The registry's state in memory: every change so far, applied.
#[derive(Debug, Default)]
pub struct Registry {
    maps: Maps,
    limits: Limits,
}

impl Registry {
    /// An empty registry that will remember at most `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { maps: Maps::default(), limits }
    }

    /// Applies a change that [`decide`] made and a store has made durable.
    pub fn apply(&mut self, change: &Change) {
        self.maps.apply(change);
    }
}

impl View for Registry {
    fn owner(&self, id: &NodeId) -> Option<Fingerprint> {
        self.maps.owners.get(id).copied()
    }

    fn latest_id(&self, sig_key: &Fingerprint) -> Option<NodeId> {
        self.maps.latest.get(sig_key).copied()
    }

    fn cluster(&self, id: &ClusterId) -> Option<Arc<Cluster>> {
        self.maps.clusters.get(id).cloned()
    }

    fn cluster_id(&self, name: &Name) -> Option<ClusterId> {
        self.maps.names.get(name).copied()
    }

    fn counts(&self) -> Counts {
        self.maps.counts
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

/// A view of `base` with changes over it that are decided and not yet durable.
#[derive(Debug)]
pub struct Overlay<'a, V> {
    base: &'a V,
    over: Maps,
}

impl<'a, V: View> Overlay<'a, V> {
    /// An overlay with no changes yet.
    pub fn new(base: &'a V) -> Self {
        Self { base, over: Maps { counts: base.counts(), ..Maps::default() } }
    }

    /// Lays a change over the base, which itself stays as it is.
    pub fn apply(&mut self, change: &Change) {
        if let Change::Member { cluster, .. } = change
            && let Some(before) = self.cluster(&cluster.id)
        {
            // What the base has of the cluster tells whether the rank is new.
            self.over.clusters.insert(cluster.id, before);
        }
        self.over.apply(change);
    }
}

impl<V: View> View for Overlay<'_, V> {
    fn owner(&self, id: &NodeId) -> Option<Fingerprint> {
        self.over.owners.get(id).copied().or_else(|| self.base.owner(id))
    }

    fn latest_id(&self, sig_key: &Fingerprint) -> Option<NodeId> {
        self.over.latest.get(sig_key).copied().or_else(|| self.base.latest_id(sig_key))
    }

    fn cluster(&self, id: &ClusterId) -> Option<Arc<Cluster>> {
        self.over.clusters.get(id).cloned().or_else(|| self.base.cluster(id))
    }

    fn cluster_id(&self, name: &Name) -> Option<ClusterId> {
        self.over.names.get(name).copied().or_else(|| self.base.cluster_id(name))
    }

    fn counts(&self) -> Counts {
        self.over.counts
    }

    fn limits(&self) -> Limits {
        self.base.limits()
    }
}

#[cfg(test)]
mod tests;
