//! The system's speed and memory, measured on the real binary: `cargo bench -p xlreg-cli --bench system`.
//!
//! Each figure stands beside the one that limits it, measured in the same run, since machines
//! differ and are shared. docs/performance.md has figures and what they mean. An argument picks
//! the parts whose names contain it: `cargo bench -p xlreg-cli --bench system -- session`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

#[path = "../common/joining.rs"]
mod joining;
mod launch;
mod modern;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/watching.rs"]
mod watching;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use xlreg::{Credentials, Dialect, Identity, NewCluster, NodeId, Registry, Version};
use xlreg_core::Fingerprint;
use xlreg_core::limits::Limits;
use xlreg_proto::channel::Channel;
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::{PrivateKey, random};
use xlreg_proto::message::{Claim, Reply, Request};
use xlreg_store::{Engine as _, LocalEngine};

use crate::server::{Server, rsa_private_operation};

/// Sessions that a session benchmark holds.
const SESSIONS: usize = 2_000;

/// Nodes in the store that start-up is timed with.
const STORED_NODES: u32 = 100_000;

/// Connections that idle memory is measured with.
const IDLE_CONNECTIONS: usize = 1_000;

fn main() {
    // cargo passes --bench.
    let picked: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let parts: [(&str, fn()); 8] = [
        ("session", session_cost),
        ("modern", modern::sessions),
        ("news", modern::news),
        ("watchers", modern::idle_watchers),
        ("roster", roster_spread),
        ("idle", idle_connections),
        ("start", start_up),
        ("run", launch::launching),
    ];
    for (name, part) in parts {
        if picked.is_empty() || picked.iter().any(|wanted| name.contains(wanted.as_str())) {
            println!("== {name}");
            part();
        }
    }
}

/// A session's client side up to the hello, made before the clock starts.
struct Prepared {
    hello: ClientHello,
    packet: Vec<u8>,
    claim: Claim,
}

/// Hello, Member, Bye.
fn hold(prepared: Prepared, address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&prepared.packet).unwrap();
    let mut reply = vec![0; prepared.hello.reply_bytes()];
    stream.read_exact(&mut reply).unwrap();
    let (mut channel, _) = prepared.hello.finish(&reply).unwrap();
    let known = ask(&mut stream, &mut channel, &Request::Member(prepared.claim));
    assert!(matches!(known, Reply::MemberOk { .. }), "{known:?}");
    assert_eq!(ask(&mut stream, &mut channel, &Request::Bye), Reply::Ack);
}

fn ask(stream: &mut TcpStream, channel: &mut Channel, request: &Request) -> Reply {
    stream.write_all(&channel.sealer.seal(&request.encode(), random)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        if let Some(message) = channel.opener.next_message().unwrap() {
            return Reply::decode(message).unwrap();
        }
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "the server hung up");
        channel.opener.push(&buffer[..count]);
    }
}

/// The server's CPU for a session, in RSA private operations; and sessions a second.
fn session_cost() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let cores = thread::available_parallelism().unwrap().get();
    let (sig, comms) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let claim = |id| {
        let name = "bench".parse().unwrap();
        Claim::sign(Some(id), name, 0, comms.public().clone(), &sig, vec![]).unwrap()
    };
    let kept = claim(NodeId::from_bytes(random()));
    for dialect in [Dialect::V1_9, Dialect::V1_8] {
        for (label, fresh) in [("the same ID", false), ("a new ID each", true)] {
            for clients in [1, 8 * cores] {
                let prepare = || {
                    let secrets = Secrets::from_random(random());
                    let key = &server.credentials.comms_key;
                    let (hello, packet) =
                        ClientHello::new(dialect, key, Version::CURRENT, secrets).unwrap();
                    let claim =
                        if fresh { claim(NodeId::from_bytes(random())) } else { kept.clone() };
                    Prepared { hello, packet, claim }
                };
                let prepared: Vec<_> = (0..SESSIONS).map(|_| prepare()).collect();
                // Before and after, since the machine's speed drifts.
                let before = rsa_private_operation();
                let held = hold_all(&server, prepared, clients);
                let rsa = f64::midpoint(before, rsa_private_operation());
                let sessions = SESSIONS as f64;
                println!(
                    "dialect {dialect}, {label:<13}, {clients:>2} at a time: {:.3} ms CPU a session, of it {:.3} \
                     opening hellos; an RSA private operation takes {:.3}: ratio {:.2}; \
                     {:.0} sessions/s, where the RSA of {cores} cores allows {:.0}",
                    held.cpu / sessions * 1e3,
                    held.opening / sessions * 1e3,
                    rsa * 1e3,
                    held.cpu / sessions / rsa,
                    sessions / held.seconds,
                    cores as f64 / rsa,
                );
            }
        }
    }
}

/// What sessions took, in seconds.
struct Held {
    /// By the clock.
    seconds: f64,
    /// Of the server's CPU.
    cpu: f64,
    /// Of it, in the threads that open hellos: nearly all RSA.
    opening: f64,
}

/// Holds all sessions, so many at a time.
fn hold_all(server: &Server, prepared: Vec<Prepared>, clients: usize) -> Held {
    let address = server.credentials.endpoints[0].to_string();
    let mut shares: Vec<Vec<Prepared>> = (0..clients).map(|_| Vec::new()).collect();
    for (n, session) in prepared.into_iter().enumerate() {
        shares[n % clients].push(session);
    }
    let (cpu, opening) = (server.cpu(""), server.cpu("xlreg-rsa"));
    let began = Instant::now();
    thread::scope(|scope| {
        for share in shares {
            scope.spawn(|| share.into_iter().for_each(|session| hold(session, &address)));
        }
    });
    Held {
        seconds: began.elapsed().as_secs_f64(),
        cpu: server.cpu("") - cpu,
        opening: server.cpu("xlreg-rsa") - opening,
    }
}

/// From the last join's answer to every member's holding the roster.
fn roster_spread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let registry = Registry::new(server.credentials.clone());
    println!("making 64 identities");
    let identities: Vec<_> = (0..64)
        .map(|rank| runtime.spawn(Identity::generate(format!("m{rank}").parse().unwrap())))
        .collect();
    let identities: Vec<_> =
        identities.into_iter().map(|made| runtime.block_on(made).unwrap().unwrap()).collect();
    for (size, rounds) in [(8, 100), (64, 20)] {
        let mut spread: Vec<f64> = (0..rounds)
            .flat_map(|round| {
                let name = format!("c{size}_{round}");
                runtime.block_on(form_once(&registry, &identities[..size], &name))
            })
            .collect();
        spread.sort_by(f64::total_cmp);
        let at = |share: f64| spread[((spread.len() - 1) as f64 * share) as usize] * 1e3;
        println!(
            "{size} members: from the last join to a member's complete roster, median {:.1} ms, p99 {:.1} ms, \
             worst {:.1} ms, over {rounds} clusters",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// For each member, seconds from the last join to its complete roster.
async fn form_once(registry: &Registry, identities: &[Identity], cluster: &str) -> Vec<f64> {
    let name: xlreg::Name = cluster.parse().unwrap();
    let size = identities.len() as u32;
    let new = NewCluster::open(name.clone(), size, 1);
    registry.create(&identities[0], &new).await.unwrap();
    let mut waits = tokio::task::JoinSet::new();
    let mut last_join = Instant::now();
    for identity in identities {
        let key = xlreg::ClusterKey::Name(name.clone());
        let endpoints = vec!["127.0.0.1:4000".parse().unwrap()];
        let mut membership = registry.join(identity, &key, endpoints).await.unwrap();
        last_join = Instant::now();
        waits.spawn(async move {
            let roster = membership.wait(Duration::from_secs(60)).await.unwrap();
            assert!(roster.is_complete());
            Instant::now()
        });
    }
    let mut times = Vec::new();
    while let Some(done) = waits.join_next().await {
        times.push(done.unwrap().saturating_duration_since(last_join).as_secs_f64());
    }
    times
}

/// What a connection costs that says nothing, and one that has said hello and waits.
fn idle_connections() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let address = server.credentials.endpoints[0].to_string();
    let before = server.memory();
    let silent: Vec<_> =
        (0..IDLE_CONNECTIONS).map(|_| TcpStream::connect(&address).unwrap()).collect();
    // One after them gets its answer only when all of them have been accepted.
    let (mut last, hello, packet) = connect(&server);
    greet(&mut last, &hello, &packet);
    let each = (server.memory() - before) / IDLE_CONNECTIONS as f64;
    println!("a silent connection: {:.1} KiB", each / 1024.0);
    drop(silent);

    let before = server.memory();
    let greeted: Vec<_> = (0..IDLE_CONNECTIONS)
        .map(|_| {
            let (mut stream, hello, packet) = connect(&server);
            greet(&mut stream, &hello, &packet);
            stream
        })
        .collect();
    let each = (server.memory() - before) / IDLE_CONNECTIONS as f64;
    println!(
        "a connection that has said hello: {:.1} KiB (beyond what the silent ones left)",
        each / 1024.0
    );
    drop(greeted);
}

/// A connection, and a hello to say on it.
fn connect(server: &Server) -> (TcpStream, ClientHello, Vec<u8>) {
    let Credentials { comms_key, endpoints, .. } = &server.credentials;
    let secrets = Secrets::from_random(random());
    let (hello, packet) =
        ClientHello::new(Dialect::V1_9, comms_key, Version::CURRENT, secrets).unwrap();
    (TcpStream::connect(endpoints[0].as_str()).unwrap(), hello, packet)
}

/// Says hello, and hears the reply.
fn greet(stream: &mut TcpStream, hello: &ClientHello, packet: &[u8]) {
    stream.write_all(packet).unwrap();
    stream.read_exact(&mut vec![0; hello.reply_bytes()]).unwrap();
}

/// Time to the ready line and memory a node, with many nodes stored.
fn start_up() {
    let dir = tempfile::tempdir().unwrap();
    let empty = {
        let server = Server::generous(dir.path());
        println!(
            "first start, which makes two keys: {:.0} ms",
            server.started_in.as_secs_f64() * 1e3
        );
        drop(server);
        let server = Server::generous(dir.path());
        println!("start with nothing stored: {:.0} ms", server.started_in.as_secs_f64() * 1e3);
        server.memory()
    };
    fill(dir.path());
    let server = Server::generous(dir.path());
    println!(
        "start with {STORED_NODES} nodes stored: {:.0} ms; {:.0} bytes of memory a node",
        server.started_in.as_secs_f64() * 1e3,
        (server.memory() - empty) / f64::from(STORED_NODES)
    );
}

/// Registers nodes straight into the store.
fn fill(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let home = xlreg_server::Home::open(dir, None, || "xlReg".parse().unwrap()).unwrap();
    let engine = Arc::new(LocalEngine::open(dir, home.id(), Limits::default()).unwrap());
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..64 {
            let engine = Arc::clone(&engine);
            tasks.spawn(async move {
                for _ in (task..STORED_NODES).step_by(64) {
                    let command = xlreg_core::Command::Register {
                        claimed: None,
                        fresh: NodeId::from_bytes(random()),
                        sig_key: Fingerprint::from_bytes(random()),
                        comms_key: None,
                    };
                    engine.apply(command).await.unwrap();
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        engine.close().await.unwrap();
    });
}
