//! How the command ends: one code for each kind of ending.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use xlreg::{Error, ErrorReason, Reason};
use xlreg_core::Refusal;
use xlreg_node::IdentityError;

use crate::{output, usage};

/// The codes, for the help text.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done                       5  no such cluster, member or token
  1  failed                     6  the cluster is full
  2  wrong usage                7  timed out, or the cluster is incomplete
  3  registry unreachable       8  conflict: name, ID or cluster of another
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

impl Code {
    /// The code that another process of ours has left with.
    pub(crate) fn from_exit(code: i32) -> Self {
        let all = [
            Self::Done,
            Self::Usage,
            Self::Unreachable,
            Self::Refused,
            Self::NotFound,
            Self::Full,
            Self::Incomplete,
            Self::Conflict,
            Self::Interrupted,
        ];
        all.into_iter().find(|known| *known as i32 == code).unwrap_or(Self::Failed)
    }
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

    /// That the registry is not heard of within a --timeout.
    pub(crate) fn no_answer(waited: Duration) -> Self {
        let message = format!(
            "the registry has not answered within {waited:?}; look at its log, or allow more with \
             --timeout"
        );
        Self::new(Code::Incomplete, message)
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
    let code = code(error);
    // An invitation may have been given where a file was expected, which is told by its name.
    let message = usage::without_secrets(&message(error));
    if code == Code::Usage {
        return usage::complain(&message);
    }
    output::note(&format!("xlreg: {message}"));
    if let Some(hint) = error.chain().find_map(|cause| cause.downcast_ref().and_then(hint)) {
        output::note(&format!("  hint: {hint}"));
    }
    code
}

/// What to do next, where the error itself does not say.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::File { source, .. } => Some(match source.kind() {
            ErrorKind::IsADirectory => "name the file in it; a registry writes its regCred.dat",
            ErrorKind::PermissionDenied => {
                "there is nothing secret in credentials: have them copied to where you may read them"
            }
            _ => "`xlreg serve` prints where a registry's credentials are",
        }),
        Error::Text { source, .. } if source.to_string().contains("xlreg://") => {
            Some("it is an invitation: give it in the place of the cluster's name, as @FILE")
        }
        Error::Text { .. } => Some("fetch the file from its registry again"),
        Error::HungUp { .. } => Some(
            "so do original servers of the other generation, and registries that don't serve the \
             old wire: try the other --dialect, or none",
        ),
        Error::OldWire { .. } => {
            Some("if the credentials are of version 2, leave out --dialect and XLREG_DIALECT")
        }
        Error::Lost { request: "Join", .. } => Some(
            "an original server ends when asked for a cluster that it doesn't know: start it \
             again, and create the cluster first",
        ),
        Error::NoAnswer { .. } => Some(
            "look at the registry's log; a command that waits for others can be allowed more with \
             --timeout",
        ),
        Error::Incomplete(_) => Some(
            "those who joined keep their places: start the missing ones and run this again, or \
             allow more with --timeout",
        ),
        Error::Refused { request, reason: Reason::Known(refusal) } => {
            hint_on_refusal(request, refusal)
        }
        // The old wire has the text alone.
        Error::Refused { reason: Reason::Other(text), .. } => hint_on_endpoints(text),
        Error::Refused { reason: Reason::Fault(fault), .. } => match fault.reason {
            ErrorReason::WrongEndpointCount => hint_on_endpoints(&fault.message),
            ErrorReason::QuotaExceeded => Some(
                "clusters that you delete make room: xlreg cluster list --mine; and whoever runs the \
                 registry can allow more",
            ),
            _ => None,
        },
        _ => None,
    }
}

/// What one may ask for of a cluster that is not there yet.
const FOR_ANY_CLUSTER: [&str; 4] = ["Join", "JoinCluster", "GetCluster", "WatchCluster"];

fn hint_on_endpoints(text: &str) -> Option<&'static str> {
    text.contains("too few endPoints").then_some("repeat --endpoint, once for each")
}

fn hint_on_refusal(request: &str, refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::UnknownClusterId | Refusal::UnknownClusterName
            if FOR_ANY_CLUSTER.contains(&request) =>
        {
            Some(
                "check the name and the registry (xlreg cluster list), or make it: xlreg cluster create \
                 NAME --size N",
            )
        }
        Refusal::UnknownClusterId | Refusal::UnknownClusterName => {
            Some("see which clusters this registry has: xlreg cluster list")
        }
        Refusal::ClusterFull { .. } => Some(
            "see who is in it: xlreg cluster show NAME; a member comes back with the --name and \
             --identity it joined with, and the rank of one that has left is kept for it, unless its \
             owner frees it: xlreg cluster expel NAME MEMBER",
        ),
        Refusal::MemberNameInUse => Some(
            "choose another --name; or, to come back as that member, use the --identity it joined \
             with (an original server lets nobody come back)",
        ),
        Refusal::MemberIdInUse => Some(
            "this identity is in the cluster under another name: use that --name, or another \
             --identity",
        ),
        Refusal::TokenRequired => Some(
            "ask its owner for an invitation, as `xlreg token create` prints it, or give --token",
        ),
        Refusal::TokenInvalid | Refusal::TokenExpired | Refusal::TokenSpent => {
            Some("ask the cluster's owner for a new one: xlreg token create CLUSTER")
        }
        Refusal::UnknownToken => Some("see which it has: xlreg token list CLUSTER"),
        Refusal::Expelled => Some(
            "its owner has shut this key out for good; who should come back all the same makes \
             another --identity",
        ),
        Refusal::NotAMember => Some(
            "see who is: xlreg cluster show CLUSTER; a member leaves with the --identity and --name \
             that it joined with",
        ),
        Refusal::RegistryFull => Some(
            "clusters that are deleted make room, and whoever runs the registry can allow more \
             ([limits] in its configuration)",
        ),
        Refusal::KeyNotAllowed => Some(
            "its owner names keys when making it: xlreg cluster create --policy keys --allow SHA256, \
             as `xlreg id show` tells it",
        ),
        Refusal::RanksKept => Some(
            "this key has a rank already: join with another identity that the cluster's list names",
        ),
        Refusal::NotOwner => Some(
            "do it as the identity that made the cluster (--identity), or as an administrator of the \
             registry (xlreg serve --admin)",
        ),
        Refusal::KeyRetired => Some(
            "this identity's keys were rotated: use the directory that has its new ones, or run \
             `xlreg id rotate` again if it was cut off",
        ),
        Refusal::CommsKeyDiffers => {
            Some("the registry knows this identity with another comms key: xlreg id rotate")
        }
        Refusal::ClusterDiffers { .. } => {
            Some("choose another name; or look at it: xlreg cluster show NAME")
        }
        Refusal::IdInUse => Some(
            "the registry knows this ID with other keys: make another identity with `xlreg id new`",
        ),
        _ => None,
    }
}

/// The error and what led to it, without saying the same twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    // It names the cluster itself.
    if let Some(Error::Incomplete(incomplete)) = error.downcast_ref() {
        return incomplete.to_string();
    }
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

pub(crate) fn code(error: &anyhow::Error) -> Code {
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
        Error::Unreachable { .. }
        | Error::HungUp { .. }
        | Error::Lost { .. }
        | Error::NotTheRegistry { .. }
        | Error::WrongKey { .. }
        | Error::Untrusted { .. } => Code::Unreachable,
        Error::NoAnswer { .. } | Error::Incomplete(_) => Code::Incomplete,
        Error::Refused { reason, .. } => code_of_reason(reason),
        Error::MembersOnly { .. } | Error::NotTaken { .. } | Error::OldWire { .. } => Code::Refused,
        Error::Gone { .. } => Code::NotFound,
        Error::Invitation(_) => Code::Usage,
        Error::Differs { .. } => Code::Conflict,
        Error::Identity(IdentityError::Exists { .. }) => Code::Conflict,
        Error::Identity(IdentityError::Missing { .. }) => Code::NotFound,
        Error::Protocol { .. }
        | Error::File { .. }
        | Error::Text { .. }
        | Error::Key(_)
        | Error::Tls(_)
        | Error::Identity(_) => Code::Failed,
    }
}

fn code_of_reason(reason: &Reason) -> Code {
    match reason {
        Reason::Known(Refusal::UnknownClusterId | Refusal::UnknownClusterName) => Code::NotFound,
        Reason::Known(Refusal::UnknownToken | Refusal::NotAMember) => Code::NotFound,
        Reason::Known(Refusal::ClusterFull { .. }) => Code::Full,
        Reason::Known(
            Refusal::IdInUse
            | Refusal::MemberNameInUse
            | Refusal::MemberIdInUse
            | Refusal::CommsKeyDiffers
            | Refusal::KeyInUse
            | Refusal::ClusterDiffers { .. },
        ) => Code::Conflict,
        Reason::Known(_) | Reason::Fault(_) | Reason::Other(_) => Code::Refused,
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
