//! A GET, as a question.

use std::fmt;
use std::future::pending;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use xlreg_core::Endpoint;

use super::{ReadinessError, connect};

/// The bytes that an answer may have until its headers end; the least that hyper can be told is 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The port of `http://` without one.
const PORT: u16 = 80;

/// What is asked of whom.
pub(super) struct Url {
    text: String,
    endpoint: Endpoint,
    /// Host and, if there was one, port: as a server that has several names must hear it.
    authority: String,
    path: PathAndQuery,
}

impl Url {
    /// Parses `http://HOST[:PORT][/PATH]`.
    pub(super) fn parse(text: String) -> Result<Self, ReadinessError> {
        match parts(&text) {
            Ok((endpoint, authority, path)) => Ok(Self { text, endpoint, authority, path }),
            Err(reason) => Err(ReadinessError::Url { text, reason }),
        }
    }

    /// Asks once. Only a status of 2xx is good; of the answer's body nothing is read.
    pub(super) async fn get(&self) -> Result<(), String> {
        let stream = connect::connect(&self.endpoint).await?;
        let status = self.status(TokioIo::new(stream)).await;
        match status.map_err(|error| format!("no HTTP answer from {self}: {error}"))? {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(format!("{self} answered {status}, and redirects are not followed"))
            }
            status => Err(format!("{self} answered {status}")),
        }
    }

    async fn status(
        &self,
        io: TokioIo<tokio::net::TcpStream>,
    ) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::get(self.path.as_str())
            .header(HOST, &self.authority)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io).await?;
        // The connection moves only while it is polled; how it ended, the answer tells better.
        let driven = async {
            let _ended = connection.await;
            pending().await
        };
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer?,
            never = driven => never,
        };
        Ok(answer.status())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whom to connect to, what to call them, and what to ask for.
fn parts(text: &str) -> Result<(Endpoint, String, PathAndQuery), String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().ok_or("there is no host")?;
    // A host is all there is only if there is no port; the rest, an endpoint checks better than a
    // URI, which takes a port out of range for none.
    let endpoint = match authority.host() == authority.as_str() {
        true => format!("{authority}:{PORT}"),
        false => authority.to_string(),
    };
    let endpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((endpoint, authority.to_string(), path))
}
