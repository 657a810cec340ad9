//! Who may come into a cluster, and for how long it is there to come into.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq as _;

use crate::limits::{LABEL_BYTES_MAX, TOKEN_USES_MAX};
use crate::{Fingerprint, Time};

/// Who may join a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever can reach the registry, over either wire.
    #[default]
    Open,
    /// Whoever brings one of the cluster's tokens.
    Token,
    /// The holders of these sig keys: each has a rank kept for it until it takes one, and more only of
    /// those that are over.
    Keys(BTreeSet<Fingerprint>),
}

impl Policy {
    /// Whether both are of one kind, whatever keys they name.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Puts `new` in the place of `old`, if this is a list that has it.
    pub(crate) fn replace(&mut self, old: &Fingerprint, new: Fingerprint) -> bool {
        let Self::Keys(keys) = self else { return false };
        let listed = keys.remove(old);
        if listed {
            keys.insert(new);
        }
        listed
    }
}

/// What a node brings to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It speaks the old wire, which has no place for a token nor any protection for one.
    OldWire,
    /// Nothing but its key.
    Key,
    /// A token.
    Token(TokenProof),
}

/// How long a cluster is to live, as its creator says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Within this time it must be full.
    pub fill_within: Option<Duration>,
    /// It lives this long in any case.
    pub ttl: Option<Duration>,
    /// It lives until it has been idle for this long.
    pub idle: Option<Duration>,
    /// It lives as long as its owner is connected.
    pub with_owner: bool,
}

/// How long a cluster lives, as points in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When it was created; 1970 for clusters of before this was kept.
    pub created: Time,
    /// By when it must be full; none once it has been.
    pub fill_by: Option<Time>,
    /// When it ends in any case.
    pub ends: Option<Time>,
    /// How long it may be idle.
    pub idle: Option<Duration>,
    /// Whether it goes with its owner's last connection.
    pub with_owner: bool,
}

impl Life {
    /// A life that begins `now`.
    #[must_use]
    pub fn new(lifetime: &Lifetime, now: Time) -> Self {
        Self {
            created: now,
            fill_by: lifetime.fill_within.map(|within| now.after(within)),
            ends: lifetime.ttl.map(|ttl| now.after(ttl)),
            // In whole milliseconds, as time is told and kept.
            idle: lifetime.idle.map(|idle| now.after(idle).since(now)),
            with_owner: lifetime.with_owner,
        }
    }
}

/// The public part of a token: what it is listed and revoked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 4]);

impl TokenId {
    /// The ID of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }

    /// Reads 8 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// A hash of a token's secret, all that is ever kept of it. Compared in constant time.
#[derive(Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The SHA-256 of a secret, as `xlreg-api` takes it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenDigest {}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(***)")
    }
}

/// What a node shows of the token it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenProof {
    /// Which token.
    pub id: TokenId,
    /// That it knows the secret.
    pub digest: TokenDigest,
}

/// A join token as the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is called.
    pub id: TokenId,
    /// What its secret hashes to.
    pub digest: TokenDigest,
    /// For people to know it by.
    pub label: Label,
    /// When it was issued.
    pub created: Time,
    /// From when on it is of no use.
    pub expires: Time,
    /// How many ranks may be taken with it: 1 to [`TOKEN_USES_MAX`].
    pub uses_max: u32,
    /// How many have been.
    pub uses: u32,
}

impl Token {
    /// Whether nobody can join with it any more.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        now >= self.expires || self.uses >= self.uses_max
    }
}

/// A word or two of text about a token: at most [`LABEL_BYTES_MAX`] bytes, no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label(Box<str>);

impl Label {
    /// Checks a text.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let good = text.len() <= LABEL_BYTES_MAX && !text.contains(char::is_control);
        good.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many uses a token gets that is asked for `asked`, 0 meaning one for each of `size` members.
#[must_use]
pub fn token_uses(asked: u32, size: u32) -> Option<u32> {
    let uses = if asked == 0 { size } else { asked };
    (1..=TOKEN_USES_MAX).contains(&uses).then_some(uses)
}
