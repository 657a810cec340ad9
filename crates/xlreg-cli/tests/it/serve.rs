//! `xlreg serve`: what it keeps, what it says, and what it refuses.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use xlreg::Registry;

use crate::support::{Done, Running, Server, World, key_lines, own_address};

fn endpoint(server: &Server) -> String {
    let registry = Registry::open(&server.credentials).unwrap();
    let endpoints = &registry.credentials().endpoints;
    assert_eq!(endpoints.len(), 1);
    endpoints[0].to_string()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_ready_line_and_the_credentials_name_the_real_port() {
    let world = World::new();
    let server = world.registry();
    assert_ne!(server.address.port(), 0);
    assert_eq!(endpoint(&server), server.address.to_string());
    let dir = world.path("work").join("registry");
    assert_eq!(server.credentials, dir.join("regCred.dat"));
    assert_eq!((mode(&dir), mode(&dir.join(".xlattice/node.config"))), (0o700, 0o600));
    let done = server.stop();
    done.says(&["next: xlreg cluster create NAME --size N --registry /", "stopped accepted=0"]);
    assert_eq!(done.out.lines().count(), 1);
}

#[test]
fn every_later_start_is_the_same_registry() {
    let world = World::new();
    let first = world.serve(&["--listen", &own_address(), "--data", "d"]);
    let address = first.address.to_string();
    let text = fs::read(&first.credentials).unwrap();
    first.running.signal(Signal::SIGINT);
    first.running.finish().expect(0);

    let second = world.serve(&["--listen", &address, "--data", "d"]);
    assert_eq!(fs::read(&second.credentials).unwrap(), text);
    second.running.kill();

    // Also after a kill, and on another port; then only the endpoint differs.
    let third = world.serve(&["--listen", "127.0.0.1:0", "--data", "d"]);
    let (old, new) = (String::from_utf8(text).unwrap(), fs::read(&third.credentials).unwrap());
    let new = String::from_utf8(new).unwrap();
    assert_eq!(new.replace(&third.address.to_string(), &address), old);
    third.stop();
}

#[test]
fn neither_a_file_nor_a_members_directory_is_a_place_for_a_registry() {
    let world = World::new();
    fs::write(world.path("work/file"), "kept").unwrap();
    let done = world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "file"]);
    done.expect(1).says(&["file is no directory; name one with --data"]);
    assert_eq!(fs::read_to_string(world.path("work/file")).unwrap(), "kept");

    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let join = ["join", "alpha", "--endpoint", "h:1", "--no-wait", "--identity", "member"];
    world.ask(&server, &join).expect(0);
    let done = world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "member"]);
    done.expect(1).says(&["member holds a member's keys", "--data"]);
    assert!(!world.path("work/member/registry.db").exists());
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_and_told_who_holds_it() {
    let world = World::new();
    let first = world.registry();
    let done = world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "registry"]);
    let holder = format!("process {}", first.running.pid());
    done.expect(1).says(&["in use by another registry", &holder, "Stop that one first"]);
    world.ask(&first, &["cred", "check"]).expect(0);
}

#[test]
fn an_ephemeral_registry_leaves_nothing() {
    let world = World::new();
    let mut command = world.xlreg(&["serve", "--ephemeral", "--listen", "127.0.0.1:0"]);
    // The flag goes before the variable.
    command.env("XLREG_DATA", world.path("kept"));
    let server = Server::ready(Running::start(command));
    assert!(server.credentials.starts_with(world.path("tmp")));
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    server.stop();
    assert!(!world.path("kept").exists());
    assert_eq!((world.list("tmp"), world.list("work")), (vec![], vec![]));
}

#[test]
fn without_data_the_users_data_directory_is_used_and_named() {
    let world = World::new();
    let server = world.serve(&["--listen", "127.0.0.1:0"]);
    let dir = world.path("data/xlreg/registry");
    assert_eq!(server.credentials, dir.join("regCred.dat"));
    server.stop().says(&["no --data given", dir.to_str().unwrap()]);
    assert!(dir.join("registry.db").exists());
}

const ALL_KEYS: &str = r#"
listen = "127.0.0.3:0"
advertise = "from-file"
data = "from-file"
name = "named_in_file"
ephemeral = false
[limits]
nodes-max = 1000
clusters-max = 1
members-max = 1000
[connections]
max = 100
max-per-address = 50
hello-ms = 5000
message-ms = 5000
idle-ms = 5000
write-ms = 5000
session-ms = 60000
hold-ms = 100
drain-ms = 100
"#;

/// One data directory is enough: what goes first shows in the ready line and the credentials.
#[cfg(target_os = "linux")]
#[test]
fn flags_go_before_variables_and_those_before_the_file() {
    let world = World::new();
    fs::write(world.path("work/all.toml"), ALL_KEYS).unwrap();
    let from_file = world.serve(&["--config", "all.toml"]);
    let port = from_file.address.port();
    assert_eq!(from_file.address.ip().to_string(), "127.0.0.3");
    assert_eq!(endpoint(&from_file), format!("from-file:{port}"));
    assert_eq!(from_file.credentials, world.path("work/from-file/regCred.dat"));
    let shown = world.ask(&from_file, &["cred", "show", "--output", "json"]).expect(0).json();
    assert_eq!(shown["name"], "named_in_file");
    from_file.stop();

    fs::rename(world.path("work/from-file"), world.path("work/from-env")).unwrap();
    let env = |args: &[&str]| {
        let mut command = world.xlreg(&[&["serve"], args].concat());
        command.env("XLREG_CONFIG", "all.toml").env("XLREG_LISTEN", "127.0.0.2:0");
        command.env("XLREG_ADVERTISE", "from-env").env("XLREG_DATA", "from-env");
        command
    };
    let from_env = Server::ready(Running::start(env(&[])));
    assert_eq!(from_env.address.ip().to_string(), "127.0.0.2");
    assert_eq!(endpoint(&from_env), format!("from-env:{}", from_env.address.port()));
    assert_eq!(from_env.credentials, world.path("work/from-env/regCred.dat"));
    from_env.stop();

    fs::rename(world.path("work/from-env"), world.path("work/flag")).unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--advertise", "127.0.0.1", "--data", "flag"];
    let from_flag = Server::ready(Running::start(env(&flags)));
    assert_eq!(endpoint(&from_flag), from_flag.address.to_string());
    // The file's limits are in force.
    world.ask(&from_flag, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    world.ask(&from_flag, &["cluster", "create", "beta", "-n", "2"]).expect(4);
    from_flag.stop();
}

#[test]
fn a_configuration_file_that_makes_no_sense_is_refused() {
    let world = World::new();
    for (text, parts) in [
        ("listne = '127.0.0.1:0'", &["c.toml", "listne", "expected"][..]),
        ("[connections]\nidle = 5", &["idle", "line 2"]),
        ("listen = 5", &["c.toml", "line 1"]),
        ("listen = 'nowhere'", &["file's listen", "HOST:PORT"]),
        ("advertise = 'a b'", &["file's advertise", "HOST:PORT"]),
        ("name = 'a b'", &["file's name", "letter"]),
        ("[connections]\nmax = 0", &["connections.max is 0", "default"]),
        ("[connections]\nhold-ms = 99999", &["hold-ms"]),
        ("data = 'd'\nephemeral = true", &["data", "ephemeral", "leave one out"]),
        ("listen = ", &["c.toml", "line 1"]),
    ] {
        fs::write(world.path("work/c.toml"), text).unwrap();
        let done = world.run(&["serve", "--config", "c.toml"]);
        done.expect(1).says(parts);
    }
    world.run(&["serve", "--config", "none.toml"]).expect(1).says(&["none.toml", "No such file"]);
    assert_eq!(world.list("data"), [""; 0], "nothing was made");
}

#[test]
fn what_is_advertised_stands_in_the_credentials() {
    let world = World::new();
    for (advertise, expected) in [
        ("registry.example.org", "registry.example.org:PORT"),
        ("registry.example.org:9", "registry.example.org:9"),
        ("10.0.0.7", "10.0.0.7:PORT"),
        ("2001:db8::1", "[2001:db8::1]:PORT"),
        ("[2001:db8::1]", "[2001:db8::1]:PORT"),
        ("[2001:db8::1]:9", "[2001:db8::1]:9"),
    ] {
        let server =
            world.serve(&["--listen", "0.0.0.0:0", "--advertise", advertise, "--data", "d"]);
        let port = server.address.port().to_string();
        assert_eq!(endpoint(&server), expected.replace("PORT", &port));
        server.running.kill();
    }
}

#[test]
fn a_registrys_name_is_given_once() {
    let world = World::new();
    let args = ["--listen", "127.0.0.1:0", "--data", "d", "--name", "home"];
    let server = world.serve(&args);
    world.ask(&server, &["cred", "show"]).expect(0).prints(&["name       home"]);
    server.stop();
    world.serve(&args).stop();
    let done = world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "d", "--name", "other"]);
    done.expect(1).says(&["named home, not other", "leave --name out"]);
}

/// The version of the schema stands in bytes 60 to 64 of an SQLite file.
#[test]
fn damaged_and_newer_files_are_refused_with_advice_and_left_alone() {
    let world = World::new();
    world.registry().stop();
    let dir = world.path("work/registry");
    let (db, node) = (dir.join("registry.db"), dir.join(".xlattice/node.config"));
    let (good_db, good_node) = (fs::read(&db).unwrap(), fs::read(&node).unwrap());
    let start = || world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "registry"]);

    let mut newer = good_db.clone();
    newer[60..64].copy_from_slice(&99u32.to_be_bytes());
    let half = good_db[..good_db.len() / 2].to_vec();
    for (bytes, parts) in [
        (newer, &["registry.db", "schema version 99", "newer version"][..]),
        (half, &["registry.db", "damaged", "backup"]),
        (vec![0x5A; 8192], &["registry.db", "damaged", "backup"]),
    ] {
        fs::write(&db, &bytes).unwrap();
        start().expect(1).says(parts);
        assert_eq!(fs::read(&db).unwrap(), bytes);
    }
    fs::write(&db, &good_db).unwrap();

    for bytes in [&b""[..], b"node {\n", b"\xFF\xFE\0", &good_node[..good_node.len() / 2]] {
        fs::write(&node, bytes).unwrap();
        start().expect(1).says(&["node.config"]);
        assert_eq!(fs::read(&node).unwrap(), bytes);
    }
    // One half of a directory without the other; the half that is there stays as it is.
    fs::remove_file(&node).unwrap();
    start().expect(1).says(&["not its keys", "node.config is missing"]);
    assert!(!node.exists());
    fs::write(&node, &good_node).unwrap();
    start().expect(1).says(&["others may read it", "chmod 600"]);
    fs::set_permissions(&node, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&db).unwrap();
    fs::write(dir.join("registry.db-wal"), "").unwrap();
    start().expect(1).says(&["its log", "Put the database back"]);
    fs::remove_file(dir.join("registry.db-wal")).unwrap();
    start().expect(1).says(&["not its memory", "registry.db is missing"]);
    assert!(!db.exists());
    fs::write(&db, &good_db).unwrap();

    // Credentials can be made again, so damage to them is none.
    fs::write(&node, &good_node).unwrap();
    fs::write(dir.join("regCred.dat"), "rubbish").unwrap();
    let server = world.registry();
    assert_eq!(endpoint(&server), server.address.to_string());
}

#[test]
fn an_address_that_cannot_be_listened_on_is_told_with_advice() {
    let world = World::new();
    let server = world.registry();
    let taken = server.address.to_string();
    for (listen, parts) in [
        (taken.as_str(), &["already in use", "free port"][..]),
        ("192.0.2.1:0", &["192.0.2.1:0", "no address of this machine"]),
        ("no-such-host.invalid:0", &["no-such-host.invalid", "check the host"]),
    ] {
        world.run(&["serve", "--ephemeral", "--listen", listen]).expect(1).says(parts);
    }
    assert_eq!(world.list("tmp"), [""; 0]);
}

fn json_lines(done: &Done) -> Vec<serde_json::Value> {
    done.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_logs_are_json_lines_and_nothing_else_from_start_to_end() {
    let world = World::new();
    let args = ["--listen", "127.0.0.1:0", "--data", "d", "--log-format", "json", "--log", "debug"];
    let server = world.serve(&args);
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    world.ask(&server, &["cluster", "show", "nope"]).expect(5);
    let second = world.run(&[&["serve"], &args[..]].concat());
    let last = json_lines(second.expect(1)).pop().unwrap();
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().contains("in use by another registry"));
    let lines = json_lines(&server.stop());
    assert!(lines.len() > 3 && lines.iter().all(|line| line["level"].is_string()));
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

#[test]
fn no_key_is_ever_logged() {
    let world = World::new();
    let server = world.serve(&["--listen", "127.0.0.1:0", "--data", "d", "--log", "trace"]);
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let join = ["join", "alpha", "--endpoint", "h:1", "--no-wait", "--identity", "a"];
    world.ask(&server, &join).expect(0);
    let done = server.stop();
    assert!(!done.err.contains("BEGIN") && !done.err.contains("ssh-rsa"));
    for dir in ["work/d", "work/a", "data/xlreg/admin"] {
        for line in key_lines(&world.path(dir)) {
            assert!(!done.err.contains(&line), "{line}");
        }
    }
}

/// A log's reader may end before the server does.
#[test]
fn a_server_whose_log_nobody_reads_any_more_goes_on() {
    let world = World::new();
    let args = ["serve", "--listen", "127.0.0.1:0", "--data", "d", "--log", "trace"];
    let server = Server::ready(Running::unheard(world.xlreg(&args)));
    for _ in 0..2 {
        world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
        world.ask(&server, &["cluster", "show", "nope"]).expect(5);
    }
    server.stop();
}

/// Found by `just abuse`: beyond 1024 connections that came at once, each waited a second.
#[cfg(target_os = "linux")]
#[test]
fn a_burst_of_connections_waits_in_the_kernel() {
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let burst = limit.trim().parse::<usize>().unwrap().min(1_500);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let world = World::new();
    let server = world.registry();
    // It accepts none meanwhile.
    server.running.signal(Signal::SIGSTOP);
    let connect = |_| TcpStream::connect_timeout(&server.address, Duration::from_millis(900));
    let all: Vec<_> = (0..burst).map(connect).collect::<Result<_, _>>().unwrap();
    server.running.signal(Signal::SIGCONT);
    drop(all);
    world.ask(&server, &["cred", "check"]).expect(0);
    server.stop();
}
