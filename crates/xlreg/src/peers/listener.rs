//! The side that is come to: handshakes side by side, and whoever is done is handed out.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{Connection, ServerConnection};
use tracing::{debug, info, warn};
use xlreg_core::PublicKey;
use xlreg_tls::{Admission, peer};

use super::error::{PeerError, TurnedAway};
use super::handshake::{Handshake, wire};
use super::stream::{Peer, PeerStream};
use super::{Peers, Task};

/// Links that wait to be accepted, and handshakes under way, together.
const LINKS_MAX: usize = 128;

/// How long a handshake may take.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Refusals kept for whoever looks at them; of more, the latest.
const REFUSALS_KEPT: usize = 64;

/// How long to leave a listener alone that has just failed to accept, say for want of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts links with peers. Made by [`Peers::listen`]; dropped, it closes its port.
///
/// Handshakes go on side by side, also while nobody accepts, and each has 5 s. With 128 under way or
/// done and not accepted, who comes takes the place of whoever has been shaking hands for longest; if
/// all are done, who comes waits in the system's backlog.
#[derive(Debug)]
pub struct PeerListener {
    address: io::Result<SocketAddr>,
    links: mpsc::Receiver<PeerStream>,
    refusals: broadcast::Sender<TurnedAway>,
    _task: Task<()>,
}

impl PeerListener {
    pub(super) fn start(
        listener: TcpListener,
        peers: Peers,
        admission: Arc<dyn Admission>,
    ) -> Self {
        let address = listener.local_addr();
        let (done, links) = mpsc::channel(LINKS_MAX);
        let refusals = broadcast::Sender::new(REFUSALS_KEPT);
        let door = Arc::new(Door { peers, admission, refusals: refusals.clone() });
        let task = Task(tokio::spawn(door.keep(listener, done)));
        Self { address, links, refusals, _task: task }
    }

    /// Waits for the next link. Who was refused is not told here: see [`Self::refusals`]. Cancelled,
    /// it loses nothing.
    ///
    /// # Errors
    /// If the listener is gone, which only a bug can bring about.
    pub async fn accept(&mut self) -> io::Result<PeerStream> {
        let link = self.links.recv().await;
        link.ok_or_else(|| io::Error::other("the task that shakes hands has ended"))
    }

    /// Who is turned away from now on, and why; also told to `tracing`, whoever has shown a certificate
    /// that is not taken at the level of info, others at that of debug. Who reads too slowly misses the
    /// older ones.
    #[must_use]
    pub fn refusals(&self) -> broadcast::Receiver<TurnedAway> {
        self.refusals.subscribe()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// What handshakes share.
struct Door {
    peers: Peers,
    admission: Arc<dyn Admission>,
    refusals: broadcast::Sender<TurnedAway>,
}

/// A handshake under way.
struct UnderWay {
    task: AbortHandle,
    address: SocketAddr,
}

impl Door {
    /// Accepts and shakes hands until it is aborted. Each handshake holds a place in the queue of
    /// those who are done, so that nobody has to wait there.
    async fn keep(self: Arc<Self>, listener: TcpListener, done: mpsc::Sender<PeerStream>) {
        let mut tasks = JoinSet::new();
        let mut under_way: VecDeque<UnderWay> = VecDeque::new();
        loop {
            under_way.retain(|shaking| !shaking.task.is_finished());
            let full = done.capacity() == 0;
            tokio::select! {
                Some(ended) = tasks.join_next() => { end(ended); }
                accepted = listener.accept(), if !full || !under_way.is_empty() => match accepted {
                    Ok((stream, address)) => {
                        self.make_room(&mut under_way, &mut tasks, &done).await;
                        let Ok(place) = done.clone().try_reserve_owned() else {
                            self.refuse(address, PeerError::Crowded);
                            continue;
                        };
                        let door = Arc::clone(&self);
                        let task = tasks.spawn(async move {
                            if let Some(link) = door.receive(stream, address).await {
                                place.send(link);
                            }
                        });
                        under_way.push_back(UnderWay { task, address });
                    }
                    Err(error) => {
                        warn!(%error, "accepting a connection failed; trying again");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Whoever has the listener accepts a link, and makes room.
                place = done.reserve(), if full && under_way.is_empty() => if place.is_err() {
                    return;
                },
            }
        }
    }

    /// Gives up the oldest handshakes until there is a place: those that mean well are long done.
    async fn make_room(
        &self,
        under_way: &mut VecDeque<UnderWay>,
        tasks: &mut JoinSet<()>,
        done: &mpsc::Sender<PeerStream>,
    ) {
        while done.capacity() == 0
            && let Some(oldest) = under_way.pop_front()
        {
            oldest.task.abort();
            self.refuse(oldest.address, PeerError::Crowded);
            // Only when it has ended its place is free.
            if let Some(ended) = tasks.join_next().await {
                end(ended);
            }
        }
    }

    /// Shakes hands with one who has come.
    async fn receive(&self, stream: TcpStream, address: SocketAddr) -> Option<PeerStream> {
        match timeout(HANDSHAKE_DEADLINE, self.shake(stream, address)).await {
            Ok(Ok(link)) => Some(link),
            Ok(Err(why)) => {
                self.refuse(address, why);
                None
            }
            Err(_) => {
                self.refuse(address, PeerError::Stalled(HANDSHAKE_DEADLINE));
                None
            }
        }
    }

    async fn shake(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
    ) -> Result<PeerStream, PeerError> {
        stream.set_nodelay(true).map_err(PeerError::HungUp)?;
        let tls = self.peers.tls().await?;
        let (config, verdict) = tls.server(Arc::clone(&self.admission), self.peers.protocols())?;
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(PeerError::of)?;
        let admission = Arc::clone(&self.admission);
        let check = move |connection: &Connection| peer::peer_key(connection, &*admission, None);
        let shaken = Handshake::new(connection, check).shake(&mut stream).await;
        let (connection, key) = shaken.map_err(|failed| match verdict.refused() {
            Some(refused) => PeerError::Refused(refused),
            None => failed.why,
        })?;
        self.link(stream, address, config, connection, key).await
    }

    /// Hands a connection that is through with its handshake to tokio-rustls.
    async fn link(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
        shaken: Connection,
        sig_key: PublicKey,
    ) -> Result<PeerStream, PeerError> {
        let Connection::Server(shaken) = shaken else {
            return Err(PeerError::HungUp(io::ErrorKind::InvalidData.into()));
        };
        let accept = TlsAcceptor::from(config).accept_with(wire(stream), |own| *own = shaken);
        let stream = accept.await.map_err(PeerError::HungUp)?;
        let claims = |id| peer::claims(stream.get_ref().1, id);
        let member = self.peers.known().identify(&sig_key.fingerprint(), claims);
        let peer = Peer { sig_key, address, member };
        Ok(PeerStream::new(stream.into(), peer))
    }

    fn refuse(&self, address: SocketAddr, why: PeerError) {
        match why {
            // Somebody has shown what is not good enough; that is worth an operator's look.
            PeerError::Refused(_) | PeerError::NotItsKey | PeerError::OldTls(_) => {
                info!(%address, %why, "turned away");
            }
            _ => debug!(%address, %why, "turned away"),
        }
        // Nobody has to look.
        let _unseen = self.refusals.send(TurnedAway { address, why: Arc::new(why) });
    }
}

/// A handshake's task has ended; if by a panic, that goes on here.
fn end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
