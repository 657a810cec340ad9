//! The modern door: TLS 1.3 and gRPC on one connection.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use xlreg_api::v2::registry_server::RegistryServer;
use xlreg_core::{Fingerprint, PublicKey};
use xlreg_proto::session::Identity;
use xlreg_store::Engine;
use xlreg_tls::ServerTls;

use crate::config::{Access, Modern};
use crate::entrance::{Entrance, Owed};
use crate::lifetimes::Presence;
use crate::rates::Rates;
use crate::service::Api;
use crate::tally::Tally;

/// Bytes of a request's headers. Stock clients send some hundred.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of a request: two keys of 4096 bits, or 256 fingerprints, with room to spare.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Bytes that a client may send ahead, on one stream and in all: no request is longer. It is what
/// HTTP/2 begins with, so that nothing need be said about it.
const WINDOW_BYTES: u32 = 65_535;

/// Bytes of an answer that wait for a client to take them, for each stream.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Streams that a client may open and reset at once before it is cut off (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// How often a silent connection is asked whether it is there, and how long it has to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);

/// What all connections of the modern door share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) bounds: Modern,
    pub(crate) access: Access,
    /// Whether the old wire is served, too.
    pub(crate) legacy: bool,
    /// Who is connected.
    pub(crate) presence: Presence,
    /// Handshakes under way, of each address and in all.
    pub(crate) handshakes: Tally<Option<std::net::IpAddr>>,
    pub(crate) handshake_rates: Rates<std::net::IpAddr>,
    pub(crate) request_rates: Rates<Fingerprint>,
    pub(crate) registration_rates: Rates<std::net::IpAddr>,
    /// Requests whose answers have not been taken yet, of each key.
    pub(crate) requests: Tally<Fingerprint>,
    /// The same of each address, and in all.
    pub(crate) requests_of: Tally<Option<std::net::IpAddr>>,
    /// Streams that follow a cluster, of each key.
    pub(crate) watches: Tally<Fingerprint>,
    pub(crate) stop: CancellationToken,
}

/// The door itself: what requests are handed to.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) shared: Arc<Shared>,
    pub(crate) routes: Routes,
    health: tonic_health::server::HealthReporter,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    /// Cuts the connection off.
    pub(crate) cut: CancellationToken,
    /// When the last request came, in milliseconds since the connection was made.
    used: AtomicU64,
    began: Instant,
    /// Answers that have not been taken yet.
    pub(crate) owed: Owed,
}

impl Peer {
    pub(crate) fn print(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// Notes that it has asked for something.
    pub(crate) fn touch(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(millis, Ordering::Relaxed);
    }

    fn last_used(&self) -> Instant {
        self.began + Duration::from_millis(self.used.load(Ordering::Relaxed))
    }
}

/// Why a connection is over.
#[derive(Debug, Error)]
pub(crate) enum Over {
    /// Too many handshakes are under way, or come too fast.
    #[error("turned away: {0}")]
    Crowded(&'static str),
    /// The handshake took too long.
    #[error("no TLS handshake in {} ms", .0.as_millis())]
    Late(Duration),
    /// The handshake failed.
    #[error("the TLS handshake failed: {}", explain(.0))]
    Handshake(#[source] std::io::Error),
    /// One key has too many connections.
    #[error("turned away: its key has {0} connections open already")]
    Connections(usize),
    /// It came to a good end.
    #[error("the connection is over")]
    Ended,
    /// It was cut off because it took nothing in.
    #[error("cut off: it did not read what it had asked for")]
    Stalled,
    /// It broke, or broke the rules of HTTP/2.
    #[error("the connection broke: {0}")]
    Broken(#[source] hyper::Error),
}

fn explain(error: &std::io::Error) -> String {
    xlreg_tls::client_refused(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl Front {
    pub(crate) fn new(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let api = RegistryServer::new(Api::new(Arc::clone(&shared)))
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let (health, health_service) = tonic_health::server::health_reporter();
        let routes = Routes::new(api).add_service(health_service);
        Self { shared, routes: reflected(routes).prepare(), health }
    }

    /// Says that it serves, to those who ask the health service.
    pub(crate) async fn serving(&self) {
        self.health.set_serving::<RegistryServer<Api>>().await;
    }

    /// Says that it serves no more.
    pub(crate) async fn stopping(&self) {
        self.health.set_not_serving::<RegistryServer<Api>>().await;
    }

    /// Serves a client whose first bytes were those of TLS, until it is over. Returns who it was.
    pub(crate) async fn serve<S>(
        &self,
        stream: S,
        address: SocketAddr,
        by: Instant,
    ) -> (Option<Arc<Peer>>, Over)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (stream, peer) = match self.shake_hands(stream, address, by).await {
            Ok(shaken) => shaken,
            Err(over) => return (None, over),
        };
        let max = self.shared.bounds.connections_per_key_max;
        let Some(_present) = self.shared.presence.arrive(peer.print(), max) else {
            return (Some(peer), Over::Connections(max));
        };
        let over = self.converse(stream, &peer).await;
        (Some(peer), over)
    }

    /// All that a stranger can make us do: one handshake, without an RSA private operation.
    async fn shake_hands<S>(
        &self,
        stream: S,
        address: SocketAddr,
        by: Instant,
    ) -> Result<(tokio_rustls::server::TlsStream<S>, Arc<Peer>), Over>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Shared { bounds, handshakes, handshake_rates, tls, .. } = &*self.shared;
        let ip = address.ip();
        let crowded = Over::Crowded("too many handshakes are under way");
        let _of_all = handshakes.take(None, bounds.handshakes_max).ok_or(crowded)?;
        let crowded = Over::Crowded("too many handshakes of its address are under way");
        let _of_address =
            handshakes.take(Some(ip), bounds.handshakes_per_address_max).ok_or(crowded)?;
        let fast = |_| Over::Crowded("too many handshakes of its address in too short a time");
        handshake_rates.check(&ip).map_err(fast)?;
        let began = Instant::now();
        let accepting = TlsAcceptor::from(tls.config()).accept(stream);
        let stream = timeout_at(by, accepting)
            .await
            .map_err(|_| Over::Late(began.elapsed()))?
            .map_err(Over::Handshake)?;
        // The verifier has taken it for a key, so it is one; the handshake failed otherwise.
        let key = xlreg_tls::peer_key(stream.get_ref().1)
            .ok_or_else(|| Over::Handshake(std::io::ErrorKind::InvalidData.into()))?;
        let peer = Peer {
            key,
            address,
            cut: CancellationToken::new(),
            used: AtomicU64::new(0),
            began: Instant::now(),
            owed: Owed::default(),
        };
        Ok((stream, Arc::new(peer)))
    }

    /// Answers requests until one of us has had enough.
    async fn converse<S>(&self, stream: S, peer: &Arc<Peer>) -> Over
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Shared { bounds, stop, watches, .. } = &*self.shared;
        let service =
            TowerToHyperService::new(Entrance { front: self.clone(), peer: Arc::clone(peer) });
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_concurrent_streams(bounds.streams_per_connection_max)
                .max_header_list_size(HEADERS_BYTES_MAX)
                .max_pending_accept_reset_streams(RESETS_MAX)
                .max_local_error_reset_streams(RESETS_MAX)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .max_send_buf_size(SEND_BYTES_MAX)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WAIT)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut stopping = false;
        let mut overdue = pin!(peer.owed.too_long(bounds.request + bounds.stall));
        let mut idle = Instant::now() + bounds.idle;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended.map_or_else(Over::Broken, |()| Over::Ended),
                () = peer.cut.cancelled() => return Over::Stalled,
                () = overdue.as_mut() => return Over::Stalled,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(idle), if !stopping => {
                    idle = peer.last_used() + bounds.idle;
                    let watching = watches.of(&peer.print()) > 0;
                    if watching {
                        idle = Instant::now() + bounds.idle;
                    } else if idle <= Instant::now() {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }
}

/// Adds the service by which clients learn of all the others, in both of its versions.
fn reflected(routes: Routes) -> Routes {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(xlreg_api::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    match (v1, v1alpha) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        // The descriptors were generated from the same file as the service, and a test reads them.
        _ => routes,
    }
}
