//! A server on a port of its own, and clients that speak the bare protocol to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::{Admission, ClusterId, ClusterKey, Command, Member, Name, NodeId, Version};
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

/// Sig keys of nodes that differ by them, made once, since they take their time.
pub(crate) fn sig_key(number: usize) -> &'static Arc<PrivateKey> {
    static KEYS: [OnceLock<Arc<PrivateKey>>; 12] = [const { OnceLock::new() }; 12];
    KEYS[number].get_or_init(|| Arc::new(PrivateKey::generate().unwrap()))
}

/// Makes the first of them, where time counts from then on: making one stops all on its thread.
pub(crate) fn make_keys(count: usize) {
    (0..count).for_each(|number| drop(Arc::clone(sig_key(number))));
}

/// Waits for what must come soon; a test that hangs would not say where.
#[track_caller]
pub(crate) fn soon<T>(coming: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let came = tokio::time::timeout(Duration::from_secs(60), coming).await;
        came.unwrap_or_else(|_| panic!("nothing has come of what {place} waits for"))
    }
}

/// A server that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) report: JoinHandle<Report>,
}

impl Running {
    pub(crate) async fn start(engine: Arc<dyn Engine>, bounds: Connections) -> Self {
        Self::with(engine, Config { connections: bounds, ..Config::default() }).await
    }

    /// One with bounds of all kinds.
    pub(crate) async fn with(engine: Arc<dyn Engine>, config: Config) -> Self {
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
        let server = Server::new(listener, engine, &keys, identity, &config).unwrap();
        let stop = CancellationToken::new();
        let report = tokio::spawn(server.run(stop.clone()));
        Self { address, stop, report }
    }

    /// One whose registry is gone with it.
    pub(crate) async fn in_memory(bounds: Connections) -> Self {
        Self::start(Arc::new(LocalEngine::in_memory(Limits::default())), bounds).await
    }

    /// The same, with bounds of all kinds.
    pub(crate) async fn bounded(config: Config) -> Self {
        Self::with(Arc::new(LocalEngine::in_memory(config.limits)), config).await
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
        let (stream, hello) = Self::knock(address, dialect).await;
        Self::answered(stream, hello).await
    }

    /// One that has knocked and is let in.
    pub(crate) async fn answered(mut stream: TcpStream, hello: ClientHello) -> Self {
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
        Self::knock_from(Ipv4Addr::LOCALHOST, address, dialect).await
    }

    /// The same from that loopback address.
    pub(crate) async fn knock_from(
        own: Ipv4Addr,
        address: SocketAddr,
        dialect: Dialect,
    ) -> (TcpStream, ClientHello) {
        let secrets = Secrets::from_random(random());
        let (hello, packet) =
            ClientHello::new(dialect, key().public(), Version::CURRENT, secrets).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
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

/// Makes an open cluster of this size, with members `m0` and so on in it.
pub(crate) async fn fill(engine: &dyn Engine, cluster: &str, size: u8) {
    let owner = key().public().fingerprint();
    let new = NewCluster::open(name(cluster), size.into(), 1);
    let fresh = ClusterId::from_bytes(random());
    engine.apply(Command::Create { new, owner, fresh, strict: true }).await.unwrap();
    for number in 0..size {
        let id = NodeId::from_bytes([100 + number; 20]);
        let (sig_key, comms_key) = (owner, Some(key().public().clone()));
        let register = Command::Register { claimed: Some(id), fresh: id, sig_key, comms_key };
        engine.apply(register).await.unwrap();
        let member = Arc::new(Member {
            id,
            name: name(&format!("m{number}")),
            attrs: 0,
            comms_key: key().public().clone(),
            sig_key: key().public().clone(),
            endpoints: vec!["127.0.0.1:4000".parse().unwrap()],
            entry_signature: None,
        });
        let cluster = ClusterKey::Name(name(cluster));
        let join = Command::Join { cluster, member, admission: Admission::Key };
        engine.apply(join).await.unwrap();
    }
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
