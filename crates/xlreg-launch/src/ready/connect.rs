//! Connecting, as a question.

use std::io::{self, ErrorKind};

use tokio::net::TcpStream;
use xlreg_core::Endpoint;

/// A connection to `endpoint`, or why there is none.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(endpoint.as_str()).await;
    let stream = connected.map_err(|error| format!("{} at {endpoint}", reason(&error)))?;
    if is_with_itself(&stream) {
        // Closed with a reset, so that the port is the program's again without delay.
        let _port_lingers = stream.set_zero_linger();
        return Err(format!("{} at {endpoint}", ErrorKind::ConnectionRefused));
    }
    Ok(stream)
}

/// Whether both ends of a connection are the same socket.
///
/// TCP can do that: while nobody listens on a port of the ephemeral range, and those of members are
/// of that range, the kernel may choose this very port to connect from.
fn is_with_itself(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(here), Ok(there)) if here == there)
}

/// The usual errors in words alone, the others as the system has them.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        kind @ (ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::TimedOut) => kind.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A socket connected to itself is told from one connected to somebody.
    #[tokio::test]
    async fn a_connection_with_itself_is_found_out() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(is_with_itself(&socket.connect(own).await.unwrap()));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_with_itself(&other));
    }
}
