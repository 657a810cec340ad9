//! `xlreg id rotate` and `xlreg cred export`: keys that change, and one for tools of others.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{World, XLREG};

fn copy(world: &World, from: &str, to: &str) {
    let copied = Command::new("cp").args(["-r"]).args([world.path(from), world.path(to)]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_rotated_member_is_the_same_member_and_its_old_key_is_of_no_use() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    ask(&["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let enter = |who: &str, dir: &str| {
        let args = ["join", "alpha", "--name", who, "--identity", dir, "--endpoint", "h:1"];
        ask(&[&args[..], &["--no-wait", "--output", "json"]].concat())
    };
    enter("a", "a").expect(0);
    let before = enter("b", "b").expect(0).json();
    copy(&world, "work/b", "work/old");

    let rotated = ask(&["id", "rotate", "b", "--output", "json"]).expect(0).json();
    let after = enter("b", "b").expect(0).json();
    let member = |roster: &Value, key: &str| roster["members"][1][key].clone();
    for key in ["id", "name", "rank", "endpoints"] {
        assert_eq!(member(&after, key), member(&before, key));
    }
    for key in ["sig_key", "comms_key"] {
        assert_ne!(member(&after, key), member(&before, key));
        assert_eq!(member(&after, key), rotated[key]);
    }
    assert_eq!(rotated["id"], member(&before, "id"));
    assert!(!world.list("work/b/.xlattice").iter().any(|file| file.ends_with(".next")));
    let shown = world.run(&["id", "show", "b", "--output", "json"]).expect(0).json();
    assert_eq!(shown, rotated);

    let old = ["--identity", "old"];
    enter("b", "old").expect(4).says(&["this key was retired", "hint: ", "xlreg id rotate"]);
    for args in
        [&["cluster", "show", "alpha"][..], &["cluster", "list"], &["cluster", "watch", "alpha"]]
    {
        ask(&[args, &old].concat()).expect(4).says(&["this key was retired"]);
    }
    ask(&["id", "rotate", "old"]).expect(4).says(&["rotating the keys in old", "was retired"]);
    // Refused, it has changed nothing.
    assert_eq!(enter("b", "b").expect(0).json(), after);

    // An owner stays one.
    let admin = world.path("data/xlreg/admin");
    let human = ask(&["id", "rotate", admin.to_str().unwrap()]);
    human.expect(0).prints(&["sig key    sha256 "]).says(&["old keys are of no use"]);
    ask(&["cluster", "delete", "alpha"]).expect(0);

    ask(&["id", "rotate", "none"]).expect(5).says(&["no identity in none", "xlreg id new none"]);
    let old_wire = ask(&["id", "rotate", "b", "--dialect", "1.9"]);
    old_wire.expect(4).says(&["has no rotation of keys", "leave out --dialect"]);
}

/// Cut off before the registry hears of it, it is finished by running it again, with the keys that
/// were written first.
#[test]
fn a_rotation_that_was_cut_off_is_finished_by_the_next() {
    let world = World::new();
    let server = world.serve(&["--listen", &crate::support::own_address(), "--data", "d"]);
    let address = server.address.to_string();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let join =
        ["join", "alpha", "--name", "a", "--identity", "a", "--endpoint", "h:1", "--no-wait"];
    world.ask(&server, &join).expect(0);
    let before = world.run(&["id", "show", "a", "--output", "json"]).expect(0).json();
    let credentials = server.credentials.clone();
    server.stop();
    let rotate = || {
        let mut command = world.xlreg(&["id", "rotate", "a", "--output", "json"]);
        command.env("XLREG_REGISTRY", &credentials);
        crate::support::Running::start(command).finish()
    };
    rotate().expect(3).says(&["rotating the keys in a", "cannot reach the registry"]);
    let next = world.path("work/a/.xlattice/node.config.next");
    let staged = fs::read(&next).unwrap();
    assert_eq!(world.run(&["id", "show", "a", "--output", "json"]).expect(0).json(), before);

    let server = world.serve(&["--listen", &address, "--data", "d"]);
    let after = rotate().expect(0).json();
    assert_ne!(after["sig_key"], before["sig_key"]);
    assert_eq!(fs::read(world.path("work/a/.xlattice/node.config")).unwrap(), staged);
    assert!(!next.exists());
    world.ask(&server, &join).expect(0).prints(&[after["id"].as_str().unwrap()]);
}

/// PEM of a certificate of the very key that the credentials pin; `interop` has openssl and others
/// check the registry by it.
#[test]
fn the_exported_certificate_is_the_one_that_stock_tools_check_the_registry_by() {
    let world = World::new();
    let server = world.registry();
    let pem = world.ask(&server, &["cred", "export"]);
    pem.expect(0);
    assert_eq!(pem.err, "");
    assert_eq!(pem.out.matches("BEGIN CERTIFICATE").count(), 1);
    fs::write(world.path("work/root.pem"), &pem.out).unwrap();
    let (label, der) = pem_rfc7468::decode_vec(pem.out.as_bytes()).unwrap();
    assert_eq!(label, "CERTIFICATE");
    let export = format!("{XLREG} cred export --format der > root.der");
    let mut shell = world.shell(&export);
    shell.env("XLREG_REGISTRY", &server.credentials);
    assert!(shell.status().unwrap().success());
    assert_eq!(fs::read(world.path("work/root.der")).unwrap(), der);
    let shown = world.ask(&server, &["cred", "show", "--output", "json"]).expect(0).json();
    let key = xlreg_proto::text::sshkey::decode(shown["sig_key"].as_str().unwrap()).unwrap();
    assert!(der.windows(key.der().len()).any(|part| part == key.der()));

    world.run(&["cred", "export"]).expect(2).says(&["XLREG_REGISTRY", "Usage: xlreg cred export"]);
    world.run(&["cred", "export", "none"]).expect(1).says(&["none", "No such file"]);
    let old =
        fs::read_to_string(&server.credentials).unwrap().replace("Version: 2.0", "Version: 1.9.24");
    fs::write(world.path("work/old"), old).unwrap();
    world.run(&["cred", "export", "old"]).expect(4).says(&["has no certificates", "version 2"]);
    let file = server.credentials.to_str().unwrap().to_owned();
    let address = server.address.to_string();
    server.stop();
    world.run(&["cred", "export", &file]).expect(3).says(&[&address, "is it running"]);
}
