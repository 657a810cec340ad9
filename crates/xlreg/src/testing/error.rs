//! What can go wrong with clusters for tests.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use xlreg_core::Name;
use xlreg_launch::{ReadinessError, TemplateError};
use xlreg_node::{IdentityError, MakeError};
use xlreg_server::{HomeError, LocalServerError};

use super::slot::MemberState;
use crate::error::Error;
use crate::portable::{PortableError, WriteError};

/// Why a cluster for tests can't be made, or not do what it was asked to.
///
/// Its `Debug` is its text too, since that is what `unwrap` and a test that returns an error print.
#[derive(Error)]
#[non_exhaustive]
pub enum TestError {
    /// The builder was asked for what can't be.
    #[error("{0}")]
    Builder(String),
    /// A placeholder in an argument or a variable that can't be filled in.
    #[error("in {text:?}: {reason}")]
    Template {
        /// The argument or variable.
        text: String,
        /// What is wrong with it.
        reason: TemplateError,
    },
    /// Nobody can tell when the members are ready.
    #[error(transparent)]
    Readiness(#[from] ReadinessError),
    /// The cluster did not form.
    #[error("forming the cluster: {0}")]
    Form(#[from] Error),
    /// No registry.
    #[error(transparent)]
    Registry(#[from] LocalServerError),
    /// No keys.
    #[error(transparent)]
    Keys(#[from] MakeError),
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing to speak TLS with.
    #[error("making what members need for TLS: {0}")]
    Tls(#[from] PortableError),
    /// That could not be put into a member's directory.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The operating system grants no port, thread, directory or file.
    #[error("{doing}: {source}")]
    Io {
        /// What it was for.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program can't be started.
    #[error("cannot start {program} for {name}: {reason}; give its path, or a name on your PATH")]
    Start {
        /// The member.
        name: Name,
        /// Its program.
        program: String,
        /// Why not.
        reason: String,
    },
    /// Members that are neither functions nor programs, but the test's own affair.
    #[error(
        "{name} is nothing that could be killed or paused: the test drives it by itself, as the \
         cluster was built with neither serve nor command"
    )]
    Nothing {
        /// The member.
        name: Name,
    },
    /// There is nothing to pause, resume or kill.
    #[error("{name} does not run: it {state}; start it with restart")]
    NotRunning {
        /// The member.
        name: Name,
        /// What it does instead.
        state: MemberState,
    },
    /// A member that is a function blocks its thread, or a process can't be killed.
    #[error("{name} has not stopped within {} s: does it block its thread?", waited.as_secs())]
    Hangs {
        /// The member.
        name: Name,
        /// How long it had.
        waited: Duration,
    },
    /// The listener was taken before, or the member has none of that number.
    #[error(
        "{name} has no listener {number} to take: it was taken already, or the cluster has fewer \
         endpoints"
    )]
    NoListener {
        /// The member.
        name: Name,
        /// Its number, from 0.
        number: usize,
    },
    /// Members that are not ready.
    #[error("{} of {size} members are not ready after {:.1} s: {}", late.len(), waited.as_secs_f64(), late.join("; "))]
    NotReady {
        /// How many members there are.
        size: usize,
        /// Those that are not ready, each with what stood in the way.
        late: Vec<String>,
        /// How long they had.
        waited: Duration,
    },
    /// A program has not written what was waited for.
    #[error("{name} {state} and has not written {text:?} within {:.1} s; it wrote:\n{written}", waited.as_secs_f64())]
    NotWritten {
        /// The member.
        name: Name,
        /// How it was when the wait ended.
        state: MemberState,
        /// What was waited for.
        text: String,
        /// What it has written instead.
        written: String,
        /// How long it had.
        waited: Duration,
    },
    /// Members that ended badly, and nobody had asked them to end.
    #[error("failed by themselves: {}", .0.join("; "))]
    Failed(Vec<String>),
    /// Members that have not ended by themselves.
    #[error("have not ended within {:.1} s: {}", waited.as_secs_f64(), running.join(", "))]
    NotEnded {
        /// Their names.
        running: Vec<String>,
        /// How long they had.
        waited: Duration,
    },
}

impl TestError {
    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source }
    }
}

impl From<HomeError> for TestError {
    fn from(error: HomeError) -> Self {
        Self::Registry(error.into())
    }
}

impl fmt::Debug for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
