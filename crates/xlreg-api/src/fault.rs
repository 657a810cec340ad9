//! Why a request is refused: a gRPC status with a reason that programs can read, both ways.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, RetryInfo, StatusExt as _, pb};
use xlreg_core::Refusal;

use crate::convert::{DURATION_MAX, read_duration};
use crate::v2::ErrorReason;

/// The domain of all our reasons.
pub const DOMAIN: &str = "xlreg";

/// What the names of reasons begin with in the .proto file, and nowhere else.
const PREFIX: &str = "ERROR_REASON_";

/// The field by which members bring their own signatures.
pub const ENTRY_SIGNATURE: &str = "entry_signature";

/// When to ask again for room that is taken: it comes back as clusters are deleted or expire, which
/// nobody can foretell.
const ROOM_WAIT: Duration = Duration::from_secs(30);

/// A refusal as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What programs go by.
    pub reason: ErrorReason,
    /// What people read.
    pub message: String,
    /// What the reason leaves open, by the names that the .proto file gives.
    pub metadata: HashMap<String, String>,
    /// When to ask again, if that could help.
    pub retry_after: Option<Duration>,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Fault {
    /// A fault with nothing but its reason and a text.
    #[must_use]
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        let (message, metadata) = (message.into(), HashMap::new());
        Self { reason, message, metadata, retry_after: None }
    }

    /// That a field of the request can't be used.
    #[must_use]
    pub fn field(field: &str, problem: impl fmt::Display) -> Self {
        Self::new(ErrorReason::InvalidField, format!("{field}: {problem}"))
            .with("field", field)
            .with("problem", problem)
    }

    /// That a signature in the request does not verify.
    #[must_use]
    pub fn bad_proof(field: &str) -> Self {
        let message = format!("{field}: the signature does not verify");
        Self::new(ErrorReason::BadProof, message).with("field", field)
    }

    /// The same, with one thing more for programs to know.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The same, for which waiting helps.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The reason's name, as it goes over the wire and into logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let name = self.reason.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The status code that goes with the reason.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.reason {
            ErrorReason::Unspecified => Code::Unknown,
            ErrorReason::InvalidField | ErrorReason::BadProof | ErrorReason::WrongEndpointCount => {
                Code::InvalidArgument
            }
            ErrorReason::KeyRetired
            | ErrorReason::NotOwner
            | ErrorReason::TokenRequired
            | ErrorReason::TokenInvalid
            | ErrorReason::TokenExpired
            | ErrorReason::TokenSpent
            | ErrorReason::KeyNotAllowed
            | ErrorReason::Expelled => Code::PermissionDenied,
            ErrorReason::NotRegistered
            | ErrorReason::CommsKeyDiffers
            | ErrorReason::ClusterFull => Code::FailedPrecondition,
            ErrorReason::IdInUse
            | ErrorReason::KeyInUse
            | ErrorReason::ClusterExists
            | ErrorReason::MemberNameInUse
            | ErrorReason::MemberIdInUse => Code::AlreadyExists,
            ErrorReason::ClusterNotFound | ErrorReason::NotAMember | ErrorReason::TokenNotFound => {
                Code::NotFound
            }
            ErrorReason::QuotaExceeded | ErrorReason::RegistryFull | ErrorReason::RateLimited => {
                Code::ResourceExhausted
            }
            ErrorReason::ShuttingDown | ErrorReason::StoreFailed => Code::Unavailable,
        }
    }

    /// Reads the reason out of a status that came from a registry; none if it has none of ours.
    #[must_use]
    pub fn read(status: &Status) -> Option<Self> {
        // By hand, since tonic's own reading converts the delay with prost's, which may overflow.
        let details = pb::Status::decode(status.details()).ok()?.details;
        let info: pb::ErrorInfo = detail(&details, ErrorInfo::TYPE_URL)?;
        if info.domain != DOMAIN {
            return None;
        }
        let retry: Option<pb::RetryInfo> = detail(&details, RetryInfo::TYPE_URL);
        let reason = ErrorReason::from_str_name(&format!("{PREFIX}{}", info.reason));
        Some(Self {
            reason: reason.unwrap_or(ErrorReason::Unspecified),
            message: status.message().to_owned(),
            metadata: info.metadata,
            retry_after: retry.and_then(|retry| read_duration(&retry.retry_delay?)).map(bounded),
        })
    }
}

/// Whoever adds it to a time should get one that exists.
fn bounded(wait: Duration) -> Duration {
    wait.min(DURATION_MAX)
}

/// The first detail of a type.
fn detail<M: Message + Default>(details: &[Any], type_url: &str) -> Option<M> {
    let found = details.iter().find(|detail| detail.type_url == type_url)?;
    M::decode(found.value.as_slice()).ok()
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let (code, reason) = (fault.code(), fault.name());
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, fault.metadata);
        if fault.retry_after.is_some() {
            details.set_retry_info(fault.retry_after);
        }
        Self::with_error_details(code, fault.message, details)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let fault = |reason| Self::new(reason, refusal.to_string());
        match refusal {
            Refusal::IdInUse => fault(ErrorReason::IdInUse),
            Refusal::UnknownClusterId | Refusal::UnknownClusterName => {
                fault(ErrorReason::ClusterNotFound)
            }
            Refusal::MemberNameInUse => fault(ErrorReason::MemberNameInUse),
            Refusal::MemberIdInUse => fault(ErrorReason::MemberIdInUse),
            Refusal::NoEndpoint
            | Refusal::TooFewEndpoints { .. }
            | Refusal::TooManyEndpoints { .. } => fault(ErrorReason::WrongEndpointCount),
            Refusal::ClusterFull { size } => fault(ErrorReason::ClusterFull).with("size", size),
            Refusal::RegistryFull => fault(ErrorReason::RegistryFull).retry_after(ROOM_WAIT),
            // This door has a wait of its own to tell; it has a place for completeness' sake.
            Refusal::TooManyRegistrations => {
                fault(ErrorReason::RateLimited).with("what", "registrations").retry_after(ROOM_WAIT)
            }
            Refusal::Quota { what, max } => fault(ErrorReason::QuotaExceeded)
                .with("what", what)
                .with("max", max)
                .retry_after(ROOM_WAIT),
            Refusal::NotRegistered => fault(ErrorReason::NotRegistered),
            Refusal::EntryDiffers => {
                let message = format!("{ENTRY_SIGNATURE}: {refusal}");
                Self::new(ErrorReason::BadProof, message).with("field", ENTRY_SIGNATURE)
            }
            Refusal::KeyRetired => fault(ErrorReason::KeyRetired),
            Refusal::CommsKeyDiffers => fault(ErrorReason::CommsKeyDiffers),
            Refusal::KeyInUse => fault(ErrorReason::KeyInUse),
            Refusal::ClusterDiffers { size, endpoint_count } => fault(ErrorReason::ClusterExists)
                .with("size", size)
                .with("endpoint_count", endpoint_count),
            // Nobody meets it here; it has a place for completeness' sake.
            Refusal::NotByOldWire | Refusal::TokenRequired => fault(ErrorReason::TokenRequired),
            Refusal::TokenInvalid => fault(ErrorReason::TokenInvalid),
            Refusal::TokenExpired => fault(ErrorReason::TokenExpired),
            Refusal::TokenSpent => fault(ErrorReason::TokenSpent),
            Refusal::UnknownToken => fault(ErrorReason::TokenNotFound),
            Refusal::KeyNotAllowed | Refusal::RanksKept => fault(ErrorReason::KeyNotAllowed),
            Refusal::Expelled => fault(ErrorReason::Expelled),
            Refusal::NotOwner => fault(ErrorReason::NotOwner),
            Refusal::NotAMember => fault(ErrorReason::NotAMember),
            Refusal::WhichMember => Self::field("name", refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_wire() {
        let limited = Fault::new(ErrorReason::RateLimited, "too many requests")
            .with("what", "requests")
            .retry_after(Duration::from_millis(1500));
        for fault in [
            Refusal::ClusterFull { size: 3 }.into(),
            Refusal::Quota { what: "clusters", max: 7 }.into(),
            Fault::field("size", "2 to 64"),
            Fault::bad_proof("comms_proof"),
            limited,
        ] {
            let status = Status::from(fault.clone());
            assert_eq!(status.code(), fault.code());
            assert_eq!(Fault::read(&status), Some(fault));
        }
    }

    #[test]
    fn each_reason_has_a_code_and_the_name_of_the_proto_file() {
        let mut known = 0;
        for number in 1..200 {
            let Ok(reason) = ErrorReason::try_from(number) else { continue };
            known += 1;
            let fault = Fault::new(reason, "");
            assert_ne!(fault.code(), Code::Unknown, "{reason:?}");
            let info = Status::from(fault).get_details_error_info().unwrap();
            assert_eq!(format!("{PREFIX}{}", info.reason), reason.as_str_name());
        }
        assert!(known >= 27);
    }

    /// The least number of seconds ended whoever read it, where overflows are checked.
    #[test]
    fn a_delay_that_is_none_is_left_out() {
        let any = |type_url: &str, value| Any { type_url: type_url.to_owned(), value };
        let info = pb::ErrorInfo { domain: DOMAIN.into(), ..Default::default() };
        for (seconds, nanos) in [(i64::MIN, 0), (i64::MIN, i32::MIN), (-1, 0), (0, i32::MAX)] {
            let delay =
                pb::RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos }) };
            let details = pb::Status {
                code: 8,
                message: String::new(),
                details: vec![
                    any(RetryInfo::TYPE_URL, delay.encode_to_vec()),
                    any(ErrorInfo::TYPE_URL, info.encode_to_vec()),
                ],
            };
            let code = Code::ResourceExhausted;
            let status = Status::with_details(code, "", details.encode_to_vec().into());
            assert_eq!(Fault::read(&status).unwrap().retry_after, None, "{delay:?}");
        }
    }

    #[test]
    fn a_delay_without_an_end_is_ten_years() {
        let endless = Fault::new(ErrorReason::RateLimited, "").retry_after(Duration::MAX);
        let read = Fault::read(&Status::from(endless)).unwrap();
        assert_eq!(read.retry_after, Some(DURATION_MAX));
    }

    #[test]
    fn what_others_say_is_no_fault_of_ours() {
        assert_eq!(Fault::read(&Status::not_found("no such page")), None);
        let strange = ErrorDetails::with_error_info("X", "example.org", HashMap::new());
        let status = Status::with_error_details(Code::NotFound, "", strange);
        assert_eq!(Fault::read(&status), None);
        let newer = ErrorDetails::with_error_info("OF_2030", DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::Aborted, "later", newer);
        assert_eq!(Fault::read(&status).unwrap().reason, ErrorReason::Unspecified);
    }
}
