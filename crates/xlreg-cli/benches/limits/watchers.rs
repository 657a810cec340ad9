//! How long until all have heard.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use tokio::task::JoinSet;
use xlreg::{ClusterKey, Identity, NewCluster, News, Registry};

use crate::chart::{Chart, Curve};
use crate::runtime;
use crate::server::Server;
use crate::watching;

/// Watchers of one cluster, each on a connection of its own.
const WATCHERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// Bytes of a change, about: an entry has two keys and a signature.
const CHANGE_BYTES: usize = 1_200;

/// Messages that one connection is timed with.
const MESSAGES: usize = 50_000;

pub(crate) fn watchers() -> Chart {
    let runtime = runtime();
    let message = loopback_message();
    println!("one message over loopback: {:.1} us", message * 1e6);
    let (mut all, mut limit) = (Vec::new(), Vec::new());
    for count in WATCHERS {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::generous(dir.path());
        let before = server.memory();
        let (memory, seconds) = runtime.block_on(one_change(&server, count));
        let each = (memory - before) / count as f64 / 1024.0;
        println!(
            "{count:>5} watchers: the last hears of a change after {:>7.2} ms; {each:.0} KiB each",
            seconds * 1e3
        );
        all.push((count as f64, seconds * 1e3));
        limit.push((count as f64, message * count as f64 * 1e3));
    }
    Chart {
        title: "Watchers: from asking for a change to the last watcher's having heard",
        across: "watchers of the cluster, each on a connection of its own",
        up: "ms",
        curves: vec![
            Curve::new("all have heard", all),
            Curve::limit("a message for each over loopback", limit),
        ],
    }
}

/// The server's memory with so many watchers, and how long a change takes to all of them.
async fn one_change(server: &Server, count: usize) -> (f64, f64) {
    let registry = Registry::new(server.credentials.clone());
    let identity = Identity::generate("bench".parse().unwrap()).await.unwrap();
    let new = NewCluster::open("alpha".parse().unwrap(), 2, 1);
    let alpha = ClusterKey::Id(registry.create(&identity, &new).await.unwrap().id);
    let mut hearing = JoinSet::new();
    for mut watch in watching::watchers(&registry, &identity, &alpha, count).await {
        hearing
            .spawn(async move { while !matches!(watch.next().await.unwrap(), News::Change(_)) {} });
    }
    let memory = server.memory();
    let endpoints = vec!["127.0.0.1:4000".parse().unwrap()];
    let began = Instant::now();
    registry.join(&identity, &alpha, endpoints).await.unwrap().close().await;
    while let Some(heard) = hearing.join_next().await {
        heard.unwrap();
    }
    (memory, began.elapsed().as_secs_f64())
}

/// Seconds that a message of a change's size takes over loopback, by one thread to another.
fn loopback_message() -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nodelay(true).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let reading = thread::spawn(move || {
        let mut buffer = vec![0; CHANGE_BYTES];
        (0..MESSAGES).for_each(|_| far.read_exact(&mut buffer).unwrap());
    });
    let began = Instant::now();
    (0..MESSAGES).for_each(|_| near.write_all(&[0; CHANGE_BYTES]).unwrap());
    reading.join().unwrap();
    began.elapsed().as_secs_f64() / MESSAGES as f64
}
