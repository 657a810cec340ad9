//! The binary as a user runs it.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disk::Plan;

/// What a start took.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// By the clock, from `exec` to the ready line.
    pub(crate) clock: Duration,
    /// Of it, on a core; the rest is waiting, for the disk or behind other programs.
    pub(crate) cpu: Duration,
}

/// A server that is ready; killed when dropped.
pub(crate) struct Server {
    child: Child,
    said: Option<JoinHandle<String>>,
    pub(crate) address: String,
    pub(crate) start: Start,
}

/// How a server ended by itself.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}: {}", self.code, self.said)
    }
}

fn spawn(data: &Path, listen: &str, plan: Option<&Plan>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlreg"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("XLREG_") {
            command.env_remove(name);
        }
    }
    if let Some(plan) = plan {
        command.envs(plan.variables());
    }
    let config = data.with_file_name("generous.toml");
    std::fs::write(&config, GENEROUS).unwrap();
    command
        .args(["serve", "--log", "warn", "--listen", listen, "--data"])
        .arg(data)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A configuration under which a few clients in a hurry are no flood.
const GENEROUS: &str = "
    [limits]
    ids-per-key-max = 1000000
    clusters-per-key-max = 1000000
    memberships-per-key-max = 1000000
    [modern]
    handshakes-per-second = 1000000
    handshakes-burst = 1000000
    requests-per-second = 1000000
    requests-burst = 1000000
    registrations-per-second = 1000000
    registrations-burst = 1000000
";

/// A server that is killed before it is ready, most likely.
pub(crate) fn start_and_kill(data: &Path, listen: &str, after: Duration) {
    let mut child = spawn(data, listen, None);
    thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

impl Server {
    /// Starts it, and waits until it is ready, or has ended.
    pub(crate) fn start(data: &Path, listen: &str, plan: Option<&Plan>) -> Result<Self, End> {
        let began = Instant::now();
        let mut child = spawn(data, listen, plan);
        let mut stderr = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut said = String::new();
            let _cut = stderr.read_to_string(&mut said);
            said
        });
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let clock = began.elapsed();
        let cpu = cpu(child.id());
        let address = ready.strip_prefix("xlreg: ready on ").and_then(|rest| rest.split_once(','));
        let Some((address, _)) = address else {
            let code = child.wait().unwrap().code();
            return Err(End { code, said: said.join().unwrap() });
        };
        let address = address.to_owned();
        Ok(Self { child, said: Some(said), address, start: Start { clock, cpu } })
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let end = self.end();
        assert!(!end.said.contains("panicked"), "{end}");
        assert_eq!(end.code, None, "it had ended before it was killed: {end}");
    }

    pub(crate) fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        let end = self.end();
        assert_eq!(end.code, Some(0), "{end}");
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> End {
        let end = self.end();
        assert!(!end.said.contains("panicked"), "{end}");
        end
    }

    fn end(&mut self) -> End {
        let code = self.child.wait().unwrap().code();
        let said = self.said.take().map_or_else(String::new, |said| said.join().unwrap());
        End { code, said }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// CPU time of all threads of a process so far.
fn cpu(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let schedstat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
