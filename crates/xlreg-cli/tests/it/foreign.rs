//! `run --registry`: a cluster at a registry that stays, and that keeps nothing of it for ever.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Done, Server, World, eventually};

/// How a run is started at this registry, as `name`.
fn run<'a>(server: &'a Server, name: &'a str, flags: &[&'a str], cmd: &[&'a str]) -> Vec<&'a str> {
    let credentials = server.credentials.to_str().unwrap();
    let start = ["run", "-n", "2", "--registry", credentials, "--cluster", name];
    [&start[..], flags, &["--"], cmd].concat()
}

fn show(world: &World, server: &Server, cluster: &str) -> Done {
    world.ask(server, &["cluster", "show", cluster, "--output", "json"])
}

fn names(members: &Value) -> Value {
    members.as_array().unwrap().iter().map(|member| member["name"].clone()).collect()
}

fn is_gone(world: &World, server: &Server, cluster: &str) -> bool {
    show(world, server, cluster).code == Some(5)
}

#[test]
fn however_a_run_ends_its_cluster_ends_with_it() {
    let world = World::new();
    let server = world.registry();
    let credentials = server.credentials.to_str().unwrap();
    let done = world.run(&run(&server, "ends", &[], &["echo", "up"]));
    done.expect(0).prints(&["member_0 | up", "member_1 | up"]);
    world.run(&run(&server, "fails", &[], &["false"])).expect(1);
    let sleep = ["sh", "-c", "echo up; exec sleep 600"];
    let late = ["--timeout", "500ms", "--ready", "line:never"];
    world.run(&run(&server, "late", &late, &sleep)).expect(7);
    let interrupted = world.start(&run(&server, "stopped", &[], &sleep));
    interrupted.lines("up", 2);
    interrupted.signal(Signal::SIGINT);
    interrupted.finish().expect(130);
    let alone = world.start(&run(&server, "alone", &[], &sleep));
    alone.lines("up", 2);
    alone.signal(Signal::SIGKILL);
    eventually("the worker has taken it away", || is_gone(&world, &server, "alone"));
    drop(alone);
    let script = format!(
        "exec {} join $XLREG_CLUSTER --endpoint 127.0.0.1:$((7000 + ${{XLREG_NAME#member_}}))",
        crate::support::XLREG
    );
    world.run(&run(&server, "selves", &["--self-join"], &["sh", "-c", &script])).expect(0);
    for cluster in ["ends", "fails", "late", "stopped", "selves"] {
        show(&world, &server, cluster).expect(5);
    }

    world.detach("good", "2", &["--registry", credentials], &["sleep", "600"]);
    let running = show(&world, &server, "good").expect(0).json();
    assert_eq!(running["complete"], true);
    // Another run can't have the name meanwhile, and does no harm to the one that has it.
    let other = ["--key-pool", "others"];
    let second = world.run(&run(&server, "good", &other, &["true"]));
    second.expect(8).says(&["cluster good has members already", "--cluster"]);
    assert_eq!(show(&world, &server, "good").expect(0).json(), running);
    world.down("good");
    show(&world, &server, "good").expect(5);
    assert_eq!(world.ask(&server, &["cluster", "list"]).expect(0).out, "no clusters\n");
    world.run(&run(&server, "good", &other, &["true"])).expect(0);
}

/// Nobody is left to take it away; so the registry does, once it has been idle for as long as told.
#[test]
fn of_a_launcher_that_was_killed_the_registry_keeps_nothing_for_ever() {
    let world = World::new();
    let server = world.registry();
    let running = world.start(&run(&server, "killed", &[], &["sh", "-c", "echo up; sleep 600"]));
    running.lines("up", 2);
    let worker = Pid::from_raw(running.worker());
    kill(worker, Signal::SIGSTOP).unwrap();
    running.kill();
    kill(worker, Signal::SIGKILL).unwrap();
    let list = world.ask(&server, &["cluster", "list", "--output", "json"]).expect(0).json();
    assert_eq!((&list[0]["cluster"], &list[0]["idle_ms"]), (&"killed".into(), &600_000.into()));
    world.run(&["ps"]).expect(0);
    world.is_clean();
}

#[test]
fn a_kept_cluster_stays_and_its_members_leave_and_come_back() {
    let world = World::new();
    let server = world.registry();
    let kept = run(&server, "kept", &["--keep", "dir"], &["sh", "-c", "echo $XLREG_ID"]);
    world.run(&kept).expect(0);
    let before = show(&world, &server, "kept").expect(0).json();
    assert_eq!(
        (names(&before["left"]), names(&before["members"])),
        (json!(["member_0", "member_1"]), json!([]))
    );
    let done = world.run(&kept);
    done.expect(0).prints(&[before["left"][1]["id"].as_str().unwrap()]);
    let after = show(&world, &server, "kept").expect(0).json();
    assert_eq!(names(&after["left"]), names(&before["left"]));
    let list = world.ask(&server, &["cluster", "list", "--output", "json"]).expect(0).json();
    assert_eq!(list[0]["idle_ms"], Value::Null);
}

/// A cluster that somebody else has made is not the run's to delete; but who came with it leaves.
#[test]
fn of_anothers_cluster_only_the_runs_own_members_go() {
    let world = World::new();
    let server = world.registry();
    for (cluster, size) in [("whole", "2"), ("half", "2")] {
        world.ask(&server, &["cluster", "create", cluster, "-n", size]).expect(0);
    }
    world.run(&run(&server, "whole", &[], &["true"])).expect(0);
    let whole = show(&world, &server, "whole").expect(0).json();
    assert_eq!(
        (names(&whole["left"]), names(&whole["members"])),
        (json!(["member_0", "member_1"]), json!([]))
    );

    let join = ["join", "half", "--name", "other", "--endpoint", "h:1", "--no-wait"];
    world.ask(&server, &join).expect(0);
    world.run(&run(&server, "half", &[], &["true"])).expect(8).says(&["has members already"]);
    let half = show(&world, &server, "half").expect(0).json();
    assert_eq!(
        (names(&half["left"]), names(&half["members"])),
        (json!(["member_0"]), json!(["other"]))
    );
}

#[test]
fn a_registry_that_is_away_or_speaks_the_old_wire_only_changes_no_ending() {
    let world = World::new();
    let server = world.registry();
    let text = fs::read_to_string(&server.credentials).unwrap();
    fs::write(world.path("work/old"), text.replace("Version: 2.0", "Version: 1.9.24")).unwrap();
    let old = ["run", "-n", "2", "--registry", "old", "--cluster", "old", "--", "echo", "up"];
    assert_eq!(world.run(&old).expect(0).err.lines().count(), 1);
    assert_eq!(show(&world, &server, "old").expect(0).json()["complete"], true);

    let cmd = ["sh", "-c", "echo up; until [ -e go ]; do sleep 0.05; done; exit 0"];
    let running = world.start(&run(&server, "away", &[], &cmd));
    running.lines("up", 2);
    let credentials = server.credentials.clone();
    let detached = run(&server, "behind", &["-d"], &["sleep", "1000"]);
    world.run(&detached).expect(0);
    server.running.kill();
    world.run(&["down", "behind"]).expect(0).says(&[
        "xlreg: behind is down; cluster behind is still at the registry: cannot reach",
        "it goes by itself after 10m",
    ]);
    fs::write(world.path("work/go"), "").unwrap();
    let done = running.finish();
    done.expect(0).says(&[
        "xlreg: cluster away is still at the registry: cannot reach the registry at",
        "it goes by itself after 10m",
    ]);
    world.is_clean();
    let none = ["run", "-n", "2", "--registry", credentials.to_str().unwrap(), "--", "true"];
    let unreachable = world.run(&none);
    unreachable.expect(3).says(&["cannot reach the registry"]);
    assert!(!unreachable.err.contains("is still at the registry"));
}
