//! The speed of links between members: `cargo bench -p xlreg --bench links`.
//!
//! Each figure stands beside what limits it, measured in the same run, since machines differ and are
//! shared. docs/performance.md has figures and what they mean. An argument picks the parts whose names
//! contain it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

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
    let parts: [(&str, fn()); 2] = [("throughput", throughput), ("handshakes", handshakes)];
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
    let (mut plain, mut linked, mut sealing, mut opening) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        plain.push(by_tcp());
        linked.push(by_link(&pair));
        let (seal, open) = aes();
        sealing.push(seal);
        opening.push(open);
    }
    let gigabytes = |rates: &[f64]| median(rates) / 1e9;
    let (plain, linked) = (gigabytes(&plain), gigabytes(&linked));
    let aes = gigabytes(&sealing).min(gigabytes(&opening));
    println!("plain TCP over loopback, one thread to another: {plain:.2} GB/s");
    println!("AES-128-GCM on one core, records of 16 KiB: {aes:.2} GB/s");
    println!(
        "a link: {linked:.2} GB/s; {:.2} of plain TCP, {:.2} of AES-GCM, {:.2} of what both allow \
         one after another",
        linked / plain,
        linked / aes,
        linked * (1.0 / plain + 1.0 / aes),
    );
}

fn by_tcp() -> f64 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    stream(
        move || async move { TcpStream::connect(address).await.unwrap() },
        move || async move { accept(listener).await.accept().await.unwrap().0 },
    )
}

fn by_link(pair: &Pair) -> f64 {
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

/// Bytes a second from what `connect` gives to what `accept` gives, each on a thread of its own.
fn stream<A, B>(connect: impl AsyncGive<A>, accept: impl AsyncGive<B>) -> f64
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let (begun, begin) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            single().block_on(async {
                let mut stream = connect.give().await;
                let chunk = vec![7; WRITE_BYTES];
                begun.send(Instant::now()).unwrap();
                for _ in 0..STREAM_BYTES / WRITE_BYTES as u64 {
                    stream.write_all(&chunk).await.unwrap();
                }
                stream.shutdown().await.unwrap();
            });
        });
        let receiver = scope.spawn(|| {
            single().block_on(async {
                let mut stream = accept.give().await;
                let mut buffer = vec![0; READ_BYTES];
                let mut count = 0;
                loop {
                    let read = stream.read(&mut buffer).await.unwrap();
                    count += read as u64;
                    if read == 0 {
                        break;
                    }
                }
                assert_eq!(count, STREAM_BYTES);
                Instant::now()
            })
        });
        let ended = receiver.join().unwrap();
        STREAM_BYTES as f64 / (ended - begin.recv().unwrap()).as_secs_f64()
    })
}

/// Something that gives a stream, once.
trait AsyncGive<T>: Send {
    fn give(self) -> impl Future<Output = T>;
}

impl<T, F, Fut> AsyncGive<T> for F
where
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = T>,
{
    fn give(self) -> impl Future<Output = T> {
        self()
    }
}

/// Bytes a second that this thread seals and opens.
fn aes() -> (f64, f64) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let records = STREAM_BYTES / RECORD_BYTES as u64;
    let mut record = vec![7; RECORD_BYTES];
    let began = Instant::now();
    for _ in 0..records {
        record.truncate(RECORD_BYTES);
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).unwrap();
    }
    let sealing = began.elapsed();
    record.truncate(RECORD_BYTES);
    key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut record).unwrap();
    let mut opening = Duration::ZERO;
    for _ in 0..records {
        let mut sealed = record.clone();
        let began = Instant::now();
        black_box(key.open_in_place(nonce(), Aad::empty(), &mut sealed).unwrap());
        opening += began.elapsed();
    }
    let rate = |took: Duration| STREAM_BYTES as f64 / took.as_secs_f64();
    (rate(sealing), rate(opening))
}

/// Links made and accepted in one process, beside what RSA alone would allow: two private operations
/// each if it is a full handshake, one a side.
fn handshakes() {
    let runtime = multi();
    let pair = pair(&runtime);
    let cores = thread::available_parallelism().unwrap().get();
    for (label, resumed) in [("full", false), ("resumed", true)] {
        for at_a_time in [1, 8 * cores] {
            let before = rsa_private_operation();
            let took = runtime.block_on(shake(&pair, resumed, at_a_time));
            let rsa = f64::midpoint(before, rsa_private_operation());
            let rate = HANDSHAKES as f64 / took.as_secs_f64();
            let limit = cores as f64 / (2.0 * rsa);
            println!(
                "{label:<7}, {at_a_time:>2} at a time: {:.2} ms each, {rate:.0}/s; the two RSA operations of a \
                 full one, {:.3} ms each, would allow {limit:.0}/s on {cores} cores: ratio {:.2}",
                took.as_secs_f64() * 1e3 / HANDSHAKES as f64,
                rsa * 1e3,
                rate / limit,
            );
        }
    }
}

/// How long it takes to make all links, so many at a time.
async fn shake(pair: &Pair, resumed: bool, at_a_time: usize) -> Duration {
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
    let began = Instant::now();
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
    let took = began.elapsed();
    accepting.abort();
    took
}

/// Seconds that one RSA-2048 private operation takes, with all cores at it.
fn rsa_private_operation() -> f64 {
    let key = PrivateKey::generate().unwrap();
    let work = || {
        let began = Instant::now();
        for _ in 0..RSA_OPERATIONS {
            black_box(key.sign_pss(&[b"handshake"]).unwrap());
        }
        began.elapsed().as_secs_f64() / f64::from(RSA_OPERATIONS)
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
