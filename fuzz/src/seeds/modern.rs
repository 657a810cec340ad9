//! Those of the modern door.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prost::Message;
use prost_types::Duration as Lasting;
use rustls::ClientConnection;
use xlreg_api::{Invitation, proof, v2};
use xlreg_core::{ClusterId, ClusterKey, Member, NodeId};
use xlreg_proto::entry;
use xlreg_proto::keys::PrivateKey;
use xlreg_tls::{ClientTls, NodeCertificate, Pin, Root};

use super::of_kind;
use crate::known;
use crate::modern::CERTIFICATE_TIME;
use crate::parts::push_piece;
use crate::service::{CALLS, WAIT, token};

/// What a client of ours says first.
pub(super) fn client_hello() -> Vec<u8> {
    let [sig, _] = known::servers();
    let client = ClientTls::new(Pin::from(sig.public()), &known::node().sig_key).expect("a key");
    let client = ClientConnection::new(client.config(), ClientTls::server_name());
    let mut hello = Vec::new();
    client.expect("a configuration").write_tls(&mut hello).expect("memory takes anything");
    hello
}

pub(super) fn certificates() -> Vec<Vec<u8>> {
    let [sig, other] = known::servers();
    let host = ["127.0.0.1", "registry.example"];
    let node = NodeCertificate::new(&known::node().sig_key, &host).expect("a certificate");
    let mut inputs = vec![of_kind(0, node.der())];
    for key in [sig, other] {
        let root = Root::new(Arc::clone(key), NodeId::from_bytes([250; 20])).expect("a root");
        let leaf = root.issue(&host, UNIX_EPOCH + CERTIFICATE_TIME).expect("a leaf");
        let mut input = vec![1];
        push_piece(&mut input, root.der());
        input.extend_from_slice(leaf.certified_key().cert.first().expect("a chain"));
        inputs.push(input);
    }
    inputs
}

pub(super) fn invitations() -> Vec<Vec<u8>> {
    let [sig, _] = known::servers();
    let name = ClusterKey::Name("alpha".parse().expect("a name"));
    let id = ClusterKey::Id(ClusterId::from_bytes([0xA1; 20]));
    let ends = ["127.0.0.1:4000", "[::1]:1", "registry.example:56789"];
    let ends: Vec<_> = ends.iter().map(|end| end.parse().expect("an endpoint")).collect();
    let mut inputs = Vec::new();
    for (cluster, token) in [(name, Some(token())), (id, None)] {
        let print = sig.public().fingerprint();
        let invitation = Invitation::new(ends.clone(), print, cluster, token).expect("complete");
        inputs.push(invitation.to_text().as_bytes().to_vec());
        inputs.push(format!("{}&later=1", *invitation.to_text()).into_bytes());
    }
    inputs
}

/// A request of each kind, with all its fields, by the number of its call.
fn calls() -> Vec<(u8, Vec<u8>)> {
    let of = |call: &str, message: Vec<u8>| {
        let number = CALLS.iter().position(|known| known.ends_with(call)).expect("a call");
        (number as u8, message)
    };
    let cluster = || named("alpha");
    let name = || "a".to_owned();
    let endpoints = || vec!["127.0.0.1:4000".to_owned(), "h:2".to_owned()];
    let ttl = || Some(Lasting { seconds: 60, nanos: 1_000_000 });
    let signature = || entry().entry_signature.expect("signed").as_bytes().to_vec();
    let join = |cluster, token: &str| v2::JoinClusterRequest {
        cluster: named(cluster),
        name: name(),
        endpoints: endpoints(),
        attributes: 1,
        node_id: vec![],
        token: token.to_owned(),
        entry_signature: if cluster == "alpha" { signature() } else { vec![] },
    };
    let moved = v2::UpdateEndpointsRequest {
        cluster: cluster(),
        name: name(),
        endpoints: endpoints(),
        entry_signature: signature(),
    };
    vec![
        of("GetRegistry", vec![]),
        of("Register", register().encode_to_vec()),
        of("RotateKeys", rotate().encode_to_vec()),
        of("CreateCluster", create("delta", None).encode_to_vec()),
        of("CreateCluster", create("epsilon", Some(lifetime())).encode_to_vec()),
        of("JoinCluster", join("alpha", "").encode_to_vec()),
        of("JoinCluster", join("beta", token().as_str()).encode_to_vec()),
        of("JoinCluster", join("gamma", "").encode_to_vec()),
        of("GetCluster", v2::GetClusterRequest { cluster: cluster() }.encode_to_vec()),
        of("ListClusters", list().encode_to_vec()),
        of("WatchCluster", watch(None).encode_to_vec()),
        of("WatchCluster", watch(Some(1)).encode_to_vec()),
        of("UpdateEndpoints", moved.encode_to_vec()),
        of("GetSignedRoster", v2::GetSignedRosterRequest { cluster: cluster() }.encode_to_vec()),
        of(
            "GetNode",
            v2::GetNodeRequest { sig_key_sha256: print(&known::node().sig_key) }.encode_to_vec(),
        ),
        of("Leave", v2::LeaveRequest { cluster: cluster(), name: name() }.encode_to_vec()),
        of(
            "ExpelMember",
            v2::ExpelMemberRequest { cluster: cluster(), member_id: vec![1; 20] }.encode_to_vec(),
        ),
        of("CreateToken", issue(ttl()).encode_to_vec()),
        of("ListTokens", v2::ListTokensRequest { cluster: named("beta") }.encode_to_vec()),
        of(
            "RevokeToken",
            v2::RevokeTokenRequest { cluster: named("beta"), token_id: "01010101".into() }
                .encode_to_vec(),
        ),
        of("DeleteCluster", v2::DeleteClusterRequest { cluster: cluster() }.encode_to_vec()),
        of("Check", vec![]),
    ]
}

fn named(name: &str) -> Option<v2::ClusterRef> {
    Some(v2::ClusterRef { by: Some(v2::cluster_ref::By::Name(name.into())) })
}

fn list() -> v2::ListClustersRequest {
    v2::ListClustersRequest { page_size: 1, page_token: "alpha".into(), mine: true }
}

fn watch(after_revision: Option<u64>) -> v2::WatchClusterRequest {
    v2::WatchClusterRequest { cluster: named("alpha"), after_revision }
}

fn issue(ttl: Option<Lasting>) -> v2::CreateTokenRequest {
    v2::CreateTokenRequest { cluster: named("beta"), ttl, max_uses: 1, label: "x".into() }
}

fn lifetime() -> v2::Lifetime {
    v2::Lifetime {
        fill_within: Some(Lasting { seconds: 1, nanos: 0 }),
        ttl: Some(Lasting { seconds: 600, nanos: 0 }),
        idle_timeout: Some(Lasting { seconds: 60, nanos: 0 }),
        with_owner: true,
    }
}

fn create(name: &str, lifetime: Option<v2::Lifetime>) -> v2::CreateClusterRequest {
    use v2::join_policy::{Keys, Kind};
    let keys = Keys { sig_key_sha256: vec![print(&known::node().sig_key), vec![9; 32]] };
    v2::CreateClusterRequest {
        name: name.into(),
        size: 3,
        endpoint_count: 2,
        attributes: 1,
        policy: lifetime.is_some().then_some(v2::JoinPolicy { kind: Some(Kind::Keys(keys)) }),
        lifetime,
    }
}

fn print(key: &PrivateKey) -> Vec<u8> {
    key.public().fingerprint().as_bytes().to_vec()
}

/// The first client's registration of another ID, with its proof.
fn register() -> v2::RegisterRequest {
    let (node, [registry, _]) = (known::node(), known::servers());
    let (registry, sig) = (registry.public().fingerprint(), node.sig_key.public().fingerprint());
    let comms = node.comms_key.public();
    let statement = proof::comms_statement(&registry, &sig, &comms.fingerprint());
    v2::RegisterRequest {
        id: vec![7; 20],
        comms_key: comms.der().to_vec(),
        comms_proof: node.comms_key.sign_pss(&[&statement]).expect("signed"),
    }
}

/// The first client as a member of the cluster `alpha`, in its own hand.
fn entry() -> Member {
    let (node, [registry, _]) = (known::node(), known::servers());
    let ends = ["127.0.0.1:4000", "h:2"].map(|end| end.parse().expect("an endpoint"));
    let member = Member {
        id: NodeId::from_bytes([0; 20]),
        name: "a".parse().expect("a name"),
        attrs: 1,
        comms_key: node.comms_key.public().clone(),
        sig_key: node.sig_key.public().clone(),
        endpoints: ends.into(),
        entry_signature: None,
    };
    let (registry, alpha) = (registry.public().fingerprint(), ClusterId::from_bytes([1; 20]));
    let signature = entry::sign(&node.sig_key, &registry, &alpha, &member).expect("signed");
    Member { entry_signature: Some(signature), ..member }
}

/// The first client takes the second server's key as its sig key.
fn rotate() -> v2::RotateKeysRequest {
    let (node, [registry, new]) = (known::node(), known::servers());
    let (registry, old) = (registry.public().fingerprint(), node.sig_key.public().fingerprint());
    let (sig, comms) = (new.public().fingerprint(), node.comms_key.public());
    let statement = proof::rotation_statement(&registry, &old, &sig, Some(&comms.fingerprint()));
    let agreed = proof::comms_statement(&registry, &sig, &comms.fingerprint());
    v2::RotateKeysRequest {
        new_sig_key: new.public().der().to_vec(),
        new_comms_key: comms.der().to_vec(),
        old_signature: node.sig_key.sign_pss(&[&statement]).expect("signed"),
        new_signature: new.sign_pss(&[&statement]).expect("signed"),
        comms_proof: node.comms_key.sign_pss(&[&agreed]).expect("signed"),
    }
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let of = |kind, call: &str| {
        let all = calls();
        let of_call =
            move |(number, _): &(u8, Vec<u8>)| CALLS[usize::from(*number)].ends_with(call);
        all.into_iter()
            .filter(of_call)
            .map(move |(_, message)| of_kind(kind, &message))
            .collect::<Vec<_>>()
    };
    let kinds = [
        "Register",
        "RotateKeys",
        "CreateCluster",
        "JoinCluster",
        "WatchCluster",
        "UpdateEndpoints",
        "Leave",
        "ExpelMember",
        "CreateToken",
        "RevokeToken",
        "ListClusters",
        "DeleteCluster",
        "GetSignedRoster",
        "GetNode",
    ];
    (0..).zip(kinds).flat_map(|(kind, call)| of(kind, call)).collect()
}

pub(super) fn answers() -> Vec<Vec<u8>> {
    let key = known::node().sig_key.public().der();
    let member = |rank, left| v2::Member {
        rank,
        id: vec![rank as u8; 20],
        name: format!("m{rank}"),
        attributes: 1,
        sig_key: key.to_vec(),
        comms_key: key.to_vec(),
        endpoints: vec!["127.0.0.1:4000".into()],
        left,
        entry_signature: if left { vec![] } else { vec![7; 256] },
    };
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 1_000_000 });
    let cluster = v2::Cluster {
        id: vec![1; 20],
        name: "alpha".into(),
        size: 3,
        endpoint_count: 1,
        revision: 4,
        owner_sha256: vec![2; 32],
        policy: create("delta", Some(lifetime())).policy,
        create_time: time(1_800_000_000),
        fill_time: time(1_800_000_060),
        expire_time: time(1_800_000_600),
        idle_timeout: Some(Lasting { seconds: 60, nanos: 0 }),
        with_owner: true,
        present: 1,
        members: vec![member(0, false), member(2, true)],
        ..v2::Cluster::default()
    };
    use v2::watch_cluster_response::{Change, Event, Gone, Heartbeat};
    let news = [
        Event::Snapshot(cluster.clone()),
        Event::Change(Change { kind: 3, member: Some(member(1, false)) }),
        Event::Gone(Gone { reason: 2 }),
        Event::Heartbeat(Heartbeat {}),
    ];
    let mut inputs = vec![of_kind(0, &cluster.encode_to_vec())];
    inputs.extend(news.map(|event| {
        let told = v2::WatchClusterResponse { revision: 5, complete: true, event: Some(event) };
        of_kind(1, &told.encode_to_vec())
    }));
    let refusals = [
        xlreg_api::Fault::field("cluster.id", "wrong"),
        xlreg_api::Fault::new(v2::ErrorReason::RateLimited, "slower")
            .with("what", "requests")
            .retry_after(Duration::from_millis(1500)),
    ];
    inputs.extend(refusals.map(|fault| {
        let status = tonic::Status::from(fault);
        of_kind(2, &[&[status.code() as u8], status.details()].concat())
    }));
    inputs
}

fn ask(input: &mut Vec<u8>, who: u8, call: u8, message: &[u8]) {
    input.extend_from_slice(&[who, call]);
    push_piece(input, message);
}

pub(super) fn services() -> Vec<Vec<u8>> {
    let all = calls();
    let mut inputs = Vec::new();
    for (call, message) in &all {
        for who in 0..4 {
            let mut input = Vec::new();
            ask(&mut input, who, *call, message);
            inputs.push(input);
        }
    }
    // All calls, by one client and by several, with some time between them.
    for clients in [&[0][..], &[0, 1], &[1, 0, 3, 2]] {
        let mut input = Vec::new();
        for ((call, message), who) in all.iter().zip(clients.iter().cycle()) {
            ask(&mut input, *who, *call, message);
            ask(&mut input, 1, WAIT, &[]);
        }
        inputs.push(input);
    }
    inputs
}

/// Settings, then a request as tonic sends it, then what else there is.
pub(super) fn connections() -> Vec<Vec<u8>> {
    let frame = |input: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        input.extend_from_slice(&[kind, flags, stream]);
        push_piece(input, payload);
    };
    let mut inputs = Vec::new();
    for (call, message) in calls() {
        let body = [&[0], (message.len() as u32).to_be_bytes().as_slice(), &message].concat();
        let headers = headers(CALLS[usize::from(call)]);
        let mut input = Vec::new();
        frame(&mut input, 4, 0, 0, &[0, 4, 0, 1, 0, 0]);
        frame(&mut input, 1, 4, 1, &headers);
        frame(&mut input, 0, 1, 1, &body);
        inputs.push(input);
    }
    let mut others = Vec::new();
    let headers = headers(CALLS[5]);
    frame(&mut others, 4, 0, 0, &[]);
    frame(&mut others, 4, 1, 0, &[]);
    frame(&mut others, 1, 0, 1, &headers[..9]);
    frame(&mut others, 9, 4, 1, &headers[9..]);
    frame(&mut others, 6, 0, 0, &[7; 8]);
    frame(&mut others, 8, 0, 0, &[0, 0, 1, 0]);
    frame(&mut others, 8, 0, 1, &[0, 0, 1, 0]);
    frame(&mut others, 2, 0, 1, &[0, 0, 0, 0, 7]);
    frame(&mut others, 3, 0, 1, &[0, 0, 0, 8]);
    frame(&mut others, 7, 0, 0, &[0; 8]);
    inputs.push(others);
    inputs
}

/// Headers of a call, each a literal that is not indexed.
fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "xlreg"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "1S"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
