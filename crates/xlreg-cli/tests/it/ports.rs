//! Ports: whose they are, before, while and after a program has them.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};

use crate::helper;
use crate::support::{World, eventually};

/// Who answers there.
fn who(endpoint: &str) -> String {
    let mut name = String::new();
    let read = TcpStream::connect(endpoint).and_then(|mut stream| stream.read_to_string(&mut name));
    read.map(|_| name).unwrap_or_default()
}

fn endpoint(world: &World, cluster: &str, rank: usize, place: usize) -> String {
    world.member(cluster, rank)["endpoints"][place].as_str().unwrap().to_owned()
}

/// Held beside the program, the port is its own again when it is started again.
#[test]
fn a_program_binds_its_held_ports_again_and_again() {
    let world = World::new();
    let listen = helper::listen();
    let listen: Vec<_> = listen.iter().map(String::as_str).collect();
    world.detach("held", "2", &["--endpoints", "2", "--ready", "line:listening"], &listen);
    for rank in [0, 1] {
        for place in [0, 1] {
            assert_eq!(who(&endpoint(&world, "held", rank, place)), format!("member_{rank}"));
        }
    }
    let before = endpoint(&world, "held", 1, 1);
    world.run(&["kill", "member_1"]).expect(0);
    world.until_member("held", 1, "ended");
    assert_eq!(who(&before), "");
    world.run(&["restart", "1"]).expect(0);
    eventually("it listens again", || who(&before) == "member_1");
    // And one that runs.
    world.run(&["restart", "member_1", "-c", "held"]).expect(0);
    eventually("it listens again", || who(&before) == "member_1");
    assert_eq!(world.member("held", 1)["restarts"], 2);
    world.down("held");
}

/// The protocol of systemd; the kernel takes connections in while there is no program.
#[test]
fn passed_sockets_are_the_same_after_a_restart() {
    let world = World::new();
    let script = "test $LISTEN_PID = $$ && \
                  echo $LISTEN_FDS $LISTEN_FDNAMES $(readlink /proc/self/fd/3 /proc/self/fd/4); \
                  exec sleep 600";
    let cmd = ["sh", "-c", script];
    world.detach("passed", "2", &["--ports", "passed", "--endpoints", "2"], &cmd);
    let lines = || {
        let all = world.run(&["logs", "1"]).expect(0).out.clone();
        all.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("it has said so", || lines().len() == 1);
    world.run(&["kill", "member_1"]).expect(0);
    world.until_member("passed", 1, "ended");
    for place in [0, 1] {
        TcpStream::connect(endpoint(&world, "passed", 1, place)).unwrap();
    }
    world.run(&["restart", "member_1"]).expect(0);
    eventually("it has said so again", || lines().len() == 2);
    let lines = lines();
    assert!(lines[0].starts_with("member_1 | 2 endpoint:endpoint1 socket:["), "{lines:?}");
    assert_eq!(lines[0], lines[1]);
    world.down("passed");
}

/// Fixed ports, two clusters at once, and nobody in the other's way.
#[test]
fn clusters_with_addresses_of_their_own_use_the_same_port_side_by_side() {
    let world = World::new();
    let listen = helper::listen();
    let listen: Vec<_> = listen.iter().map(String::as_str).collect();
    let flags = ["--address", "own", "--port", "7070", "--ready", "tcp"];
    let mut addresses = Vec::new();
    for cluster in ["one", "two"] {
        world.detach(cluster, "2", &flags, &listen);
        for rank in [0, 1] {
            let endpoint = endpoint(&world, cluster, rank, 0);
            assert_eq!(who(&endpoint), format!("member_{rank}"));
            let address: SocketAddr = endpoint.parse().unwrap();
            assert!(address.ip().is_loopback() && address.port() == 7070, "{address}");
            addresses.push(address);
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 4);
    let several = world.run(&["down"]);
    several.expect(2).says(&["several clusters run here", "one, two"]);
    world.run(&["down", "--all"]).expect(0).says(&["one is down", "two is down"]);
    world.is_clean();
}

#[test]
fn ports_that_are_let_go_are_the_programs() {
    let world = World::new();
    let listen = helper::listen();
    let listen: Vec<_> = listen.iter().map(String::as_str).collect();
    world.detach("free", "2", &["--ports", "free", "--ready", "tcp"], &listen);
    assert_eq!(who(&endpoint(&world, "free", 1, 0)), "member_1");
    world.down("free");
}

#[test]
fn contradictions_are_misuse() {
    let world = World::new();
    for (flags, parts) in [
        (&["--port", "7070"][..], &["--address own"][..]),
        (&["--port", "0", "--address", "own"], &["--port"]),
        (&["--port", "1", "--port", "2", "--address", "own"], &["given 2 times", "1 endpoint"]),
        (&["--address", "0.0.0.0"], &["name one"]),
        (&["--address", "localhost"], &["IP address"]),
        (&["--ports", "taken"], &["held, passed, free"]),
        (&["--ports", "passed", "--ready", "tcp"], &["before the program runs"]),
        (&["--self-join", "--ready", "tcp"], &["--self-join"]),
        (&["--self-join", "--ports", "held"], &["cannot be used with"]),
        (&["--self-join", "--address", "own"], &["cannot be used with"]),
        (&["--endpoints", "3"], &["1..=2"]),
        (&["--on-exit", "restart:x"], &["restart:3"]),
        (&["--on-exit", "explode"], &["stop, ignore, restart"]),
        (&["--grace", "5"], &["500ms"]),
        (&["--ready", "soon"], &["line:REGEX"]),
        (&["--ready", "line:("], &["line:("]),
        (&["--env", "=x"], &["NAME=TEMPLATE"]),
        (&["--template", "x"], &["IN=OUT"]),
    ] {
        let done = world.run(&[&["run", "-n", "2"], flags, &["--", "true"]].concat());
        done.expect(2).says(parts).says(&["Usage: xlreg run"]);
    }
    world.is_clean();
}
