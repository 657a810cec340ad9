//! `xlreg tunnel`: what a program opens at a door arrives, over the roster's keys, at its peer's program.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Running, Server, World, own_address};

/// A cluster `alpha` of `a` and `b`, with addresses of their own.
struct Two {
    world: World,
    server: Server,
    endpoints: [String; 2],
}

impl Two {
    fn new() -> Self {
        let world = World::new();
        let server = world.registry();
        world.ask(&server, &["cluster", "create", "alpha", "--size", "2"]).expect(0);
        let endpoints = [(); 2].map(|()| own_address().replace(":0", ":7000"));
        for (name, endpoint) in ["a", "b"].iter().zip(&endpoints) {
            let join = ["join", "alpha", "--name", name, "--endpoint", endpoint, "--no-wait"];
            world.ask(&server, &join).expect(0);
        }
        Self { world, server, endpoints }
    }

    /// A tunnel beside this member, and what it says where its doors are.
    fn tunnel(&self, name: &str, flags: &[&str]) -> (Running, Value) {
        let args = [&["tunnel", "alpha", "--name", name, "--output", "json"], flags].concat();
        let running = Running::start(self.world.asking(&self.server, &args));
        let is_whole = |text: &str| serde_json::from_str::<Value>(text).is_ok();
        let told = running.until_prints("a JSON document", is_whole);
        (running, serde_json::from_str(&told).unwrap())
    }
}

#[test]
fn programs_talk_through_their_tunnels_and_a_stranger_gets_nothing_through() {
    let two = Two::new();
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = program.local_addr().unwrap().to_string();
    let (far, told) = two.tunnel("b", &["--program", &at]);
    assert_eq!(
        (&told["listening"], &told["program"]),
        (&two.endpoints[1].as_str().into(), &at.into())
    );
    let (near, told) = two.tunnel("a", &[]);
    assert_eq!((&told["listening"], &told["doors"][0]["name"]), (&Value::Null, &"b".into()));
    assert_eq!(told["doors"].as_array().unwrap().len(), 1, "none to itself");

    // What is not TLS, or not by a key of the roster, does not come to the program; it hears first of
    // what came through the door.
    let mut stranger = TcpStream::connect(&two.endpoints[1]).unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let door = told["doors"][0]["address"].as_str().unwrap();
    let mut client = TcpStream::connect(door).unwrap();
    client.write_all(b"ping").unwrap();
    let (mut carried, _) = program.accept().unwrap();
    let mut heard = [0; 4];
    carried.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
    carried.write_all(b"pong, and that is all").unwrap();
    drop(carried);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "pong, and that is all");

    for (tunnel, signal) in [(near, Signal::SIGTERM), (far, Signal::SIGINT)] {
        tunnel.signal(signal);
        tunnel.finish().expect(0);
    }
}

/// Its rank is the next one's, and so may its name be; what is meant for it is not.
#[test]
fn a_door_leads_to_nobody_when_its_member_is_expelled_and_another_has_its_rank() {
    let two = Two::new();
    let (near, told) = two.tunnel("a", &[]);
    let door = told["doors"][0]["address"].as_str().unwrap().to_owned();
    two.world.ask(&two.server, &["cluster", "expel", "alpha", "b"]).expect(0);
    let endpoint = own_address().replace(":0", ":7000");
    let own = two.world.path("another");
    let own = own.to_str().unwrap();
    let join = ["join", "alpha", "--name", "b", "--endpoint", &endpoint, "--identity", own];
    two.world.ask(&two.server, &join).expect(0);
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = program.local_addr().unwrap().to_string();
    let (far, _) = two.tunnel("b", &["--identity", own, "--program", &at]);
    let mut client = TcpStream::connect(door).unwrap();
    client.write_all(b"for b alone").unwrap();
    let mut answer = Vec::new();
    // Closed or reset.
    let _ended = client.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    program.set_nonblocking(true).unwrap();
    assert!(program.accept().is_err(), "it came to another");
    drop((near, far));
}

#[test]
fn what_can_not_be_carried_is_told() {
    let two = Two::new();
    let ask = |args: &[&str]| two.world.ask(&two.server, &[&["tunnel", "alpha"], args].concat());
    ask(&["--name", "a", "--program", "0.0.0.0:80"]).expect(2).says(&["would be open to others"]);
    ask(&["--name", "a", "--door", "c=0"]).expect(5).says(&["--door names c"]);
    let taken = TcpListener::bind(&two.endpoints[0]).unwrap();
    ask(&["--name", "a", "--program", "9"]).expect(1).says(&["this member's endpoint", "--listen"]);
    drop(taken);
    let beta = ["cluster", "create", "beta", "--size", "2"];
    two.world.ask(&two.server, &beta).expect(0);
    let identity = two.world.path("data/xlreg/members/alpha/a");
    let waiting =
        ["tunnel", "beta", "--identity", identity.to_str().unwrap(), "--timeout", "300ms"];
    two.world.ask(&two.server, &waiting).expect(7).says(&["still missing 2"]);

    let early = ["tunnel", "alpha", "--name", "a", "--program", "9", "--timeout", "60s"];
    let early = two.world.asking(&two.server, &early);
    let address = two.server.address.to_string();
    two.server.stop();
    let early = Running::start(early);
    early.until_says("trying again for up to 1m");
    let server = two.world.serve(&["--listen", &address, "--data", "registry"]);
    early.lines("b", 1);
    early.signal(Signal::SIGTERM);
    early.finish().expect(0);
    server.stop();
}
