//! A registry that holds the right key, and is not what it should be.

use std::future::Future;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use xlreg::{Dialect, Registry, Version};
use xlreg_proto::channel::Channel;
use xlreg_proto::hello::{Hello, Secrets};
use xlreg_proto::keys::random;
use xlreg_proto::wire::XlRegMsg;

use crate::support::{credentials, home};

/// Its end of a connection.
pub(crate) struct Fake {
    stream: TcpStream,
    channel: Channel,
}

/// A registry that treats its only client, whose hello it has answered, as `script` says; when that
/// is over, it hangs up.
pub(crate) async fn scripted<F>(script: impl FnOnce(Fake) -> F + Send + 'static) -> Registry
where
    F: Future<Output = ()> + Send + 'static,
{
    unopened(|stream, packet| async move { script(Fake::open(stream, &packet).await).await }).await
}

/// The same, before the hello is opened.
pub(crate) async fn unopened<F>(
    script: impl FnOnce(TcpStream, Vec<u8>) -> F + Send + 'static,
) -> Registry
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, registry) = listen().await;
    tokio::spawn(async move {
        let (stream, packet) = accept(&listener).await;
        script(stream, packet).await;
    });
    registry
}

/// A registry that answers with these messages, one after another, whatever it is asked.
pub(crate) async fn answering(answers: Vec<XlRegMsg>) -> Registry {
    scripted(|mut fake| async move {
        for answer in answers {
            fake.hear().await;
            fake.answer(&answer).await;
        }
    })
    .await
}

/// A registry that hangs up on each client when it has given it its answers. What each was asked
/// last can be heard from the receiver.
pub(crate) async fn forgetful(
    sessions: Vec<Vec<XlRegMsg>>,
) -> (Registry, mpsc::UnboundedReceiver<XlRegMsg>) {
    let (listener, registry) = listen().await;
    let (asked, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answers in sessions {
            let (stream, packet) = accept(&listener).await;
            let mut fake = Fake::open(stream, &packet).await;
            let mut last = XlRegMsg::default();
            for answer in answers {
                last = fake.hear().await;
                fake.answer(&answer).await;
            }
            asked.send(last).unwrap();
        }
    });
    (registry, heard)
}

async fn listen() -> (TcpListener, Registry) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = Registry::new(credentials(listener.local_addr().unwrap()));
    let registry = registry.with_dialect(Dialect::V1_9);
    (listener, registry)
}

async fn accept(listener: &TcpListener) -> (TcpStream, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut packet = vec![0; home().keys().comms.block_bytes()];
    stream.read_exact(&mut packet).await.unwrap();
    (stream, packet)
}

impl Fake {
    async fn open(mut stream: TcpStream, packet: &[u8]) -> Self {
        let hello = Hello::open(&home().keys().comms, packet).unwrap();
        let secrets = Secrets::from_random(random());
        let (reply, channel) = hello.accept(Version::CURRENT, &secrets);
        stream.write_all(&reply).await.unwrap();
        Self { stream, channel }
    }

    /// Waits for a request, whatever it is.
    pub(crate) async fn hear(&mut self) -> XlRegMsg {
        loop {
            if let Some(message) = self.channel.opener.next_message().unwrap() {
                return message;
            }
            let mut buffer = Vec::new();
            assert_ne!(self.stream.read_buf(&mut buffer).await.unwrap(), 0, "nothing asked");
            self.channel.opener.push(&buffer);
        }
    }

    pub(crate) async fn answer(&mut self, message: &XlRegMsg) {
        let sealed = self.seal(message);
        self.send(&sealed).await;
    }

    pub(crate) fn seal(&mut self, message: &XlRegMsg) -> Vec<u8> {
        self.channel.sealer.seal(message, random)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The client may have had enough before all of it is written.
        let _gone = self.stream.write_all(bytes).await;
    }
}
