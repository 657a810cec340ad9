//! IDs as files hold them.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;
use xlreg_core::id::ID_BYTES;
use xlreg_core::{ClusterId, NodeId};

/// Bytes of an ID in files from before November 2014.
pub const OLD_ID_BYTES: usize = 32;

/// The ID of a node or a cluster in a file: 20 bytes, or 32 in files from before 2014-11.
///
/// As text it is 40 or 64 hex digits, written in lower case, read in either.
/// Source: docs/protocol.md, section 5.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileId {
    /// An ID as registries know it today.
    Current([u8; ID_BYTES]),
    /// An ID of old, which no wire message can carry.
    Old([u8; OLD_ID_BYTES]),
}

/// Text that should have been an ID and is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("an ID is 40 hex digits, or 64 in files from before 2014-11; got {got} {unit}")]
pub struct FileIdError {
    got: usize,
    unit: &'static str,
}

impl FileId {
    /// The bytes: 20 or 32.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Current(bytes) => bytes,
            Self::Old(bytes) => bytes,
        }
    }

    /// The same as a node's ID; none if it is an old one.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        NodeId::try_from(self.as_bytes()).ok()
    }

    /// The same as a cluster's ID; none if it is an old one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        ClusterId::try_from(self.as_bytes()).ok()
    }
}

impl From<NodeId> for FileId {
    fn from(id: NodeId) -> Self {
        Self::Current(*id.as_bytes())
    }
}

impl From<ClusterId> for FileId {
    fn from(id: ClusterId) -> Self {
        Self::Current(*id.as_bytes())
    }
}

impl FromStr for FileId {
    type Err = FileIdError;

    fn from_str(text: &str) -> Result<Self, FileIdError> {
        let fail = |unit| FileIdError { got: text.len(), unit };
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| fail("bytes of text that are not all hex"))?;
        if let Ok(bytes) = bytes.as_slice().try_into() {
            return Ok(Self::Current(bytes));
        }
        let old = bytes.try_into().map_err(|_| fail("hex digits"))?;
        Ok(Self::Old(old))
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lengths_read_back_what_they_print() {
        for digits in [40, 64] {
            let text = "5a".repeat(digits / 2);
            let id: FileId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(text.to_uppercase().parse(), Ok(id));
            assert_eq!(id.node_id().is_some(), digits == 40);
            assert_eq!(id.cluster_id().is_some(), digits == 40);
        }
    }

    #[test]
    fn every_other_length_and_alphabet_is_refused() {
        for digits in (0..140).filter(|digits| ![40, 64].contains(digits)) {
            assert!("a".repeat(digits).parse::<FileId>().is_err(), "{digits}");
        }
        for bad in ["g", "é", " ", "0x"] {
            let text = format!("{bad}{}", "a".repeat(40 - bad.len()));
            assert!(text.parse::<FileId>().is_err(), "{text}");
        }
    }
}
