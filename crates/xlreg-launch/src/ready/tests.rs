use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use xlreg_core::{ClusterId, NodeId};

use super::*;
use crate::{Place, Places};

const ONE: Offer = Offer { endpoints: 1, roster: true, tls: false };
const TLS: Offer = Offer { tls: true, ..ONE };
const ALONE: Offer = Offer { endpoints: 1, roster: false, tls: false };

/// The check that `text` becomes for a lone member_0 at `endpoint`.
fn check_at(text: &str, endpoint: &str, env: Vec<Variable>) -> Result<Check, ReadinessError> {
    check_by(text, endpoint, env, None)
}

fn check_by(
    text: &str,
    endpoint: &str,
    env: Vec<Variable>,
    tls: Option<&Tls>,
) -> Result<Check, ReadinessError> {
    let member = Place {
        name: "member_0".parse().unwrap(),
        id: NodeId::from_bytes([0; 20]),
        endpoints: vec![endpoint.parse().unwrap()],
        dir: "/run/member_0".into(),
        tls: None,
    };
    let places = Places {
        cluster: "alpha".to_owned(),
        cluster_id: ClusterId::from_bytes([0; 20]),
        size: 1,
        members: vec![member],
    };
    let values = Values::Member { places: &places, rank: 0, roster_file: Path::new("/roster") };
    Readiness::parse(text, &TLS)?.check(&values, env, tls)
}

fn check(text: &str) -> Check {
    check_at(text, "127.0.0.1:1", Vec::new()).unwrap()
}

/// What one try of `text` says.
async fn attempt(text: &str) -> Result<(), String> {
    check(text).probe.attempt().await
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Each way is understood, and what is none is refused in words that help.
#[test]
fn flags_are_parsed() {
    for text in
        ["tcp", "tcp:{host}:81", "http://{endpoint}/", "line:^up$", "cmd:true", "line::", "cmd: :"]
    {
        assert!(Readiness::parse(text, &ONE).is_ok(), "{text}");
    }
    for (text, offer, expected) in [
        ("", ONE, "\"\" does not say when a program is ready; there are tcp, "),
        ("ready", ONE, "\"ready\" does not say"),
        ("http:x", ONE, "\"http:x\" does not say"),
        ("TCP", ONE, "\"TCP\" does not say"),
        ("https:x", TLS, "\"https:x\" does not say"),
        ("https://{endpoint}/", ONE, "https:// can be tried only with --tls, for want of"),
        ("tcp:", ONE, "tcp: has nothing after it; write tcp:{endpoint}"),
        ("line:", ONE, "line: has nothing after it; write line:listening"),
        ("cmd:", ONE, "cmd: has nothing after it"),
        ("tcp", ALONE, "tcp needs an endpoint: the program joins the cluster by itself"),
        (
            "tcp:{endpoint}",
            ALONE,
            "in \"{endpoint}\": {endpoint} at character 1: the program joins",
        ),
        ("cmd:awk '{print}'", ONE, "in \"awk '{print}'\": {print at character 6"),
        ("http://{prot}/", ONE, "in \"http://{prot}/\": {prot at character 8"),
        ("line:(", ONE, "line:( can't be used: regex parse error"),
        ("line:(a{1000}){1000}", ONE, "line:(a{1000}){1000} can't be used: Compiled regex exceeds"),
    ] {
        let error = Readiness::parse(text, &offer).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

/// Values that make no endpoint or URL are refused before anything is tried.
#[test]
fn what_can_not_be_tried_is_refused() {
    for text in ["tcp:{host}", "tcp:{name}:x", "tcp:{port}", "tcp:1.2.3.4:70000"] {
        let refused = check_at(text, "127.0.0.1:1", Vec::new());
        assert!(matches!(refused, Err(ReadinessError::Endpoint { .. })), "{text}");
    }
    for text in [
        "http://",
        "http:///path",
        "http://{host}:/",
        "http://{host}:0/",
        "http://{host}:70000/",
        "http://me@{endpoint}/",
        "http://{endpoint} /",
        "http://-/",
    ] {
        let refused = check_at(text, "127.0.0.1:1", Vec::new());
        assert!(matches!(refused, Err(ReadinessError::Url { .. })), "{text}");
    }
    let ipv6 = "[::1]:81";
    assert!(check_at("http://{host}:{port}/", ipv6, Vec::new()).is_err());
    assert!(check_at("http://{endpoint}/", ipv6, Vec::new()).is_ok());
    assert!(check_at("http://{host}", "localhost:1", Vec::new()).is_ok());
}

/// `tcp` says who refuses, tries again, and ends once somebody listens.
#[tokio::test]
async fn tcp_waits_for_somebody_to_listen() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let check = Arc::new(check_at("tcp", &address.to_string(), Vec::new()).unwrap());
    let mut trouble = check.trouble.subscribe();
    let waiting = tokio::spawn({
        let check = Arc::clone(&check);
        async move { check.wait().await }
    });

    trouble.changed().await.unwrap();
    assert_eq!(check.trouble(), format!("connection refused at {address}"));
    let _listener = socket.listen(1).unwrap();
    waiting.await.unwrap();
}

/// What one GET says to a server that answers `answer` and hangs up, and the request it made.
async fn get(path: &str, answer: Vec<u8>) -> (Result<(), String>, String) {
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        // An error is a client that has heard enough.
        let _heard = stream.write_all(&answer).await;
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let outcome = attempt(&format!("http://{address}{path}")).await;
    let hide_port = |text: String| text.replace(&address.to_string(), "ADDRESS");
    (outcome.map_err(hide_port), hide_port(server.await.unwrap()))
}

/// Good is 2xx and nothing else, and the request is what a server expects.
#[tokio::test]
async fn http_is_ready_with_2xx_only() {
    for (status, expected) in [
        ("200 OK", Ok(())),
        ("204 No Content", Ok(())),
        ("503 Busy", Err("http://ADDRESS/up?x=1 answered 503 Service Unavailable")),
        ("404 Nope", Err("http://ADDRESS/up?x=1 answered 404 Not Found")),
        (
            "302 Found\r\nlocation: /",
            Err("http://ADDRESS/up?x=1 answered 302 Found, and redirects are not followed"),
        ),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nhello");
        let (outcome, request) = get("/up?x=1", answer.into_bytes()).await;
        assert_eq!(outcome, expected.map_err(str::to_owned), "{status}");
        let expected = "GET /up?x=1 HTTP/1.1\r\nhost: ADDRESS\r\nconnection: close\r\n\r\n";
        assert_eq!(request, expected);
    }
    let (outcome, request) = get("", b"HTTP/1.0 200 OK\r\n\r\n".to_vec()).await;
    assert_eq!(outcome, Ok(()));
    assert!(request.starts_with("GET / HTTP/1.1\r\n"));
}

/// What isn't HTTP, or has no end, is an error and no burden.
#[tokio::test]
async fn http_bears_with_rubbish() {
    let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    for answer in [b"".to_vec(), b"SSH-2.0\r\n".to_vec(), b"HTTP/1.1 200".to_vec(), endless] {
        let start = answer[..answer.len().min(20)].to_vec();
        let (outcome, _) = get("/", answer).await;
        let trouble = outcome.unwrap_err();
        assert!(
            trouble.starts_with("no HTTP answer from http://ADDRESS/: "),
            "{start:?} {trouble}"
        );
    }
}

/// A server that takes the connection and says nothing holds up one try for its time only. The
/// clock is tokio's, and leaps.
#[tokio::test(start_paused = true)]
async fn http_does_not_wait_for_the_silent() {
    let (_listener, address) = listener().await;
    let trouble = attempt(&format!("http://{address}/")).await.unwrap_err();
    assert_eq!(trouble, format!("no answer within 2s from http://{address}/"));
}

/// Nobody there is said as for `tcp`.
#[tokio::test]
async fn http_says_who_refuses() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let trouble = attempt(&format!("http://{address}/")).await.unwrap_err();
    assert_eq!(trouble, format!("connection refused at {address}"));
}

/// A certificate for `host` below an authority of its own, and that.
fn issued(host: &str) -> (rustls::sign::CertifiedKey, CertificateDer<'static>) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([host.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = any_supported_type(&key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], key);
    (certified, authority.der().clone())
}

/// A member's TLS that trusts `authority`, and shows nothing.
fn trusting(authority: &CertificateDer<'static>) -> Tls {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// What one GET says to a server of 127.0.0.1 that shows `certified`, if it speaks TLS at all, and
/// answers `answer`.
async fn get_by(
    tls: &Tls,
    certified: Option<rustls::sign::CertifiedKey>,
    answer: &'static [u8],
) -> Result<(), String> {
    let (listener, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let Some(certified) = certified else {
            // An error is a client that has heard enough.
            let _heard = stream.write_all(answer).await;
            return;
        };
        let shown = rustls::sign::SingleCertAndKey::from(certified);
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let Ok(mut stream) = acceptor.accept(stream).await else { return };
        let _length = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let text = format!("https://{address}/up");
    let check = check_by(&text, "127.0.0.1:1", Vec::new(), Some(tls)).unwrap();
    let outcome = check.probe.attempt().await;
    server.await.unwrap();
    outcome.map_err(|trouble| trouble.replace(&address.to_string(), "ADDRESS"))
}

/// Only a server that the member would trust, under the name in the URL, can be ready.
#[tokio::test]
async fn https_is_ready_with_2xx_from_whom_the_member_trusts() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    let (certified, authority) = issued("127.0.0.1");
    let tls = trusting(&authority);
    assert_eq!(get_by(&tls, Some(certified.clone()), OK).await, Ok(()));
    let trouble = get_by(&tls, Some(certified.clone()), b"HTTP/1.1 503 Busy\r\n\r\n").await;
    assert_eq!(trouble.unwrap_err(), "https://ADDRESS/up answered 503 Service Unavailable");

    let begins = |trouble: Result<(), String>, with: &str| {
        let trouble = trouble.unwrap_err();
        let with = format!("no TLS 1.3 with https://ADDRESS/up: {with}");
        assert!(trouble.starts_with(&with), "{trouble}");
    };
    let stranger = trusting(&issued("127.0.0.1").1);
    begins(get_by(&stranger, Some(certified), OK).await, "invalid peer certificate: BadSignature");
    let (elsewhere, authority) = issued("127.0.0.2");
    let tls = trusting(&authority);
    begins(
        get_by(&tls, Some(elsewhere), OK).await,
        "invalid peer certificate: certificate not valid",
    );
    begins(get_by(&tls, None, OK).await, "received corrupt message");
}

/// Without TLS of its own, no check is made for what needs it.
#[test]
fn https_needs_something_to_trust() {
    let refused = check_at("https://127.0.0.1:1/", "127.0.0.1:1", Vec::new());
    assert!(matches!(refused, Err(ReadinessError::Https)));
    let tls = trusting(&issued("a").1);
    for text in ["https://127.0.0.1:0/", "https://", "https://node.0x1/"] {
        let refused = check_by(text, "127.0.0.1:1", Vec::new(), Some(&tls));
        assert!(matches!(refused, Err(ReadinessError::Url { .. })), "{text}");
    }
}

/// The first line that matches ends the wait, whatever its end and its encoding.
#[tokio::test]
async fn line_waits_for_a_match() {
    let anywhere = check("line:up");
    assert!(anywhere.sees_line(b"\xff up \xfe"));
    let check = check(r"line:^listening on \d+$");
    let expected = r"no line of its output has matched ^listening on \d+$ yet";
    assert_eq!(check.trouble(), expected);
    for other in [b"".as_slice(), b"listening", b"not listening on 1", b"\xff\n", b"on\n80"] {
        assert!(!check.sees_line(other));
    }
    assert!(check.sees_line(b"listening on 80\r\n"));
    assert!(check.sees_line(b"listening on 81\n"));
    check.wait().await;
    check.wait().await;
}

/// The other checks have no use for lines.
#[test]
fn lines_are_for_line_only() {
    assert!(!check("cmd:true").sees_line(b"true"));
}

/// Exit code 0 is good; else the code is told, and the last thing said.
#[tokio::test]
async fn commands_are_ready_when_they_end_with_0() {
    for (command, expected) in [
        ("true", Ok(())),
        ("echo no >&2; echo {name}", Ok(())),
        ("exit 3", Err("exit status: 3")),
        (
            "echo out; echo one >&2; printf 'two\\tthree\\n\\n' >&2; false",
            Err("exit status: 1: two three"),
        ),
        ("kill -9 $$", Err("signal: 9 (SIGKILL)")),
        ("test {name} = member_1", Err("exit status: 1")),
        // More than the pipe holds: its writer would hang if nobody read.
        ("yes | head -c 200000 >&2; echo end >&2; false", Err("exit status: 1: end")),
    ] {
        let outcome = attempt(&format!("cmd:{command}")).await;
        let filled = command.replace("{name}", "member_0");
        let said = |end: &str| format!("`{filled}`: {end}");
        assert_eq!(outcome, expected.map_err(said), "{command}");
    }
}

/// A command has the member's environment: what is set, and without what is removed.
#[tokio::test]
async fn commands_have_the_members_environment() {
    let env = vec![("XLREG_RANK".into(), Some("7".into())), ("HOME".into(), None)];
    let check = check_at("cmd:test $XLREG_RANK-${HOME-none} = 7-none", "[::1]:1", env).unwrap();
    assert_eq!(check.probe.attempt().await, Ok(()));
}

/// A command that fails is run again.
#[tokio::test]
async fn commands_are_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let command = format!("cmd:test -e '{0}' || {{ : > '{0}'; exit 7; }}", mark.display());
    let check = check(&command);
    check.wait().await;
    assert!(check.trouble().ends_with(": exit status: 7"), "{}", check.trouble());
}

/// A command that doesn't end is given up. The clock is tokio's, and leaps.
#[tokio::test(start_paused = true)]
async fn commands_have_their_time() {
    let trouble = attempt("cmd:sleep 60").await.unwrap_err();
    assert_eq!(trouble, "`sleep 60`: it did not end within 5s");
}

/// Somebody who reads from a pipe that a command and its children hold open. Its end tells, without
/// asking for process IDs, that none of them is left.
struct Witness {
    pipe: std::path::PathBuf,
    started: oneshot::Receiver<()>,
    all_gone: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Witness {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (tell, started) = oneshot::channel();
        let path = pipe.clone();
        let all_gone = spawn_blocking(move || {
            let mut lines = BufReader::new(std::fs::File::open(path).unwrap());
            lines.read_line(&mut String::new()).unwrap();
            tell.send(()).unwrap();
            lines.read_to_end(&mut Vec::new()).unwrap();
        });
        Self { pipe, started, all_gone, _dir: dir }
    }

    /// A command that leaves a child in the background, and then does `rest`.
    fn command(&self, rest: &str) -> String {
        format!("cmd:exec > '{}'; sleep 60 & echo started; {rest}", self.pipe.display())
    }
}

/// Dropping the wait ends the command and its children.
#[tokio::test]
async fn nothing_outlives_a_cancelled_wait() {
    let witness = Witness::new();
    let check = check(&witness.command("wait"));
    tokio::select! {
        () = check.wait() => panic!("it can't be ready"),
        started = witness.started => started.unwrap(),
    }
    witness.all_gone.await.unwrap();
}

/// A command that ends takes its children with it, and does not wait for them.
#[tokio::test]
async fn nothing_outlives_a_command_that_ends() {
    let witness = Witness::new();
    check(&witness.command("exit 0")).wait().await;
    witness.all_gone.await.unwrap();
}
