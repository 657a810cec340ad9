//! The listener: accepts within limits, serves, and drains.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::field::display;
use tracing::{debug, info, warn};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::session::{End, Identity};
use xlreg_store::{Engine, StoreError};

use crate::config::Connections;
use crate::connection::{Closed, Connection, Shared, Story};
use crate::pool::Pool;

/// How long to leave a listener alone that has just failed to accept, say for want of file
/// descriptors. Sessions under way go on and free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server about to run.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
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
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Server {
    /// A server on `listener` for the registry that `engine` keeps and `comms_key` opens hellos
    /// for. `identity` is what it says of itself.
    ///
    /// # Errors
    /// What the operating system says if it grants no threads.
    pub fn new(
        listener: TcpListener,
        engine: Arc<dyn Engine>,
        comms_key: &Arc<PrivateKey>,
        identity: Identity,
        bounds: Connections,
    ) -> io::Result<Self> {
        let shared = Shared {
            engine,
            pool: Pool::start(comms_key)?,
            identity: Arc::new(identity),
            hello_bytes: comms_key.block_bytes(),
            bounds,
            stop: CancellationToken::new(),
        };
        Ok(Self { listener, shared: Arc::new(shared), counters: Arc::default() })
    }

    /// Serves until `stop` is cancelled or the store fails; then ceases to accept, lets each
    /// session reach a safe point, aborts those that do not within the drain's time, and closes
    /// the store.
    pub async fn run(self, stop: CancellationToken) -> Report {
        let mut sessions = JoinSet::new();
        let engine = Arc::clone(&self.shared.engine);
        let failure = tokio::select! {
            () = self.accept_all(&mut sessions) => None,
            () = stop.cancelled() => None,
            failure = engine.failure() => Some(failure),
        };
        let Self { listener, shared, counters } = self;
        drop(listener);
        shared.stop.cancel();
        let aborted = drain(&mut sessions, shared.bounds.drain).await;
        let closed = engine.close().await;
        Report {
            accepted: counters.accepted.load(Ordering::Relaxed),
            turned_away: counters.turned_away.load(Ordering::Relaxed),
            completed: counters.completed.load(Ordering::Relaxed),
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
        let max = self.shared.bounds.max_per_address;
        let Some(place) = Place::take(&self.counters, peer.ip(), max) else {
            self.counters.turned_away.fetch_add(1, Ordering::Relaxed);
            debug!(%peer, "turned away: {max} connections from this address are open");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "answers may be delayed: TCP_NODELAY failed");
        }
        let connection = Connection::new(stream, Arc::clone(&self.shared));
        let counters = Arc::clone(&self.counters);
        let session = async move {
            let (story, closed) = connection.run().await;
            if matches!(closed, Closed::Ended(End::Bye)) {
                counters.completed.fetch_add(1, Ordering::Relaxed);
            }
            tell(number, peer, &story, &closed);
            drop((place, permit));
        };
        sessions.spawn(session);
    }
}

/// A connection's place among those of its address; freed when dropped.
struct Place {
    counters: Arc<Counters>,
    address: IpAddr,
}

impl Place {
    fn take(counters: &Arc<Counters>, address: IpAddr, max: usize) -> Option<Self> {
        let mut addresses = counters.lock_addresses();
        let taken = addresses.entry(address).or_insert(0);
        if *taken >= max {
            return None;
        }
        *taken += 1;
        Some(Self { counters: Arc::clone(counters), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.counters.lock_addresses();
        if let Some(taken) = addresses.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

impl Counters {
    fn lock_addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Nothing under this lock panics, so a poisoned one holds sound counts all the same.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's story in a line, at the level of who should care.
fn tell(number: u64, peer: SocketAddr, story: &Story, closed: &Closed) {
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
        Closed::Ended(End::Bye) | Closed::HungUp | Closed::Broken(_) | Closed::Stopping
            if !changed =>
        {
            story!(debug);
        }
        _ => story!(info),
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
