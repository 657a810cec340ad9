//! One session over a pipe in memory, with time under control.
//!
//! Hellos are opened on threads, of which paused time knows nothing: it would run away while one is
//! waited for. So hellos are said while time runs, and it is paused once all have been.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use tokio::io::{DuplexStream, duplex};
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{pause, sleep};
use xlreg_core::limits::Limits;
use xlreg_core::{ClusterKey, NodeId, Version};
use xlreg_proto::hello::ClientHello;
use xlreg_proto::keys::{PrivateKey, SealingKey};
use xlreg_proto::message::{Claim, Request};
use xlreg_store::LocalEngine;

use super::*;
use crate::rates::Rate;

const DIALECTS: [Dialect; 2] = [Dialect::V1_8, Dialect::V1_9];

/// A pipe in which everything fits.
const WIDE: usize = 64 * 1024;

/// No two alike, so that it shows which of them ended a session.
const BOUNDS: Connections = Connections {
    max: 1,
    max_per_address: 1,
    unproven_hellos: Rate { per_second: 1, burst: 64 },
    hello: Duration::from_secs(3),
    message: Duration::from_secs(4),
    idle: Duration::from_secs(20),
    write: Duration::from_secs(6),
    session: Duration::from_secs(100),
    hold: Duration::from_secs(2),
    drain: Duration::from_secs(5),
};

/// New IDs for each address.
const REGISTRATIONS: Rate = Rate { per_second: 1, burst: 4 };

/// Requests of an address: more than any other test makes at once.
const REQUESTS: Rate = Rate { per_second: 1000, burst: 200 };

/// Where clients come from.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The registry's key, and every member's: what tells members apart here is their IDs.
fn key() -> &'static Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    KEY.get_or_init(|| Arc::new(PrivateKey::generate().unwrap()))
}

fn member(number: u8) -> Request {
    let id = NodeId::from_bytes([number; 20]);
    let name = format!("m{number}").parse().unwrap();
    let ends = vec!["127.0.0.1:4000".parse().unwrap()];
    Request::Member(Claim::sign(Some(id), name, 0, key().public().clone(), key(), ends).unwrap())
}

fn create(size: u32) -> Request {
    Request::Create { name: "alpha".parse().unwrap(), attrs: 0, size, endpoint_count: 1 }
}

fn join() -> Request {
    Request::Join { cluster: Some(ClusterKey::Name("alpha".parse().unwrap())) }
}

fn get(which: u64) -> Request {
    let cluster = Some(ClusterKey::Name("alpha".parse().unwrap()));
    Request::GetCluster { cluster, which: Some(which) }
}

/// What connections share, without a listener.
struct Host(Arc<Shared>);

impl Host {
    fn new(bounds: Connections) -> Self {
        let entry = Arc::new(Member {
            id: NodeId::from_bytes([250; 20]),
            name: "xlReg".parse().unwrap(),
            attrs: 0,
            comms_key: key().public().clone(),
            sig_key: key().public().clone(),
            endpoints: vec!["127.0.0.1:56789".parse().unwrap()],
            entry_signature: None,
        });
        Self(Arc::new(Shared {
            engine: Arc::new(LocalEngine::in_memory(Limits::default())),
            pool: Pool::start(key(), bounds.unproven_hellos).unwrap(),
            identity: Arc::new(Identity { version: Version::CURRENT, entry }),
            hello_bytes: key().block_bytes(),
            bounds,
            stop: CancellationToken::new(),
            around: Surroundings::default(),
            request_rates: Arc::new(Rates::new(REQUESTS)),
            registration_rates: Arc::new(Rates::new(REGISTRATIONS)),
        }))
    }

    /// A connection just accepted, over a pipe that holds `bytes` each way.
    fn accept(&self, bytes: usize) -> (DuplexStream, JoinHandle<(Story, Closed)>) {
        self.accepted(bytes, Vec::new(), Instant::now())
    }

    /// One that was accepted then, and has sent `start` since.
    fn accepted(
        &self,
        bytes: usize,
        start: Vec<u8>,
        then: Instant,
    ) -> (DuplexStream, JoinHandle<(Story, Closed)>) {
        let (near, far) = duplex(bytes);
        let connection = Connection::new(far, start, Arc::clone(&self.0), HERE, then);
        (near, tokio::spawn(connection.run()))
    }

    /// A client that has said hello.
    async fn greet(&self, dialect: Dialect, bytes: usize) -> Client {
        let (mut stream, server) = self.accept(bytes);
        let (hello, packet) = hello(dialect);
        stream.write_all(&packet).await.unwrap();
        let mut reply = vec![0; hello.reply_bytes()];
        stream.read_exact(&mut reply).await.unwrap();
        let (channel, version) = hello.finish(&reply).unwrap();
        assert_eq!(version, Version::CURRENT);
        Client { stream, channel, server }
    }

    /// A client that is known, with time paused from now on.
    async fn greet_and_pause(&self, dialect: Dialect, bytes: usize) -> Client {
        let mut client = self.greet(dialect, bytes).await;
        pause();
        client.ask(&member(1)).await;
        client
    }
}

fn hello(dialect: Dialect) -> (ClientHello, Vec<u8>) {
    let secrets = Secrets::from_random(random());
    ClientHello::new(dialect, key().public(), Version::CURRENT, secrets).unwrap()
}

/// The other end of a session.
struct Client {
    stream: DuplexStream,
    channel: Channel,
    server: JoinHandle<(Story, Closed)>,
}

impl Client {
    fn seal(&mut self, request: &Request) -> Vec<u8> {
        self.channel.sealer.seal(&request.encode(), random)
    }

    async fn send(&mut self, request: &Request) {
        let sealed = self.seal(request);
        self.stream.write_all(&sealed).await.unwrap();
    }

    async fn receive(&mut self) -> Reply {
        loop {
            if let Some(message) = self.channel.opener.next_message().unwrap() {
                return Reply::decode(message).unwrap();
            }
            let mut buffer = Vec::new();
            assert_ne!(self.stream.read_buf(&mut buffer).await.unwrap(), 0, "no reply");
            self.channel.opener.push(&buffer);
        }
    }

    async fn ask(&mut self, request: &Request) -> Reply {
        self.send(request).await;
        self.receive().await
    }

    /// Ciphertext that never becomes a message, however much of it there is: the head of one with
    /// a long field, then `bytes` that are not the rest of that field.
    fn rubbish(&mut self, bytes: usize) -> Vec<u8> {
        let mut message = create(2).encode();
        message.cluster_name = Some("n".repeat(100_000));
        let mut sealed = self.channel.sealer.seal(&message, random);
        sealed.truncate(48);
        sealed.extend((0..bytes).map(|n| n as u8));
        sealed
    }

    /// Why the server closes, having sent nothing more.
    async fn closed(self) -> (Story, Closed) {
        closed(self.stream, self.server).await
    }
}

async fn closed(mut stream: DuplexStream, server: JoinHandle<(Story, Closed)>) -> (Story, Closed) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{} bytes more", rest.len());
    server.await.unwrap()
}

#[track_caller]
fn assert_late(closed: &Closed, expected: &str) {
    assert!(
        matches!(closed, Closed::Late { waited_for, .. } if *waited_for == expected),
        "{closed}, not late for {expected}"
    );
}

/// Tokio's timers tick in milliseconds.
#[track_caller]
fn assert_elapsed(since: Instant, expected: Duration) {
    let elapsed = since.elapsed();
    let tick = Duration::from_millis(2);
    assert!(elapsed >= expected && elapsed <= expected + tick, "{elapsed:?}, not {expected:?}");
}

fn which(reply: &Reply) -> u64 {
    match reply {
        Reply::Members { which, .. } => *which,
        other => panic!("{other:?} are no members"),
    }
}

/// Pipes of one byte split every message at every byte, the hello too.
#[tokio::test]
async fn a_whole_session_in_both_dialects_through_pipes_of_any_width() {
    for dialect in DIALECTS {
        for bytes in [1, 8, WIDE] {
            let host = Host::new(BOUNDS);
            let mut client = host.greet(dialect, bytes).await;
            let told = client.ask(&Request::Credentials).await;
            assert!(
                matches!(told, Reply::Credentials { registry, .. } if registry.name.as_str() == "xlReg")
            );
            let known = client.ask(&member(1)).await;
            assert_eq!(known, Reply::MemberOk { id: NodeId::from_bytes([1; 20]), attrs: 0 });
            assert!(matches!(client.ask(&create(2)).await, Reply::Created(info) if info.size == 2));
            assert!(matches!(client.ask(&join()).await, Reply::Joined(info) if info.size == 2));
            assert_eq!(which(&client.ask(&get(1)).await), 1);
            assert_eq!(client.ask(&Request::Bye).await, Reply::Ack);
            let (story, closed) = client.closed().await;
            assert!(matches!(closed, Closed::Ended(End::Bye)), "{closed}");
            assert_eq!(story.dialect, Some(dialect));
            assert_eq!(story.requests, 6);
            assert_eq!(story.cluster.unwrap().seats.len(), 1);
            assert_eq!(story.rank, Some(0));
            assert_eq!(story.member.unwrap().name.as_str(), "m1");
        }
    }
}

#[tokio::test]
async fn a_request_in_two_pieces_is_one_request_wherever_it_is_cut() {
    for dialect in DIALECTS {
        let host = Host::new(BOUNDS);
        let mut client = host.greet(dialect, WIDE).await;
        client.ask(&member(1)).await;
        client.ask(&create(2)).await;
        for request in [Request::Credentials, get(0)] {
            let mut cut = 1;
            loop {
                let sealed = client.seal(&request);
                let (head, tail) = sealed.split_at(cut);
                client.stream.write_all(head).await.unwrap();
                yield_now().await;
                client.stream.write_all(tail).await.unwrap();
                assert!(!matches!(client.receive().await, Reply::Error(_)), "cut at {cut}");
                if tail.is_empty() {
                    break;
                }
                cut += 1;
            }
        }
    }
}

#[tokio::test]
async fn glued_requests_are_answered_one_by_one() {
    for dialect in DIALECTS {
        let host = Host::new(BOUNDS);
        let mut client = host.greet(dialect, WIDE).await;
        let requests = [member(1), create(2), join(), get(1), Request::Bye];
        let glued: Vec<u8> = requests.iter().flat_map(|request| client.seal(request)).collect();
        client.stream.write_all(&glued).await.unwrap();
        assert!(matches!(client.receive().await, Reply::MemberOk { .. }));
        assert!(matches!(client.receive().await, Reply::Created(_)));
        assert!(matches!(client.receive().await, Reply::Joined(_)));
        assert_eq!(which(&client.receive().await), 1);
        assert_eq!(client.receive().await, Reply::Ack);
        assert!(matches!(client.closed().await.1, Closed::Ended(End::Bye)));
    }
}

/// Whatever is wrong with a hello, the answer is the same: none. One that is too long is not even
/// opened; of all others it does not show when that was found.
#[tokio::test]
async fn a_bad_hello_is_closed_without_a_word() {
    let other = PrivateKey::generate().unwrap();
    let sealing = SealingKey::new(key().public()).unwrap();
    let mut cases = vec![
        ("all zeros", vec![0; 256]),
        ("all ones", vec![0xFF; 256]),
        ("for another registry", SealingKey::new(other.public()).unwrap().seal(&[7; 44]).unwrap()),
    ];
    for length in [0, 1, 43, 45, 59, 61, 214] {
        cases.push(("a plaintext of no dialect's length", sealing.seal(&vec![7; length]).unwrap()));
    }
    let host = Host::new(BOUNDS);
    let good = hello(Dialect::V1_9).1;
    let http = [b"GET / HTTP/1.1\r\n".as_slice(), &[b' '; 300]].concat();
    for packet in [[good.as_slice(), &[0]].concat(), good.repeat(2), vec![7; WIDE], http] {
        let (mut stream, server) = host.accept(WIDE);
        stream.write_all(&packet).await.unwrap();
        let (_, closed) = closed(stream, server).await;
        assert!(matches!(closed, Closed::Hello(_)), "{} bytes: {closed}", packet.len());
    }
    assert_eq!(host.0.pool.opened(), 0);
    let mut failing = Vec::new();
    for (what, packet) in cases {
        failing.push((what, Instant::now(), say_hello(&host, &packet).await));
    }
    pause();
    for (what, began, (stream, server)) in failing {
        let (story, closed) = closed(stream, server).await;
        assert_elapsed(began, BOUNDS.hello);
        assert!(matches!(closed, Closed::Hello(_)), "{what}: {closed}");
        assert_eq!(story.dialect, None);
    }
}

/// Sends a hello, and waits until it has been opened.
async fn say_hello(host: &Host, packet: &[u8]) -> (DuplexStream, JoinHandle<(Story, Closed)>) {
    let opened = host.0.pool.opened();
    let (mut stream, server) = host.accept(WIDE);
    stream.write_all(packet).await.unwrap();
    while host.0.pool.opened() == opened {
        yield_now().await;
    }
    (stream, server)
}

/// A hello or message that fails, in one of many ways.
struct Failing {
    what: &'static str,
    sent: usize,
    began: Instant,
    stream: DuplexStream,
    server: JoinHandle<(Story, Closed)>,
}

/// Hellos that fail, and then clients with messages that do; time is paused in between.
async fn all_failures(host: &Host, bytes: usize) -> Vec<Failing> {
    let sealing = SealingKey::new(key().public()).unwrap();
    let mut failing = Vec::new();
    let garbage = [[0].as_slice(), &random::<255>()].concat();
    for (what, packet) in
        [("hello: padding", garbage), ("hello: contents", sealing.seal(&[7; 45]).unwrap())]
    {
        let began = Instant::now();
        let (stream, server) = say_hello(host, &packet).await;
        let sent = packet.len();
        failing.push(Failing { what, sent, began, stream, server });
    }
    let mut clients = Vec::new();
    for dialect in DIALECTS {
        for (what, change) in failing_messages() {
            clients.push((what, change, host.greet(dialect, bytes).await));
        }
    }
    pause();
    for (what, change, mut client) in clients {
        let sealed = change(&mut client);
        let began = Instant::now();
        client.stream.write_all(&sealed).await.unwrap();
        let Client { stream, server, .. } = client;
        let sent = sealed.len();
        failing.push(Failing { what, sent, began, stream, server });
    }
    failing
}

type Making = fn(&mut Client) -> Vec<u8>;

fn failing_messages() -> [(&'static str, Making); 6] {
    [
        ("padding", |client| {
            let mut sealed = client.seal(&member(1));
            *sealed.last_mut().unwrap() ^= 1;
            sealed
        }),
        ("parse", |client| {
            let mut message = create(2).encode();
            message.cluster_name = Some("n".repeat(1000));
            let sealed = client.channel.sealer.seal(&message, random);
            // From its head on, it is longer than what there is of it.
            let (head, tail) = sealed.split_at(sealed.len() - 64);
            [&head[..64], &tail[48..]].concat()
        }),
        ("a field that is missing", |client| {
            let mut message = member(1).encode();
            message.member_specs.as_mut().unwrap().comms_key = None;
            client.channel.sealer.seal(&message, random)
        }),
        ("a field that is malformed", |client| {
            let mut message = member(1).encode();
            message.member_specs.as_mut().unwrap().sig_key = Some(vec![7; 294]);
            client.channel.sealer.seal(&message, random)
        }),
        ("signature", |client| {
            let mut message = member(1).encode();
            message.member_specs.as_mut().unwrap().attrs = Some(1);
            client.channel.sealer.seal(&message, random)
        }),
        ("no signature", |client| {
            let mut message = member(1).encode();
            message.member_specs.as_mut().unwrap().dig_sig = Some(Vec::new());
            client.channel.sealer.seal(&message, random)
        }),
    ]
}

/// With the default bounds, where hello and message have the same time.
fn same_time() -> Connections {
    Connections { hello: BOUNDS.message, ..BOUNDS }
}

/// Whoever alters what passes by must not learn at which step it failed.
#[tokio::test]
async fn padding_parse_and_signature_fail_at_the_same_moment_without_a_word() {
    let host = Host::new(same_time());
    for Failing { what, began, stream, server, .. } in all_failures(&host, WIDE).await {
        let (story, closed) = closed(stream, server).await;
        assert_elapsed(began, BOUNDS.message);
        assert!(story.member.is_none(), "{what}: {closed}");
    }
}

/// What says that it has sent all makes no difference.
#[tokio::test]
async fn messages_fail_at_the_same_moment_for_those_who_have_hung_up() {
    let host = Host::new(same_time());
    let mut failing = all_failures(&host, WIDE).await.split_off(2);
    for Failing { stream, .. } in &mut failing {
        stream.shutdown().await.unwrap();
    }
    for Failing { what, began, stream, server, .. } in failing {
        let (_, closed) = closed(stream, server).await;
        assert_elapsed(began, BOUNDS.message);
        assert!(!matches!(closed, Closed::HungUp), "{what}: {closed}");
    }
}

/// A close with something unread is a reset, without it is none.
#[tokio::test]
async fn of_what_follows_a_failed_message_the_same_part_is_taken() {
    const PIPE: usize = 1024;
    let host = Host::new(same_time());
    let mut sending = JoinSet::new();
    for Failing { what, mut sent, began, mut stream, .. } in
        all_failures(&host, PIPE).await.split_off(2)
    {
        sending.spawn(async move {
            while stream.write_all(&[7]).await.is_ok() {
                sent += 1;
            }
            assert_elapsed(began, BOUNDS.message);
            (what, sent)
        });
    }
    for (what, sent) in sending.join_all().await {
        assert_eq!(sent, HEARD_BYTES_MAX + PIPE, "{what}");
    }
}

#[tokio::test]
async fn hanging_up_is_told_from_breaking_off() {
    let host = Host::new(BOUNDS);
    for sent in [0, 1, 255] {
        let (mut stream, server) = host.accept(WIDE);
        stream.write_all(&vec![7; sent]).await.unwrap();
        drop(stream);
        let (_, closed) = server.await.unwrap();
        assert_eq!(matches!(closed, Closed::HungUp), sent == 0, "{sent} bytes: {closed}");
        assert_eq!(matches!(closed, Closed::Broken(_)), sent != 0, "{sent} bytes: {closed}");
    }
    let mut clients = Vec::new();
    for dialect in DIALECTS {
        for sent in [0, 1, 16, 17, 31] {
            clients.push((sent, host.greet(dialect, WIDE).await));
        }
    }
    pause();
    let mut ending = Vec::new();
    for (sent, mut client) in clients {
        let sealed = client.seal(&create(2));
        client.stream.write_all(&sealed[..sent]).await.unwrap();
        ending.push((sent, client.server));
    }
    for (sent, server) in ending {
        let (_, closed) = server.await.unwrap();
        assert_eq!(matches!(closed, Closed::HungUp), sent == 0, "{sent} bytes: {closed}");
    }
}

/// Rubbish can't be told from a message still under way, so it is listened to as long as that.
#[tokio::test]
async fn rubbish_is_closed_at_the_messages_deadline_and_not_before() {
    let host = Host::new(BOUNDS);
    let mut clients = Vec::new();
    for dialect in DIALECTS {
        for bytes in [0, 7, 500] {
            clients.push((host.greet(dialect, WIDE).await, bytes));
        }
    }
    pause();
    let began = Instant::now();
    for (client, bytes) in &mut clients {
        let rubbish = client.rubbish(*bytes);
        client.stream.write_all(&rubbish).await.unwrap();
    }
    for (client, _) in clients {
        let (_, closed) = client.closed().await;
        assert_late(&closed, "whole message");
        assert_elapsed(began, BOUNDS.message);
    }
}

#[tokio::test]
async fn a_byte_a_second_buys_no_time() {
    let host = Host::new(BOUNDS);
    let mut client = host.greet_and_pause(Dialect::V1_9, WIDE).await;
    let sealed = client.seal(&create(2));
    let began = Instant::now();
    for byte in sealed.chunks(1) {
        if client.stream.write_all(byte).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_late(&client.closed().await.1, "whole message");
    assert!(began.elapsed() <= BOUNDS.message + Duration::from_secs(2));
}

#[tokio::test]
async fn more_bytes_than_a_message_may_have_are_closed_at_its_deadline_too() {
    let host = Host::new(BOUNDS);
    let mut clients = Vec::new();
    for dialect in DIALECTS {
        clients.push(host.greet(dialect, WIDE).await);
    }
    pause();
    for mut client in clients {
        client.ask(&member(1)).await;
        let rubbish = client.rubbish(2 * MESSAGE_BYTES_MAX);
        let began = Instant::now();
        client.stream.write_all(&rubbish).await.unwrap();
        let (_, closed) = client.closed().await;
        assert!(matches!(closed, Closed::TooLong(_)), "{closed}");
        assert_elapsed(began, BOUNDS.message);
    }
}

#[tokio::test]
async fn silence_ends_at_the_idle_deadline() {
    let host = Host::new(BOUNDS);
    let client = host.greet_and_pause(Dialect::V1_8, WIDE).await;
    let began = Instant::now();
    assert_late(&client.closed().await.1, "request");
    assert_elapsed(began, BOUNDS.idle);
}

#[tokio::test(start_paused = true)]
async fn a_hello_has_a_deadline_however_it_trickles() {
    let host = Host::new(BOUNDS);
    for pieces in [0, 1, 100] {
        let (mut stream, server) = host.accept(WIDE);
        let began = Instant::now();
        for byte in hello(Dialect::V1_9).1.chunks(1).take(pieces) {
            if stream.write_all(byte).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let (_, closed) = closed(stream, server).await;
        assert_late(&closed, "hello");
        assert!(began.elapsed() >= BOUNDS.hello, "{pieces} pieces");
        assert!(began.elapsed() < BOUNDS.hello * 2, "{pieces} pieces");
    }
}

/// Which door it is for is told by its first bytes, and they may be late, too.
#[tokio::test(start_paused = true)]
async fn a_hello_has_its_time_from_the_beginning_of_the_connection_on() {
    let host = Host::new(BOUNDS);
    let accepted = Instant::now();
    tokio::time::advance(BOUNDS.hello - Duration::from_millis(1)).await;
    let (stream, server) = host.accepted(WIDE, vec![7; 9], accepted);
    let (_, closed) = closed(stream, server).await;
    assert_late(&closed, "hello");
    assert_elapsed(accepted, BOUNDS.hello);
}

/// The threads have work for longer than it takes to notice that nothing else goes on.
#[tokio::test(start_paused = true)]
async fn a_hello_in_a_flood_of_hellos_is_given_up_at_its_deadline() {
    let host = Host::new(BOUNDS);
    let packet = hello(Dialect::V1_9).1;
    for _ in 0..50 {
        let (shared, packet) = (Arc::clone(&host.0), packet.clone());
        tokio::spawn(async move { shared.pool.open(HERE, packet).await });
    }
    let (mut stream, server) = host.accept(WIDE);
    stream.write_all(&packet).await.unwrap();
    let (_, closed) = closed(stream, server).await;
    assert_late(&closed, "turn to open the hello");
}

/// A pipe of 100 bytes holds the reply to the hello, and not the registry's own entry.
#[tokio::test]
async fn who_does_not_take_an_answer_is_closed_at_the_writes_deadline() {
    let host = Host::new(BOUNDS);
    let mut client = host.greet_and_pause(Dialect::V1_9, 100).await;
    client.send(&Request::Credentials).await;
    let began = Instant::now();
    let (_, closed) = client.server.await.unwrap();
    assert_late(&closed, "taking of an answer");
    assert_elapsed(began, BOUNDS.write);
}

#[tokio::test]
async fn who_takes_an_answer_byte_by_byte_is_closed_too() {
    let host = Host::new(BOUNDS);
    let mut client = host.greet_and_pause(Dialect::V1_9, 100).await;
    client.send(&Request::Credentials).await;
    let mut taken = 0;
    // Each byte read makes room for one more, so the server always gets on.
    while client.stream.read_u8().await.is_ok() {
        taken += 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert_late(&client.server.await.unwrap().1, "taking of an answer");
    assert!(taken <= 100 + BOUNDS.write.as_secs() + 1, "{taken} bytes");
}

#[tokio::test]
async fn a_session_ends_at_its_deadline_however_busy_it_is() {
    let host = Host::new(BOUNDS);
    let began = Instant::now();
    let mut client = host.greet_and_pause(Dialect::V1_8, WIDE).await;
    while began.elapsed() + BOUNDS.idle / 2 < BOUNDS.session {
        client.ask(&Request::Credentials).await;
        sleep(BOUNDS.idle / 2).await;
    }
    assert_late(&client.closed().await.1, "end of the session");
    assert!(began.elapsed() >= BOUNDS.session);
    assert!(began.elapsed() < BOUNDS.session + BOUNDS.idle);
}

/// A lookup of a member who is not there yet, half of whose time is over.
async fn held(host: &Host, dialect: Dialect) -> (Client, Client) {
    let mut joiner = host.greet(dialect, WIDE).await;
    let mut waiter = host.greet_and_pause(dialect, WIDE).await;
    waiter.ask(&create(2)).await;
    joiner.ask(&member(2)).await;
    waiter.send(&get(0b11)).await;
    tokio::select! {
        biased;
        reply = waiter.receive() => panic!("{reply:?} was not held"),
        () = sleep(host.0.bounds.hold / 2) => {}
    }
    (waiter, joiner)
}

#[tokio::test]
async fn a_held_lookup_is_answered_at_once_when_somebody_joins() {
    let host = Host::new(BOUNDS);
    let (mut waiter, mut joiner) = held(&host, Dialect::V1_9).await;
    let began = Instant::now();
    joiner.ask(&join()).await;
    assert_eq!(which(&waiter.receive().await), 0b01);
    assert_elapsed(began, Duration::ZERO);
}

#[tokio::test]
async fn a_held_lookup_is_answered_with_nobody_when_nobody_comes() {
    let host = Host::new(BOUNDS);
    let (mut waiter, _joiner) = held(&host, Dialect::V1_8).await;
    let began = Instant::now();
    assert_eq!(which(&waiter.receive().await), 0);
    assert_elapsed(began, BOUNDS.hold / 2);
    assert!(matches!(waiter.ask(&join()).await, Reply::Joined(_)), "the session goes on");
}

#[tokio::test]
async fn a_held_lookup_is_answered_when_the_server_stops_and_then_the_session_ends() {
    let host = Host::new(BOUNDS);
    let (mut waiter, joiner) = held(&host, Dialect::V1_9).await;
    let began = Instant::now();
    host.0.stop.cancel();
    assert_eq!(which(&waiter.receive().await), 0);
    for client in [waiter, joiner] {
        let (_, closed) = client.closed().await;
        assert!(matches!(closed, Closed::Stopping), "{closed}");
    }
    assert_elapsed(began, Duration::ZERO);
}

#[tokio::test]
async fn no_lookup_is_held_beyond_the_sessions_end() {
    let session = Duration::from_secs(50);
    let host = Host::new(Connections { hold: session * 2, session, ..BOUNDS });
    let began = Instant::now();
    let mut client = host.greet_and_pause(Dialect::V1_9, WIDE).await;
    client.ask(&create(2)).await;
    assert_eq!(which(&client.ask(&get(1)).await), 0);
    assert!(began.elapsed() < session + BOUNDS.hello);
    assert_late(&client.closed().await.1, "end of the session");
}

#[tokio::test]
async fn who_hangs_up_while_held_is_noticed_when_the_hold_is_over() {
    let host = Host::new(BOUNDS);
    let (waiter, _joiner) = held(&host, Dialect::V1_9).await;
    let began = Instant::now();
    drop(waiter.stream);
    assert!(matches!(waiter.server.await.unwrap().1, Closed::Broken(_)));
    assert_elapsed(began, BOUNDS.hold / 2);
}

#[tokio::test]
async fn who_does_not_take_the_answer_to_a_held_lookup_is_closed_too() {
    let host = Host::new(BOUNDS);
    let mut joiner = host.greet(Dialect::V1_8, WIDE).await;
    let mut waiter = host.greet_and_pause(Dialect::V1_8, 100).await;
    waiter.ask(&create(2)).await;
    joiner.ask(&member(2)).await;
    waiter.send(&get(0b11)).await;
    joiner.ask(&join()).await;
    let began = Instant::now();
    assert_late(&waiter.server.await.unwrap().1, "taking of an answer");
    assert_elapsed(began, BOUNDS.write);
}

#[tokio::test]
async fn with_a_hold_of_zero_lookups_are_answered_at_once() {
    let host = Host::new(Connections { hold: Duration::ZERO, ..BOUNDS });
    let mut client = host.greet_and_pause(Dialect::V1_8, WIDE).await;
    client.ask(&create(2)).await;
    let began = Instant::now();
    for _ in 0..32 {
        assert_eq!(which(&client.ask(&get(u64::MAX)).await), 0);
    }
    assert_elapsed(began, Duration::ZERO);
}

/// Between requests, amid one, and before the hello.
#[tokio::test]
async fn stopping_closes_whoever_is_not_being_answered_at_once() {
    let host = Host::new(BOUNDS);
    let mut amid = host.greet(Dialect::V1_8, WIDE).await;
    let idle = host.greet_and_pause(Dialect::V1_9, WIDE).await;
    let (silent, server) = host.accept(WIDE);
    let rubbish = amid.rubbish(3);
    amid.stream.write_all(&rubbish).await.unwrap();
    yield_now().await;
    let began = Instant::now();
    host.0.stop.cancel();
    for (stream, server) in
        [(amid.stream, amid.server), (idle.stream, idle.server), (silent, server)]
    {
        let (_, closed) = closed(stream, server).await;
        assert!(matches!(closed, Closed::Stopping), "{closed}");
    }
    assert_elapsed(began, Duration::ZERO);
}

/// A refusal ends the session after its text; what was glued behind it is never looked at.
#[tokio::test]
async fn an_error_is_told_and_ends_the_session() {
    for bad in [join(), get(1), create(2)] {
        let host = Host::new(BOUNDS);
        let mut client = host.greet(Dialect::V1_9, WIDE).await;
        let glued = [client.seal(&bad), client.seal(&member(1))].concat();
        client.stream.write_all(&glued).await.unwrap();
        let expected = "invalid msg type for current state".to_owned();
        assert_eq!(client.receive().await, Reply::Error(expected));
        let (story, closed) = client.closed().await;
        assert!(matches!(closed, Closed::Ended(End::OutOfTurn { .. })), "{closed}");
        assert!(story.member.is_none());
    }
}

/// By a clock of the tests' own the rate stands still, and the answer comes when the session ends.
#[tokio::test]
async fn who_asks_faster_than_it_may_is_held_up() {
    let host = Host::new(BOUNDS);
    let mut client = host.greet_and_pause(Dialect::V1_9, WIDE).await;
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed().is_zero() {
        client.send(&Request::Credentials).await;
        client.receive().await;
        asked += 1;
        assert!(asked <= 2 * REQUESTS.burst, "there is a rate");
    }
    assert!(asked > REQUESTS.burst, "{asked}");
}

/// What is known is no registration, and the session goes on with it.
#[tokio::test]
async fn ids_come_no_faster_from_one_address_than_they_may() {
    let host = Host::new(BOUNDS);
    let too_many = Reply::Error(Refusal::TooManyRegistrations.to_string());
    let mut registered = 0;
    loop {
        let mut client = host.greet(Dialect::V1_9, WIDE).await;
        match client.ask(&member(registered)).await {
            Reply::MemberOk { .. } => registered += 1,
            refused => {
                assert_eq!(refused, too_many);
                let (_, closed) = client.closed().await;
                let expected = End::Refused(Refusal::TooManyRegistrations);
                assert!(matches!(&closed, Closed::Ended(end) if *end == expected), "{closed}");
                break;
            }
        }
        assert!(registered < 100, "there is a rate");
    }
    assert!(registered >= REGISTRATIONS.burst as u8);
    let mut known = host.greet(Dialect::V1_9, WIDE).await;
    let again = known.ask(&member(0)).await;
    assert!(matches!(again, Reply::MemberOk { .. }), "{again:?}");
}
