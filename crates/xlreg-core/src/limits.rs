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

/// Sig keys that a cluster's list of those who may join can have.
pub const POLICY_KEYS_MAX: usize = 256;

/// Join tokens that a cluster keeps at once. Those that are over make room for new ones.
pub const CLUSTER_TOKENS_MAX: usize = 64;

/// Ranks that may be taken with one token. No cluster has as many at a time.
pub const TOKEN_USES_MAX: u32 = 1000;

/// Bytes in a token's label.
pub const LABEL_BYTES_MAX: usize = 64;

/// Sig keys that one cluster may shut out.
pub const CLUSTER_EXPELLED_MAX: usize = 256;

/// Changes of a roster that are remembered for watchers who come back: two for each member of the
/// largest cluster. Whoever missed more is shown the roster anew.
pub const CLUSTER_EVENTS_MAX: usize = 128;

/// Bytes in a signature: as many as the modulus of its key has. The smallest that signs for anything
/// newer than the old wire has 2048 bits, the largest that is taken 4096.
pub const SIGNATURE_BYTES_MIN: usize = 256;
/// The same for the largest.
pub const SIGNATURE_BYTES_MAX: usize = 512;

/// How much a registry agrees to remember, so that no stream of requests grows it without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IDs that may be bound to keys, and as many keys that may be retired: each stays known for
    /// ever. One takes about 200 bytes of memory.
    pub nodes_max: usize,
    /// Clusters. An empty one takes about 500 bytes of memory.
    pub clusters_max: usize,
    /// Members of all clusters together. One with 2048-bit keys takes about 1 KiB of memory, and
    /// 300 bytes more if it has signed its entry.
    pub members_max: usize,
    /// IDs that one sig key may hold. They are looked through with each of its requests.
    pub ids_per_key_max: usize,
    /// Clusters that one sig key may own at once.
    pub clusters_per_key_max: usize,
    /// Ranks that one sig key may hold at once, in all clusters together.
    pub memberships_per_key_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes_max: 4_000_000,
            clusters_max: 1_000_000,
            members_max: 2_000_000,
            ids_per_key_max: 256,
            clusters_per_key_max: 1_000,
            memberships_per_key_max: 1_000,
        }
    }
}
