//! Programs that fail, don't listen, run away or are asked to end; and signals on their way to them.

use nix::sys::signal::Signal;

use crate::support::{Done, Running, World, XLREG, lives};

/// Leaves a process outside of its group and its session, and says which.
const RUNAWAY: &str = "setsid sh -c 'trap \"\" TERM; echo daemon $$; while :; do sleep 600; done' & \
                       sleep 600";

fn pids(lines: &[String]) -> Vec<i32> {
    lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_second_signal_kills_at_once_but_hanging_up_twice_does_not() {
    let world = World::new();
    let script = "trap 'echo asked' TERM; trap '' INT HUP; echo up $$; \
                  while :; do sleep 600 & wait; done";
    let running = world.start(&["run", "-n", "2", "--grace", "1h", "--", "sh", "-c", script]);
    let programs = pids(&running.lines("up", 2));
    running.signal(Signal::SIGHUP);
    running.lines("asked", 2);
    // A shell passes it on to its jobs, and the terminal tells them too.
    running.signal(Signal::SIGHUP);
    world.run(&["ps"]).expect(0).prints(&["2 of 2 running"]);
    assert!(programs.iter().all(|pid| lives(*pid)));
    running.signal(Signal::SIGINT);
    running.finish().expect(130).says(&["interrupted"]);
    assert!(programs.iter().all(|pid| !lives(*pid)));
    world.is_clean();
}

#[test]
fn a_run_that_was_told_to_go_on_without_a_terminal_does() {
    let world = World::new();
    let script = format!("trap '' HUP; exec {XLREG} run -n 2 -- sh -c 'echo up; exec sleep 600'");
    let running = Running::start(world.shell(&script));
    running.lines("up", 2);
    running.signal(Signal::SIGHUP);
    world.run(&["ps"]).expect(0).prints(&["2 of 2 running"]);
    running.signal(Signal::SIGTERM);
    running.finish().expect(130);
    world.is_clean();
}

/// However a run ends: by itself, by a failure, by a signal.
#[test]
fn what_has_left_its_group_and_session_goes_with_the_run() {
    let world = World::new();
    let check = |done: &Done, daemons: &[i32]| {
        assert_eq!(daemons.len(), 2, "{done:?}");
        assert!(daemons.iter().all(|pid| !lives(*pid)), "{done:?}");
        world.is_clean();
    };
    for (last, code) in [("sleep 0.2; exit 0", 0), ("sleep 0.2; exit 3", 1)] {
        let script = RUNAWAY.strip_suffix("sleep 600").unwrap().to_owned() + last;
        let done = world.run(&["run", "-n", "2", "--", "sh", "-c", &script]);
        done.expect(code);
        let lines: Vec<_> = done.out.lines().map(str::to_owned).collect();
        check(&done, &pids(&lines));
    }
    let running = world.start(&["run", "-n", "2", "--", "sh", "-c", RUNAWAY]);
    let daemons = pids(&running.lines("daemon", 2));
    running.signal(Signal::SIGTERM);
    check(running.finish().expect(130), &daemons);
}

/// Each process of the chain is there for an instant only.
#[test]
fn those_who_fork_and_leave_all_the_time_are_caught() {
    let world = World::new();
    // By its end it stops by itself, should we fail.
    let script = "chain() { test $1 = 0 || (setsid sh -c \"$CHAIN\" sh $(($1 - 1)) &) }; \
                  for i in 1 2 3 4; do chain 3000; done; echo up; sleep 600";
    let chain = "test $1 = 0 || (setsid sh -c \"$CHAIN\" sh $(($1 - 1)) &)";
    let mut command =
        world.xlreg(&["run", "-n", "2", "--grace", "100ms", "--", "sh", "-c", script]);
    command.env("CHAIN", chain);
    let running = Running::start(command);
    running.lines("up", 2);
    running.signal(Signal::SIGTERM);
    running.finish().expect(130);
    world.is_clean();
    let ours = chain.as_bytes();
    let lives = std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let tmp = world.path("tmp");
        let tmp = tmp.to_str().unwrap().as_bytes();
        environment.windows(ours.len()).any(|part| part == ours)
            && environment.windows(tmp.len()).any(|part| part == tmp)
    });
    assert!(!lives, "some of the chain go on");
}

#[test]
fn a_failure_stops_all_is_ignored_or_starts_it_again() {
    let world = World::new();
    // Fails twice, the first time outright.
    let script = "echo up; test $XLREG_RANK = 1 || exec sleep 0.5; \
                  echo x >> $XLREG_DIR/count; test $(wc -l < $XLREG_DIR/count) -gt 2 || exit 3";
    let run = |flags: &[&str]| {
        let done = world.run(&[&["run", "-n", "2"], flags, &["--", "sh", "-c", script]].concat());
        world.is_clean();
        done
    };
    let ups = |done: &Done| done.out.matches("member_1 | up").count();
    let done = run(&["--on-exit", "ignore"]);
    assert_eq!(ups(done.expect(1).says(&["member_1 failed: exit status: 3"])), 1);
    let done = run(&["--on-exit", "restart"]);
    assert_eq!(ups(done.expect(0).says(&["starting member_1 again", "(2)"])), 3);
    let done = run(&["--on-exit", "restart:1"]);
    assert_eq!(ups(done.expect(1).says(&["member_1 failed"])), 2);
}

#[test]
fn a_paused_program_is_stopped_too_and_has_its_chance_to_say_goodbye() {
    let world = World::new();
    let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let running = world.start(&["run", "-n", "2", "--cluster", "paused", "--", "sh", "-c", script]);
    running.lines("up", 2);
    world.run(&["pause", "member_1"]).expect(0);
    world.until_member("paused", 1, "paused");
    let done = world.run(&["down", "paused"]);
    done.expect(0);
    let done = running.finish();
    done.expect(0).prints(&["member_0 | bye", "member_1 | bye"]);
    world.is_clean();
}
