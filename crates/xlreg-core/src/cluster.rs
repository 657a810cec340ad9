//! A cluster and its roster.

use std::fmt;
use std::sync::Arc;

use crate::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, MEMBER_ENDPOINTS_MAX,
};
use crate::registry::Refusal;
use crate::{ClusterId, Member, Name, NodeId};

/// Attribute bit: the cluster goes when its use is over.
pub const CLUSTER_ATTR_EPHEMERAL: u64 = 1;
/// Attribute bit: the cluster has been deleted.
pub const CLUSTER_ATTR_DELETED: u64 = 2;

/// How a request says which cluster it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClusterKey {
    /// By the ID that the registry issued.
    Id(ClusterId),
    /// By its name.
    Name(Name),
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A declared number of members, and those who have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The ID that the registry issued.
    pub id: ClusterId,
    /// The name, unique in the registry.
    pub name: Name,
    /// `CLUSTER_ATTR_*` bits, as its creator gave them.
    pub attrs: u64,
    /// How many members it is for: [`CLUSTER_SIZE_MIN`] to [`CLUSTER_SIZE_MAX`].
    pub size: u32,
    /// Endpoints it asks of each member: 1 or 2.
    pub endpoint_count: u32,
    /// The roster: a member's place is its rank, and never changes.
    pub members: Vec<Arc<Member>>,
    /// Rises by one with every change of the roster.
    pub revision: u64,
}

impl Cluster {
    /// An empty cluster, its size and endpoint count clamped to what the wire can carry.
    #[must_use]
    pub fn new(id: ClusterId, name: Name, attrs: u64, size: u32, endpoint_count: u32) -> Self {
        Self {
            id,
            name,
            attrs,
            size: size.clamp(CLUSTER_SIZE_MIN, CLUSTER_SIZE_MAX),
            endpoint_count: endpoint_count.clamp(1, CLUSTER_ENDPOINTS_MAX),
            members: Vec::new(),
            revision: 0,
        }
    }

    /// Whether as many members have come as were declared.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.members.len() >= self.size as usize
    }

    /// The rank and the entry of the member with this ID.
    #[must_use]
    pub fn member(&self, id: &NodeId) -> Option<(usize, &Arc<Member>)> {
        self.members.iter().enumerate().find(|(_, member)| member.id == *id)
    }

    /// The rank that `member` gets, or keeps if it has come back.
    ///
    /// # Errors
    /// A [`Refusal`] if it brings too few endpoints, if its name or ID is another member's, or if
    /// the cluster is full.
    pub fn admit(&self, member: &Member) -> Result<usize, Refusal> {
        let got = member.endpoints.len();
        if got == 0 {
            return Err(Refusal::NoEndpoint);
        }
        if got < self.endpoint_count as usize {
            return Err(Refusal::TooFewEndpoints { got, asked: self.endpoint_count });
        }
        if got > MEMBER_ENDPOINTS_MAX {
            return Err(Refusal::TooManyEndpoints { got });
        }
        let same_name = self.members.iter().position(|known| known.name == member.name);
        if let Some(rank) = same_name
            && self.members.get(rank).is_some_and(|known| known.sig_key != member.sig_key)
        {
            return Err(Refusal::MemberNameInUse);
        }
        if self.member(&member.id).is_some_and(|(rank, _)| Some(rank) != same_name) {
            return Err(Refusal::MemberIdInUse);
        }
        match same_name {
            Some(rank) => Ok(rank),
            None if self.is_full() => Err(Refusal::ClusterFull { size: self.size }),
            None => Ok(self.members.len()),
        }
    }

    /// This cluster after `member` has taken `rank`, which [`Self::admit`] gave.
    #[must_use]
    pub fn with_member(&self, rank: usize, member: Arc<Member>) -> Self {
        let mut cluster = self.clone();
        cluster.revision += 1;
        match cluster.members.get_mut(rank) {
            Some(place) => *place = member,
            None => cluster.members.push(member),
        }
        cluster
    }
}
