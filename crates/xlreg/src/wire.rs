//! What a registry is spoken to in.

use std::fmt;

use xlreg_core::Version;
use xlreg_proto::channel::Dialect;

/// What a registry is spoken to in: TLS and gRPC, or one of the two dialects of the old wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The old wire, as servers up to 1.8 speak it.
    V1_8,
    /// The old wire, as servers since 1.9 speak it.
    V1_9,
    /// The modern door: TLS 1.3, and gRPC within.
    V2,
}

impl Wire {
    /// What a registry of this version speaks best.
    #[must_use]
    pub fn of(version: Version) -> Self {
        if version >= Version::FIRST_OF_2 {
            Self::V2
        } else if version >= Version::FIRST_OF_1_9 {
            Self::V1_9
        } else {
            Self::V1_8
        }
    }

    /// The dialect, if it is the old wire.
    #[must_use]
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            Self::V1_8 => Some(Dialect::V1_8),
            Self::V1_9 => Some(Dialect::V1_9),
            Self::V2 => None,
        }
    }
}

impl From<Dialect> for Wire {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::V1_8 => Self::V1_8,
            Dialect::V1_9 => Self::V1_9,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V1_8 => "1.8",
            Self::V1_9 => "1.9",
            Self::V2 => "2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_says_which_wire() {
        for (version, wire) in [
            ("1.8.4", Wire::V1_8),
            ("1.9.0", Wire::V1_9),
            ("1.9.24", Wire::V1_9),
            ("2.0.0", Wire::V2),
            ("3.1.0", Wire::V2),
        ] {
            assert_eq!(Wire::of(version.parse().unwrap()), wire, "{version}");
            assert_eq!(wire.dialect().map_or(Wire::V2, Wire::from), wire);
        }
    }
}
