//! What programs write, line by line, whatever they write.

use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Bytes read at once, and the most that a line may have: what is longer comes in pieces.
const LINE_BYTES_MAX: usize = 32 * 1024;

/// Pieces of output on their way to whoever prints them. Programs that write faster than that wait,
/// as they would for a slow terminal.
pub const OUTPUT_QUEUE: usize = 64;

/// How long to read on when a program has ended: what it left in the pipe comes at once, and the
/// pipe stays open only if something of it escaped its process group.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// The most that is read after a program has ended: as much as a pipe can hold. Whoever goes on
/// writing into it has escaped us.
const LEFT_BYTES_MAX: usize = 1024 * 1024;

/// Where a program wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// One or more whole lines of one program.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// The member.
    pub rank: usize,
    /// Where it wrote.
    pub stream: Stream,
    /// The lines, at most 32 KiB, each with its newline; but for the last of a program that ended
    /// without one, and for pieces of a line that is longer.
    pub text: Vec<u8>,
}

/// Reads a program's pipe to its end: until it is closed, or nothing more comes once the program
/// has `ended`, or nobody wants it any more.
pub(crate) async fn pump(
    mut pipe: impl AsyncRead + Unpin,
    rank: usize,
    stream: Stream,
    output: mpsc::Sender<Output>,
    ended: CancellationToken,
) {
    let mut held = Vec::with_capacity(LINE_BYTES_MAX);
    let mut quiet = pin!(quiet(&ended));
    let mut left = LEFT_BYTES_MAX;
    loop {
        let room = LINE_BYTES_MAX - held.len();
        let mut limited = (&mut pipe).take(room as u64);
        let read = tokio::select! {
            biased;
            read = limited.read_buf(&mut held) => read.unwrap_or(0),
            () = &mut quiet => 0,
        };
        if ended.is_cancelled() {
            left = left.saturating_sub(read);
        }
        let over = read == 0 || left == 0;
        let whole = match held.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if !over => last + 1,
            None if !over && held.len() < LINE_BYTES_MAX => continue,
            _ => held.len(),
        };
        // A copy, so that the room stays: the next read is as long as that.
        let text: Vec<_> = held.drain(..whole).collect();
        if !text.is_empty() && output.send(Output { rank, stream, text }).await.is_err() {
            return;
        }
        if over {
            return;
        }
    }
}

async fn quiet(ended: &CancellationToken) {
    ended.cancelled().await;
    sleep(LAST_WORDS).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pumped(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        use tokio::io::AsyncWriteExt as _;
        let (mut write, read) = tokio::io::duplex(100_000);
        let (send, mut receive) = mpsc::channel(OUTPUT_QUEUE);
        let pump = tokio::spawn(pump(read, 0, Stream::Stdout, send, CancellationToken::new()));
        for piece in pieces {
            write.write_all(piece).await.unwrap();
        }
        drop(write);
        let mut texts = Vec::new();
        while let Some(output) = receive.recv().await {
            texts.push(output.text);
        }
        pump.await.unwrap();
        texts
    }

    #[tokio::test]
    async fn lines_come_whole_and_the_last_one_too() {
        let texts = pumped(&[b"one\ntw", b"o\nthr", b"ee"]).await;
        assert_eq!(texts.concat(), b"one\ntwo\nthree");
        let (last, lines) = texts.split_last().unwrap();
        assert!(lines.iter().all(|text| text.ends_with(b"\n")), "{texts:?}");
        assert_eq!(last, b"three");
    }

    /// Short ones would cost the programs' time, and fill the queue with next to nothing.
    #[tokio::test]
    async fn much_comes_in_long_pieces() {
        let lines = b"not a divisor of the buffer\n".repeat(10_000);
        let texts = pumped(&[&lines]).await;
        assert_eq!(texts.concat(), lines);
        assert!(texts.len() <= lines.len().div_ceil(LINE_BYTES_MAX - 100) + 8, "{}", texts.len());
    }

    #[tokio::test]
    async fn a_line_without_end_comes_in_pieces() {
        let texts = pumped(&[&[b'x'; 70_000], b"\ny\n"]).await;
        assert_eq!(texts.concat().len(), 70_003);
        assert!(texts.iter().all(|text| text.len() <= LINE_BYTES_MAX));
    }
}
