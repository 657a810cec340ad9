//! Processes that are known by their environment alone.
//!
//! A program's process group tells what it has started, until something leaves the group; and its
//! descendants do, until their ancestors are gone. But all of them have the environment that they
//! were started with, unless they took care to lose it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

/// How long to go on killing: one that hangs in a broken file system may never go.
const KILLED: Duration = Duration::from_secs(5);

/// Between looks at processes that were killed. The kernel needs an instant to end them.
const LOOK: Duration = Duration::from_millis(2);

/// Kills all processes, but for this very one, that were started with all of these variables, and
/// waits for their end. One of them should be a random number: others may have the same directories,
/// in containers of their own. None are killed for no variables.
///
/// Blocks for some milliseconds, as it looks at all processes that there are. Does nothing where the
/// system does not show environments in `/proc`.
pub fn kill(variables: &[(OsString, OsString)]) {
    if variables.is_empty() {
        return;
    }
    let line =
        |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let marks: Vec<_> = variables.iter().map(line).collect();
    let begun = Instant::now();
    while begun.elapsed() < KILLED {
        let marked: Vec<_> = pids().filter(|pid| has_all(*pid, &marks)).collect();
        if marked.is_empty() {
            return;
        }
        for pid in marked {
            // ESRCH: it has just ended.
            let _ended = signal(pid, Signal::SIGKILL);
        }
        std::thread::sleep(LOOK);
    }
}

/// All processes that there are, but for this one.
fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |name: &OsStr| name.to_str()?.parse().ok();
    let pids = entries.filter_map(move |entry| number(&entry.file_name()));
    pids.map(Pid::from_raw).filter(|pid| *pid != Pid::this())
}

fn has_all(pid: Pid, marks: &[Vec<u8>]) -> bool {
    // One of another user can't be read, and one that has ended is empty.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let variables: Vec<_> = environment.split(|byte| *byte == 0).collect();
    marks.iter().all(|mark| variables.contains(&mark.as_slice()))
}
