//! `xlreg cluster verify NAME`: who reaches whom, as members find it.

use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::{Value, json};
use xlreg::{ClusterKey, Identity, Peers, Registry};

use crate::support::{Running, Server, World, eventually, own_address};

/// A cluster `alpha` whose members `a`, `b` and so on have addresses of their own.
struct Cluster {
    world: World,
    server: Server,
    endpoints: Vec<String>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Cluster {
    fn new() -> Self {
        let world = World::new();
        let server = world.registry();
        world.ask(&server, &["cluster", "create", "alpha", "--size", "3"]).expect(0);
        let endpoints: Vec<_> = NAMES.map(|_| own_address().replace(":0", ":7000")).into();
        for (name, endpoint) in NAMES.iter().zip(&endpoints) {
            let join = ["join", "alpha", "--name", name, "--endpoint", endpoint, "--no-wait"];
            world.ask(&server, &join).expect(0);
        }
        Self { world, server, endpoints }
    }

    /// As this member, in its own cluster or another.
    fn start(&self, cluster: &str, name: &str, timeout: &str, output: &str) -> Running {
        let flags = ["--name", name, "--timeout", timeout, "--output", output];
        let args = [&["cluster", "verify", cluster], &flags[..]].concat();
        Running::start(self.world.asking(&self.server, &args))
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.world.path("data/xlreg/members/alpha").join(name)
    }

    /// A program of this member that has links with the others, on a thread of its own.
    fn program(&self, name: &str, protocols: &'static [&'static str]) -> Program {
        let (dir, credentials) = (self.identity(name), self.server.credentials.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = Registry::open(credentials).unwrap();
            let identity = Identity::load(dir).await.unwrap();
            let cluster = ClusterKey::Name("alpha".parse().unwrap());
            let peers = Peers::follow(&registry, &identity, &cluster).await.unwrap();
            let own = peers.roster().member(peers.rank().unwrap()).unwrap().endpoints[0].clone();
            let socket = tokio::net::TcpListener::bind(own.as_str()).await.unwrap();
            let mut listener = peers.with_protocols(protocols).listen(socket);
            tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        });
        Program { _runtime: runtime }
    }
}

struct Program {
    _runtime: tokio::runtime::Runtime,
}

/// The cells of a matrix: true if reached, null if nobody has told.
fn cells(told: &Value) -> Value {
    let rows = told["matrix"].as_array().unwrap().iter();
    let rows = rows.map(|row| {
        let cells = row["cells"].as_array().unwrap().iter();
        cells.map(|cell| cell["reached"].clone()).collect::<Vec<_>>()
    });
    json!(rows.collect::<Vec<_>>())
}

/// Before any of their programs has started, and each sees what all have found.
#[test]
fn members_verify_each_other_before_their_programs_start() {
    let cluster = Cluster::new();
    let running = NAMES.map(|name| cluster.start("alpha", name, "20s", "json"));
    for (rank, done) in running.map(Running::finish).iter().enumerate() {
        let told = done.expect(0).json();
        assert_eq!(cells(&told), json!([[true, true], [true, true], [true, true]]), "{told:#}");
        assert_eq!((&told["seen_from"], &told["listening"]), (&json!(rank), &json!(true)));
        assert_eq!(told["all_reached"], true);
        let millis = told["matrix"][rank]["cells"][0]["millis"].as_f64().unwrap();
        assert!(millis > 0.0 && millis < 20_000.0, "{millis}");
        assert_eq!(told["members"][2]["endpoint"], cluster.endpoints[2]);
    }
}

/// Programs of the members are reached like a verify, but say nothing of whom they reach, whatever
/// application protocol they speak.
#[test]
fn programs_that_run_already_are_reached_and_tell_nothing() {
    let cluster = Cluster::new();
    let _programs = [cluster.program("a", &[]), cluster.program("b", &["h2"])];
    let done = cluster.start("alpha", "c", "20s", "human").finish();
    done.expect(0).prints(&["): 3 of 3 members, seen from 2 c\nFROM \\ TO  0 a ", "\n2 c "]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = done.out.lines().map(words).collect();
    assert_eq!(lines[2..4], [["0", "a", "-", "?", "?"], ["1", "b", "?", "-", "?"]]);
    // From beside a's program, which has its port.
    let done = cluster.start("alpha", "a", "1s", "json").finish();
    let told = done.expect(7).json();
    assert_eq!((&told["listening"], &told["all_reached"]), (&json!(false), &json!(false)));
    assert_eq!(cells(&told), json!([[true, false], [null, null], [null, null]]));
}

#[test]
fn whoever_is_not_reached_is_named_with_the_reason() {
    let cluster = Cluster::new();
    // b's place is taken by someone who hangs up, and nobody is in c's.
    let impostor = TcpListener::bind(&cluster.endpoints[1]).unwrap();
    std::thread::spawn(move || impostor.incoming().for_each(drop));
    let done = cluster.start("alpha", "a", "1s", "human").finish();
    let reasons = [
        format!("\n0 a does not reach 1 b: {}: it hung up", cluster.endpoints[1]),
        format!("\n0 a does not reach 2 c: {}: nobody answers there:", cluster.endpoints[2]),
    ];
    done.expect(7).prints(&reasons.each_ref().map(String::as_str));
}

/// With a valid identity, known to the same registry, in a member's place.
#[test]
fn an_impostor_in_a_members_place_is_named() {
    let cluster = Cluster::new();
    let _programs = [cluster.program("b", &[])];
    let world = &cluster.world;
    world.ask(&cluster.server, &["cluster", "create", "other", "--size", "2"]).expect(0);
    // It waits for y, who does not come.
    for (name, endpoint) in [("x", &cluster.endpoints[2]), ("y", &own_address())] {
        let endpoint = endpoint.replace(":0", ":7000");
        let join = ["join", "other", "--name", name, "--endpoint", &endpoint, "--no-wait"];
        world.ask(&cluster.server, &join).expect(0);
    }
    let impostor = cluster.start("other", "x", "60s", "human");
    eventually("the impostor listens", || {
        std::net::TcpStream::connect(&cluster.endpoints[2]).is_ok()
    });
    let done = cluster.start("alpha", "a", "1s", "human").finish();
    done.expect(7).prints(&["0 a does not reach 2 c: ", "is not in the roster"]);
    impostor.kill();
}

#[test]
fn who_is_no_member_is_told_so() {
    let cluster = Cluster::new();
    let stranger = cluster.world.path("work/stranger");
    let stranger = stranger.to_str().unwrap();
    cluster.world.run(&["id", "new", "--name", "x", stranger]).expect(0);
    let args = ["cluster", "verify", "alpha", "--identity", stranger];
    let done = cluster.world.ask(&cluster.server, &args);
    done.expect(5).says(&["this identity is no member x of cluster alpha"]);
    let args = ["cluster", "verify", "none", "--identity", stranger];
    cluster.world.ask(&cluster.server, &args).expect(5);
}
