//! A server that joins by itself: it takes any free port, and the others learn of it.
//!
//! `xlreg run --self-join` tells it the rest: where the registry is, which cluster, as whom.
//!
//! ```text
//! cargo build -p xlreg --example self_join
//! xlreg run -n 3 --self-join -- target/debug/examples/self_join
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

use std::error::Error;
use std::net::TcpListener;
use std::time::Duration;

use xlreg::{ClusterKey, Identity, Registry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let endpoint = listener.local_addr()?.to_string().parse()?;

    let registry = Registry::open(variable("XLREG_REGISTRY")?)?;
    let cluster = ClusterKey::Name(variable("XLREG_CLUSTER")?.parse()?);
    // It is there already.
    let name = variable("XLREG_NAME")?.parse()?;
    let identity = Identity::load_or_create(variable("XLREG_IDENTITY")?, name).await?;

    let mut membership = registry.join(&identity, &cluster, vec![endpoint]).await?;
    let roster = membership.wait(Duration::from_secs(30)).await?;
    for (rank, member) in roster.members.iter().enumerate() {
        let me = if member.id == membership.id() { "  (me)" } else { "" };
        let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
        println!("{rank} {} {}{me}", member.name, endpoints.join(" "));
    }
    membership.close().await;
    loop {
        // Here a server of yours would do its work.
        let (_client, _address) = listener.accept()?;
    }
}
