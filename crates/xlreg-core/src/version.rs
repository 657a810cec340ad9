//! Versions of registries.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A version `a.b.c.d`, four bytes; on the wire `a` comes first.
///
/// As text, trailing zero parts are dropped but `a.b` always stands: 1.2.0.0 is `1.2`.
/// Source: docs/protocol.md, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u8; 4]);

/// Text that should have been a version and is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a version is two to four numbers from 0 to 255 with dots between, such as 1.9.24")]
pub struct VersionError;

impl Version {
    /// The version that this project's servers present: the first with the modern door. Clients of
    /// the old wire take it for one that speaks the 1.9 dialect, and it does.
    pub const CURRENT: Self = Self([2, 0, 0, 0]);

    /// The first version that has the modern door.
    pub const FIRST_OF_2: Self = Self([2, 0, 0, 0]);

    /// The first version that speaks the 1.9 dialect.
    pub const FIRST_OF_1_9: Self = Self([1, 9, 0, 0]);

    /// A version from its four parts, the most significant first.
    #[must_use]
    pub const fn from_bytes(parts: [u8; 4]) -> Self {
        Self(parts)
    }

    /// The four parts, the most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let mut parts = [0u8; 4];
        let mut count = 0;
        for piece in text.split('.') {
            let plain = !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_digit());
            let part = parts.get_mut(count).filter(|_| plain).ok_or(VersionError)?;
            *part = piece.parse().map_err(|_| VersionError)?;
            count += 1;
        }
        if count < 2 { Err(VersionError) } else { Ok(Self(parts)) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        match (c, d) {
            (0, 0) => write!(f, "{a}.{b}"),
            (_, 0) => write!(f, "{a}.{b}.{c}"),
            _ => write!(f, "{a}.{b}.{c}.{d}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_zeros_are_dropped_but_two_parts_stand() {
        for (parts, text) in [
            ([1, 9, 24, 0], "1.9.24"),
            ([1, 2, 0, 0], "1.2"),
            ([1, 0, 0, 0], "1.0"),
            ([1, 2, 0, 4], "1.2.0.4"),
        ] {
            assert_eq!(Version::from_bytes(parts).to_string(), text);
            assert_eq!(text.parse(), Ok(Version::from_bytes(parts)));
        }
        for bad in ["", "1", "1.", ".1", "1.2.3.4.5", "1.256", "1.+2", "a.b", "1.2 "] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }
}
