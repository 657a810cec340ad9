//! The names of nodes and clusters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::NAME_BYTES_MAX;

/// A name of a node or a cluster: an ASCII letter or `_`, then letters, digits and `_`, at most
/// [`NAME_BYTES_MAX`] bytes.
///
/// Cheap to clone. Source: docs/protocol.md, section 5.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Text that should have been a name and is not.
///
/// The text itself is left out: it comes from strangers, may be long, and may hold control
/// characters.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// No characters at all.
    #[error("a name must not be empty")]
    Empty,
    /// More bytes than a name may have.
    #[error("a name has at most {NAME_BYTES_MAX} bytes, got {got}")]
    TooLong {
        /// The bytes there were.
        got: usize,
    },
    /// A character that may not stand where it stands.
    #[error(
        "a name is a letter or '_', then letters, digits and '_'; got {found:?} at position {position}"
    )]
    Character {
        /// The first offending character.
        found: char,
        /// How many characters stand before it.
        position: usize,
    },
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { got: text.len() });
        }
        for (position, found) in text.chars().enumerate() {
            let fits = found == '_'
                || found.is_ascii_alphabetic()
                || (position > 0 && found.is_ascii_digit());
            if !fits {
                return Err(NameError::Character { found, position });
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "_", "alpha", "Node_7", "__x9", &"n".repeat(NAME_BYTES_MAX)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in
            ["", "7up", "a b", "a\nb", "a-b", "a.b", "é", "a\0", &"n".repeat(NAME_BYTES_MAX + 1)]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
