//! What two `verify` tell each other: lines of JSON, each with all that its sender has found so far.
//!
//! The last line of each side says that it is done, and ends its half of the link. Which member's row it
//! is the link tells, and not the line.

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use xlreg::PeerStream;

use super::matrix::Row;

/// The application protocol by which they know each other.
pub(super) const PROTOCOL: &str = "xlreg-verify/1";

/// Bytes of a line: 64 cells with a reason each.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Lines that are read: one for each thing that can happen to a row, and some.
const LINES_MAX: usize = 256;

/// Tells our row until it is done, and returns the other side's as it was told last.
pub(super) async fn talk(link: PeerStream, own: watch::Receiver<Row>) -> Option<Row> {
    let rank = link.peer().rank()?;
    let (reader, writer) = tokio::io::split(link);
    let (told, ()) = tokio::join!(listen(reader), tell(writer, own));
    told.map(|row| row.told_by(rank))
}

/// Whether the other side hears it is its own affair.
async fn tell(mut writer: WriteHalf<PeerStream>, mut own: watch::Receiver<Row>) {
    loop {
        let row = own.borrow_and_update().clone();
        let Ok(mut line) = serde_json::to_vec(&row) else { return };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        if row.done {
            break;
        }
        if own.changed().await.is_err() {
            break;
        }
    }
    // If that fails, the other side has gone already.
    let _gone = writer.shutdown().await;
}

/// Reads until the other side is done, or says something else than rows.
async fn listen(reader: ReadHalf<PeerStream>) -> Option<Row> {
    read_rows(BufReader::new(reader)).await
}

async fn read_rows(mut reader: BufReader<impl AsyncRead + Unpin>) -> Option<Row> {
    let mut last = None;
    let mut line = Vec::new();
    for _ in 0..LINES_MAX {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        let row: Row = match read {
            Ok(1..) => serde_json::from_slice(&line).ok()?,
            _ => break,
        };
        let done = row.done;
        last = Some(row);
        if done {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Cell;
    use super::*;

    async fn read(bytes: &[u8]) -> Option<Row> {
        read_rows(BufReader::new(bytes)).await
    }

    #[tokio::test]
    async fn the_last_row_counts_and_rubbish_counts_for_nothing() {
        let mut row = Row::new(1);
        let mut lines = serde_json::to_vec(&row).unwrap();
        lines.push(b'\n');
        row.put(0, Cell::Reached { millis: 1.5 });
        lines.extend(serde_json::to_vec(&row).unwrap());
        lines.push(b'\n');
        assert_eq!(read(&lines).await, Some(row.clone()), "it broke off before it was done");
        assert_eq!(read(b"").await, None);
        for rubbish in [&b"{}\n"[..], b"\n", b"\xFF\xFF\n", b"[[[[[[", &[b'['; 1 << 20]] {
            assert_eq!(read(rubbish).await, None);
        }
        lines.extend(b"and so on\n");
        assert_eq!(read(&lines).await, None);
    }
}
