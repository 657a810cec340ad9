//! `xlreg cluster` and `xlreg join`: how a cluster comes into being, and how it does not.

use std::fs;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Done, Running, Server, World, own_address};

const CREATE: [&str; 5] = ["cluster", "create", "alpha", "--size", "3"];

/// A join that names the member and goes on without the others.
fn enter(world: &World, server: &Server, name: &str, endpoint: &str) -> Done {
    let args = ["join", "alpha", "--name", name, "--endpoint", endpoint, "--no-wait"];
    world.ask(server, &args)
}

fn names(roster: &Value) -> Vec<&str> {
    let members = roster["members"].as_array().unwrap().iter();
    members.map(|member| member["name"].as_str().unwrap()).collect()
}

/// Three members, an onlooker who waits, and all see the same.
#[test]
fn a_cluster_comes_into_being() {
    let world = World::new();
    let server = world.registry();
    let made = world.ask(&server, &CREATE);
    made.expect(0).prints(&["cluster alpha (", ") for 3 members\n"]);
    let again = [&CREATE[..], &["--output", "json"]].concat();
    let invitation = world.ask(&server, &again).expect(0).json()["invitation"].take();
    let invitation = invitation.as_str().unwrap();
    assert!(invitation.starts_with(&format!("xlreg://{}/alpha?key=", server.address)));
    let next = format!("next, for each member: xlreg join '{invitation}' --endpoint HOST:PORT\n");
    assert_eq!(made.err, next);
    // The old wire knows no invitations.
    let old = world.ask(&server, &[&CREATE[..], &["--dialect", "1.9"]].concat());
    let credentials = server.credentials.to_str().unwrap();
    old.expect(0).prints(&["cluster alpha (", ") for 3 members\n"]).says(&[&format!(
        "next, for each member: xlreg join alpha --registry {credentials} --endpoint HOST:PORT\n"
    )]);
    let empty = world.ask(&server, &["cluster", "show", "alpha"]);
    assert!(empty.expect(0).out.ends_with("): 0 of 3, incomplete\n"), "{empty:?}");

    let waiting = world.asking(&server, &["cluster", "wait", "alpha", "--output", "json"]);
    let waiting = Running::start(waiting);
    let join = |port: &str, more: &[&str]| {
        let endpoint = format!("localhost:{port}");
        let args = [&["join", "alpha", "--endpoint", &endpoint], more].concat();
        Running::start(world.asking(&server, &args))
    };
    let joining =
        [join("4001", &[]), join("4002", &["--name", "b"]), join("4003", &["--output", "json"])];
    let joined = joining.map(Running::finish);

    let roster = waiting.finish().expect(0).json();
    assert_eq!(joined[2].expect(0).json(), roster, "members and onlookers see the same");
    assert_eq!(joined[0].expect(0).out, joined[1].expect(0).out);
    joined[0].says(&["kept in ", "/data/xlreg/members/alpha/node_localhost_4001/roster.json\n"]);
    let kept = world.path("data/xlreg/members/alpha/b/roster.json");
    // The file is the same for every member, whenever it came; the command tells more.
    let mut told = roster.clone();
    let more = told.as_object_mut().unwrap();
    assert_eq!(
        ["revision", "policy", "left"].map(|name| more.remove(name).unwrap()),
        [3.into(), "open".into(), Value::Array(Vec::new())]
    );
    assert_eq!(more.remove("owner").unwrap().as_str().unwrap().len(), 64);
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(kept).unwrap()).unwrap(), told);

    assert_eq!(
        (&roster["cluster"], &roster["size"], &roster["endpoint_count"], &roster["complete"]),
        (&"alpha".into(), &3.into(), &1.into(), &true.into())
    );
    assert_eq!(roster["cluster_id"].as_str().unwrap().len(), 40);
    for (rank, member) in roster["members"].as_array().unwrap().iter().enumerate() {
        assert_eq!(member["rank"], rank);
        assert_eq!(member["id"].as_str().unwrap().len(), 40);
        for key in ["sig_key", "comms_key"] {
            assert!(member[key].as_str().unwrap().starts_with("ssh-rsa AAAA"));
        }
        let endpoint = member["endpoints"][0].as_str().unwrap();
        assert!(endpoint.starts_with("localhost:400"), "{endpoint}");
    }
    let mut sorted = names(&roster);
    sorted.sort_unstable();
    assert_eq!(sorted, ["b", "node_localhost_4001", "node_localhost_4003"]);

    // By its ID too, and as a table whose lines start with the rank.
    let id = roster["cluster_id"].as_str().unwrap();
    let shown = world.ask(&server, &["cluster", "show", id]);
    let lines: Vec<_> = shown.expect(0).out.lines().collect();
    assert_eq!(lines[0], format!("cluster alpha ({id}): 3 of 3, complete"));
    assert!(lines[1].starts_with("RANK  NAME ") && lines[2].starts_with("0     "), "{lines:?}");
    assert_eq!(shown.out, joined[0].out);
}

/// exec: the same process, with the roster in its environment and stdout its own.
#[test]
fn a_member_becomes_its_program() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2", "--endpoints", "2"]).expect(0);
    let join = |name: &str, command: &[&str]| {
        let endpoints = ["--endpoint", "h:1", "--endpoint", "[::1]:2"];
        let args = [&["join", "alpha", "--name", name], &endpoints[..], &["--"], command].concat();
        Running::start(world.asking(&server, &args))
    };
    let other = join("a", &["true"]);
    let script = "echo $$; echo $XLREG_NAME $XLREG_SIZE $XLREG_CLUSTER $XLREG_ENDPOINT \
                  $XLREG_HOST $XLREG_PORT $XLREG_ENDPOINT1 $XLREG_HOST1 $XLREG_PORT1; \
                  echo $XLREG_ID $XLREG_RANK $XLREG_DIR; cat $XLREG_ROSTER; exit 42";
    let program = join("b", &["sh", "-c", script]);
    let pid = program.pid();
    let done = program.finish();
    done.expect(42).says(&["cluster alpha", "2 of 2, complete"]);
    other.finish().expect(0);
    let mut parts = done.out.splitn(4, '\n');
    assert_eq!(parts.next().unwrap(), pid.to_string());
    assert_eq!(parts.next().unwrap(), "b 2 alpha h:1 h 1 [::1]:2 ::1 2");
    let place = parts.next().unwrap();
    let roster: Value = serde_json::from_str(parts.next().unwrap()).unwrap();
    let rank = names(&roster).iter().position(|name| *name == "b").unwrap();
    let id = roster["members"][rank]["id"].as_str().unwrap();
    let dir = world.path("data/xlreg/members/alpha/b");
    assert_eq!(place, format!("{id} {rank} {}", dir.display()));

    let missing = join("b", &["no-such-program"]).finish();
    missing.expect(1).says(&[
        &format!("joined as rank {rank}"),
        "no-such-program",
        "run this again",
    ]);
    let few = world.ask(&server, &["join", "alpha", "--name", "b", "--endpoint", "h:1"]);
    few.expect(4)
        .says(&["too few endPoints: 1, where the cluster asks for 2", "hint: repeat --endpoint"]);
}

#[test]
fn the_same_command_line_is_the_same_member_also_after_a_kill() {
    let world = World::new();
    let listen = own_address();
    let server = world.serve(&["--listen", &listen, "--data", "d"]);
    let address = server.address.to_string();
    world.ask(&server, &CREATE).expect(0);
    let join = |server: &Server, endpoint: &str| {
        let args = ["join", "alpha", "--endpoint", endpoint, "--no-wait", "--output", "json"];
        world.ask(server, &args).expect(0).json()
    };
    join(&server, "h:1");
    let before = join(&server, "h:2");
    assert_eq!(
        (names(&before), &before["complete"]),
        (vec!["node_h_1", "node_h_2"], &false.into())
    );
    assert_eq!(join(&server, "h:1")["members"], before["members"]);
    server.running.kill();

    let server = world.serve(&["--listen", &address, "--data", "d"]);
    assert_eq!(join(&server, "h:2"), before);
    let third = join(&server, "h:3");
    assert_eq!(names(&third), ["node_h_1", "node_h_2", "node_h_3"]);
    // Come back at another address: the same rank, and everybody is told.
    let args = ["join", "alpha", "--name", "node_h_1", "--endpoint", "moved:1", "--output", "json"];
    let moved = world.ask(&server, &args).expect(0).json();
    assert_eq!(names(&moved), names(&third));
    assert_eq!(moved["members"][0]["endpoints"][0], "moved:1");
}

#[test]
fn a_wait_that_ends_too_early_names_who_came_and_how_many_are_missing() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &CREATE).expect(0);
    for (name, joined, missing) in [("a", "joined: a", 2), ("b", "joined: a, b", 1)] {
        let args = ["join", "alpha", "--name", name, "--endpoint", "h:1", "--timeout", "1500ms"];
        let missing = format!("still missing {missing}; {joined}");
        let done = world.ask(&server, &args);
        done.expect(7).says(&["cluster alpha:", "of 3 members after", &missing, "--timeout"]);
        assert_eq!(done.out, "", "never a roster with members missing");
    }
    let mut wait = world.asking(&server, &["cluster", "wait", "alpha", "--output", "json"]);
    wait.env("XLREG_TIMEOUT", "1s");
    let done = Running::start(wait).finish();
    done.expect(7).says(&["2 of 3 members", "still missing 1; joined: a, b"]);
    assert_eq!(done.out, "");
}

/// A way to the server at `address` that cuts its first connection after so many bytes of its answers.
fn cut_once(address: SocketAddr, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near_address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for (number, near) in listener.incoming().enumerate() {
            let (near, Ok(far)) = (near.unwrap(), TcpStream::connect(address)) else { return };
            let limit = if number == 0 { bytes } else { u64::MAX };
            let (mut asks, mut asked) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            thread::spawn(move || {
                let _ended = io::copy(&mut asks, &mut asked);
                let _gone = asked.shutdown(Shutdown::Write);
            });
            thread::spawn(move || {
                let _ended = io::copy(&mut (&far).take(limit), &mut &near);
                let _gone = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
            });
        }
    });
    near_address
}

#[test]
fn who_loses_the_registry_amid_joining_tries_again() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &CREATE).expect(0);
    let text = fs::read_to_string(&server.credentials).unwrap();
    // In the handshake, before the join's answer, and amid it.
    for bytes in [0, 1000, 3500, 4600] {
        let by = cut_once(server.address, bytes);
        fs::write(world.path("work/cut"), text.replace(&server.address.to_string(), &by)).unwrap();
        let join = ["join", "alpha", "--endpoint", "h:1", "--no-wait", "--registry", "cut"];
        world.run(&join).expect(0).prints(&["1 of 3"]).says(&["trying again for up to 30s"]);
    }
}

/// Say by a line that was copied from one machine to the next.
#[test]
fn who_says_the_same_endpoint_as_another_is_told_so() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &CREATE).expect(0);
    let join = ["join", "alpha", "--no-wait", "--endpoint", "h:1", "--name"];
    for (name, noted) in [("a", false), ("b", true), ("a", true)] {
        let done = world.ask(&server, &[&join[..], &[name]].concat());
        let note = "says that it is reached at h:1, too";
        assert_eq!(done.expect(0).err.contains(note), noted, "{name}: {}", done.err);
    }
}

#[test]
fn an_interrupted_join_says_so_and_keeps_its_place() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &CREATE).expect(0);
    let args = ["join", "alpha", "--name", "a", "--endpoint", "h:1", "--timeout", "5m"];
    let joining = Running::start(world.asking(&server, &args));
    let here = || world.ask(&server, &["cluster", "show", "alpha", "--output", "json"]).json();
    let by = Instant::now() + Duration::from_secs(60);
    while names(&here()).is_empty() {
        assert!(Instant::now() < by, "it never joins");
    }
    joining.signal(Signal::SIGINT);
    joining.finish().expect(130).says(&["interrupted"]);
    assert_eq!(names(&here()), ["a"]);
}

#[test]
fn each_refusal_has_its_code_and_says_what_to_do() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    for args in [
        &["cluster", "show", "nope"][..],
        &["cluster", "wait", "nope", "--timeout", "20s"],
        &["join", "nope", "--endpoint", "h:1"],
        &["cluster", "show", &"ab".repeat(20)],
    ] {
        let cluster = args.iter().find(|arg| ["nope", &"ab".repeat(20)].contains(arg)).unwrap();
        ask(args).expect(5).says(&[cluster, "cannot find cluster", "hint: ", "cluster create"]);
    }

    ask(&["cluster", "create", "alpha", "-n", "2"]).expect(0);
    ask(&["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let bigger = ask(&["cluster", "create", "alpha", "-n", "3"]);
    bigger.expect(8).says(&["alpha", "for 2 members", "not 3", "choose another name"]);
    let wider = ask(&["cluster", "create", "alpha", "-n", "2", "--endpoints", "2"]);
    wider.expect(8).says(&["with 1 endpoint(s) each, not 2 with 2"]);

    enter(&world, &server, "a", "h:1").expect(0);
    let thief = ["join", "alpha", "--name", "a", "--endpoint", "h:2", "--identity", "other"];
    ask(&thief).expect(8).says(&["joining alpha", "name already in use", "another --name"]);
    // The same keys under another name.
    let dir = world.path("data/xlreg/members/alpha/a");
    let twice = ["join", "alpha", "--name", "b", "--endpoint", "h:2", "--no-wait", "--identity"];
    let done = ask(&[&twice[..], &[dir.to_str().unwrap()]].concat());
    done.expect(8).says(&["member id already in use", "another --identity"]);

    enter(&world, &server, "b", "h:2").expect(0);
    enter(&world, &server, "c", "h:3").expect(6).says(&[
        "joining alpha",
        "cluster is full",
        "hint",
    ]);
    assert_eq!(names(&ask(&["cluster", "wait", "alpha", "--output", "json"]).json()), ["a", "b"]);
}

#[test]
fn a_registry_that_is_not_there_and_one_that_says_nothing() {
    let world = World::new();
    let server = world.registry();
    let address = server.address.to_string();
    let credentials = server.credentials.to_str().unwrap().to_owned();
    server.stop();
    let ask = |args: &[&str]| world.run(&[args, &["--registry", &credentials]].concat());
    for args in [
        &["cluster", "show", "alpha"][..],
        &CREATE,
        &["cluster", "wait", "alpha", "--timeout", "300ms"],
        &["join", "alpha", "--endpoint", "h:1", "--timeout", "300ms"],
    ] {
        ask(args)
            .expect(3)
            .says(&[&format!("cannot reach the registry at {address}"), "is it running"]);
    }

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = fs::read_to_string(&credentials).unwrap();
    let text = text.replace(&address, &silent.local_addr().unwrap().to_string());
    fs::write(&credentials, text).unwrap();
    let short = ["--timeout", "300ms"];
    ask(&[&["cluster", "wait", "alpha"], &short[..]].concat()).expect(7).says(&["not answered"]);
    let done = ask(&[&["join", "alpha", "--endpoint", "h:1"], &short[..]].concat());
    done.expect(7).says(&["joining alpha", "has not answered within 300ms"]);
}

/// Both dialects and both ways to name the registry, against one cluster.
#[test]
fn both_dialects_see_the_same_cluster() {
    let world = World::new();
    let server = world.registry();
    let credentials = server.credentials.to_str().unwrap();
    let old = ["--dialect", "1.8", "--registry", credentials];
    world.run(&[&CREATE[..3], &["-n", "2"], &old].concat()).expect(0);
    let join = ["join", "alpha", "--output", "json", "--endpoint"];
    let eight = world.start(&[&join[..], &["h:1"], &old].concat());
    let mut nine = world.asking(&server, &[&join[..], &["h:2"]].concat());
    nine.env("XLREG_DIALECT", "1.9");
    let nine = Running::start(nine).finish();
    let roster = nine.expect(0).json();
    assert_eq!(eight.finish().expect(0).json(), roster);
    let show = ["cluster", "show", "alpha", "--output", "json"];
    assert_eq!(world.run(&[&show[..], &old].concat()).expect(0).json(), roster);
    world.run(&["cred", "check", credentials]).expect(0);
}

/// Members and their registry often start together.
#[test]
fn who_joins_or_waits_before_the_registry_is_there_tries_again() {
    let world = World::new();
    let server = world.registry();
    let address = server.address.to_string();
    world.ask(&server, &CREATE).expect(0);
    let join = ["join", "alpha", "--endpoint", "h:1", "--no-wait", "--timeout", "60s"];
    let wait = ["cluster", "wait", "alpha", "--timeout", "60s"];
    let mut early = Vec::new();
    let (join, wait) = (world.asking(&server, &join), world.asking(&server, &wait));
    server.stop();
    for command in [join, wait] {
        let running = Running::start(command);
        running.until_says("trying again for up to 1m");
        early.push(running);
    }
    let server = world.serve(&["--listen", &address, "--data", "registry"]);
    let wait = early.pop().unwrap();
    early.pop().unwrap().finish().expect(0).prints(&["1 of "]);
    let size: u64 = world.ask(&server, &["cluster", "list", "--output", "json"]).json()[0]["size"]
        .as_u64()
        .unwrap();
    for number in 1..size {
        let endpoint = format!("h:{}", 1 + number);
        let join = ["join", "alpha", "--endpoint", &endpoint, "--no-wait"];
        world.ask(&server, &join).expect(0);
    }
    wait.finish().expect(0).prints(&["complete"]);
}

/// It is what people copy from where a program listens.
#[test]
fn an_endpoint_that_is_every_address_is_refused() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &CREATE).expect(0);
    for endpoint in ["0.0.0.0:4001", "[::]:4001"] {
        world
            .ask(&server, &["join", "alpha", "--endpoint", endpoint])
            .expect(2)
            .says(&["every address of this machine", "by which others reach it"]);
    }
}
