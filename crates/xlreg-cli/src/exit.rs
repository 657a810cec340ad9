//! How the command ends: one code for each kind of ending.

use std::fmt;
use std::process::ExitCode;

use anstream::eprintln;
use xlreg::{Error, Reason};
use xlreg_core::Refusal;
use xlreg_node::IdentityError;

/// The codes, for the help text.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done                       5  no such cluster
  1  failed                     6  the cluster is full
  2  wrong usage                7  timed out, or the cluster is incomplete
  3  registry unreachable       8  conflict: the name, ID or cluster is another's
  4  refused                  130  interrupted";

/// An exit code. Scripts rely on these; docs/operations/cli.md lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    NotFound = 5,
    Full = 6,
    Incomplete = 7,
    Conflict = 8,
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An ending that the command itself decides on.
#[derive(Debug)]
pub(crate) struct Ending {
    code: Code,
    message: String,
}

impl Ending {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ending {}

/// Tells of an error on stderr, and which code it leaves with.
pub(crate) fn report(error: &anyhow::Error) -> Code {
    eprintln!("xlreg: {}", message(error));
    code(error)
}

/// The error and what led to it, without saying the same twice.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn code(error: &anyhow::Error) -> Code {
    error
        .chain()
        .find_map(|cause| {
            cause
                .downcast_ref::<Ending>()
                .map(|ending| ending.code)
                .or_else(|| cause.downcast_ref::<Error>().map(code_of))
        })
        .unwrap_or(Code::Failed)
}

/// One code for each kind of error of the library.
fn code_of(error: &Error) -> Code {
    match error {
        Error::Unreachable { .. } | Error::Lost { .. } | Error::NotTheRegistry { .. } => {
            Code::Unreachable
        }
        Error::NoAnswer { .. } | Error::Incomplete(_) => Code::Incomplete,
        Error::Refused { reason, .. } => code_of_reason(reason),
        Error::MembersOnly { .. } => Code::Refused,
        Error::Identity(IdentityError::Exists { .. }) => Code::Conflict,
        Error::Identity(IdentityError::Missing { .. }) => Code::NotFound,
        Error::Protocol { .. }
        | Error::File { .. }
        | Error::Text { .. }
        | Error::Key(_)
        | Error::Identity(_) => Code::Failed,
    }
}

fn code_of_reason(reason: &Reason) -> Code {
    match reason {
        Reason::Known(Refusal::UnknownClusterId | Refusal::UnknownClusterName) => Code::NotFound,
        Reason::Known(Refusal::ClusterFull { .. }) => Code::Full,
        Reason::Known(Refusal::IdInUse | Refusal::MemberNameInUse | Refusal::MemberIdInUse) => {
            Code::Conflict
        }
        Reason::Known(_) | Reason::Other(_) => Code::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_leaves_with_its_code() {
        let refused = Error::Refused {
            request: "Join",
            reason: Reason::Known(Refusal::ClusterFull { size: 2 }),
        };
        let error = anyhow::Error::from(refused).context("joining alpha");
        assert_eq!(message(&error), "joining alpha: the registry refuses Join: cluster is full");
        assert_eq!(code(&error), Code::Full);
        assert_eq!(code(&anyhow::anyhow!("something else")), Code::Failed);
    }
}
