//! The modern door: TLS 1.3 and gRPC on one connection.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::{Service as _, ServiceExt as _};
use xlreg_api::fault::Fault;
use xlreg_api::v2::registry_server::RegistryServer;
use xlreg_core::{Fingerprint, PublicKey, Refusal};
use xlreg_proto::session::Identity;
use xlreg_store::Engine;
use xlreg_tls::{Awaited, Gathered, ServerTls};

use crate::config::{Access, Modern};
use crate::door::Rewound;
use crate::entrance::{Entrance, Owed, Registrations, refusal};
use crate::handshakes::Handshake;
use crate::lifetimes::Presence;
use crate::meter::{Credit, Metered, Offence};
use crate::notary::Notary;
use crate::service::Api;
use crate::surroundings::Surroundings;
use crate::tally::{Tally, site};
use crate::usage::Usage;

/// Bytes of a request's headers. Stock clients send some hundred.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of a request: two keys of 4096 bits, or 256 fingerprints, with room to spare.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Bytes that a client may send ahead, on one stream and in all: no request is longer. It is what
/// HTTP/2 begins with, so that nothing need be said about it.
const WINDOW_BYTES: u32 = 65_535;

/// Bytes of an answer that wait for a client to take them, for each stream.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// What the paths of the registry's own calls begin with.
const OWN_PATHS: &str = "/xlreg.v2.Registry/";

/// Streams that a client may open and reset at once before it is cut off (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// What each client of HTTP/2 says first: RFC 9113, section 3.4.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a silent connection is asked whether it is there, and how long it has to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);

/// That a handshake's place has gone to another address.
const CUT: &str = "its address has most of all handshakes under way, and another needed room";

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
    /// How much clients have, and how fast they may have more.
    pub(crate) usage: Usage,
    pub(crate) stop: CancellationToken,
    pub(crate) around: Surroundings,
    #[cfg(feature = "simulation")]
    pub(crate) flaw: Option<xlreg_store::simulation::Flaw>,
}

/// An answer on its way.
pub(crate) type Served = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The door itself: what requests are handed to.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) shared: Arc<Shared>,
    /// The registry's own service, which nearly all requests are for.
    api: RegistryServer<Api>,
    /// Health, reflection, and the answer to what is not there.
    others: Routes,
    health: tonic_health::server::HealthReporter,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    /// What counts as its address.
    pub(crate) site: IpAddr,
    /// Cuts the connection off.
    pub(crate) cut: CancellationToken,
    /// What it may send that is no request.
    pub(crate) credit: Arc<Credit>,
    /// Its streams that follow a cluster, or anything else without an end.
    pub(crate) following: Tally<()>,
    /// Answers that have not been taken yet.
    pub(crate) owed: Owed,
    /// How many of them are due at once.
    pub(crate) awaited: Awaited,
    /// Its registrations that are under way.
    pub(crate) registrations: Registrations,
    /// When the last request came, in milliseconds since the connection was made.
    used: AtomicU64,
    began: Instant,
}

impl Peer {
    fn new(key: PublicKey, address: SocketAddr, credit: Arc<Credit>, awaited: Awaited) -> Self {
        Self {
            key,
            address,
            site: site(address.ip()),
            cut: CancellationToken::new(),
            credit,
            following: Tally::default(),
            owed: Owed::default(),
            awaited,
            registrations: Registrations::default(),
            used: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// One whose handshake is taken for granted.
    #[cfg(any(feature = "simulation", feature = "fuzzing"))]
    pub(crate) fn simulated(key: PublicKey, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self::new(key, address, Arc::new(Credit::new()), Awaited::default()))
    }

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

    /// How its connection came to an end.
    fn judge(&self, ended: hyper::Result<()>) -> Over {
        match (self.credit.offence(), ended) {
            (Some(Offence::Flood), _) => Over::Flooded,
            (Some(Offence::Stall), _) => Over::Stalled,
            (None, Err(error)) => Over::Broken(error),
            (None, Ok(())) => Over::Ended,
        }
    }
}

/// A client whose handshake is done, and the place that it had for it. In a box wherever it goes: it
/// is of some KiB, and whatever holds it over an await would keep room for it.
pub(crate) struct Shaken<S> {
    stream: S,
    peer: Arc<Peer>,
    handshake: Handshake,
}

/// What is spoken over after the handshake.
type Private<S> = Rewound<TlsStream<Gathered<Metered<S>>>>;

/// Why a connection is over.
#[derive(Debug, Error)]
pub(crate) enum Over {
    /// Too many handshakes are under way, or come too fast.
    #[error("turned away: {0}")]
    Crowded(&'static str),
    /// The handshake took too long.
    #[error("no handshake of TLS and HTTP/2 in {} ms", .0.as_millis())]
    Late(Duration),
    /// The handshake failed.
    #[error("the TLS handshake failed: {}", explain(.0))]
    Handshake(#[source] std::io::Error),
    /// It does not speak HTTP/2, or hung up before it did.
    #[error("what came after the TLS handshake is not HTTP/2")]
    NotHttp,
    /// One key has too many connections.
    #[error("turned away: its key has {0} connections open already")]
    Connections(usize),
    /// It came to a good end.
    #[error("the connection is over")]
    Ended,
    /// It was cut off because it took nothing in.
    #[error("cut off: it did not read what it had asked for")]
    Stalled,
    /// It was cut off because it sent what asks for nothing.
    #[error("cut off: it sent more than its requests account for")]
    Flooded,
    /// It was cut off because it had nothing to ask, and did not close.
    #[error("cut off: it was idle, and did not close when asked to")]
    Idle,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
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
        let others = Routes::new(health_service);
        Self { shared, api, others: reflected(others).prepare(), health }
    }

    /// Has the service answer that the request is for.
    pub(crate) fn answer<B>(&self, request: Request<B>) -> Served
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError> + Send,
    {
        if request.uri().path().starts_with(OWN_PATHS) {
            // It is always ready.
            self.api.clone().call(request)
        } else {
            Box::pin(self.others.clone().oneshot(request))
        }
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
        // Each stage has memory of its own, lest a connection holds that of all of them for as long as it
        // lasts.
        let shaken = tokio::select! {
            shaken = Box::pin(self.shake_hands(stream, address, by)) => shaken,
            () = self.shared.stop.cancelled() => Err(Over::Stopping),
        };
        let shaken = match shaken {
            Ok(shaken) => shaken,
            Err(over) => return (None, over),
        };
        let peer = Arc::clone(&shaken.peer);
        let max = self.shared.bounds.connections_per_key_max;
        let over = match self.shared.presence.arrive(peer.print(), max) {
            Some(_present) => Box::pin(self.converse(shaken)).await,
            None => Box::pin(self.turn_away(shaken, max, by)).await,
        };
        (Some(peer), over)
    }

    /// All that a stranger can make us do: one handshake, without an RSA private operation.
    async fn shake_hands<S>(
        &self,
        stream: S,
        address: SocketAddr,
        by: Instant,
    ) -> Result<Box<Shaken<Private<S>>>, Over>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let site = site(address.ip());
        let handshake = self.shared.begin_handshake(site)?;
        let cut = handshake.cut.clone();
        tokio::select! {
            greeted = self.greet(stream, address, by) => {
                let (stream, peer) = greeted?;
                Ok(Box::new(Shaken { stream, peer: Arc::new(peer), handshake }))
            }
            () = cut.cancelled() => Err(Over::Crowded(CUT)),
        }
    }

    /// The handshakes of TLS and of HTTP/2.
    async fn greet<S>(
        &self,
        stream: S,
        address: SocketAddr,
        by: Instant,
    ) -> Result<(Private<S>, Peer), Over>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Shared { bounds, tls, .. } = &*self.shared;
        let (credit, awaited) = (Arc::new(Credit::new()), Awaited::default());
        let stream = Metered::new(stream, Arc::clone(&credit), bounds.stall);
        let stream = Gathered::awaiting(stream, awaited.clone());
        let began = Instant::now();
        let late = |_| Over::Late(began.elapsed());
        let accepting = TlsAcceptor::from(tls.config()).accept(stream);
        let mut stream = timeout_at(by, accepting).await.map_err(late)?.map_err(Over::Handshake)?;
        // The verifier has taken it for a key, so it is one; the handshake failed otherwise.
        let key = xlreg_tls::peer_key(stream.get_ref().1)
            .ok_or_else(|| Over::Handshake(std::io::ErrorKind::InvalidData.into()))?;
        // hyper would wait for this without end.
        let mut preface = [0; PREFACE.len()];
        let read = timeout_at(by, stream.read_exact(&mut preface)).await.map_err(late)?;
        if read.is_err() || preface != PREFACE {
            return Err(Over::NotHttp);
        }
        let peer = Peer::new(key, address, credit, awaited);
        Ok((Rewound::new(preface.to_vec(), stream), peer))
    }

    /// Answers requests until one of us has had enough.
    pub(crate) async fn converse<S>(&self, shaken: Box<Shaken<S>>) -> Over
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Shaken { stream, peer, handshake } = *shaken;
        drop(handshake);
        let Shared { bounds, stop, .. } = &*self.shared;
        let service = Entrance { front: self.clone(), peer: Arc::clone(&peer) };
        let connection = http2(bounds).serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let answer_time = bounds.request + bounds.stall;
        let mut overdue = pin!(peer.owed.too_long(answer_time));
        let mut closing = Closing::No;
        let mut look = Instant::now() + bounds.idle;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return peer.judge(ended),
                () = peer.cut.cancelled() => return Over::Stalled,
                () = overdue.as_mut() => return Over::Stalled,
                () = stop.cancelled(), if closing != Closing::Stopping => {
                    // From here on the drain's time counts.
                    closing = Closing::Stopping;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(look), if closing == Closing::No => {
                    let following = peer.following.of(&()) > 0;
                    let used = if following { Instant::now() } else { peer.last_used() };
                    look = used + bounds.idle;
                    if look <= Instant::now() {
                        // What is under way has the time that it always has.
                        (closing, look) = (Closing::Idle, Instant::now() + answer_time);
                        connection.as_mut().graceful_shutdown();
                    }
                }
                () = sleep_until(look), if closing == Closing::Idle => return Over::Idle,
            }
        }
    }

    /// Tells a client, whatever it asks, that its key has too many connections, and closes. That is
    /// still a part of the handshake, in its time and its places.
    async fn turn_away<S>(&self, shaken: Box<Shaken<S>>, max: usize, by: Instant) -> Over
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Shaken { stream, peer: _, handshake } = *shaken;
        let told = CancellationToken::new();
        let service = service_fn(|_: Request<Incoming>| {
            told.cancel();
            let fault = Fault::from(Refusal::Quota { what: "connections", max });
            std::future::ready(Ok::<_, Infallible>(refusal(fault)))
        });
        let connection = http2(&self.shared.bounds).serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let asked = timeout_at(by, async {
            tokio::select! {
                _over = connection.as_mut() => {}
                () = told.cancelled() => {}
                () = handshake.cut.cancelled() => {}
                () = self.shared.stop.cancelled() => {}
            }
        });
        if asked.await.is_ok() {
            connection.as_mut().graceful_shutdown();
            let _closed = timeout_at(by, connection).await;
        }
        Over::Connections(max)
    }
}

#[cfg(feature = "fuzzing")]
impl<S> Shaken<Metered<S>> {
    /// A client that needs no handshake.
    pub(crate) fn simulated(front: &Front, peer: Arc<Peer>, stream: S) -> Result<Box<Self>, Over> {
        let Shared { bounds, .. } = &*front.shared;
        let handshake = front.shared.begin_handshake(peer.site)?;
        let stream = Metered::new(stream, Arc::clone(&peer.credit), bounds.stall);
        Ok(Box::new(Self { stream, peer, handshake }))
    }
}

impl Shared {
    /// Takes the place of a handshake.
    fn begin_handshake(&self, site: IpAddr) -> Result<Handshake, Over> {
        let Self { bounds, usage, .. } = self;
        let (max, of_address) = (bounds.handshakes_max, bounds.handshakes_per_address_max);
        let handshake = usage.handshakes.begin(site, max, of_address).map_err(Over::Crowded)?;
        let fast = |_| Over::Crowded("too many handshakes of its address in too short a time");
        usage.handshake_rates.check(&site).map_err(fast)?;
        Ok(handshake)
    }
}

/// Whether a connection takes no more requests, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    Idle,
    Stopping,
}

/// HTTP/2 within our bounds.
fn http2(bounds: &Modern) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
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
        .keep_alive_timeout(PING_WAIT);
    builder
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
