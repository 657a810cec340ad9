//! What fuzzing starts from: inputs made of the captured vectors, and of our own words.

mod modern;

use prost::Message as _;
use serde_json::{Value, json};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::roster::Ranked;
use xlreg_proto::text::{Credentials, NodeFile, SignedRoster, pem, sshkey};
use xlreg_proto::wire::XlRegMsg;

use self::modern::{
    answers, certificates, client_hello, connections, invitations, requests, services,
};
use crate::known::{self, bytes};
use crate::parts::push_piece;
use crate::service::token;

/// The first inputs of one target.
pub struct Seeds {
    /// The target.
    pub target: &'static str,
    /// The inputs.
    pub inputs: Vec<Vec<u8>>,
}

/// Those of all targets.
#[must_use]
pub fn all() -> Vec<Seeds> {
    let seeds = |target, inputs| Seeds { target, inputs };
    vec![
        seeds("hello", hellos()),
        seeds("reply", replies()),
        seeds("opener", talks(false)),
        seeds("session", talks(true)),
        seeds("message", messages()),
        seeds("token", tokens()),
        seeds("credentials", texts(&known::CREDENTIALS)),
        seeds("node_file", vec![known::NODE_FILE.into(), old_node_file().into()]),
        seeds("member_file", vec![known::MEMBER_FILE.into(), old_member_file().into()]),
        seeds("kept_roster", kept_rosters()),
        seeds("roster", texts(&known::ROSTERS)),
        seeds("public_key", public_keys()),
        seeds("private_key", vec![known::node().sig_key.pkcs1().to_vec()]),
        seeds("template", templates()),
        seeds("readiness", readiness()),
        seeds("config", configs()),
        seeds("connection", talks(true)),
        seeds("first_bytes", vec![client_hello()]),
        seeds("tls", vec![client_hello()]),
        seeds("certificate", certificates()),
        seeds("invitation", invitations()),
        seeds("token_secret", texts(&[token().as_str()])),
        seeds("request", requests()),
        seeds("answer", answers()),
        seeds("service", services()),
        seeds("http2", connections()),
        seeds("store", stores()),
    ]
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// An input that begins with a byte for what it is.
fn of_kind(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind], rest].concat()
}

/// The captured sessions of both dialects, each with the number of its dialect.
fn sessions() -> Vec<(u8, Value)> {
    let of = |(dialect, mut file): (u8, Value)| {
        let sessions = file["sessions"].take();
        let sessions = sessions.as_array().cloned().unwrap_or_default();
        sessions.into_iter().map(move |session| (dialect, session))
    };
    (0..).zip(known::sessions()).flat_map(of).collect()
}

/// Messages of a session: all, or just those of one side.
fn said<'a>(session: &'a Value, by: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    let all = session["messages"].as_array().into_iter().flatten();
    all.filter(move |message| by.is_empty() || message["from"] == by)
        .map(|message| bytes(&message["protobuf"]))
}

fn hellos() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (_, session) in sessions() {
        let hello = &session["hello"];
        let iv = hello.get("iv1").map(bytes).unwrap_or_default();
        let said = [iv, bytes(&hello["key1"]), bytes(&hello["salt1"]), vec![0; 4]].concat();
        inputs.push(of_kind(1, &said));
        inputs.push(of_kind(0, &bytes(&session["wire_hello"])));
    }
    inputs
}

fn replies() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (dialect, session) in sessions() {
        let reply = &session["hello_reply"];
        let iv = reply.get("iv2").map(bytes).unwrap_or_default();
        let (key, salt) = (bytes(&reply["key2"]), bytes(&reply["salt2"]));
        let echo = if dialect == 0 { vec![5; 8] } else { Vec::new() };
        let said = [iv, key, salt, echo, vec![0; 4]].concat();
        inputs.push(of_kind(dialect | 2, &said));
        inputs.push(of_kind(dialect, &bytes(&session["wire_hello_reply"])));
    }
    inputs
}

/// Whole conversations: what both sides said; or only what clients ask, beginning with a claim that
/// our node has signed.
fn talks(asked: bool) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for (dialect, session) in sessions() {
        for sizes in [&[][..], &[0], &[15, 16, 200]] {
            let mut input = vec![dialect];
            push_piece(&mut input, sizes);
            if asked {
                input.push(0xC0);
            }
            for message in said(&session, if asked { "client" } else { "" }).skip(asked.into()) {
                input.push(0);
                push_piece(&mut input, &message);
            }
            inputs.push(input);
        }
    }
    if asked {
        inputs.extend(ways());
    }
    inputs
}

/// Ways through a session that no capture has: each claim; credentials, create, join and look.
fn ways() -> Vec<Vec<u8>> {
    use xlreg_core::ClusterKey::{Id, Name};
    use xlreg_proto::message::Request::{Create, Credentials, GetCluster, Join};
    let name = |name: &str| name.parse().expect("a name");
    let alpha = || Some(Name(name("alpha")));
    let id = Some(Id(xlreg_core::ClusterId::from_bytes([1; 20])));
    let create = |name| Create { name, attrs: 1, size: 3, endpoint_count: 2 };
    let get = |cluster, which| GetCluster { cluster, which };
    let ways = [
        vec![Credentials, create(name("beta")), Join { cluster: None }, get(None, Some(7))],
        vec![create(name("alpha")), get(None, None), Join { cluster: alpha() }, get(alpha(), None)],
        vec![Join { cluster: id }, get(None, Some(u64::MAX)), get(None, Some(1))],
    ];
    let mut inputs = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        for claim in 0..5 {
            let mut input = vec![number as u8];
            push_piece(&mut input, &[]);
            input.push(0xC0 + claim);
            for request in way {
                input.push(0);
                push_piece(&mut input, &request.encode().encode_to_vec());
            }
            inputs.push(input);
        }
    }
    inputs
}

fn messages() -> Vec<Vec<u8>> {
    sessions().iter().flat_map(|(_, session)| said(session, "")).collect()
}

fn tokens() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for message in messages() {
        let message = XlRegMsg::decode(message.as_slice()).expect("the vectors have messages");
        let tokens = message.member_specs.into_iter().chain(message.tokens);
        inputs.extend(tokens.map(|token| token.encode_to_vec()));
    }
    inputs
}

/// What a member keeps of those whose signed rosters are in the vectors.
fn kept_rosters() -> Vec<Vec<u8>> {
    let kept = |text: &&str| {
        let signed = SignedRoster::parse(text.as_bytes()).expect("the vectors' rosters");
        let members: Vec<_> = signed.members.iter().map(kept_member).collect();
        let roster = json!({
            "cluster": signed.cluster.name.to_string(),
            "cluster_id": signed.cluster.id.to_string(),
            "size": signed.cluster.size,
            "endpoint_count": signed.cluster.endpoint_count,
            "complete": false,
            "members": members,
        });
        roster.to_string().into_bytes()
    };
    known::ROSTERS.iter().map(kept).collect()
}

fn kept_member(ranked: &Ranked) -> Value {
    let member = &ranked.member;
    let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
    json!({
        "rank": ranked.rank,
        "name": member.name.to_string(),
        "id": member.id.to_string(),
        "attrs": member.attrs,
        "endpoints": endpoints,
        "comms_key": sshkey::encode(&member.comms_key).trim_end(),
        "sig_key": sshkey::encode(&member.sig_key).trim_end(),
    })
}

/// A node's file as it was before 2014-09: other names for private keys, `ssh-rsa` for public ones.
fn old_node_file() -> String {
    as_of_old(known::NODE_FILE, &NodeFile::parse(known::NODE_FILE).expect("a node's file"))
}

fn as_of_old(text: &str, node: &NodeFile) -> String {
    let line = |key: &PrivateKey| (pem::encode_public(key.public()), sshkey::encode(key.public()));
    let (pem, ssh) = line(&node.comms_key);
    let (pem2, ssh2) = line(&node.sig_key);
    text.replace(pem.trim_end(), &ssh)
        .replace(pem2.trim_end(), &ssh2)
        .replace("ckPriv", "commsKey")
        .replace("skPriv", "sigKey")
}

/// A member's file as it was of old.
fn old_member_file() -> String {
    let id = "    clusterID: 7b441732db1d18a550915c5673da17be22cb0558\n";
    let attrs = "    clusterAttrs: 0\n";
    let count = "    epCount: 2\n";
    let text = known::MEMBER_FILE.replace(&format!("{id}{attrs}"), &format!("{attrs}{id}"));
    let text = text.replace("clusterMaxSize", "clusterSize").replace(count, "");
    let end = text.rfind('}').unwrap_or_default();
    as_of_old(&format!("{}{count}}}", &text[..end]), known::node())
}

fn public_keys() -> Vec<Vec<u8>> {
    let credentials = Credentials::parse(known::CREDENTIALS[0]).expect("the vectors'");
    let key = &credentials.sig_key;
    vec![
        of_kind(0, key.der()),
        of_kind(1, pem::encode_public(key).as_bytes()),
        of_kind(2, sshkey::encode(key).as_bytes()),
    ]
}

fn templates() -> Vec<Vec<u8>> {
    let texts = [
        "--listen {endpoint} --client {host1}:{port1} --data {dir} --id {id}",
        "{name} is {rank} of {size} in {cluster} ({cluster_id}); {roster} {endpoint1} {host} {port}",
        "--peers {peers , {name}=http://{endpoint}}",
        "{members \\n server.{rank}={host}:{port};{port1}}",
        "{members  {id}}{peers \\t \\{{name\\}}}",
        "{peers \\s\\\\ a{b{c}d}\\}e}",
        "{ x } {} {{ x }} ${name} \\{name} \\\\{name} \\\\\\{name} {\"a\": [1]}",
        "line one\nline {two}",
        "{host-name} {roste} {members {name}} {peers ,",
        "--tls {tls_cert} {tls_key} {roster_ca} {peers , {tls_cert}}",
    ];
    let of = |kind| move |text: &&str| of_kind(kind, text.as_bytes());
    [2, 1, 6, 10].into_iter().flat_map(|kind| texts.iter().map(of(kind))).collect()
}

/// Each way to tell, with a line that would be one.
fn readiness() -> Vec<Vec<u8>> {
    let texts = [
        "tcp",
        "tcp:{host1}:{port1}",
        "http://{endpoint}/health?a=b",
        "https://{endpoint}/",
        "http://user@[::1]:80",
        "line:^listening on [0-9]+(:[0-9]+)?$",
        "line:(?i)\\bready\\b|\\p{L}{2,4}",
        "cmd:test -e {dir}/ready",
    ];
    let of = |kind| {
        move |text: &&str| {
            let mut input = vec![kind];
            push_piece(&mut input, text.as_bytes());
            input.extend_from_slice(b"listening on 4000\r\n");
            input
        }
    };
    (0..4).flat_map(|kind| texts.iter().map(of(kind))).collect()
}

fn configs() -> Vec<Vec<u8>> {
    texts(&[
        "listen = '127.0.0.1:0'\nadvertise = 'h'\ndata = '/d'\nname = 'n'\nephemeral = false\n",
        "[limits]\nnodes-max = 1\nclusters-max = 2\nmembers-max = 3\nids-per-key-max = 21\n\
         clusters-per-key-max = 22\nmemberships-per-key-max = 23\n",
        "[connections]\nmax = 4\nmax-per-address = 5\nhello-ms = 6\nmessage-ms = 7\n\
         idle-ms = 8\nwrite-ms = 9\nsession-ms = 10\nhold-ms = 0\ndrain-ms = 0\n",
        "[modern]\nhandshakes-max = 31\nconnections-per-key-max = 33\nrequests-max = 53\n\
         requests-per-second = 38\nrequests-burst = 39\nheartbeat-ms = 44\nowner-grace-ms = 0\n",
        "[access]\nlegacy = true\nlisting = 'own'\nadmins = \
         ['abababababababababababababababababababababababababababababababab']\n",
    ])
}

/// No change; a bit, or the end; one value of each kind in each of the tables; a log; no database.
fn stores() -> Vec<Vec<u8>> {
    let mut inputs = vec![vec![0], vec![0, 0, 0x10, 0, 1], vec![0, 0, 0x20, 0, 0], vec![2, 0x37]];
    inputs.push(of_kind(3, b"SQLite format 3\0"));
    for table in 0..10 {
        for how in 0..8 {
            let mut input = vec![1, table, 0, how | 8, 0, 2];
            push_piece(&mut input, b"alpha");
            inputs.push(input);
        }
    }
    inputs
}
