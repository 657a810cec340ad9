//! What durability costs: commits a second, start-up time, memory. Each figure on a line.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints its figures, and ends at the first error"
)]

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Builder;
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::{
    Admission, ClusterId, ClusterKey, Command, Fingerprint, Member, NodeId, PublicKey,
};
use xlreg_store::{Engine, LocalEngine};

const REGISTRY: NodeId = NodeId::from_bytes([7; 20]);
const TASKS: u64 = 64;
const NODES: u64 = 100_000;
const CLUSTERS: u64 = 250;
const CLUSTER_SIZE: u64 = 64;
/// What a 2048-bit key takes.
const KEY_BYTES: usize = 294;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, mode, dir, count, what] = arguments.as_slice()
        && mode == "start-up"
    {
        return start_up(Path::new(dir), count.parse().unwrap(), what);
    }
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(dir.path()));
    let start = Instant::now();
    runtime.block_on(register(&engine));
    let rate = NODES as f64 / start.elapsed().as_secs_f64();
    println!("grouped commits, {TASKS} tasks: {rate:.0} registrations/s");
    runtime.block_on(engine.close()).unwrap();
    start_up_apart(dir.path(), NODES, "nodes");

    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    runtime.block_on(join(&engine));
    runtime.block_on(engine.close()).unwrap();
    start_up_apart(dir.path(), CLUSTERS * CLUSTER_SIZE, "members");
}

/// In a process of its own, whose memory holds nothing else yet.
fn start_up_apart(dir: &Path, count: u64, what: &str) {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([OsStr::new("start-up"), dir.as_ref()])
        .args([&count.to_string(), what])
        .status();
    assert!(status.unwrap().success());
}

fn open(dir: &Path) -> LocalEngine {
    LocalEngine::open(dir, REGISTRY, Limits::default()).unwrap()
}

fn start_up(dir: &Path, count: u64, what: &str) {
    let before = resident_bytes();
    let start = Instant::now();
    let engine = black_box(open(dir));
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let each = resident_bytes().saturating_sub(before) as f64 / count as f64;
    println!("start-up, {count} {what}: {milliseconds:.0} ms, {each:.0} bytes of memory each");
    drop(engine);
}

async fn register(engine: &Arc<LocalEngine>) {
    let tasks = (0..TASKS).map(|task| {
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            for number in (task..NODES).step_by(TASKS as usize) {
                let command = Command::Register {
                    claimed: None,
                    fresh: NodeId::from_bytes(spread(number)),
                    sig_key: Fingerprint::from_bytes(spread(number)),
                    comms_key: None,
                };
                engine.apply(command).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn join(engine: &LocalEngine) {
    for number in 0..CLUSTERS {
        let id = ClusterId::from_bytes(spread(number));
        let name = format!("cluster_{number}").parse().unwrap();
        let create = Command::Create {
            new: NewCluster::open(name, CLUSTER_SIZE as u32, 1),
            owner: Fingerprint::from_bytes(spread(number)),
            fresh: id,
            strict: false,
        };
        engine.apply(create).await.unwrap();
        for rank in 0..CLUSTER_SIZE {
            let cluster = ClusterKey::Id(id);
            let member = Arc::new(member(number * CLUSTER_SIZE + rank));
            let admission = Admission::OldWire;
            engine.apply(Command::Join { cluster, member, admission }).await.unwrap();
        }
    }
}

fn member(number: u64) -> Member {
    let key = PublicKey::from_checked(
        &spread::<KEY_BYTES>(number),
        Fingerprint::from_bytes(spread(number)),
    );
    let comms = PublicKey::from_checked(
        &spread::<KEY_BYTES>(number),
        Fingerprint::from_bytes(spread(!number)),
    );
    Member {
        id: NodeId::from_bytes(spread(number)),
        name: format!("node_{number}").parse().unwrap(),
        attrs: 0,
        comms_key: comms,
        sig_key: key,
        endpoints: vec!["192.0.2.1:4000".parse().unwrap()],
        entry_signature: None,
    }
}

/// Bytes that look random and differ for each number.
fn spread<const N: usize>(number: u64) -> [u8; N] {
    let mut state = number;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    })
}

/// The memory of this process that is really there; 0 where the system doesn't tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}
