//! Every cap of the registry's own data, in one place. Caps of the wire stand in `xlreg-proto`,
//! those of sockets in `xlreg-server`.

/// Bytes in a name. Far above any real one; it bounds what a stranger can make us keep and print.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes in an endpoint's text: a DNS name has at most 253, then `:65535`.
pub const ENDPOINT_BYTES_MAX: usize = 260;

/// Endpoints a member may bring. A cluster asks for one or two; more are kept, up to this many.
pub const MEMBER_ENDPOINTS_MAX: usize = 8;

/// Members in the smallest cluster: one machine alone has nobody to meet.
pub const CLUSTER_SIZE_MIN: u32 = 2;

/// Members in the largest cluster: the wire's `Which` field has 64 bits, one a member.
pub const CLUSTER_SIZE_MAX: u32 = 64;

/// Endpoints a cluster may ask of each member: one for members, and one for the cluster's clients.
pub const CLUSTER_ENDPOINTS_MAX: u32 = 2;

/// How much a registry agrees to remember, so that no stream of requests grows it without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IDs that may be bound to keys. One takes about 200 bytes of memory.
    pub nodes_max: usize,
    /// Clusters. An empty one takes about 500 bytes of memory.
    pub clusters_max: usize,
    /// Members of all clusters together. One with 2048-bit keys takes about 1 KiB of memory.
    pub members_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes_max: 4_000_000, clusters_max: 1_000_000, members_max: 2_000_000 }
    }
}
