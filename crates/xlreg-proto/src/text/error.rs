//! What can be wrong with a text: where, what was expected, what stood there.

use thiserror::Error;
use xlreg_core::endpoint::EndpointError;
use xlreg_core::id::IdError;
use xlreg_core::limits::{SIGNATURE_BYTES_MAX, SIGNATURE_BYTES_MIN};
use xlreg_core::name::NameError;
use xlreg_core::version::VersionError;

use super::id::FileIdError;
use super::node::OneLineError;
use super::pem::Base64Error;
use super::sshkey::SshKeyError;
use crate::keys::KeyError;

/// Text that should have been one of the formats of this module and is not.
///
/// `what` names the text, such as "credentials"; lines count from 1. What is quoted from the text
/// is cut short and escaped, and not quoted at all where it might be part of a private key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// Too long to be looked at.
    #[error("{what}: {got} bytes, at most {max} are read; is this the right file?")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// Bytes there were.
        got: usize,
        /// Bytes there may be: [`super::FILE_BYTES_MAX`].
        max: usize,
    },
    /// One line too long.
    #[error("{what}, line {line}: {got} bytes in one line, at most {max} are read")]
    LineTooLong {
        /// What was being read.
        what: &'static str,
        /// The line.
        line: usize,
        /// Bytes it has.
        got: usize,
        /// Bytes it may have: [`super::LINE_BYTES_MAX`].
        max: usize,
    },
    /// More entries of a kind than there may be.
    #[error("{what}, line {line}: more than {max} entries in {block}")]
    TooMany {
        /// What was being read.
        what: &'static str,
        /// The first line too many.
        line: usize,
        /// The block they stand in.
        block: &'static str,
        /// Entries there may be.
        max: usize,
    },
    /// A line that is not the one that belongs here: one is missing, twice, unknown or out of order.
    #[error("{what}, line {line}: expected {expected}, found {found}")]
    Unexpected {
        /// What was being read.
        what: &'static str,
        /// The line; the one after the last if the text ends too early.
        line: usize,
        /// What belongs here.
        expected: String,
        /// What stands here.
        found: String,
    },
    /// The right line with a value that is none; the source says why.
    #[error("{what}, line {line}: {field} cannot be read")]
    Value {
        /// What was being read.
        what: &'static str,
        /// The line; of a PEM frame, its last.
        line: usize,
        /// The field's name.
        field: &'static str,
        /// What is wrong with the value.
        source: ValueError,
    },
}

impl TextError {
    /// The line where reading stopped, from 1; none if the text was not looked at.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::TooLarge { .. } => None,
            Self::LineTooLong { line, .. }
            | Self::TooMany { line, .. }
            | Self::Unexpected { line, .. }
            | Self::Value { line, .. } => Some(*line),
        }
    }
}

/// What is wrong with the value of a field.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ValueError {
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not an ID.
    #[error(transparent)]
    Id(#[from] FileIdError),
    /// Not an ID of today's length.
    #[error(transparent)]
    ShortId(#[from] IdError),
    /// Not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Not a version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Not a key that we take.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a key in the form of an `ssh-rsa` line.
    #[error(transparent)]
    SshKey(#[from] SshKeyError),
    /// Not base64, in a PEM frame.
    #[error(transparent)]
    Base64(#[from] Base64Error),
    /// Not text as a node file can hold it.
    #[error(transparent)]
    OneLine(#[from] OneLineError),
    /// Not a point in time.
    #[error("expected a time to the second, in UTC, such as 2026-11-24T19:23:53Z")]
    Time,
    /// Not as long as a signature may be.
    #[error("a signature has {SIGNATURE_BYTES_MIN} to {SIGNATURE_BYTES_MAX} bytes, got {got}")]
    Signature {
        /// Bytes it has.
        got: usize,
    },
    /// Not a number in its range.
    #[error("expected {expected}")]
    Number {
        /// The range.
        expected: String,
    },
    /// A private key that is not the other half of the public key above it.
    #[error(
        "the private key does not belong to the public key of the same file; restore the file \
         from a copy, or make a new identity"
    )]
    KeyPair,
}
