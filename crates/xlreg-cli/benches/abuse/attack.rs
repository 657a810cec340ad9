//! The attackers: a process that holds as many connections as it is told to, until its input ends.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use xlreg::{Credentials, Dialect, Version};
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::random;

/// Loopback addresses that attackers come from.
const ADDRESSES: usize = 250;

/// From the first attacker to the last, so that the kernel's backlog is not what breaks.
const RAMP: Duration = Duration::from_secs(5);

/// Between two attempts of an attacker that gets no connection; and how often is told how many have one.
const BEAT: Duration = Duration::from_millis(100);

/// What a TLS client begins with: a record, and a ClientHello that says it has 512 bytes.
const TLS_START: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x04, 0x01, 0x00, 0x02, 0x00];

/// How many of each kind.
pub(crate) struct Attackers {
    pub(crate) idle: usize,
    pub(crate) slow: usize,
    pub(crate) garbage: usize,
    /// How long one that was cut off stays away.
    pub(crate) pause: Duration,
}

impl Attackers {
    pub(crate) fn all(&self) -> usize {
        self.idle + self.slow + self.garbage
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Idle,
    Slow,
    Garbage,
}

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// What an attacker knows.
struct Target {
    address: SocketAddr,
    /// A hello that is in order. It may be said any number of times.
    hello: Vec<u8>,
}

/// `--attack CREDENTIALS IDLE SLOW GARBAGE PAUSE_MS`. Tells each tenth of a second how many
/// connections are open.
pub(crate) fn main() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let credentials = Credentials::parse(&std::fs::read_to_string(&args[0]).unwrap()).unwrap();
    let secrets = Secrets::from_random(random());
    let key = &credentials.comms_key;
    let (_, hello) = ClientHello::new(Dialect::V1_9, key, Version::CURRENT, secrets).unwrap();
    let address = credentials.endpoints[0].as_str().parse().unwrap();
    let target = Arc::new(Target { address, hello });
    let [idle, slow, garbage, pause] = [1, 2, 3, 4].map(|place| args[place].parse().unwrap());
    let pause = Duration::from_millis(pause as u64);
    let all = Attackers { idle, slow, garbage, pause };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for number in 0..all.all() {
        let kind = match number {
            n if n < all.idle => Kind::Idle,
            n if n < all.idle + all.slow => Kind::Slow,
            _ => Kind::Garbage,
        };
        let begin = RAMP.mul_f64(number as f64 / all.all() as f64);
        runtime.spawn(attack(number, kind, Arc::clone(&target), [begin, all.pause]));
    }
    runtime.spawn(async {
        loop {
            sleep(BEAT).await;
            let told = writeln!(std::io::stdout(), "{}", OPEN.load(Ordering::Relaxed));
            if told.is_err() {
                std::process::exit(0);
            }
        }
    });
    // Whoever has started us lets go of it, or dies.
    let _ended = std::io::stdin().read(&mut [0]);
    std::process::exit(0);
}

/// Whoever is cut off comes again.
async fn attack(number: usize, kind: Kind, target: Arc<Target>, [begin, pause]: [Duration; 2]) {
    sleep(begin).await;
    loop {
        let Ok(stream) = connect(number, target.address).await else {
            sleep(BEAT).await;
            continue;
        };
        OPEN.fetch_add(1, Ordering::Relaxed);
        annoy(stream, number, kind, &target.hello).await;
        OPEN.fetch_sub(1, Ordering::Relaxed);
        sleep(pause).await;
    }
}

async fn connect(number: usize, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let own = [127, 66, 1, (number % ADDRESSES) as u8 + 1];
    socket.bind((own, 0).into())?;
    timeout(Duration::from_secs(10), socket.connect(address)).await?
}

/// Until the server has had enough.
async fn annoy(mut stream: TcpStream, number: usize, kind: Kind, hello: &[u8]) {
    match kind {
        Kind::Idle => {}
        Kind::Slow => {
            let start = if number.is_multiple_of(2) { TLS_START } else { random() };
            let mut bytes = start.into_iter().chain(std::iter::repeat(0));
            loop {
                let byte = bytes.next().unwrap_or_default();
                if stream.write_all(&[byte]).await.is_err()
                    || closed_within_a_second(&mut stream).await
                {
                    return;
                }
            }
        }
        Kind::Garbage => {
            let mut rubbish: Vec<u8> = random::<256>().to_vec();
            match number % 6 {
                // A hello that does not open: an RSA operation each.
                0 => rubbish[0] = 0,
                // One that does, with nothing after it: another. It does not stay for the deadline.
                3 => {
                    let _refused = stream.write_all(hello).await;
                    let _answer = stream.read(&mut [0; 64]).await;
                    return;
                }
                1 | 4 => rubbish = [&TLS_START[..], &rubbish, &rubbish].concat(),
                _ => rubbish = rubbish.repeat(64),
            }
            let _refused = stream.write_all(&rubbish).await;
        }
    }
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
}

async fn closed_within_a_second(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}
