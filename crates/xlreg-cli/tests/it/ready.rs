//! `--ready`: what is waited for, and what is said when it does not come.

use crate::support::World;

#[test]
fn each_way_of_being_ready_is_noticed() {
    let world = World::new();
    let script = "echo starting; test $XLREG_RANK = 0 || sleep 0.1; touch $XLREG_DIR/ready; \
                  echo now ready; sleep 600";
    for check in ["line:^now ready$", "cmd:test -e {dir}/ready"] {
        world.detach("ready", "2", &["--ready", check], &["sh", "-c", script]);
        world.down("ready");
    }
}

/// As attached, so detached; but then there is a log to look at.
#[test]
fn who_is_not_ready_in_time_is_named_with_the_reason() {
    let world = World::new();
    let script = "echo up; sleep 600";
    for (check, part) in [
        ("tcp", "connection refused at 127.0.0.1:"),
        ("http://{endpoint}/health", "connection refused at 127.0.0.1:"),
        ("line:never", "no line of its output has matched never"),
        ("cmd:echo not yet >&2; exit 3", "exit status: 3: not yet"),
    ] {
        let flags = ["--cluster", "late", "--ready", check, "--timeout", "1s"];
        let cmd = ["--", "sh", "-c", script];
        let attached = world.run(&[&["run", "-n", "2"], &flags[..], &cmd].concat());
        attached.expect(7).says(&["0 of 2 programs are ready", "not ready: member_0: ", part]);
        world.is_clean();
        if check != "line:never" {
            continue;
        }
        let detached = world.run(&[&["run", "-n", "2", "--detach"], &flags[..], &cmd].concat());
        detached.expect(7).says(&["0 of 2 programs are ready", part, "xlreg logs"]);
        assert_eq!(detached.out, "");
        world.run(&["logs"]).expect(0).prints(&["member_0 | up", "member_1 | up"]);
        world.run(&["ps"]).expect(0).prints(&["late", "ended: 0 of 2 programs are ready"]);
        world.down("late");
    }
}

#[test]
fn who_dies_before_is_ready_is_a_failure() {
    let world = World::new();
    let base = ["run", "-n", "2", "--ready", "line:never"];
    let done = world.run(&[&base[..], &["--", "sh", "-c", "exit 3"]].concat());
    done.expect(1).says(&["failed: exit status: 3"]);
    let done = world.run(&[&base[..], &["--", "true"]].concat());
    done.expect(7).says(&["ended before all were ready"]);
    world.is_clean();
}
