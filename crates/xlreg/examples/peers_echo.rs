//! Plain streams between members: each echoes what the others say, and says something to each.
//!
//! ```text
//! cargo build -p xlreg --example peers_echo
//! xlreg run -n 3 --self-join -- target/debug/examples/peers_echo
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

mod joining;

use std::error::Error;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xlreg::PeerStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (registry, cluster) = joining::place()?;
    let (mut membership, mut sockets) = joining::join(&registry, &cluster, 1).await?;
    let peers = membership.peers().await?;
    let mut listener = peers.listen(sockets.remove(0));
    tokio::spawn(async move {
        while let Ok(link) = listener.accept().await {
            println!("{} has come from {}", link.peer(), link.peer().address);
            tokio::spawn(echo(link));
        }
    });

    let own = peers.rank();
    for (rank, member) in peers.roster().iter().filter(|(rank, _)| Some(*rank) != own) {
        // It may not listen yet: connecting tries again until it does.
        let mut link = peers.connect(rank).await?;
        link.write_all(format!("hello, {}", member.name).as_bytes()).await?;
        // That was our half; the other one goes on.
        link.shutdown().await?;
        let mut answer = String::new();
        link.read_to_string(&mut answer).await?;
        println!("{} answers {answer:?}", link.peer());
    }
    println!("has reached all");
    std::future::pending().await
}

async fn echo(link: PeerStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(link);
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}
