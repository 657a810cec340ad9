//! What it means when the modern door does not answer as it should.

use std::error::Error as StdError;
use std::io;

use tokio_rustls::rustls;
use tonic::{Code, Status};
use xlreg_api::fault::Fault;
use xlreg_api::v2::ErrorReason;
use xlreg_core::{Endpoint, Refusal};

use crate::error::{Error, Problem, Reason, printable};

/// Why a TLS handshake has failed.
pub(crate) fn handshake(endpoint: &Endpoint, error: io::Error) -> Error {
    let endpoint = endpoint.clone();
    if let Some(wrong) = xlreg_tls::wrong_key(&error) {
        return Error::WrongKey { endpoint, expected: wrong.expected, got: wrong.got };
    }
    if let Some(refused) = xlreg_tls::server_refused(&error) {
        return Error::Untrusted { endpoint, problem: refused.to_string() };
    }
    match rustls_error(&error) {
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::NotTaken { endpoint, alert: format!("{alert:?}") }
        }
        Some(rustls::Error::InvalidMessage(what)) => {
            let problem =
                format!("what it says is no TLS ({what:?}); is another program at this address?");
            Error::Untrusted { endpoint, problem }
        }
        Some(other) => Error::Untrusted { endpoint, problem: other.to_string() },
        None => Error::HungUp { endpoint, source: error },
    }
}

/// Why a connection is of no use any more. That a registry does not take our certificate shows only
/// here: in TLS 1.3 a client is done before the server has seen it.
pub(crate) fn broken(
    endpoint: &Endpoint,
    request: &'static str,
    error: &(dyn StdError + 'static),
) -> Error {
    let endpoint = endpoint.clone();
    match rustls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::NotTaken { endpoint, alert: format!("{alert:?}") }
        }
        _ => Error::Lost { endpoint, request, source: io::Error::other(deepest(error)) },
    }
}

/// What a status means that came for an answer.
pub(crate) fn refusal(endpoint: &Endpoint, request: &'static str, status: &Status) -> Error {
    if let Some(fault) = Fault::read(status) {
        return Error::Refused { request, reason: reason(fault) };
    }
    if let Some(source) = status.source() {
        return broken(endpoint, request, source);
    }
    match status.code() {
        // Said by what stands between, or by our own end of the connection.
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
            let source = io::Error::other(printable(status.message()));
            Error::Lost { endpoint: endpoint.clone(), request, source }
        }
        Code::Ok | Code::Unknown | Code::Internal | Code::OutOfRange | Code::DataLoss => {
            Error::Protocol { request, problem: Problem::Status(printable(status.message())) }
        }
        Code::Unimplemented => {
            let text = "it does not know this request; it may be older than this program";
            Error::Refused { request, reason: Reason::Other(text.to_owned()) }
        }
        _ => Error::Refused { request, reason: Reason::Other(printable(status.message())) },
    }
}

/// What a registry's fault comes to: one of the refusals, if that says as much.
fn reason(fault: Fault) -> Reason {
    let number = |key: &str| fault.metadata.get(key).and_then(|text| text.parse().ok());
    let says = |refusal: &Refusal| refusal.to_string() == fault.message;
    let known = match fault.reason {
        ErrorReason::IdInUse => Refusal::IdInUse,
        ErrorReason::ClusterNotFound if says(&Refusal::UnknownClusterId) => {
            Refusal::UnknownClusterId
        }
        ErrorReason::ClusterNotFound => Refusal::UnknownClusterName,
        ErrorReason::ClusterFull => Refusal::ClusterFull { size: number("size").unwrap_or(0) },
        ErrorReason::MemberNameInUse => Refusal::MemberNameInUse,
        ErrorReason::MemberIdInUse => Refusal::MemberIdInUse,
        ErrorReason::WrongEndpointCount if says(&Refusal::NoEndpoint) => Refusal::NoEndpoint,
        ErrorReason::RegistryFull => Refusal::RegistryFull,
        ErrorReason::NotRegistered => Refusal::NotRegistered,
        ErrorReason::KeyRetired => Refusal::KeyRetired,
        ErrorReason::CommsKeyDiffers => Refusal::CommsKeyDiffers,
        ErrorReason::KeyInUse => Refusal::KeyInUse,
        ErrorReason::ClusterExists => match (number("size"), number("endpoint_count")) {
            (Some(size), Some(endpoint_count)) => Refusal::ClusterDiffers { size, endpoint_count },
            _ => return Reason::Fault(Box::new(safe(fault))),
        },
        ErrorReason::TokenRequired => Refusal::TokenRequired,
        ErrorReason::TokenInvalid => Refusal::TokenInvalid,
        ErrorReason::TokenExpired => Refusal::TokenExpired,
        ErrorReason::TokenSpent => Refusal::TokenSpent,
        ErrorReason::TokenNotFound => Refusal::UnknownToken,
        ErrorReason::KeyNotAllowed if says(&Refusal::RanksKept) => Refusal::RanksKept,
        ErrorReason::KeyNotAllowed => Refusal::KeyNotAllowed,
        ErrorReason::Expelled => Refusal::Expelled,
        ErrorReason::NotOwner => Refusal::NotOwner,
        ErrorReason::NotAMember => Refusal::NotAMember,
        ErrorReason::Unspecified
        | ErrorReason::InvalidField
        | ErrorReason::BadProof
        | ErrorReason::WrongEndpointCount
        | ErrorReason::QuotaExceeded
        | ErrorReason::RateLimited
        | ErrorReason::ShuttingDown
        | ErrorReason::StoreFailed => return Reason::Fault(Box::new(safe(fault))),
    };
    Reason::Known(known)
}

/// The same, fit to be printed: it comes from a stranger.
fn safe(fault: Fault) -> Fault {
    let pairs = fault.metadata.iter().take(16);
    let metadata = pairs.map(|(key, value)| (printable(key), printable(value))).collect();
    Fault { message: printable(&fault.message), metadata, ..fault }
}

/// What rustls says, somewhere below `error`.
fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = below(error);
    }
    None
}

/// What the error at the bottom of `error` says: those above it only say that something is amiss.
fn deepest(mut error: &(dyn StdError + 'static)) -> String {
    while let Some(cause) = below(error) {
        error = cause;
    }
    printable(&error.to_string())
}

/// An `io::Error` names the source of what it wraps, and not that itself.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint() -> Endpoint {
        "127.0.0.1:4000".parse().unwrap()
    }

    fn refused(fault: Fault) -> Error {
        refusal(&endpoint(), "JoinCluster", &fault.into())
    }

    /// Each refusal that has a fault of its own comes back as itself.
    #[test]
    fn refusals_survive_the_way() {
        for known in [
            Refusal::IdInUse,
            Refusal::UnknownClusterId,
            Refusal::UnknownClusterName,
            Refusal::ClusterFull { size: 5 },
            Refusal::MemberNameInUse,
            Refusal::MemberIdInUse,
            Refusal::NoEndpoint,
            Refusal::RegistryFull,
            Refusal::NotRegistered,
            Refusal::KeyRetired,
            Refusal::CommsKeyDiffers,
            Refusal::KeyInUse,
            Refusal::ClusterDiffers { size: 3, endpoint_count: 2 },
            Refusal::TokenRequired,
            Refusal::TokenInvalid,
            Refusal::TokenExpired,
            Refusal::TokenSpent,
            Refusal::UnknownToken,
            Refusal::KeyNotAllowed,
            Refusal::RanksKept,
            Refusal::Expelled,
            Refusal::NotOwner,
            Refusal::NotAMember,
        ] {
            let Error::Refused { reason: Reason::Known(read), .. } = refused(known.into()) else {
                panic!("{known:?}");
            };
            assert_eq!(read, known);
        }
    }

    #[test]
    fn other_faults_keep_what_they_say_safe_to_print() {
        let fault = Fault::new(ErrorReason::QuotaExceeded, "\x1b[31m".repeat(1000))
            .with("what", "\x07nodes")
            .retry_after(Duration::from_secs(3));
        let Error::Refused { reason: Reason::Fault(read), .. } = refused(fault) else { panic!() };
        assert_eq!(
            (read.reason, read.retry_after),
            (ErrorReason::QuotaExceeded, Some(Duration::from_secs(3)))
        );
        assert!(!read.message.contains('\x1b') && read.message.len() < 2000);
        assert_eq!(read.metadata["what"], "\\u{7}nodes");
    }

    #[test]
    fn what_may_pass_is_transient_and_the_rest_is_not() {
        for (reason, transient) in [
            (ErrorReason::ShuttingDown, true),
            (ErrorReason::StoreFailed, true),
            (ErrorReason::RateLimited, true),
            (ErrorReason::QuotaExceeded, false),
            (ErrorReason::TokenSpent, false),
        ] {
            assert_eq!(refused(Fault::new(reason, "")).is_transient(), transient, "{reason:?}");
        }
        let status = |code| refusal(&endpoint(), "GetCluster", &Status::new(code, "no"));
        assert!(status(Code::Unavailable).is_transient());
        assert!(matches!(status(Code::Internal), Error::Protocol { .. }));
        assert!(status(Code::Unimplemented).to_string().contains("older"));
        assert!(matches!(status(Code::PermissionDenied), Error::Refused { .. }));
    }

    #[test]
    fn another_program_at_the_address_is_told_as_such() {
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = handshake(&endpoint(), io::Error::new(io::ErrorKind::InvalidData, plain));
        assert!(error.to_string().contains("another program at this address"), "{error}");
    }

    #[test]
    fn an_alert_says_what_is_likely() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate);
        let buried = io::Error::other(io::Error::other(alert));
        let error = broken(&endpoint(), "Register", &buried);
        assert!(matches!(&error, Error::NotTaken { .. }), "{error}");
        assert!(error.to_string().contains("2048 to 4096 bits"), "{error}");
    }
}
