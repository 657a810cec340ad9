//! One connection to a registry over the old wire, in either dialect, and how to get one at all.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;
use xlreg_core::{Endpoint, Version};
use xlreg_proto::channel::{Channel, Dialect};
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::random;
use xlreg_proto::message::{Reply, Request};
use xlreg_proto::text::Credentials;

use crate::error::{Error, Problem, Reason};

/// Bytes read at once: a whole message, usually.
const READ_BYTES: usize = 16 * 1024;

/// How long to wait for a connection to one address.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait for an answer. A registry may hold one for some seconds until there is news.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A connection whose hello has been answered.
pub(crate) struct Link {
    stream: TcpStream,
    channel: Channel,
    endpoint: Endpoint,
    /// What the server says it is.
    pub(crate) version: Version,
}

impl Link {
    /// Connects to the first of the registry's addresses that answers, and says hello.
    pub(crate) async fn open(credentials: &Credentials, dialect: Dialect) -> Result<Self, Error> {
        let (stream, endpoint) = reach(&credentials.endpoints).await?;
        Self::hello(stream, endpoint, credentials, dialect).await
    }

    async fn hello(
        mut stream: TcpStream,
        endpoint: &Endpoint,
        credentials: &Credentials,
        dialect: Dialect,
    ) -> Result<Self, Error> {
        let secrets = Secrets::from_random(random());
        let (hello, packet) =
            ClientHello::new(dialect, &credentials.comms_key, credentials.version, secrets)?;
        let mut reply = vec![0; hello.reply_bytes()];
        let exchange = async {
            stream.write_all(&packet).await?;
            stream.read_exact(&mut reply).await
        };
        let endpoint = endpoint.clone();
        match timeout(ANSWER_DEADLINE, exchange).await {
            Err(_) => return Err(no_answer(endpoint, "the hello")),
            Ok(Err(source)) => return Err(Error::HungUp { endpoint, source }),
            Ok(Ok(_)) => {}
        }
        match hello.finish(&reply) {
            Ok((channel, version)) => Ok(Self { stream, channel, endpoint, version }),
            Err(source) => Err(Error::NotTheRegistry { endpoint, source }),
        }
    }

    /// Asks, and waits for the answer. An Error message becomes [`Error::Refused`].
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Reply, Error> {
        let name = request.tag().as_str_name();
        let sealed = self.channel.sealer.seal(&request.encode(), random);
        let by = Instant::now() + ANSWER_DEADLINE;
        let endpoint = || self.endpoint.clone();
        let lost = |source| Error::Lost { endpoint: endpoint(), request: name, source };
        match timeout_at(by, self.stream.write_all(&sealed)).await {
            Err(_) => return Err(no_answer(endpoint(), name)),
            Ok(written) => written.map_err(lost)?,
        }
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let message = loop {
            let next = self.channel.opener.next_message();
            if let Some(message) = next.map_err(|_| protocol(name, Problem::TooLong))? {
                break message;
            }
            buffer.clear();
            match timeout_at(by, self.stream.read_buf(&mut buffer)).await {
                Err(_) => return Err(no_answer(endpoint(), name)),
                Ok(Ok(0)) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read.map_err(lost)?,
            };
            self.channel.opener.push(&buffer);
        };
        match Reply::decode(message).map_err(|bad| protocol(name, bad.into()))? {
            Reply::Error(text) => {
                Err(Error::Refused { request: name, reason: Reason::from_text(&text) })
            }
            reply => Ok(reply),
        }
    }

    /// Says goodbye. The registry has done all it was asked, whether it hears this or not.
    pub(crate) async fn bye(mut self) {
        if let Err(error) = self.ask(&Request::Bye).await {
            debug!(%error, "no goodbye");
        }
    }
}

/// Connects to the first of these addresses that answers.
pub(crate) async fn reach(endpoints: &[Endpoint]) -> Result<(TcpStream, &Endpoint), Error> {
    let mut failure = None;
    for endpoint in endpoints {
        match connect(endpoint).await {
            Ok(stream) => return Ok((stream, endpoint)),
            Err(source) => {
                debug!(%endpoint, %source, "no answer");
                failure = Some(Error::Unreachable { endpoint: endpoint.clone(), source });
            }
        }
    }
    Err(failure.expect("there is at least one endpoint; whoever reads a registry's checks that"))
}

async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let address = (endpoint.host(), endpoint.port());
    let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) fn protocol(request: &'static str, problem: Problem) -> Error {
    Error::Protocol { request, problem }
}

pub(crate) fn no_answer(endpoint: Endpoint, request: &'static str) -> Error {
    Error::NoAnswer { endpoint, request, waited: ANSWER_DEADLINE }
}
