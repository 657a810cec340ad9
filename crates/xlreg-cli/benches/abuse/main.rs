//! A registry under abuse, while honest members join: `just abuse`, which is
//! `cargo bench -p xlreg-cli --bench abuse`.
//!
//! | argument | default | |
//! |---|---|---|
//! | `--idle N` | 10000 | connections that say nothing |
//! | `--slow N` | 2000 | connections that say a byte a second |
//! | `--garbage N` | 500 | connections that say rubbish |
//! | `--pause MS` | 1000 | how long one that was cut off stays away |
//! | `--seconds S` | 20 | for how long, and how long it is quiet before and after |
//! | `--soak M` | | minutes of abuse in its place |
//! | `--timing N` | 300 | samples of each kind for the timing of failures; 0 for none |
//!
//! The attackers are a process of their own, at some hundred loopback addresses; whoever is cut off comes
//! again. Honest members join over both doors before, meanwhile and after. It fails if one of them is
//! refused or has no answer, if failures at the old door are answered, or clearly told apart by their
//! time, if the server ends, or if its memory or descriptors have no bound or do not come back. How
//! long a join takes is told, beside the quiet figures of the same run, and not judged.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

mod attack;
mod honest;
#[path = "../common/server.rs"]
mod server;
mod timing;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::attack::Attackers;
use crate::honest::Honest;
use crate::server::Server;

/// How much of what the attackers want must be open at once for the abuse to count.
const ENOUGH: f64 = 0.75;

/// How long the attackers may take for that, and the server to be rid of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory of a connection at most; a silent one takes some KiB, one in a handshake some tens.
const CONNECTION_BYTES_MAX: f64 = 64.0 * 1024.0;

/// Memory that comes and goes with the honest clients.
const SPARE_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// What garbage has logged is nobody's to read.
const QUIET: [&str; 2] = ["--log", "error"];

struct Options {
    attackers: Attackers,
    span: Duration,
    soak: Option<Duration>,
    timing: usize,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Self {
            attackers: Attackers {
                idle: 10_000,
                slow: 2_000,
                garbage: 500,
                pause: Duration::from_secs(1),
            },
            span: Duration::from_secs(20),
            soak: None,
            timing: 300,
        };
        // cargo passes --bench.
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let number: usize = args.next().and_then(|text| text.parse().ok()).expect("a number");
            match arg.as_str() {
                "--idle" => options.attackers.idle = number,
                "--slow" => options.attackers.slow = number,
                "--garbage" => options.attackers.garbage = number,
                "--pause" => options.attackers.pause = Duration::from_millis(number as u64),
                "--seconds" => options.span = Duration::from_secs(number as u64),
                "--soak" => options.soak = Some(Duration::from_secs(60 * number as u64)),
                "--timing" => options.timing = number,
                other => panic!("{other}: see the head of benches/abuse/main.rs"),
            }
        }
        options
    }
}

fn main() {
    raise_limit();
    if std::env::args().nth(1).as_deref() == Some("--attack") {
        attack::main();
        return;
    }
    let options = Options::from_args();
    if options.timing > 0 {
        timing::compare(options.timing);
    }
    if options.attackers.all() > 0 {
        abuse(&options);
    }
}

/// As the server does it. What is beyond it fails, and is said.
fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn abuse(options: &Options) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), "", &QUIET);
    let honest = Honest::new(&server.credentials);
    let mut gauges = vec![Gauge::of(&server, "quiet before", 0)];
    let quiet = honest.join_for(options.span);
    gauges.push(Gauge::of(&server, "quiet, joins", 0));

    let wanted = options.attackers.all();
    let attack = Attack::start(&options.attackers, &server.file);
    attack.until_open((wanted as f64 * ENOUGH) as usize);
    let span = options.soak.unwrap_or(options.span);
    let (abused, mut meanwhile) = thread::scope(|scope| {
        let joins = scope.spawn(|| honest.join_for(span));
        let mut gauges = Vec::new();
        let (began, beat) = (Instant::now(), span / 10);
        while !joins.is_finished() {
            let name = format!("abuse, {:.0} s", began.elapsed().as_secs_f64());
            gauges.push(Gauge::of(&server, &name, attack.open()));
            let until = Instant::now() + beat;
            while Instant::now() < until && !joins.is_finished() {
                thread::sleep(Duration::from_millis(100));
            }
        }
        (joins.join().unwrap(), gauges)
    });
    gauges.append(&mut meanwhile);
    attack.stop();

    let base = gauges[1].descriptors;
    let began = Instant::now();
    while server.descriptors() > base + 16 {
        assert!(began.elapsed() < PATIENCE, "{} descriptors stay open", server.descriptors());
        thread::sleep(Duration::from_millis(100));
    }
    let after = honest.join_for(options.span);
    gauges.push(Gauge::of(&server, "quiet after", 0));
    Gauge::tell(&gauges, wanted);
    for (label, joins) in [("before", &quiet), ("abuse", &abused), ("after", &after)] {
        joins.tell(label, &quiet);
    }
    server.stop();
}

/// What the server takes at some moment.
struct Gauge {
    when: String,
    attackers: usize,
    memory: f64,
    descriptors: usize,
    rsa: f64,
}

impl Gauge {
    fn of(server: &Server, when: &str, attackers: usize) -> Self {
        let (memory, descriptors) = (server.memory(), server.descriptors());
        Self { when: when.to_owned(), attackers, memory, descriptors, rsa: server.cpu("xlreg-rsa") }
    }

    /// Prints them, and sees to it that they have bounds.
    fn tell(gauges: &[Self], attackers: usize) {
        println!(
            "{:<16} {:>10} {:>12} {:>12} {:>12}",
            "", "attackers", "memory MiB", "descriptors", "RSA, core s"
        );
        for Self { when, attackers, memory, descriptors, rsa } in gauges {
            let memory = memory / 1024.0 / 1024.0;
            println!("{when:<16} {attackers:>10} {memory:>12.1} {descriptors:>12} {rsa:>12.2}");
        }
        let most = gauges.iter().map(|gauge| gauge.memory).fold(0.0, f64::max) - gauges[0].memory;
        let allowed = attackers as f64 * CONNECTION_BYTES_MAX + SPARE_BYTES;
        assert!(most < allowed, "{most:.0} bytes more than at first: {allowed:.0} would do");
    }
}

/// The attackers' process, and how many connections it has.
struct Attack {
    child: Child,
    open: Arc<AtomicUsize>,
}

impl Attack {
    fn start(attackers: &Attackers, credentials: &Path) -> Self {
        let Attackers { idle, slow, garbage, pause } = attackers;
        let pause = pause.as_millis() as usize;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--attack")
            .arg(credentials)
            .args([idle, slow, garbage, &pause].map(ToString::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let (heard, told) = (child.stdout.take().unwrap(), Arc::clone(&open));
        thread::spawn(move || Self::listen(heard, &told));
        Self { child, open }
    }

    fn listen(heard: ChildStdout, open: &AtomicUsize) {
        for line in BufReader::new(heard).lines() {
            let count = line.ok().and_then(|line| line.parse().ok()).unwrap_or(0);
            open.store(count, Ordering::Relaxed);
        }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn until_open(&self, enough: usize) {
        let began = Instant::now();
        while self.open() < enough {
            assert!(began.elapsed() < PATIENCE, "only {} of {enough} are open", self.open());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
