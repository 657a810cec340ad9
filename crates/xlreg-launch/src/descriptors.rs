//! How many files this process may have open, while the programs that it starts may have as many as ever.
//!
//! A socket is a file here. The soft limit is low by custom, 1,024, for the sake of programs that use
//! `select`; who needs more raises it for himself, up to the hard limit.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The limits that this process was started with, once it has raised them.
static FORMER: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the soft limit on open files to `needed`, or as far as allowed. Returns what it is then; none
/// if the system tells of no limit.
#[must_use]
pub fn allow(needed: u64) -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= needed {
        return Some(soft);
    }
    let _first = FORMER.set((soft, hard));
    let wanted = needed.min(hard);
    Some(if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft })
}

/// The soft and the hard limit that programs are to have; none if ours are as they were.
pub(crate) fn former() -> Option<(rlim_t, rlim_t)> {
    FORMER.get().copied()
}
