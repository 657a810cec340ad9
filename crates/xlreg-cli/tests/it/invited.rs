//! Tokens and invitations: one line, or one file, that lets another machine in; and no other.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Done, Running, Server, World, eventually};

/// A machine that knows nothing but what it was sent.
fn join(world: &World, invitation: &str, who: &str, more: &[&str]) -> Done {
    let join = ["join", invitation, "--name", who, "--endpoint", "h:1", "--no-wait"];
    let join = [&join[..], &["--timeout", "3s"]].concat();
    world.run(&[&join[..], more].concat())
}

fn create(world: &World, server: &Server, flags: &[&str]) -> Value {
    let create = ["cluster", "create", "alpha", "-n", "3", "--policy", "token", "--output", "json"];
    let made = world.ask(server, &[&create[..], flags].concat());
    assert_eq!(made.expect(0).err, "", "JSON is for programs, who need no hints");
    made.json()
}

fn tokens(world: &World, server: &Server) -> Vec<Value> {
    let told = world.ask(server, &["token", "list", "alpha", "--output", "json"]);
    told.expect(0).json().as_array().unwrap().clone()
}

#[test]
fn a_token_lets_in_as_many_as_it_is_for_and_who_comes_back_uses_none() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    let made = create(&world, &server, &["--token-uses", "1"]);
    let invitation = made["invitation"].as_str().unwrap();
    let token = made["token"].as_str().unwrap();
    let none = ask(&["join", "alpha", "--name", "a", "--endpoint", "h:1", "--no-wait"]);
    none.expect(4).says(&["joining alpha", "with a token only", "xlreg token create", "--token"]);

    join(&world, invitation, "a", &[]).expect(0).prints(&["1 of 3, incomplete"]);
    join(&world, invitation, "b", &[]).expect(4).says(&["used as often", "xlreg token create"]);
    join(&world, invitation, "a", &["--endpoint", "h:2"]).expect(0);
    let list = tokens(&world, &server);
    assert_eq!((list.len(), &list[0]["token"]), (1, &token.into()));
    assert_eq!((&list[0]["uses"], &list[0]["max_uses"]), (&1.into(), &1.into()));
    assert_eq!(list[0]["state"], "used up");

    // The secret alone will do, where the registry is known.
    let issued = ask(&["token", "create", "alpha", "--label", "for b", "--output", "json"]);
    let issued = issued.expect(0).json();
    let secret = issued["secret"].as_str().unwrap();
    assert!(issued["invitation"].as_str().unwrap().ends_with(&format!("&token={secret}")));
    let enter = ["join", "alpha", "--name", "b", "--endpoint", "h:1", "--no-wait"];
    ask(&[&enter[..], &["--token", secret]].concat()).expect(0);
    let mut third = world.asking(&server, &["join", "alpha", "--name", "c", "--endpoint", "h:1"]);
    third.env("XLREG_TOKEN", secret);
    Running::start(third).finish().expect(0).prints(&["3 of 3, complete"]);
    assert_eq!(tokens(&world, &server)[1]["uses"], 2);
    let table = ask(&["token", "list", "alpha"]);
    let lines: Vec<_> = table.expect(0).out.lines().collect();
    assert!(lines[0].starts_with("TOKEN     USED    EXPIRES "), "{lines:?}");
    assert!(lines[1].starts_with(&format!("{token}  1 of 1  20")), "{lines:?}");
    assert!(lines[1].contains("Z  used up"), "{lines:?}");
    assert!(lines[2].ends_with("Z  good     for b"), "{lines:?}");
    assert!(lines[2].contains("  2 of 3  20"), "{lines:?}");
    assert!(!table.out.contains("xlt_"));
}

#[test]
fn a_token_that_is_revoked_expired_or_anothers_is_of_no_use() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    let made = create(&world, &server, &[]);
    let (invitation, token) =
        (made["invitation"].as_str().unwrap(), made["token"].as_str().unwrap());
    join(&world, invitation, "a", &[]).expect(0);
    let revoke = ["token", "revoke", "alpha", token];
    assert_eq!(ask(&revoke).expect(0).out, format!("token {token} is of no use any more\n"));
    ask(&revoke)
        .expect(5)
        .says(&["no token of this ID", "hint: see which it has: xlreg token list"]);
    ask(&["token", "revoke", "alpha", "zz"]).expect(2).says(&["8 lower-case hex digits"]);
    join(&world, invitation, "b", &[]).expect(4).says(&["no token of this cluster", "hint: ask"]);
    join(&world, invitation, "a", &[]).expect(0);
    assert_eq!(ask(&["token", "list", "alpha"]).expect(0).out, "cluster alpha has no tokens\n");

    let brief = ask(&["token", "create", "alpha", "--token-ttl", "1s", "--output", "json"]);
    let brief = brief.expect(0).json();
    let brief = brief["invitation"].as_str().unwrap();
    // Both to the second, so that this is none too early.
    eventually("it has expired", || {
        let list = tokens(&world, &server);
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        now.as_str() > list[0]["expires"].as_str().unwrap()
    });
    join(&world, brief, "late", &[]).expect(4).says(&["the token has expired", "hint: ask"]);
    for (flag, value) in [("--token-ttl", "0s"), ("--token-uses", "0"), ("--token-uses", "1001")] {
        ask(&["token", "create", "alpha", flag, value]).expect(2).says(&[flag]);
    }
    let long = "l".repeat(65);
    ask(&["token", "create", "alpha", "--label", &long]).expect(4).says(&["label", "64 bytes"]);

    // Another cluster's.
    ask(&["cluster", "create", "beta", "-n", "2", "--policy", "token"]).expect(0);
    let other = ask(&["token", "create", "beta", "--output", "json"]).expect(0).json();
    let other = other["secret"].as_str().unwrap();
    let args = ["join", "alpha", "--name", "b", "--endpoint", "h:1", "--token", other];
    ask(&args).expect(4).says(&["no token of this cluster"]);
}

/// What people see of it: a line to copy, which holds all that the other machine needs.
#[test]
fn what_is_handed_out_is_said_once_and_not_at_all_if_it_is_in_a_file() {
    let world = World::new();
    let server = world.registry();
    let ask = |args: &[&str]| world.ask(&server, args);
    let create = ["cluster", "create", "alpha", "-n", "2", "--policy", "token"];
    let made = ask(&[&create[..], &["--endpoints", "2"]].concat());
    made.expect(0).prints(&["cluster alpha (", "\ntoken ", " for 2 members, until 20"]);
    assert_eq!(made.err.matches("xlt_").count(), 1);
    assert!(!made.out.contains("xlt_"));
    let line = made.err.strip_prefix("next, for each member: ").unwrap().trim_end();
    let line = line.replace("HOST:PORT", "127.0.0.1:4001");
    assert_eq!(line.matches("127.0.0.1:4001").count(), 2);
    let mut shell = world.shell(&format!("{line} --name a --no-wait"));
    let path = std::path::Path::new(crate::support::XLREG).parent().unwrap();
    shell.env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap()));
    Running::start(shell).finish().expect(0).prints(&["1 of 2, incomplete"]);

    let file = ["--invitation-file", "for b"];
    let made = ask(&[&["token", "create", "alpha"], &file[..]].concat());
    made.expect(0)
        .prints(&["token "])
        .says(&["xlreg join '@for b' --endpoint HOST:PORT --endpoint"]);
    let path = world.path("work/for b");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let json = ask(&[&["token", "create", "alpha", "--output", "json"], &file[..]].concat());
    let told = json.expect(0).json();
    assert_eq!((&told["invitation"], &told["secret"]), (&Value::Null, &Value::Null));
    assert_eq!(told["invitation_file"], "for b");
    for done in [&made, &json] {
        assert!(!done.out.contains("xlt_") && !done.err.contains("xlt_"), "{done:#?}");
    }
    assert_ne!(fs::read_to_string(&path).unwrap(), text);
    let endpoint = ["--endpoint", "h:2"];
    join(&world, "@for b", "b", &endpoint).expect(0).prints(&["2 of 2, complete"]);
    let unwritable = ask(&["token", "create", "alpha", "--invitation-file", "none/file"]);
    unwritable.expect(1).says(&["writing the invitation none/file"]);

    // Nobody needs a token for an open cluster; nor does its invitation have one.
    let made = ask(&["cluster", "create", "open", "-n", "2", "--invitation-file", "open"]);
    made.expect(0).says(&["xlreg join @open --endpoint HOST:PORT\n"]);
    assert!(!fs::read_to_string(world.path("work/open")).unwrap().contains("token"));
    ask(&["token", "create", "open"]).expect(0).says(&["nobody needs it"]);
}

/// Whoever was invited asks, watches and leaves by the same line.
#[test]
fn an_invitation_stands_for_the_registry_in_every_command_about_the_cluster() {
    let world = World::new();
    let server = world.registry();
    let made = create(&world, &server, &[]);
    let invitation = made["invitation"].as_str().unwrap();
    fs::write(world.path("work/file"), format!("\n  {invitation}\n\n")).unwrap();
    for (who, named) in [("a", invitation), ("b", "@file"), ("c", &format!(" {invitation} "))] {
        join(&world, named, who, &[]).expect(0);
        world.run(&["cluster", "show", named]).expect(0).prints(&[&format!(" {who} ")]);
    }
    world.run(&["cluster", "wait", "@file"]).expect(0).prints(&["3 of 3, complete"]);
    world
        .run(&["leave", invitation, "--name", "a"])
        .expect(0)
        .prints(&["a has left cluster alpha"]);
    world.run(&["token", "list", "@file"]).expect(0).prints(&[made["token"].as_str().unwrap()]);
    world.run(&["cluster", "delete", "@file"]).expect(0);
    world.run(&["cluster", "show", "@file"]).expect(5).says(&["cannot find cluster"]);
}

/// A text that is cut or altered, wherever, is told so, and nobody prints what may be a secret.
#[test]
fn an_invitation_that_is_not_whole_is_refused_and_never_repeated() {
    let world = World::new();
    let server = world.registry();
    let made = create(&world, &server, &[]);
    let invitation = made["invitation"].as_str().unwrap();
    let (head, token) = invitation.split_once("&token=").unwrap();
    let at = |what: &str| invitation.find(what).unwrap();
    let without = |from: usize, to: usize| [&invitation[..from], &invitation[to..]].concat();
    for (text, part) in [
        (invitation[..invitation.len() - 1].to_owned(), "36 characters, got 35"),
        (invitation[..at("&token=") + 3].to_owned(), "parameter 2"),
        (invitation[..at("&token=") - 1].to_owned(), "32 bytes in base64url"),
        (invitation[..at("?key=")].to_owned(), "lacks the registry's key"),
        (invitation[..at("alpha")].to_owned(), "lacks the cluster"),
        (without(0, 2), "begins otherwise"),
        (without(at("?key="), at("&token=")), "the cluster in the invitation"),
        (without(at("&token=") + 7, at("&token=") + 8), "begins with"),
        (format!("{invitation}x"), "36 characters, got 37"),
        (format!("{head}&token={}", token.to_uppercase()), "begins with"),
        (format!("{head}&token={}", token.replacen(char::is_alphabetic, "1", 9)), "begins with"),
        (format!("{head}\n&token={token}"), "one word"),
        (format!("{invitation}&token={token}"), "repeats one before it"),
        (invitation.replace("xlreg:", "http:"), "begins otherwise"),
        (format!("{invitation}&more={}", "x".repeat(4096)), "at most 4096 bytes"),
    ] {
        let done = join(&world, &text, "a", &[]);
        done.expect(2).says(&[part, "Usage: xlreg join"]);
        fs::write(world.path("work/file"), &text).unwrap();
        let from_file = join(&world, "@file", "a", &[]);
        from_file.expect(1).says(&[part, "reading the invitation in file"]);
        for done in [done, from_file] {
            let secret = &token[8..20];
            assert!(!done.err.contains(secret) && done.out.is_empty(), "{done:#?}");
        }
    }
    for token in [&token[..20], "secret-by-mistake"] {
        let mut by_env = world.asking(&server, &["join", "alpha", "--endpoint", "h:1"]);
        by_env.env("XLREG_TOKEN", token);
        let by_env = Running::start(by_env).finish();
        let by_flag = world.ask(&server, &["join", "alpha", "--endpoint", "h:1", "--token", token]);
        for (done, name) in [(by_env, "XLREG_TOKEN: a join"), (by_flag, "--token: a join")] {
            done.expect(2).says(&[name, "Usage: xlreg join"]);
            assert!(!done.err.contains(token), "{done:#?}");
        }
    }
    join(&world, "@none", "a", &[]).expect(1).says(&["reading the invitation in none", "No such"]);
    join(&world, "@.", "a", &[]).expect(1).says(&["reading the invitation in ."]);
    assert_eq!(world.list("data").len(), 1, "nothing was made for a member");
    assert!(!world.path("data/xlreg/members").exists());

    // Whole, but not what it was: another key, address, cluster or token.
    let key = &invitation[at("?key=") + 5..at("&token=")];
    let first = if key.starts_with('A') { "B" } else { "A" };
    let other_key = format!("{first}{}", &key[1..]);
    let last = if token.ends_with('a') { "b" } else { "a" };
    let address = server.address.to_string();
    for (text, code, part) in [
        (invitation.replace(key, &other_key), 3, "it is another registry"),
        (
            invitation.replace(&address, "127.0.0.1:1"),
            3,
            "cannot reach the registry at 127.0.0.1:1",
        ),
        (invitation.replace("/alpha?", "/beta?"), 5, "cannot find cluster"),
        (
            format!("{head}&token={}{last}", &token[..token.len() - 1]),
            4,
            "no token of this cluster",
        ),
        (head.to_owned(), 4, "with a token only"),
    ] {
        join(&world, &text, "a", &[]).expect(code).says(&["joining ", part]);
    }
    // A token is no cluster's name, and must not be sent as one.
    let done = join(&world, token, "a", &[]);
    done.expect(2).says(&["give it with --token", "Usage: xlreg join"]);
    assert!(!done.err.contains(&token[8..20]), "{done:#?}");
    // What a later version may add is skipped.
    join(&world, &format!("{invitation}&later=1"), "a", &[]).expect(0);
    assert_eq!(tokens(&world, &server)[0]["uses"], json!(1));
}

/// A token whose secret is lost would be good all the same, and a cluster there already.
#[test]
fn nothing_is_made_for_an_invitation_that_can_not_be_written() {
    let world = World::new();
    let server = world.registry();
    let create = ["cluster", "create", "alpha", "-n", "2", "--policy", "token"];
    for (file, part) in [("../data", "it is a directory"), ("none/file", "No such file")] {
        let to = [&create[..], &["--invitation-file", file]].concat();
        world.ask(&server, &to).expect(1).says(&[&format!("invitation {file}: {part}")]);
        world.ask(&server, &["cluster", "show", "alpha"]).expect(5);
    }
}

/// Each is a file, and each is for one place.
#[test]
fn an_invitation_in_the_place_of_credentials_is_told_and_its_token_is_not() {
    let world = World::new();
    let server = world.registry();
    let file = ["--policy", "token", "--invitation-file", "inv.txt"];
    let create = [&["cluster", "create", "alpha", "-n", "2"], &file[..]].concat();
    world.ask(&server, &create).expect(0);
    let text = fs::read_to_string(world.path("work/inv.txt")).unwrap();
    let (_, secret) = text.trim().split_once("token=xlt_").unwrap();
    let done = world.run(&["cluster", "list", "--registry", "inv.txt"]);
    done.expect(1).says(&["it is an invitation", "as @FILE"]);
    assert!(!done.err.contains(secret), "{}", done.err);
    let directory = world.run(&["cluster", "list", "--registry", "registry"]);
    directory.expect(1).says(&["hint: name the file in it", "regCred.dat"]);
}

#[test]
fn who_was_refused_is_no_member_that_could_be_meant() {
    let world = World::new();
    let server = world.registry();
    let invitation = create(&world, &server, &[])["invitation"].as_str().unwrap().to_owned();
    let refused = ["join", "alpha", "--endpoint", "h:9", "--no-wait"];
    world.ask(&server, &refused).expect(4);
    // It waits in vain, but is in.
    let waits = ["join", &invitation, "--name", "a", "--endpoint", "h:1", "--timeout", "1s"];
    world.run(&waits).expect(7).says(&["joined: 1 of 3 are here; waiting for the others, 1s"]);
    assert_eq!(world.list("data/xlreg/members/alpha").len(), 2);
    let wait = ["cluster", "wait", "alpha", "--timeout", "300ms"];
    world.ask(&server, &wait).expect(7).says(&["cluster alpha: 1 of 3 are here; waiting"]);
    world.run(&["leave", "alpha"]).expect(0);
}
