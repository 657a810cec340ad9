//! Sessions a second.

use std::thread;
use std::time::Instant;

use xlreg::{ClusterKey, Dialect, Identity, NewCluster, Registry};

use crate::chart::{Chart, Curve};
use crate::joining::{self, By, anew};
use crate::server::{Server, rsa_private_operation};
use crate::{percentiles, runtime};

/// Clients at a time.
const CLIENTS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Sessions that each point is measured with, as near as its clients can share them.
const SESSIONS: usize = 1_000;

/// How a session is held, and RSA private operations that both sides do in it together.
#[derive(Clone, Copy)]
enum Kind {
    /// Over the old wire: the client signs its claim, the registry opens the hello.
    Old,
    /// The client signs the handshake, its comms key's proof and its entry.
    Modern,
    /// The handshake goes on from an earlier one.
    Resumed,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Old => "old wire",
            Self::Modern => "modern door",
            Self::Resumed => "modern door, resumed",
        }
    }

    fn by(self) -> By {
        match self {
            Self::Old => |client| anew(client).with_dialect(Dialect::V1_9),
            Self::Modern => anew,
            Self::Resumed => Registry::clone,
        }
    }

    fn rsa_operations(self) -> f64 {
        match self {
            Self::Old | Self::Resumed => 2.0,
            Self::Modern => 3.0,
        }
    }
}

/// Join and close, by clients on the same machine as the registry.
pub(crate) fn sessions() -> Chart {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::generous(dir.path());
    let registry = Registry::new(server.credentials.clone());
    let identity = runtime.block_on(Identity::generate("bench".parse().unwrap())).unwrap();
    let new = NewCluster::open("alpha".parse().unwrap(), 64, 1);
    let alpha = ClusterKey::Id(runtime.block_on(registry.create(&identity, &new)).unwrap().id);
    let cores = thread::available_parallelism().unwrap().get() as f64;
    let mut curves = Vec::new();
    let mut limits = Vec::new();
    for kind in [Kind::Old, Kind::Modern, Kind::Resumed] {
        let mut points = Vec::new();
        let mut limit = Vec::new();
        for clients in CLIENTS {
            let those = runtime.block_on(joining::clients(&registry, &identity, &alpha, clients));
            let before = rsa_private_operation();
            let (cpu, began) = (server.cpu(""), Instant::now());
            let held = joining::hold(&those, kind.by(), &identity, &alpha, SESSIONS);
            let mut times = runtime.block_on(held);
            let cpu = (server.cpu("") - cpu) / times.len() as f64;
            let rate = times.len() as f64 / began.elapsed().as_secs_f64();
            let rsa = f64::midpoint(before, rsa_private_operation());
            let most = cores / (rsa * kind.rsa_operations());
            let (median, p99) = percentiles(&mut times);
            println!(
                "{:<20}, {clients:>3} at a time: {rate:>5.0} sessions/s, where RSA allows {most:>5.0}; median \
                 {median:>6.2} ms, p99 {p99:>6.2} ms; {:.2} ms of the registry's CPU each",
                kind.label(),
                cpu * 1e3
            );
            points.push((clients as f64, rate));
            limit.push((clients as f64, most));
        }
        curves.push(Curve::new(kind.label(), points));
        let label = format!("{} RSA operations each, on all cores", kind.rsa_operations());
        if !matches!(kind, Kind::Resumed) {
            limits.push(Curve::limit(label, limit));
        }
    }
    curves.append(&mut limits);
    Chart {
        title: "Sessions: join and close, clients and registry on one machine",
        across: "clients at a time",
        up: "sessions a second",
        curves,
    }
}
