//! A server on a port of its own, and clients that speak the bare protocol to it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use xlreg_core::limits::Limits;
use xlreg_core::{ClusterKey, Member, Name, NodeId, Version};
use xlreg_proto::channel::{Channel, Dialect};
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::{PrivateKey, random};
use xlreg_proto::message::{Claim, Reply, Request};
use xlreg_proto::session::Identity;
use xlreg_server::config::Connections;
use xlreg_server::{Config, Keys, Report, Server};
use xlreg_store::{Engine, LocalEngine};

/// The registry's ID.
pub(crate) const REGISTRY: NodeId = NodeId::from_bytes([250; 20]);

/// The registry's key, and that of all members who are not to differ by it.
pub(crate) fn key() -> &'static Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(PrivateKey::generate().unwrap()))
}

/// Bounds under which nothing in a test ends by itself.
pub(crate) fn patient() -> Connections {
    let long = Duration::from_secs(600);
    Connections { hello: long, idle: long, session: long, hold: long, ..Connections::default() }
}

/// A server that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) report: JoinHandle<Report>,
}

impl Running {
    pub(crate) async fn start(engine: Arc<dyn Engine>, bounds: Connections) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let entry = Arc::new(Member {
            id: REGISTRY,
            name: name("xlReg"),
            attrs: 0,
            comms_key: key().public().clone(),
            sig_key: key().public().clone(),
            endpoints: vec![address.to_string().parse().unwrap()],
            entry_signature: None,
        });
        let identity = Identity { version: Version::CURRENT, entry };
        let keys = Keys { comms: Arc::clone(key()), sig: Arc::clone(key()) };
        let config = Config { connections: bounds, ..Config::default() };
        let server = Server::new(listener, engine, &keys, identity, &config).unwrap();
        let stop = CancellationToken::new();
        let report = tokio::spawn(server.run(stop.clone()));
        Self { address, stop, report }
    }

    /// One whose registry is gone with it.
    pub(crate) async fn in_memory(bounds: Connections) -> Self {
        Self::start(Arc::new(LocalEngine::in_memory(Limits::default())), bounds).await
    }

    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        self.report.await.unwrap()
    }
}

/// A client whose hello has been answered.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    channel: Channel,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, dialect: Dialect) -> Self {
        let (mut stream, hello) = Self::knock(address, dialect).await;
        let mut reply = vec![0; hello.reply_bytes()];
        stream.read_exact(&mut reply).await.unwrap();
        Self { stream, channel: hello.finish(&reply).unwrap().0 }
    }

    /// One that is known to the registry.
    pub(crate) async fn known(address: SocketAddr, number: u8) -> Self {
        let mut client = Self::connect(address, Dialect::V1_9).await;
        let reply = client.ask(&member(number)).await;
        assert!(matches!(reply, Reply::MemberOk { .. }), "{reply:?}");
        client
    }

    /// Connects and says hello, whether or not anybody listens.
    pub(crate) async fn knock(address: SocketAddr, dialect: Dialect) -> (TcpStream, ClientHello) {
        let secrets = Secrets::from_random(random());
        let (hello, packet) =
            ClientHello::new(dialect, key().public(), Version::CURRENT, secrets).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        (stream, hello)
    }

    pub(crate) async fn send(&mut self, request: &Request) {
        let sealed = self.channel.sealer.seal(&request.encode(), random);
        self.stream.write_all(&sealed).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> Reply {
        loop {
            if let Some(message) = self.channel.opener.next_message().unwrap() {
                return Reply::decode(message).unwrap();
            }
            let mut buffer = Vec::new();
            assert_ne!(self.stream.read_buf(&mut buffer).await.unwrap(), 0, "no reply");
            self.channel.opener.push(&buffer);
        }
    }

    pub(crate) async fn ask(&mut self, request: &Request) -> Reply {
        self.send(request).await;
        self.receive().await
    }

    /// Says goodbye, and waits until the server has closed.
    pub(crate) async fn bye(mut self) {
        assert_eq!(self.ask(&Request::Bye).await, Reply::Ack);
        assert_eq!(rest(self.stream).await, []);
    }
}

/// What comes before the server closes, in whichever way.
pub(crate) async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A server that closes with bytes unread resets the connection.
    let _reset = stream.read_to_end(&mut rest).await;
    rest
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Who says to be `m<number>`, with an ID of that number.
pub(crate) fn member(number: u8) -> Request {
    claim(number, key())
}

/// The same, with a key of its own.
pub(crate) fn claim(number: u8, sig_key: &PrivateKey) -> Request {
    let id = Some(NodeId::from_bytes([number; 20]));
    let (name, ends) = (name(&format!("m{number}")), vec!["127.0.0.1:4000".parse().unwrap()]);
    let comms_key = key().public().clone();
    Request::Member(Claim::sign(id, name, 0, comms_key, sig_key, ends).unwrap())
}

pub(crate) fn create(cluster: &str, size: u32) -> Request {
    Request::Create { name: name(cluster), attrs: 0, size, endpoint_count: 1 }
}

pub(crate) fn join(cluster: &str) -> Request {
    Request::Join { cluster: Some(ClusterKey::Name(name(cluster))) }
}

pub(crate) fn get(cluster: &str, which: u64) -> Request {
    Request::GetCluster { cluster: Some(ClusterKey::Name(name(cluster))), which: Some(which) }
}

/// The names in a reply, by rank.
pub(crate) fn names(reply: &Reply) -> Vec<&str> {
    match reply {
        Reply::Members { entries, .. } => entries.iter().map(|entry| entry.name.as_str()).collect(),
        other => panic!("{other:?} are no members"),
    }
}
