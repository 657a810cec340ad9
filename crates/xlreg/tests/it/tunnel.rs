//! Plain TCP carried over links between members, as TCP would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use xlreg::Peers;
use xlreg::peers::Target;
use xlreg::tunnel::{Door, Tunnel};

use crate::peers::support::{node, port};
use crate::support::{ENOUGH, Running, by_name, cluster};

/// Two members with a tunnel each: what the program beside the first opens to `door` arrives at
/// `program`, beside the second.
struct Carried {
    server: Running,
    door: SocketAddr,
    program: TcpListener,
    peers: Vec<Peers>,
    _tunnels: [Tunnel; 2],
}

impl Carried {
    async fn new() -> Self {
        let server = Running::in_memory().await;
        let registry = &server.registry;
        registry.create(&node(0), &cluster("alpha", 2)).await.unwrap();
        let (mut memberships, mut listeners) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let (listener, endpoint) = port().await;
            let joined = registry.join(&node(number), &by_name("alpha"), vec![endpoint]).await;
            memberships.push(joined.unwrap());
            listeners.push(listener);
        }
        let mut peers = Vec::new();
        for membership in &mut memberships {
            membership.wait(ENOUGH).await.unwrap();
            peers.push(membership.peers().await.unwrap());
        }
        let (program, _) = port().await;
        let (listener, _) = port().await;
        let door = listener.local_addr().unwrap();
        let doors = vec![Door { peer: Target::Rank(1), listener }];
        let far = (listeners.pop().unwrap(), program.local_addr().unwrap());
        let tunnels = [
            Tunnel::start(&peers[0], doors, None),
            Tunnel::start(&peers[1], Vec::new(), Some(far)),
        ];
        Self { server, door, program, peers, _tunnels: tunnels }
    }

    /// Both ends of a carried connection.
    async fn open(&self) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(self.door).await.unwrap();
        (near, self.accept().await)
    }

    async fn accept(&self) -> TcpStream {
        timeout(ENOUGH, self.program.accept()).await.unwrap().unwrap().0
    }
}

/// The kind of error with which a stream ends.
async fn broken(stream: &mut TcpStream) -> std::io::ErrorKind {
    let mut rest = Vec::new();
    let read = timeout(ENOUGH, stream.read_to_end(&mut rest)).await.unwrap();
    read.expect_err("a reset").kind()
}

#[tokio::test]
async fn each_half_ends_by_itself_and_nothing_is_lost() {
    let carried = Carried::new().await;
    let (mut near, mut far) = carried.open().await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");
    let answer = vec![7; 3_000_000];
    let (written, read) = tokio::join!(
        async {
            far.write_all(&answer).await?;
            far.shutdown().await
        },
        async {
            let mut got = Vec::new();
            near.read_to_end(&mut got).await.map(|_| got)
        }
    );
    written.unwrap();
    assert_eq!(read.unwrap(), answer);
}

#[tokio::test]
async fn a_connection_that_breaks_on_one_side_is_reset_on_the_other() {
    let carried = Carried::new().await;
    let (near, mut far) = carried.open().await;
    near.set_zero_linger().unwrap();
    drop(near);
    assert_eq!(broken(&mut far).await, std::io::ErrorKind::ConnectionReset);

    let (mut near, far) = carried.open().await;
    far.set_zero_linger().unwrap();
    drop(far);
    assert_eq!(broken(&mut near).await, std::io::ErrorKind::ConnectionReset);
}

/// Between writer and reader are buffers of the kernel's and ours, each with a bound. While one
/// connection stands still, another is carried.
#[tokio::test]
async fn a_slow_reader_slows_down_its_writer_and_nobody_else() {
    let carried = Carried::new().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(16 * 1024).unwrap();
    let mut near = socket.connect(carried.door).await.unwrap();
    let mut far = carried.accept().await;
    let piece = vec![1; 1 << 20];
    let mut written = 0;
    // Until no more is taken for a while; the bound is what six buffers of the kernel may grow to.
    while let Ok(count) = timeout(Duration::from_millis(300), near.write(&piece)).await {
        written += count.unwrap();
        assert!(written < 64 << 20, "{written} bytes were taken that nobody reads");
    }
    let (mut other, mut other_far) = carried.open().await;
    other.write_all(b"quick").await.unwrap();
    let mut heard = [0; 5];
    timeout(ENOUGH, other_far.read_exact(&mut heard)).await.unwrap().unwrap();
    assert_eq!(&heard, b"quick");

    drop((other, other_far));
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(ENOUGH, far.read_to_end(&mut got)).await.unwrap().unwrap();
    assert_eq!(got.len(), written, "and then all of it arrives");
}

#[tokio::test]
async fn a_peer_without_a_program_resets_and_the_next_connection_works() {
    let mut carried = Carried::new().await;
    let at = carried.program.local_addr().unwrap();
    drop(carried.program);
    let mut near = TcpStream::connect(carried.door).await.unwrap();
    assert_eq!(broken(&mut near).await, std::io::ErrorKind::ConnectionReset);
    carried.program = TcpListener::bind(at).await.unwrap();
    let (mut near, mut far) = carried.open().await;
    near.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

/// Who connects to a member's endpoint without a key of the roster gets nothing through to the program.
#[tokio::test]
async fn nobody_but_members_comes_to_the_program() {
    let carried = Carried::new().await;
    let roster = carried.peers[0].roster();
    let endpoint = &roster.members[1].endpoints[0];
    let mut plain = TcpStream::connect((endpoint.host(), endpoint.port())).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = timeout(ENOUGH, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    // One who is registered here, but no member.
    carried.server.registry.register(&node(2)).await.unwrap();
    let stranger = Peers::new(&node(2), &roster).await.unwrap();
    let refused = stranger.connect_once(1).await.unwrap_err();
    assert!(refused.to_string().contains("refuses our certificate"), "{refused}");

    let (mut near, mut far) = carried.open().await;
    near.write_all(b"first").await.unwrap();
    let mut heard = [0; 5];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"first", "nothing of the others came before");
}
