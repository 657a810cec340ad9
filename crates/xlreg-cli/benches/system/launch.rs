//! `xlreg run`: how soon a cluster is there, and what it costs to have it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xlreg_node::KeyPool;
use xlreg_node::pool::REFILL_MIN;

/// How long programs are left alone, to see that the launcher leaves them alone too.
const QUIET: Duration = Duration::from_secs(5);

/// From the command to programs that all hold the whole roster, with keys from a pool
/// and with new ones; and what it costs while they run.
pub(crate) fn launching() {
    let world = tempfile::tempdir().unwrap();
    let pool = KeyPool::open(world.path().join("keys")).unwrap();
    for (members, rounds) in [(3, 20), (8, 10), (64, 5)] {
        let needed = 2 * members + 2;
        let mut times: Vec<_> = (0..rounds)
            .map(|_| {
                pool.fill(needed, || false, |_, _| {}).unwrap();
                Launch::start(world.path(), members).until_up
            })
            .collect();
        times.sort();
        let (median, worst) = (times[rounds / 2], times[rounds - 1]);
        println!("{members:2} members, keys from the pool: median {median:.1?}, worst {worst:.1?}");
    }
    for (members, rounds) in [(3, 20), (8, 10), (64, 2)] {
        // Against the keys of the very same runs, since keys differ: one takes 20 ms, the next 400.
        let (mut keys, mut runs) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            pool.clear().unwrap();
            let launch = Launch::start(world.path(), members);
            runs += launch.until_up;
            keys += launch.keys();
        }
        println!(
            "{members:2} members, new keys: {:.2?}, the keys alone: {:.2?}, ratio {:.3}",
            runs / rounds,
            keys / rounds,
            runs.as_secs_f64() / keys.as_secs_f64()
        );
    }
    for members in [3, 64] {
        pool.fill((2 * members + 2).max(REFILL_MIN), || false, |_, _| {}).unwrap();
        let launch = Launch::start(world.path(), members);
        // It fills the pool up again at first, at the lowest priority; then nothing should happen.
        while pool.count().unwrap() < (2 * members + 2).max(REFILL_MIN) {
            thread::sleep(Duration::from_millis(100));
        }
        let before = launch.cpu();
        thread::sleep(QUIET);
        let cpu = (launch.cpu() - before) / QUIET.as_secs_f64();
        let memory = launch.memory() / members as f64 / 1e6;
        println!(
            "{members:2} members running: {:.4} % of a core, {memory:.2} MB a member",
            100.0 * cpu
        );
    }
}

/// A run whose programs do nothing, ended when dropped.
struct Launch {
    guard: Child,
    until_up: Duration,
}

impl Launch {
    /// Starts it with the key pool below `world`, and waits until all programs have said that they
    /// run, which none does before all members hold the whole roster.
    fn start(world: &Path, members: usize) -> Self {
        let began = Instant::now();
        let mut guard = Command::new(env!("CARGO_BIN_EXE_xlreg"))
            .args(["run", "--no-prefix", "-n", &members.to_string()])
            .args(["--", "sh", "-c", "echo up; exec sleep 600"])
            .env("TMPDIR", world)
            .env("XLREG_KEY_POOL", world.join("keys"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(guard.stdout.take().unwrap()).lines();
        for _ in 0..members {
            assert_eq!(lines.next().unwrap().unwrap(), "up");
        }
        let until_up = began.elapsed();
        // Read on, so that nobody waits for us.
        thread::spawn(move || lines.count());
        Self { guard, until_up }
    }

    /// How long making keys took, as the run itself has noted.
    fn keys(mut self) -> Duration {
        let notes = BufReader::new(self.guard.stderr.take().unwrap()).lines();
        let mut notes = notes.map(Result::unwrap);
        let note = notes.find(|note| note.contains("for keys")).unwrap();
        let took = note.rsplit("of that ").next().unwrap().trim_end_matches(" for keys");
        let (number, unit) = took.split_once(' ').unwrap();
        let seconds = if unit == "ms" { 1e-3 } else { 1.0 };
        Duration::from_secs_f64(number.parse::<f64>().unwrap() * seconds)
    }

    /// The guard and the worker below it.
    fn processes(&self) -> Vec<u32> {
        let guard = self.guard.id();
        let children = std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children"));
        let children = children.unwrap();
        let worker = children.split_whitespace().map(|pid| pid.parse().unwrap());
        worker.chain([guard]).collect()
    }

    /// CPU seconds so far.
    fn cpu(&self) -> f64 {
        let threads = self.processes().into_iter().flat_map(|pid| {
            std::fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .map(|thread| thread.unwrap().path())
        });
        let of_thread = |dir: PathBuf| {
            let schedstat = std::fs::read_to_string(dir.join("schedstat")).unwrap();
            schedstat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
        };
        threads.map(of_thread).sum()
    }

    /// Resident memory in bytes.
    fn memory(&self) -> f64 {
        let of_process = |pid| {
            let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
            statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
        };
        self.processes().into_iter().map(of_process).sum()
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.guard.id().cast_signed());
        let _gone = kill(pid, Signal::SIGTERM);
        let _gone = self.guard.wait();
    }
}
