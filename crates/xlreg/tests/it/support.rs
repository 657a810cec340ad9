//! A registry in process, identities that cost no new keys, and clusters already peopled.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use xlreg::{
    ClusterId, ClusterKey, Credentials, Dialect, Endpoint, Identity, Member, Name, NewCluster,
    NodeId, Registry, Version,
};
use xlreg_core::limits::Limits;
use xlreg_core::{Admission, Command};
use xlreg_node::files::{self, Mode};
use xlreg_proto::keys::{PrivateKey, random};
use xlreg_proto::text::node::NODE_FILE;
use xlreg_proto::text::{FileId, NodeFile};
use xlreg_server::config::Connections;
use xlreg_server::{Config, Home, Report, Server};
use xlreg_store::{Engine, LocalEngine};

/// Long enough for anything that works.
pub(crate) const ENOUGH: Duration = Duration::from_secs(60);

/// The registry's name, ID and keys, the same in all tests.
pub(crate) fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    // Its directory is never written to.
    HOME.get_or_init(|| {
        let identity = xlreg_node::Identity::generate(name("xlReg")).unwrap();
        Home::ephemeral(Path::new("."), identity).unwrap()
    })
}

/// The key of all members who are not to differ by it.
pub(crate) fn key() -> &'static Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    KEY.get_or_init(new_key)
}

pub(crate) fn new_key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate().unwrap())
}

/// Bounds under which nothing in a test ends by itself: a lookup that is held shows.
pub(crate) fn patient() -> Connections {
    let long = Duration::from_secs(600);
    Connections { idle: long, session: long, hold: long, ..Connections::default() }
}

/// A registry that serves.
pub(crate) struct Running {
    pub(crate) engine: Arc<dyn Engine>,
    /// How clients know it.
    pub(crate) registry: Registry,
    stop: CancellationToken,
    report: JoinHandle<Report>,
}

impl Running {
    /// One whose memory is gone with it.
    pub(crate) async fn in_memory() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start(listener, Arc::new(LocalEngine::in_memory(Limits::default())), patient())
    }

    /// The same, spoken to over the old wire.
    pub(crate) async fn in_memory_old() -> Self {
        let mut running = Self::in_memory().await;
        running.registry = running.registry.with_dialect(Dialect::V1_9);
        running
    }

    pub(crate) fn start(
        listener: TcpListener,
        engine: Arc<dyn Engine>,
        bounds: Connections,
    ) -> Self {
        let credentials = credentials(listener.local_addr().unwrap());
        let identity = home().introduce(&credentials);
        let config = Config { connections: bounds, ..Config::default() };
        let server =
            Server::new(listener, Arc::clone(&engine), &home().keys(), identity, &config).unwrap();
        let stop = CancellationToken::new();
        let report = tokio::spawn(server.run(stop.clone()));
        Self { engine, registry: Registry::new(credentials), stop, report }
    }

    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        self.report.await.unwrap()
    }

    /// Defines a cluster that `count` members, `m0` and so on, are already in.
    pub(crate) async fn people(&self, cluster: &str, size: u32, count: usize) {
        let (cluster, fresh) = (name(cluster), ClusterId::from_bytes(random()));
        let (new, owner) = (
            xlreg_core::cluster::NewCluster::open(cluster.clone(), size, 1),
            key().public().fingerprint(),
        );
        let create = Command::Create { new, owner, fresh, strict: false };
        self.engine.apply(create).await.unwrap();
        for number in 0..count {
            let member = Member {
                id: NodeId::from_bytes(random()),
                name: name(&format!("m{number}")),
                attrs: 0,
                comms_key: key().public().clone(),
                sig_key: key().public().clone(),
                endpoints: vec![endpoint(4000)],
                entry_signature: None,
            };
            let cluster = ClusterKey::Name(cluster.clone());
            let member = Arc::new(member);
            let join = Command::Join { cluster, member, admission: Admission::OldWire };
            self.engine.apply(join).await.unwrap();
        }
    }
}

/// How clients know the registry that listens there.
pub(crate) fn credentials(listen: SocketAddr) -> Credentials {
    home().credentials(listen, None, Version::CURRENT).unwrap()
}

/// A port that stays ours while nobody listens on it.
pub(crate) struct Port {
    _socket: TcpSocket,
    pub(crate) address: SocketAddr,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = Self::socket("127.0.0.1:0".parse().unwrap());
        let address = socket.local_addr().unwrap();
        Self { _socket: socket, address }
    }

    pub(crate) fn listen(&self) -> TcpListener {
        Self::socket(self.address).listen(64).unwrap()
    }

    fn socket(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        socket
    }
}

/// A node with an ID of its own and the keys that all share.
pub(crate) async fn identity(text: &str) -> Identity {
    identity_of(text, NodeId::from_bytes(random()), key()).await
}

/// A node with this ID and these keys: such as its file would have it.
pub(crate) async fn identity_of(text: &str, id: NodeId, key: &Arc<PrivateKey>) -> Identity {
    let dir = tempfile::tempdir().unwrap();
    identity_in(dir.path(), text, FileId::from(id), key).await
}

/// The same in a directory that stays, and of a node whose ID may be one of old, which counts for none.
pub(crate) async fn identity_in(
    dir: &Path,
    text: &str,
    id: FileId,
    key: &Arc<PrivateKey>,
) -> Identity {
    let node = NodeFile {
        name: name(text),
        id,
        overlays: Vec::new(),
        lfs: ".".parse().unwrap(),
        comms_key: Arc::clone(key),
        sig_key: Arc::clone(key),
        endpoints: Vec::new(),
        peers: Vec::new(),
    };
    let path = dir.join(NODE_FILE);
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    files::create(&path, node.to_text().as_bytes(), Mode::Private).unwrap();
    Identity::load(dir).await.unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn by_name(text: &str) -> ClusterKey {
    ClusterKey::Name(name(text))
}

pub(crate) fn endpoint(port: u16) -> Endpoint {
    format!("127.0.0.1:{port}").parse().unwrap()
}

pub(crate) fn cluster(text: &str, size: u32) -> NewCluster {
    NewCluster::open(name(text), size, 1)
}

/// The names in a roster, by rank.
pub(crate) fn names(roster: &xlreg::Roster) -> Vec<&str> {
    roster.members.iter().map(|member| member.name.as_str()).collect()
}
