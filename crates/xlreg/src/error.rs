//! What can go wrong, sorted by what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;
use xlreg_api::fault::Fault;
use xlreg_api::invitation::InvitationError;
use xlreg_api::v2::ErrorReason;
use xlreg_core::cluster::{Gone, NewCluster};
use xlreg_core::{Cluster, Endpoint, Fingerprint, Name, Refusal};
use xlreg_node::IdentityError;
use xlreg_proto::hello::ReplyError;
use xlreg_proto::keys::KeyError;
use xlreg_proto::message::MessageError;
use xlreg_proto::text::TextError;
use xlreg_proto::text::roster::Finding;
use xlreg_tls::TlsError;

use crate::wire::Wire;

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody answers at the registry's addresses.
    #[error(
        "cannot reach the registry at {endpoint}: {source}; is it running, and is that still its address?"
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
    /// Another registry answers there, or someone in its place. Nothing was sent to it.
    #[error(
        "the server at {endpoint} has sig key sha256 {got}, but the registry you mean has sha256 {expected}: it is another registry, or its keys were made anew; get its credentials or an invitation again from whoever runs it, and compare that fingerprint with theirs"
    )]
    WrongKey {
        /// Its address.
        endpoint: Endpoint,
        /// The fingerprint of the registry's sig key in the credentials or the invitation.
        expected: Fingerprint,
        /// That of the key which the server shows.
        got: Fingerprint,
    },
    /// Somebody answers there whose TLS is not a registry's.
    #[error("the server at {endpoint} does not prove to be the registry: {problem}")]
    Untrusted {
        /// Its address.
        endpoint: Endpoint,
        /// What is wrong.
        problem: String,
    },
    /// The server broke off the handshake because of what we showed.
    #[error(
        "the server at {endpoint} broke off the TLS handshake ({alert}): most likely it does not take this identity's certificate, whose sig key must be RSA of 2048 to 4096 bits; its log says why"
    )]
    NotTaken {
        /// Its address.
        endpoint: Endpoint,
        /// The alert by which it said so.
        alert: String,
    },
    /// Whoever answers there hangs up on our hello, without a word: so does a registry that can't
    /// open it, one that has no room, and one that is stopping.
    #[error(
        "the server at {endpoint} hung up on our hello ({source}): it does not hold the keys of these credentials, does not speak their version, has no room, or is stopping; are these its current credentials?"
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
    #[error("{}", how_it_differs(cluster, (*size, *endpoint_count), *asked))]
    Differs {
        /// The cluster's name.
        cluster: Name,
        /// How many members it is for.
        size: u32,
        /// How many endpoints each must bring.
        endpoint_count: u32,
        /// The size and the endpoint count that were asked for. If they are those that it has, its
        /// policy is of another kind.
        asked: (u32, u32),
    },
    /// The cluster is no more.
    #[error("cluster {cluster} is gone: {}", how_gone(*.how))]
    Gone {
        /// The cluster, by its name if that is known, else its ID.
        cluster: String,
        /// How it came to its end; none if it happened while nobody told us, or if the registry has
        /// lost its memory.
        how: Option<Gone>,
    },
    /// The old wire has no such thing.
    #[error(
        "this registry is spoken to over the old wire ({wire}), which has no {what}; that takes a registry of version 2, and its credentials"
    )]
    OldWire {
        /// What was asked for.
        what: &'static str,
        /// The wire.
        wire: Wire,
    },
    /// An invitation that can't be made or used.
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    /// TLS that can't be set up with these keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
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
            Self::Refused { reason, .. } => reason.is_transient(),
            Self::NotTheRegistry { .. }
            | Self::WrongKey { .. }
            | Self::Untrusted { .. }
            | Self::NotTaken { .. }
            | Self::Gone { .. }
            | Self::OldWire { .. }
            | Self::Invitation(_)
            | Self::Tls(_)
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

    /// Whether it is this refusal.
    pub(crate) fn is_refusal(&self, refusal: Refusal) -> bool {
        matches!(self, Self::Refused { reason: Reason::Known(known), .. } if *known == refusal)
    }

    /// Whether it is that no cluster is known by this key.
    pub(crate) fn is_unknown_cluster(&self) -> bool {
        self.is_refusal(Refusal::UnknownClusterId) || self.is_refusal(Refusal::UnknownClusterName)
    }

    /// How long the registry asks to be left alone, if it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { reason: Reason::Fault(fault), .. } => fault.retry_after,
            _ => None,
        }
    }

    /// Compares what a registry has made with what was asked of it. Over the old wire it may be
    /// another cluster of the name.
    ///
    /// # Errors
    /// [`Error::Differs`] if it has another size or endpoint count.
    pub fn unless_as_asked(asked: &NewCluster, made: &Cluster) -> Result<(), Self> {
        if (made.size, made.endpoint_count) == (asked.size, asked.endpoint_count) {
            return Ok(());
        }
        Err(Self::differs(asked, made.size, made.endpoint_count))
    }

    /// That there is a cluster of the name which is not the one that was asked for.
    pub(crate) fn differs(asked: &NewCluster, size: u32, endpoint_count: u32) -> Self {
        let (cluster, asked) = (asked.name.clone(), (asked.size, asked.endpoint_count));
        Self::Differs { cluster, size, endpoint_count, asked }
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

fn how_gone(how: Option<Gone>) -> &'static str {
    match how {
        Some(Gone::Deleted) => "it was deleted",
        Some(Gone::Expired) => "it has expired",
        None => "it was deleted or has expired, or its registry has lost its memory",
    }
}

fn how_it_differs(cluster: &Name, there: (u32, u32), asked: (u32, u32)) -> String {
    let (size, endpoint_count) = there;
    if there == asked {
        return format!(
            "there is a cluster {cluster} already, for {size} members with {endpoint_count} \
             endpoint(s) each, and another policy for who may join; choose another name, or that \
             policy"
        );
    }
    let (asked_size, asked_count) = asked;
    format!(
        "there is a cluster {cluster} already, for {size} members with {endpoint_count} endpoint(s) \
         each, not {asked_size} with {asked_count}; choose another name"
    )
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
    /// A refusal of the modern door that is none of those; its texts are made safe to print.
    Fault(Box<Fault>),
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
            Refusal::TooManyRegistrations,
        ];
        match known.into_iter().find(|refusal| refusal.to_string() == text) {
            Some(refusal) => Self::Known(refusal),
            None => Self::Other(printable(text)),
        }
    }

    /// Whether it may pass by itself.
    fn is_transient(&self) -> bool {
        match self {
            Self::Fault(fault) => matches!(
                fault.reason,
                ErrorReason::ShuttingDown | ErrorReason::StoreFailed | ErrorReason::RateLimited
            ),
            Self::Known(refusal) => *refusal == Refusal::TooManyRegistrations,
            Self::Other(_) => false,
        }
    }
}

/// A stranger's words: bounded, and without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// A time to wait, in whole units and not too short.
fn rounded(wait: Duration) -> String {
    if wait > Duration::from_secs(1) {
        format!("{} s", wait.as_micros().div_ceil(1_000_000))
    } else {
        format!("{} ms", wait.as_micros().div_ceil(1000))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(refusal) => refusal.fmt(f),
            Self::Fault(fault) => {
                fault.fmt(f)?;
                match fault.retry_after {
                    Some(wait) => write!(f, "; try again in {}", rounded(wait)),
                    None => Ok(()),
                }
            }
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
    /// It is no answer but a status that says so, or can't be read.
    #[error("it can't be read: {0}")]
    Status(String),
    /// It has a field that is missing or malformed.
    #[error("it is malformed: {0}")]
    Field(String),
    /// It is no signed roster.
    #[error(transparent)]
    SignedRoster(TextError),
    /// It is a signed roster that does not hold.
    #[error("the signed roster does not hold: {0}")]
    Finding(Finding),
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
    fn a_fault_says_when_to_try_again_if_that_helps() {
        let fault = Fault::new(ErrorReason::QuotaExceeded, "too much");
        let told = |fault| Reason::Fault(Box::new(fault)).to_string();
        assert_eq!(told(fault.clone()), "too much");
        for (wait, text) in [
            (Duration::from_secs(30), "too much; try again in 30 s"),
            (Duration::from_micros(1_000_001), "too much; try again in 2 s"),
            (Duration::from_micros(1_500), "too much; try again in 2 ms"),
        ] {
            assert_eq!(told(fault.clone().retry_after(wait)), text);
        }
    }

    #[test]
    fn another_cluster_of_the_name_is_told_with_what_was_asked() {
        let asked = NewCluster::open("alpha".parse().unwrap(), 3, 1);
        let text = Error::differs(&asked, 2, 1).to_string();
        assert!(text.contains("for 2 members with 1 endpoint(s) each, not 3 with 1"), "{text}");
        let text = Error::differs(&asked, 3, 1).to_string();
        assert!(text.contains("another policy") && !text.contains("not 3"), "{text}");
    }

    #[test]
    fn a_registrys_words_are_made_safe_to_print() {
        assert_eq!(
            Reason::from_text("cluster is full"),
            Reason::Known(Refusal::ClusterFull { size: 0 })
        );
        let too_many = Reason::from_text(&Refusal::TooManyRegistrations.to_string());
        assert_eq!(too_many, Reason::Known(Refusal::TooManyRegistrations));
        assert!(too_many.is_transient() && !Reason::from_text("cluster is full").is_transient());
        let Reason::Other(text) = Reason::from_text(&"\x1b[31m\n".repeat(1000)) else {
            panic!("not a known text");
        };
        assert!(!text.contains(['\x1b', '\n']) && text.len() < 2000);
    }
}
