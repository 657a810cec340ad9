//! Serving without sockets, handshakes and threads, for `xlreg-sim`.
//!
//! What is left out is named here: hellos and the pool that opens them, TLS, HTTP/2, rates, and the
//! listener with its limits. Everything behind that is the server's own code.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use xlreg_api::v2::WatchClusterResponse;
use xlreg_api::v2::registry_server::Registry;
use xlreg_core::PublicKey;
use xlreg_proto::channel::Channel;
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::session::Identity;
use xlreg_store::Engine;
use xlreg_store::simulation::Flaw;
use xlreg_tls::ServerTls;

use crate::config::{Access, Connections, Modern};
use crate::connection::{self, Connection};
use crate::lifetimes::{self, Presence, Present};
use crate::modern::{self, Peer};
use crate::notary::Notary;
use crate::pool::Pool;
use crate::service::Api;
use crate::surroundings::Surroundings;
use crate::usage::Usage;

/// Fills bytes at random.
pub type Fill = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Runs a task.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// What a watcher is told.
pub type News = Pin<Box<dyn Stream<Item = Result<WatchClusterResponse, Status>> + Send>>;

/// What a site is made of.
pub struct Parts {
    /// What it serves.
    pub engine: Arc<dyn Engine>,
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Shown to those who ask for the root certificate; made once for many sites.
    pub tls: Arc<ServerTls>,
    /// The registry's sig key.
    pub key: Arc<PrivateKey>,
    /// Bounds of the old wire.
    pub connections: Connections,
    /// Bounds of the modern door.
    pub modern: Modern,
    /// Where random bytes come from.
    pub fill: Fill,
    /// How tasks are run.
    pub spawn: Spawn,
    /// A bug to plant.
    pub flaw: Option<Flaw>,
}

/// A server without its listener.
pub struct Site {
    old: Arc<connection::Shared>,
    modern: Arc<modern::Shared>,
}

impl Site {
    /// A server that is ready to serve.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { engine, identity, tls, key, connections, modern, fill, spawn, flaw } = parts;
        let stop = CancellationToken::new();
        let around = Surroundings::new(fill, spawn);
        let usage = Usage::new(&modern);
        let old = connection::Shared {
            engine: Arc::clone(&engine),
            pool: Pool::idle(connections.unproven_hellos),
            identity: Arc::clone(&identity),
            hello_bytes: 0,
            bounds: connections,
            stop: stop.clone(),
            around: around.clone(),
            request_rates: Arc::clone(&usage.address_rates),
            registration_rates: Arc::clone(&usage.registration_rates),
        };
        let modern = modern::Shared {
            presence: Presence::new(engine.clock().clone()),
            notary: Arc::new(Notary::new(key, Arc::clone(&identity), engine.clock().clone())),
            engine,
            identity,
            tls,
            bounds: modern,
            access: Access::default(),
            legacy: true,
            usage,
            stop,
            around,
            flaw,
        };
        Self { old: Arc::new(old), modern: Arc::new(modern) }
    }

    /// Serves a client of the old wire with which hellos have been exchanged, until it is over.
    pub fn serve(
        &self,
        stream: DuplexStream,
        channel: Channel,
    ) -> impl Future<Output = ()> + Send + use<> {
        let connection = Connection::new(
            stream,
            Vec::new(),
            Arc::clone(&self.old),
            Ipv4Addr::LOCALHOST.into(),
            Instant::now(),
        );
        async move {
            let _told = connection.run_session(channel).await;
        }
    }

    /// Lets a client in by the modern door, unless its key has too many connections.
    #[must_use]
    pub fn enter(&self, key: PublicKey) -> Option<Guest> {
        let max = self.modern.bounds.connections_per_key_max;
        let present = self.modern.presence.arrive(key.fingerprint(), max)?;
        let peer = Peer::simulated(key, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        Some(Guest { api: Api::new(Arc::clone(&self.modern)), peer, _present: present })
    }

    /// Ends clusters whose time is over, for as long as it is polled.
    pub fn lifetimes(&self) -> impl Future<Output = ()> + Send + use<> {
        let modern::Shared { engine, presence, bounds, .. } = &*self.modern;
        lifetimes::run(Arc::clone(engine), presence.clone(), bounds.owner_grace)
    }

    /// Asks all sessions to end at their next safe point.
    pub fn stop(&self) {
        self.old.stop.cancel();
    }
}

/// A client that has come in by the modern door; it is connected until this is dropped.
pub struct Guest {
    api: Api,
    peer: Arc<Peer>,
    _present: Present,
}

impl Guest {
    /// What it can call.
    #[must_use]
    pub fn api(&self) -> impl Registry<WatchClusterStream = News> + use<> {
        self.api.clone()
    }

    /// A request that is known to be its own.
    #[must_use]
    pub fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::clone(&self.peer));
        request
    }

    /// Resolves when it is cut off.
    pub async fn cut(&self) {
        self.peer.cut.cancelled().await;
    }
}
