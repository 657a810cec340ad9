//! The real binary under load, killed with SIGKILL at random moments, and on a disk that fails:
//! `just kills 500`, which is `cargo bench -p xlreg-cli --bench kills -- 500`.
//!
//! | argument | default | |
//! |---|---|---|
//! | `N` | 10 | how often it is killed |
//! | `--stored K` | 2000 | clusters that are there before the first kill |
//! | `--failures F` | 2 | failures of each kind of the disk |
//! | `--seed S` | from the clock | chooses what clients do, and when it is killed; not how threads run |
//!
//! Many clients over both doors register, create, join, leave and redeem tokens all the while. What
//! they were answered is noted, and held against the registry after each restart, over the wire, and at
//! the end in its file: all that was acknowledged is there, nothing that was refused is, and no rank has
//! moved. The first thing that is not so ends it with an error. docs/reliability.md tells more.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

mod dice;
mod disk;
mod load;
mod model;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use xlreg_core::limits::Limits;
use xlreg_core::{ClusterId, Command, Fingerprint};
use xlreg_proto::keys::random;
use xlreg_store::{Engine as _, LocalEngine};

use crate::dice::Dice;
use crate::disk::Shim;
use crate::load::Load;
use crate::server::{Server, Start};

/// The longest that a life lasts, once the server is ready.
const LIFE_MAX: Duration = Duration::from_millis(500);

/// The longest that a server lives that is not to get ready.
const BIRTH_MAX: Duration = Duration::from_millis(150);

/// What most starts may take of a core.
const START_CPU_MAX: Duration = Duration::from_secs(1);

/// In how many lives the file itself is looked over once, as the kill has left it.
const LIVES_A_CHECK: u32 = 50;

struct Options {
    kills: u32,
    stored: u32,
    failures: u32,
    seed: u64,
}

impl Options {
    fn from_args() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut options = Self { kills: 10, stored: 2_000, failures: 2, seed: now.as_secs() };
        // cargo passes --bench.
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|text| text.parse::<u32>().ok());
            match arg.as_str() {
                "--stored" => options.stored = number().expect("--stored K"),
                "--failures" => options.failures = number().expect("--failures F"),
                "--seed" => options.seed = number().expect("--seed S").into(),
                kills => options.kills = kills.parse().expect("how often to kill"),
            }
        }
        options
    }
}

fn main() {
    let options = Options::from_args();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut run = Run::new(&runtime, scratch.path().join("registry"), &options);
    run.kills(options.kills);
    if options.failures > 0 {
        run.failures(options.failures);
    }
    run.look_at_everything();
    println!("nothing acknowledged is lost, nothing refused is there, no rank has moved");
}

/// A registry, its clients, and what has been measured so far.
struct Run<'a> {
    runtime: &'a Runtime,
    data: PathBuf,
    listen: String,
    load: Arc<Load>,
    clients: JoinSet<()>,
    dice: Dice,
    stored: u32,
    starts: Vec<Start>,
}

impl<'a> Run<'a> {
    fn new(runtime: &'a Runtime, data: PathBuf, options: &Options) -> Self {
        println!("seed {}; making keys, and storing {} clusters", options.seed, options.stored);
        // The first start makes the keys, and finds a port that stays the same.
        let server =
            Server::start(&data, &own_address(), None).unwrap_or_else(|end| panic!("{end}"));
        let listen = server.address.clone();
        server.stop();
        runtime.block_on(fill(&data, options.stored));
        let load = Arc::new(Load::new(&data.join("regCred.dat")));
        let mut clients = JoinSet::new();
        for number in 0..load::CLIENTS {
            let (load, seed) = (Arc::clone(&load), options.seed ^ ((number as u64 + 1) << 32));
            clients.spawn_on(async move { load.go_on(Dice::new(seed)).await }, runtime.handle());
        }
        let dice = Dice::new(options.seed);
        let (stored, starts) = (options.stored, Vec::new());
        Self { runtime, data, listen, load, clients, dice, stored, starts }
    }

    fn kills(&mut self, kills: u32) {
        let began = Instant::now();
        let mut unborn = 0;
        for life in 0..kills {
            // One in eight dies while it starts: reading, recovering, or making its credentials.
            if self.dice.one_in(8) {
                let span = self.dice.less_than(BIRTH_MAX);
                server::start_and_kill(&self.data, &self.listen, span);
                unborn += 1;
                continue;
            }
            let server = self.start(None);
            self.look_at_news();
            std::thread::sleep(self.dice.less_than(LIFE_MAX));
            server.kill();
            self.refuse_lost_clients();
            if life % LIVES_A_CHECK == 0 {
                self.look_at_file();
            }
        }
        let server = self.start(None);
        self.look_at_news();
        server.stop();
        println!(
            "{kills} kills in {:.0} s, {unborn} of them amid a start",
            began.elapsed().as_secs_f64()
        );
        println!("{}", self.load.counts());
        self.tell_starts();
    }

    /// Lets each kind of failure of the disk come at some moment.
    fn failures(&mut self, each: u32) {
        let Some(shim) = Shim::build(self.data.parent().unwrap()) else {
            println!("no C compiler: the disk is not made to fail");
            return;
        };
        for failure in disk::FAILURES {
            let mut said = Vec::new();
            for _ in 0..each {
                let after = self.dice.below(failure.calls);
                said.push(self.fail(&shim.plan(failure, after), failure.says));
            }
            println!(
                "{}: {each} times, each time the server ended with 1, and said so: {}",
                failure.name, said[0]
            );
        }
    }

    /// A life that the disk ends; gives the line that the server ended with.
    fn fail(&mut self, plan: &disk::Plan, says: &str) -> String {
        let end = match Server::start(&self.data, &self.listen, Some(plan)) {
            Ok(server) => server.ended(),
            Err(end) => end,
        };
        assert_eq!(end.code, Some(1), "{}", end.said);
        let line = end.said.lines().find(|line| line.contains(says));
        let line = line.unwrap_or_else(|| panic!("{says:?} is not in: {}", end.said));
        // Without the time, and without what to do about it.
        let line = line.find("cannot ").map_or(line, |start| &line[start..]);
        let line = line.split(". ").next().unwrap_or(line).to_owned();
        // On a disk that is well again.
        let server = self.start(None);
        self.look_at_news();
        server.stop();
        line
    }

    fn start(&mut self, plan: Option<&disk::Plan>) -> Server {
        let server = Server::start(&self.data, &self.listen, plan);
        let server = server.unwrap_or_else(|end| panic!("does not start: {end}"));
        self.starts.push(server.start);
        server
    }

    /// Holds what has happened since the last time against what the registry says, while nobody
    /// else asks it for anything.
    fn look_at_news(&mut self) {
        self.runtime.block_on(self.load.look_at_news()).unwrap_or_else(|wrong| panic!("{wrong}"));
        self.refuse_lost_clients();
    }

    /// A client ends only over what must not happen.
    fn refuse_lost_clients(&mut self) {
        if let Some(ended) = self.clients.try_join_next() {
            panic!("a client has ended: {ended:?}");
        }
    }

    fn look_at_file(&self) {
        let report = xlreg_store::check(&self.data).unwrap();
        assert!(report.is_sound(), "{report:?}");
    }

    /// Holds all that has ever happened against the file.
    fn look_at_everything(&mut self) {
        self.clients.abort_all();
        self.runtime.block_on(async { while self.clients.join_next().await.is_some() {} });
        let home = xlreg_server::Home::open(&self.data, None, || "xlReg".parse().unwrap()).unwrap();
        let engine = LocalEngine::open(&self.data, home.id(), Limits::default()).unwrap();
        let counts = self.load.counts();
        let looked = self.runtime.block_on(self.load.look_at_everything(&engine, self.stored));
        let looked = looked.unwrap_or_else(|wrong| panic!("{wrong}"));
        println!("{counts}; {looked}");
    }

    fn tell_starts(&self) {
        let of = |part: fn(&Start) -> Duration| {
            let mut all: Vec<_> = self.starts.iter().map(part).collect();
            all.sort();
            let at =
                |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
            format!("median {:.0} ms, p99 {:.0} ms, worst {:.0} ms", at(0.5), at(0.99), at(1.0))
        };
        println!(
            "{} starts after a kill, with {} clusters and more:",
            self.starts.len(),
            self.stored
        );
        println!("  to the ready line: {}", of(|start| start.clock));
        println!("  of that on a core: {}", of(|start| start.cpu));
        // By the clock it is the machine's affair, too; and so is the worst of many.
        let slow = self.starts.iter().filter(|start| start.cpu > START_CPU_MAX).count();
        assert!(2 * slow < self.starts.len(), "{slow} starts took more than {START_CPU_MAX:?}");
    }
}

/// An address that no other run has, so that its port is still free after a kill.
fn own_address() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.77:0", 1 + pid % 250, pid / 250 % 250)
}

/// Puts clusters straight into the store.
async fn fill(data: &Path, clusters: u32) {
    let home = xlreg_server::Home::open(data, None, || "xlReg".parse().unwrap()).unwrap();
    let limits = Limits { clusters_per_key_max: usize::MAX, ..Limits::default() };
    let engine = Arc::new(LocalEngine::open(data, home.id(), limits).unwrap());
    let mut tasks = JoinSet::new();
    let owner = Fingerprint::from_bytes(random());
    for task in 0..256 {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move {
            for n in (task..clusters).step_by(256) {
                let name = format!("stored_{n}").parse().unwrap();
                let new = xlreg::NewCluster::open(name, 3, 1);
                let fresh = ClusterId::from_bytes(random());
                let command = Command::Create { new, owner, fresh, strict: true };
                engine.apply(command).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    engine.close().await.unwrap();
}
