//! What the store takes, and what it costs to have it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use xlreg::{ClusterKey, NewCluster, NodeId};
use xlreg_core::admission::Admission;
use xlreg_core::limits::Limits;
use xlreg_core::{ClusterId, Command, Fingerprint, Member};
use xlreg_proto::keys::{PrivateKey, random};
use xlreg_server::Home;
use xlreg_store::{Engine as _, LocalEngine};

use crate::chart::{Chart, Curve};
use crate::server::Server;
use crate::{percentiles, runtime};

/// Joins at a time.
const AT_ONCE: [usize; 6] = [1, 4, 16, 64, 256, 1024];

/// Joins that each point is measured with: enough for the log to be moved into the database meanwhile,
/// as it is time and again.
const JOINS: usize = 8192;

/// Who joins. What belongs to a key is kept in one record, and thousands of clusters of one key are
/// more than a registry takes.
const KEYS: usize = 64;

/// Flushes that the disk is timed with.
const FLUSHES: u32 = 200;

/// Nodes that are stored, and as many clusters.
const STORED: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Joins that are on disk, straight into the store.
pub(crate) fn joins() -> Chart {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let flush = flush(dir.path());
    println!("one flush of the disk: {:.2} ms", flush * 1e3);
    let keys: Vec<_> = (0..KEYS).map(|_| PrivateKey::generate().unwrap()).collect();
    let engine = LocalEngine::open(dir.path(), NodeId::from_bytes([1; 20]), many()).unwrap();
    let engine = Arc::new(engine);
    let (mut rates, mut limit) = (Vec::new(), Vec::new());
    for at_once in AT_ONCE {
        let ready = runtime.block_on(clusters(&engine, &keys));
        let began = Instant::now();
        let mut times = runtime.block_on(join_all(&engine, ready, at_once));
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        let (median, p99) = percentiles(&mut times);
        println!(
            "{at_once:>4} at a time: {rate:>6.0} joins/s on disk, where a flush for each allows {:.0}; median \
             {median:.2} ms, p99 {p99:.2} ms",
            1.0 / flush
        );
        rates.push((at_once as f64, rate));
        limit.push((at_once as f64, 1.0 / flush));
    }
    runtime.block_on(engine.close()).unwrap();
    Chart {
        title: "Joins into the store, acknowledged when they are on disk",
        across: "joins at a time",
        up: "joins a second",
        curves: vec![
            Curve::new("joins", rates),
            Curve::limit("a flush of the disk for each", limit),
        ],
    }
}

/// Room for what is measured.
fn many() -> Limits {
    let most = 100_000_000;
    Limits {
        nodes_max: most,
        clusters_max: most,
        members_max: most,
        ids_per_key_max: most,
        clusters_per_key_max: most,
        memberships_per_key_max: most,
    }
}

/// Seconds that one write takes to be on disk.
fn flush(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("flushed")).unwrap();
    let began = Instant::now();
    for _ in 0..FLUSHES {
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    began.elapsed().as_secs_f64() / f64::from(FLUSHES)
}

/// Clusters, and who joins each.
async fn clusters(
    engine: &Arc<LocalEngine>,
    keys: &[PrivateKey],
) -> Vec<(ClusterKey, Arc<Member>)> {
    let mut making = JoinSet::new();
    for key in keys.iter().cycle().take(JOINS) {
        let (engine, key) = (Arc::clone(engine), key.public().clone());
        making.spawn(async move {
            let id = NodeId::from_bytes(random());
            let sig_key = key.fingerprint();
            let comms_key = Some(key.clone());
            let claimed = Some(id);
            let register = Command::Register { claimed, fresh: id, sig_key, comms_key };
            engine.apply(register).await.unwrap();
            let cluster = create(&engine, sig_key).await;
            let member = Member {
                id,
                name: "m".parse().unwrap(),
                attrs: 0,
                comms_key: key.clone(),
                sig_key: key,
                endpoints: vec!["127.0.0.1:4000".parse().unwrap()],
                entry_signature: None,
            };
            (ClusterKey::Id(cluster), Arc::new(member))
        });
    }
    making.join_all().await
}

async fn create(engine: &LocalEngine, owner: Fingerprint) -> ClusterId {
    let fresh = ClusterId::from_bytes(random());
    let new = NewCluster::open(format!("c{fresh}").parse().unwrap(), 3, 1);
    engine.apply(Command::Create { new, owner, fresh, strict: true }).await.unwrap();
    fresh
}

/// What each took.
async fn join_all(
    engine: &Arc<LocalEngine>,
    ready: Vec<(ClusterKey, Arc<Member>)>,
    at_once: usize,
) -> Vec<Duration> {
    let share = ready.len().div_ceil(at_once);
    let mut joining = JoinSet::new();
    for share in ready.chunks(share) {
        let (engine, share) = (Arc::clone(engine), share.to_vec());
        joining.spawn(async move {
            let mut times = Vec::new();
            for (cluster, member) in share {
                let began = Instant::now();
                let admission = Admission::Key;
                engine.apply(Command::Join { cluster, member, admission }).await.unwrap();
                times.push(began.elapsed());
            }
            times
        });
    }
    joining.join_all().await.into_iter().flatten().collect()
}

/// Starting with nodes and as many clusters stored.
pub(crate) fn stored() -> Chart {
    let (mut starts, mut reads, mut disks, mut memories) = (vec![], vec![], vec![], vec![]);
    for count in STORED {
        let dir = tempfile::tempdir().unwrap();
        let empty = {
            drop(Server::generous(dir.path()));
            Server::generous(dir.path()).memory()
        };
        let filled = fill(dir.path(), count);
        let started = Server::generous(dir.path());
        let start = started.started_in.as_secs_f64();
        let memory = started.memory() - empty;
        drop(started);
        let (disk, read) = read_all(dir.path());
        println!(
            "{count:>7} nodes and clusters: stored in {filled:.1} s; start {:.0} ms, reading the file takes \
             {:.0}; {:.1} MB of memory, {:.1} MB on disk",
            start * 1e3,
            read * 1e3,
            memory / 1e6,
            disk / 1e6
        );
        let at = f64::from(count);
        starts.push((at, start * 1e3));
        reads.push((at, read * 1e3));
        disks.push((at, disk / 1e6));
        memories.push((at, memory.max(1e4) / 1e6));
    }
    Chart {
        title: "A registry with nodes and as many clusters stored",
        across: "nodes, and as many clusters",
        up: "ms, or MB",
        curves: vec![
            Curve::new("ms from start to ready", starts),
            Curve::new("MB of memory", memories),
            Curve::new("MB on disk", disks),
            Curve::limit("ms to read the file", reads),
        ],
    }
}

/// Stores them; seconds that it took.
fn fill(dir: &Path, count: u32) -> f64 {
    const TASKS: u32 = 512;
    let runtime = runtime();
    let home = Home::open(dir, None, || "xlReg".parse().unwrap()).unwrap();
    let engine = Arc::new(LocalEngine::open(dir, home.id(), many()).unwrap());
    let began = Instant::now();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move {
                for _ in (task..count).step_by(TASKS as usize) {
                    let (fresh, sig_key) =
                        (NodeId::from_bytes(random()), Fingerprint::from_bytes(random()));
                    let register =
                        Command::Register { claimed: None, fresh, sig_key, comms_key: None };
                    engine.apply(register).await.unwrap();
                    create(&engine, sig_key).await;
                }
            });
        }
        tasks.join_all().await;
        engine.close().await.unwrap();
    });
    began.elapsed().as_secs_f64()
}

/// The bytes of all files, and the seconds that it takes to read them.
fn read_all(dir: &Path) -> (f64, f64) {
    let began = Instant::now();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            let mut file = File::open(entry.path()).unwrap();
            loop {
                match file.read(&mut buffer).unwrap() {
                    0 => break,
                    count => bytes += count,
                }
            }
        }
    }
    (bytes as f64, began.elapsed().as_secs_f64())
}
