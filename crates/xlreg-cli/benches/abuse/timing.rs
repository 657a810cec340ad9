//! How long the old door takes to give up on what fails in different ways.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use xlreg::{Credentials, Dialect, Version};
use xlreg_proto::channel::Channel;
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::{PrivateKey, SealingKey, random};
use xlreg_proto::message::{Claim, Request};
use xlreg_proto::wire::XlRegMsg;

use crate::QUIET;
use crate::server::Server;

/// Samples taken at once.
const CLIENTS: usize = 16;

/// Shorter than by default, so that many samples fit into a minute.
const CONFIG: &str = "
    [connections]
    unproven-hellos-per-second = 1000000
    unproven-hellos-burst = 1000000
    hello-ms = 1000
    message-ms = 300
    idle-ms = 2000
";

/// What goes wrong, and what it is to be compared with.
#[derive(Clone, Copy)]
enum Failure {
    /// A hello whose padding is wrong.
    HelloPadding,
    /// A hello that opens, and is too short.
    HelloContents,
    /// A message whose padding is wrong.
    Padding,
    /// One that unpads, and is no message.
    Parse,
    /// One that is a Member, and whose key is none.
    Key,
    /// One that is a Member, and whose signature is wrong.
    Signature,
}

/// A distance that is beyond all doubt.
const FAR_APART: f64 = 0.5;

const PAIRS: [(&str, Failure, Failure); 4] = [
    ("hello: padding | contents", Failure::HelloPadding, Failure::HelloContents),
    ("message: padding | parse", Failure::Padding, Failure::Parse),
    ("message: parse | signature", Failure::Parse, Failure::Signature),
    ("message: key | signature", Failure::Key, Failure::Signature),
];

/// What the attacker has, made before the clock starts.
struct Attacker {
    credentials: Credentials,
    sealing: SealingKey,
    claim: XlRegMsg,
}

/// Takes samples of each kind, and tells how far the two of each pair are apart.
pub(crate) fn compare(samples: usize) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), CONFIG, &QUIET);
    let (sig, comms) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let name = "attacker".parse().unwrap();
    let claim = Claim::sign(None, name, 0, comms.public().clone(), &sig, vec![]).unwrap();
    let credentials = server.credentials.clone();
    let sealing = SealingKey::new(&credentials.comms_key).unwrap();
    let claim = Request::Member(claim).encode();
    let attacker = Arc::new(Attacker { credentials, sealing, claim });
    println!("{samples} samples each; from the last byte sent to the end, in ms");
    for (label, one, other) in PAIRS {
        let [one, other] = attacker.sample(samples, [one, other]);
        let apart = apart(&one, &other);
        // Of two that are alike, one pair in a thousand is further apart.
        let chance = 1.95 * (2.0 / samples as f64).sqrt();
        let [a, b] = [&one, &other].map(|sorted| [0.05, 0.5, 0.95].map(|share| at(sorted, share)));
        println!(
            "{label}: p5, p50, p95 {:.2} {:.2} {:.2} | {:.2} {:.2} {:.2}; distributions {apart:.3} apart, {} \
             (chance alone: up to {chance:.3})",
            a[0],
            a[1],
            a[2],
            b[0],
            b[1],
            b[2],
            if apart < chance { "not to be told apart" } else { "TO BE TOLD APART" },
        );
        assert!(apart < FAR_APART, "{label} are told apart by how long they take");
    }
    server.stop();
}

impl Attacker {
    /// Samples of both, taken in turns, each sorted, in milliseconds.
    fn sample(self: &Arc<Self>, samples: usize, kinds: [Failure; 2]) -> [Vec<f64>; 2] {
        let next = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (attacker, next) = (Arc::clone(self), Arc::clone(&next));
                thread::spawn(move || attacker.take(&next, samples, kinds))
            })
            .collect();
        let mut all = [Vec::new(), Vec::new()];
        for client in clients {
            for (kind, time) in client.join().unwrap() {
                all[kind].push(time.as_secs_f64() * 1e3);
            }
        }
        all.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        all
    }

    fn take(
        &self,
        next: &AtomicUsize,
        samples: usize,
        kinds: [Failure; 2],
    ) -> Vec<(usize, Duration)> {
        let mut taken = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= 2 * samples {
                return taken;
            }
            taken.push((number % 2, self.fail(kinds[number % 2])));
        }
    }

    fn fail(&self, failure: Failure) -> Duration {
        let mut stream = TcpStream::connect(self.credentials.endpoints[0].as_str()).unwrap();
        stream.set_nodelay(true).unwrap();
        let bytes = match failure {
            Failure::HelloPadding => {
                let mut block: [u8; 256] = random();
                // Less than the modulus.
                block[0] = 0;
                block.to_vec()
            }
            Failure::HelloContents => self.sealing.seal(&[1; 10]).unwrap(),
            message => {
                let mut channel = self.greet(&mut stream);
                self.message(message, &mut channel)
            }
        };
        stream.write_all(&bytes).unwrap();
        let began = Instant::now();
        let answer = stream.read(&mut [0; 4096]);
        assert!(!matches!(answer, Ok(1..)), "a failure was answered");
        began.elapsed()
    }

    fn greet(&self, stream: &mut TcpStream) -> Channel {
        let secrets = Secrets::from_random(random());
        let key = &self.credentials.comms_key;
        let (hello, packet) =
            ClientHello::new(Dialect::V1_9, key, Version::CURRENT, secrets).unwrap();
        stream.write_all(&packet).unwrap();
        let mut reply = vec![0; hello.reply_bytes()];
        stream.read_exact(&mut reply).unwrap();
        hello.finish(&reply).unwrap().0
    }

    fn message(&self, failure: Failure, channel: &mut Channel) -> Vec<u8> {
        let mut claim = self.claim.clone();
        let token = claim.member_specs.as_mut().unwrap();
        match failure {
            Failure::Signature => token.attrs = Some(1),
            Failure::Key => token.sig_key = Some(vec![7; 294]),
            _ => {}
        }
        let mut sealed = channel.sealer.seal(&claim, random);
        let end = sealed.len();
        match failure {
            Failure::Padding => sealed[end - 1] ^= 1,
            // In CBC, a bit of the IV is one of the first block: a field of a type that is none.
            Failure::Parse => sealed[0] ^= 7,
            _ => {}
        }
        sealed
    }
}

/// The greatest distance of two distributions: Kolmogorov's and Smirnov's.
fn apart(one: &[f64], other: &[f64]) -> f64 {
    let share = |sorted: &[f64], time| {
        sorted.partition_point(|sample| *sample <= time) as f64 / sorted.len() as f64
    };
    let times = one.iter().chain(other);
    times.map(|time| (share(one, *time) - share(other, *time)).abs()).fold(0.0, f64::max)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
