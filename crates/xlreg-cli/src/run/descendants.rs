//! All that a run has started, at any remove.
//!
//! A process that adopts orphans is the parent of every descendant whose own parent has ended. So
//! whoever kills its children until there are none has killed them all: whether they left their
//! process groups, their sessions or their terminals.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long to wait for processes that were killed: one that hangs in a broken file system may
/// never go.
const KILLED: Duration = Duration::from_secs(5);

/// Between looks at processes that were killed. The kernel needs an instant to end them.
const LOOK: Duration = Duration::from_millis(2);

/// Has orphans among our descendants become our children, not those of the system's first process.
pub(crate) fn adopt_orphans() -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true).context("adopting orphans")?;
    Ok(())
}

/// Kills all descendants and reaps them. Not to be called while anybody waits for a child.
pub(crate) fn kill_all() {
    let begun = Instant::now();
    while begun.elapsed() < KILLED {
        for pid in all() {
            // ESRCH: it has just ended.
            let _ended = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(LOOK),
            Err(Errno::ECHILD) => return,
            _ => {}
        }
    }
}

/// Children that have ended and that nobody reaps: orphans that we adopted. `ours` are those that
/// are waited for elsewhere.
pub(crate) fn reap_orphans(ours: &HashSet<i32>) {
    let me = std::process::id().cast_signed();
    for (pid, process) in processes() {
        if process.parent == me && process.ended && !ours.contains(&pid) {
            let _reaped = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

struct Process {
    parent: i32,
    ended: bool,
}

/// The process IDs of all our descendants.
fn all() -> Vec<i32> {
    let processes = processes();
    let me = std::process::id().cast_signed();
    let is_ours = |mut pid: i32| {
        // A chain of parents ends at 0, unless it changes while we look.
        for _ in 0..processes.len() {
            let Some(process) = processes.get(&pid) else { return false };
            if process.parent == me {
                return true;
            }
            pid = process.parent;
        }
        false
    };
    processes.keys().copied().filter(|pid| is_ours(*pid)).collect()
}

/// All processes that there are, by their IDs.
fn processes() -> HashMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, look(pid)?))).collect()
}

fn look(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may itself hold brackets, spaces and worse: begin behind the last.
    let rest = stat.get(stat.iter().rposition(|byte| *byte == b')')? + 1..)?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Process { parent: fields.next()?.parse().ok()?, ended })
}
