//! `kv`, under `xlreg run`: one member of the store. `kv ADDRESS REQUEST...`: one request to a
//! member.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "that is how this program talks to people")]

use std::error::Error;

use kv::node::Node;
use kv::{Config, ask};
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    if let [address, request @ ..] = &words[..] {
        println!("{}", ask(address, &request.join(" ")).await?);
        return Ok(());
    }
    let config = Config::from_env()?;
    let address = config.address()?.to_owned();
    let listener = TcpListener::bind(&address).await?;
    let node = Node::open(config)?;
    let caught_up = async {
        node.catch_up().await?;
        println!("caught up, serving at {address}");
        Ok(())
    };
    tokio::try_join!(node.serve(listener), caught_up)?;
    Ok(())
}
