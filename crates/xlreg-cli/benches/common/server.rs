//! The real binary, and what limits it.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use xlreg::{Credentials, Dialect, Version};
use xlreg_proto::hello::{ClientHello, Hello, Secrets};
use xlreg_proto::keys::{PrivateKey, random};

/// RSA operations that each core does to tell how long one takes.
const RSA_OPERATIONS: u32 = 500;

/// A configuration under which one bench is no flood.
const GENEROUS: &str = "
    [limits]
    ids-per-key-max = 1000000
    clusters-max = 4000000
    [connections]
    max-per-address = 16384
    unproven-hellos-per-second = 1000000
    unproven-hellos-burst = 1000000
    [modern]
    connections-per-key-max = 16384
    watches-per-key-max = 16384
    handshakes-per-second = 1000000
    handshakes-burst = 1000000
    requests-per-second = 1000000
    requests-burst = 1000000
    address-requests-per-second = 1000000
    address-requests-burst = 1000000
    registrations-per-second = 1000000
    registrations-burst = 1000000
";

/// The binary as a user runs it, killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where its credentials are.
    pub(crate) file: PathBuf,
    pub(crate) credentials: Credentials,
    pub(crate) started_in: Duration,
}

impl Server {
    /// One to which a single bench is no flood.
    pub(crate) fn generous(data: &Path) -> Self {
        Self::start(data, GENEROUS, &[])
    }

    /// One that keeps everything in `data`, with this configuration file and these flags.
    pub(crate) fn start(data: &Path, config: &str, flags: &[&str]) -> Self {
        let file = data.join("bench.toml");
        std::fs::write(&file, config).unwrap();
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_xlreg"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--config")
            .arg(file)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("ready"), "{ready:?}");
        let started_in = began.elapsed();
        let file = data.join("regCred.dat");
        let text = std::fs::read_to_string(&file).unwrap();
        Self { child, file, credentials: Credentials::parse(&text).unwrap(), started_in }
    }

    /// CPU time so far, user and system, in seconds, of the threads whose names start so.
    pub(crate) fn cpu(&self, name: &str) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_thread = |dir: PathBuf| {
            if !std::fs::read_to_string(dir.join("comm")).unwrap().starts_with(name) {
                return 0.0;
            }
            // Nanoseconds on a core; `stat` has only ticks of 10 ms.
            let schedstat = std::fs::read_to_string(dir.join("schedstat")).unwrap();
            schedstat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
        };
        threads.map(|thread| of_thread(thread.unwrap().path())).sum()
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
    }

    /// Open files and connections.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Seconds of CPU that one RSA-2048 private operation takes, as the server does it, while all cores
/// do the same: as busy as the server finds them.
pub(crate) fn rsa_private_operation() -> f64 {
    let key = PrivateKey::generate().unwrap();
    let secrets = Secrets::from_random(random());
    let (_, packet) =
        ClientHello::new(Dialect::V1_9, key.public(), Version::CURRENT, secrets).unwrap();
    let threads = thread::available_parallelism().unwrap().get();
    let work = || {
        let before = thread_cpu();
        for _ in 0..RSA_OPERATIONS {
            Hello::open(&key, &packet).map(|_| ()).unwrap();
        }
        (thread_cpu() - before) / f64::from(RSA_OPERATIONS)
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum::<f64>() / threads as f64
    })
}

/// CPU seconds of this thread so far.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}
