//! What can go wrong, sorted by what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;
use xlreg_core::{Endpoint, Name, Refusal};
use xlreg_node::IdentityError;
use xlreg_proto::hello::ReplyError;
use xlreg_proto::keys::KeyError;
use xlreg_proto::message::MessageError;
use xlreg_proto::text::TextError;

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody answers at the registry's addresses.
    #[error(
        "cannot reach the registry at {endpoint}: {source}; is it running, and are these its current credentials?"
    )]
    Unreachable {
        /// The address tried last.
        endpoint: Endpoint,
        /// What the network said.
        source: io::Error,
    },
    /// Somebody answers who is not the registry of these credentials.
    #[error("the server at {endpoint} is not the registry of these credentials: {source}")]
    NotTheRegistry {
        /// Its address.
        endpoint: Endpoint,
        /// How that showed.
        source: ReplyError,
    },
    /// Whoever answers there hangs up on our hello, without a word: so does a registry that can't
    /// open it, one that has no room, and one that is stopping.
    #[error(
        "the server at {endpoint} hung up on our hello ({source}): it does not hold the comms key of these credentials, has no room, or is stopping; are these its current credentials?"
    )]
    HungUp {
        /// Its address.
        endpoint: Endpoint,
        /// What the network said.
        source: io::Error,
    },
    /// The connection was lost amid a request.
    #[error("the registry at {endpoint} closed the connection amid {request}: {source}")]
    Lost {
        /// Its address.
        endpoint: Endpoint,
        /// What had been asked.
        request: &'static str,
        /// What the network said.
        source: io::Error,
    },
    /// The registry has not answered in time.
    #[error("the registry at {endpoint} has not answered {request} in {} s", waited.as_secs_f32())]
    NoAnswer {
        /// Its address.
        endpoint: Endpoint,
        /// What had been asked.
        request: &'static str,
        /// How long it had.
        waited: Duration,
    },
    /// The registry says no.
    #[error("the registry refuses {request}: {reason}")]
    Refused {
        /// What had been asked.
        request: &'static str,
        /// Why not.
        reason: Reason,
    },
    /// Not all members came in time.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// The registry's answer breaks the protocol.
    #[error("the registry's answer to {request} breaks the protocol: {problem}")]
    Protocol {
        /// What had been asked.
        request: &'static str,
        /// What is wrong with the answer.
        problem: Problem,
    },
    /// The registry is an original one, which shows a cluster to its members only.
    #[error(
        "this registry is an original server ({version}): it knows clusters by ID, not by name, and shows them to their members only; join the cluster to see its roster"
    )]
    MembersOnly {
        /// Its version.
        version: xlreg_core::Version,
    },
    /// The name is another cluster's, or the registry will not have such a one.
    #[error(
        "there is a cluster {cluster} for {size} members with {endpoint_count} endpoint(s) each; choose another name, or that size"
    )]
    Differs {
        /// The cluster's name.
        cluster: Name,
        /// How many members it is for.
        size: u32,
        /// How many endpoints each must bring.
        endpoint_count: u32,
    },
    /// A file that can't be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done to it.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{path} is not usable: {source}")]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: TextError,
    },
    /// The registry's comms key is of no use for saying hello.
    #[error("cannot say hello with the comms key in the registry's credentials: {0}")]
    Key(#[from] KeyError),
    /// An identity that can't be made, kept or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Error {
    /// Whether the registry or the network failed in a way that may pass: trying again later can
    /// help, and does no harm, as every request may be repeated.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::HungUp { .. }
            | Self::Lost { .. }
            | Self::NoAnswer { .. } => true,
            Self::NotTheRegistry { .. }
            | Self::Refused { .. }
            | Self::Incomplete(_)
            | Self::Protocol { .. }
            | Self::MembersOnly { .. }
            | Self::Differs { .. }
            | Self::File { .. }
            | Self::Text { .. }
            | Self::Key(_)
            | Self::Identity(_) => false,
        }
    }

    /// The same error, told by someone who has been waiting since `began`.
    #[must_use]
    pub fn since(mut self, began: Instant) -> Self {
        if let Self::Incomplete(incomplete) = &mut self {
            incomplete.waited = began.elapsed();
        }
        self
    }
}

/// A wait that ended before the cluster was full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The cluster, by its name if that is known, else its ID.
    pub cluster: String,
    /// How many members it is for.
    pub size: u32,
    /// Who is there, by rank.
    pub joined: Vec<Name>,
    /// How long the wait was.
    pub waited: Duration,
    /// Why nothing more was heard of the registry, if that is what ended it.
    pub silence: Option<String>,
}

impl std::error::Error for Incomplete {}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined: Vec<_> = self.joined.iter().map(Name::as_str).collect();
        let (here, missing) = (joined.len(), (self.size as usize).saturating_sub(joined.len()));
        let waited = self.waited.as_secs_f64();
        let Self { cluster, size, .. } = self;
        write!(f, "cluster {cluster}: {here} of {size} members after {waited:.1} s; ")?;
        write!(f, "still missing {missing}; joined: ")?;
        f.write_str(&if joined.is_empty() { "nobody".to_owned() } else { joined.join(", ") })?;
        match &self.silence {
            None => Ok(()),
            Some(why) => write!(f, "; last heard of the registry: {why}"),
        }
    }
}

/// Why a registry says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One of the refusals that have a text of their own.
    Known(Refusal),
    /// Something else; the registry's words, made safe to print.
    Other(String),
}

impl Reason {
    /// Reads the text of an Error message.
    pub(crate) fn from_text(text: &str) -> Self {
        let known = [
            Refusal::IdInUse,
            Refusal::UnknownClusterId,
            Refusal::UnknownClusterName,
            Refusal::MemberNameInUse,
            Refusal::MemberIdInUse,
            Refusal::NoEndpoint,
            Refusal::ClusterFull { size: 0 },
            Refusal::RegistryFull,
        ];
        match known.into_iter().find(|refusal| refusal.to_string() == text) {
            Some(refusal) => Self::Known(refusal),
            // It comes from a stranger: bounded, and without control characters.
            None => Self::Other(text.chars().take(200).flat_map(char::escape_debug).collect()),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(refusal) => refusal.fmt(f),
            Self::Other(text) if text.is_empty() => f.write_str("it does not say why"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// It is no reply, or has a field that is missing or malformed.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It answers something else.
    #[error("it is a {got}")]
    Unexpected {
        /// The wire's name of what came.
        got: &'static str,
    },
    /// It never becomes a message.
    #[error("it is longer than any message, and none")]
    TooLong,
    /// It says something that cannot be.
    #[error("{0}")]
    Absurd(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_wait_names_who_is_there_and_how_many_are_missing() {
        let mut incomplete = Incomplete {
            cluster: "alpha".to_owned(),
            size: 5,
            joined: ["a", "b", "c"].map(|name| name.parse().unwrap()).into(),
            waited: Duration::from_secs(30),
            silence: None,
        };
        assert_eq!(
            incomplete.to_string(),
            "cluster alpha: 3 of 5 members after 30.0 s; still missing 2; joined: a, b, c"
        );
        incomplete.joined.clear();
        assert!(incomplete.to_string().ends_with("joined: nobody"));
    }

    #[test]
    fn a_registrys_words_are_made_safe_to_print() {
        assert_eq!(
            Reason::from_text("cluster is full"),
            Reason::Known(Refusal::ClusterFull { size: 0 })
        );
        let Reason::Other(text) = Reason::from_text(&"\x1b[31m\n".repeat(1000)) else {
            panic!("not a known text");
        };
        assert!(!text.contains(['\x1b', '\n']) && text.len() < 2000);
    }
}
