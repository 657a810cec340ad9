//! `xlreg run --tunnel`: programs that speak plain TCP on loopback, and what is sent between members.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xlreg::{ClusterKey, Identity, Peers, Registry};

use crate::helper::{ask, listen, talk};
use crate::support::{Running, World, eventually};

fn words(program: &[String]) -> Vec<&str> {
    program.iter().map(String::as_str).collect()
}

/// The roster as a member's program sees it, or in `tunnel`, as it is.
fn roster(member: &Value, dir: &str) -> Value {
    let path = roster_file(member, dir);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn roster_file(member: &Value, dir: &str) -> PathBuf {
    PathBuf::from(member["dir"].as_str().unwrap()).join(dir).join("roster.json")
}

/// Where a roster has a member.
fn endpoint(roster: &Value, rank: usize) -> String {
    roster["members"][rank]["endpoints"][0].as_str().unwrap().to_owned()
}

fn kill_tunnel(member: &Value) {
    let pid = i32::try_from(member["tunnel"]["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Each program ends its half and is answered all the same; each has a view of its own, and what the
/// registry listed is in none of them.
#[test]
fn programs_find_each_other_behind_doors_of_their_own() {
    let world = World::new();
    let program = talk();
    let flags = ["--tunnel", "--ready", "line:^told all"];
    world.detach("t", "3", &flags, &words(&program));
    let logs = world.run(&["logs", "-c", "t"]);
    let members = [0, 1, 2].map(|rank| world.member("t", rank));
    let registered = [0, 1, 2].map(|rank| members[rank]["endpoints"][0].as_str().unwrap());
    let mut seen = Vec::new();
    for (me, member) in members.iter().enumerate() {
        let (view, real) = (roster(member, ""), roster(member, "tunnel"));
        assert_eq!(endpoint(&view, me), member["tunnel"]["program"].as_str().unwrap());
        for other in 0..3 {
            assert_eq!(endpoint(&real, other), registered[other]);
            assert_eq!(view["members"][other]["id"], real["members"][other]["id"]);
            seen.push(endpoint(&view, other));
            if other != me {
                let heard = format!("member_{other} has heard: a secret of member_{me}\n");
                logs.prints(&[&format!("member_{me} | {heard}")]);
            }
        }
    }
    seen.extend(registered.map(str::to_owned));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 12, "no two of all these are one: {seen:?}");
    world.down("t");
}

/// Passes on and records all that goes to `to` and back.
struct Tap {
    address: String,
    recorded: Arc<Mutex<[Vec<u8>; 2]>>,
}

impl Tap {
    fn new(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let recorded = Arc::default();
        let record = Arc::clone(&recorded);
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&to).unwrap());
                let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))]
                    .map(|(from, to)| (from.unwrap(), to.unwrap()));
                for (way, (from, to)) in pairs.into_iter().enumerate() {
                    let record = Arc::clone(&record);
                    thread::spawn(move || pass_on(from, to, way, &record));
                }
            }
        });
        Self { address, recorded }
    }

    fn recorded(&self) -> [Vec<u8>; 2] {
        self.recorded.lock().unwrap().clone()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, way: usize, record: &Mutex<[Vec<u8>; 2]>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        record.lock().unwrap()[way].extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    let _gone = to.shutdown(std::net::Shutdown::Write);
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// The types of the TLS records that these bytes are, all of them.
fn record_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, 3, 1..=3, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        types.push(*kind);
        bytes = rest.get(length..).unwrap_or_default();
    }
    assert_eq!(bytes, b"", "what follows is no TLS record");
    types
}

/// The tunnel is told, by its roster, that its peer is behind a tap; started again after it was killed,
/// it goes there.
#[test]
fn what_is_sent_between_members_is_tls_and_nothing_else() {
    let world = World::new();
    let program = talk();
    let flags = ["--tunnel", "--on-exit", "restart", "--ready", "line:^told all"];
    world.detach("t", "2", &flags, &words(&program));
    let member = world.member("t", 0);
    let door = endpoint(&roster(&member, ""), 1);
    let target = member["tunnel"]["program"].as_str().unwrap();
    // To plain TCP it listens as well: this is what it would record.
    let plain = Tap::new(target.to_owned());
    assert_eq!(ask(&plain.address, "the lamp is red"), "member_0 has heard: the lamp is red");
    let [to, from] = plain.recorded();
    assert!(contains(&to, "the lamp is red") && contains(&from, "has heard"));

    let mut real = roster(&member, "tunnel");
    let tap = Tap::new(endpoint(&real, 1));
    real["members"][1]["endpoints"][0] = tap.address.as_str().into();
    fs::write(roster_file(&member, "tunnel"), real.to_string()).unwrap();
    kill_tunnel(&member);
    eventually("the tunnel is there again", || {
        let tunnel = world.member("t", 0)["tunnel"].take();
        tunnel["restarts"] == 1 && tunnel["state"] == "running"
    });
    assert_eq!(ask(&door, "the lamp is green"), "member_1 has heard: the lamp is green");
    world
        .run(&["logs", "-c", "t"])
        .prints(&["xlreg: starting member_0's tunnel again in 0.1 s (1)"]);
    for recorded in tap.recorded() {
        let types = record_types(&recorded);
        assert!(types.len() > 3 && types.starts_with(&[22]), "{types:?}");
        // handshake, change_cipher_spec, application_data.
        assert!(types.iter().all(|kind| [22, 20, 23].contains(kind)), "{types:?}");
        for part in ["lamp", "green", "heard", "member"] {
            assert!(!contains(&recorded, part), "{part:?} goes over in plain");
        }
    }
    world.down("t");
}

/// With keys that the same registry knows, and the roster, which it may read.
#[test]
fn an_outsider_with_a_valid_identity_does_not_come_to_the_program() {
    let world = World::new();
    let server = world.registry();
    let credentials = server.credentials.to_str().unwrap();
    let program = talk();
    let flags = ["--tunnel", "--registry", credentials, "--ready", "line:^told all"];
    world.detach("t", "2", &flags, &words(&program));
    let member = world.member("t", 0);
    let shown = world.ask(&server, &["cluster", "show", "t", "--output", "json"]).expect(0).json();
    assert_eq!(endpoint(&shown, 0), member["endpoints"][0].as_str().unwrap());
    assert_ne!(member["endpoints"][0], member["tunnel"]["program"]);

    world.run(&["id", "new", "outsider"]).expect(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        let outsider = Identity::load(world.path("work/outsider")).await.unwrap();
        let registry = Registry::open(credentials).unwrap();
        registry.register(&outsider).await.unwrap();
        let cluster = ClusterKey::Name("t".parse().unwrap());
        let roster = registry.show(&outsider, &cluster).await.unwrap();
        let peers = Peers::new(&outsider, &roster).await.unwrap();
        peers.connect_once(0).await.unwrap_err()
    });
    assert!(refused.to_string().contains("it refuses our certificate"), "{refused}");
    eventually("the refusal is told", || {
        let logs = world.run(&["logs", "-c", "t"]).out;
        let told = |line: &str| line.contains("turned away") && line.contains("not in the roster");
        logs.lines().any(|line| line.starts_with("xlreg: member_0's tunnel: ") && told(line))
    });
    // What is no TLS is not for the program either.
    let mut plain = TcpStream::connect(endpoint(&shown, 0)).unwrap();
    plain.write_all(b"a secret of mine").unwrap();
    plain.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer);
    assert!(!contains(&answer, "heard"), "{answer:?}");
    let door = endpoint(&roster(&world.member("t", 1), ""), 0);
    assert_eq!(ask(&door, "still there?"), "member_0 has heard: still there?");
    world.down("t");
    server.stop();
}

/// The first endpoint is carried, the second is where the program itself is.
#[test]
fn clients_come_to_the_second_endpoint_as_ever() {
    let world = World::new();
    let program = listen();
    let flags = ["--tunnel", "--endpoints", "2", "--tls", "--ready", "line:^listening"];
    world.detach("t", "2", &flags, &words(&program));
    let member = world.member("t", 0);
    let view = roster(&member, "");
    let of_clients = member["endpoints"][1].as_str().unwrap();
    assert_eq!(view["members"][0]["endpoints"][1], of_clients);
    assert_eq!(roster(&world.member("t", 1), "")["members"][0]["endpoints"][1], of_clients);
    assert_eq!(ask(of_clients, ""), "member_0");
    assert_eq!(ask(&endpoint(&view, 1), ""), "member_1");
    world.down("t");
}

#[test]
fn a_tunnel_that_dies_is_handled_as_its_program_would_be() {
    let world = World::new();
    world.detach("t", "2", &["--tunnel"], &["sleep", "600"]);
    kill_tunnel(&world.member("t", 1));
    eventually("it has ended", || {
        let told = world.run(&["ps", "t"]).out;
        told.contains("ended: member_1's tunnel has ended: signal: 9 (SIGKILL)")
    });
    world.down("t");

    let run = ["run", "-n", "2", "--tunnel", "--cluster", "t", "--on-exit", "ignore", "--"];
    let running = world.start(&[&run[..], &["sh", "-c", "sleep 600 & echo up; wait"]].concat());
    running.lines("up", 2);
    kill_tunnel(&world.member("t", 1));
    running.until_says("xlreg: member_1's tunnel failed: signal: 9 (SIGKILL)");
    assert_eq!(world.member("t", 1)["state"], "running");
    world.run(&["ps", "t"]).prints(&["running, tunnel ended"]);
    world.run(&["down", "t"]).expect(0);
    running.finish().expect(0);
    world.is_clean();

    // When the programs end by themselves, it counts.
    let script = "echo up; until [ -e {dir}/end ]; do sleep 0.02; done";
    let running = world.start(&[&run[..], &["sh", "-c", script]].concat());
    running.lines("up", 2);
    let members = [0, 1].map(|rank| world.member("t", rank));
    kill_tunnel(&members[1]);
    running.until_says("xlreg: member_1's tunnel failed");
    for member in &members {
        fs::write(PathBuf::from(member["dir"].as_str().unwrap()).join("end"), "").unwrap();
    }
    running.finish().expect(1).says(&["member_1's tunnel has ended: signal: 9"]);
    world.is_clean();
}

#[test]
fn a_kept_cluster_has_the_same_ports_and_doors_again() {
    let world = World::new();
    let script = "echo $XLREG_ID {endpoint} {peers , {endpoint}}";
    let run = ["run", "-n", "2", "--keep", "kept", "--no-prefix"];
    let lines = || {
        let done = world.run(&[&run[..], &["--tunnel", "--", "sh", "-c", script]].concat());
        let mut lines: Vec<_> = done.expect(0).out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let first = lines();
    assert_eq!(lines(), first);
    let other = world.run(&[&run[..], &["--", "true"]].concat());
    other.expect(8).says(&["keeps another cluster", "--tunnel"]);
    world.is_clean();
}

#[test]
fn what_can_not_be_carried_is_refused_before_anything_starts() {
    let world = World::new();
    for (flags, said) in [
        (&["--self-join"][..], "xlreg tunnel $XLREG_CLUSTER --program PORT"),
        (&["--address", "own", "--port", "6379"], "Leave out --port"),
        (&["--tls"], "with --endpoints 2 both"),
    ] {
        let done = world.run(&[&["run", "-n", "2", "--tunnel"], flags, &["--", "true"]].concat());
        done.expect(2).says(&[said]);
    }
    let shell = world.shell("ulimit -n 900; exec \"$0\" run -n 32 --tunnel -- true");
    let done = Running::start(named(shell)).finish();
    done.expect(1).says(&["a port for each pair", "and 900 are allowed", "ulimit -Hn"]);
    world.is_clean();
}

/// It raises its own limit on open files, and that of nobody else.
#[test]
fn programs_have_the_limits_of_whoever_starts_the_run() {
    let world = World::new();
    let script = "ulimit -Sn 400; exec \"$0\" run -n 2 --tunnel --no-prefix -- sh -c 'ulimit -Sn'";
    let done = Running::start(named(world.shell(script))).finish();
    assert_eq!(done.expect(0).out, "400\n400\n");
    world.is_clean();
}

/// With the command as `$0`.
fn named(mut shell: std::process::Command) -> std::process::Command {
    shell.arg(crate::support::XLREG);
    shell
}
