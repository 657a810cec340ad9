//! What a tunnel costs: how much later an answer comes, and how much less a stream carries.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use xlreg::Peers;
use xlreg::peers::Target;
use xlreg::tunnel::{Door, Tunnel};

use crate::{
    Pair, ROUNDS, Round, STREAM_BYTES, accept, by_link, median, multi, pair, single, stream,
};

/// Bytes of a request and of its answer.
const REQUEST_BYTES: usize = 64;

/// Requests and their answers in a round, one after another.
const REQUESTS: usize = 4000;

/// A door that leads to a program through two tunnels, each with a thread of its own, as two processes
/// of `xlreg tunnel` would have.
struct Carried {
    door: SocketAddr,
    program: TcpListener,
    ended: CancellationToken,
}

impl Carried {
    fn new(pair: &Pair) -> Self {
        let program = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let ended = CancellationToken::new();
        let carried = Self { door: door.local_addr().unwrap(), program, ended: ended.clone() };
        let at = carried.program.local_addr().unwrap();
        let socket = pair.socket.try_clone().unwrap();
        tunnel(pair.near.clone(), ended.clone(), async |peers| {
            let doors = vec![Door { peer: Target::Rank(1), listener: accept(door).await }];
            Tunnel::start(peers, doors, None)
        });
        tunnel(pair.far.clone(), ended, async move |peers| {
            Tunnel::start(peers, Vec::new(), Some((accept(socket).await, at)))
        });
        carried
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

fn tunnel(
    peers: Peers,
    ended: CancellationToken,
    start: impl AsyncFnOnce(&Peers) -> Tunnel + Send + 'static,
) {
    thread::spawn(move || {
        single().block_on(async {
            let _tunnel = start(&peers).await;
            ended.cancelled().await;
        });
    });
}

/// A small request and its answer, by plain TCP and by a tunnel, between threads that wait for nothing
/// else.
pub(crate) fn latency() {
    let runtime = multi();
    let pair = pair(&runtime);
    let carried = Carried::new(&pair);
    let address = carried.program.local_addr().unwrap();
    let program = carried.program.try_clone().unwrap();
    thread::spawn(move || {
        for stream in program.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut request = [0; REQUEST_BYTES];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(&request).unwrap();
                }
            });
        }
    });
    let (mut plain, mut tunnelled) = (Vec::new(), Vec::new());
    let (mut direct, mut through) = (asker(address), asker(carried.door));
    for _ in 0..ROUNDS {
        plain.push(direct());
        tunnelled.push(through());
    }
    let added: Vec<_> =
        tunnelled.iter().zip(&plain).map(|(through, plain)| through - plain).collect();
    let lowest = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "a request of {REQUEST_BYTES} bytes and its answer, medians of {REQUESTS}, median of {ROUNDS} \
         rounds: plain TCP {:.1} us, by a tunnel {:.1} us: {:.1} us more; in the quietest round {:.1}",
        median(&plain),
        median(&tunnelled),
        median(&added),
        lowest(&added),
    );
}

/// What asks over a connection to `address`, and returns the median time of an answer in microseconds.
fn asker(address: SocketAddr) -> impl FnMut() -> f64 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    move || {
        let mut took = Vec::new();
        let mut request = [7; REQUEST_BYTES];
        for _ in 0..REQUESTS {
            let asked = Instant::now();
            stream.write_all(&request).unwrap();
            stream.read_exact(&mut request).unwrap();
            took.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        median(&took)
    }
}

/// A stream from one thread to another, by a link and by a tunnel.
pub(crate) fn throughput() {
    let runtime = multi();
    let pair = pair(&runtime);
    let (mut linked, mut tunnelled) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        linked.push(measured(|| by_link(&pair)));
        let carried = Carried::new(&pair);
        tunnelled.push(measured(|| by_tunnel(&carried)));
    }
    let say = |label: &str, rounds: &[(f64, f64)]| {
        let (rates, cpu): (Vec<_>, Vec<_>) = rounds.iter().copied().unzip();
        let (rate, cpu) = (median(&rates), median(&cpu));
        println!("{label:<9}: {:.2} GB/s; CPU of all together {cpu:.2} ns a byte", rate / 1e9);
    };
    say("a link", &linked);
    say("a tunnel", &tunnelled);
    let shares: Vec<_> =
        tunnelled.iter().zip(&linked).map(|(tunnel, link)| tunnel.0 / link.0).collect();
    println!("a tunnel carries {:.2} of what a link does (median of the rounds)", median(&shares));
}

/// Bytes a second, and CPU of the whole process in nanoseconds a byte.
fn measured(work: impl FnOnce() -> Round) -> (f64, f64) {
    let before = cpu_with_ended();
    let round = work();
    (round.rate, (cpu_with_ended() - before) * 1e9 / STREAM_BYTES as f64)
}

/// CPU seconds of this process so far, threads that have ended among it; in ticks of 10 ms.
fn cpu_with_ended() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, which may have spaces, utime and stime are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn by_tunnel(carried: &Carried) -> Round {
    let (door, program) = (carried.door, carried.program.try_clone().unwrap());
    stream(
        move || async move { tokio::net::TcpStream::connect(door).await.unwrap() },
        move || async move { accept(program).await.accept().await.unwrap().0 },
    )
}
