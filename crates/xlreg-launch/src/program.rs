//! One member's program: what to start, and the running thing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use xlreg_core::Name;

use crate::exec::{self, Reserved};
use crate::port::Port;

/// The most sockets that one program is passed: an endpoint for members, one for clients.
const SOCKETS_MAX: usize = 2;

/// What to start for a member, and to start again.
#[derive(Debug)]
pub struct Spec {
    /// The member's name, for messages.
    pub name: Name,
    /// The program: a path, or a name on the PATH it is given.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Changes to our own environment; those without a value are removed from it.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Variables in that environment that no other program has, if there are such: what still runs
    /// with all of them when the program has ended goes with it.
    pub marks: Vec<(OsString, OsString)>,
    /// Its ports, and what the program gets of them.
    pub ports: Ports,
}

/// What a program gets of its member's ports.
#[derive(Debug)]
pub enum Ports {
    /// Their numbers; they are held beside it.
    Held(Vec<Port>),
    /// Listening sockets, by the protocol of systemd.
    Passed(Vec<Port>),
    /// Nothing, or numbers that nobody holds.
    Free,
}

impl Ports {
    /// The names that passed sockets have in `LISTEN_FDNAMES`, those of the placeholders.
    const NAMES: [&str; SOCKETS_MAX] = ["endpoint", "endpoint1"];

    /// Has those that are to be passed take connections from now on.
    pub(crate) fn listen(&self) -> io::Result<()> {
        self.sockets().map(drop)
    }

    fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let Self::Passed(ports) = self else {
            return Ok(Vec::new());
        };
        let named = Self::NAMES.into_iter().zip(ports);
        named.map(|(name, port)| Ok((name.to_owned(), port.listen()?))).collect()
    }
}

/// A running program, with the process group it leads.
#[derive(Debug)]
pub struct Program {
    pub(crate) child: Child,
    pub(crate) group: Group,
}

impl Program {
    /// The process group it leads.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// A process group: a program and what it has started, as far as that has stayed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(Pid);

impl Group {
    /// That of a process that was started as the leader of one. None if it has been reaped.
    pub(crate) fn led_by(leader: &Child) -> Option<Self> {
        leader.id().map(|pid| Self(Pid::from_raw(pid.cast_signed())))
    }

    /// Its number, which is its leader's process ID.
    #[must_use]
    pub fn id(self) -> i32 {
        self.0.as_raw()
    }

    /// Sends a signal to all in it.
    pub(crate) fn signal(self, signal: Signal) {
        // ESRCH: all its processes have ended already.
        let _ended = killpg(self.0, signal);
    }
}

/// A group that is killed when whoever waits for its leader is gone.
pub(crate) struct KillOnDrop(pub(crate) Group);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGKILL);
    }
}

/// Starts programs, all from one thread: those that run die with it, also when our process is
/// killed. Dropping it ends that thread, and with it the programs.
#[derive(Debug)]
pub struct Spawner {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    command: StdCommand,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the operating system says if it grants no thread or no descriptors.
    pub fn new() -> io::Result<Self> {
        let reserved = Reserved::new(SOCKETS_MAX)?;
        let (jobs, coming) = mpsc::channel::<Job>();
        thread::Builder::new().name("xlreg-spawn".to_owned()).spawn(move || {
            let _reserved = reserved;
            for job in coming {
                let _in_runtime = job.runtime.enter();
                let spawned = Command::from(job.command).kill_on_drop(true).spawn();
                let _caller_gone = job.answer.send(spawned);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts a program in a process group of its own, with no input and its output in pipes.
    ///
    /// # Errors
    /// What stood in the way: it is not there, not executable, or the system is out of processes.
    pub async fn start(&self, spec: &Spec) -> io::Result<Program> {
        let (answer, started) = oneshot::channel();
        let job = Job { command: command(spec)?, runtime: Handle::current(), answer };
        let gone = || io::Error::other("the thread that starts programs has ended");
        self.jobs.send(job).map_err(|_| gone())?;
        let child = started.await.map_err(|_| gone())??;
        let group = Group::led_by(&child);
        let group = group.ok_or_else(|| io::Error::other("it has no process ID"))?;
        Ok(Program { child, group })
    }
}

fn command(spec: &Spec) -> io::Result<StdCommand> {
    let environment = environment(&spec.environment);
    let path = environment.get(OsStr::new("PATH")).map_or(OsStr::new(""), OsString::as_os_str);
    let program = find(&spec.program, path).ok_or(io::ErrorKind::NotFound)?;
    let mut command = StdCommand::new(&program);
    command
        .args(&spec.arguments)
        .env_clear()
        .envs(&environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    exec::prepare(&mut command);
    let sockets = spec.ports.sockets()?;
    if !sockets.is_empty() {
        let environment = environment.into_iter();
        exec::pass_sockets(&mut command, &program, &spec.arguments, environment, sockets)?;
    }
    Ok(command)
}

/// Our environment with these changes. Whatever was passed to us was not meant for our programs.
fn environment(changes: &[(OsString, Option<OsString>)]) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<_, _> = std::env::vars_os().collect();
    for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET"] {
        all.remove(OsStr::new(name));
    }
    for (name, value) in changes {
        match value {
            Some(value) => all.insert(name.clone(), value.clone()),
            None => all.remove(name),
        };
    }
    all
}

/// The program's path: itself if it has a slash, or the first of that name on `path`.
#[must_use]
pub fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let as_path = Path::new(program);
    if program.as_encoded_bytes().contains(&b'/') {
        return as_path.exists().then(|| as_path.to_owned());
    }
    std::env::split_paths(path).map(|dir| dir.join(as_path)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
