//! One connection to a registry by the modern door: TLS, HTTP/2, and gRPC within.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::HandshakeKind;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;
use tracing::debug;
use xlreg_api::v2;
use xlreg_api::v2::registry_client::RegistryClient;
use xlreg_core::Endpoint;
use xlreg_tls::{ClientTls, Gathered, presented_root};

use crate::answers;
use crate::error::Error;
use crate::link::{ANSWER_DEADLINE, no_answer, reach};

/// Bytes of the largest answer: 64 members with large keys and eight endpoints each are 300 KiB.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that a registry may send ahead of our reading, on one stream and on all together. Rosters
/// come in one go with that.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const WINDOW_BYTES: u32 = 512 * 1024;

/// Bytes of an answer's headers: what we read is a status and its details.
const HEADERS_BYTES_MAX: u32 = 32 * 1024;

/// How often to see whether a registry is alive that we wait for, and how long it has to show it.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_WAIT: Duration = Duration::from_secs(10);

/// How long a connection may take to end in good order.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// The authority in our requests. It is not checked: the key is who a registry is.
const ORIGIN: &str = "https://xlreg";

/// What speaks to the registry.
pub(crate) type Client = RegistryClient<Sender>;

/// A connection to a registry that has shown that it holds the pinned key.
pub(crate) struct Line {
    client: Client,
    endpoint: Endpoint,
    /// The registry's root certificate, DER.
    root: Option<Vec<u8>>,
    /// Whether the handshake went on from an earlier one, and so cost no RSA operation.
    resumed: bool,
    driver: Driver,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, resumed, .. } = self;
        let mut line = f.debug_struct("Line");
        line.field("endpoint", endpoint).field("resumed", resumed).finish_non_exhaustive()
    }
}

/// Moves the connection's bytes; dropped, it ends the connection.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Line {
    /// Connects to the first of these addresses that answers.
    pub(crate) async fn open(endpoints: &[Endpoint], tls: &ClientTls) -> Result<Self, Error> {
        let (stream, endpoint) = reach(endpoints).await?;
        match timeout(ANSWER_DEADLINE, Self::shake_hands(stream, endpoint, tls)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(no_answer(endpoint.clone(), "the TLS handshake")),
        }
    }

    async fn shake_hands(
        stream: TcpStream,
        endpoint: &Endpoint,
        tls: &ClientTls,
    ) -> Result<Self, Error> {
        let connector = TlsConnector::from(tls.config());
        let stream = connector.connect(ClientTls::server_name(), Gathered::new(stream)).await;
        let stream = stream.map_err(|error| answers::handshake(endpoint, error))?;
        let session = stream.get_ref().1;
        let root = presented_root(session).map(|root| root.to_vec());
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        debug!(%endpoint, resumed, "the registry has shown its key");
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_WAIT)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) =
            handshake.map_err(|error| answers::broken(endpoint, "the greeting", &error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "the connection to the registry is over");
            }
        });
        let client = RegistryClient::with_origin(Sender(sender), http::Uri::from_static(ORIGIN))
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let endpoint = endpoint.clone();
        Ok(Self { client, endpoint, root, resumed, driver: Driver(driver) })
    }

    /// Asks, and waits for the answer's head; a stream's news come after it.
    pub(crate) async fn ask<Q, A, F>(
        &self,
        name: &'static str,
        call: impl FnOnce(Client, Request<Q>) -> F,
        request: Q,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        match timeout(ANSWER_DEADLINE, call(self.client.clone(), Request::new(request))).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.refusal(name, &status)),
            Err(_) => Err(no_answer(self.endpoint.clone(), name)),
        }
    }

    /// Who answers here, and how it is configured.
    pub(crate) async fn registry(&self) -> Result<v2::GetRegistryResponse, Error> {
        let call = async |mut client: Client, request| client.get_registry(request).await;
        self.ask("GetRegistry", call, v2::GetRegistryRequest {}).await
    }

    /// The next of a stream's messages; none at its end. Cancelled, it loses nothing.
    pub(crate) async fn next<T>(
        &self,
        name: &'static str,
        stream: &mut Streaming<T>,
    ) -> Result<Option<T>, Error> {
        stream.message().await.map_err(|status| self.refusal(name, &status))
    }

    /// What a status means that came for an answer.
    fn refusal(&self, name: &'static str, status: &Status) -> Error {
        answers::refusal(&self.endpoint, name, status)
    }

    /// That the connection was lost amid a request.
    pub(crate) fn lost(&self, request: &'static str) -> Error {
        let source = io::ErrorKind::UnexpectedEof.into();
        Error::Lost { endpoint: self.endpoint.clone(), request, source }
    }

    /// The registry's root certificate, DER: checked in the handshake.
    pub(crate) fn root(&self) -> Option<&[u8]> {
        self.root.as_deref()
    }

    /// Ends the connection in good order.
    pub(crate) async fn close(self) {
        let Self { client, mut driver, .. } = self;
        drop(client);
        if timeout(CLOSE_DEADLINE, &mut driver.0).await.is_err() {
            debug!("the connection to the registry was cut short");
        }
    }
}

/// hyper's half of a connection, as tonic wants it.
#[derive(Clone)]
pub(crate) struct Sender(http2::SendRequest<Full<Bytes>>);

/// What is on its way.
type Answering =
    Pin<Box<dyn Future<Output = Result<http::Response<hyper::body::Incoming>, BoxError>> + Send>>;

/// Whatever went wrong with a request.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Sender {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = BoxError;
    type Future = Answering;

    /// Always ready: that the connection is over is told by the request, with its reason.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// Every request of ours is one message, so its body is put together first: headers and body
    /// then leave in one piece, and the registry wakes up once for them.
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut sender = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = Full::new(body.collect().await?.to_bytes());
            Ok(sender.send_request(http::Request::from_parts(head, body)).await?)
        })
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use crate::Identity;
    use crate::testing::TestRegistry;

    /// A full handshake and a proof cost an RSA operation each; who comes back pays neither.
    #[tokio::test]
    async fn who_comes_back_resumes_also_as_a_clone_and_others_do_not() {
        let host = TestRegistry::start().await.unwrap();
        let (registry, again) = (host.registry().clone(), host.registry().clone());
        let a = Identity::generate("a".parse().unwrap()).await.unwrap();
        let b = Identity::generate("b".parse().unwrap()).await.unwrap();
        let mut resumed = Vec::new();
        for (registry, who) in [(&registry, &a), (&again, &a), (&registry, &b), (&again, &a)] {
            let line = registry.line(who).await.unwrap();
            // Tickets come with the first answer.
            line.registry().await.unwrap();
            assert!(line.root().is_some());
            resumed.push(line.resumed);
            line.close().await;
        }
        assert_eq!(resumed, [false, true, false, true]);
    }
}
