//! Placeholders: filled in everywhere, and refused before anything starts.

use std::fs;

use crate::support::World;

#[test]
fn arguments_variables_and_files_tell_each_member_its_place_and_everybodys() {
    let world = World::new();
    fs::write(world.path("work/in.conf"), "me={name}\npeers={peers , {endpoint}}\n").unwrap();
    let script = "echo \"$1 $PLACE\"; cat $XLREG_DIR/sub/out.conf $COPY";
    let copy = world.path("work").join("copy-{rank}.conf");
    let done = world.run(&[
        "run",
        "-n",
        "2",
        "--env",
        "PLACE={rank}/{size} of {cluster}",
        "--env",
        &format!("COPY={}", copy.display()),
        "--cluster",
        "filled",
        "--template",
        "in.conf=sub/out.conf",
        "--template",
        &format!("in.conf={}", copy.display()),
        "--no-prefix",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        "{members + {name}@{port}} \\{name} {X=1}",
    ]);
    done.expect(0);
    let line = |start: &str| done.out.lines().filter(|line| line.starts_with(start)).count();
    let first = done.out.lines().find(|line| line.starts_with("member_0@")).unwrap();
    let (listed, rest) = first.split_once(' ').unwrap();
    let ports: Vec<_> = listed.split('+').map(|one| one.split_once('@').unwrap().1).collect();
    assert!(rest == "{name} {X=1} 0/2 of filled" || rest == "{name} {X=1} 1/2 of filled", "{rest}");
    assert_eq!(line(&format!("member_0@{}+member_1@{} ", ports[0], ports[1])), 2);
    for (name, peer) in [("member_0", ports[1]), ("member_1", ports[0])] {
        // Once from the member's directory, and once from where the path is absolute.
        assert_eq!(line(&format!("me={name}")), 2);
        assert_eq!(line(&format!("peers=127.0.0.1:{peer}")), 2);
    }
    assert!(world.path("work/copy-1.conf").exists());
    world.is_clean();
}

#[test]
fn unknown_names_are_refused_with_a_suggestion_before_anything_starts() {
    let world = World::new();
    fs::write(world.path("work/bad.conf"), "fine\nlisten {prot}\n").unwrap();
    fs::write(world.path("work/good.conf"), "").unwrap();
    let cases: [(&[&str], &[&str], &[&str]); 9] = [
        (&[], &["{nmae}"], &["nmae", "{name}"]),
        (&["--env", "A={hots}"], &["x"], &["--env A", "hots", "{host}"]),
        (&["--template", "bad.conf=out"], &["x"], &["bad.conf", "prot", "{port}"]),
        (&["--template", "good.conf={nam}"], &["x"], &["--template's OUT", "nam"]),
        (&["--template", "no.conf=out"], &["x"], &["no.conf"]),
        (&["--template", ".=out"], &["x"], &["not a file"]),
        (&["--template", "good.conf=a/../../out"], &["x"], &["a/../../out leads out"]),
        (&["--ready", "http://{hst}/"], &["x"], &["--ready", "hst"]),
        (&["--self-join"], &["{endpoint}"], &["endpoint"]),
    ];
    for (flags, arguments, parts) in cases {
        let args = [&["run", "-n", "2"], flags, &["--", "touch", "started"], arguments].concat();
        let done = world.run(&args);
        let code = if flags.contains(&"no.conf=out") { 1 } else { 2 };
        done.expect(code).says(parts);
        assert_eq!(done.out, "");
    }
    let twice = world.path("work/same");
    let to = format!("good.conf={}", twice.display());
    let done = world.run(&["run", "-n", "2", "--template", &to, "--", "touch", "started"]);
    done.expect(2).says(&["more than once", "{name}"]);
    assert!(!world.path("work/started").exists());
    world.is_clean();
}
