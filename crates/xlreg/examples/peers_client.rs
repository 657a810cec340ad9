//! A client of a cluster: it knows the members by the roster, and they know it by a policy.
//!
//! Each member listens for members at its first endpoint and for registered nodes at its second. Beside
//! that each plays two clients: one that has registered and is let in, and one that has not and is not.
//!
//! ```text
//! cargo build -p xlreg --example peers_client
//! xlreg run -n 3 --endpoints 2 --self-join -- target/debug/examples/peers_client
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

mod joining;

use std::error::Error;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xlreg::peers::Clients;
use xlreg::{Identity, Peers};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (registry, cluster) = joining::place()?;
    let (mut membership, mut sockets) = joining::join(&registry, &cluster, 2).await?;
    let peers = membership.peers().await?;
    let mut members = peers.listen(sockets.remove(0));
    let policy = Clients::Registered(registry.clone());
    let mut clients = peers.listen_for_clients(sockets.remove(0), policy);
    tokio::spawn(async move { while members.accept().await.is_ok() {} });
    let mut refusals = clients.refusals();
    tokio::spawn(async move {
        while let Ok(refused) = refusals.recv().await {
            println!("turned away {}: {}", refused.address, refused.why);
        }
    });
    tokio::spawn(async move {
        while let Ok(mut link) = clients.accept().await {
            tokio::spawn(async move {
                let greeting = format!("welcome, {}", link.peer());
                link.write_all(greeting.as_bytes()).await?;
                link.shutdown().await
            });
        }
    });

    let known = Identity::generate("known".parse()?).await?;
    registry.register(&known).await?;
    // Whoever watches a cluster needs no place in it, and the registry need not know the node; the
    // members do.
    let stranger = Identity::generate("stranger".parse()?).await?;
    for identity in [known, stranger] {
        let client = Peers::follow(&registry, &identity, &cluster).await?;
        match client.connect_once(0).await {
            Ok(mut link) => {
                let mut greeting = String::new();
                link.read_to_string(&mut greeting).await?;
                println!("{} hears {greeting:?} from {}", identity.name(), link.peer());
            }
            Err(unreached) => println!("{}: {unreached}", identity.name()),
        }
    }
    println!("has done all");
    std::future::pending().await
}
