//! A user's world in a temporary directory, and processes that end with the test.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use xlreg_node::KeyPool;

pub(crate) const XLREG: &str = env!("CARGO_BIN_EXE_xlreg");

/// Enough for a cluster of three and its registry.
const STOCK_KEYS: usize = 8;

/// Long enough for a debug build on a busy machine; nothing waits for it to pass.
const DEADLINE: Duration = Duration::from_secs(90);

/// A user with a home, a data directory and a place for temporary files.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "data", "tmp", "work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What stands below a directory of this world.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The directories of the runs that there are.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let roots = fs::read_dir(self.path("tmp")).unwrap();
        let roots = roots.filter_map(|root| fs::read_dir(root.unwrap().path()).ok());
        let runs = roots.flatten().filter_map(|run| Some(run.ok()?.path()));
        // Not those in the making.
        runs.filter(|run| !run.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
    }

    /// The command with these arguments, and with no `XLREG_*` variable of whoever runs the test.
    pub(crate) fn xlreg(&self, args: &[&str]) -> Command {
        let mut command = Command::new(XLREG);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("XLREG_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.path("work"))
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("TMPDIR", self.path("tmp"))
            .env("COLUMNS", "100");
        if args.first() == Some(&"run") {
            command.env("XLREG_KEY_POOL", self.pool());
        }
        command
    }

    /// A pool with some keys for one run. Each gets the same: making keys is what takes longest, and
    /// these clusters have nothing to do with each other. Whose clusters do must ask for others.
    fn pool(&self) -> PathBuf {
        static STOCK: OnceLock<KeyPool> = OnceLock::new();
        let stock = STOCK.get_or_init(|| {
            let stock = KeyPool::open(concat!(env!("CARGO_TARGET_TMPDIR"), "/key-stock")).unwrap();
            stock.fill(STOCK_KEYS, || false, |_, _| {}).unwrap();
            stock
        });
        let private = fs::Permissions::from_mode(0o700);
        let mut pool = tempfile::Builder::new();
        let pool = pool.prefix("pool").permissions(private).tempdir_in(self.dir.path()).unwrap();
        for entry in fs::read_dir(stock.dir()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), pool.path().join(entry.file_name())).unwrap();
        }
        pool.keep()
    }

    /// A run of so many members in the background, with these flags, once it is up.
    pub(crate) fn detach(&self, cluster: &str, members: &str, flags: &[&str], cmd: &[&str]) {
        let args = ["run", "-n", members, "--cluster", cluster, "--detach"];
        let done = self.run(&[&args, flags, &["--"], cmd].concat());
        done.expect(0).says(&[&format!("xlreg down {cluster}")]);
        assert_eq!(done.out, format!("{cluster}\n"));
    }

    /// How a run tells of a member.
    pub(crate) fn member(&self, cluster: &str, rank: usize) -> serde_json::Value {
        let mut told = self.run(&["ps", cluster, "--output", "json"]).expect(0).json();
        told["run"]["members"][rank].take()
    }

    /// Waits until a member is so.
    pub(crate) fn until_member(&self, cluster: &str, rank: usize, state: &str) {
        eventually(&format!("{cluster} {rank} {state}"), || {
            self.member(cluster, rank)["state"] == state
        });
    }

    pub(crate) fn down(&self, cluster: &str) {
        let done = self.run(&["down", cluster]);
        done.expect(0).says(&[&format!("{cluster} is down")]);
        self.is_clean();
    }

    /// Nothing is left where temporary files go.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.list("tmp"), [""; 0]);
    }

    /// A shell, with what `xlreg run` finds around it.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("sh");
        for (name, value) in self.xlreg(&["run"]).get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell.args(["-c", script]).current_dir(self.path("work"));
        shell
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Running::start(self.xlreg(args)).finish()
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(self.xlreg(args))
    }

    /// A registry, once it is ready.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        Server::ready(self.start(&[&["serve"], args].concat()))
    }

    /// A registry that is not worth more words.
    pub(crate) fn registry(&self) -> Server {
        self.serve(&["--listen", "127.0.0.1:0", "--data", "registry"])
    }

    /// The command, talking to that registry.
    pub(crate) fn asking(&self, server: &Server, args: &[&str]) -> Command {
        let mut command = self.xlreg(args);
        command.env("XLREG_REGISTRY", &server.credentials);
        command
    }

    pub(crate) fn ask(&self, server: &Server, args: &[&str]) -> Done {
        Running::start(self.asking(server, args)).finish()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed may leave a run in the background.
        if fs::read_dir(self.path("tmp")).is_ok_and(|mut left| left.next().is_some()) {
            let _done = self.xlreg(&["down", "--all"]).stderr(Stdio::null()).status();
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let by = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < by, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Tries with longer and longer lifetimes until it was in time for what it wants to see: the
/// command's own clock runs, however busy the machine is.
#[track_caller]
pub(crate) fn in_time(attempt: impl Fn(&str) -> bool) {
    let was_in_time = [1, 2, 4, 8, 16, 32].iter().any(|seconds| attempt(&format!("{seconds}s")));
    assert!(was_in_time, "this machine is too slow");
}

/// Whether there is such a process, and it has not ended.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// An address to listen on that no other test has, so that its port is still free after a restart.
pub(crate) fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    if cfg!(target_os = "linux") {
        let pid = std::process::id();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("127.{}.{}.{next}:0", 1 + pid % 250, pid / 250 % 250)
    } else {
        "127.0.0.1:0".to_owned()
    }
}

/// What a stream has brought so far.
#[derive(Default)]
struct Heard {
    state: Mutex<(String, bool)>,
    news: Condvar,
}

impl Heard {
    fn listen(stream: impl Read + Send + 'static) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        let teller = Arc::clone(&heard);
        thread::spawn(move || teller.tell(stream));
        heard
    }

    fn nothing() -> Arc<Self> {
        Self::listen(std::io::empty())
    }

    fn tell(&self, mut stream: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).unwrap_or(0);
            let mut state = self.state.lock().unwrap();
            state.0.push_str(&String::from_utf8_lossy(&buffer[..read]));
            state.1 = read == 0;
            self.news.notify_all();
            if read == 0 {
                return;
            }
        }
    }

    /// Waits until `enough`, or until all has been said, and returns what was.
    fn until(&self, enough: impl Fn(&str) -> bool) -> (String, bool) {
        let by = Instant::now() + DEADLINE;
        let mut state = self.state.lock().unwrap();
        while !enough(&state.0) && !state.1 {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (state.0.clone(), false);
            }
            state = self.news.wait_timeout(state, left).unwrap().0;
        }
        (state.0.clone(), true)
    }
}

/// A process that does not outlive the test.
pub(crate) struct Running {
    child: Child,
    out: Arc<Heard>,
    err: Arc<Heard>,
    /// Give it time to end those it started.
    launcher: bool,
}

impl Running {
    pub(crate) fn start(command: Command) -> Self {
        Self::with_stderr(command, Stdio::piped())
    }

    /// Its stderr is a pipe that nobody reads any more.
    pub(crate) fn unheard(command: Command) -> Self {
        let (_, writer) = std::io::pipe().unwrap();
        Self::with_stderr(command, writer.into())
    }

    /// Its stdout is this terminal; `shown` is the other side of that, which reads what it shows.
    pub(crate) fn on_terminal(mut command: Command, terminal: OwnedFd, shown: OwnedFd) -> Self {
        command.stdout(terminal);
        let mut running = Self::spawn(command, Stdio::piped());
        running.out = Heard::listen(fs::File::from(shown));
        running
    }

    fn with_stderr(mut command: Command, stderr: Stdio) -> Self {
        command.stdout(Stdio::piped());
        Self::spawn(command, stderr)
    }

    fn spawn(mut command: Command, stderr: Stdio) -> Self {
        let launcher = command.get_args().next().is_some_and(|first| first == "run");
        let mut child =
            command.stdin(Stdio::null()).stderr(stderr).process_group(0).spawn().unwrap();
        let out = child.stdout.take().map_or_else(Heard::nothing, Heard::listen);
        let err = child.stderr.take().map_or_else(Heard::nothing, Heard::listen);
        Self { child, out, err, launcher }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process ID of the worker below a run's guard.
    pub(crate) fn worker(&self) -> i32 {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap();
        list.trim().parse().unwrap()
    }

    /// Waits until stderr says so.
    pub(crate) fn until_says(&self, part: &str) {
        let (said, _) = self.err.until(|text| text.contains(part));
        assert!(said.contains(part), "{part:?} is not in stderr: {said}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Waits until stdout has so many lines with `part` in them, and returns them.
    pub(crate) fn lines(&self, part: &str, count: usize) -> Vec<String> {
        let whole = |text: &str| {
            let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines
                .filter(|line| line.contains(part))
                .map(|line| line.trim_end().to_owned())
                .collect()
        };
        let (out, _) = self.out.until(|text| Vec::len(&whole(text)) >= count);
        let found = whole(&out);
        let err = || self.err.state.lock().unwrap().0.clone();
        assert!(found.len() >= count, "no {count} lines with {part:?}:\n{out}\n--\n{}", err());
        found
    }

    /// Waits until what stdout has brought so far is `enough`, and returns it.
    #[track_caller]
    pub(crate) fn until_prints(&self, what: &str, enough: impl Fn(&str) -> bool) -> String {
        let (out, _) = self.out.until(&enough);
        let err = || self.err.state.lock().unwrap().0.clone();
        assert!(enough(&out), "never: {what}:\n{out}\n--\n{}", err());
        out
    }

    /// Waits for its end, and for that of all who have its stdout or stderr.
    pub(crate) fn finish(mut self) -> Done {
        let (out, out_closed) = self.out.until(|_| false);
        let (err, err_closed) = self.err.until(|_| false);
        assert!(out_closed && err_closed, "does not end:\n{out}\n--\n{err}");
        let status = self.child.wait().unwrap();
        let done = Done { code: status.code(), out, err };
        assert!(!done.err.contains("panicked"), "{done:?}");
        done
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.pid().cast_signed());
        let by = Instant::now() + Duration::from_secs(8);
        while self.launcher && Instant::now() < by && matches!(self.child.try_wait(), Ok(None)) {
            let _ended = kill(group, Signal::SIGTERM);
            thread::sleep(Duration::from_millis(20));
        }
        let _ended = killpg(group, Signal::SIGKILL);
        let _ended = self.child.wait();
    }
}

/// A registry that has said it is ready.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) credentials: PathBuf,
}

impl Server {
    pub(crate) fn ready(running: Running) -> Self {
        let line = running.lines("ready on", 1).remove(0);
        let said = line.strip_prefix("xlreg: ready on ").unwrap();
        let (address, credentials) = said.split_once(", credentials in ").unwrap();
        Self { running, address: address.parse().unwrap(), credentials: credentials.into() }
    }

    pub(crate) fn stop(self) -> Done {
        self.running.signal(Signal::SIGTERM);
        let done = self.running.finish();
        done.expect(0);
        done
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Stderr says all of this.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in stderr: {self:#?}");
        }
        self
    }

    /// Stdout says all of this.
    #[track_caller]
    pub(crate) fn prints(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in stdout: {self:#?}");
        }
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// The lines of a key file that make up private and public keys.
pub(crate) fn key_lines(node_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(node_dir.join(".xlattice/node.config")).unwrap();
    let lines: Vec<_> =
        text.lines().map(str::trim).filter(|line| line.len() >= 60).map(str::to_owned).collect();
    assert!(lines.len() > 20, "two private keys take more lines than that: {text}");
    lines
}
