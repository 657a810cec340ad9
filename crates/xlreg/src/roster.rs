//! Who is in a cluster.

use std::sync::Arc;

use serde::Serialize;
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Fingerprint, Member, Name, NodeId, Policy, PublicKey, Seat,
};

/// A cluster and its members in the order of their ranks; the same for all who hold it.
///
/// Two rosters are equal if they are of one cluster and have the same members at the same ranks, signed
/// or not, whatever else [`About`] tells: a registry does not tell everything to everyone.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The cluster's name; original registries tell it only to those who knew it already.
    pub name: Option<Name>,
    /// The cluster's ID.
    pub id: ClusterId,
    /// How many members it is for. Original registries tell it only to members; to others it is
    /// as many as there are.
    pub size: u32,
    /// `CLUSTER_ATTR_*` bits.
    pub attrs: u64,
    /// Endpoints each member was asked for.
    pub endpoint_count: u32,
    /// The members that are there, by rank. In a complete roster a member's place is its rank;
    /// else there may be gaps, and [`Self::iter`] tells the ranks.
    pub members: Vec<Arc<Member>>,
    /// The rank of each of the members.
    pub(crate) ranks: Vec<usize>,
    /// What only the modern door tells.
    pub(crate) about: Option<About>,
}

/// What only the modern door tells of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Rises by one with each change of the roster.
    pub revision: u64,
    /// The sig key that created it; none for clusters of before this was kept.
    pub owner: Option<Fingerprint>,
    /// Who may join. The keys of [`Policy::Keys`] are told to the owner and administrators only.
    pub policy: Policy,
    /// Members that have left and may come back to their ranks.
    pub left: Vec<(usize, Arc<Member>)>,
}

impl PartialEq for Roster {
    fn eq(&self, other: &Self) -> bool {
        let key = |roster: &Self| (roster.id, roster.size, roster.attrs, roster.endpoint_count);
        let mut pairs = self.members.iter().zip(&other.members);
        key(self) == key(other)
            && self.name == other.name
            && self.ranks == other.ranks
            && self.members.len() == other.members.len()
            && pairs.all(|(one, other)| one.is_like(other))
    }
}

impl Eq for Roster {}

impl From<&Cluster> for Roster {
    fn from(cluster: &Cluster) -> Self {
        let left = cluster.seats.iter().enumerate().filter_map(|(rank, seat)| match seat {
            Seat::Left(member) => Some((rank, Arc::clone(member))),
            Seat::Free | Seat::Present(_) => None,
        });
        let about = About {
            revision: cluster.revision,
            owner: cluster.owner,
            policy: cluster.policy.clone(),
            left: left.collect(),
        };
        let (ranks, members) =
            cluster.present().map(|(rank, member)| (rank, Arc::clone(member))).unzip();
        Self {
            name: Some(cluster.name.clone()),
            id: cluster.id,
            size: cluster.size,
            attrs: cluster.attrs,
            endpoint_count: cluster.endpoint_count,
            members,
            ranks,
            about: Some(about),
        }
    }
}

impl Roster {
    /// Whether it is of the cluster that is meant.
    #[must_use]
    pub fn is_of(&self, cluster: &ClusterKey) -> bool {
        match cluster {
            ClusterKey::Name(name) => self.name.as_ref() == Some(name),
            ClusterKey::Id(id) => self.id == *id,
        }
    }

    /// Whether all are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.members.len() >= self.size as usize
    }

    /// The members that are there, each with its rank.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Arc<Member>)> {
        self.ranks.iter().copied().zip(&self.members)
    }

    /// Everyone who holds a rank, in their order, each with its rank and whether it has left. Over
    /// the old wire nobody ever has.
    #[must_use]
    pub fn holders(&self) -> Vec<(usize, &Arc<Member>, bool)> {
        let left = self.about.iter().flat_map(|about| &about.left);
        let left = left.map(|(rank, member)| (*rank, member, true));
        let here = self.iter().map(|(rank, member)| (rank, member, false));
        let mut all: Vec<_> = here.chain(left).collect();
        all.sort_by_key(|(rank, ..)| *rank);
        all
    }

    /// The member of this rank, if it is there.
    #[must_use]
    pub fn member(&self, rank: usize) -> Option<&Arc<Member>> {
        self.iter().find(|(own, _)| *own == rank).map(|(_, member)| member)
    }

    /// The rank of the node with this ID.
    #[must_use]
    pub fn rank(&self, id: &NodeId) -> Option<usize> {
        self.iter().find(|(_, member)| member.id == *id).map(|(rank, _)| rank)
    }

    /// The rank of the member with this sig key and name: where a node finds itself, also if the
    /// registry gave it another ID than it brought.
    #[must_use]
    pub fn rank_of_key(&self, sig_key: &PublicKey, name: &Name) -> Option<usize> {
        let mut all = self.iter();
        all.find(|(_, member)| member.sig_key == *sig_key && member.name == *name)
            .map(|(rank, _)| rank)
    }

    /// What only the modern door tells; none over the old wire.
    #[must_use]
    pub fn about(&self) -> Option<&About> {
        self.about.as_ref()
    }

    /// The cluster as a person would call it.
    #[must_use]
    pub fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// The roster as it stands in the output of commands: as [`Self::to_file_json`], and what
    /// [`About`] tells.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut view = self.view();
        if let Some(about) = &self.about {
            view.revision = Some(about.revision);
            view.owner = about.owner.map(|owner| owner.to_string());
            view.policy = Some(match about.policy {
                Policy::Open => "open",
                Policy::Token => "token",
                Policy::Keys(_) => "keys",
            });
            let left = about.left.iter().map(|(rank, member)| MemberView::new(*rank, member));
            view.left = Some(left.collect());
        }
        serde_json::to_value(view).expect("strings, numbers and lists always make JSON")
    }

    /// The roster as it stands in `roster.json`: the same for every member.
    #[must_use]
    pub fn to_file_json(&self) -> serde_json::Value {
        serde_json::to_value(self.view()).expect("strings, numbers and lists always make JSON")
    }

    fn view(&self) -> RosterView {
        RosterView {
            cluster: self.name.as_ref().map(ToString::to_string),
            cluster_id: self.id.to_string(),
            size: self.size,
            endpoint_count: self.endpoint_count,
            complete: self.is_complete(),
            members: self.iter().map(|(rank, member)| MemberView::new(rank, member)).collect(),
            revision: None,
            owner: None,
            policy: None,
            left: None,
        }
    }
}

/// `roster.json`: stable, for programs to read.
#[derive(Serialize)]
struct RosterView {
    cluster: Option<String>,
    cluster_id: String,
    size: u32,
    endpoint_count: u32,
    complete: bool,
    members: Vec<MemberView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<Vec<MemberView>>,
}

#[derive(Serialize)]
struct MemberView {
    rank: usize,
    name: String,
    id: String,
    attrs: u64,
    endpoints: Vec<String>,
    comms_key: String,
    sig_key: String,
}

impl MemberView {
    fn new(rank: usize, member: &Member) -> Self {
        Self {
            rank,
            name: member.name.to_string(),
            id: member.id.to_string(),
            attrs: member.attrs,
            endpoints: member.endpoints.iter().map(ToString::to_string).collect(),
            comms_key: xlreg_proto::text::sshkey::encode(&member.comms_key),
            sig_key: xlreg_proto::text::sshkey::encode(&member.sig_key),
        }
    }
}
