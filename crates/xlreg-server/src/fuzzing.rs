//! The doors without listener and TLS before them: for fuzz targets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{Request, Response};
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tonic::body::Body;
use xlreg_core::PublicKey;
use xlreg_proto::session::Identity;
use xlreg_store::Engine;

use crate::config::Config;
use crate::connection::{Connection, Shared};
use crate::door::Door;
use crate::modern::{Front, Peer, Shaken};
use crate::server::{Keys, StartError, doors};

/// Where all clients of [`Doors`] come from.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Whether a client speaks TLS, if its first bytes tell that already.
#[must_use]
pub fn speaks_tls(first: &[u8]) -> Option<bool> {
    match Door::of(first) {
        Door::Modern => Some(true),
        Door::Old => Some(false),
        Door::Unknown => None,
    }
}

/// A registry's doors.
pub struct Doors {
    old: Arc<Shared>,
    modern: Front,
}

impl Doors {
    /// The doors of the registry that `engine` keeps; arguments as for
    /// [`Server::new`](crate::Server::new).
    ///
    /// # Errors
    /// As there.
    pub fn new(
        engine: Arc<dyn Engine>,
        keys: &Keys,
        identity: Identity,
        config: &Config,
    ) -> Result<Self, StartError> {
        let (old, modern) = doors(ADDRESS.ip(), engine, keys, identity, config)?;
        Ok(Self { old, modern })
    }

    /// Answers one request of the client with this sig key.
    pub async fn answer(&self, key: &PublicKey, mut request: Request<Body>) -> Response<Body> {
        request.extensions_mut().insert(Peer::simulated(key.clone(), ADDRESS));
        let Ok(answer) = self.modern.answer(request).await;
        answer
    }

    /// Speaks HTTP/2 with the client with this sig key until it is over.
    pub async fn serve_modern(&self, key: &PublicKey, stream: DuplexStream) {
        let peer = Peer::simulated(key.clone(), ADDRESS);
        if let Ok(shaken) = Shaken::simulated(&self.modern, peer, stream) {
            let _over = self.modern.converse(shaken).await;
        }
    }

    /// Speaks the old wire with a client until it is over.
    pub async fn serve_old(&self, stream: DuplexStream) {
        let shared = Arc::clone(&self.old);
        let connection = Connection::new(stream, Vec::new(), shared, ADDRESS.ip(), Instant::now());
        let _over = connection.run().await;
    }
}
