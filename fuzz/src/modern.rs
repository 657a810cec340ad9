//! The modern door: which door it is, TLS, certificates, messages and what is made of them.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use prost::Message;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ServerConfig, ServerConnection};
use tonic::{Code, Status};
use xlreg_api::convert::{self, Detail, News};
use xlreg_api::{Fault, Invitation, TokenSecret, v2};
use xlreg_core::{Fingerprint, Name, NodeId};
use xlreg_tls::{Pin, ServerTls, fuzzing};

use crate::known;
use crate::parts::Parts;

/// Which door a client is at: told after nine bytes at the latest, and never otherwise after more.
pub fn first_bytes(input: &[u8]) {
    let mut told = None;
    for end in 0..=input.len().min(16) {
        let now = xlreg_server::fuzzing::speaks_tls(&input[..end]);
        assert!(told.is_none() || now == told, "{told:?} became {now:?} after {end} bytes");
        told = now;
    }
    assert!(told.is_some() || input.len() < 9);
}

/// What a stranger says first, to the end of what it can say without the session's keys.
pub fn tls(input: &[u8]) {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let [sig, _] = known::servers();
        let id = NodeId::from_bytes([250; 20]);
        ServerTls::new(Arc::clone(sig), id, vec![], SystemTime::now()).expect("a key").config()
    });
    let mut server = ServerConnection::new(Arc::clone(config)).expect("a configuration");
    let mut left = input;
    while !left.is_empty() {
        let read = server.read_tls(&mut left);
        if read.is_err() || server.process_new_packets().is_err() {
            break;
        }
    }
    assert!(xlreg_tls::peer_key(&server).is_none());
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer).expect("memory takes anything");
    }
}

/// A client's or a peer's certificate; or a root and a leaf, as a server shows them.
pub fn certificate(input: &[u8]) {
    let mut parts = Parts::new(input);
    let now = UnixTime::since_unix_epoch(CERTIFICATE_TIME);
    if parts.byte() & 1 == 0 {
        let certificate = CertificateDer::from(parts.rest());
        let key = fuzzing::client_key(&certificate);
        match &key {
            Ok(key) => assert_eq!(xlreg_proto::keys::public_key(key.der()).as_ref(), Ok(key)),
            Err(error) => drop(error.to_string()),
        }
        match fuzzing::judge_peer(&certificate, now) {
            Ok((judged, not_after)) => {
                assert_eq!(key.ok(), Some(judged));
                assert!(not_after >= now.as_secs());
            }
            Err(error) => drop(error.to_string()),
        }
        return;
    }
    let [sig, _] = known::servers();
    let (root, leaf) = (CertificateDer::from(parts.piece()), CertificateDer::from(parts.rest()));
    let pin = Pin::from(sig.public());
    if let Err(error) = fuzzing::judge_server(pin, &root, &leaf, now) {
        drop(error.to_string());
    }
}

/// When servers' certificates are looked at, since 1970. Seeds are valid then.
pub const CERTIFICATE_TIME: Duration = Duration::from_secs(1_800_000_000);

/// An invitation.
pub fn invitation(text: &str) {
    match Invitation::parse(text) {
        Ok(read) => {
            let written = read.to_text();
            let again = Invitation::parse(&written).expect("our own text is read");
            assert_eq!(*again.to_text(), *written);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A token's secret: there is one text for each.
pub fn token_secret(text: &str) {
    match TokenSecret::parse(text) {
        Ok(read) => assert_eq!(read.as_str(), text),
        Err(error) => drop(error.to_string()),
    }
}

/// A request: decoded, and each of its fields read as the service reads it.
pub fn request(input: &[u8]) {
    let mut parts = Parts::new(input);
    let which = parts.byte() % 14;
    let body = parts.rest();
    let read = match which {
        0 => read(body, |request: v2::RegisterRequest| {
            convert::optional_bytes::<NodeId>("id", &request.id)?;
            convert::key("comms_key", &request.comms_key).map(drop)
        }),
        1 => read(body, |request: v2::RotateKeysRequest| {
            convert::key("new_sig_key", &request.new_sig_key)?;
            convert::key("new_comms_key", &request.new_comms_key).map(drop)
        }),
        2 => read(body, |request: v2::CreateClusterRequest| {
            let new = convert::new_cluster(&request)?;
            assert_eq!(convert::new_cluster(&convert::to_create(&new)), Ok(new));
            Ok(())
        }),
        3 => read(body, |request: v2::JoinClusterRequest| {
            convert::optional_bytes::<NodeId>("node_id", &request.node_id)?;
            convert::text::<Name>("name", &request.name)?;
            convert::endpoints(&request.endpoints)?;
            token_secret(&request.token);
            convert::entry_signature("entry_signature", &request.entry_signature)?;
            cluster_key(request.cluster.as_ref())
        }),
        4 => read(body, |request: v2::WatchClusterRequest| cluster_key(request.cluster.as_ref())),
        5 => read(body, |request: v2::UpdateEndpointsRequest| {
            convert::optional_name("name", &request.name)?;
            convert::endpoints(&request.endpoints)?;
            convert::entry_signature("entry_signature", &request.entry_signature)?;
            cluster_key(request.cluster.as_ref())
        }),
        6 => read(body, |request: v2::LeaveRequest| {
            convert::optional_name("name", &request.name)?;
            cluster_key(request.cluster.as_ref())
        }),
        7 => read(body, |request: v2::ExpelMemberRequest| {
            convert::bytes::<NodeId>("member_id", &request.member_id)?;
            cluster_key(request.cluster.as_ref())
        }),
        8 => read(body, |request: v2::CreateTokenRequest| {
            convert::duration("ttl", request.ttl.as_ref())?;
            let _label = xlreg_core::admission::Label::new(&request.label);
            cluster_key(request.cluster.as_ref())
        }),
        9 => read(body, |request: v2::RevokeTokenRequest| {
            let _id = xlreg_core::TokenId::parse(&request.token_id);
            cluster_key(request.cluster.as_ref())
        }),
        10 => read(body, |request: v2::ListClustersRequest| {
            convert::optional_name("page_token", &request.page_token).map(drop)
        }),
        11 => read(body, |request: v2::DeleteClusterRequest| cluster_key(request.cluster.as_ref())),
        12 => {
            read(body, |request: v2::GetSignedRosterRequest| cluster_key(request.cluster.as_ref()))
        }
        _ => read(body, |request: v2::GetNodeRequest| {
            convert::bytes::<Fingerprint>("sig_key_sha256", &request.sig_key_sha256).map(drop)
        }),
    };
    if let Err(fault) = read {
        assert_eq!(Fault::read(&Status::from(fault.clone())), Some(fault));
    }
}

fn read<M: Message + Default>(
    body: &[u8],
    fields: impl FnOnce(M) -> Result<(), Fault>,
) -> Result<(), Fault> {
    M::decode(body).map_or(Ok(()), fields)
}

fn cluster_key(cluster: Option<&v2::ClusterRef>) -> Result<(), Fault> {
    let key = convert::cluster_key(cluster)?;
    assert_eq!(convert::cluster_key(Some(&convert::cluster_ref(&key))), Ok(key));
    Ok(())
}

/// An answer, as a client reads it: a cluster, something that a watcher is told, a refusal.
pub fn answer(input: &[u8]) {
    let mut parts = Parts::new(input);
    let which = parts.byte() % 3;
    let body = parts.rest();
    let detail = Detail { members: true, keys: true };
    let told = match which {
        0 => v2::Cluster::decode(body).map_or(Ok(()), |told| {
            let cluster = convert::cluster(&told)?;
            assert_eq!(convert::cluster(&convert::to_cluster(&cluster, detail)), Ok(cluster));
            Ok(())
        }),
        1 => v2::WatchClusterResponse::decode(body).map_or(Ok(()), |told| {
            let news = convert::news(&told)?;
            let again = match &news {
                Some(News::Snapshot(cluster)) => convert::to_snapshot(cluster, detail),
                Some(News::Change(event)) => convert::to_change(event),
                Some(News::Gone(how)) => convert::to_gone(told.revision, *how),
                Some(News::Heartbeat) | None => return Ok(()),
            };
            assert_eq!(convert::news(&again), Ok(news));
            Ok(())
        }),
        _ => {
            let code = Code::from_i32(parts.byte().into());
            let status = Status::with_details(code, "refused", parts.rest().to_vec().into());
            Fault::read(&status).map_or(Ok(()), Err)
        }
    };
    if let Err(fault) = told {
        assert_eq!(Fault::read(&Status::from(fault.clone())), Some(fault));
    }
}
