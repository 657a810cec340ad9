//! Why peers don't reach each other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};
use xlreg_core::{Endpoint, Fingerprint};
use xlreg_tls::{PeerRefused, TlsError};

/// Why one attempt at a link with a peer has failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Nobody of that rank, name or ID is in the roster.
    #[error("there is no such member in the roster")]
    Absent,
    /// No connection came about.
    #[error("nobody answers there: {0}")]
    Unreachable(#[source] io::Error),
    /// We don't take what it shows: the wrong key, dates that are over, and the like.
    #[error("we refuse it: {0}")]
    Refused(#[from] PeerRefused),
    /// It shows somebody's certificate, but does not hold the key in it.
    #[error("we refuse it: it does not hold the key of the certificate that it shows")]
    NotItsKey,
    /// It does not take our certificate.
    #[error("it refuses our certificate ({alert:?}): {}", likely(*.alert))]
    NotTaken {
        /// The alert by which it said so.
        alert: AlertDescription,
    },
    /// It speaks an earlier TLS, or offers nothing that we take.
    #[error("it speaks no TLS 1.3 that we take: {0}")]
    OldTls(String),
    /// It speaks something else.
    #[error("what it says is not TLS: {0}")]
    NotTls(String),
    /// It speaks other application protocols than those that we want.
    #[error("it speaks none of the application protocols that were offered")]
    OtherProtocol,
    /// It has not gone through with the handshake in time.
    #[error("it stalled: no TLS handshake within {} ms", .0.as_millis())]
    Stalled(Duration),
    /// It closed the connection amid the handshake.
    #[error("it hung up amid the handshake: {0}")]
    HungUp(#[source] io::Error),
    /// The handshake has failed in another way.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] rustls::Error),
    /// It was cut off for another who came, as too many were shaking hands at once.
    #[error("cut off amid the handshake, as too many others have come since")]
    Crowded,
    /// Our own side can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl PeerError {
    /// What rustls' error means.
    pub(crate) fn of(error: rustls::Error) -> Self {
        use rustls::Error as Tls;
        if let Some(refused) = xlreg_tls::peer_refused(&error) {
            return Self::Refused(refused.clone());
        }
        match error {
            Tls::InvalidCertificate(CertificateError::BadSignature) => Self::NotItsKey,
            Tls::NoCertificatesPresented => Self::Refused(PeerRefused::Chain { got: 0 }),
            Tls::PeerIncompatible(why) => Self::OldTls(format!("{why:?}")),
            Tls::InvalidMessage(why) => Self::NotTls(format!("{why:?}")),
            Tls::InappropriateMessage { .. } | Tls::InappropriateHandshakeMessage { .. } => {
                Self::NotTls(error.to_string())
            }
            Tls::NoApplicationProtocol => Self::OtherProtocol,
            Tls::AlertReceived(alert) => Self::told(alert),
            other => Self::Handshake(other),
        }
    }

    /// What an alert means by which the peer broke off.
    fn told(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::NoApplicationProtocol => Self::OtherProtocol,
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
                Self::OldTls(format!("it broke off with {alert:?}"))
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError => Self::NotTaken { alert },
            other => Self::Handshake(rustls::Error::AlertReceived(other)),
        }
    }
}

/// What an alert says of our certificate, as far as peers of this library are concerned.
fn likely(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "the roster that it goes by does not have our key",
        AlertDescription::CertificateRevoked => {
            "we have left the cluster, were expelled from it, or show a key that was retired"
        }
        AlertDescription::CertificateExpired => {
            "by its clock our certificate is not valid; look at the clocks of both machines"
        }
        AlertDescription::AccessDenied => "its policy for clients does not let us in",
        _ => "its log says why",
    }
}

/// A peer that was not reached, in however many tries.
#[derive(Debug, Error)]
#[error(
    "cannot reach {who}{}: {tries} {} in {:.1} s; the last: {why}",
    at(.endpoint.as_ref()),
    if *.tries == 1 { "try" } else { "tries" },
    .waited.as_secs_f64()
)]
pub struct Unreached {
    /// Whom: name and rank, as far as the roster tells.
    pub who: String,
    /// The endpoint tried last; none if the roster has nobody of that description.
    pub endpoint: Option<Endpoint>,
    /// How often it was tried.
    pub tries: u32,
    /// For how long.
    pub waited: Duration,
    /// Why the last try failed.
    #[source]
    pub why: PeerError,
}

fn at(endpoint: Option<&Endpoint>) -> String {
    endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"))
}

impl From<Unreached> for io::Error {
    fn from(unreached: Unreached) -> Self {
        Self::other(unreached)
    }
}

/// Somebody who came to a [`PeerListener`](super::PeerListener) and was turned away.
#[derive(Clone, Debug)]
pub struct TurnedAway {
    /// Where from.
    pub address: SocketAddr,
    /// Why.
    pub why: Arc<PeerError>,
}

impl TurnedAway {
    /// The sig key that it showed, if that is why, and it was not proven to be its own.
    #[must_use]
    pub fn key(&self) -> Option<Fingerprint> {
        match &*self.why {
            PeerError::Refused(
                PeerRefused::Stranger { key }
                | PeerRefused::Former { key, .. }
                | PeerRefused::NotAllowed { key }
                | PeerRefused::NotRegistered { key }
                | PeerRefused::Unsure { key, .. },
            ) => Some(*key),
            _ => None,
        }
    }
}
