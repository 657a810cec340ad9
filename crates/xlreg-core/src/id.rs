//! The IDs of nodes and clusters, and the fingerprints of keys.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;

/// Bytes in the ID of a node or a cluster.
pub const ID_BYTES: usize = 20;

/// Text or bytes that should have been an ID, or a fingerprint, and are not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not {what}: {problem}")]
pub struct IdError {
    what: &'static str,
    problem: String,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps bytes that are known to be such an ID.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes themselves.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            fn error(problem: String) -> IdError {
                IdError { what: $what, problem }
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let got = bytes.len();
                let wrong_length = |_| Self::error(format!("{} bytes are expected, got {got}", $len));
                bytes.try_into().map(Self).map_err(wrong_length)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let decoded = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
                let bytes = decoded.and_then(|bytes| bytes.try_into().ok());
                bytes.map(Self).ok_or_else(|| {
                    let got = text.chars().count();
                    let all_hex = text.chars().all(|c| c.is_ascii_hexdigit());
                    let strange = if all_hex { "" } else { " characters, not all of them hex" };
                    Self::error(format!("{} hex digits are expected, got {got}{strange}", 2 * $len))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

byte_id! {
    /// A node's ID: 20 bytes that the registry issued, or that a client brought and was granted.
    NodeId, ID_BYTES, "an ID"
}

byte_id! {
    /// A cluster's ID: 20 random bytes that the registry issued.
    ClusterId, ID_BYTES, "an ID"
}

byte_id! {
    /// The SHA-256 of a public key's DER SubjectPublicKeyInfo: 32 bytes that stand for the key.
    Fingerprint, 32, "a fingerprint"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = NodeId::from_bytes([0xA5; ID_BYTES]);
        assert_eq!(id.to_string().len(), 40);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn anything_but_forty_hex_digits_is_refused() {
        for text in
            ["", "a5", &"a5".repeat(19), &"a5".repeat(21), &"g5".repeat(20), &"é".repeat(20)]
        {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
        assert!(ClusterId::try_from([0u8; 19].as_slice()).is_err());
    }

    #[test]
    fn what_is_refused_is_counted_in_what_it_was_given_in() {
        for (text, got) in [
            ("abc", "3"),
            ("", "0"),
            ("xyz", "3 characters, not all of them hex"),
            (&"é".repeat(64), "64 characters, not all of them hex"),
        ] {
            let error = text.parse::<Fingerprint>().unwrap_err().to_string();
            assert_eq!(error, format!("not a fingerprint: 64 hex digits are expected, got {got}"));
        }
        let error = NodeId::try_from([0u8; 19].as_slice()).unwrap_err().to_string();
        assert_eq!(error, "not an ID: 20 bytes are expected, got 19");
    }
}
