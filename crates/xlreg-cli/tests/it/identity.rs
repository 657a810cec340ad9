//! `xlreg id` and `xlreg cred`: who somebody is, and what is never shown of them.

use std::fs;

use crate::support::{World, key_lines};

#[test]
fn an_identity_is_made_once_and_shown_without_its_private_keys() {
    let world = World::new();
    let made = world.run(&["id", "new", "me", "--name", "alice"]);
    made.expect(0).prints(&["name       alice\n", "id         ", "kept in    "]);
    made.says(&["next: xlreg join CLUSTER --registry CRED --identity /"]);
    let shown = world.run(&["id", "show", "me"]);
    assert_eq!(shown.expect(0).out, made.out);

    let again = world.run(&["id", "new", "me"]);
    again.expect(8).says(&["there is an identity in me already", "stays as it is"]);
    let mut by_env = world.xlreg(&["id", "show", "--output", "json"]);
    by_env.env("XLREG_IDENTITY", "me");
    let json = crate::support::Running::start(by_env).finish();
    let view = json.expect(0).json();
    assert_eq!(view["name"], "alice");
    assert!(made.out.contains(view["id"].as_str().unwrap()));
    for key in ["sig_key", "comms_key"] {
        assert!(view[key].as_str().unwrap().starts_with("ssh-rsa "));
        assert_eq!(view[format!("{key}_sha256")].as_str().unwrap().len(), 64);
    }
    for line in key_lines(&world.path("work/me")) {
        // The longest lines are the public keys, which are meant to be seen.
        if line.len() < 100 {
            for done in [&made, &shown, &again, &json] {
                assert!(!done.out.contains(&line) && !done.err.contains(&line));
            }
        }
    }
}

#[test]
fn an_identity_that_is_not_there_or_damaged_is_named() {
    let world = World::new();
    let none = world.run(&["id", "show", "me"]);
    none.expect(5).says(&["no identity in me", "xlreg id new me"]);
    fs::create_dir_all(world.path("work/me/.xlattice")).unwrap();
    fs::write(world.path("work/me/.xlattice/node.config"), "node {\nrubbish").unwrap();
    world.run(&["id", "show", "me"]).expect(1).says(&["node.config", "line"]);
    // A file stands where the directory should be.
    fs::write(world.path("work/file"), "").unwrap();
    world.run(&["id", "new", "file/below"]).expect(1).says(&["file/below"]);
}

#[test]
fn credentials_are_shown_and_checked_against_their_server() {
    let world = World::new();
    let server = world.registry();
    let file = server.credentials.to_str().unwrap();
    let shown = world.run(&["cred", "show", file, "--output", "json"]).expect(0).json();
    assert_eq!(
        (&shown["name"], &shown["version"], &shown["wire"], &shown["endpoints"][0]),
        (&"xlReg".into(), &"2.0".into(), &"2".into(), &server.address.to_string().into())
    );
    let human = world.ask(&server, &["cred", "show"]);
    human.expect(0).prints(&["xlReg", "2.0 (over TLS)", shown["id"].as_str().unwrap()]);

    world.run(&["cred", "check", file]).expect(0).prints(&["sound", "sig key", "version 2.0"]);
    let json = world.ask(&server, &["cred", "check", "--output", "json"]).expect(0).json();
    let mut expected = serde_json::json!({
        "sound": true, "reached": true, "version": "2.0", "identified": false
    });
    assert_eq!(json, expected);
    let args = ["cred", "check", "--identify", "--output", "json"];
    expected["identified"] = true.into();
    assert_eq!(world.ask(&server, &args).expect(0).json(), expected);

    // Another registry's keys at this one's address.
    let other = world.serve(&["--listen", "127.0.0.1:0", "--data", "other"]);
    let text = fs::read_to_string(&other.credentials).unwrap();
    let wanted = world.ask(&other, &["cred", "show", "--output", "json"]).expect(0).json();
    let forged = text.replace(&other.address.to_string(), &server.address.to_string());
    fs::write(world.path("work/forged"), &forged).unwrap();
    let wrong_key = [
        &server.address.to_string(),
        shown["sig_key_sha256"].as_str().unwrap(),
        wanted["sig_key_sha256"].as_str().unwrap(),
        "another registry",
        "get its credentials or an invitation again",
    ];
    world.run(&["cred", "check", "forged"]).expect(3).says(&wrong_key);
    // As of before version 2, over the old wire.
    let old = |text: &str| text.replace("Version: 2.0", "Version: 1.9.24");
    fs::write(world.path("work/forged"), old(&forged)).unwrap();
    world.run(&["cred", "show", "forged"]).expect(0).prints(&["1.9.24 (dialect 1.9)"]);
    let done = world.run(&["cred", "check", "forged"]);
    done.expect(3).says(&[
        &server.address.to_string(),
        "hint: ",
        "--dialect",
        "current credentials",
    ]);

    // Only the sig key is another's. Over TLS that is all that counts; over the old wire the server
    // holds the keys of the hello, and yet is not it.
    let sig = |text: &str| {
        text.lines().find(|line| line.trim_start().starts_with("SigPubKey")).unwrap().to_owned()
    };
    let own = fs::read_to_string(file).unwrap();
    let mixed = own.replace(&sig(&own), &sig(&text));
    fs::write(world.path("work/mixed"), &mixed).unwrap();
    world.run(&["cred", "check", "mixed"]).expect(3).says(&wrong_key);
    fs::write(world.path("work/mixed"), old(&mixed)).unwrap();
    let done = world.run(&["cred", "check", "mixed"]);
    done.expect(0).prints(&["comms key", "version 2.0"]);
    world.run(&["cred", "check", "mixed", "--identify"]).expect(8).says(&["another sig key"]);

    let address = server.address.to_string();
    let file = file.to_owned();
    server.stop();
    world.run(&["cred", "check", &file]).expect(3).says(&[&address, "is it running"]);
    let offline = world.run(&["cred", "check", &file, "--offline", "--output", "json"]);
    assert_eq!(offline.expect(0).json()["reached"], false);
}

#[test]
fn damaged_credentials_are_refused_with_the_line() {
    let world = World::new();
    let server = world.registry();
    let text = fs::read_to_string(&server.credentials).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut damaged: Vec<_> = (0..lines.len())
        .filter(|at| !lines[*at].is_empty())
        .flat_map(|at| {
            let (mut less, mut more) = (lines.clone(), lines.clone());
            less.remove(at);
            more.insert(at, lines[at]);
            [less.join("\n"), more.join("\n")]
        })
        .collect();
    damaged.extend([String::new(), "\0".to_owned(), text[..text.len() / 2].to_owned()]);
    for text in &damaged {
        fs::write(world.path("work/bad"), text).unwrap();
        let done = world.run(&["cred", "check", "--offline", "bad"]);
        // An endpoint may stand there twice.
        if text.matches(&server.address.to_string()).count() == 2 {
            done.expect(0);
        } else {
            done.expect(1).says(&["bad is not usable: credentials, line", "hint: "]);
        }
    }
    world.run(&["cred", "check", "none"]).expect(1).says(&["none", "No such file", "hint: "]);
    world.run(&["cred", "show", "."]).expect(1).says(&["directory"]);
}
