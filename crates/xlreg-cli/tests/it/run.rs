//! `xlreg run`: what its programs find, and that nothing of it stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Running, World, XLREG};

/// The main command of the README: a place and the same roster for everybody.
#[test]
fn each_program_finds_its_place_and_all_find_the_same_roster() {
    let world = World::new();
    let script = "echo I am $XLREG_NAME, rank $XLREG_RANK of $XLREG_SIZE; \
                  env > $OUT/$XLREG_RANK.env; cp $XLREG_ROSTER $OUT/$XLREG_RANK.json; \
                  test -d $XLREG_DIR/.xlattice";
    let mut command = world.xlreg(&["run", "-n", "3", "--", "sh", "-c", script]);
    // As if the launcher itself were the program of a member with two endpoints.
    command.env("XLREG_ENDPOINT1", "h:1").env("XLREG_HOST1", "h").env("XLREG_PORT1", "1");
    command.env("OUT", world.path("work"));
    let done = Running::start(command).finish();
    done.expect(0);
    let said: BTreeSet<_> = done.out.lines().collect();
    let expected =
        [0, 1, 2].map(|rank| format!("member_{rank} | I am member_{rank}, rank {rank} of 3"));
    assert_eq!(said, expected.iter().map(String::as_str).collect());

    let rosters = ["0.json", "1.json", "2.json"]
        .map(|name| fs::read_to_string(world.path("work").join(name)).unwrap());
    assert!(rosters.iter().all(|roster| *roster == rosters[0]));
    let roster: Value = serde_json::from_str(&rosters[0]).unwrap();
    assert_eq!((&roster["complete"], &roster["size"]), (&true.into(), &3.into()));

    for (rank, member) in roster["members"].as_array().unwrap().iter().enumerate() {
        let own = variables(&world, rank);
        let endpoint = member["endpoints"][0].as_str().unwrap();
        let (host, port) = endpoint.split_once(':').unwrap();
        let rank = rank.to_string();
        for (name, value) in [
            ("XLREG_NAME", member["name"].as_str().unwrap()),
            ("XLREG_ID", member["id"].as_str().unwrap()),
            ("XLREG_RANK", &rank),
            ("XLREG_SIZE", "3"),
            ("XLREG_CLUSTER", roster["cluster"].as_str().unwrap()),
            ("XLREG_CLUSTER_ID", roster["cluster_id"].as_str().unwrap()),
            ("XLREG_ENDPOINT", endpoint),
            ("XLREG_HOST", host),
            ("XLREG_PORT", port),
        ] {
            assert_eq!(own[name], value, "{name}");
        }
        let dir =
            own["XLREG_DIR"].strip_prefix(own["XLREG_RUN"].rsplit_once(':').unwrap().0).unwrap();
        assert_eq!(dir, format!("/member_{rank}"));
        assert!(own.contains_key("XLREG_ROSTER"));
        assert_eq!(own.len(), 12, "an undocumented or inherited variable: {own:?}");
    }
    assert_eq!(world.list("tmp"), [""; 0]);
}

fn variables(world: &World, rank: usize) -> BTreeMap<String, String> {
    let text = fs::read_to_string(world.path("work").join(format!("{rank}.env"))).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .filter(|(name, _)| name.starts_with("XLREG_") && *name != "XLREG_KEY_POOL")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Ports are held until the programs start, and are theirs then; SIGINT reaches the programs.
#[test]
fn programs_can_listen_on_their_ports_and_are_stopped_in_good_order() {
    let world = World::new();
    let script = format!("exec {XLREG} serve --ephemeral --listen $XLREG_ENDPOINT");
    let running = world.start(&["run", "-n", "3", "--", "sh", "-c", &script]);
    let ready: BTreeSet<_> = running.lines("ready on 127.0.0.1:", 3).into_iter().collect();
    assert_eq!(ready.len(), 3);
    running.signal(Signal::SIGINT);
    running.finish().expect(130).says(&["stopped", "xlreg: interrupted"]);
    assert_eq!(world.list("tmp"), [""; 0]);
}

/// The pipe that all inherit closes only when the last of them is gone.
#[test]
fn stopping_the_launcher_stops_grandchildren_too() {
    let world = World::new();
    let script = "sleep 600 & echo up; wait";
    let running = world.start(&["run", "-n", "2", "--", "sh", "-c", script]);
    running.lines("up", 2);
    running.signal(Signal::SIGTERM);
    running.finish().expect(130);
    assert_eq!(world.list("tmp"), [""; 0]);
}

#[test]
fn programs_that_do_not_listen_are_killed() {
    let world = World::new();
    let script = "trap '' TERM; echo up; while :; do sleep 600; done";
    let running = world.start(&["run", "-n", "2", "--", "sh", "-c", script]);
    running.lines("up", 2);
    running.signal(Signal::SIGTERM);
    running.finish().expect(130).says(&["killing"]);
    assert_eq!(world.list("tmp"), [""; 0]);
}

#[test]
fn the_first_that_fails_ends_the_others() {
    let world = World::new();
    let script = "test $XLREG_RANK = 1 || exec sleep 600; sleep 600 & exit 3";
    let done = world.run(&["run", "-n", "3", "--", "sh", "-c", script]);
    done.expect(1).says(&["member_1 failed: exit status: 3"]);
    assert_eq!(world.list("tmp"), [""; 0]);
}

#[test]
fn what_a_program_leaves_behind_goes_with_it() {
    let world = World::new();
    world.run(&["run", "-n", "2", "--", "sh", "-c", "sleep 600 & exit 0"]).expect(0);
    assert_eq!(world.list("tmp"), [""; 0]);
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let world = World::new();
    let done = world.run(&["run", "-n", "2", "--", "no-such-program"]);
    done.expect(1).says(&["cannot start no-such-program: not found", "PATH"]);
    let done = world.run(&["run", "-n", "2", "--", "/"]);
    done.expect(1).says(&["cannot start / for member_0"]);
    assert_eq!(world.list("tmp"), [""; 0]);
}

/// Keys are in the making then, each of which would bring its directory back.
#[test]
fn an_interrupted_start_leaves_no_keys_behind() {
    let world = World::new();
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let running = world.start(&["run", "-n", "24", "--", "true"]);
        let begun = Instant::now();
        while world.runs().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no run's directory appears");
            std::thread::yield_now();
        }
        running.signal(signal);
        running.finish().expect(130).says(&["interrupted"]);
        assert_eq!(world.list("tmp"), [""; 0]);
    }
}
