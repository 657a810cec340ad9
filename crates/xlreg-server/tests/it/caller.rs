//! A bare client of the modern door: TLS, hyper's HTTP/2, and the client generated from the .proto.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::{Code, Response, Status, Streaming};
use xlreg_api::fault::Fault;
use xlreg_api::v2::registry_client::RegistryClient;
use xlreg_api::v2::{self, ErrorReason};
use xlreg_api::{convert, proof};
use xlreg_core::{Cluster, ClusterId, ClusterKey};
use xlreg_proto::keys::PrivateKey;
use xlreg_tls::ClientTls;

use crate::support::{key, name, rest, sig_key, soon};

/// What an answer was, or why there was none.
pub(crate) type Asked<T> = Result<T, Fault>;

/// What goes over the wire, as tonic wants it.
#[derive(Clone)]
pub(crate) struct Sender(http2::SendRequest<Full<Bytes>>);

impl tower::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut sender = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = Full::new(body.collect().await?.to_bytes());
            Ok(sender.send_request(http::Request::from_parts(head, body)).await?)
        })
    }
}

/// A node with the sig key of its number, connected.
pub(crate) struct Caller {
    pub(crate) grpc: RegistryClient<Sender>,
    sender: Sender,
    /// Ends when the connection does.
    pub(crate) driver: JoinHandle<hyper::Result<()>>,
    /// The same socket once more.
    socket: TcpStream,
    key: Arc<PrivateKey>,
}

/// The TLS of a node with this sig key.
pub(crate) fn tls(key: &PrivateKey) -> ClientTls {
    ClientTls::new(xlreg_tls::Pin::from(crate::support::key().public()), key).unwrap()
}

/// Connects from one of this machine's many addresses: 127.0.0.`host`.
pub(crate) async fn reach(host: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let local = IpAddr::from(Ipv4Addr::new(127, 0, 0, host));
    socket.bind(SocketAddr::new(local, 0)).unwrap();
    let stream = socket.connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A handshake on a connection that is there.
pub(crate) async fn secured(
    stream: TcpStream,
    tls: &ClientTls,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(tls.config()).connect(ClientTls::server_name(), stream).await
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr, number: usize) -> Self {
        Self::from(1, address, number).await
    }

    /// The same from the address 127.0.0.`host`.
    pub(crate) async fn from(host: u8, address: SocketAddr, number: usize) -> Self {
        Self::with_key(host, address, sig_key(number)).await
    }

    pub(crate) async fn with_key(host: u8, address: SocketAddr, key: &Arc<PrivateKey>) -> Self {
        Self::over(secured(reach(host, address).await, &tls(key)).await.unwrap(), key).await
    }

    /// One whose handshake is done.
    pub(crate) async fn over(stream: TlsStream<TcpStream>, key: &Arc<PrivateKey>) -> Self {
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned().unwrap();
        let socket = TcpStream::from_std(socket.into()).unwrap();
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        let origin = http::Uri::from_static("https://xlreg");
        let sender = Sender(sender);
        let grpc = RegistryClient::with_origin(sender.clone(), origin);
        Self { grpc, sender, driver: tokio::spawn(connection), socket, key: Arc::clone(key) }
    }

    /// One that has registered the ID of its number.
    pub(crate) async fn known(address: SocketAddr, number: usize) -> Self {
        let mut caller = Self::connect(address, number).await;
        caller.register(&[number as u8; 20]).await.unwrap();
        caller
    }

    /// Calls with these bytes for a message, and gives the code of the answer, which is an error.
    pub(crate) async fn code_for(&mut self, path: &str, bytes: &[u8]) -> Code {
        let request = http::Request::post(format!("https://xlreg{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::copy_from_slice(bytes)))
            .unwrap();
        let answer = soon(self.sender.0.send_request(request)).await.unwrap();
        Status::from_header_map(answer.headers()).unwrap().code()
    }

    /// Registers this ID, or lets one be chosen if it is empty.
    pub(crate) async fn register(&mut self, id: &[u8]) -> Asked<v2::Node> {
        let sig = self.key.public().fingerprint();
        let request = v2::RegisterRequest {
            id: id.to_vec(),
            comms_key: key().public().der().to_vec(),
            comms_proof: comms_proof(&sig),
        };
        Ok(asked(self.grpc.register(request)).await?.node.unwrap())
    }

    /// Lets another sig key take the place of its own.
    pub(crate) async fn rotate(&mut self, to: &PrivateKey) -> Asked<v2::RotateKeysResponse> {
        let registry = key().public().fingerprint();
        let [old, new] = [&self.key, to].map(|key| key.public().fingerprint());
        let statement =
            proof::rotation_statement(&registry, &old, &new, Some(&key().public().fingerprint()));
        let request = v2::RotateKeysRequest {
            new_sig_key: to.public().der().to_vec(),
            old_signature: self.key.sign_pss(&[&statement]).unwrap(),
            new_signature: to.sign_pss(&[&statement]).unwrap(),
            ..v2::RotateKeysRequest::default()
        };
        asked(self.grpc.rotate_keys(request)).await
    }

    /// Lets the comms key that it has take its own place, which changes nothing.
    pub(crate) async fn rotate_in_place(&mut self) -> Asked<v2::RotateKeysResponse> {
        let [registry, comms] = [key().public().fingerprint(); 2];
        let sig = self.key.public().fingerprint();
        let statement = proof::rotation_statement(&registry, &sig, &sig, Some(&comms));
        let request = v2::RotateKeysRequest {
            new_comms_key: key().public().der().to_vec(),
            old_signature: self.key.sign_pss(&[&statement]).unwrap(),
            comms_proof: comms_proof(&sig),
            ..v2::RotateKeysRequest::default()
        };
        asked(self.grpc.rotate_keys(request)).await
    }

    /// Creates an open cluster, or hears of the one that is there.
    pub(crate) async fn create(&mut self, cluster: &str, size: u32) -> Asked<v2::Cluster> {
        self.define(defined(cluster, size)).await
    }

    pub(crate) async fn define(&mut self, new: v2::CreateClusterRequest) -> Asked<v2::Cluster> {
        Ok(asked(self.grpc.create_cluster(new)).await?.cluster.unwrap())
    }

    /// Joins under this name, and hears its rank.
    pub(crate) async fn join(&mut self, cluster: &str, name: &str) -> Asked<u32> {
        self.join_with(cluster, name, "").await
    }

    pub(crate) async fn join_with(&mut self, cluster: &str, name: &str, token: &str) -> Asked<u32> {
        let request = v2::JoinClusterRequest { token: token.to_owned(), ..joining(cluster, name) };
        Ok(asked(self.grpc.join_cluster(request)).await?.rank)
    }

    /// Joins as this ID of its own.
    pub(crate) async fn join_as(&mut self, id: u8, cluster: &str, name: &str) -> Asked<u32> {
        let node_id = vec![id; 20];
        let request = v2::JoinClusterRequest { node_id, ..joining(cluster, name) };
        Ok(asked(self.grpc.join_cluster(request)).await?.rank)
    }

    pub(crate) async fn get(&mut self, cluster: &str) -> Asked<v2::Cluster> {
        let request = v2::GetClusterRequest { cluster: reference(cluster) };
        Ok(asked(self.grpc.get_cluster(request)).await?.cluster.unwrap())
    }

    pub(crate) async fn leave(&mut self, cluster: &str) -> Asked<u64> {
        let request = v2::LeaveRequest { cluster: reference(cluster), name: String::new() };
        Ok(asked(self.grpc.leave(request)).await?.revision)
    }

    pub(crate) async fn delete(&mut self, cluster: &str) -> Asked<()> {
        let request = v2::DeleteClusterRequest { cluster: reference(cluster) };
        asked(self.grpc.delete_cluster(request)).await.map(drop)
    }

    pub(crate) async fn relocate(&mut self, cluster: &str) -> Asked<u64> {
        let request = v2::UpdateEndpointsRequest {
            cluster: reference(cluster),
            endpoints: vec!["127.0.0.1:4001".to_owned()],
            ..v2::UpdateEndpointsRequest::default()
        };
        Ok(asked(self.grpc.update_endpoints(request)).await?.revision)
    }

    pub(crate) async fn expel(&mut self, cluster: &str, id: u8) -> Asked<u64> {
        let member_id = vec![id; 20];
        let request = v2::ExpelMemberRequest { cluster: reference(cluster), member_id };
        Ok(asked(self.grpc.expel_member(request)).await?.revision)
    }

    /// Issues a token that is good for so many, for so long.
    pub(crate) async fn token(
        &mut self,
        cluster: &str,
        max_uses: u32,
        ttl: Duration,
    ) -> Asked<v2::CreateTokenResponse> {
        let (cluster, ttl) = (reference(cluster), Some(convert::to_duration(ttl)));
        let request = v2::CreateTokenRequest { cluster, ttl, max_uses, label: String::new() };
        asked(self.grpc.create_token(request)).await
    }

    pub(crate) async fn tokens(&mut self, cluster: &str) -> Asked<Vec<v2::JoinToken>> {
        let request = v2::ListTokensRequest { cluster: reference(cluster) };
        Ok(asked(self.grpc.list_tokens(request)).await?.tokens)
    }

    pub(crate) async fn revoke(&mut self, cluster: &str, token: &str) -> Asked<()> {
        let (cluster, token_id) = (reference(cluster), token.to_owned());
        let request = v2::RevokeTokenRequest { cluster, token_id };
        asked(self.grpc.revoke_token(request)).await.map(drop)
    }

    /// Follows a cluster from after this revision on, or from its beginning.
    pub(crate) async fn watch(&mut self, cluster: &str, after: Option<u64>) -> Asked<News> {
        let cluster = match after {
            // By its ID, else it would not count.
            Some(_) => {
                let id = self.get(cluster).await?.id.try_into().unwrap();
                Some(convert::cluster_ref(&ClusterKey::Id(ClusterId::from_bytes(id))))
            }
            None => reference(cluster),
        };
        let request = v2::WatchClusterRequest { cluster, after_revision: after };
        Ok(News(asked(self.grpc.watch_cluster(request)).await?))
    }

    /// The names of all clusters that are listed to it.
    pub(crate) async fn list(&mut self) -> Asked<Vec<String>> {
        let listed = asked(self.grpc.list_clusters(v2::ListClustersRequest::default())).await?;
        Ok(listed.clusters.into_iter().map(|cluster| cluster.name).collect())
    }

    pub(crate) async fn describe(&mut self) -> Asked<v2::GetRegistryResponse> {
        asked(self.grpc.get_registry(v2::GetRegistryRequest {})).await
    }

    /// Whether it is served as if nothing were the matter.
    pub(crate) async fn is_served(&mut self) -> bool {
        self.describe().await.is_ok()
    }

    /// Hangs up, and waits until the server has noticed.
    pub(crate) async fn hang_up(self) {
        let Self { driver, mut socket, .. } = self;
        driver.abort();
        socket.shutdown().await.unwrap();
        rest(socket).await;
    }

    /// Waits until the server has ended the connection.
    pub(crate) async fn cut_off(self) {
        let _how = soon(self.driver).await.unwrap();
    }
}

/// What a watcher is told.
pub(crate) struct News(pub(crate) Streaming<v2::WatchClusterResponse>);

impl News {
    /// The next that is no heartbeat; none at the end.
    pub(crate) async fn next(&mut self) -> Option<convert::News> {
        loop {
            match convert::news(&soon(self.0.message()).await.unwrap()?).unwrap() {
                Some(convert::News::Heartbeat) | None => {}
                news => return news,
            }
        }
    }

    pub(crate) async fn snapshot(&mut self) -> Cluster {
        match self.next().await {
            Some(convert::News::Snapshot(cluster)) => *cluster,
            other => panic!("{other:?} is no snapshot"),
        }
    }

    /// The revision of the next change, and the name of whom it is about.
    pub(crate) async fn change(&mut self) -> (u64, String) {
        match self.next().await {
            Some(convert::News::Change(event)) => (event.revision, event.member.name.to_string()),
            other => panic!("{other:?} is no change"),
        }
    }
}

/// Waits for an answer.
#[track_caller]
pub(crate) fn asked<T>(
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> impl Future<Output = Asked<T>> {
    let answer = soon(answer);
    async move {
        let refused = |status: Status| Fault::read(&status).unwrap_or_else(|| panic!("{status}"));
        answer.await.map(Response::into_inner).map_err(refused)
    }
}

/// What was refused, for this reason.
#[track_caller]
pub(crate) fn refused<T>(asked: Asked<T>, reason: ErrorReason) -> Fault {
    let fault = asked.err().expect("a refusal");
    assert_eq!(fault.reason, reason, "{fault}");
    fault
}

/// That the holder of [`key`], as comms key, agrees to be known by `sig`.
fn comms_proof(sig: &xlreg_core::Fingerprint) -> Vec<u8> {
    let own = key().public().fingerprint();
    key().sign_pss(&[&proof::comms_statement(&own, sig, &own)]).unwrap()
}

pub(crate) fn reference(cluster: &str) -> Option<v2::ClusterRef> {
    Some(convert::cluster_ref(&ClusterKey::Name(name(cluster))))
}

pub(crate) fn defined(cluster: &str, size: u32) -> v2::CreateClusterRequest {
    v2::CreateClusterRequest { name: cluster.to_owned(), size, ..Default::default() }
}

pub(crate) fn joining(cluster: &str, name: &str) -> v2::JoinClusterRequest {
    v2::JoinClusterRequest {
        cluster: reference(cluster),
        name: name.to_owned(),
        endpoints: vec!["127.0.0.1:4000".to_owned()],
        ..v2::JoinClusterRequest::default()
    }
}
