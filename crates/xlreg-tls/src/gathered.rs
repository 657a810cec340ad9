//! Sends small writes together: what each layer of a connection writes by itself leaves in one piece.
//!
//! A ticket, HTTP/2's settings, an answer's headers, its message and its trailers are written and
//! flushed one by one. Each would be a system call, a packet, and for the other side a reason to wake
//! up; with short sessions, most of their cost. So writes are kept until whoever owns the stream has
//! nothing more to do at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept at most; beyond them a write waits until they have left. Room for what one
/// turn of a connection writes: a handshake's flight, or a roster of a dozen members.
const GATHERED_BYTES_MAX: usize = 16 * 1024;

/// How often the owner finds nothing to read before what has gathered is sent. Once is when it wrote
/// the last of it; until the second time, tasks that it had woken have had their turn; until the
/// third, it has written what they handed it, which it does after it has read.
const ROUNDS: u8 = 3;

/// The same while answers are awaited, which are better sent with what is there than after it. A
/// connection reads once more for each request that it takes up, and another thread may be at work
/// on the answer; but most answers that take longer wait for a disk, so nobody waits for them.
const ROUNDS_AWAITING: u8 = 6;

/// How many answers are to be written to a stream soon. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Awaited(Arc<AtomicUsize>);

/// An answer that is awaited, until this is dropped.
#[derive(Debug)]
pub struct Awaiting(Awaited);

impl Awaited {
    /// Counts one more.
    #[must_use]
    pub fn one(&self) -> Awaiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Awaiting(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that sends small writes together.
///
/// **For owners that read whenever they are polled**, as HTTP/2 connections do and handshakes: what
/// has been written is sent when a read finds nothing for the third time, with no need for
/// anything to happen in between. While answers are [`Awaited`], that is the sixth time; after the last
/// of them, as for the first flight of a handshake, the first. To flush asks for these reads; it does not
/// wait until all is sent.
/// What a dropped stream has gathered is sent if the socket takes it at once, which matters for the
/// alert of a handshake that failed.
#[derive(Debug)]
pub struct Gathered<S: AsyncWrite + Unpin> {
    stream: S,
    waiting: Vec<u8>,
    /// Reads that have found nothing since the last write.
    rounds: u8,
    awaited: Awaited,
    /// Whether what waits is all there once none of these is left: it is the first flight of a handshake,
    /// or some of it was written while one was, and each is until it has been written.
    complete: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// A stream that gathers what is written to this one.
    pub fn new(stream: S) -> Self {
        Self::awaiting(stream, Awaited::default())
    }

    /// The same, which knows when there is more to come.
    pub fn awaiting(stream: S, awaited: Awaited) -> Self {
        Self { stream, waiting: Vec::new(), rounds: 0, awaited, complete: true }
    }

    /// Sends what has gathered, as far as the stream takes it now.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.drain(..sent);
        }
        // A connection that waits holds no buffer.
        self.waiting = Vec::new();
        self.complete = false;
        Poll::Ready(Ok(()))
    }

    /// Notes that there is more to send.
    fn wrote(&mut self) {
        self.rounds = 0;
        self.complete |= self.awaited.any();
    }

    /// Makes room for at least one more byte.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= GATHERED_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        Poll::Ready(Ok(GATHERED_BYTES_MAX - self.waiting.len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() || this.waiting.is_empty() {
            return read;
        }
        this.rounds = this.rounds.saturating_add(1);
        let rounds = if this.awaited.any() {
            ROUNDS_AWAITING
        } else if this.complete {
            1
        } else {
            ROUNDS
        };
        if this.rounds < rounds {
            context.waker().wake_by_ref();
        } else if let Poll::Ready(Err(error)) = this.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(context))?;
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.waiting.extend_from_slice(taken);
        self.wrote();
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = ready!(self.poll_room(context))?;
        let before = self.waiting.len();
        for slice in slices {
            let taken = slice.get(..room).unwrap_or(slice);
            self.waiting.extend_from_slice(taken);
            room -= taken.len();
        }
        self.wrote();
        Poll::Ready(Ok(self.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_empty() {
            return Pin::new(&mut self.stream).poll_flush(context);
        }
        // Whoever flushes is polled again, and reads again.
        context.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Gathered<S> {
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let _at_least_tried = self.poll_send(&mut context);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What has arrived at the other side so far.
    fn arrived(far: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut context = Context::from_waker(Waker::noop());
        let _pending = Pin::new(far).poll_read(&mut context, &mut buffer);
        buffer.filled().to_vec()
    }

    #[tokio::test]
    async fn what_is_written_leaves_when_there_is_nothing_to_read_for_the_third_time() {
        let (near, mut far) = duplex(1024);
        let mut near = Gathered::new(near);
        let mut context = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        near.write_all(b"hello").await.unwrap();
        assert!(Pin::new(&mut near).poll_read(&mut context, &mut buffer).is_pending());
        assert_eq!(arrived(&mut far), b"hello", "a handshake begins with one flight");

        near.write_all(b"head").await.unwrap();
        near.flush().await.unwrap();
        near.write_all(b" and body").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(arrived(&mut far), b"");
        for _ in 1..ROUNDS {
            assert!(Pin::new(&mut near).poll_read(&mut context, &mut buffer).is_pending());
            assert_eq!(arrived(&mut far), b"");
        }
        assert!(Pin::new(&mut near).poll_read(&mut context, &mut buffer).is_pending());
        assert_eq!(arrived(&mut far), b"head and body");
    }

    #[tokio::test]
    async fn while_answers_are_awaited_what_is_written_waits_for_three_reads_more() {
        let (near, mut far) = duplex(1024);
        let awaited = Awaited::default();
        let mut near = Gathered::awaiting(near, awaited.clone());
        let mut read_in_vain = async |near: &mut Gathered<DuplexStream>| {
            let mut context = Context::from_waker(Waker::noop());
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            assert!(Pin::new(near).poll_read(&mut context, &mut buffer).is_pending());
            arrived(&mut far)
        };
        near.write_all(b"hello").await.unwrap();
        assert_eq!(read_in_vain(&mut near).await, b"hello");
        let (first, second) = (awaited.one(), awaited.one());
        near.write_all(b"settings").await.unwrap();
        for _ in 0..ROUNDS {
            assert_eq!(read_in_vain(&mut near).await, b"");
        }
        near.write_all(b", answer").await.unwrap();
        drop(first);
        for _ in 1..ROUNDS_AWAITING {
            assert_eq!(read_in_vain(&mut near).await, b"");
        }
        assert_eq!(read_in_vain(&mut near).await, b"settings, answer");

        // The last of them has nothing to wait for.
        near.write_all(b"answer").await.unwrap();
        assert_eq!(read_in_vain(&mut near).await, b"");
        drop(second);
        near.write_all(b", trailers").await.unwrap();
        assert_eq!(read_in_vain(&mut near).await, b"answer, trailers");

        near.write_all(b"news").await.unwrap();
        for _ in 1..ROUNDS {
            assert_eq!(read_in_vain(&mut near).await, b"");
        }
        assert_eq!(read_in_vain(&mut near).await, b"news");
    }

    /// Nobody wakes the reader but the stream itself.
    #[tokio::test]
    async fn an_answer_that_is_awaited_needs_no_second_push() {
        let (near, far) = duplex(1024);
        let mut near = Gathered::new(near);
        let mut far = Gathered::new(far);
        let ask = async {
            near.write_all(b"ask").await.unwrap();
            near.flush().await.unwrap();
            let mut answer = [0; 6];
            near.read_exact(&mut answer).await.unwrap();
            answer
        };
        let answer = async {
            let mut question = [0; 3];
            far.read_exact(&mut question).await.unwrap();
            far.write_all(b"answer").await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask, answer);
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn more_than_is_gathered_waits_for_the_reader_and_loses_nothing() {
        let (near, mut far) = duplex(1000);
        let sent: Vec<u8> = (0..10 * GATHERED_BYTES_MAX).map(|at| at as u8).collect();
        let mut near = Gathered::new(near);
        let write = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut got), write);
        assert_eq!(read.unwrap(), sent.len());
        assert_eq!(got, sent);
    }

    #[tokio::test]
    async fn slices_are_taken_in_their_order_up_to_the_bound() {
        let (near, mut far) = duplex(1024);
        let mut near = Gathered::new(near);
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
        assert_eq!(near.write_vectored(&slices).await.unwrap(), 4);
        near.waiting.resize(GATHERED_BYTES_MAX - 3, 0);
        assert_eq!(near.write_vectored(&slices).await.unwrap(), 3);
        near.waiting.truncate(4);
        drop(near);
        assert_eq!(arrived(&mut far), b"abcd");
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_sends_what_it_can() {
        let (near, mut far) = duplex(3);
        let mut near = Gathered::new(near);
        near.write_all(b"alert").await.unwrap();
        drop(near);
        assert_eq!(arrived(&mut far), b"ale");
    }
}
