//! The two doors of `xlreg serve`, and what a client is told that may not come in, or not now.

use std::fs;

use crate::support::{Running, Server, World};

const CREATE: [&str; 5] = ["cluster", "create", "alpha", "-n", "2"];

#[test]
fn the_old_door_is_open_on_loopback_unless_it_is_shut_and_the_log_says_which() {
    let world = World::new();
    fs::write(world.path("work/shut.toml"), "[access]\nlegacy = false\n").unwrap();
    let ask = |server: &Server, args: &[&str]| world.ask(server, &[&CREATE[..], args].concat());
    for (flags, open) in [
        (&[][..], true),
        (&["--legacy"], true),
        (&["--no-legacy"], false),
        (&["--config", "shut.toml"], false),
        (&["--config", "shut.toml", "--legacy"], true),
        // The last of the two counts, as for a script that adds to what it was given.
        (&["--legacy", "--no-legacy"], false),
        (&["--no-legacy", "--legacy"], true),
    ] {
        let args = ["--listen", "127.0.0.1:0", "--data", "registry"];
        let server = world.serve(&[&args[..], flags].concat());
        ask(&server, &[]).expect(0);
        for dialect in ["1.8", "1.9"] {
            let done = ask(&server, &["--dialect", dialect]);
            if open {
                done.expect(0);
            } else {
                done.expect(3).says(&["hung up on our hello", "hint: ", "--dialect, or none"]);
            }
        }
        let log = server.stop().err;
        assert_eq!(log.contains("the old wire is served, too"), open, "{flags:?}: {log}");
        let shut = ["the old wire is not served", "need --legacy", "was turned away; --legacy"];
        assert!(shut.iter().all(|part| log.contains(part) != open), "{flags:?}: {log}");
    }
}

/// A registry that was made anew at the old address, or somebody in its place.
#[test]
fn a_registry_with_another_key_is_not_talked_to() {
    let world = World::new();
    let server = world.registry();
    let other = world.serve(&["--listen", "127.0.0.1:0", "--data", "other"]);
    let print = |server: &Server| {
        let shown = world.ask(server, &["cred", "show", "--output", "json"]).expect(0).json();
        shown["sig_key_sha256"].as_str().unwrap().to_owned()
    };
    let (expected, got) = (print(&other), print(&server));
    let text = fs::read_to_string(&other.credentials).unwrap();
    let address = server.address.to_string();
    let text = text.replace(&other.address.to_string(), &address);
    fs::write(world.path("work/forged"), text).unwrap();
    for args in [
        &CREATE[..],
        &["cluster", "list"],
        &["cluster", "show", "alpha"],
        &["cluster", "wait", "alpha"],
        &["cluster", "watch", "alpha"],
        &["cluster", "delete", "alpha"],
        &["token", "list", "alpha"],
        &["join", "alpha", "--endpoint", "h:1"],
        &["leave", "alpha", "--name", "node_h_1"],
        &["cred", "export"],
    ] {
        let mut command = world.xlreg(args);
        command.env("XLREG_REGISTRY", "forged");
        let done = Running::start(command).finish();
        done.expect(3).says(&[
            &address,
            &format!("has sig key sha256 {got}"),
            &format!("the registry you mean has sha256 {expected}"),
            "get its credentials or an invitation again",
        ]);
        assert_eq!(done.out, "");
    }
    let created = world.ask(&server, &["cluster", "list"]);
    assert_eq!(created.expect(0).out, "no clusters\n", "nothing was asked of the wrong one");
}

#[test]
fn whoever_wants_more_than_one_may_have_is_told_how_much_and_when_to_try_again() {
    let world = World::new();
    let serve = |limits: &str, data: &str| {
        fs::write(world.path("work/few.toml"), limits).unwrap();
        let args = ["--listen", "127.0.0.1:0", "--data", data, "--config", "few.toml"];
        world.serve(&args)
    };
    let server = serve("[limits]\nclusters-per-key-max = 1\n", "few");
    let ask = |args: &[&str]| world.ask(&server, args);
    ask(&CREATE).expect(0);
    let second = ask(&["cluster", "create", "beta", "-n", "2"]);
    second.expect(4).says(&[
        "creating cluster beta",
        "this key has 1 clusters already",
        "; try again in 30 s",
        "hint: clusters that you delete make room: xlreg cluster list --mine",
    ]);
    ask(&["cluster", "delete", "alpha"]).expect(0);
    ask(&["cluster", "create", "beta", "-n", "2"]).expect(0);

    // The second request of one command comes too soon; unless the machine is too busy for that.
    let server = serve("[modern]\nrequests-per-second = 1\nrequests-burst = 1\n", "slow");
    let hasty = (0..100).map(|_| world.ask(&server, &CREATE)).find(|done| done.code != Some(0));
    let hasty = hasty.unwrap();
    hasty.expect(4).says(&["too many requests in too short a time; try again in "]);
    assert!(hasty.err.trim_end().ends_with('s'), "{}", hasty.err);
}
