//! Whole requests and whole connections, answered by the server's own code from a registry in
//! memory that is new for each input.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;
use tonic::body::Body;
use xlreg_api::{TokenSecret, v2};
use xlreg_core::admission::{Label, TokenDigest};
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::registry::{Actor, Counts, NewToken};
use xlreg_core::{
    Admission, Cluster, ClusterId, ClusterKey, Command, Fingerprint, Member, NodeId, Outcome,
    Policy, PublicKey, Time, TokenId,
};
use xlreg_proto::text::roster::Expected;
use xlreg_proto::text::{Credentials, MemberFile, SignedRoster};
use xlreg_server::Keys;
use xlreg_server::config::{Access, Config, Connections, Modern};
use xlreg_server::fuzzing::Doors;
use xlreg_server::rates::{Rate, SlowRate};
use xlreg_store::engine::{Listing, Node};
use xlreg_store::{Answer, ApplyError, Clock, Engine, LocalEngine, StoreError};

use crate::parts::Parts;
use crate::{known, old_wire};

/// The service's calls, by the number that an input has for them.
pub const CALLS: [&str; 20] = [
    "/xlreg.v2.Registry/GetRegistry",
    "/xlreg.v2.Registry/Register",
    "/xlreg.v2.Registry/RotateKeys",
    "/xlreg.v2.Registry/CreateCluster",
    "/xlreg.v2.Registry/JoinCluster",
    "/xlreg.v2.Registry/GetCluster",
    "/xlreg.v2.Registry/ListClusters",
    "/xlreg.v2.Registry/WatchCluster",
    "/xlreg.v2.Registry/UpdateEndpoints",
    "/xlreg.v2.Registry/Leave",
    "/xlreg.v2.Registry/ExpelMember",
    "/xlreg.v2.Registry/DeleteCluster",
    "/xlreg.v2.Registry/CreateToken",
    "/xlreg.v2.Registry/ListTokens",
    "/xlreg.v2.Registry/RevokeToken",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/xlreg.v2.Registry/NoSuchCall",
    "/xlreg.v2.Registry/GetNode",
    SIGNED_ROSTER,
];

const SIGNED_ROSTER: &str = "/xlreg.v2.Registry/GetSignedRoster";

/// The number that lets time pass instead.
pub const WAIT: u8 = 0xFF;

/// Bytes that are in a pipe at most.
const PIPE_BYTES: usize = 1 << 20;

/// How long nothing may come until nothing more is expected. Time is paused, so it takes none.
const QUIET: Duration = Duration::from_millis(1);

/// Requests of four clients, one after another, at any time.
pub fn service(input: &[u8]) {
    let host = Host::get();
    let mut parts = Parts::new(input);
    runtime().block_on(async {
        host.engine.renew().await;
        while !parts.is_empty() {
            let (who, call, message) = (parts.byte(), parts.byte(), parts.piece());
            if call == WAIT {
                host.engine.clock.advance(Duration::from_secs(u64::from(who).pow(3)));
                continue;
            }
            let call = CALLS[usize::from(call) % CALLS.len()];
            host.ask(&clients()[usize::from(who) % clients().len()], call, message).await;
        }
        check_rosters(&host.engine.engine()).await;
    });
}

/// A connection of HTTP/2 after its handshake: frames, or bytes as they are.
pub fn http2(input: &[u8]) {
    let host = Host::get();
    let mut parts = Parts::new(input);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    while !parts.is_empty() {
        let (kind, flags, stream) = (parts.byte(), parts.byte(), parts.byte());
        let payload = parts.piece();
        if kind < 0x80 {
            let length = u32::try_from(payload.len()).unwrap_or_default();
            bytes.extend_from_slice(&length.to_be_bytes()[1..]);
            bytes.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        }
        bytes.extend_from_slice(payload);
    }
    runtime().block_on(async {
        host.engine.renew().await;
        let (near, far) = duplex(PIPE_BYTES);
        tokio::join!(host.doors.serve_modern(&clients()[0], far), say(near, &bytes));
    });
}

/// A connection of the old wire, from its hello to its end, with what follows the hello in pieces.
/// One RSA private operation.
pub fn connection(input: &[u8]) {
    let host = Host::get();
    let mut parts = Parts::new(input);
    let how = parts.byte();
    let dialect = old_wire::dialect(how);
    let sizes = parts.piece();
    let (client, hello) = old_wire::greeting(dialect);
    // Hellos are opened on threads, of which a paused clock knows nothing; and since the client
    // hangs up, nothing is waited for.
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        host.engine.renew().await;
        let (mut near, far) = duplex(PIPE_BYTES);
        let talk = async {
            near.write_all(&hello).await?;
            let mut reply = vec![0; client.reply_bytes()];
            near.read_exact(&mut reply).await?;
            let mut wire = old_wire::Wire::agreed(dialect, &reply);
            client.finish(&reply).expect("the server's reply");
            while !parts.is_empty() {
                for piece in old_wire::cut(&wire.piece(&mut parts), sizes) {
                    near.write_all(piece).await?;
                    yield_now().await;
                }
            }
            near.shutdown().await?;
            while near.read(&mut [0; 4096]).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _hung_up = tokio::join!(host.doors.serve_old(far), talk);
    });
}

/// Says all that there is to say, listens until it is quiet, and hangs up.
async fn say(mut near: DuplexStream, bytes: &[u8]) {
    // The other end may have hung up already.
    let _written = near.write_all(bytes).await;
    let mut heard = [0; 4096];
    while let Ok(Ok(1..)) = timeout(QUIET, near.read(&mut heard)).await {}
    let _shut = near.shutdown().await;
    while let Ok(1..) = near.read(&mut heard).await {}
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// The server's doors, and who knocks at them.
struct Host {
    doors: Doors,
    engine: Arc<Slate>,
}

impl Host {
    fn get() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::new)
    }

    fn new() -> Self {
        let clients = clients();
        let engine = Arc::new(Slate::new());
        let [sig, comms] = known::servers().clone();
        // How often somebody asks is not what is tried here.
        let free = Rate { per_second: 1_000_000_000, burst: u32::MAX };
        let modern = Modern {
            handshakes: free,
            requests: free,
            address_requests: free,
            registrations: free,
            rotations: SlowRate { per_minute: 1_000_000_000, burst: u32::MAX },
            ..Modern::default()
        };
        let access = Access { admins: [clients[3].fingerprint()].into(), ..Access::default() };
        // Nor how long: what looks like rubbish would be listened to for seconds of the real clock.
        let connections = Connections {
            unproven_hellos: free,
            message: Duration::from_millis(1),
            hold: Duration::ZERO,
            ..Connections::default()
        };
        let config = Config { modern, access, connections, ..Config::default() };
        let dynamic = Arc::clone(&engine) as Arc<dyn Engine>;
        let doors = Doors::new(dynamic, &Keys { comms, sig }, known::identity(), &config);
        Self { doors: doors.expect("doors"), engine }
    }

    /// Asks, and listens to the answer until it is quiet.
    async fn ask(&self, client: &PublicKey, call: &str, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or_default();
        let body = [&[0], length.to_be_bytes().as_slice(), message].concat();
        let request = Request::post(call)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(body))))
            .expect("a request");
        let mut answer = self.doors.answer(client, request).await.into_body();
        let mut told = Vec::new();
        while let Ok(Some(Ok(frame))) = timeout(QUIET, answer.frame()).await {
            told.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        if call == SIGNED_ROSTER && !told.is_empty() {
            check_signed(&told);
        }
    }
}

/// That what the registry has signed is what whoever verifies it accepts. `told` is the answer, with
/// the five bytes before it.
fn check_signed(told: &[u8]) {
    let file = v2::GetSignedRosterResponse::decode(&told[5..]).expect("an answer").file;
    let roster = SignedRoster::parse(&file).expect("a signed roster");
    let [sig, _] = known::servers();
    let registry = Some(sig.public().fingerprint());
    let verdict =
        roster.verify(&Expected { registry, age: None, incomplete: true, unsigned: true });
    assert!(verdict.is_good(), "{verdict:?}");
}

/// Two nodes that the registry knows, one that it doesn't, and an administrator.
pub(crate) fn clients() -> &'static [PublicKey; 4] {
    static CLIENTS: OnceLock<[PublicKey; 4]> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let node = known::node();
        let member = MemberFile::parse(known::MEMBER_FILE).expect("the vectors' member is one");
        let other = member.members[1].peer.sig_key.clone();
        let admin = Credentials::parse(known::CREDENTIALS[2]).expect("the vectors' credentials");
        [node.sig_key.public().clone(), node.comms_key.public().clone(), other, admin.sig_key]
    })
}

/// The token that is good for the cluster `beta`.
#[must_use]
pub fn token() -> TokenSecret {
    TokenSecret::from_random([1; 4], [2; 16])
}

/// When each input begins.
const BEGINNING: Time = Time::from_millis(1_800_000_000_000);

/// An engine that forgets all between two inputs.
struct Slate {
    engine: Mutex<Arc<LocalEngine>>,
    clock: Clock,
    /// Whether there is anything to forget: most inputs change nothing, and what it takes to fill a
    /// registry is more than they do.
    changed: AtomicBool,
}

impl Slate {
    fn new() -> Self {
        let clock = Clock::standing(BEGINNING);
        let engine = LocalEngine::in_memory_by(clock.clone(), Limits::default());
        Self { engine: Mutex::new(Arc::new(engine)), clock, changed: AtomicBool::new(true) }
    }

    fn engine(&self) -> Arc<LocalEngine> {
        Arc::clone(&self.engine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins anew.
    async fn renew(&self) {
        self.clock.set(BEGINNING);
        if !self.changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let fresh = Arc::new(LocalEngine::in_memory_by(self.clock.clone(), small()));
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        populate(&fresh).await;
    }
}

/// Fills a new registry with three nodes and three clusters: one that is open and has a member, one
/// for the holders of a token, one for a list of keys.
pub(crate) async fn populate(engine: &LocalEngine) {
    let node = |number: u8| NodeId::from_bytes([number; 20]);
    let clients = clients();
    for (number, comms) in [(0, 1), (1, 0), (3, 2)] {
        let command = Command::Register {
            claimed: Some(node(number)),
            fresh: node(number),
            sig_key: clients[usize::from(number)].fingerprint(),
            comms_key: Some(clients[comms].clone()),
        };
        engine.apply(command).await.expect("a new node");
    }
    let owner = clients[0].fingerprint();
    let list = Policy::Keys([clients[1].fingerprint()].into());
    let clusters = [("alpha", Policy::Open), ("beta", Policy::Token), ("gamma", list)];
    for (number, (name, policy)) in (1..).zip(clusters) {
        let new = NewCluster { policy, ..NewCluster::open(name.parse().expect("a name"), 2, 1) };
        let fresh = ClusterId::from_bytes([number; 20]);
        let command = Command::Create { new, owner, fresh, strict: true };
        engine.apply(command).await.expect("a new cluster");
    }
    let named = |name: &str| ClusterKey::Name(name.parse().expect("a name"));
    let secret = token();
    let token = NewToken {
        id: TokenId::from_bytes(secret.id()),
        digest: TokenDigest::from_bytes(secret.digest()),
        label: Label::new("fuzz").expect("a label"),
        ttl: Duration::from_secs(3600),
        uses: 2,
    };
    let by = Actor { sig_key: owner, admin: false };
    let command = Command::IssueToken { cluster: named("beta"), by, token };
    engine.apply(command).await.expect("a new token");
    let member = Arc::new(Member {
        id: node(3),
        name: "m".parse().expect("a name"),
        attrs: 0,
        comms_key: clients[2].clone(),
        sig_key: clients[3].clone(),
        endpoints: vec!["127.0.0.1:4000".parse().expect("an endpoint")],
        entry_signature: None,
    });
    let admission = Admission::Key;
    let command = Command::Join { cluster: named("alpha"), member, admission };
    engine.apply(command).await.expect("a new member");
}

/// That each roster is one that may be.
pub(crate) async fn check_rosters(engine: &LocalEngine) {
    let listing = Listing { max: usize::MAX, ..Listing::default() };
    for cluster in engine.list(&listing).await.expect("an engine that serves") {
        let holders: Vec<_> = cluster.seats.iter().filter_map(|seat| seat.holder()).collect();
        assert!(cluster.seats.len() <= cluster.size as usize, "{cluster:?}");
        for (place, one) in holders.iter().enumerate() {
            let rest = &holders[place + 1..];
            assert!(rest.iter().all(|other| other.name != one.name), "{cluster:?}");
            assert!(rest.iter().all(|other| other.id != one.id), "{cluster:?}");
            assert!(one.endpoints.len() >= cluster.endpoint_count as usize, "{cluster:?}");
        }
    }
}

/// Limits that an input can reach.
fn small() -> Limits {
    Limits {
        nodes_max: 8,
        clusters_max: 6,
        members_max: 6,
        ids_per_key_max: 3,
        clusters_per_key_max: 5,
        memberships_per_key_max: 3,
    }
}

impl Engine for Slate {
    fn apply(&self, command: Command) -> Answer<'_, Result<Outcome, ApplyError>> {
        let engine = self.engine();
        Box::pin(async move {
            let applied = engine.apply(command).await;
            self.changed.fetch_or(applied.is_ok(), Ordering::Relaxed);
            applied
        })
    }

    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>> {
        let (engine, key) = (self.engine(), key.clone());
        Box::pin(async move { engine.find(&key).await })
    }

    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>> {
        self.engine().watch(id)
    }

    fn node(&self, sig_key: &Fingerprint) -> Answer<'_, Result<Node, ApplyError>> {
        let (engine, key) = (self.engine(), *sig_key);
        Box::pin(async move { engine.node(&key).await })
    }

    fn list(&self, listing: &Listing) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        let (engine, listing) = (self.engine(), listing.clone());
        Box::pin(async move { engine.list(&listing).await })
    }

    fn with_owner(&self) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        let engine = self.engine();
        Box::pin(async move { engine.with_owner().await })
    }

    fn is_watched(&self, id: &ClusterId) -> bool {
        self.engine().is_watched(id)
    }

    fn next_deadline(&self) -> watch::Receiver<Option<(Time, ClusterId)>> {
        self.engine().next_deadline()
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn counts(&self) -> Counts {
        self.engine().counts()
    }

    fn failure(&self) -> Answer<'_, Arc<StoreError>> {
        Box::pin(std::future::pending())
    }

    fn close(&self) -> Answer<'_, Result<(), Arc<StoreError>>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
