//! What everybody sees first: help, misuse, completions, manual pages; and pipes that close.

use std::process::{Command, Stdio};

use crate::support::{Running, World};
use crate::terminal::Terminal;

/// As scripts set them that pass on what they have not been given.
#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let world = World::new();
    let cases: [(&[&str], i32, &str); 4] = [
        (&["cluster", "list"], 2, "--registry <CRED>"),
        (
            &["cluster", "wait", "a", "--registry", "none"],
            1,
            "reading the registry's credentials none",
        ),
        (&["id", "show"], 2, "<DIR>"),
        (&["id", "new", "me"], 0, "next: "),
    ];
    for (args, code, told) in cases {
        let mut command = world.xlreg(args);
        for variable in [
            "XLREG_REGISTRY",
            "XLREG_IDENTITY",
            "XLREG_TIMEOUT",
            "XLREG_DIALECT",
            "XLREG_OUTPUT",
            "XLREG_KEY_POOL",
        ] {
            command.env(variable, "");
        }
        Running::start(command).finish().expect(code).says(&[told]);
    }
}

/// Misuse exits with 2, and shows that subcommand's usage and what to do instead.
#[test]
fn misuse_shows_the_usage_of_that_subcommand_and_a_hint() {
    let world = World::new();
    let long = "n".repeat(129);
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["Usage: xlreg <COMMAND>"]),
        (&["cluster"], &["Usage: xlreg cluster <COMMAND>"]),
        (&["srve"], &["similar", "'serve'"]),
        (&["cluster", "shw"], &["'show'", "Usage: xlreg cluster <COMMAND>"]),
        (&["run", "-n", "1", "--", "true"], &["2..=64", "Usage: xlreg run"]),
        (&["run", "-n", "65", "--", "true"], &["2..=64", "Usage: xlreg run"]),
        (&["run", "-n", "2"], &["<CMD>", "after `--`", "Usage: xlreg run"]),
        (&["run", "-n", "2", "sh", "-c", "true"], &["'sh'", "after `--`", "Usage: xlreg run"]),
        (&["run", "--", "true"], &["--members", "Usage: xlreg run"]),
        (&["serve", "--listen", "nowhere"], &["HOST:PORT", "Usage: xlreg serve"]),
        (&["serve", "--listen", "h:65536"], &["HOST:PORT", "Usage: xlreg serve"]),
        (&["serve", "--listen", ":7000"], &["HOST:PORT", "Usage: xlreg serve"]),
        (&["serve", "--listen", "::1:7000"], &["[::1]:7000", "Usage: xlreg serve"]),
        (&["serve", "--listen", "0.0.0.0:0"], &["--advertise HOST", "Usage: xlreg serve"]),
        (&["serve", "--listen", "[::]:0"], &["--advertise HOST", "Usage: xlreg serve"]),
        (&["serve", "--advertise", "a b"], &["HOST or HOST:PORT", "Usage: xlreg serve"]),
        (&["serve", "--advertise", "h:0"], &["HOST or HOST:PORT", "Usage: xlreg serve"]),
        (&["serve", "--name", "a-b"], &["'-'", "Usage: xlreg serve"]),
        (&["serve", "--log", "loud"], &["debug", "Usage: xlreg serve"]),
        (&["serve", "--ephemeral", "--data", "d"], &["--data", "Usage: xlreg serve"]),
        (&["cluster", "show", "a"], &["--registry", "XLREG_REGISTRY", "Usage: xlreg cluster show"]),
        (&["cred", "check"], &["XLREG_REGISTRY", "Usage: xlreg cred check"]),
        (&["cluster", "create", "a-b", "-n", "2"], &["letter", "Usage: xlreg cluster create"]),
        (&["cluster", "create", &long, "-n", "2"], &["128 bytes", "Usage: xlreg cluster create"]),
        (&["cluster", "create", "a", "-n", "1"], &["2..=64", "Usage: xlreg cluster create"]),
        (&["cluster", "create", "a", "-n", "65"], &["2..=64", "Usage: xlreg cluster create"]),
        (&["cluster", "create", "a", "-n", "2", "--endpoints", "3"], &["1..=2"]),
        (&["cluster", "wait", "a", "--timeout", "5"], &["500ms", "Usage: xlreg cluster wait"]),
        (&["cluster", "wait", "a", "--timeout", "0s"], &["before it began"]),
        (&["cluster", "wait", "a", "--timeout", "9y"], &["more than a year"]),
        (&["join", "a", "--registry", "r"], &["--endpoint", "Usage: xlreg join"]),
        (&["join", "a", "--endpoint", "h:0"], &["from 1 to 65535", "Usage: xlreg join"]),
        (&["join", "a", "--endpoint", "h"], &["no ':'", "Usage: xlreg join"]),
        (&["join", "7up", "--endpoint", "h:1"], &["'7'", "Usage: xlreg join"]),
        (&["join", "a", "--endpoint", "h:1", "--dialect", "2.0"], &["1.8, 1.9"]),
        (&["join", "a", "--endpoint", "h:1", "--output", "xml"], &["human, json"]),
        (&["join", "a", "--endpoint", "h:1"], &["--registry", "invitation", "Usage: xlreg join"]),
        (&["leave", "a"], &["--registry", "XLREG_REGISTRY", "Usage: xlreg leave"]),
        (&["leave"], &["<CLUSTER>", "Usage: xlreg leave"]),
        (&["cluster", "list"], &["--registry", "XLREG_REGISTRY", "Usage: xlreg cluster list"]),
        (&["cluster", "watch", "a"], &["--registry", "invitation", "Usage: xlreg cluster watch"]),
        (&["cluster", "watch", "a", "--output", "xml"], &["table, json"]),
        (&["cluster", "expel", "a"], &["<MEMBER>", "Usage: xlreg cluster expel"]),
        (&["cluster", "delete", "a"], &["--registry", "Usage: xlreg cluster delete"]),
        (&["cluster", "delete", "a", "b"], &["'b'", "Usage: xlreg cluster delete"]),
        (&["cluster", "create", "a", "-n", "2", "--policy", "all"], &["open, token, keys"]),
        (
            &["cluster", "create", "a", "-n", "2", "--token-ttl", "1h", "--registry", "none"],
            &["go with --policy token"],
        ),
        (&["token"], &["Usage: xlreg token <COMMAND>"]),
        (&["token", "create", "a"], &["--registry", "Usage: xlreg token create"]),
        (&["token", "revoke", "a"], &["<TOKEN>", "Usage: xlreg token revoke"]),
        (&["token", "revoke", "a", "A648CEEE"], &["8 lower-case hex digits"]),
        (&["id", "rotate", "d"], &["--registry", "Usage: xlreg id rotate"]),
        (&["cred", "export"], &["XLREG_REGISTRY", "Usage: xlreg cred export"]),
        (&["cred", "export", "f", "--format", "p12"], &["pem, der"]),
        (&["serve", "--admin", "me"], &["not a fingerprint", "64 hex digits"]),
        (&["cluster", "verify", "f", "--pin", "abc"], &["64 hex digits are expected, got 3"]),
        (&["id", "new"], &["<DIR>", "Usage: xlreg id new"]),
        (&["id", "new", "d", "--name", ""], &["--name"]),
        (&["id", "pool"], &["Usage: xlreg id pool <COMMAND>"]),
        (&["id", "pool", "fill", "0"], &["1..=1024", "Usage: xlreg id pool fill"]),
        (&["id", "pool", "fill", "1025"], &["1..=1024", "Usage: xlreg id pool fill"]),
        (&["completions", "tcsh"], &["bash", "Usage: xlreg completions"]),
    ];
    for (args, parts) in cases {
        let done = world.run(args);
        done.expect(2).says(parts).says(&["Usage: xlreg"]);
        assert_eq!(done.out, "", "{args:?}");
    }
    let made = [world.list("data"), world.list("work"), world.list("tmp")].concat();
    assert_eq!(made, [""; 0], "misuse makes nothing");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let world = World::new();
    let secret = format!("xlt_{}", "a".repeat(32));
    let invitation = format!("xlreg://h:1/alpha?key={}&token={secret}", "A".repeat(43));
    for args in [
        &["cluster", "create", &invitation, "-n", "2", "--registry", "r"][..],
        &["cluster", "show", "alpha", &invitation],
        &["cluster", "wait", "alpha", "--timeout", &secret],
        &["join", "alpha", "--endpoint", &secret, "--registry", "r"],
        &["token", "revoke", "alpha", &secret, "--registry", "r"],
        &[&secret],
    ] {
        let done = world.run(args);
        done.expect(2).says(&["(a secret)", "Usage: xlreg"]);
        assert!(!done.err.contains(&secret), "{done:#?}");
    }
}

#[test]
fn bad_values_of_variables_are_misuse_too() {
    let world = World::new();
    for (name, value, args) in [
        ("XLREG_LISTEN", "nowhere", &["serve"][..]),
        ("XLREG_TIMEOUT", "5", &["run", "-n", "2", "--", "true"]),
        ("XLREG_OUTPUT", "xml", &["id", "show", "d"]),
        ("XLREG_OUTPUT", "xml", &["cluster", "watch", "a", "--registry", "r"]),
        ("XLREG_DIALECT", "2.0", &["cluster", "show", "a", "--registry", "r"]),
        ("XLREG_LOG_FORMAT", "xml", &["serve"]),
    ] {
        let mut command = world.xlreg(args);
        command.env(name, value);
        let usage = format!("Usage: xlreg {}", args[0]);
        Running::start(command).finish().expect(2).says(&[value, &usage]);
    }
}

#[test]
fn every_subcommand_has_help_with_what_it_takes() {
    let world = World::new();
    let all = world.run(&["--help"]);
    all.expect(0).prints(&["serve", "run", "cluster", "join", "130  interrupted"]);
    for (subcommand, parts) in [
        (
            "serve",
            &["--listen", "--ephemeral", "XLREG_DATA", "--legacy", "--admin", "Examples:"][..],
        ),
        ("run", &["--members", "XLREG_ROSTER", "Examples:"]),
        ("cluster", &["create", "show", "wait", "list", "watch", "expel", "delete"]),
        ("cluster create", &["--size", "--endpoints", "XLREG_REGISTRY", "Examples:"]),
        ("cluster create", &["--policy", "--allow", "--ttl", "--idle", "--fill-within"]),
        ("cluster create", &["--token-ttl", "--token-uses", "--invitation-file"]),
        ("cluster show", &["--output", "XLREG_OUTPUT", "xlreg://", "@FILE"]),
        ("cluster wait", &["--timeout", "XLREG_TIMEOUT"]),
        ("cluster list", &["--mine", "XLREG_REGISTRY"]),
        ("cluster watch", &["table", "snapshot", "gone", "Examples:"]),
        ("cluster expel", &["<MEMBER>", "rank"]),
        ("cluster delete", &["<CLUSTER>"]),
        ("join", &["--endpoint", "--no-wait", "XLREG_IDENTITY", "Examples:", "XLREG_TOKEN"]),
        ("leave", &["--name", "--identity", "Example:"]),
        ("token", &["create", "list", "revoke"]),
        ("token create", &["--token-ttl", "--token-uses", "--label", "Examples:"]),
        ("token list", &["<CLUSTER>"]),
        ("token revoke", &["<TOKEN>"]),
        ("id", &["new", "show", "rotate", "pool"]),
        ("id new", &["--name"]),
        ("id show", &["XLREG_IDENTITY"]),
        ("id rotate", &["XLREG_REGISTRY", "running it again"]),
        ("id pool", &["status", "fill", "clear"]),
        ("id pool status", &["--output", "XLREG_KEY_POOL", "data directory"]),
        ("id pool fill", &["160", "1024", "Ctrl-C"]),
        ("id pool clear", &["--key-pool"]),
        ("cred", &["show", "check", "export"]),
        ("cred export", &["pem", "der", "openssl s_client"]),
        ("cred show", &["XLREG_REGISTRY"]),
        ("cred check", &["--offline", "--identify"]),
        ("completions", &["bash", "zsh", "fish"]),
        ("man", &["DIR"]),
    ] {
        for help in ["--help", "-h"] {
            let args: Vec<_> = subcommand.split(' ').chain([help]).collect();
            let done = world.run(&args);
            done.expect(0).prints(&[&format!("Usage: xlreg {subcommand}")]);
            if help == "--help" {
                done.prints(parts);
            }
            assert_eq!(done.err, "");
            assert!(!done.out.contains('\x1b'), "no colour off a terminal");
        }
    }
    world.run(&["--version"]).expect(0).prints(&[concat!("xlreg ", env!("CARGO_PKG_VERSION"))]);
}

/// All subcommands there are, as words, with those below others.
pub(crate) fn subcommands(world: &World) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = vec![vec![]];
    let mut next = 0;
    while let Some(above) = found.get(next).cloned() {
        next += 1;
        let help = Running::start(with_help(world, &above, "100")).finish();
        let lines = help.expect(0).out.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
            let line = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
            line.split(' ').next().filter(|name| *name != "help")
        });
        found.extend(names.map(|name| [&above[..], &[name.to_owned()]].concat()));
    }
    found
}

pub(crate) fn with_help(world: &World, subcommand: &[String], columns: &str) -> Command {
    let mut command = world.xlreg(&[]);
    command.args(subcommand).arg("--help").env("COLUMNS", columns);
    command
}

/// Lines that end before they are full, though the paragraph goes on: wrapped by hand, and then again.
fn ragged(help: &str, width: usize) -> Vec<&str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = help.lines().collect();
    let ends_early = |pair: &&[&str]| {
        let (line, next) = (pair[0], pair[1]);
        // Lists and examples stand two columns in; flags, values and defaults begin lines of their own.
        let is_prose = indent(line) != 2
            && indent(line) == indent(next)
            && !line.trim().is_empty()
            && !next.trim_start().starts_with(['-', '[', '<']);
        let fits = |word: &str| line.chars().count() + 1 + word.chars().count() <= width;
        is_prose && next.split_whitespace().next().is_some_and(fits)
    };
    lines.windows(2).filter(ends_early).map(|pair| pair[0]).collect()
}

#[test]
fn help_is_wrapped_once_however_wide_the_terminal_is() {
    let world = World::new();
    let all = subcommands(&world);
    for known in ["cluster verify", "id pool fill", "serve", "tunnel", ""] {
        assert!(all.iter().any(|words| words.join(" ") == known), "{known}: {all:?}");
    }
    for subcommand in &all {
        for width in [80, 100] {
            let columns = width.to_string();
            let help = Running::start(with_help(&world, subcommand, &columns)).finish();
            let ragged = ragged(&help.expect(0).out, width);
            assert!(ragged.is_empty(), "{subcommand:?} at {width}: {ragged:#?}\n{}", help.out);
        }
    }
    let twice = "This is a paragraph of text that was wrapped by hand\nand\nthen again.\n";
    assert_eq!(ragged(twice, 60).len(), 2, "such lines are found");
    assert_eq!(ragged("One.\n\nTwo.\n  an example\n  another\n", 60), [""; 0]);
}

#[test]
fn colours_are_for_terminals_and_not_for_those_who_want_none() {
    let world = World::new();
    let colourful = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = world.xlreg(args);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        let done = Terminal::start(command, 100, 24).running.finish();
        assert!(done.out.contains("Usage: ") || done.out.contains("Usage:\x1b"), "{done:?}");
        done.out.contains('\x1b')
    };
    for args in [&["--help"][..], &["cluster", "watch", "--help"]] {
        assert!(colourful(&[], args));
        assert!(!colourful(&[("NO_COLOR", "1")], args));
        assert!(!colourful(&[("TERM", "dumb")], args));
    }
}

#[test]
fn completions_and_manual_pages_come_out() {
    let world = World::new();
    for (shell, part) in
        [("bash", "complete -F _xlreg"), ("zsh", "#compdef xlreg"), ("fish", "complete -c xlreg")]
    {
        world.run(&["completions", shell]).expect(0).prints(&[part, "ephemeral"]);
    }
    world.run(&["man"]).expect(0).prints(&[".TH xlreg 1", "Exit codes"]);
    world.run(&["man", "pages"]).expect(0).says(&["manual pages into pages"]);
    let pages = world.list("work/pages");
    for page in ["serve", "cluster-create", "cluster-watch", "join", "leave", "token-create"] {
        let page = &format!("xlreg-{page}.1");
        assert!(pages.iter().any(|found| found == page), "{page}: {pages:?}");
    }
    let page = std::fs::read_to_string(world.path("work/pages/xlreg-join.1")).unwrap();
    let usage = "xlreg join [OPTIONS] \\-\\-endpoint <HOST:PORT> <CLUSTER> [\\-\\- <CMD>...]";
    assert!(page.contains(&format!(".SH SYNOPSIS\n{usage}\n")), "{page}");
    assert!(page.contains("XLREG_REGISTRY"), "{page}");
}

/// `| head -1` reads what it wants and goes; that is nobody's fault.
#[test]
fn a_closed_pipe_is_no_error_and_no_panic() {
    let world = World::new();
    world.run(&["id", "new", "me"]).expect(0);
    let commands: [(&[&str], i32); 6] = [
        (&["--help"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["id", "show", "me"], 0),
        (&["id", "show", "none"], 5),
        (&["bogus"], 2),
    ];
    for (args, code) in commands {
        for closed in ["stdout", "stderr"] {
            let (_, writer) = std::io::pipe().unwrap();
            let mut command = world.xlreg(args);
            command.stdin(Stdio::null());
            if closed == "stdout" {
                command.stdout(writer).stderr(Stdio::piped());
            } else {
                command.stderr(writer).stdout(Stdio::piped());
            }
            let output = command.spawn().unwrap().wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{args:?} without {closed}: {err}");
            assert!(!err.contains("panicked"), "{err}");
        }
    }
}
