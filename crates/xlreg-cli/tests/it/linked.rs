//! Every command about a cluster, by an invitation in the cluster's place: it does, and tells no secret.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{Server, World, own_address};
use crate::usage::{subcommands, with_help};

/// What stands before the cluster, what behind it, and with which code it ends where `a` has joined and
/// `b` is not there. In an order in which all can be done.
const COMMANDS: [(&[&str], &[&str], i32); 13] = [
    (&["cluster", "show"], &[], 0),
    (&["cluster", "wait"], &["--timeout", "20s"], 0),
    (&["cluster", "watch"], &[], 0),
    (&["cluster", "verify"], &["--name", "a", "--timeout", "1s"], 7),
    (&["cluster", "export"], &["--name", "a", "--format", "ssh", "out"], 0),
    (&["tunnel"], &["--name", "a"], 0),
    (&["token", "create"], &["--invitation-file", "another"], 0),
    (&["token", "list"], &[], 0),
    (&["token", "revoke"], &["00000000"], 5),
    (&["leave"], &["--name", "a"], 0),
    (&["join"], &["--name", "a", "--endpoint", "h:1", "--no-wait"], 0),
    (&["cluster", "expel"], &["b"], 0),
    (&["cluster", "delete"], &[], 0),
];

/// A cluster `alpha` of `a` and `b`, who know the registry by an invitation with a token alone.
struct Invited {
    world: World,
    server: Server,
    invitation: String,
}

impl Invited {
    fn new() -> Self {
        let world = World::new();
        let server = world.registry();
        let create = ["cluster", "create", "alpha", "-n", "2", "--policy", "token"];
        let made = world.ask(&server, &[&create[..], &["--output", "json"]].concat());
        let invitation = made.expect(0).json()["invitation"].as_str().unwrap().to_owned();
        fs::write(world.path("work/file"), format!("{invitation}\n")).unwrap();
        let invited = Self { world, server, invitation };
        for name in ["a", "b"] {
            let endpoint = own_address().replace(":0", ":7000");
            let join = ["join", "@file", "--name", name, "--endpoint", &endpoint, "--no-wait"];
            invited.world.run(&join).expect(0);
        }
        invited
    }

    /// Runs the command; one that goes on until it is told to end is told so once it has begun.
    #[track_caller]
    fn does(&self, (before, after, code): (&[&str], &[&str], i32), cluster: &str) {
        let running = self.world.start(&[before, &[cluster], after].concat());
        match before {
            ["cluster", "watch"] => {
                running.lines("snapshot", 1);
                running.kill();
            }
            ["tunnel"] => {
                running.lines("RANK", 1);
                running.signal(Signal::SIGTERM);
                running.finish().expect(code);
            }
            _ => drop(running.finish().expect(code)),
        }
    }
}

#[test]
fn every_command_about_a_cluster_takes_an_invitation() {
    let invited = Invited::new();
    let takes_one = |words: &Vec<String>| {
        let help = crate::support::Running::start(with_help(&invited.world, words, "100")).finish();
        help.out.lines().any(|line| line.starts_with("Usage:") && line.contains("CLUSTER>"))
    };
    let mut all: Vec<_> = subcommands(&invited.world).into_iter().filter(takes_one).collect();
    let mut ours: Vec<_> = COMMANDS.map(|(before, ..)| before.to_vec()).into();
    all.sort();
    ours.sort();
    assert_eq!(ours, all);
    let (last, others) = COMMANDS.split_last().unwrap();
    for command in others {
        let once = command.0 == ["cluster", "expel"];
        invited.does(*command, "@file");
        if !once {
            invited.does(*command, &invited.invitation);
        }
    }
    invited.does(*last, &invited.invitation);
}

/// Who has joined need not say again where; and what is kept of that is no secret.
#[test]
fn a_member_knows_its_registry() {
    let Invited { world, server, invitation } = Invited::new();
    let (_, secret) = invitation.split_once("&token=").unwrap();
    let kept = fs::read_to_string(world.path("data/xlreg/members/alpha/a/registry.dat")).unwrap();
    assert!(kept.contains(&server.address.to_string()) && !kept.contains(&secret[4..20]), "{kept}");
    let invited = Invited { world, server, invitation };
    for command in COMMANDS {
        invited.does(command, "alpha");
    }
    invited.world.run(&["cluster", "show", "beta"]).expect(2).says(&["say which registry"]);
    // Kept beside an identity of one's own, for the cluster it was in last.
    let world = World::new();
    world.ask(&invited.server, &["cluster", "create", "beta", "-n", "2"]).expect(0);
    let join = ["join", "beta", "--endpoint", "h:1", "--no-wait", "--identity", "me"];
    world.ask(&invited.server, &join).expect(0);
    for command in [&["cluster", "show"][..], &["leave"]] {
        let asked = |cluster| world.run(&[command, &[cluster, "--identity", "me"]].concat());
        asked("beta").expect(0);
        asked("alpha").expect(2).says(&["say which registry"]);
    }
}

#[test]
fn members_of_several_registries_are_told_apart() {
    let world = World::new();
    let servers = ["one", "two"]
        .map(|data| world.serve(&["--listen", "127.0.0.1:0", "--data", data, "--name", data]));
    for (server, name) in servers.iter().zip(["a", "b"]) {
        world.ask(server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
        let join = ["join", "alpha", "--name", name, "--endpoint", "h:1", "--no-wait"];
        world.ask(server, &join).expect(0);
    }
    let [one, two] = &servers;
    let show = ["cluster", "show", "alpha"];
    let done = world.run(&show);
    let told = [one, two].map(|server| server.address.to_string());
    done.expect(2).says(&[
        "at several registries",
        "a at ",
        "b at ",
        &told[0],
        &told[1],
        "--registry",
    ]);
    world.ask(two, &show).expect(0).prints(&[" b "]);
    let credentials = one.credentials.to_str().unwrap();
    // The flag goes before the variable.
    let flag = [&show[..], &["--registry", credentials]].concat();
    world.ask(two, &flag).expect(0).prints(&[" a "]);
    world.run(&["leave", "alpha"]).expect(2).says(&["several members", "--name"]);
    for name in ["a", "b"] {
        world.run(&["leave", "alpha", "--name", name]).expect(0);
        let back = ["join", "alpha", "--name", name, "--endpoint", "h:1", "--no-wait"];
        world.run(&back).expect(0).prints(&["1 of 2"]);
    }
    fs::write(world.path("data/xlreg/members/alpha/a/registry.dat"), "xlReg").unwrap();
    world.run(&["leave", "alpha", "--name", "a"]).expect(1).says(&["registry.dat"]);
}

#[test]
fn no_command_tells_the_secret_of_an_invitation() {
    let Invited { world, server, invitation } = Invited::new();
    let (head, secret) = invitation.split_once("&token=").unwrap();
    let key = head.split_once("?key=").unwrap().1;
    let first = if key.starts_with('A') { "B" } else { "A" };
    let other_key = invitation.replace(key, &format!("{first}{}", &key[1..]));
    let elsewhere = invitation.replace(&server.address.to_string(), "127.0.0.1:1");
    let cut = &invitation[..invitation.len() - 1];
    let bare = invitation.replace("xlreg://", "xlreg:");
    let altered = invitation.replace("xlreg://", "reg://");
    let beheaded = invitation.replace("xlreg:", "");
    for (before, after, _) in COMMANDS {
        for (text, code) in [
            (&*other_key, 3),
            (&elsewhere, 3),
            (cut, 2),
            (&bare, 2),
            (&altered, 2),
            (&beheaded, 2),
            ("@no file", 1),
        ] {
            let done = world.run(&[before, &[text], after].concat());
            done.expect(code);
            let told = [&*done.out, &*done.err].concat();
            assert!(!told.contains(&secret[4..20]), "{done:#?}");
        }
        // Where a file is expected.
        let misplaced = [before, &["alpha"], after, &["--registry", &invitation]].concat();
        let done = world.run(&misplaced);
        done.expect(1).says(&["(a secret)"]);
        assert!(!done.err.contains(&secret[4..20]), "{done:#?}");
    }
}
