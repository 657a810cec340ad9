//! What a node says of itself, and a roster says of it.

use std::fmt;

use data_encoding::HEXLOWER;

use crate::limits::{SIGNATURE_BYTES_MAX, SIGNATURE_BYTES_MIN};
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
    /// Its own signature over all of the above, if it has made one: whoever joins over the old wire
    /// has not.
    pub entry_signature: Option<EntrySignature>,
}

impl Member {
    /// Whether `other` says the same of itself, signed or not.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { id, name, attrs, comms_key, sig_key, endpoints, entry_signature: _ } = self;
        (*id, *attrs) == (other.id, other.attrs)
            && *name == other.name
            && *comms_key == other.comms_key
            && *sig_key == other.sig_key
            && *endpoints == other.endpoints
    }
}

/// A member's signature over its entry in one cluster of one registry.
///
/// Whether it is one is checked where it comes in, by `xlreg_proto::entry`, which also says what it
/// covers.
#[derive(Clone, PartialEq, Eq)]
pub struct EntrySignature(Box<[u8]>);

impl EntrySignature {
    /// Takes these bytes for a signature, if there are as many as some key makes:
    /// [`SIGNATURE_BYTES_MIN`] to [`SIGNATURE_BYTES_MAX`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (SIGNATURE_BYTES_MIN..=SIGNATURE_BYTES_MAX)
            .contains(&bytes.len())
            .then(|| Self(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EntrySignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntrySignature({})", HEXLOWER.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_has_as_many_bytes_as_some_key() {
        assert_eq!(EntrySignature::new(&[7; 300]).unwrap().as_bytes(), [7; 300]);
        for good in [SIGNATURE_BYTES_MIN, SIGNATURE_BYTES_MAX] {
            assert!(EntrySignature::new(&vec![7; good]).is_some());
        }
        for bad in [0, 1, SIGNATURE_BYTES_MIN - 1, SIGNATURE_BYTES_MAX + 1, 1 << 20] {
            assert_eq!(EntrySignature::new(&vec![7; bad]), None, "{bad} bytes");
        }
    }
}
