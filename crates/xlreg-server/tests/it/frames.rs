//! HTTP/2 by hand, for clients that do with it what no library would.
//!
//! Source: RFC 9113, sections 4 and 6; RFC 7541, section 6.2.2.

use std::net::SocketAddr;

use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::caller::{reach, secured, tls};
use crate::support::{sig_key, soon};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// How much of an answer a client takes on each stream: a setting.
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Calls that many make.
pub(crate) const GET_CLUSTER: &str = "/xlreg.v2.Registry/GetCluster";
pub(crate) const WATCH_CLUSTER: &str = "/xlreg.v2.Registry/WatchCluster";
pub(crate) const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether these are the headers of an answer with the status 200, which has a byte of its own.
    pub(crate) fn is_success(&self) -> bool {
        self.kind == HEADERS && self.payload.first() == Some(&0x88)
    }
}

/// A frame to send.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<_>>())
}

/// A header that is neither compressed nor remembered.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The headers of a call, as a block.
pub(crate) fn call_headers(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "https"),
        header(":path", path),
        header(":authority", "xlreg"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

/// The beginning of a call, whose message is still to come.
pub(crate) fn opening(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call_headers(path))
}

/// A whole call.
pub(crate) fn call(stream: u32, path: &str, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = (message.len() as u32).to_be_bytes();
    let data = [&[0][..], &length, &message].concat();
    [opening(stream, path), frame(DATA, END_STREAM, stream, &data)].concat()
}

/// A client that has shaken hands, and says what a test wants it to.
pub(crate) struct Raw {
    pub(crate) stream: TlsStream<TcpStream>,
    received: Vec<u8>,
    /// Whether it does not answer pings, as everybody must.
    pub(crate) deaf: bool,
}

impl Raw {
    /// One that has said nothing yet, from the address 127.0.0.`host`.
    pub(crate) async fn connect(host: u8, address: SocketAddr, number: usize) -> Self {
        let stream = secured(reach(host, address).await, &tls(sig_key(number))).await.unwrap();
        Self { stream, received: Vec::new(), deaf: false }
    }

    /// One that has said what HTTP/2 begins with.
    pub(crate) async fn greeted(
        host: u8,
        address: SocketAddr,
        number: usize,
        own: &[(u16, u32)],
    ) -> Self {
        let mut raw = Self::connect(host, address, number).await;
        raw.send(&[PREFACE, &settings(own)].concat()).await.unwrap();
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame; none when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        soon(async {
            loop {
                if let Some(frame) = self.parse() {
                    if (frame.kind, frame.flags, self.deaf) == (PING, 0, false) {
                        let _closed = self.send(&self::frame(PING, ACK, 0, &frame.payload)).await;
                    }
                    return Some(frame);
                }
                match self.stream.read_buf(&mut self.received).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    /// The next frame of this kind.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind != kind => {}
                found => return found,
            }
        }
    }

    /// All that comes before the server closes.
    pub(crate) async fn rest(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Hangs up, and waits until the server has noticed.
    pub(crate) async fn hang_up(mut self) {
        self.stream.shutdown().await.unwrap();
        self.rest().await;
    }

    fn parse(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, d, e, f, g] = *self.received.first_chunk::<9>()?;
        let end = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = self.received.get(9..end)?.to_vec();
        self.received.drain(..end);
        Some(Frame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), payload })
    }
}
