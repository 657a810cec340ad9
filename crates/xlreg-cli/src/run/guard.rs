//! The process above a run, which makes sure that nothing of it survives, however it ends.
//!
//! `xlreg run` is two processes. The one the user has started is the guard: it owns the run's
//! directory, passes signals on, and waits. The one below, the worker, does all the rest. If the
//! guard is killed, the worker's standard input closes, and it ends everything. If the worker is
//! killed, its programs and all that they ever started, whether it left their process groups or
//! not, become the guard's children, and it ends them. If both are killed at once, the kernel still
//! kills the programs themselves, which die with their parent.
//!
//! A detached run has a guard too: one that the user's process starts, and leaves behind when the
//! programs are up.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::timeout;
use xlreg::Name;

use super::dir::{self, RunDir};
use super::{Args, Role, interrupted};
use super::{control, descendants};
use crate::exit::{Code, Ending};
use crate::output;

/// What the worker calls itself, so that whoever kills all processes named `xlreg` hits one of the
/// two only.
pub(crate) const WORKER_NAME: &str = "xlrun";

/// How long to look for notes that came with the word that all is up.
const LAST_NOTES: Duration = Duration::from_millis(20);

/// Starts the worker, passes signals on, and ends whatever is left when it has ended.
pub(crate) fn guard(args: &Args, cluster: &Name) -> anyhow::Result<Code> {
    if args.role == Some(Role::Detached) {
        // Out of the terminal's reach: its hang-up and its Ctrl-C are not for us.
        nix::unistd::setsid().context("starting a session")?;
        // Not by the name of the link to our own program.
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_name(c"xlreg").context("naming the process")?;
    }
    // Those of the shell, say, that has become us by exec.
    let foreign = descendants::children();
    descendants::adopt_orphans()?;
    let runtime = runtime()?;
    let _in_runtime = runtime.enter();
    // From here on a signal is passed on, and does not end us before we have cleaned up.
    let signals = Forwarded::new()?;
    // What others left behind; that it can't be looked for keeps nobody from starting.
    let _swept = dir::all();
    let run = RunDir::create(cluster)?;
    let watched = runtime.block_on(watch(signals, args.role, run.path(), cluster));
    descendants::kill_all(&foreign);
    let killed = |status: &ExitStatus| {
        format!("the launcher was killed ({status}), and its programs with it")
    };
    let path = run.path().to_owned();
    if let Ok((status, false)) = &watched
        && status.code().is_none()
        && run.path().join(control::LOG_FILE).exists()
    {
        dir::leave_word(&path, &killed(status))?;
    }
    let removed = if run.has_word() { Ok(()) } else { run.remove() };
    let (status, asked) = watched?;
    let removed = removed.with_context(|| format!("removing {}", path.display()));
    match status.code() {
        Some(0) => removed.map(|()| Code::Done),
        Some(code) => {
            // How the run ended matters more.
            removed.unwrap_or_else(|error| output::note(&format!("xlreg: {error:#}")));
            Ok(Code::from_exit(code))
        }
        // It had not yet begun to listen.
        None if asked => Err(interrupted().into()),
        None => Err(Ending::new(Code::Failed, killed(&status)).into()),
    }
}

/// Starts the worker and waits for its end. Returns how it ended, and whether it was asked to.
async fn watch(
    mut signals: Forwarded,
    role: Option<Role>,
    dir: &Path,
    cluster: &Name,
) -> anyhow::Result<(ExitStatus, bool)> {
    let dir = ["--run-dir".as_ref(), dir.as_os_str()];
    let name = ["--run-cluster".as_ref(), cluster.as_str().as_ref()];
    let mut command = again(role, Role::Worker, &[dir, name].concat());
    // Its input closes when we are gone. A group of its own: what the terminal sends reaches us,
    // and through us the worker, once.
    command.arg0(WORKER_NAME).stdin(Stdio::piped()).process_group(0);
    let mut worker = tokio::process::Command::from(command);
    let mut worker = worker.spawn().context("starting the launcher itself once more")?;
    let pid = worker.id().context("the launcher has no process ID")?;
    let pid = Pid::from_raw(pid.cast_signed());
    let _open = worker.stdin.take();
    let mut asked = false;
    loop {
        tokio::select! {
            status = worker.wait() => {
                return Ok((status.context("waiting for the launcher")?, asked));
            }
            signal = signals.next() => {
                asked = true;
                // ESRCH: it has just ended. One that somebody has stopped could not act on it.
                let _ended = kill(pid, signal).and_then(|()| kill(pid, Signal::SIGCONT));
            }
        }
    }
}

/// Starts a guard in the background, and waits until it says that all is up, or has ended.
pub(crate) fn detach() -> anyhow::Result<Code> {
    runtime()?.block_on(wait_until_up())
}

async fn wait_until_up() -> anyhow::Result<Code> {
    let mut signals = Forwarded::new()?;
    let mut command = tokio::process::Command::from(again(None, Role::Detached, &[]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut guard = command.spawn().context("starting the launcher in the background")?;
    let pid = guard.id().context("the launcher has no process ID")?;
    let pid = Pid::from_raw(pid.cast_signed());
    let said = guard.stdout.take().context("its output is a pipe")?;
    let mut said = BufReader::new(said).lines();
    let notes = guard.stderr.take().context("its errors are a pipe")?;
    let mut notes = BufReader::new(notes).lines();
    let relay = tokio::spawn(async move {
        while let Ok(Some(note)) = notes.next_line().await {
            output::note(&note);
        }
    });
    let up = loop {
        tokio::select! {
            line = said.next_line() => break line.ok().flatten(),
            signal = signals.next() => {
                // ESRCH: it has just ended.
                let _ended = kill(pid, signal);
            }
        }
    };
    let Some(up) = up else {
        let status = guard.wait().await.context("waiting for the launcher")?;
        let _said_all = relay.await;
        return match status.code() {
            Some(code) => Ok(Code::from_exit(code)),
            None => {
                let message = format!("the launcher in the background was killed ({status})");
                Err(Ending::new(Code::Failed, message).into())
            }
        };
    };
    // What it noted on the way came before; its pipe stays open as long as it runs.
    let _said_enough = timeout(LAST_NOTES, relay).await;
    output::line(&up)?;
    Ok(Code::Done)
}

/// This very command, which runs in `role`, once more in the role `next`, with these hidden flags.
/// Not by its name: that might be another program by now.
fn again(role: Option<Role>, next: Role, hidden: &[&OsStr]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let mut arguments = std::env::args_os().skip(1);
    // The subcommand, and then our own role, if we were started with one.
    command.args(arguments.next());
    let ours = if role.is_some() { 2 } else { 0 };
    command.args(["--role", next.as_str()]).args(hidden).args(arguments.skip(ours));
    command
}

/// The signals that end a run, as they come.
struct Forwarded {
    interrupt: Signals,
    terminate: Signals,
    /// None for a run whose starter has asked, say by `nohup`, to let it go on without a terminal.
    hangup: Option<Signals>,
}

impl Forwarded {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // A terminal that is closed must not leave the programs behind either.
            hangup: match is_ignored(Signal::SIGHUP) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = hangup => Signal::SIGHUP,
        }
    }
}

/// Whether we were started with this signal ignored. Asked before it is listened for.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// Nothing here is worth more than one thread.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
