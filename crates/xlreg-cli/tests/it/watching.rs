//! `xlreg cluster watch`: for programs a line for each event, for people a table that follows.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Running, Server, World, eventually, in_time, own_address};
use crate::terminal::Terminal;

fn enter(world: &World, server: &Server, who: &str, endpoint: &str) {
    let join = ["join", "alpha", "--name", who, "--endpoint", endpoint, "--no-wait"];
    world.ask(server, &join).expect(0);
}

fn event(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// All that can happen to a cluster, with the registry killed in between: told once each.
#[test]
fn in_a_pipe_each_event_is_a_line_also_over_a_restart_and_the_end_is_the_last() {
    let world = World::new();
    let listen = own_address();
    let server = world.serve(&["--listen", &listen, "--data", "d"]);
    let address = server.address.to_string();
    let ask = |server: &Server, args: &[&str]| {
        world.ask(server, args).expect(0);
    };
    ask(&server, &["cluster", "create", "alpha", "-n", "2"]);
    let watching = Running::start(world.asking(&server, &["cluster", "watch", "alpha"]));
    let first = event(&watching.lines("", 1)[0]);
    enter(&world, &server, "a", "h:1");
    watching.lines("joined", 1);
    server.running.kill();
    watching.until_says("xlreg: trying again: ");
    let server = world.serve(&["--listen", &address, "--data", "d"]);
    enter(&world, &server, "b", "h:2");
    let whole = event(watching.lines("\"joined\"", 2).last().unwrap());
    ask(&server, &["leave", "alpha", "--name", "a"]);
    enter(&world, &server, "a", "h:1");
    enter(&world, &server, "a", "h:3");
    let dir = world.path("data/xlreg/members/alpha/b");
    ask(&server, &["id", "rotate", dir.to_str().unwrap()]);
    ask(&server, &["cluster", "expel", "alpha", "b"]);
    ask(&server, &["cluster", "delete", "alpha"]);
    let done = watching.finish();
    done.expect(0);

    let events: Vec<_> = done.out.lines().map(event).collect();
    let told = |event: &Value| json!([event["event"], event["revision"], event["complete"]]);
    assert_eq!(
        json!(events.iter().map(told).collect::<Vec<_>>()),
        json!([
            ["snapshot", 0, false],
            ["joined", 1, false],
            ["joined", 2, true],
            ["left", 3, false],
            ["returned", 4, true],
            ["updated", 5, true],
            ["rotated", 6, true],
            // It signs its entry anew, with the new key.
            ["updated", 7, true],
            ["expelled", 8, false],
            ["gone", 8, false],
        ])
    );
    assert_eq!((&first["size"], &first["members"]), (&2.into(), &json!([])));
    let member = &whole["member"];
    assert_eq!((&member["rank"], &member["name"]), (&1.into(), &"b".into()));
    assert_eq!((&member["left"], &member["endpoints"]), (&false.into(), &json!(["h:2"])));
    assert_eq!(events[3]["member"]["left"], true);
    assert_eq!(events[5]["member"]["endpoints"], json!(["h:3"]));
    assert_ne!(events[6]["member"]["sig_key"], member["sig_key"]);
    assert_eq!(events[7]["member"]["sig_key"], events[6]["member"]["sig_key"]);
    assert_eq!(events[9]["reason"], "deleted");
    for event in &events {
        assert_eq!(event["cluster"], "alpha");
        assert_eq!(event["cluster_id"], first["cluster_id"]);
    }
    // Nobody is told again and again what is said once.
    assert_eq!(done.err.matches("trying again").count(), 1, "{}", done.err);
    server.stop();
}

/// Waiting is watching: a restart costs a waiter nothing, and an end is told at once.
#[test]
fn those_who_wait_go_on_over_a_restart_and_hear_of_an_end() {
    let world = World::new();
    let server = world.serve(&["--listen", &own_address(), "--data", "d"]);
    let address = server.address.to_string();
    let create = ["cluster", "create", "alpha", "-n", "2"];
    world.ask(&server, &create).expect(0);
    let long = ["--timeout", "5m"];
    let wait = [&["cluster", "wait", "alpha"], &long[..]].concat();
    let waiting = Running::start(world.asking(&server, &wait));
    let join = |who| [&["join", "alpha", "--endpoint", "h:1", "--name", who], &long[..]].concat();
    let joining = Running::start(world.asking(&server, &join("a")));
    let here = |server: &Server| {
        let shown = world.ask(server, &["cluster", "show", "alpha", "--output", "json"]);
        shown.expect(0).json()["members"].as_array().unwrap().len()
    };
    eventually("it has joined", || here(&server) == 1);
    server.running.kill();
    for waiter in [&waiting, &joining] {
        waiter.until_says("xlreg: trying again: ");
    }
    let server = world.serve(&["--listen", &address, "--data", "d"]);
    world.ask(&server, &join("b")).expect(0);
    for waiter in [waiting, joining] {
        waiter.finish().expect(0).prints(&["2 of 2, complete"]);
    }

    // Its end, and its member's: not before the time is over, but when it happens.
    world.ask(&server, &["cluster", "delete", "alpha"]).expect(0);
    world.ask(&server, &create).expect(0);
    let joining = Running::start(world.asking(&server, &join("a")));
    eventually("it has joined", || here(&server) == 1);
    world.ask(&server, &["cluster", "expel", "alpha", "a"]).expect(0);
    joining.finish().expect(4).says(&["joining alpha", "was expelled from this cluster"]);
    let waiters = [join("b"), wait].map(|args| Running::start(world.asking(&server, &args)));
    eventually("it has joined", || here(&server) == 1);
    world.ask(&server, &["cluster", "delete", "alpha"]).expect(0);
    for waiter in waiters {
        // The one that only waits may have come too late to see more than that there is none.
        let done = waiter.finish();
        let parts = ["is gone: it was deleted", "cannot find cluster"];
        assert!(parts.iter().any(|part| done.expect(5).err.contains(part)), "{done:#?}");
    }
}

#[test]
fn a_watch_ends_well_when_the_cluster_expires_and_else_says_why() {
    let world = World::new();
    let server = world.registry();
    in_time(|brief| {
        let create = ["cluster", "create", "alpha", "-n", "2", "--ttl", brief];
        world.ask(&server, &create).expect(0);
        let done = world.ask(&server, &["cluster", "watch", "alpha"]);
        let Some(last) = done.out.lines().last().map(event) else { return false };
        assert_eq!((&last["event"], &last["reason"]), (&"gone".into(), &"expired".into()));
        done.expect(0);
        true
    });

    world.ask(&server, &["cluster", "watch", "alpha"]).expect(5).says(&["watching cluster alpha"]);
    let old = world.ask(&server, &["cluster", "watch", "alpha", "--dialect", "1.8"]);
    old.expect(4).says(&["has no following of a cluster"]);
    let interrupted = {
        world.ask(&server, &["cluster", "create", "beta", "-n", "2"]).expect(0);
        let watching = Running::start(world.asking(&server, &["cluster", "watch", "beta"]));
        watching.lines("snapshot", 1);
        watching.signal(Signal::SIGINT);
        watching.finish()
    };
    interrupted.expect(130).says(&["interrupted"]);
}

/// `| head -1` has read what it wants; nothing more need happen for the watch to notice.
#[test]
fn a_watch_that_nobody_reads_any_more_ends() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    for format in ["json", "table"] {
        let args = ["cluster", "watch", "alpha", "--output", format];
        let mut command = world.asking(&server, &args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("alpha"));
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn on_a_terminal_a_table_takes_the_place_of_the_one_before() {
    let world = World::new();
    let listen = own_address();
    let server = world.serve(&["--listen", &listen, "--data", "d"]);
    let address = server.address.to_string();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "4"]).expect(0);
    let mut command = world.asking(&server, &["cluster", "watch", "alpha"]);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command, 34, 10);
    terminal.shows(&["cluster alpha: 0 of 4, incomplete", "revision 0"]);
    enter(&world, &server, "a", "h:1");
    enter(&world, &server, "b", "h:2");
    let screen = |written: &str| terminal.screen(written);
    let written =
        terminal.running.until_prints("b", |written| screen(written).concat().contains("b (rank"));
    let shown = screen(&written);
    let (table, last) = shown.split_at(4);
    assert_eq!(table[..2], ["cluster alpha: 2 of 4, incomplete", "RANK  NAME  ENDPOINTS  ID"]);
    for (line, start) in
        table[2..].iter().zip(["0     a     h:1        ", "1     b     h:2        "])
    {
        assert!(line.starts_with(start) && line.ends_with('…'), "{shown:?}");
        assert_eq!(line.chars().count(), 34, "cut at the edge");
    }
    assert_eq!(last, ["revision 2: b (rank 1) joined"]);

    // Too low for all of them, and narrower: what was wrapped by that goes, too.
    terminal.resize(28, 5);
    terminal.running.signal(Signal::SIGWINCH);
    let small = ["cluster alpha: 2 of 4, inco…", "RANK  NAME  ENDPOINTS  ID", "... and 2 more"];
    terminal.shows(&[&small[..], &["revision 2: b (rank 1) join…"]].concat());
    terminal.resize(60, 10);
    terminal.running.signal(Signal::SIGWINCH);
    world.ask(&server, &["leave", "alpha", "--name", "a"]).expect(0);
    let screen = |written: &str| terminal.screen(written);
    let all = terminal.running.until_prints("left", |written| {
        screen(written).last().is_some_and(|last| last.contains("has left"))
    });
    let shown = screen(&all);
    assert_eq!(shown[1], "RANK  NAME  STATE    ENDPOINTS  ID");
    assert!(shown[2].starts_with("0     a     left     h:1 "), "{shown:?}");
    assert!(shown[3].starts_with("1     b     present  h:2 "), "{shown:?}");
    assert_eq!(shown[4..], ["revision 3: a (rank 0) has left, and may come back"]);

    // While the registry is away, it says so, and the table stays.
    server.running.kill();
    terminal.running.until_prints("away", |written| {
        let shown = screen(written);
        shown.len() == 5
            && shown[4].starts_with("trying again: ")
            && shown[..4] == all_but_last(&all, screen)
    });
    let server = world.serve(&["--listen", &address, "--data", "d"]);
    terminal.running.until_prints("back", |written| screen(written) == screen(&all));
    world.ask(&server, &["cluster", "delete", "alpha"]).expect(0);
    let done = terminal.running.finish();
    done.expect(0);
    assert!(done.out.trim_end().ends_with("the cluster is gone: it was deleted"));
    assert_eq!(done.err, "");
}

fn all_but_last(written: &str, screen: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut shown = screen(written);
    shown.pop();
    shown
}

/// No colours anywhere, and nothing but lines where a terminal knows no better or there is none.
#[test]
fn without_a_terminal_that_can_go_up_tables_come_one_after_another() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let mut command = world.asking(&server, &["cluster", "watch", "alpha"]);
    command.env("TERM", "dumb");
    let dumb = Terminal::start(command, 80, 24).running;
    let table = ["cluster", "watch", "alpha", "--output", "table"];
    let piped = Running::start(world.asking(&server, &table));
    // What a program asks for, it gets on a terminal too.
    let json = ["cluster", "watch", "alpha", "--output", "json"];
    let json = Terminal::start(world.asking(&server, &json), 80, 24).running;
    for running in [&dumb, &piped, &json] {
        running.lines("revision", 1);
    }
    world.ask(&server, &["cluster", "delete", "alpha"]).expect(0);
    for (running, newline) in [(dumb, "\r\n"), (piped, "\n")] {
        let done = running.finish();
        let title = "cluster alpha: 0 of 2, incomplete";
        let lines = [title, "revision 0", title, "the cluster is gone: it was deleted", ""];
        assert_eq!(done.expect(0).out, lines.join(newline));
    }
    let done = json.finish();
    let kinds: Vec<_> =
        done.expect(0).out.lines().map(|line| event(line)["event"].take()).collect();
    assert_eq!(kinds, ["snapshot", "gone"]);
}
