//! All that a run has started, at any remove.
//!
//! A process that adopts orphans is the parent of every descendant whose own parent has ended. So
//! whoever kills its children until there are none has killed them all: whether they left their
//! process groups, their sessions or their terminals.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
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

/// Kills all descendants and reaps them, but for children that were there before the run and are
/// none of its business. Not to be called while anybody waits for a child.
pub(crate) fn kill_all(spared: &HashSet<i32>) {
    let begun = Instant::now();
    while begun.elapsed() < KILLED {
        // The children of those we kill are ours next.
        let ours: Vec<_> = children().difference(spared).copied().collect();
        if ours.is_empty() {
            return;
        }
        kill_each(&ours);
        // If things move, perhaps some have forked and gone, and others are to be caught.
        if ours.into_iter().filter(|pid| reap(*pid)).count() == 0 {
            std::thread::sleep(LOOK);
        }
    }
}

/// Kills processes, and what they start meanwhile as far as that is possible: first all stand still.
fn kill_each(pids: &[i32]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in pids {
            // ESRCH: it has just ended.
            let _ended = kill(Pid::from_raw(*pid), signal);
        }
    }
}

/// Children that have ended and that nobody has reaped.
///
/// Whoever waits for a child of his reaps it at once. So what is still there after a while is an
/// orphan that we adopted.
pub(crate) fn ended_children() -> HashSet<i32> {
    let has_ended = |pid: &i32| look(*pid).is_some_and(|process| process.ended);
    children().into_iter().filter(has_ended).collect()
}

/// Reaps a child if it has ended; whether it had.
pub(crate) fn reap(pid: i32) -> bool {
    let status = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    status.is_ok_and(|status| status != WaitStatus::StillAlive)
}

struct Process {
    parent: i32,
    ended: bool,
}

/// The process IDs of all our children. Whoever has become this program by exec has those of the
/// program that it was before, too.
pub(crate) fn children() -> HashSet<i32> {
    listed_children().unwrap_or_else(|| {
        let me = std::process::id().cast_signed();
        pids().filter(|pid| look(*pid).is_some_and(|process| process.parent == me)).collect()
    })
}

/// As the kernel lists them, if it does, which takes no look at all processes that there are.
fn listed_children() -> Option<HashSet<i32>> {
    let mut children = HashSet::new();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let list = fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Some(children)
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn look(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may itself hold brackets, spaces and worse: begin behind the last.
    let rest = stat.get(stat.iter().rposition(|byte| *byte == b')')? + 1..)?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Process { parent: fields.next()?.parse().ok()?, ended })
}
