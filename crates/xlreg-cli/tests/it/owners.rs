//! What the owner of a cluster does to it, and what others may not: policies, lifetimes, lists,
//! expulsion and the end.

use serde_json::{Value, json};

use crate::support::{Done, Server, World, eventually, in_time};

/// A join that does not wait, as an identity in a directory of its own name.
fn enter(world: &World, server: &Server, cluster: &str, who: &str) -> Done {
    let join = ["join", cluster, "--name", who, "--identity", who, "--endpoint", "h:1"];
    world.ask(server, &[&join[..], &["--no-wait"]].concat())
}

fn sig_key(world: &World, dir: &str) -> String {
    let shown = world.run(&["id", "show", dir, "--output", "json"]).expect(0).json();
    shown["sig_key_sha256"].as_str().unwrap().to_owned()
}

fn listed(world: &World, server: &Server, flags: &[&str]) -> Vec<Value> {
    let list = ["cluster", "list", "--output", "json"];
    let told = world.ask(server, &[&list[..], flags].concat()).expect(0).json();
    told.as_array().unwrap().clone()
}

fn names(clusters: &[Value]) -> Vec<&str> {
    clusters.iter().map(|cluster| cluster["cluster"].as_str().unwrap()).collect()
}

#[test]
fn lists_are_in_the_order_of_names_and_tell_how_full_and_for_how_long() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    assert_eq!(ask(&["cluster", "list"]).expect(0).out, "no clusters\n");
    assert_eq!(ask(&["cluster", "list", "--mine"]).expect(0).out, "no clusters of yours\n");
    assert_eq!(listed(&world, &server, &[]), [Value::Null; 0]);

    world.run(&["id", "new", "boss"]).expect(0);
    ask(&["cluster", "create", "b", "-n", "2", "--identity", "boss"]).expect(0);
    let lifetimes = ["--ttl", "1h", "--fill-within", "30m", "--idle", "10m"];
    let made = ask(&[&["cluster", "create", "a", "-n", "3"], &lifetimes[..]].concat());
    made.expect(0).prints(&[
        ") for 3 members, until 20",
        ", to be full by 20",
        ", until idle for 10m",
    ]);
    enter(&world, &server, "b", "m").expect(0);

    let all = listed(&world, &server, &[]);
    assert_eq!(names(&all), ["a", "b"]);
    let keep = ["size", "present", "complete", "endpoint_count", "policy", "revision"];
    let kept = |cluster: &Value| json!(keep.map(|key| &cluster[key]));
    assert_eq!(kept(&all[0]), json!([3, 0, false, 1, "open", 0]));
    assert_eq!(kept(&all[1]), json!([2, 1, false, 1, "open", 1]));
    assert_eq!(all[1]["owner"], sig_key(&world, "boss"));
    assert_eq!(all[0]["idle_ms"], 600_000);
    for time in ["expires", "full_by"] {
        assert!(all[0][time].as_str().unwrap().starts_with("20"), "{all:?}");
        assert_eq!(all[1][time], Value::Null);
    }
    assert_eq!(names(&listed(&world, &server, &["--mine"])), ["a"]);
    assert_eq!(names(&listed(&world, &server, &["--mine", "--identity", "m"])), ["b"]);
    let table = ask(&["cluster", "list"]);
    let lines: Vec<_> = table.expect(0).out.lines().collect();
    assert!(lines[0].starts_with("NAME  MEMBERS  JOIN  LIVES "), "{lines:?}");
    assert!(lines[1].starts_with("a     0 of 3   open  until 20"), "{lines:?}");
    assert!(lines[2].starts_with("b     1 of 2   open  until deleted "), "{lines:?}");

    for time in ["0s", "5", "9y"] {
        for flag in ["--ttl", "--fill-within", "--idle"] {
            ask(&["cluster", "create", "c", "-n", "2", flag, time]).expect(2).says(&[flag]);
        }
    }
}

/// The binary's own clock runs; a second is what a lifetime takes at least here.
#[test]
fn a_cluster_whose_time_is_over_is_gone_for_those_who_wait_and_its_name_is_free() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    for lifetime in ["--ttl", "--fill-within"] {
        in_time(|brief| {
            ask(&["cluster", "create", "brief", "-n", "2", lifetime, brief]).expect(0);
            let wait = ask(&["cluster", "wait", "brief", "--timeout", "1m"]);
            let too_late = wait.expect(5).err.contains("cannot find cluster");
            if !too_late {
                wait.says(&["waiting for cluster brief", "is gone: it has expired"]);
            }
            !too_late
        });
        ask(&["cluster", "show", "brief"]).expect(5).says(&["cannot find cluster"]);
    }
    // Who waits keeps an idle cluster alive, and who only asks does not.
    ask(&["cluster", "create", "brief", "-n", "2", "--idle", "1s"]).expect(0);
    eventually("it has expired", || ask(&["cluster", "show", "brief"]).code == Some(5));
}

#[test]
fn who_may_join_is_the_owners_decision() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    for dir in ["good", "bad"] {
        world.run(&["id", "new", dir]).expect(0);
    }
    let print = sig_key(&world, "good");
    let create = ["cluster", "create", "keys", "-n", "2", "--policy", "keys"];
    ask(&create).expect(2).says(&["--allow <SHA256>", "Usage: xlreg cluster create"]);
    let short = ask(&[&create[..], &["--allow", &print[..62]]].concat());
    short.expect(2).says(&["not a fingerprint: 64 hex digits are expected, got 62"]);
    ask(&[&create[..], &["--allow", &print]].concat()).expect(0);
    let stray = ask(&["cluster", "create", "open", "-n", "2", "--allow", &print]);
    stray.expect(2).says(&["--allow goes with --policy keys"]);

    enter(&world, &server, "keys", "good").expect(0);
    let refused = enter(&world, &server, "keys", "bad");
    refused.expect(4).says(&["joining keys", "not among those that may join", "--allow SHA256"]);

    // Over the old wire there is nothing but open clusters.
    let old = ["--dialect", "1.9"];
    let join = ["join", "keys", "--identity", "bad", "--endpoint", "h:1", "--no-wait"];
    ask(&[&join[..], &old].concat()).expect(4).says(&["does not take members over this wire"]);
    let create = ["cluster", "create", "old", "-n", "2"];
    for flags in [&["--policy", "token"][..], &["--ttl", "1h"]] {
        let done = ask(&[&create[..], &old, flags].concat());
        done.expect(4).says(&["the old wire (1.9)", "hint: ", "leave out --dialect"]);
    }
    ask(&[&create[..], &old].concat()).expect(0);
    assert_eq!(names(&listed(&world, &server, &[])), ["keys", "old"]);
}

/// The same command twice is the same cluster; but not each that has the name is what was meant.
#[test]
fn a_cluster_that_was_there_already_is_told_apart_from_what_was_asked_for() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    let create = ["cluster", "create", "alpha", "-n", "2"];
    let first = ask(&create);
    let again = ask(&create);
    assert_eq!((&again.out, &again.err), (&first.out, &first.err));
    let longer = ask(&[&create[..], &["--ttl", "1h"]].concat());
    longer.expect(0).says(&["was there already, and its lifetime stays as it was"]);
    let token = ask(&[&create[..], &["--policy", "token"]].concat());
    token.expect(8).says(&["alpha", "another policy", "choose another name"]);
    world.run(&["id", "new", "other"]).expect(0);
    let others = ask(&[&create[..], &["--identity", "other"]].concat());
    let me = sig_key(&world, world.path("data/xlreg/admin").to_str().unwrap());
    others.expect(0).says(&["is another's", &me, "next, for each member: xlreg join"]);
    let json = ask(&[&create[..], &["--identity", "other", "--output", "json"]].concat());
    assert_eq!(json.expect(0).json()["owner"], me);
    assert_eq!(json.err, "");
}

#[test]
fn only_owner_and_administrators_delete_expel_and_issue() {
    let world = World::new();
    world.run(&["id", "new", "admin"]).expect(0);
    let admin = sig_key(&world, "admin");
    let serve = ["--listen", "127.0.0.1:0", "--data", "registry", "--admin", &admin];
    let server = world.serve(&serve);
    let ask = |args: &[&str]| world.ask(&server, args);
    ask(&["cluster", "create", "alpha", "-n", "3"]).expect(0);
    for who in ["a", "b", "c"] {
        enter(&world, &server, "alpha", who).expect(0);
    }
    for args in [
        &["cluster", "delete", "alpha"][..],
        &["cluster", "expel", "alpha", "b"],
        &["token", "create", "alpha"],
        &["token", "list", "alpha"],
        &["token", "revoke", "alpha", "00000000"],
    ] {
        let done = ask(&[args, &["--identity", "a"]].concat());
        done.expect(4).says(&["cluster alpha", "only the cluster's owner", "xlreg serve --admin"]);
        assert_eq!(done.out, "");
    }

    // By name, by rank and by ID; and each time the rank is free for another.
    let shown = ask(&["cluster", "show", "alpha", "--output", "json"]).expect(0).json();
    let id = shown["members"][2]["id"].as_str().unwrap();
    for (member, who, next, rank) in [("b", "b", "d", 1), ("0", "a", "e", 0), (id, "c", "f", 2)] {
        let by = if who == "b" { "admin" } else { "" };
        let by = if by.is_empty() { vec![] } else { vec!["--identity", by] };
        let done = ask(&[&["cluster", "expel", "alpha", member], &by[..]].concat());
        let text = format!("{who} is expelled from cluster alpha; rank {rank} is free\n");
        assert_eq!(done.expect(0).out, text);
        let back = enter(&world, &server, "alpha", who);
        back.expect(4).says(&["was expelled from this cluster", "hint: ", "another --identity"]);
        enter(&world, &server, "alpha", next).expect(0);
    }
    let nobody = ask(&["cluster", "expel", "alpha", "b"]);
    nobody.expect(5).says(&["cluster alpha has no member b; it has e, d, f"]);
    let json = ask(&["cluster", "expel", "alpha", "f", "--output", "json"]).expect(0).json();
    assert_eq!((&json["name"], &json["rank"]), (&"f".into(), &2.into()));

    let done = ask(&["cluster", "delete", "alpha", "--identity", "admin"]);
    assert_eq!(done.expect(0).out, "cluster alpha is deleted\n");
    for command in ["show", "wait", "delete", "watch"] {
        ask(&["cluster", command, "alpha"])
            .expect(5)
            .says(&["cannot find cluster", "cluster list"]);
    }
    ask(&["cluster", "expel", "alpha", "a"]).expect(5);
    enter(&world, &server, "alpha", "d").expect(5);
    ask(&["cluster", "create", "alpha", "-n", "2", "--identity", "d"]).expect(0);
    let json = ask(&["cluster", "delete", "alpha", "--identity", "d", "--output", "json"]);
    assert_eq!(json.expect(0).json(), json!({ "cluster": "alpha" }));
}

#[test]
fn a_member_that_has_left_is_shown_and_comes_back_to_its_rank() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    ask(&["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let join = |name: &str| {
        let args = ["join", "alpha", "--name", name, "--endpoint", "h:1", "--no-wait"];
        ask(&args).expect(0);
    };
    join("a");
    let left = ask(&["leave", "alpha"]);
    left.expect(0).says(&["its rank is kept"]);
    assert_eq!(left.out, "a has left cluster alpha\n");
    // To have left already is no error.
    let json = ask(&["leave", "alpha", "--output", "json"]);
    assert_eq!(json.expect(0).json(), json!({ "cluster": "alpha", "name": "a" }));
    assert_eq!(json.err, "");
    join("b");
    let shown = ask(&["cluster", "show", "alpha"]);
    let lines: Vec<_> = shown.expect(0).out.lines().collect();
    assert!(lines[0].ends_with("): 1 of 2, incomplete"), "{lines:?}");
    assert!(lines[1].starts_with("RANK  NAME  STATE    ENDPOINTS"), "{lines:?}");
    assert!(lines[2].starts_with("0     a     left     h:1 "), "{lines:?}");
    assert!(lines[3].starts_with("1     b     present  h:1 "), "{lines:?}");
    let json = ask(&["cluster", "show", "alpha", "--output", "json"]).expect(0).json();
    assert_eq!((&json["left"][0]["name"], &json["members"][0]["rank"]), (&"a".into(), &1.into()));

    let several = ask(&["leave", "alpha"]);
    several.expect(2).says(&["kept here: a, b; say which with --name", "Usage: xlreg leave"]);
    ask(&["leave", "alpha", "--name", "z"]).expect(5).says(&["no member z", "but: a, b"]);
    ask(&["leave", "beta"]).expect(5).says(&["no member of cluster beta", "--identity"]);
    ask(&["leave", "alpha", "--identity", "none"]).expect(5).says(&["no identity in none"]);
    world.run(&["id", "new", "stranger"]).expect(0);
    let stranger = ask(&["leave", "alpha", "--identity", "stranger"]);
    stranger.expect(5).says(&["not a member of this cluster", "hint: see who is"]);
    let dir = world.path("data/xlreg/members/alpha/a");
    let beta = ask(&["leave", "beta", "--identity", dir.to_str().unwrap()]);
    beta.expect(5).says(&["leaving cluster beta", "cannot find cluster"]);

    // The place is the same one, and nobody else's meanwhile.
    let third = ["join", "alpha", "--name", "c", "--endpoint", "h:1", "--no-wait"];
    ask(&third).expect(6);
    join("a");
    let whole = ask(&["cluster", "wait", "alpha", "--output", "json"]).expect(0).json();
    let names: Vec<_> =
        whole["members"].as_array().unwrap().iter().map(|member| &member["name"]).collect();
    assert_eq!((json!(names), &whole["left"]), (json!(["a", "b"]), &json!([])));
}
