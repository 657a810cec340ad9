//! All the ways in which it fails: by our own doing, by the server's, by the client's.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use thiserror::Error;
use xlreg_core::{Fingerprint, Name};
use xlreg_proto::keys::KeyError;

/// A certificate or a configuration that could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A name for the certificate that is neither a DNS name nor an address.
    #[error("{host:?} is neither a DNS name nor an IP address, so no certificate can name it")]
    Host {
        /// The name as given.
        host: String,
    },
    /// A time that no certificate can state.
    #[error("the clock reads {seconds} s after 1970, which no certificate's dates can hold")]
    Time {
        /// What it reads; 0 if that is before 1970.
        seconds: u64,
    },
    /// The certificate could not be written or signed.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The cryptographic library could not make the key of a leaf, or of a bundle's root.
    #[error("the cryptographic library failed to make a P-256 key")]
    P256,
    /// rustls took a key or a setting amiss.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// A server that holds another sig key than the one pinned.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the registry there has sig key sha256 {got}, but the credentials pin sha256 {expected}")]
pub struct WrongKey {
    /// The SHA-256 of the key that is pinned.
    pub expected: Fingerprint,
    /// The SHA-256 of the key that the server claims.
    pub got: Fingerprint,
}

/// Why a client broke off with a server.
#[derive(Clone, Debug, Error)]
pub enum ServerRefused {
    /// Another registry, or someone in its place.
    #[error(transparent)]
    WrongKey(#[from] WrongKey),
    /// Not a leaf and its root.
    #[error("the server shows {got} certificates instead of two, its leaf and its root")]
    Chain {
        /// How many there are.
        got: usize,
    },
    /// The root names the pinned key but was not signed by it.
    #[error("the server's root certificate is not signed by its own key")]
    Root,
    /// The leaf is too old.
    #[error(
        "the server's certificate ran out {seconds} s ago by the clock here; \
         it is renewed long before that, so look at the clocks of both machines"
    )]
    Expired {
        /// Seconds since then.
        seconds: u64,
    },
    /// The leaf is from the future.
    #[error(
        "the server's certificate begins only in {seconds} s by the clock here; \
         look at the clocks of both machines"
    )]
    NotYet {
        /// Seconds until then.
        seconds: u64,
    },
    /// Anything else that is wrong with the leaf.
    #[error("the server's certificate does not hold: {0}")]
    Leaf(webpki::Error),
}

impl From<webpki::Error> for ServerRefused {
    fn from(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { time, not_after } => {
                Self::Expired { seconds: time.as_secs().saturating_sub(not_after.as_secs()) }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                Self::NotYet { seconds: not_before.as_secs().saturating_sub(time.as_secs()) }
            }
            other => Self::Leaf(other),
        }
    }
}

/// As an error of rustls' that prints our text: the user of this side is who must act, and sees it.
impl From<ServerRefused> for rustls::Error {
    fn from(refused: ServerRefused) -> Self {
        Self::Other(OtherError(Arc::new(refused)))
    }
}

/// Why a server broke off with a client.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClientRefused {
    /// More than a node's one certificate.
    #[error("the client shows {got} certificates instead of one, signed by its own key")]
    Chain {
        /// How many there are.
        got: usize,
    },
    /// More bytes than a node's certificate needs.
    #[error("the client's certificate has {got} bytes, and 8192 are the most")]
    Size {
        /// How many there are.
        got: usize,
    },
    /// Not X.509, or of a version before 3.
    #[error("the client's certificate cannot be read: {0}")]
    Malformed(webpki::Error),
    /// The key in it is not one that a node may have.
    #[error("the client's certificate does not hold a node's key: {0}")]
    Key(#[from] KeyError),
}

/// As an error of rustls' that tells the client, by its alert, that its certificate is the matter: the
/// user of the other side is who must act. Here [`client_refused`] finds the text again.
impl From<ClientRefused> for rustls::Error {
    fn from(refused: ClientRefused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// Why one of a cluster's members, or a client of it, broke off with a peer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeerRefused {
    /// No certificate, or more than one is ready to look at.
    #[error("it shows {got} certificates; one of its sig key is needed, and 8 are the most")]
    Chain {
        /// How many there are.
        got: usize,
    },
    /// More bytes than a node's certificate needs.
    #[error("its certificate has {got} bytes, and 8192 are the most")]
    Size {
        /// How many there are.
        got: usize,
    },
    /// Not X.509, or of a version before 3.
    #[error("its certificate cannot be read: {0}")]
    Malformed(webpki::Error),
    /// Dates that cannot be read.
    #[error("the dates in its certificate cannot be read")]
    Dates,
    /// The key in it is not one that a node may have.
    #[error("its certificate does not hold a node's key: {0}")]
    Key(#[from] KeyError),
    /// The certificate is too old.
    #[error(
        "its certificate expired {seconds} s ago by the clock here; it must be made anew, or the \
         clocks of both machines be looked at"
    )]
    Expired {
        /// Seconds since then.
        seconds: u64,
    },
    /// The certificate is from the future.
    #[error(
        "its certificate begins only in {seconds} s by the clock here; look at the clocks of both \
         machines"
    )]
    NotYet {
        /// Seconds until then.
        seconds: u64,
    },
    /// No member has this key, as far as we have heard.
    #[error("its key, sha256 {key}, is not in the roster")]
    Stranger {
        /// The key's fingerprint.
        key: Fingerprint,
    },
    /// A member had this key once.
    #[error("its key, sha256 {key}, is in the roster no more: {}", departed(.name, *.how))]
    Former {
        /// The key's fingerprint.
        key: Fingerprint,
        /// The member's name.
        name: Name,
        /// What has become of it.
        how: Departure,
    },
    /// Another member than the one that was meant.
    #[error("it is {got}, and not {meant}")]
    Swapped {
        /// Who was meant.
        meant: Name,
        /// Who it is.
        got: Name,
    },
    /// A client that the policy for clients does not name.
    #[error("its key, sha256 {key}, is not among those of clients that are let in")]
    NotAllowed {
        /// The key's fingerprint.
        key: Fingerprint,
    },
    /// A client that the registry does not know.
    #[error("its key, sha256 {key}, is not registered at the registry, or not any more")]
    NotRegistered {
        /// The key's fingerprint.
        key: Fingerprint,
    },
    /// A client of which nobody can say now whether the registry knows it.
    #[error("whether its key, sha256 {key}, is registered cannot be told now: {problem}")]
    Unsure {
        /// The key's fingerprint.
        key: Fingerprint,
        /// Why not.
        problem: String,
    },
}

/// How a key has gone out of a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Its member left; its rank is kept for it.
    Left,
    /// Its member was expelled, or is not in the roster any more for another reason.
    Removed,
    /// Its member has another key now.
    Retired,
}

fn departed(name: &Name, how: Departure) -> String {
    match how {
        Departure::Left => format!("{name} has left the cluster"),
        Departure::Removed => format!("{name} was expelled from the cluster"),
        Departure::Retired => format!("{name} has another key now"),
    }
}

/// As an error of rustls' that tells the peer, by its alert, that its certificate is the matter. Here
/// [`peer_refused`] finds the text again.
impl From<PeerRefused> for rustls::Error {
    fn from(refused: PeerRefused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

impl From<ClientRefused> for PeerRefused {
    fn from(refused: ClientRefused) -> Self {
        match refused {
            ClientRefused::Chain { got } => Self::Chain { got },
            ClientRefused::Size { got } => Self::Size { got },
            ClientRefused::Malformed(error) => Self::Malformed(error),
            ClientRefused::Key(error) => Self::Key(error),
        }
    }
}

/// Whether, somewhere below `error`, a handshake failed because the server holds another key than
/// the one pinned; and if so, both keys' fingerprints.
#[must_use]
pub fn wrong_key(error: &(dyn StdError + 'static)) -> Option<WrongKey> {
    match server_refused(error)? {
        ServerRefused::WrongKey(wrong) => Some(*wrong),
        _ => None,
    }
}

/// The reason, somewhere below `error`, for which we refused a server, if we did.
#[must_use]
pub fn server_refused<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a ServerRefused> {
    find(error)
}

/// The reason, somewhere below `error`, for which we refused a client's certificate, if we did.
#[must_use]
pub fn client_refused<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a ClientRefused> {
    find(error)
}

/// The reason, somewhere below `error`, for which we refused a peer's certificate, if we did.
#[must_use]
pub fn peer_refused<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a PeerRefused> {
    find(error)
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = below(error);
    }
    None
}

/// What `error` wraps. The two that wrap ours don't say so by `source`: rustls' has none, and an
/// `io::Error` names the source of what it wraps.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return Some(inner);
    }
    match error.downcast_ref() {
        Some(rustls::Error::Other(OtherError(reason))) => Some(&**reason),
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))) => {
            Some(&**reason)
        }
        _ => error.source(),
    }
}
