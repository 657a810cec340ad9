//! What a node says of itself, and a roster says of it.

use crate::{Endpoint, Name, NodeId, PublicKey};

/// Attribute bit: the node is not expected to come back.
pub const ATTR_EPHEMERAL: u64 = 1;
/// Attribute bit: the node administers clusters and joins none.
pub const ATTR_ADMIN: u64 = 2;
/// Attribute bit: the node registers and joins nothing.
pub const ATTR_SOLO: u64 = 4;

/// A node with its ID, as it presents itself to a cluster and as the roster shows it.
///
/// Its rank is not part of it: that is its place in [`crate::Cluster::seats`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The ID, which belongs to `sig_key`.
    pub id: NodeId,
    /// The name, unique in its cluster.
    pub name: Name,
    /// `ATTR_*` bits, as presented; the registry hands them on.
    pub attrs: u64,
    /// The key others agree on session keys with.
    pub comms_key: PublicKey,
    /// The key that says who this is.
    pub sig_key: PublicKey,
    /// Where it is reached: the first endpoint by other members, the second, if any, by clients.
    pub endpoints: Vec<Endpoint>,
}
