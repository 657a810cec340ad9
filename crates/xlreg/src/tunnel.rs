//! Private links for programs that know nothing of them: plain TCP on loopback, TLS in between.
//!
//! A tunnel stands beside a member's program. It has one door on loopback for each peer; whatever
//! connects to a door is carried over a link with that peer's key to the tunnel there, which
//! connects to the program beside it. The programs see plain connections from and to this machine, and
//! everyone else sees TLS 1.3 between the roster's keys.
//!
//! A carried connection is as TCP's own: one side may end its half and go on listening, whoever reads
//! slowly slows down the writer, since nothing but a fixed buffer lies between them, and a connection
//! that breaks on one side is reset on the other, never ended as if all had been said. One thing
//! differs: a door takes a connection before the peer has been asked, so a peer that can't be reached
//! shows by a reset and not by a refusal, after some seconds; and one whose program doesn't listen, after
//! one.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio::try_join;
use tracing::{debug, info, warn};

use crate::peers::{PeerStream, Peers, Target};

/// The application protocol of links between tunnels. A TLS program that offers none is carried, too.
pub const PROTOCOL: &str = "xlreg-tunnel/1";

/// Connections that are carried at once; more wait to be accepted. Each takes two sockets.
pub const CARRIED_MAX: usize = 1024;

/// Bytes of the buffer for each direction of a connection: what a slow reader holds up.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a peer may be out of reach before a connection to its door is reset.
const REACH_WITHIN: Duration = Duration::from_secs(5);

/// How long the program beside the tunnel may take to accept a connection.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(5);

/// How long it is tried again while nobody listens there, and the pause in between.
const PROGRAM_STARTS: Duration = Duration::from_secs(1);
const PROGRAM_PAUSE: Duration = Duration::from_millis(20);

/// How long to leave a listener alone that has just failed to accept, say for want of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A way to one peer: what connects to `listener` is carried to it.
#[derive(Debug)]
pub struct Door {
    /// Whom it leads to.
    pub peer: Target,
    /// Where the program beside us connects; on loopback, since it takes whoever comes.
    pub listener: TcpListener,
}

/// A tunnel that carries until it is dropped; then all that it carries breaks off.
pub struct Tunnel {
    tasks: JoinSet<()>,
}

impl Tunnel {
    /// Carries what comes to `doors` to the peers they lead to, and what peers bring to `endpoint`, the
    /// member's own, to the program that listens at `program`. Without `program`, peers bring nothing.
    #[must_use]
    pub fn start(
        peers: &Peers,
        doors: Vec<Door>,
        endpoint: Option<(TcpListener, SocketAddr)>,
    ) -> Self {
        let peers = peers.clone().with_protocols(&[PROTOCOL]);
        let room = Arc::new(Semaphore::new(CARRIED_MAX));
        let mut tasks = JoinSet::new();
        for door in doors {
            tasks.spawn(keep(door, peers.clone(), Arc::clone(&room)));
        }
        if let Some((listener, program)) = endpoint {
            tasks.spawn(receive(peers, listener, program, room));
        }
        Self { tasks }
    }

    /// Waits until it carries no more, which only a bug can bring about.
    pub async fn ended(&mut self) {
        let _ended = self.tasks.join_next().await;
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

/// Takes what comes to a door.
async fn keep(door: Door, peers: Peers, room: Arc<Semaphore>) {
    let mut carried = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        tokio::select! {
            accepted = door.listener.accept() => match accepted {
                Ok((local, _)) => {
                    carried.spawn(go_out(peers.clone(), door.peer.clone(), local, place));
                }
                Err(error) => {
                    warn!(peer = %door.peer, %error, "accepting a connection failed; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

async fn go_out(peers: Peers, to: Target, local: TcpStream, _place: OwnedSemaphorePermit) {
    match peers.connect_within(to, REACH_WITHIN).await {
        Ok(link) => carry(local, link).await,
        Err(unreached) => {
            warn!(%unreached, "a connection is not carried");
            reset(&local);
        }
    }
}

/// Takes what peers bring.
async fn receive(peers: Peers, listener: TcpListener, program: SocketAddr, room: Arc<Semaphore>) {
    let mut listener = peers.listen(listener);
    let mut carried = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        tokio::select! {
            link = listener.accept() => match link {
                Ok(link) => {
                    carried.spawn(come_in(link, program, place));
                }
                Err(error) => {
                    warn!(%error, "peers are not listened to any more");
                    return;
                }
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

async fn come_in(link: PeerStream, program: SocketAddr, _place: OwnedSemaphorePermit) {
    let connecting = timeout(PROGRAM_DEADLINE, reach(program)).await;
    match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(local) => carry(local, link).await,
        Err(error) => {
            info!(peer = %link.peer(), %program, %error, "the program here takes no connection");
            link.reset();
        }
    }
}

/// Connects to the program, which may be about to start. Whoever found nobody there by himself would be
/// refused and try again; but he has been let in at a door, and might take a reset for worse.
async fn reach(program: SocketAddr) -> io::Result<TcpStream> {
    let by = Instant::now() + PROGRAM_STARTS;
    loop {
        match TcpStream::connect(program).await {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < by =>
            {
                sleep(PROGRAM_PAUSE).await;
            }
            connected => return connected,
        }
    }
}

/// Carries both ways until both are over, or one breaks.
async fn carry(mut local: TcpStream, link: PeerStream) {
    if let Err(error) = local.set_nodelay(true) {
        debug!(%error, "small pieces may be delayed: TCP_NODELAY failed");
    }
    let peer = Arc::clone(link.peer());
    let (mut from_link, mut to_link) = split(link);
    let (mut from_local, mut to_local) = local.split();
    let carried =
        try_join!(pass_on(&mut from_local, &mut to_link), pass_on(&mut from_link, &mut to_local));
    match carried {
        Ok((out, back)) => debug!(%peer, out, back, "carried a connection to its end"),
        Err(error) => {
            debug!(%peer, %error, "a connection broke");
            reset(&local);
            from_link.unsplit(to_link).reset();
        }
    }
}

/// Passes on all that comes, and then its end. Returns how many bytes that was.
async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
    let mut passed = 0;
    loop {
        let mut come = ReadBuf::new(&mut buffer);
        poll_fn(|context| fill(Pin::new(&mut *from), context, &mut come)).await?;
        if come.filled().is_empty() {
            to.shutdown().await?;
            return Ok(passed);
        }
        to.write_all(come.filled()).await?;
        to.flush().await?;
        passed += come.filled().len() as u64;
    }
}

/// Reads until there is no more for now, or no more room. A link gives one TLS record at a time; written
/// one by one, each would cost a call of the system and wake the reader. What came before a break is of
/// no more use than it is to whoever reads from TCP itself.
fn fill(
    mut from: Pin<&mut impl AsyncRead>,
    context: &mut Context<'_>,
    come: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    while come.remaining() > 0 {
        let before = come.filled().len();
        match from.as_mut().poll_read(context, come) {
            Poll::Ready(read) => read?,
            Poll::Pending if before > 0 => break,
            Poll::Pending => return Poll::Pending,
        }
        if come.filled().len() == before {
            // Its end, which shows again at the next call.
            break;
        }
    }
    Poll::Ready(Ok(()))
}

/// Has the connection end by a reset when it is dropped: what came over it is not all.
fn reset(local: &TcpStream) {
    if let Err(error) = local.set_zero_linger() {
        debug!(%error, "a broken connection may look as if it had ended well");
    }
}
