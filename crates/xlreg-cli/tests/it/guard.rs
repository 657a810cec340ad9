//! A run that is killed, in part or as a whole.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Running, World, eventually, lives};

/// Leaves a process outside of its group and its session, and says which.
const RUNAWAY: &str = "setsid sh -c 'trap \"\" TERM; echo daemon $$; while :; do sleep 600; done' & \
                       sleep 600";

/// A run with two programs, each with a daemon, and their process IDs.
fn started(world: &World) -> (Running, Vec<i32>) {
    let running = world.start(&["run", "-n", "2", "--", "sh", "-c", RUNAWAY]);
    let lines = running.lines("daemon", 2);
    let pids = lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap());
    let daemons = pids.collect();
    (running, daemons)
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn when_the_guard_is_killed_the_worker_ends_everything() {
    let world = World::new();
    let (running, daemons) = started(&world);
    running.signal(Signal::SIGKILL);
    eventually("they are gone", || daemons.iter().all(|pid| !lives(*pid)));
    eventually("it is tidy", || world.list("tmp").is_empty());
}

#[test]
fn when_the_worker_is_killed_the_guard_ends_everything() {
    let world = World::new();
    let (running, daemons) = started(&world);
    kill_hard(running.worker());
    running.finish().expect(1).says(&["the launcher was killed", "SIGKILL"]);
    assert!(daemons.iter().all(|pid| !lives(*pid)));
    world.is_clean();
}

/// Nobody is left then who knows the daemons; but they have the run's mark.
#[test]
fn when_both_are_killed_the_next_to_look_ends_what_is_left() {
    let world = World::new();
    for next in [&["ps"][..], &["run", "-n", "2", "--", "true"]] {
        let (running, daemons) = started(&world);
        let worker = running.worker();
        // So that the worker does not notice first.
        kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
        running.signal(Signal::SIGKILL);
        kill_hard(worker);
        eventually("the worker is gone", || !lives(worker));
        assert!(daemons.iter().all(|pid| lives(*pid)));
        world.run(next).expect(0);
        assert!(daemons.iter().all(|pid| !lives(*pid)));
        world.is_clean();
    }
}

#[test]
fn a_detached_run_whose_worker_is_killed_leaves_its_log() {
    let world = World::new();
    world.detach("log", "2", &[], &["sh", "-c", "echo up; exec sleep 600"]);
    let told = world.run(&["ps", "log", "--output", "json"]).expect(0).json();
    eventually("they have spoken", || {
        world.run(&["logs"]).expect(0).out.matches("up").count() == 2
    });
    let program = told["run"]["members"][0]["pid"].as_i64().unwrap();
    kill_hard(told["run"]["pid"].as_i64().unwrap().try_into().unwrap());
    eventually("it has ended", || {
        world.run(&["ps"]).expect(0).out.contains("ended: the launcher was killed")
    });
    assert!(!lives(program.try_into().unwrap()));
    world.run(&["logs"]).expect(0).prints(&["member_1 | up"]);
    world.down("log");
}
