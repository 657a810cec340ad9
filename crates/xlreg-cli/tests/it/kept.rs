//! `--keep`: the same cluster again, whatever has happened to it.

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{World, eventually, lives};

#[test]
fn a_kept_cluster_comes_back_the_same_also_after_a_crash() {
    let world = World::new();
    let script = "echo $XLREG_ID $XLREG_RANK $XLREG_ENDPOINT $XLREG_CLUSTER_ID";
    let kept = ["run", "-n", "2", "--keep", "kept", "--no-prefix"];
    let run = |flags: &[&str]| {
        let done = world.run(&[&kept[..], flags, &["--", "sh", "-c", script]].concat());
        let mut lines: Vec<_> = done.expect(0).out.lines().map(str::to_owned).collect();
        lines.sort();
        world.is_clean();
        lines
    };
    let first = run(&["--cluster", "mine"]);
    assert_eq!(run(&[]), first);

    // Two at once are one too many.
    let long = format!("{script}; sleep 600");
    let running = world.start(&[&kept[..], &["--", "sh", "-c", &long]].concat());
    running.lines(" ", 2);
    let done = world.run(&[&kept[..], &["--", "true"]].concat());
    done.expect(8).says(&["runs already", "xlreg down"]);
    let worker = running.worker();
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    running.kill();
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    eventually("all are gone", || !lives(worker));
    assert_eq!(run(&["--cluster", "mine"]), first);

    for (flags, part) in [
        (&["--cluster", "other"][..], "keeps another cluster: mine with -n 2"),
        (&["--endpoints", "2"], "--endpoints 1"),
        (&["--address", "own"], "keeps another cluster"),
        (&["--registry", "r"], "its own registry"),
    ] {
        let done = world.run(&[&kept[..], flags, &["--", "true"]].concat());
        done.expect(8).says(&[part]);
    }
    let done = world.run(&["run", "-n", "3", "--keep", "kept", "--", "true"]);
    done.expect(8).says(&["keeps another cluster: mine with -n 2"]);

    // Somebody else listens where a member has always been.
    let address = first[0].split(' ').nth(2).unwrap();
    let taken = TcpListener::bind(address).unwrap();
    let done = world.run(&[&kept[..], &["--", "true"]].concat());
    done.expect(8).says(&[address, "somebody else listens there now"]);
    drop(taken);

    // Its log is with it, and found from where it runs.
    let detached = [&kept[..], &["--detach", "--", "sh", "-c", script]].concat();
    assert_eq!(world.run(&detached).expect(0).out, "mine\n");
    eventually("it has ended", || world.run(&["ps"]).expect(0).out.contains("ended: all"));
    world.run(&["logs", "mine"]).expect(0);
    assert!(world.run(&["logs"]).expect(0).out.contains(address));
    world.down("mine");
    assert!(world.path("work/kept/run.log").exists());

    fs::write(world.path("work/kept/cluster.json"), "{").unwrap();
    let done = world.run(&[&kept[..], &["--", "true"]].concat());
    done.expect(1).says(&["kept/cluster.json", "does not tell of a kept cluster"]);
    world.is_clean();
}
