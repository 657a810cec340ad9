//! A TLS handshake from its first byte until both sides know whether it has succeeded.
//!
//! It is driven by hand, since what is computed in it is an RSA private operation, and perhaps a
//! question to a registry: that belongs off the async threads. What is done is handed to tokio-rustls.

use std::io::{self, Read as _};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::{Connection, HandshakeKind};
use tracing::debug;
use xlreg_core::PublicKey;
use xlreg_tls::PeerRefused;

use super::clients::LOOKUP_DEADLINE;
use super::error::PeerError;

/// Bytes read at once in a handshake. What follows it in the same read must fit into rustls' buffer,
/// which takes 16 KiB.
const READ_BYTES: usize = 8 * 1024;

/// Bytes read at once from a link: several records, since each read costs a call of the system.
const LINK_READ_BYTES: usize = 64 * 1024;

/// How long to listen on for a peer that has been told why it is refused: hung up on at once, it
/// might never read it.
const LINGER: Duration = Duration::from_millis(500);

/// Bytes that are read meanwhile, and forgotten.
const LINGER_BYTES: u64 = 64 * 1024;

/// How long to wait for word whether our certificate was taken, from a server that sends no tickets.
/// Peers of this library always send some, if they have to ask their registry first, after that: so it
/// is longer than they wait for the answer.
const GRACE: Duration = Duration::from_secs(LOOKUP_DEADLINE.as_secs() + 1);

/// What a link's bytes go through below TLS.
pub(super) type Wire = BufReader<TcpStream>;

pub(super) fn wire(stream: TcpStream) -> Wire {
    BufReader::with_capacity(LINK_READ_BYTES, stream)
}

/// Why a handshake failed, and whether it went on from an earlier one.
pub(super) struct Failed {
    pub(super) why: PeerError,
    pub(super) resumed: bool,
}

impl From<PeerError> for Failed {
    fn from(why: PeerError) -> Self {
        Self { why, resumed: false }
    }
}

/// Work on a blocking thread, which is not begun any more if nobody waits for it.
struct Work<T>(JoinHandle<T>);

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A handshake under way.
pub(super) struct Handshake<C> {
    connection: Connection,
    /// Whose the connection is, and whether they are let in, once that is known.
    check: C,
    peer: Option<PublicKey>,
}

impl<C> Handshake<C>
where
    C: Fn(&Connection) -> Result<PublicKey, PeerRefused> + Send + 'static,
{
    pub(super) fn new(connection: impl Into<Connection>, check: C) -> Self {
        Self { connection: connection.into(), check, peer: None }
    }

    /// Shakes hands. What the peer has said after that stays within the connection that comes back.
    pub(super) async fn shake(
        mut self,
        stream: &mut TcpStream,
    ) -> Result<(Connection, PublicKey), Failed> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            self.send(stream).await?;
            if let Some(peer) = self.peer.take() {
                if let Connection::Client(_) = &self.connection {
                    self.await_word(stream, &mut buffer).await?;
                }
                return Ok((self.connection, peer));
            }
            self = self.receive(stream, &mut buffer).await?;
        }
    }

    /// Reads once, and does what that calls for.
    async fn receive(mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> Result<Self, Failed> {
        let count = stream.read(buffer).await.map_err(PeerError::HungUp)?;
        if count == 0 {
            return Err(PeerError::HungUp(io::ErrorKind::UnexpectedEof.into()).into());
        }
        let bytes = buffer.get(..count).unwrap_or_default().to_vec();
        let mut work = Work(spawn_blocking(move || {
            let done = self.compute(&bytes);
            (self, done)
        }));
        let (mut this, done) = (&mut work.0).await.map_err(|gone| {
            // It panicked, or the runtime is shutting down.
            PeerError::HungUp(io::Error::other(gone))
        })?;
        match done {
            Ok(()) => Ok(this),
            Err(why) => {
                let resumed = this.connection.handshake_kind() == Some(HandshakeKind::Resumed);
                if this.connection.is_handshaking() {
                    // The alert that says why.
                    this.part(stream).await;
                }
                Err(Failed { why, resumed })
            }
        }
    }

    fn compute(&mut self, bytes: &[u8]) -> Result<(), PeerError> {
        feed(&mut self.connection, bytes)?;
        if !self.connection.is_handshaking() {
            self.peer = Some((self.check)(&self.connection)?);
        }
        Ok(())
    }

    /// Sends what is to be sent.
    async fn send(&mut self, stream: &mut TcpStream) -> Result<(), PeerError> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).map_err(PeerError::HungUp)?;
        }
        stream.write_all(&bytes).await.map_err(PeerError::HungUp)
    }

    /// Waits until the server has shown that it takes us: by a ticket, or by the first it has to say.
    /// In TLS 1.3 a client is done before the server has seen its certificate.
    async fn await_word(
        &mut self,
        stream: &mut TcpStream,
        buffer: &mut [u8],
    ) -> Result<(), PeerError> {
        let by = Instant::now() + GRACE;
        while !has_word(&mut self.connection) {
            let Ok(read) = timeout_at(by, stream.read(buffer)).await else {
                debug!("no word whether we are let in, which will do");
                return Ok(());
            };
            let count = read.map_err(PeerError::HungUp)?;
            if count == 0 {
                return Err(PeerError::HungUp(io::ErrorKind::UnexpectedEof.into()));
            }
            // No RSA any more: that can be done here.
            feed(&mut self.connection, buffer.get(..count).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Sends the last there is, and listens on for a while.
    async fn part(&mut self, stream: &mut TcpStream) {
        let parting = async {
            self.send(stream).await.ok()?;
            stream.shutdown().await.ok()?;
            let mut rest = stream.take(LINGER_BYTES);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.ok()
        };
        if timeout(LINGER, parting).await.is_err() {
            debug!("a peer that was refused has not hung up");
        }
    }
}

/// Has the connection take in these bytes.
fn feed(connection: &mut Connection, mut bytes: &[u8]) -> Result<(), PeerError> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes.by_ref()).map_err(PeerError::HungUp)?;
        connection.process_new_packets().map_err(PeerError::of)?;
    }
    Ok(())
}

fn has_word(connection: &mut Connection) -> bool {
    match connection {
        Connection::Client(client) => {
            client.tls13_tickets_received() > 0
                || client.process_new_packets().is_ok_and(|state| {
                    state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
                })
        }
        Connection::Server(_) => true,
    }
}
