//! The binary as a user runs it, with its defaults.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xlreg::Credentials;

/// A server that is ready; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Where its credentials are.
    pub(crate) file: PathBuf,
    pub(crate) credentials: Credentials,
}

impl Server {
    /// With this configuration file, or what of it differs from the defaults.
    pub(crate) fn start(dir: &Path, config: &str) -> Self {
        let file = dir.join("config.toml");
        std::fs::write(&file, config).unwrap();
        let data = dir.join("registry");
        let mut child = Command::new(env!("CARGO_BIN_EXE_xlreg"))
            .args(["serve", "--log", "error", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .arg("--config")
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("ready"), "{ready:?}");
        let file = data.join("regCred.dat");
        let text = std::fs::read_to_string(&file).unwrap();
        Self { child, file, credentials: Credentials::parse(&text).unwrap() }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> f64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
    }

    /// Seconds of a core that the threads which open hellos have taken so far.
    pub(crate) fn rsa(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of_thread = |dir: PathBuf| {
            if !std::fs::read_to_string(dir.join("comm")).unwrap().starts_with("xlreg-rsa") {
                return 0.0;
            }
            let schedstat = std::fs::read_to_string(dir.join("schedstat")).unwrap();
            schedstat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
        };
        threads.map(|thread| of_thread(thread.unwrap().path())).sum()
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
