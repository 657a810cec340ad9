//! Invitations: everything that a machine needs to join a cluster, in one line of text.
//!
//! ```text
//! xlreg://HOST:PORT[,HOST:PORT...]/CLUSTER?key=FINGERPRINT[&token=SECRET]
//! ```
//!
//! It looks like a URL, so that people see what it is, and is not read as one: nothing in it needs
//! escaping, and nothing is unescaped.

use std::collections::BTreeSet;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;
use xlreg_core::endpoint::EndpointError;
use xlreg_core::limits::MEMBER_ENDPOINTS_MAX;
use xlreg_core::name::NameError;
use xlreg_core::{ClusterKey, Endpoint, Fingerprint, Name};
use zeroize::Zeroizing;

use crate::secret::{TokenError, TokenSecret};

/// Bytes of an invitation's text. What is known today fits into some 2400; the rest is for
/// parameters yet to come.
pub const INVITATION_BYTES_MAX: usize = 4096;

/// Addresses that an invitation may name: as many as any node may have.
pub const INVITATION_ENDPOINTS_MAX: usize = MEMBER_ENDPOINTS_MAX;

const SCHEME: &str = "xlreg://";
const KEY: &str = "key";
const TOKEN: &str = "token";

/// Hex digits of a cluster's ID.
const ID_DIGITS: usize = xlreg_core::id::ID_BYTES * 2;

/// Where a registry is, which key it is known by, which cluster to join, and what with.
///
/// With a token in it, its text is as secret as the token is. Parameters that are not known here
/// are skipped, as later versions may add some; they are not kept.
#[derive(Clone, Debug)]
pub struct Invitation {
    endpoints: Vec<Endpoint>,
    sig_key: Fingerprint,
    cluster: ClusterKey,
    token: Option<TokenSecret>,
}

/// Text or parts that should have been an invitation and are not.
///
/// What is wrong is told by its place, not quoted: the text may hold a secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvitationError {
    /// More than is ever read.
    #[error("an invitation has at most {INVITATION_BYTES_MAX} bytes, got {got}")]
    TooLong {
        /// The bytes there were.
        got: usize,
    },
    /// A blank, a line's end or something else that got in when the text was copied.
    #[error("an invitation is one word of ASCII; byte {position} is a blank or something else")]
    Character {
        /// How many bytes stand before it.
        position: usize,
    },
    /// Something else altogether.
    #[error("an invitation looks like {SCHEME}HOST:PORT/CLUSTER?{KEY}=...; this begins otherwise")]
    Scheme,
    /// Cut short.
    #[error("the invitation lacks {what}; it may have been cut short, copy it whole")]
    Missing {
        /// What should be there.
        what: &'static str,
    },
    /// More addresses than are ever tried.
    #[error("an invitation has at most {INVITATION_ENDPOINTS_MAX} addresses, got {got}")]
    TooManyEndpoints {
        /// The addresses there were.
        got: usize,
    },
    /// An address that nobody could connect to.
    #[error("address {position} in the invitation")]
    Endpoint {
        /// Which one, from 1.
        position: usize,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// Neither the ID nor the name of a cluster.
    #[error("the cluster in the invitation")]
    Cluster(#[source] NameError),
    /// A name that would be read as an ID.
    #[error("{ID_DIGITS} hex digits are taken for a cluster's ID; invite to it by its ID")]
    NameLikeId,
    /// Not the fingerprint of a key.
    #[error("\"{KEY}\" in the invitation must be 32 bytes in base64url without padding")]
    Key,
    /// Not a token's secret.
    #[error("\"{TOKEN}\" in the invitation")]
    Token(#[source] TokenError),
    /// Not of the form `word=value`.
    #[error("parameter {position} in the invitation is not WORD=VALUE, the word of a to z and '_'")]
    Parameter {
        /// Which one, from 1.
        position: usize,
    },
    /// A parameter that was there before. Which of the two was meant, nobody knows.
    #[error("parameter {position} in the invitation repeats one before it")]
    Repeated {
        /// Which one, from 1.
        position: usize,
    },
}

impl Invitation {
    /// Invites to `cluster`, at the registry whose sig key has the fingerprint `sig_key` and which
    /// is reached at any of `endpoints`.
    ///
    /// # Errors
    /// [`InvitationError`] if there are not 1 to [`INVITATION_ENDPOINTS_MAX`] endpoints, or if the
    /// cluster's name is 40 hex digits, so that it would be read as an ID.
    pub fn new(
        endpoints: Vec<Endpoint>,
        sig_key: Fingerprint,
        cluster: ClusterKey,
        token: Option<TokenSecret>,
    ) -> Result<Self, InvitationError> {
        if endpoints.is_empty() {
            return Err(InvitationError::Missing { what: "the registry's address" });
        }
        check_count(endpoints.len())?;
        if matches!(&cluster, ClusterKey::Name(name) if is_like_id(name.as_str())) {
            return Err(InvitationError::NameLikeId);
        }
        Ok(Self { endpoints, sig_key, cluster, token })
    }

    /// Reads an invitation's text; nothing may stand around it.
    ///
    /// # Errors
    /// [`InvitationError`], which holds nothing of a token.
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        if text.len() > INVITATION_BYTES_MAX {
            return Err(InvitationError::TooLong { got: text.len() });
        }
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(InvitationError::Character { position });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvitationError::Scheme)?;
        let (path, parameters) = match rest.split_once('?') {
            Some((path, parameters)) => (path, Some(parameters)),
            None => (rest, None),
        };
        let (addresses, cluster) = path.split_once('/').unwrap_or((path, ""));
        let endpoints = read_endpoints(addresses)?;
        let cluster = read_cluster(cluster)?;
        let Parameters { key, token } = Parameters::read(parameters)?;
        Self::new(endpoints, key, cluster, token)
    }

    /// The invitation as text. **It holds the token's secret**, if there is a token: whoever has
    /// the text can join.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // With room from the start, so that it never moves and leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(INVITATION_BYTES_MAX));
        text.push_str(SCHEME);
        for (position, endpoint) in self.endpoints.iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            text.push_str(endpoint.as_str());
        }
        text.push('/');
        text.push_str(&self.cluster.to_string());
        text.push('?');
        text.push_str(KEY);
        text.push('=');
        BASE64URL_NOPAD.encode_append(self.sig_key.as_bytes(), &mut text);
        if let Some(token) = &self.token {
            text.push('&');
            text.push_str(TOKEN);
            text.push('=');
            text.push_str(token.as_str());
        }
        text
    }

    /// Where the registry is reached: 1 to [`INVITATION_ENDPOINTS_MAX`], the best first.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The fingerprint of the registry's sig key, to pin.
    #[must_use]
    pub fn sig_key(&self) -> Fingerprint {
        self.sig_key
    }

    /// The cluster to join.
    #[must_use]
    pub fn cluster(&self) -> &ClusterKey {
        &self.cluster
    }

    /// What to join with, if the cluster asks for a token.
    #[must_use]
    pub fn token(&self) -> Option<&TokenSecret> {
        self.token.as_ref()
    }
}

impl FromStr for Invitation {
    type Err = InvitationError;

    fn from_str(text: &str) -> Result<Self, InvitationError> {
        Self::parse(text)
    }
}

fn check_count(got: usize) -> Result<(), InvitationError> {
    if got > INVITATION_ENDPOINTS_MAX {
        return Err(InvitationError::TooManyEndpoints { got });
    }
    Ok(())
}

fn read_endpoints(addresses: &str) -> Result<Vec<Endpoint>, InvitationError> {
    if addresses.is_empty() {
        return Err(InvitationError::Missing { what: "the registry's address" });
    }
    check_count(addresses.split(',').count())?;
    let read = |(index, address): (usize, &str)| {
        let position = index + 1;
        address.parse().map_err(|source| InvitationError::Endpoint { position, source })
    };
    addresses.split(',').enumerate().map(read).collect()
}

/// Reads 40 hex digits as an ID and anything else as a name.
fn read_cluster(text: &str) -> Result<ClusterKey, InvitationError> {
    if text.is_empty() {
        return Err(InvitationError::Missing { what: "the cluster" });
    }
    if is_like_id(text)
        && let Ok(id) = text.parse()
    {
        return Ok(ClusterKey::Id(id));
    }
    text.parse::<Name>().map(ClusterKey::Name).map_err(InvitationError::Cluster)
}

fn is_like_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What stands behind the question mark.
struct Parameters {
    key: Fingerprint,
    token: Option<TokenSecret>,
}

impl Parameters {
    fn read(text: Option<&str>) -> Result<Self, InvitationError> {
        let mut seen = BTreeSet::new();
        let mut key = None;
        let mut token = None;
        for (index, parameter) in text.into_iter().flat_map(|text| text.split('&')).enumerate() {
            let position = index + 1;
            let (word, value) = parameter
                .split_once('=')
                .filter(|(word, _)| is_word(word))
                .ok_or(InvitationError::Parameter { position })?;
            if !seen.insert(word) {
                return Err(InvitationError::Repeated { position });
            }
            match word {
                KEY => key = Some(read_key(value)?),
                TOKEN => token = Some(value.parse().map_err(InvitationError::Token)?),
                _ => {}
            }
        }
        let key = key.ok_or(InvitationError::Missing { what: "the registry's key" })?;
        Ok(Self { key, token })
    }
}

/// Whether `word` could name a parameter. With capitals it could not, so that `Token=` is found to
/// be a mistake and not skipped as unknown.
fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn read_key(value: &str) -> Result<Fingerprint, InvitationError> {
    let bytes = BASE64URL_NOPAD.decode(value.as_bytes()).map_err(|_| InvitationError::Key)?;
    Fingerprint::try_from(bytes.as_slice()).map_err(|_| InvitationError::Key)
}

#[cfg(test)]
mod tests;
