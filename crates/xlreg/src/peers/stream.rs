//! A link with a peer: bytes both ways, and who is at the other end.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tokio_rustls::rustls::HandshakeKind;
use tracing::debug;
use xlreg_core::{Fingerprint, Member, Name, NodeId, PublicKey};

use super::handshake::Wire;

/// Who is at the other end of a link: the holder of a sig key, as the handshake has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its sig key.
    pub sig_key: PublicKey,
    /// Its address: where we reached it, or where it came from.
    pub address: SocketAddr,
    /// Its entry in the roster, with its rank, as they were when the link came about; none of a
    /// client.
    pub member: Option<(usize, Arc<Member>)>,
}

impl Peer {
    /// Whether it is a member, and not a client of the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.member.is_some()
    }

    /// The member's rank.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.member.as_ref().map(|(rank, _)| *rank)
    }

    /// The member's name.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        self.member.as_ref().map(|(_, member)| &member.name)
    }

    /// The member's ID. A client is known by its key alone.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.member.as_ref().map(|(_, member)| member.id)
    }

    /// The SHA-256 of its sig key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.sig_key.fingerprint()
    }
}

/// Says who it is, for logs: `m1 (rank 1)`, or `client 3f…`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.member {
            Some((rank, member)) => write!(f, "{} (rank {rank})", member.name),
            None => write!(f, "client {}", self.fingerprint()),
        }
    }
}

/// A link with a peer: TLS 1.3 over TCP, with both keys proven.
///
/// To shut it down ends our half with close_notify, and the other half goes on until the peer does the
/// same. If the connection breaks without that, reading fails with
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), so nobody can cut a stream short unnoticed. What is
/// written may wait in a buffer of 64 KiB: flush what must go out now.
pub struct PeerStream {
    stream: TlsStream<Wire>,
    peer: Arc<Peer>,
}

impl PeerStream {
    pub(super) fn new(stream: TlsStream<Wire>, peer: Peer) -> Self {
        Self { stream, peer: Arc::new(peer) }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The application protocol that was agreed on, if any was offered.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// Whether the handshake went on from an earlier one, and so cost no RSA operation.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Ends the connection at once, by a reset: what was said over it is not all.
    pub fn reset(self) {
        if let Err(error) = self.stream.get_ref().0.get_ref().set_zero_linger() {
            debug!(%error, "no reset; without close_notify, the peer knows all the same");
        }
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.get_ref().local_addr()
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
