//! The speed of links between members: `cargo bench -p xlreg --bench links`.
//!
//! Each figure stands beside what limits it, measured in the same run, since machines differ and are
//! shared. It reads `/proc`, so it needs Linux. docs/performance.md has figures and what they mean. An
//! argument picks the parts whose names contain it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

mod tunnel;

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use xlreg::testing::TestCluster;
use xlreg::{Peers, PrivateKey};

/// Bytes that go through a stream in a round, and how many are written at once.
const STREAM_BYTES: u64 = 512 * 1024 * 1024;
const WRITE_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 256 * 1024;

/// Bytes of a TLS record.
const RECORD_BYTES: usize = 16 * 1024;

/// Rounds of each kind, one kind after another, so that a neighbour's noise meets all of them.
const ROUNDS: usize = 9;

/// Handshakes of each kind.
const HANDSHAKES: usize = 600;

/// RSA operations that tell how long one takes.
const RSA_OPERATIONS: u32 = 300;

fn main() {
    // cargo passes --bench.
    let picked: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let parts: [(&str, fn()); 4] = [
        ("throughput", throughput),
        ("handshakes", handshakes),
        ("tunnel latency", tunnel::latency),
        ("tunnel throughput", tunnel::throughput),
    ];
    for (name, part) in parts {
        if picked.is_empty() || picked.iter().any(|wanted| name.contains(wanted.as_str())) {
            println!("== {name}");
            part();
        }
    }
}

/// Two members of one cluster, each with a thread of its own for all that it does.
struct Pair {
    _cluster: TestCluster,
    near: Peers,
    far: Peers,
    socket: std::net::TcpListener,
}

fn pair(runtime: &Runtime) -> Pair {
    runtime.block_on(async {
        let cluster = TestCluster::builder().size(2).start().await.unwrap();
        let roster = cluster.roster();
        let socket = cluster.member(1).take_std_listener(0).unwrap();
        let near = Peers::new(cluster.member(0).identity(), roster).await.unwrap();
        let far = Peers::new(cluster.member(1).identity(), roster).await.unwrap();
        Pair { near, far, socket, _cluster: cluster }
    })
}

/// A stream from one thread to another: by plain TCP, by a link, and what AES-128-GCM can do.
fn throughput() {
    let runtime = multi();
    let pair = pair(&runtime);
    let (mut plain, mut linked, mut aes) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        plain.push(by_tcp());
        linked.push(by_link(&pair));
        aes.push(by_aes());
    }
    let of = |rounds: &[Round], part: fn(&Round) -> f64| {
        median(&rounds.iter().map(part).collect::<Vec<_>>())
    };
    let say = |label: &str, rounds: &[Round]| {
        let (rate, sender, receiver) =
            (of(rounds, |r| r.rate), of(rounds, |r| r.sender), of(rounds, |r| r.receiver));
        println!(
            "{label:<11}: {:.2} GB/s; CPU of sender and receiver {sender:.3} and {receiver:.3} ns a \
             byte, so {:.2} GB/s with a core each",
            rate / 1e9,
            1.0 / sender.max(receiver),
        );
        sender + receiver
    };
    let (plain, aes) = (say("plain TCP", &plain), say("AES-GCM", &aes));
    let linked = say("a link", &linked);
    println!(
        "CPU of a link: {:.2} of plain TCP's, {:.2} of what TCP and AES-GCM take together",
        linked / plain,
        linked / (plain + aes),
    );
}

/// How one stream went: bytes a second, and CPU of each side in nanoseconds a byte, which a busy
/// machine disturbs less.
struct Round {
    rate: f64,
    sender: f64,
    receiver: f64,
}

/// CPU seconds of this thread so far; `stat` has only ticks of 10 ms.
fn thread_cpu() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// The same of all threads of this process that live.
fn process_cpu() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of_thread = |path: std::path::PathBuf| {
        // One may have ended in between.
        let schedstat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        schedstat.split_whitespace().next().map_or(0.0, |ns| ns.parse::<f64>().unwrap() / 1e9)
    };
    threads.map(|thread| of_thread(thread.unwrap().path())).sum()
}

fn by_tcp() -> Round {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    stream(
        move || async move { TcpStream::connect(address).await.unwrap() },
        move || async move { accept(listener).await.accept().await.unwrap().0 },
    )
}

fn by_link(pair: &Pair) -> Round {
    let (near, far) = (pair.near.clone(), pair.far.clone());
    let listener = pair.socket.try_clone().unwrap();
    stream(
        move || async move { near.connect(1).await.unwrap() },
        move || async move {
            let mut listener = far.listen(accept(listener).await);
            listener.accept().await.unwrap()
        },
    )
}

async fn accept(listener: std::net::TcpListener) -> TcpListener {
    listener.set_nonblocking(true).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// A stream from what `connect` gives to what `accept` gives, each on a thread of its own.
fn stream<A, B>(connect: impl Give<A>, accept: impl Give<B>) -> Round
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            single().block_on(async {
                let mut stream = connect.give().await;
                let chunk = vec![7; WRITE_BYTES];
                let (began, cpu) = (Instant::now(), thread_cpu());
                for _ in 0..STREAM_BYTES / WRITE_BYTES as u64 {
                    stream.write_all(&chunk).await.unwrap();
                }
                stream.shutdown().await.unwrap();
                (began, thread_cpu() - cpu)
            })
        });
        let receiver = scope.spawn(|| {
            single().block_on(async {
                let mut stream = accept.give().await;
                let (mut buffer, cpu) = (vec![0; READ_BYTES], thread_cpu());
                let mut count = 0;
                loop {
                    let read = stream.read(&mut buffer).await.unwrap();
                    count += read as u64;
                    if read == 0 {
                        break;
                    }
                }
                assert_eq!(count, STREAM_BYTES);
                (Instant::now(), thread_cpu() - cpu)
            })
        });
        let ((began, sender), (ended, receiver)) =
            (sender.join().unwrap(), receiver.join().unwrap());
        let bytes = STREAM_BYTES as f64;
        Round {
            rate: bytes / (ended - began).as_secs_f64(),
            sender: sender * 1e9 / bytes,
            receiver: receiver * 1e9 / bytes,
        }
    })
}

/// Something that gives a stream, once.
trait Give<T>: Send {
    fn give(self) -> impl Future<Output = T>;
}

impl<T, F, Fut> Give<T> for F
where
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = T>,
{
    fn give(self) -> impl Future<Output = T> {
        self()
    }
}

/// As much sealed, and opened, in records as TLS makes them, by this thread alone.
fn by_aes() -> Round {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let records = STREAM_BYTES / RECORD_BYTES as u64;
    let mut record = vec![7; RECORD_BYTES];
    let (began, cpu) = (Instant::now(), thread_cpu());
    for _ in 0..records {
        record.truncate(RECORD_BYTES);
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).unwrap();
    }
    let (sealed, sender) = (began.elapsed(), thread_cpu() - cpu);
    // What is opened must be sealed first, so the copy counts, too.
    record.truncate(RECORD_BYTES);
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).unwrap();
    let (mut place, cpu) = (record.clone(), thread_cpu());
    for _ in 0..records {
        place.copy_from_slice(&record);
        black_box(key.open_in_place(nonce(), Aad::empty(), &mut place).unwrap());
    }
    let bytes = STREAM_BYTES as f64;
    Round {
        rate: bytes / sealed.as_secs_f64(),
        sender: sender * 1e9 / bytes,
        receiver: (thread_cpu() - cpu) * 1e9 / bytes,
    }
}

/// Links made and accepted in one process, beside what RSA alone would allow: two private operations
/// each if it is a full handshake, one a side.
fn handshakes() {
    let runtime = multi();
    let pair = pair(&runtime);
    let cores = thread::available_parallelism().unwrap().get();
    for (label, resumed) in [("full", false), ("resumed", true)] {
        for at_a_time in [1, 8 * cores] {
            // Before and after, since the machine's speed drifts.
            let before = rsa_private_operation();
            let (took, cpu) = runtime.block_on(shake(&pair, resumed, at_a_time));
            let rsa = f64::midpoint(before, rsa_private_operation());
            println!(
                "{label:<7}, {at_a_time:>2} at a time: {:.0}/s; {:.3} ms CPU each, both sides together, where \
                 an RSA private operation takes {:.3}: {:.2} of the two of a full handshake; CPU for \
                 {:.0}/s on {cores} cores, and RSA alone for {:.0}/s",
                HANDSHAKES as f64 / took,
                cpu * 1e3 / HANDSHAKES as f64,
                rsa * 1e3,
                cpu / HANDSHAKES as f64 / (2.0 * rsa),
                cores as f64 * HANDSHAKES as f64 / cpu,
                cores as f64 / (2.0 * rsa),
            );
        }
    }
}

/// Seconds that it takes to make all links, so many at a time, by the clock and of CPU.
async fn shake(pair: &Pair, resumed: bool, at_a_time: usize) -> (f64, f64) {
    let listener = accept(pair.socket.try_clone().unwrap()).await;
    let mut listener = pair.far.listen(listener);
    let accepting = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let mut fresh = Vec::new();
    for _ in 0..at_a_time {
        let peers = Peers::new(&pair.near.identity(), &pair.near.roster()).await.unwrap();
        let peers = peers.with_resumption(resumed);
        // Tickets for those that follow.
        peers.connect(1).await.unwrap();
        fresh.push(peers);
    }
    let (began, cpu) = (Instant::now(), process_cpu());
    let mut links = JoinSet::new();
    for peers in fresh {
        links.spawn(async move {
            for _ in 0..HANDSHAKES / at_a_time {
                let link = peers.connect(1).await.unwrap();
                assert_eq!(link.is_resumed(), resumed);
            }
        });
    }
    while let Some(made) = links.join_next().await {
        made.unwrap();
    }
    let took = (began.elapsed().as_secs_f64(), process_cpu() - cpu);
    accepting.abort();
    took
}

/// Seconds of CPU that one RSA-2048 private operation takes, with all cores at it.
fn rsa_private_operation() -> f64 {
    let key = PrivateKey::generate().unwrap();
    let work = || {
        let before = thread_cpu();
        for _ in 0..RSA_OPERATIONS {
            black_box(key.sign_pss(&[b"handshake"]).unwrap());
        }
        (thread_cpu() - before) / f64::from(RSA_OPERATIONS)
    };
    let threads = thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum::<f64>() / threads as f64
    })
}

fn multi() -> Runtime {
    Builder::new_multi_thread().enable_all().build().unwrap()
}

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
