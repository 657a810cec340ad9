//! A GET, as a question.

use std::error::Error as StdError;
use std::fmt;
use std::future::pending;
use std::sync::Arc;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::http::uri::{PathAndQuery, Uri};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use xlreg_core::Endpoint;

use super::{ReadinessError, Tls, connect};

/// The bytes that an answer may have until its headers end; the least that hyper can be told is 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The port of `http://` without one.
const PORT: u16 = 80;

/// That of `https://`.
const TLS_PORT: u16 = 443;

/// What is asked of whom.
pub(super) struct Url {
    text: String,
    endpoint: Endpoint,
    /// Host and, if there was one, port: as a server that has several names must hear it.
    authority: String,
    path: PathAndQuery,
    /// For `https://`, and under which name the server must be known.
    tls: Option<(Tls, ServerName<'static>)>,
}

impl Url {
    /// Parses `http://HOST[:PORT][/PATH]`, or with `https`, if there is TLS.
    pub(super) fn parse(text: String, tls: Option<&Tls>) -> Result<Self, ReadinessError> {
        let is_tls = text.starts_with("https:");
        let tls = tls.filter(|_| is_tls);
        if is_tls && tls.is_none() {
            return Err(ReadinessError::Https);
        }
        let port = if is_tls { TLS_PORT } else { PORT };
        let parsed = parts(&text, port).and_then(|(endpoint, authority, path)| {
            let name = || ServerName::try_from(endpoint.host().to_owned());
            let tls = tls.map(|tls| name().map(|name| (Arc::clone(tls), name))).transpose();
            let tls = tls.map_err(|_| "no certificate can name that host".to_owned())?;
            Ok((endpoint, authority, path, tls))
        });
        match parsed {
            Ok((endpoint, authority, path, tls)) => {
                Ok(Self { text, endpoint, authority, path, tls })
            }
            Err(reason) => Err(ReadinessError::Url { text, reason }),
        }
    }

    /// Asks once. Only a status of 2xx is good; of the answer's body nothing is read.
    pub(super) async fn get(&self) -> Result<(), String> {
        let stream = connect::connect(&self.endpoint).await?;
        let status = match &self.tls {
            None => self.status(stream).await,
            Some((tls, name)) => {
                let connecting = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream);
                let stream = connecting.await;
                let stream = stream.map_err(|error| format!("no TLS 1.3 with {self}: {error}"))?;
                self.status(stream).await
            }
        };
        match status.map_err(|error| format!("no HTTP answer from {self}: {}", whole(&*error)))? {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => {
                Err(format!("{self} answered {status}, and redirects are not followed"))
            }
            status => Err(format!("{self} answered {status}")),
        }
    }

    async fn status(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send,
    ) -> Result<StatusCode, Box<dyn StdError + Send + Sync>> {
        let request = Request::get(self.path.as_str())
            .header(HOST, &self.authority)
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(io)).await?;
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

/// An error with what led to it, which hyper leaves to its reader.
fn whole(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whom to connect to, what to call them, and what to ask for.
fn parts(text: &str, port: u16) -> Result<(Endpoint, String, PathAndQuery), String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().ok_or("there is no host")?;
    // A host is all there is only if there is no port; the rest, an endpoint checks better than a
    // URI, which takes a port out of range for none.
    let endpoint = match authority.host() == authority.as_str() {
        true => format!("{authority}:{port}"),
        false => authority.to_string(),
    };
    let endpoint = endpoint.parse().map_err(|error| format!("{error}"))?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((endpoint, authority.to_string(), path))
}
