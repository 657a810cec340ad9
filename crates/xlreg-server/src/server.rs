//! The listener: accepts within limits, serves, and drains.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::field::display;
use tracing::{debug, info, warn};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::session::{End, Identity};
use xlreg_store::{Engine, StoreError};
use xlreg_tls::{ServerTls, TlsError};

use crate::config::{Config, Connections};
use crate::connection::{Closed, Connection, Shared, Story};
use crate::door::{Door, Rewound};
use crate::lifetimes::{self, Presence};
use crate::modern::{self, Front, Over, Peer};
use crate::notary::Notary;
use crate::pool::Pool;
use crate::surroundings::Surroundings;
use crate::tally::{Tally, fair, site};
use crate::usage::Usage;

/// How long to leave a listener alone that has just failed to accept, say for want of file
/// descriptors. Sessions under way go on and free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a client's first that are read at once: a whole hello of TLS, as a rule.
const FIRST_BYTES: usize = 4096;

/// How often to look whether the leaf certificate must be renewed. It lasts for hours; but a
/// machine may have been suspended.
const RENEWAL_LOOK: Duration = Duration::from_secs(60);

/// A server about to run.
pub struct Server {
    listener: TcpListener,
    /// What sessions of the old wire share.
    shared: Arc<Shared>,
    /// The modern door.
    front: Front,
    counters: Arc<Counters>,
}

/// The registry's own keys.
#[derive(Clone, Debug)]
pub struct Keys {
    /// What opens hellos of the old wire.
    pub comms: Arc<PrivateKey>,
    /// What signs its certificates and rosters.
    pub sig: Arc<PrivateKey>,
}

/// A server that can't be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The operating system grants no threads, or does not say where it listens.
    #[error("starting the server: {0}")]
    Io(#[from] io::Error),
    /// No certificate could be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a server did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once, since their address had too many.
    pub turned_away: u64,
    /// Sessions that ended with Bye.
    pub completed: u64,
    /// Hellos of the old wire that cost an RSA operation, whether or not they did open.
    pub opened: u64,
    /// Sessions cut off because they had not ended when the drain did.
    pub aborted: u64,
    /// Why the store could not go on, if it could not.
    pub failure: Option<Arc<StoreError>>,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    turned_away: AtomicU64,
    completed: AtomicU64,
    /// Connections at once, for each address that has any.
    addresses: Tally<IpAddr>,
    /// Whether somebody has come to the old door, and found it shut.
    knocked: AtomicBool,
}

impl Server {
    /// A server on `listener` for the registry that `engine` keeps and that has these `keys`.
    /// `identity` is what it says of itself. Makes a certificate, which takes a millisecond.
    ///
    /// # Errors
    /// [`StartError`] if the operating system grants no threads, or no certificate can be made.
    pub fn new(
        listener: TcpListener,
        engine: Arc<dyn Engine>,
        keys: &Keys,
        identity: Identity,
        config: &Config,
    ) -> Result<Self, StartError> {
        let listen = listener.local_addr()?;
        let (shared, front) = doors(listen.ip(), engine, keys, identity, config)?;
        Ok(Self { listener, shared, front, counters: Arc::default() })
    }

    /// Whether the old wire is served.
    #[must_use]
    pub fn serves_old_wire(&self) -> bool {
        self.front.shared.legacy
    }

    /// Serves until `stop` is cancelled or the store fails; then ceases to accept, lets each
    /// session reach a safe point, aborts those that do not within the drain's time, and closes
    /// the store.
    pub async fn run(self, stop: CancellationToken) -> Report {
        let mut sessions = JoinSet::new();
        let engine = Arc::clone(&self.shared.engine);
        let modern::Shared { presence, bounds, tls, .. } = &*self.front.shared;
        let mut chores = JoinSet::new();
        let expiring = lifetimes::run(Arc::clone(&engine), presence.clone(), bounds.owner_grace);
        chores.spawn(expiring);
        chores.spawn(renew(Arc::clone(tls)));
        self.front.serving().await;
        let failure = tokio::select! {
            () = self.accept_all(&mut sessions) => None,
            () = stop.cancelled() => None,
            failure = engine.failure() => Some(failure),
        };
        let Self { listener, shared, front, counters } = self;
        drop(listener);
        front.stopping().await;
        shared.stop.cancel();
        let aborted = drain(&mut sessions, shared.bounds.drain).await;
        chores.shutdown().await;
        let closed = engine.close().await;
        Report {
            accepted: counters.accepted.load(Ordering::Relaxed),
            turned_away: counters.turned_away.load(Ordering::Relaxed),
            completed: counters.completed.load(Ordering::Relaxed),
            opened: shared.pool.opened(),
            aborted,
            failure: failure.or(closed.err()),
        }
    }

    /// Accepts as long as there is room; without, connections wait in the kernel's backlog.
    async fn accept_all(&self, sessions: &mut JoinSet<()>) {
        let room = Arc::new(Semaphore::new(self.shared.bounds.max));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer, permit, sessions),
                    Err(error) => {
                        warn!(%error, "accepting a connection failed; trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = sessions.join_next() => reap(ended),
            }
        }
    }

    /// Starts a session, unless its address has too many.
    fn take(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        sessions: &mut JoinSet<()>,
    ) {
        let number = self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let Connections { max, max_per_address, .. } = self.shared.bounds;
        // This one has its permit already.
        let left = permit.semaphore().available_permits() + 1;
        let max = fair(max_per_address, max, max.saturating_sub(left));
        let Some(place) = self.counters.addresses.take(site(peer.ip()), max) else {
            self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
            debug!(%peer, "turned away: {max} connections from this address are open");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "answers may be delayed: TCP_NODELAY failed");
        }
        let (shared, front) = (Arc::clone(&self.shared), self.front.clone());
        let counters = Arc::clone(&self.counters);
        sessions.spawn(async move {
            Guest { number, peer, shared, front, counters }.serve(stream).await;
            drop((place, permit));
        });
    }
}

/// What the connections of each door share: the old one's, then the modern one's.
pub(crate) fn doors(
    listen: IpAddr,
    engine: Arc<dyn Engine>,
    keys: &Keys,
    identity: Identity,
    config: &Config,
) -> Result<(Arc<Shared>, Front), StartError> {
    let identity = Arc::new(identity);
    let mut hosts = vec![listen.to_string()];
    hosts.extend(identity.entry.endpoints.iter().map(|at| at.host().to_owned()));
    let id = identity.entry.id;
    let tls = ServerTls::new(Arc::clone(&keys.sig), id, hosts, SystemTime::now())?;
    let clock = engine.clock().clone();
    let notary = Notary::new(Arc::clone(&keys.sig), Arc::clone(&identity), clock);
    let stop = CancellationToken::new();
    let usage = Usage::new(&config.modern);
    let request_rates = Arc::clone(&usage.address_rates);
    let registration_rates = Arc::clone(&usage.registration_rates);
    let front = Front::new(modern::Shared {
        engine: Arc::clone(&engine),
        identity: Arc::clone(&identity),
        tls: Arc::new(tls),
        notary: Arc::new(notary),
        bounds: config.modern,
        access: config.access.clone(),
        legacy: config.access.legacy.unwrap_or(listen.is_loopback()),
        presence: Presence::new(engine.clock().clone()),
        usage,
        stop: stop.clone(),
        around: Surroundings::default(),
        #[cfg(feature = "simulation")]
        flaw: None,
    });
    let shared = Shared {
        engine,
        pool: Pool::start(&keys.comms, config.connections.unproven_hellos)?,
        identity,
        hello_bytes: keys.comms.block_bytes(),
        bounds: config.connections,
        stop,
        around: Surroundings::default(),
        request_rates,
        registration_rates,
    };
    Ok((Arc::new(shared), front))
}

/// A client that has been accepted, and what it meets.
struct Guest {
    number: u64,
    peer: SocketAddr,
    shared: Arc<Shared>,
    front: Front,
    counters: Arc<Counters>,
}

impl Guest {
    async fn serve(self, mut stream: TcpStream) {
        let Self { number, peer, .. } = self;
        let usage = &self.front.shared.usage;
        let hello = self.shared.bounds.hello;
        let accepted = Instant::now();
        let by = accepted + hello;
        let opening = tokio::select! {
            opening = timeout_at(by, Self::first_bytes(&mut stream)) => opening,
            () = self.shared.stop.cancelled() => Ok(Err(Closed::Stopping)),
        };
        let late = Closed::Late { waited_for: "hello", allowed: hello };
        // In a box each, or whoever is silent would hold the memory of both.
        let completed = match opening.unwrap_or(Err(late)) {
            Ok((Door::Modern, start)) => {
                let stream = Rewound::new(start, stream);
                let (who, over) = Box::pin(self.front.serve(stream, peer, by)).await;
                tell_modern(number, peer, who.as_deref(), &over, usage);
                matches!(over, Over::Ended)
            }
            Ok((_, start)) if self.front.shared.legacy => {
                let shared = Arc::clone(&self.shared);
                let from = site(peer.ip());
                let connection = Connection::new(stream, start, shared, from, accepted);
                let (story, closed) = Box::pin(connection.run()).await;
                tell(number, peer, &story, &closed, usage);
                matches!(closed, Closed::Ended(End::Bye))
            }
            Ok(_) => {
                if !self.counters.knocked.swap(true, Ordering::Relaxed) {
                    warn!(
                        %peer,
                        "a client of the old wire, or a port scan, was turned away; --legacy would \
                         serve it. This is told once"
                    );
                }
                tell(number, peer, &Story::default(), &Closed::Shut, usage);
                false
            }
            Err(closed) => {
                tell(number, peer, &Story::default(), &closed, usage);
                false
            }
        };
        if completed {
            self.counters.completed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads until it is clear what the client speaks. Whoever waits holds no memory for it.
    async fn first_bytes(stream: &mut TcpStream) -> Result<(Door, Vec<u8>), Closed> {
        let mut bytes = Vec::new();
        loop {
            let read = poll_fn(|context| {
                let mut buffer = [MaybeUninit::uninit(); FIRST_BYTES];
                let mut buffer = ReadBuf::uninit(&mut buffer);
                ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
                bytes.extend_from_slice(buffer.filled());
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            if read.await.map_err(Closed::Broken)? == 0 {
                return Err(Closed::HungUp);
            }
            match Door::of(&bytes) {
                Door::Unknown => {}
                door => return Ok((door, bytes)),
            }
        }
    }
}

/// Renews the certificate when it is time to. That costs an RSA operation, so it is done elsewhere.
async fn renew(tls: Arc<ServerTls>) {
    loop {
        tokio::time::sleep(RENEWAL_LOOK).await;
        let tls = Arc::clone(&tls);
        let renewed = tokio::task::spawn_blocking(move || tls.renew_if_due(SystemTime::now()));
        match renewed.await {
            Ok(Ok(true)) => info!("the TLS certificate was renewed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                warn!(%error, "the TLS certificate could not be renewed; trying again")
            }
            Err(error) => warn!(%error, "renewing the TLS certificate broke off; trying again"),
        }
    }
}

/// A connection's story in a line.
fn tell_modern(number: u64, peer: SocketAddr, who: Option<&Peer>, over: &Over, usage: &Usage) {
    let key = who.map(|who| display(who.print()));
    match over {
        Over::Stalled | Over::Flooded | Over::Connections(_)
            if usage.failures_told.check(&site(peer.ip())).is_ok() =>
        {
            info!(session = number, %peer, key, "connection over: {over}");
        }
        _ => debug!(session = number, %peer, key, "connection over: {over}"),
    }
}

/// A session's story in a line, at the level of who should care.
fn tell(number: u64, peer: SocketAddr, story: &Story, closed: &Closed, usage: &Usage) {
    let Story { dialect, member, requests, cluster, rank } = story;
    let dialect = dialect.map(display);
    let name = member.as_ref().map(|member| display(&member.name));
    let id = member.as_ref().map(|member| display(member.id));
    let cluster = cluster.as_ref().map(|cluster| display(&cluster.name));
    let changed = cluster.is_some();
    // A macro, since the level must be known where the event is.
    macro_rules! story {
        ($level:ident) => {
            $level!(
                session = number, %peer, dialect, name, id, cluster, rank, requests,
                "session over: {closed}"
            )
        };
    }
    match closed {
        Closed::Store(_) => story!(warn),
        // Nobody need know of these, or every port scan would fill the log; unless there is
        // something to know.
        Closed::Ended(End::Bye)
        | Closed::HungUp
        | Closed::Broken(_)
        | Closed::Shut
        | Closed::Stopping
            if !changed =>
        {
            story!(debug);
        }
        _ => {
            let told = if changed { &usage.changes_told } else { &usage.failures_told };
            match told.check(&site(peer.ip())) {
                Ok(()) => story!(info),
                Err(_) => story!(debug),
            }
        }
    }
}

/// Waits for sessions to end by themselves, then ends them. Returns how many it had to.
async fn drain(sessions: &mut JoinSet<()>, at_most: Duration) -> u64 {
    let all_over = async {
        while let Some(ended) = sessions.join_next().await {
            reap(ended);
        }
    };
    if timeout(at_most, all_over).await.is_ok() {
        return 0;
    }
    let aborted = sessions.len() as u64;
    sessions.shutdown().await;
    aborted
}

/// A session that panicked is a bug; it must not go unnoticed, nor end the others.
fn reap(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session panicked; this is a bug, please report it");
    }
}
