//! The modern door: TLS 1.3 and gRPC on one connection.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Service, ServiceExt as _};
use xlreg_api::fault::Fault;
use xlreg_api::v2::ErrorReason;
use xlreg_api::v2::registry_server::RegistryServer;
use xlreg_core::{Fingerprint, PublicKey};
use xlreg_proto::session::Identity;
use xlreg_store::Engine;
use xlreg_tls::{Gathered, ServerTls};

use crate::config::{Access, Modern};
use crate::lifetimes::Presence;
use crate::notary::Notary;
use crate::rates::Rates;
use crate::service::Api;
use crate::tally::{Place, Tally};

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
    pub(crate) notary: Arc<Notary>,
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
    routes: Routes,
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
    owed: Owed,
}

impl Peer {
    pub(crate) fn print(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    fn touch(&self) {
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
    ) -> Result<(TlsStream<Gathered<S>>, Arc<Peer>), Over>
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
        let accepting = TlsAcceptor::from(tls.config()).accept(Gathered::new(stream));
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

/// Where the requests of one connection come in: each is counted, and told whose it is.
#[derive(Clone)]
struct Entrance {
    front: Front,
    peer: Arc<Peer>,
}

impl Service<Request<hyper::body::Incoming>> for Entrance {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<hyper::body::Incoming>) -> Self::Future {
        self.peer.touch();
        if let Err(wait) = self.front.shared.request_rates.check(&self.peer.print()) {
            let status = Status::from(limited("requests", wait));
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let taken = match self.front.take_request(&self.peer, request.uri().path()) {
            Ok(taken) => taken,
            Err(fault) => {
                let status = Status::from(fault);
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let answer = self.front.routes.clone().oneshot(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| match taken {
                Some(taken) => Body::new(Answer { body, _taken: taken }),
                None => body,
            }))
        })
    }
}

/// Calls whose answers are streams without an end, and held to bounds of their own.
const STREAMS: [&str; 4] = [
    "/xlreg.v2.Registry/WatchCluster",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

impl Front {
    /// Counts a request until its answer has been taken: an answer that nobody takes is memory.
    fn take_request(&self, peer: &Arc<Peer>, path: &str) -> Result<Option<Taken>, Fault> {
        if STREAMS.contains(&path) {
            return Ok(None);
        }
        let Shared { bounds, requests, requests_of, .. } = &*self.shared;
        let crowded = || limited("requests under way", bounds.stall);
        let places = (
            requests.take(peer.print(), bounds.requests_per_key_max).ok_or_else(crowded)?,
            requests_of
                .take(Some(peer.address.ip()), bounds.requests_per_address_max)
                .ok_or_else(crowded)?,
            requests_of.take(None, bounds.requests_max).ok_or_else(crowded)?,
        );
        Ok(Some(Taken { number: peer.owed.begin(), peer: Arc::clone(peer), _places: places }))
    }
}

/// Answers of one connection that have not been taken, and since when.
#[derive(Debug, Default)]
struct Owed(Mutex<(u64, BTreeMap<u64, Instant>)>);

impl Owed {
    fn begin(&self) -> u64 {
        let mut owed = self.lock();
        owed.0 += 1;
        let number = owed.0;
        owed.1.insert(number, Instant::now());
        number
    }

    fn end(&self, number: u64) {
        self.lock().1.remove(&number);
    }

    /// Waits until one has been owed for `limit`.
    async fn too_long(&self, limit: Duration) {
        loop {
            // Numbers rise with time.
            let oldest = self.lock().1.first_key_value().map(|(_, since)| *since);
            match oldest {
                Some(since) if since.elapsed() >= limit => return,
                Some(since) => sleep_until(since + limit).await,
                None => sleep(limit).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Instant>)> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is counted.
struct Taken {
    number: u64,
    peer: Arc<Peer>,
    _places: (Place<Fingerprint>, Place<Option<std::net::IpAddr>>, Place<Option<std::net::IpAddr>>),
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.peer.owed.end(self.number);
    }
}

/// An answer that is counted until it has been taken, or given up.
struct Answer {
    body: Body,
    _taken: Taken,
}

impl hyper::body::Body for Answer {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// That something came too often.
pub(crate) fn limited(what: &str, wait: Duration) -> Fault {
    let message = format!("too many {what} in too short a time");
    Fault::new(ErrorReason::RateLimited, message).with("what", what).retry_after(wait)
}
