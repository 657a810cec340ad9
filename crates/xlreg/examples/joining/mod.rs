//! What the examples with links between members begin with: joining by themselves, as `xlreg run
//! --self-join` tells them.

use std::error::Error;
use std::time::Duration;

use tokio::net::TcpListener;
use xlreg::{ClusterKey, Endpoint, Identity, Membership, Registry};

/// The registry and the cluster that we are to be in.
pub(crate) fn place() -> Result<(Registry, ClusterKey), Box<dyn Error>> {
    let registry = Registry::open(variable("XLREG_REGISTRY")?)?;
    Ok((registry, ClusterKey::Name(variable("XLREG_CLUSTER")?.parse()?)))
}

/// Takes any free ports, joins with them, and waits for the others.
pub(crate) async fn join(
    registry: &Registry,
    cluster: &ClusterKey,
    endpoints: usize,
) -> Result<(Membership, Vec<TcpListener>), Box<dyn Error>> {
    let (mut sockets, mut own) = (Vec::new(), Vec::<Endpoint>::new());
    for _ in 0..endpoints {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        own.push(socket.local_addr()?.to_string().parse()?);
        sockets.push(socket);
    }
    let name = variable("XLREG_NAME")?.parse()?;
    let identity = Identity::load_or_create(variable("XLREG_IDENTITY")?, name).await?;
    let mut membership = registry.join(&identity, cluster, own).await?;
    membership.wait(Duration::from_secs(30)).await?;
    Ok((membership, sockets))
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: start this by xlreg run"))
}
