//! `cluster export` and `run --tls`: what other programs are given, and what is never overwritten.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use xlreg_proto::text::{MemberFile, NodeFile};

use crate::support::{Done, Running, Server, World, XLREG};

/// A world with a registry, and a cluster of `a` and `b`.
fn alpha() -> (World, Server) {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "--size", "2"]).expect(0);
    join(&world, &server, "a", "4001");
    join(&world, &server, "b", "4002");
    (world, server)
}

fn join(world: &World, server: &Server, name: &str, port: &str) {
    let endpoint = format!("127.0.0.1:{port}");
    let args = ["join", "alpha", "--name", name, "--endpoint", &endpoint, "--no-wait"];
    world.ask(server, &[&args[..], &["--identity", name]].concat()).expect(0);
}

/// An export of `a`, with these arguments added.
fn export(world: &World, server: &Server, args: &[&str]) -> Done {
    let all = ["cluster", "export", "alpha", "--identity", "a"];
    world.ask(server, &[&all, args].concat())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The three files, of which the key is its owner's alone whatever the directory and umask are.
#[test]
fn pem_files_are_written_anew_each_time_and_the_key_is_private() {
    let (world, server) = alpha();
    let out = world.path("work/out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    let args = ["cluster", "export", "alpha", "--identity", "a", "--format", "pem", "out"];
    let script = format!("umask 0; exec {XLREG} \"$@\"");
    let mut command = world.shell(&script);
    command.arg("sh").args(args).env("XLREG_REGISTRY", &server.credentials);
    let done = Running::start(command).finish();
    done.expect(0).prints(&["a, rank 0 of cluster alpha; good until 20"]);
    done.prints(&[&format!("  {}  (private)\n", out.join("key.pem").display())]);
    let key = out.join("key.pem").display().to_string();
    done.says(&[&format!("--key {key} "), "https://127.0.0.1:4002/", "redis-server", "etcd"]);

    assert_eq!(mode(&out.join("key.pem")), 0o600);
    assert!(read(&out.join("key.pem")).starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let bundle = read(&out.join("roster-ca.pem"));
    assert_eq!(bundle.matches("-----BEGIN CERTIFICATE-----\n").count(), 3, "a, b and their root");
    let before = read(&out.join("cert.pem"));

    let done = export(&world, &server, &["--format", "pem", "out", "--output", "json"]);
    let json = done.expect(0).json();
    assert_eq!(done.err, "", "no hints for programs");
    assert_eq!(
        (&json["cluster"], &json["name"], &json["rank"]),
        (&"alpha".into(), &"a".into(), &0.into())
    );
    assert_eq!(json["complete"], true);
    assert_eq!(json["files"][1]["path"], key);
    assert_eq!(json["files"][1]["private"], true);
    assert!(json["valid_until"].as_str().unwrap().ends_with('Z'));
    assert_ne!(read(&out.join("cert.pem")), before);

    // The key is the member's sig key, which nothing but the two files has.
    let node = NodeFile::parse(&read(&world.path("work/a/.xlattice/node.config"))).unwrap();
    let pkcs8 = xlreg_proto::text::pem::encode("PRIVATE KEY", &node.sig_key.pkcs8());
    assert_eq!(read(&out.join("key.pem")), *pkcs8);
}

/// Whoever gets the files can check whom they trust. By the old wire there is no such roster, and
/// offline nobody to ask.
#[test]
fn the_signed_roster_is_beside_what_rests_on_it() {
    let (world, server) = alpha();
    let credentials = server.credentials.to_str().unwrap();
    for format in ["pem", "json", "env", "ssh", "xlattice"] {
        let done = export(&world, &server, &["--format", format, format, "--output", "json"]);
        let files = done.expect(0).json()["files"].take();
        let signed = world.path("work").join(format).join("roster.signed");
        let path = signed.to_str().unwrap();
        let listed = serde_json::json!({ "path": path, "private": false });
        assert_eq!(*files.as_array().unwrap().last().unwrap(), listed);
        let done = world.run(&["cluster", "verify", path, "--registry", credentials]);
        done.expect(0).prints(&["127.0.0.1:4001", "127.0.0.1:4002"]);
    }
    // One that was altered since is somebody's, and stays.
    let altered = world.path("work/pem/roster.signed");
    fs::write(&altered, read(&altered).replace(":4001", ":4009")).unwrap();
    export(&world, &server, &["--format", "pem", "pem"]).expect(8).says(&["roster.signed"]);
    for (dir, flags) in [("old", ["--dialect", "1.9"].as_slice()), ("offline", &["--offline"])] {
        // As a was alone when it came.
        join(&world, &server, "a", "4001");
        export(&world, &server, &[&["--format", "pem", dir], flags].concat()).expect(0);
        assert!(!world.path("work").join(dir).join("roster.signed").exists());
    }
}

/// What a shell reads from the file of variables is what it says, whatever the directory is called.
#[test]
fn variables_and_json_say_where_everything_is() {
    let (world, server) = alpha();
    let odd = "it's $HOME, `odd` \"and\" \\so";
    export(&world, &server, &["--format", "env", odd]).expect(0).says(&["EnvironmentFile="]);
    let script = ". \"$1/xlreg.env\"; printf '%s\\n' \"$XLREG_CERT\" \"$XLREG_RANK $XLREG_NAME $XLREG_SIZE \
                  $XLREG_PORT\"; test -s \"$XLREG_KEY\" && test -s \"$XLREG_ROSTER_CA\" && cat \"$XLREG_ROSTER\"";
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh", odd]).current_dir(world.path("work"));
    let done = Running::start(shell).finish();
    let (cert, rest) = done.expect(0).out.split_once('\n').unwrap();
    assert_eq!(Path::new(cert), world.path("work").join(odd).join("cert.pem"));
    let (own, roster) = rest.split_once('\n').unwrap();
    assert_eq!(own, "0 a 2 4001");
    let roster: Value = serde_json::from_str(roster).unwrap();
    assert_eq!(roster["members"][1]["name"], "b");

    export(&world, &server, &["--format", "json", "out"]).expect(0);
    let out = world.path("work/out");
    let json: Value = serde_json::from_str(&read(&out.join("member.json"))).unwrap();
    assert_eq!(json["member"]["name"], "a");
    assert_eq!(json["certificate"], read(&out.join("cert.pem")));
    assert_eq!(json["roster_ca"], read(Path::new(json["roster_ca_file"].as_str().unwrap())));
    assert_eq!(json["members"], roster["members"]);
    assert!(!json.to_string().contains("PRIVATE"));
}

/// The roster that is kept is enough, and the same for whoever asks by whichever door.
#[test]
fn all_doors_and_no_door_give_the_same_files() {
    let (world, server) = alpha();
    // As a was alone when it came.
    let join = ["join", "alpha", "--name", "a", "--endpoint", "127.0.0.1:4001", "--identity", "a"];
    world.ask(&server, &join).expect(0);
    let files = |dir: &str| -> Vec<_> {
        ["known_hosts", "authorized_keys", "ssh_key", "ssh_key.pub"]
            .map(|name| read(&world.path("work").join(dir).join(name)))
            .into()
    };
    for (dir, flags) in [
        ("modern", [].as_slice()),
        ("new", &["--dialect", "1.9"]),
        ("old", &["--dialect", "1.8"]),
        ("offline", &["--offline"]),
    ] {
        let done = export(&world, &server, &[&["--format", "ssh", dir], flags].concat());
        done.expect(0).says(&["-o StrictHostKeyChecking=yes", ".xlreg", "HostKey /"]);
        assert_eq!(files(dir), files("modern"), "{dir}");
    }
    assert_eq!(mode(&world.path("work/offline/ssh_key")), 0o600);

    export(&world, &server, &["--format", "xlattice", "x1"]).expect(0);
    server.stop();
    let offline = ["cluster", "export", "alpha", "--identity", "a", "--offline", "--format"];
    world.run(&[&offline[..], &["xlattice", "x2"]].concat()).expect(0);
    let mut pair = ["x1", "x2"].map(|dir| {
        let dir = world.path("work").join(dir).join(".xlattice");
        let node = NodeFile::parse(&read(&dir.join("node.config"))).unwrap();
        let member = MemberFile::parse(&read(&dir.join("cluster.member.config"))).unwrap();
        assert_eq!(member.node.sig_key.public(), node.sig_key.public());
        assert_eq!(member.node.peers.len(), 1, "the registry");
        member
    });
    let lfs = pair[0].node.lfs.clone();
    pair[1].node.lfs = lfs;
    assert_eq!(pair[0].to_text(), pair[1].to_text());
    world.run(&[&offline[..], &["pem", "out"]].concat()).expect(0);
    let asking = ["cluster", "export", "alpha", "--identity", "a", "--format", "pem", "o"];
    world.run(&asking).expect(3).says(&["cannot reach the registry"]);
    fs::remove_file(world.path("work/a/registry.dat")).unwrap();
    world.run(&asking).expect(2).says(&["--registry CRED", "--offline"]);
}

/// Who is missing is named, and nothing is written without being asked for.
#[test]
fn incomplete_clusters_are_refused_unless_asked_for() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "--size", "3"]).expect(0);
    join(&world, &server, "a", "4001");
    join(&world, &server, "b", "4002");
    for flags in [[].as_slice(), &["--offline"]] {
        let done = export(&world, &server, &[&["--format", "pem", "out"], flags].concat());
        done.expect(7).says(&["of 3 members; still missing", "joined: a", "--incomplete"]);
        assert!(!world.path("work/out").exists());
    }
    let args = ["--format", "pem", "out", "--incomplete", "--output", "json"];
    let done = export(&world, &server, &args);
    assert_eq!(done.expect(0).json()["complete"], false);
    let bundle = read(&world.path("work/out/roster-ca.pem"));
    assert_eq!(bundle.matches("-----BEGIN CERTIFICATE-----\n").count(), 3, "a, b and their root");
}

/// Whoever is no member gets nothing, and is told what would help.
#[test]
fn who_is_no_member_is_told_so() {
    let (world, server) = alpha();
    let ask = |args: &[&str]| world.ask(&server, &[&["cluster", "export"], args].concat());
    world.run(&["id", "new", "stranger"]).expect(0);
    let done = ask(&["alpha", "--identity", "stranger", "--format", "pem", "out"]);
    done.expect(5).says(&["is not a member of cluster alpha", "(a, b)", "--identity"]);
    let done = ask(&["beta", "--identity", "a", "--format", "pem", "out"]);
    done.expect(5).says(&["exporting a member of cluster beta", "cannot find cluster"]);
    let done = ask(&["beta", "--identity", "a", "--format", "pem", "out", "--offline"]);
    done.expect(5).says(&["is of another cluster, alpha ("]);
    let done = ask(&["alpha", "--identity", "nowhere", "--format", "pem", "out"]);
    done.expect(5).says(&["there is no identity in nowhere"]);
    let done = ask(&["alpha", "--format", "pem", "out"]);
    done.expect(5).says(&["no member of cluster alpha is kept in", "--identity"]);
    let done = ask(&["alpha", "--identity", "stranger", "--format", "pem", "out", "--offline"]);
    done.expect(5).says(&["there is no stranger/roster.json", "leave out --offline"]);

    fs::set_permissions(world.path("work/a/roster.json"), fs::Permissions::from_mode(0o666))
        .unwrap();
    let done = export(&world, &server, &["--format", "pem", "out", "--offline"]);
    done.expect(1).says(&["a/roster.json says whom to trust, and others may write to it"]);
    fs::write(world.path("work/a/roster.json"), "{}").unwrap();
    fs::set_permissions(world.path("work/a/roster.json"), fs::Permissions::from_mode(0o644))
        .unwrap();
    let done = export(&world, &server, &["--format", "pem", "out", "--offline"]);
    done.expect(1).says(&["a/roster.json holds no roster that can be", "ask the registry"]);
    assert!(!world.path("work/out").exists());

    server.stop();
    let credentials = world.path("work/registry/regCred.dat").display().to_string();
    let args = ["--format", "pem", "out", "--registry", &credentials];
    let all = ["cluster", "export", "alpha", "--identity", "a"];
    world.run(&[&all[..], &args].concat()).expect(3).says(&["cannot reach the registry"]);
}

#[test]
fn what_can_not_be_asked_for_is_misuse() {
    let (world, server) = alpha();
    for (args, said) in [
        (["--format", "ssh", "out", "--valid", "1d"].as_slice(), "--valid is about certificates"),
        (&["--format", "pem", "out", "--valid", "0s"], "before it began"),
        (&["--format", "pem", "out", "--valid", "2y"], "more than a year"),
        (&["--format", "der", "out"], "pem, json, env, ssh, xlattice"),
        (&["--format", "pem"], "<DIR>"),
        (&["out"], "--format"),
        (&["--format", "ssh", "two words"], "OpenSSH's configuration"),
        (&["--format", "ssh", "100%"], "OpenSSH's configuration"),
        (&["--format", "pem", "two\nlines"], "control characters"),
    ] {
        export(&world, &server, args).expect(2).says(&[said]);
    }
    let mut command = world.asking(&server, &["cluster", "export", "alpha", "--identity", "a"]);
    command.args(["--format", "pem"]).arg(OsStr::from_bytes(b"\xff"));
    Running::start(command).finish().expect(2).says(&["is not UTF-8"]);
    export(&world, &server, &["--format", "pem", "out", "--valid", "1h"]).expect(0);
}

/// A directory that has such files of somebody else's keeps them.
#[test]
fn files_of_others_are_never_overwritten() {
    let (world, server) = alpha();
    let dir = world.path("work/.ssh");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("authorized_keys"), "ssh-rsa AAAA me\n").unwrap();
    let done = export(&world, &server, &["--format", "ssh", ".ssh"]);
    done.expect(8).says(&[".ssh/authorized_keys is there already", "name another directory"]);
    assert_eq!(world.list("work/.ssh"), ["authorized_keys"]);

    // Nor what somebody has added to ours since.
    export(&world, &server, &["--format", "ssh", "out"]).expect(0);
    export(&world, &server, &["--format", "ssh", "out"]).expect(0);
    let hosts = world.path("work/out/known_hosts");
    let more = read(&hosts) + "elsewhere ssh-rsa AAAA\n";
    fs::write(&hosts, &more).unwrap();
    export(&world, &server, &["--format", "ssh", "out"]).expect(8).says(&["known_hosts"]);
    assert_eq!(read(&hosts), more);

    // Nor another node's identity.
    let node = read(&world.path("work/b/.xlattice/node.config"));
    export(&world, &server, &["--format", "xlattice", "b"]).expect(8).says(&["node.config"]);
    assert_eq!(read(&world.path("work/b/.xlattice/node.config")), node);
}

#[test]
fn where_nothing_can_be_written_the_file_is_named() {
    let (world, server) = alpha();
    fs::write(world.path("work/file"), "").unwrap();
    for dir in ["file", "file/below", "/proc/nobody"] {
        let done = export(&world, &server, &["--format", "pem", dir]);
        done.expect(1).says(&[dir, "see that you may write there and that there is room"]);
    }
    // As on a disk that is full: no file can grow.
    export(&world, &server, &["--format", "pem", "out"]).expect(0);
    let before = read(&world.path("work/out/cert.pem"));
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {XLREG} \"$@\"");
    let mut command = world.shell(&script);
    command.args(["sh", "cluster", "export", "alpha", "--identity", "a", "--format", "pem", "out"]);
    command.env("XLREG_REGISTRY", &server.credentials);
    let done = Running::start(command).finish();
    done.expect(1).says(&["writing ", "that there is room"]);
    assert_eq!(read(&world.path("work/out/cert.pem")), before);
    let mut files = world.list("work/out");
    files.sort();
    assert_eq!(
        files,
        [".xlreg-export.json", "cert.pem", "key.pem", "roster-ca.pem", "roster.signed"]
    );
}

/// Each program of a run finds its three files, by placeholder and by variable.
#[test]
fn run_with_tls_gives_each_its_files() {
    let world = World::new();
    let script = "test $XLREG_CERT:$XLREG_KEY:$XLREG_ROSTER_CA = {cert}:{key}:{roster_ca} &&
                  cd {dir} && stat -c '%a %n' cert.pem key.pem roster-ca.pem &&
                  grep -c BEGIN {roster_ca}";
    for flags in [[].as_slice(), &["--address", "own", "--endpoints", "2"]] {
        let run = ["run", "-n", "3", "--tls"];
        let done = world.run(&[&run, flags, &["--", "sh", "-c", script]].concat());
        done.expect(0);
        for rank in 0..3 {
            for line in ["644 cert.pem", "600 key.pem", "644 roster-ca.pem", "4"] {
                done.prints(&[&format!("member_{rank} | {line}\n")]);
            }
        }
    }
    // Without it there are no such variables, not even our caller's.
    let script = "echo got=$XLREG_CERT$XLREG_KEY$XLREG_ROSTER_CA";
    let mut command = world.xlreg(&["run", "-n", "2", "--", "sh", "-c", script]);
    command.envs([("XLREG_CERT", "x"), ("XLREG_KEY", "x"), ("XLREG_ROSTER_CA", "x")]);
    Running::start(command).finish().expect(0).prints(&["member_0 | got=\n"]);
    world.is_clean();
}

/// A kept cluster's certificates are made anew each time, of the same keys.
#[test]
fn run_with_tls_and_keep_renews_certificates() {
    let world = World::new();
    let file = |name: &str| read(&world.path("work/kept/member_1").join(name));
    let run = ["run", "-n", "2", "--keep", "kept", "--tls", "--", "true"];
    world.run(&run).expect(0);
    let before = ["cert.pem", "key.pem"].map(file);
    world.run(&run).expect(0);
    let after = ["cert.pem", "key.pem"].map(file);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1], after[1]);
}

#[test]
fn run_refuses_what_tls_can_not_be_with() {
    let world = World::new();
    fs::write(world.path("work/t"), "").unwrap();
    let own = "--template: ";
    for (args, said) in [
        (["--self-join", "--tls"].as_slice(), "xlreg cluster export $XLREG_CLUSTER --format pem"),
        (&["--ready", "https://{endpoint}/"], "https:// can be tried only with --tls"),
        (&["--env", "K={key}"], "members have files for TLS only with --tls"),
        (&["--tls", "--env", "K={peers , {key}}"], "can't be in a list"),
        (&["--tls", "--template", "t=key.pem"], "is where --tls puts a file of its own"),
        (&["--tls", "--template", "t=cert.pem"], own),
        (&["--tls", "--template", "t={roster_ca}"], own),
    ] {
        let done = world.run(&[&["run", "-n", "2"], args, &["--", "true"]].concat());
        done.expect(2).says(&[said]);
    }
    world.is_clean();
}

/// After a rotation of keys, the files are of the new ones.
#[test]
fn what_is_exported_follows_a_rotation() {
    let (world, server) = alpha();
    // So that it keeps a roster with both.
    join(&world, &server, "a", "4001");
    let exported = |dir: &str| {
        export(&world, &server, &["--format", "pem", dir]).expect(0);
        ["key.pem", "roster-ca.pem"].map(|name| read(&world.path("work").join(dir).join(name)))
    };
    let before = exported("one");
    world.ask(&server, &["id", "rotate", "a"]).expect(0);
    let after = exported("two");
    assert_ne!(before[0], after[0]);
    let exported = export(&world, &server, &["--format", "pem", "one", "--offline"]);
    exported.expect(5).says(&["is not a member of cluster alpha", "then leave out --offline"]);
}
