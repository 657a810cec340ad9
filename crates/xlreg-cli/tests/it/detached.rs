//! Runs in the background, from their start to `xlreg down`.

use std::collections::BTreeSet;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{Running, World, XLREG, eventually, lives};

#[test]
fn a_detached_run_is_seen_ordered_about_and_stopped() {
    let world = World::new();
    world.run(&["ps"]).expect(0).prints(&["no runs"]);
    world.run(&["down"]).expect(5).says(&["no cluster runs here"]);
    let script = "echo up $XLREG_RANK; exec sleep 600";
    world.detach("alpha", "2", &[], &["sh", "-c", script]);
    eventually("both are up", || world.run(&["logs"]).expect(0).out.lines().count() >= 2);

    world.run(&["ps"]).expect(0).prints(&["alpha", "2 of 2 running", "detached"]);
    world.run(&["ps", "alpha"]).expect(0).prints(&["0     member_0  running", "127.0.0.1:"]);
    world.run(&["ps", "beta"]).expect(5).says(&["no cluster beta", "there is: alpha"]);
    let all = world.run(&["ps", "--output", "json"]).expect(0).json();
    assert_eq!((&all[0]["id"], &all[0]["state"]), (&"alpha".into(), &"2 of 2 running".into()));

    world.run(&["logs", "member_1"]).expect(0).prints(&["member_1 | up 1"]);
    let one = world.run(&["logs", "0", "-c", "alpha", "-n", "1"]);
    assert_eq!(one.expect(0).out, "member_0 | up 0\n");
    world.run(&["logs", "member_2"]).expect(5).says(&["no member member_2", "member_0, member_1"]);

    let order = |words: &[&str], state: &str| {
        world.run(words).expect(0);
        world.until_member("alpha", 1, state);
    };
    order(&["pause", "member_1"], "paused");
    world.run(&["ps"]).expect(0).prints(&["1 of 2 running"]);
    order(&["resume", "1"], "running");
    order(&["kill", "1"], "ended");
    assert_eq!(world.member("alpha", 1)["signal"], 9);
    world.run(&["ps", "alpha"]).expect(0).prints(&["ended (signal 9)"]);
    for words in [&["pause", "1"], &["kill", "member_1"]] {
        world.run(words).expect(1).says(&["member_1 does not run", "signal 9", "restart"]);
    }
    order(&["restart", "member_1"], "running");
    world.run(&["pause", "2"]).expect(5).says(&["no member 2", "member_0, member_1"]);
    world.run(&["pause", "0", "-c", "beta"]).expect(5).says(&["no cluster beta"]);
    let restarted = world.run(&["logs", "member_1"]);
    assert_eq!(restarted.expect(0).out, "member_1 | up 1\n".repeat(2));

    // Whoever follows sees it to its end.
    let following = world.start(&["logs", "-f", "-n", "1", "1"]);
    following.lines("up 1", 1);
    world.down("alpha");
    assert_eq!(following.finish().expect(0).out, "member_1 | up 1\n");
}

/// From all sides, all at once; in the end each is as the last order left it, and all can be stopped.
#[test]
fn orders_that_cross_do_no_harm() {
    let world = World::new();
    world.detach("cross", "2", &[], &["sleep", "600"]);
    let orders = ["kill", "restart", "pause", "resume", "restart"];
    let asked: Vec<_> = (0..3)
        .flat_map(|_| orders.map(|order| [0, 1].map(|rank: usize| (order, rank.to_string()))))
        .flatten()
        .map(|(order, rank)| world.start(&[order, &rank]))
        .collect();
    for done in asked.into_iter().map(Running::finish) {
        let fine = done.code == Some(0)
            || done.err.contains("does not run")
            || done.err.contains("is being restarted already");
        assert!(fine, "{done:?}");
    }
    for rank in ["0", "1"] {
        world.run(&["restart", rank]).expect(0);
        world.until_member("cross", rank.parse().unwrap(), "running");
    }
    let pids = [0, 1].map(|rank| world.member("cross", rank)["pid"].as_i64().unwrap());
    world.down("cross");
    assert!(pids.iter().all(|pid| !lives((*pid).try_into().unwrap())));
}

/// What has ended by itself waits to be looked at.
#[test]
fn an_ended_run_keeps_its_log_until_it_is_cleared_away() {
    let world = World::new();
    let script = "echo $XLREG_RANK says; exit $XLREG_RANK";
    world.detach("brief", "2", &["--on-exit", "ignore"], &["sh", "-c", script]);
    eventually("it has ended", || {
        world.run(&["ps"]).expect(0).out.contains("ended: member_1 failed: exit status: 1")
    });
    let why = "member_1 failed: exit status: 1";
    world.run(&["logs"]).expect(0).prints(&["member_0 | 0 says", "member_1 | 1 says", why]);
    let followed = world.run(&["logs", "-f", "1"]);
    assert_eq!(followed.expect(0).out, "member_1 | 1 says\n");
    world.run(&["kill", "0"]).expect(1).says(&["does not run any more", "xlreg down brief"]);
    let told = world.run(&["ps", "brief", "--output", "json"]).expect(0).json();
    assert!(told["run"].is_null());
    // Its name is not free yet, and another's is another.
    let done =
        world.run(&["run", "-n", "2", "--cluster", "brief", "--detach", "--", "sleep", "600"]);
    assert_eq!(done.expect(0).out, "brief-2\n");
    world.run(&["down", "--all"]).expect(0).says(&["brief is down", "brief-2 is down"]);
    world.is_clean();
}

#[test]
fn a_start_that_fails_says_the_same_as_attached() {
    let world = World::new();
    for (cmd, code) in
        [(&["no-such-program"][..], 1), (&["/"], 1), (&["{nam}"], 1), (&["true", "{nam}"], 2)]
    {
        let flags = ["run", "-n", "2", "--cluster", "same", "--on-exit", "ignore"];
        let attached = world.run(&[&flags[..], &["--"], cmd].concat());
        let detached = world.run(&[&flags[..], &["--detach", "--"], cmd].concat());
        attached.expect(code);
        detached.expect(code);
        let last = |err: &str| {
            err.lines().rfind(|line| line.starts_with("xlreg: cannot")).map(str::to_owned)
        };
        assert_eq!(last(&attached.err), last(&detached.err));
        world.run(&["down", "--all"]).expect(0);
        world.is_clean();
    }
}

/// Its terminal and its shell are gone by then.
#[test]
fn what_hits_its_starters_group_does_not_hit_a_detached_run() {
    let world = World::new();
    let script = format!(
        "{XLREG} run -n 2 --cluster far --detach -- sleep 600; echo started; exec sleep 600"
    );
    let shell = Running::start(world.shell(&script));
    shell.lines("started", 1);
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGKILL] {
        let _gone = killpg(Pid::from_raw(shell.pid().cast_signed()), signal);
    }
    shell.finish();
    world.run(&["ps"]).expect(0).prints(&["far", "2 of 2 running"]);
    world.down("far");
}

#[test]
fn twenty_runs_at_once_do_not_collide() {
    let world = World::new();
    let flags = ["--cluster", "same", "--address", "own", "--port", "7071", "--timeout", "2m"];
    let cmd = ["--", "sh", "-c", "echo $XLREG_ENDPOINT $XLREG_RUN"];
    let all: Vec<_> =
        (0..20).map(|_| world.start(&[&["run", "-n", "2"], &flags[..], &cmd].concat())).collect();
    let mut places = BTreeSet::new();
    for done in all.into_iter().map(Running::finish) {
        for line in done.expect(0).out.lines() {
            let (endpoint, dir) = line.split_once(" | ").unwrap().1.split_once(' ').unwrap();
            assert!(endpoint.ends_with(":7071"));
            places.insert((endpoint.to_owned(), dir.to_owned()));
        }
    }
    assert_eq!(places.len(), 40);
    world.is_clean();
}
