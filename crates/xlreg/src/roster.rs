//! Who is in a cluster.

use std::sync::Arc;

use serde::Serialize;
use xlreg_core::{ClusterId, Member, Name, NodeId, PublicKey};

/// A cluster and its members in the order of their ranks; the same for all who hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The members; a member's place is its rank.
    pub members: Vec<Arc<Member>>,
}

impl Roster {
    /// Whether all are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.members.len() >= self.size as usize
    }

    /// The rank of the node with this ID.
    #[must_use]
    pub fn rank(&self, id: &NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.id == *id)
    }

    /// The rank of the member with this sig key and name: where a node finds itself, also if the
    /// registry gave it another ID than it brought.
    #[must_use]
    pub fn rank_of_key(&self, sig_key: &PublicKey, name: &Name) -> Option<usize> {
        self.members.iter().position(|member| member.sig_key == *sig_key && member.name == *name)
    }

    /// The cluster as a person would call it.
    #[must_use]
    pub fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// The roster as it stands in `roster.json` and in the output of commands.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let members = self.members.iter().enumerate();
        let view = RosterView {
            cluster: self.name.as_ref().map(ToString::to_string),
            cluster_id: self.id.to_string(),
            size: self.size,
            endpoint_count: self.endpoint_count,
            complete: self.is_complete(),
            members: members.map(|(rank, member)| MemberView::new(rank, member)).collect(),
        };
        serde_json::to_value(view).expect("strings, numbers and lists always make JSON")
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
