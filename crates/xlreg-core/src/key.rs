//! Public keys, as far as the rules care: bytes to hand on, and a fingerprint to compare.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::id::Fingerprint;

/// An RSA public key: its DER SubjectPublicKeyInfo and the SHA-256 of that.
///
/// Two keys are equal if their fingerprints are. Cheap to clone. Whether the bytes are a key at all
/// is checked where they come in, by `xlreg_proto::keys`; past that line nobody asks again.
#[derive(Clone)]
pub struct PublicKey {
    der: Arc<[u8]>,
    fingerprint: Fingerprint,
}

impl PublicKey {
    /// Joins checked bytes with their fingerprint.
    #[must_use]
    pub fn from_checked(der: &[u8], fingerprint: Fingerprint) -> Self {
        Self { der: der.into(), fingerprint }
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The SHA-256 of the DER.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for PublicKey {}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint)
    }
}
