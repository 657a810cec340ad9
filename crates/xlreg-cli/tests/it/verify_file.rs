//! `xlreg cluster verify` and the signed rosters that it looks at.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Done, Server, World};

/// A registry with the cluster `alpha` of two, who have met; and the signed roster that `a` kept.
fn met(world: &World) -> (Server, PathBuf) {
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "--size", "2"]).expect(0);
    join(world, &server, "a", &["--no-wait"]).expect(0);
    join(world, &server, "b", &[]).expect(0);
    join(world, &server, "a", &[]).expect(0);
    let kept = world.path("data/xlreg/members/alpha/a/roster.signed");
    (server, kept)
}

fn join(world: &World, server: &Server, name: &str, more: &[&str]) -> Done {
    let endpoint = format!("{name}.example.org:4001");
    let args = ["join", "alpha", "--name", name, "--endpoint", &endpoint];
    world.ask(server, &[&args, more].concat())
}

fn verify(world: &World, file: &Path, more: &[&str]) -> Done {
    world.run(&[&["cluster", "verify", file.to_str().unwrap()], more].concat())
}

fn json(world: &World, file: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let done = verify(world, file, &[more, &["--output", "json"]].concat());
    (done.code, done.json())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Without the registry: whoever has the file and knows the key needs nobody.
#[test]
fn members_keep_a_signed_roster_that_anybody_can_check() {
    let world = World::new();
    let (server, kept) = met(&world);
    let other = fs::read(world.path("data/xlreg/members/alpha/b/roster.signed")).unwrap();
    assert_eq!(other, fs::read(&kept).unwrap(), "both have the same");
    let credentials = server.credentials.clone();
    let shown = world.run(&["cred", "show", text(&credentials), "--output", "json"]);
    let pin = shown.json()["sig_key_sha256"].as_str().unwrap().to_owned();
    server.stop();

    let done = verify(&world, &kept, &["--registry", text(&credentials)]);
    let lines: Vec<_> = done.expect(0).out.lines().collect();
    assert!(
        lines[0].starts_with("cluster alpha (")
            && lines[0].ends_with("2 of 2, complete, revision 2")
    );
    assert!(lines[1].ends_with(&format!("sig key sha256 {pin}, the pinned one")), "{lines:?}");
    assert!(lines[2].starts_with("RANK  NAME  STATE    ENTRY   ENDPOINTS"), "{lines:?}");
    assert!(lines[3].starts_with("0     a     present  signed  a.example.org:4001"), "{lines:?}");
    assert_eq!((lines.len(), done.err.as_str()), (5, ""));
    verify(&world, &kept, &["--pin", &pin, "--max-age", "1h"]).expect(0);
    let by_variable = world
        .xlreg(&["cluster", "verify", text(&kept)])
        .env("XLREG_REGISTRY", &credentials)
        .output()
        .unwrap();
    assert!(by_variable.status.success(), "{by_variable:?}");

    let (code, told) = json(&world, &kept, &["--pin", &pin]);
    assert_eq!((code, &told["verified"], &told["pinned"]), (Some(0), &true.into(), &true.into()));
    let roster = &told["roster"];
    assert_eq!((&roster["cluster"], &roster["complete"]), (&"alpha".into(), &true.into()));
    assert_eq!((&roster["members"][1]["name"], &roster["revision"]), (&"b".into(), &2.into()));
    assert_eq!(roster["members"][0]["entry_signed"], true);
    assert_eq!(roster["registry"]["sig_key_sha256"], pin);
    assert!(told["findings"].as_array().unwrap().is_empty());
}

/// What makes a file trustworthy is a key from elsewhere.
#[test]
fn the_key_in_the_file_is_believed_only_by_whoever_says_so() {
    let world = World::new();
    let (_server, kept) = met(&world);
    verify(&world, &kept, &[]).expect(2).says(&["--registry CRED", "--pin SHA256", "--unpinned"]);
    let done = verify(&world, &kept, &["--unpinned"]);
    done.expect(0).prints(&[", taken from the file itself"]).says(&["nothing of who made it"]);
    assert_eq!(json(&world, &kept, &["--unpinned"]).1["pinned"], false);
    // Whatever the environment says.
    let told = world
        .xlreg(&["cluster", "verify", text(&kept), "--unpinned"])
        .env("XLREG_REGISTRY", "/nowhere")
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    let other = "ab".repeat(32);
    for both in [["--unpinned", "--pin", &other], ["--unpinned", "--registry", "x"]] {
        verify(&world, &kept, &both).expect(2).says(&["cannot be used with"]);
    }
    verify(&world, &kept, &["--pin", "abab"]).expect(2);

    let done = verify(&world, &kept, &["--pin", &other]);
    done.expect(1).prints(&[&format!("not by that with sha256 {other}")]).says(&["1 finding"]);
    let (code, told) = json(&world, &kept, &["--pin", &other]);
    assert_eq!((code, &told["findings"][0]["kind"]), (Some(1), &"other_registry".into()));
    assert_eq!(told["verified"], false);
}

#[test]
fn a_changed_file_is_refused_with_what_does_not_match() {
    let world = World::new();
    let (server, kept) = met(&world);
    let whole = fs::read_to_string(&kept).unwrap();
    let pin = ["--registry", text(&server.credentials)];
    let changed = world.path("work/changed.signed");
    let check = |content: &[u8]| {
        fs::write(&changed, content).unwrap();
        let human = world.run(&[&["cluster", "verify", "changed.signed"], &pin[..]].concat());
        human.expect(1).says(&["changed.signed does not hold: "]);
        let (code, told) = json(&world, &changed, &pin);
        assert_eq!((code, &told["verified"]), (Some(1), &false.into()));
        assert_eq!(human.out.lines().count(), told["findings"].as_array().unwrap().len());
        (human, told["findings"].clone())
    };
    let moved = whole.replacen("a.example.org:4001", "evil.example.org:4001", 1);
    let (done, findings) = check(moved.as_bytes());
    done.prints(&["changed.signed: the registry's signature does not verify: "]);
    done.prints(&["changed.signed: member a (rank 0): its entry is not what its sig key signed"]);
    assert_eq!((&findings[0]["rank"], &findings[1]["rank"]), (&Value::Null, &0.into()));
    assert_eq!(findings[1]["kind"], "entry_signature");

    let (_, findings) = check(whole.replacen("revision: 2", "revision: 3", 1).as_bytes());
    assert_eq!(findings.as_array().unwrap().len(), 1);
    let (done, findings) = check(whole.replacen("size: 2", "size: 3", 1).as_bytes());
    done.prints(&["signed roster, line 14: expected `no\\n` at column 15, found `yes\\n`"]);
    assert_eq!((&findings[0]["kind"], &findings[0]["line"]), (&"unreadable".into(), &14.into()));
    let mut binary = whole.clone().into_bytes();
    binary[40] = 0xff;
    let (half, huge) = (&whole.as_bytes()[..whole.len() / 2], vec![b'x'; 2 << 20]);
    for content in [&b""[..], &binary, b"{}", half, &huge] {
        let (_, findings) = check(content);
        assert_eq!(findings[0]["kind"], "unreadable");
    }
}

#[test]
fn what_may_be_missing_must_be_allowed() {
    let world = World::new();
    let server = world.registry();
    world.ask(&server, &["cluster", "create", "alpha", "--size", "3"]).expect(0);
    join(&world, &server, "a", &["--no-wait", "--dialect", "1.9"]).expect(0);
    // The old wire knows of no signed rosters, and a member has its roster all the same.
    assert!(!world.path("data/xlreg/members/alpha/a/roster.signed").exists());
    join(&world, &server, "b", &["--no-wait"]).expect(0);
    let kept = world.path("data/xlreg/members/alpha/b/roster.signed");
    let pin = ["--registry", text(&server.credentials)];
    let done = verify(&world, &kept, &pin);
    done.expect(1).prints(&[
        "member a (rank 0): it has not signed its entry",
        "it is incomplete: 2 of 3 members are there",
    ]);
    let allowed = [&pin[..], &["--allow-incomplete", "--allow-unsigned"]].concat();
    let done = verify(&world, &kept, &allowed);
    done.expect(0).prints(&["2 of 3, incomplete", "unsigned"]).says(&["note: member a (rank 0)"]);
    let (_, told) = json(&world, &kept, &allowed);
    assert_eq!(told["remarks"].as_array().unwrap().len(), 2);
    // It was signed at the full second before, and all of this has taken longer.
    let stale = [&allowed[..], &["--max-age", "1ms"]].concat();
    verify(&world, &kept, &stale).expect(1).prints(&["it was signed ", " ago"]);
}

#[test]
fn the_signed_roster_can_be_had_without_being_a_member() {
    let world = World::new();
    let (server, _) = met(&world);
    let show = |more: &[&str]| world.ask(&server, &[&["cluster", "show", "alpha"], more].concat());
    show(&["--signed", "alpha.signed"]).expect(0).prints(&["2 of 2, complete"]);
    let printed = show(&["--signed", "-"]);
    let file = world.path("work/alpha.signed");
    assert_eq!(printed.expect(0).out, fs::read_to_string(&file).unwrap());
    verify(&world, &file, &["--registry", text(&server.credentials)]).expect(0);
    show(&["--signed", "no/such/alpha.signed"]).expect(1).says(&["no/such/alpha.signed"]);
    show(&["--signed", "x", "--dialect", "1.9"]).expect(4).says(&["signed rosters"]);
    world.ask(&server, &["cluster", "show", "omega", "--signed", "x"]).expect(5);
    assert!(!world.path("work/x").exists());
}

#[test]
fn what_is_no_file_is_told() {
    let world = World::new();
    let help = world.run(&["cluster", "verify", "--help"]);
    help.expect(0).prints(&["--pin <SHA256>", "--unpinned", "XLREG_REGISTRY", "Examples:"]);
    let verify = |file: &str| world.run(&["cluster", "verify", file, "--unpinned"]);
    verify("alpha").expect(2).says(&["there is no file of that name here"]);
    for missing in ["alpha.signed", "./alpha"] {
        verify(missing).expect(1).says(&[&format!("reading {missing}"), "No such file"]);
    }
    verify(".").expect(2);
    verify("./").expect(1).says(&["directory"]);
}

/// Of a run, whoever its registry is and whether the programs join by themselves, as long as it lives.
#[test]
fn a_run_keeps_the_signed_roster_of_its_members() {
    let world = World::new();
    let server = world.registry();
    let credentials = text(&server.credentials);
    let join =
        "\"$0\" join $XLREG_CLUSTER --endpoint 127.0.0.1:700${XLREG_NAME#member_}; exec sleep 600";
    let by_itself = ["sh", "-c", join, crate::support::XLREG];
    let own: Option<&str> = None;
    for (flags, program, registry) in [
        (&[][..], &["sleep", "600"][..], own),
        (&["--tunnel"], &["sleep", "600"], own),
        (&["--registry", credentials], &["sleep", "600"], Some(credentials)),
        (&["--self-join"], &by_itself, own),
    ] {
        world.detach("r", "2", flags, program);
        let dir = world.runs().remove(0);
        let file = dir.join("roster.signed");
        let gone = dir.join("registry/regCred.dat");
        let registry = registry.unwrap_or(text(&gone));
        let (code, told) = json(&world, &file, &["--registry", registry]);
        assert_eq!((code, &told["verified"]), (Some(0), &true.into()), "{flags:?}: {told}");
        if *flags != ["--self-join"] {
            // What the registry lists, also where the programs are told other places.
            let listed = world.member("r", 1)["endpoints"].take();
            assert_eq!(told["roster"]["members"][1]["endpoints"], listed);
        }
        world.down("r");
    }
    server.stop();
}
