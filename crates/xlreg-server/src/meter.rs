//! What a connection may send that is no request, and how long it may leave what it is sent.
//!
//! TLS and HTTP/2 let a peer send much that asks for nothing: pings, settings, window updates, empty
//! frames, streams that are reset at once, records with nothing in them. None of it costs memory, but
//! all of it costs the time of a thread that serves everybody. So bytes are counted below TLS, where
//! nothing gets past: a connection has some to spend, and earns more by what it asks in good order.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that a connection may spend: a handshake of some KiB, what HTTP/2 lets it send ahead, the
/// headers of as many requests as it may have under way, and room to spare.
const CREDIT_BYTES: u64 = 256 * 1024;

/// How many of them come back each second: some hundred pings or window updates.
const CREDIT_BYTES_PER_SECOND: u64 = 16 * 1024;

/// What a connection has left to spend.
#[derive(Debug)]
pub(crate) struct Credit(Mutex<Account>);

#[derive(Debug)]
struct Account {
    bytes: u64,
    /// When it was last filled up.
    filled: Instant,
    offence: Option<Offence>,
}

/// What a connection was cut off for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offence {
    /// It sent more than it had to spend.
    Flood,
    /// It took nothing in, for too long.
    Stall,
}

impl Credit {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Account { bytes: CREDIT_BYTES, filled: Instant::now(), offence: None }))
    }

    /// Gives back what was spent in good order.
    pub(crate) fn earn(&self, bytes: usize) {
        self.lock().fill(bytes as u64);
    }

    /// Why the connection was cut off, if it was.
    pub(crate) fn offence(&self) -> Option<Offence> {
        self.lock().offence
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        let mut account = self.lock();
        account.fill_by_time();
        match account.bytes.checked_sub(bytes as u64) {
            Some(left) => account.bytes = left,
            None => return Err(account.end(Offence::Flood)),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    fn fill(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes).min(CREDIT_BYTES);
    }

    fn fill_by_time(&mut self) {
        let micros = u64::try_from(self.filled.elapsed().as_micros()).unwrap_or(u64::MAX);
        let earned = micros.saturating_mul(CREDIT_BYTES_PER_SECOND) / 1_000_000;
        // The rest of a byte is not lost.
        if earned > 0 {
            self.filled = Instant::now();
            self.fill(earned);
        }
    }

    fn end(&mut self, offence: Offence) -> io::Error {
        self.offence = Some(offence);
        match offence {
            Offence::Flood => io::ErrorKind::QuotaExceeded.into(),
            Offence::Stall => io::ErrorKind::TimedOut.into(),
        }
    }
}

/// A stream whose peer is held to its credit, and to taking something in from time to time.
pub(crate) struct Metered<S> {
    stream: S,
    credit: Arc<Credit>,
    /// How long the peer may take nothing in that it is sent.
    stall: Duration,
    /// Runs while it does.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, credit: Arc<Credit>, stall: Duration) -> Self {
        Self { stream, credit, stall, patience: None }
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            self.patience = None;
            return wrote;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(Err(self.credit.lock().end(Offence::Stall)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.credit.spend(buffer.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(context, wrote)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn spends(credit: &Credit, bytes: u64) -> bool {
        credit.spend(bytes as usize).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_spent_comes_back_by_time_and_by_what_is_earned_up_to_the_whole() {
        let credit = Credit::new();
        assert!(spends(&credit, CREDIT_BYTES) && spends(&credit, 0));
        credit.earn(10);
        assert!(spends(&credit, 10));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(spends(&credit, 2 * CREDIT_BYTES_PER_SECOND));
        tokio::time::advance(Duration::from_secs(3600)).await;
        credit.earn(usize::MAX);
        assert!(spends(&credit, CREDIT_BYTES));
        assert_eq!(credit.offence(), None);
        assert!(!spends(&credit, 1));
        assert_eq!(credit.offence(), Some(Offence::Flood));
    }

    /// Looking often must not lose what comes back between two looks.
    #[tokio::test(start_paused = true)]
    async fn parts_of_a_byte_come_back_too() {
        let credit = Credit::new();
        assert!(spends(&credit, CREDIT_BYTES));
        for _ in 0..1000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(spends(&credit, 0));
        }
        assert!(spends(&credit, CREDIT_BYTES_PER_SECOND * 95 / 100));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_too_long_is_cut_off_and_who_takes_a_little_is_not() {
        let stall = Duration::from_secs(10);
        let (mut near, far) = tokio::io::duplex(8);
        let credit = Arc::new(Credit::new());
        let mut metered = Metered::new(far, Arc::clone(&credit), stall);
        let taking = async {
            for _ in 0..3 {
                tokio::time::sleep(stall - Duration::from_secs(1)).await;
                near.read_exact(&mut [0]).await.unwrap();
            }
        };
        let began = Instant::now();
        let (wrote, ()) = tokio::join!(metered.write_all(&[7; 64]), taking);
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3 * 9 + 10);
        assert_eq!(credit.offence(), Some(Offence::Stall));
    }
}
