//! Which of the two doors a client is at: told by its first bytes.
//!
//! The old wire begins with an RSA block, which is as good as random; TLS with a record that holds a
//! ClientHello. A random block looks like one in fewer than one of 2^40 cases, and its client would
//! connect again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that tell the doors apart: a record's header, and the header of the message in it.
const TELLING_BYTES: usize = 9;

/// What a client's first bytes say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// It speaks the old wire, or rubbish.
    Old,
    /// It speaks TLS.
    Modern,
    /// There are too few bytes yet.
    Unknown,
}

impl Door {
    /// Looks at all that has come so far.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // type handshake, version 3.x, length; ClientHello, length
        let looks_so = bytes.iter().zip(0..TELLING_BYTES).all(|(byte, place)| match place {
            0 => *byte == 0x16,
            1 => *byte == 0x03,
            2 => *byte <= 0x04,
            3 => *byte <= 0x40,
            5 => *byte == 0x01,
            6 => *byte == 0x00,
            _ => true,
        });
        match bytes {
            _ if !looks_so => Self::Old,
            [_, _, _, record_high, record_low, _, _, hello_high, hello_low, ..] => {
                let record = u32::from(*record_high) << 8 | u32::from(*record_low);
                let hello = u32::from(*hello_high) << 8 | u32::from(*hello_low);
                // A hello may go on in further records, but a record holds nothing else.
                if hello + 4 >= record { Self::Modern } else { Self::Old }
            }
            _ => Self::Unknown,
        }
    }
}

/// A stream some of whose bytes have been read already, and are read again.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    start: Vec<u8>,
    /// How many of them have been read again.
    taken: usize,
    stream: S,
}

impl<S> Rewound<S> {
    pub(crate) fn new(start: Vec<u8>, stream: S) -> Self {
        Self { start, taken: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.start.get(this.taken..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        this.taken += count;
        if this.taken >= this.start.len() {
            this.start = Vec::new();
            this.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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
        slices: &[io::IoSlice<'_>],
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The start of a ClientHello of 508 bytes, in one record.
    const HELLO: [u8; 12] = [0x16, 3, 1, 0x02, 0x00, 1, 0, 0x01, 0xfc, 3, 3, 0xaa];

    #[test]
    fn tls_is_known_by_nine_bytes_and_anything_else_by_its_first_wrong_one() {
        assert_eq!(Door::of(&[]), Door::Unknown);
        for end in 1..TELLING_BYTES {
            assert_eq!(Door::of(&HELLO[..end]), Door::Unknown, "{end}");
        }
        assert_eq!(Door::of(&HELLO), Door::Modern);
        for place in [0, 1, 2, 3, 5, 6] {
            let mut other = HELLO;
            other[place] ^= 0x80;
            assert_eq!(Door::of(&other[..=place]), Door::Old, "{place}");
            assert_eq!(Door::of(&other), Door::Old, "{place}");
        }
        // A record that is longer than the hello in it.
        assert_eq!(Door::of(&[0x16, 3, 1, 0x02, 0, 1, 0, 1, 0xfb]), Door::Old);
        // A hello that goes on in the next record.
        assert_eq!(Door::of(&[0x16, 3, 1, 0, 0x20, 1, 0, 1, 0xfc]), Door::Modern);
    }

    #[test]
    fn random_blocks_are_the_old_wires() {
        for _ in 0..10_000 {
            let block: [u8; 256] = xlreg_proto::keys::random();
            assert_eq!(Door::of(&block), Door::Old);
        }
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b" and more").await.unwrap();
        drop(near);
        let mut rewound = Rewound::new(b"start".to_vec(), far);
        let mut two = [0; 2];
        rewound.read_exact(&mut two).await.unwrap();
        let mut rest = String::new();
        rewound.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&two, rest.as_str()), (b"st", "art and more"));
    }
}
