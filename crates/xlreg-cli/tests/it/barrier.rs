//! No program starts before all have the roster; and if it can't be, who is missing, and why.

use nix::sys::signal::Signal;

use crate::support::{World, XLREG, lives};

/// A registry that does not answer any more is found out in time, and nothing is left.
#[test]
fn a_registry_that_hangs_is_waited_for_no_longer_than_told() {
    let world = World::new();
    let server = world.registry();
    let credentials = server.credentials.to_str().unwrap().to_owned();
    let started = ["run", "-n", "2", "--registry", &credentials];
    let done = world.run(&[&started[..], &["--cluster", "good", "--", "echo", "up"]].concat());
    done.expect(0).prints(&["member_0 | up", "member_1 | up"]);
    server.running.signal(Signal::SIGSTOP);
    let late = ["--timeout", "500ms", "--", "touch", "started"];
    let done = world.run(&[&started[..], &late].concat());
    done.expect(7).says(&["0 of 2 members", "missing: member_0, member_1", "not answered"]);

    // While it is waited for, it can be seen and stopped; but nothing can be done with a member.
    let args = ["--cluster", "waits", "--detach", "--timeout", "1h", "--", "touch", "started"];
    let waiting = world.start(&[&started[..], &args].concat());
    crate::support::eventually("it is there", || {
        world.run(&["ps", "--output", "json"]).expect(0).json()[0]["state"] == "starting"
    });
    world.run(&["pause", "0"]).expect(1).says(&["being formed"]);
    world.run(&["logs"]).expect(5).says(&["no log"]);
    world.run(&["down"]).expect(0).says(&["waits is down"]);
    let done = waiting.finish();
    done.expect(130).says(&["stopped by xlreg down"]);
    assert_eq!(done.out, "");
    server.running.signal(Signal::SIGCONT);
    server.stop();

    let done = world.run(&[&started[..], &["--", "touch", "started"]].concat());
    done.expect(3).says(&["cannot reach the registry"]);
    let done = world.run(&["run", "-n", "2", "--registry", "none", "--", "touch", "started"]);
    done.expect(1).says(&["none", "xlreg serve"]);
    assert!(!world.path("work/started").exists());
    world.is_clean();
}

#[test]
fn programs_that_join_by_themselves_find_all_they_need() {
    let world = World::new();
    let script = format!(
        "{XLREG} join $XLREG_CLUSTER --endpoint 127.0.0.1:$((7000 + ${{XLREG_NAME#member_}})) \
         -- sh -c 'echo $XLREG_RANK of $XLREG_SIZE; exec sleep 600'"
    );
    let cmd = ["--self-join", "--", "sh", "-c", &script];
    let running = world.start(&[&["run", "-n", "2"], &cmd[..]].concat());
    running.lines(" of 2", 2);
    running.until_says("all joined");
    running.signal(Signal::SIGINT);
    let done = running.finish();
    done.expect(130);
    assert!(done.out.contains("| 0 of 2") && done.out.contains("| 1 of 2"), "{done:?}");
    world.is_clean();
}

#[test]
fn who_never_joins_is_named_and_nobody_goes_on() {
    let world = World::new();
    let script = format!(
        "echo pid $$; test $XLREG_NAME = member_1 && exec sleep 600; \
         exec {XLREG} join $XLREG_CLUSTER --endpoint 127.0.0.1:7001"
    );
    let cmd = ["--self-join", "--timeout", "2s", "--", "sh", "-c", &script];
    let done = world.run(&[&["run", "-n", "2"], &cmd[..]].concat());
    done.expect(7).says(&["1 of 2 members", "joined: member_0", "missing: member_1"]);
    for line in done.out.lines().filter_map(|line| line.split_once("pid ")) {
        assert!(!lives(line.1.parse().unwrap()));
    }
    let done = world.run(&["run", "-n", "2", "--self-join", "--", "true"]);
    done.expect(7).says(&["ended before all joined"]);
    world.is_clean();
}
