//! A cluster from outside: define it, look at it, wait until it is full.
//!
//! With a registry running (`xlreg serve`), whose credentials are in `regCred.dat`:
//!
//! ```text
//! cargo run -p xlreg --example cluster -- regCred.dat alpha 3
//! ```
//!
//! Meanwhile, let three members join: the example `member`.
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

use std::error::Error;
use std::time::Duration;

use xlreg::{ClusterKey, Identity, NewCluster, Registry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [credentials, name, size] = arguments.as_slice() else {
        return Err("usage: cluster CREDENTIALS NAME SIZE".into());
    };
    let registry = Registry::open(credentials)?;
    // Whoever asks says who it is; an identity for once will do.
    let admin = Identity::generate("admin".parse()?).await?;

    let new = NewCluster::open(name.parse()?, size.parse()?, 1);
    let made = registry.create(&admin, &new).await?;
    println!("cluster {name} ({}) is for {} members", made.id, made.size);

    let cluster = ClusterKey::Name(new.name);
    let now = registry.show(&admin, &cluster).await?;
    println!("{} of them are there", now.members.len());

    let roster = registry.wait(&admin, &cluster, Duration::from_secs(60)).await?;
    for (rank, member) in roster.members.iter().enumerate() {
        println!("{rank:>2}  {}  {:?}", member.name, member.endpoints);
    }
    Ok(())
}
