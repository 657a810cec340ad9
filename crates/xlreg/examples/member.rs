//! A whole member: who it is, where it is reached, and then everybody else.
//!
//! With a registry running (`xlreg serve`) and a cluster made (the example `cluster`):
//!
//! ```text
//! cargo run -p xlreg --example member -- regCred.dat alpha 127.0.0.1:4001
//! ```
//!
//! Run as many as the cluster is for, each with an address of its own. Run again, each is the same
//! member: its identity is kept in the directory `member_127_0_0_1_4001`.
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

use std::error::Error;
use std::time::Duration;

use xlreg::{ClusterKey, Endpoint, Identity, Registry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [credentials, cluster, endpoint] = arguments.as_slice() else {
        return Err("usage: member CREDENTIALS CLUSTER HOST:PORT".into());
    };
    let registry = Registry::open(credentials)?;
    let cluster = ClusterKey::Name(cluster.parse()?);
    let mine: Endpoint = endpoint.parse()?;

    let name = format!("member_{}", endpoint.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    let identity = Identity::load_or_create(&name, name.parse()?).await?;
    let mut membership = registry.join(&identity, &cluster, vec![mine]).await?;
    println!("{name} is in; waiting for the others");
    let roster = membership.wait(Duration::from_secs(60)).await?;

    for (rank, member) in roster.members.iter().enumerate() {
        let me = if member.id == membership.id() { "  (me)" } else { "" };
        println!("{rank:>2}  {}  {:?}{me}", member.name, member.endpoints);
    }
    membership.close().await;
    Ok(())
}
