//! What programs write, whatever they write, and whoever reads it, or doesn't.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{World, eventually};

#[test]
fn lines_come_with_their_members_names_and_as_they_are_in_files() {
    let world = World::new();
    // No newline at the end, nothing but a newline, bytes that are no text, and a very long line.
    let script = "printf 'one\\n\\ntwo'; printf '\\377\\000\\033[1m\\n' >&2; \
                  head -c 100000 /dev/zero | tr '\\0' x";
    let done = world.run(&["run", "-n", "2", "--log-dir", "logs", "--", "sh", "-c", script]);
    done.expect(0).prints(&["member_0 | one\nmember_0 | \n", "member_1 | one\nmember_1 | \n"]);
    assert!(done.out.lines().all(|line| line.starts_with("member_")), "{}", done.out);
    assert_eq!(done.out.matches('x').count(), 200_000);
    assert!(done.err.contains("member_1 | \u{fffd}\0\x1b[1m"), "no colours of ours");
    for name in ["member_0.log", "member_1.log"] {
        let log = fs::read(world.path("work/logs").join(name)).unwrap();
        assert_eq!(log.iter().filter(|byte| **byte == b'x').count(), 100_000);
        assert!(log.starts_with(b"one\n\n") || log.starts_with(b"\xff\0"), "{name}");
    }

    let script = "echo plain; exec >&- 2>&-; exec sleep 0.1";
    let done = world.run(&["run", "-n", "2", "--no-prefix", "--", "sh", "-c", script]);
    assert_eq!(done.expect(0).out, "plain\nplain\n");
    let done = world.run(&["run", "-n", "2", "--log-dir", "/proc/no", "--", "true"]);
    done.expect(1).says(&["making the directory /proc/no", "--log-dir"]);
    world.is_clean();
}

/// As in `| head -3`.
#[test]
fn when_nobody_reads_any_more_the_programs_are_stopped() {
    let world = World::new();
    let mut command = world.xlreg(&["run", "-n", "2", "--", "yes"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut some = [0; 1000];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(err.contains("nobody reads the programs' output any more"), "{err}");
    assert_eq!(done.status.code(), Some(1));

    let mut command = world.xlreg(&["run", "-n", "2", "--", "yes"]);
    command.stdin(Stdio::null()).stdout(fs::File::create("/dev/full").unwrap());
    let done = command.output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(err.contains("No space left on device"), "{err}");
    world.is_clean();

    let mut command = world.xlreg(&["ps"]);
    let done = command.stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    let err = String::from_utf8(done.stderr).unwrap();
    assert!(err.contains("cannot print to stdout: No space left on device"), "{err}");
    assert_eq!(done.status.code(), Some(1));
}

/// A pager that nobody turns the pages of, with both streams in it.
#[test]
fn a_reader_that_stands_still_keeps_nothing_from_being_stopped_and_loses_nothing() {
    let world = World::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = world.xlreg(&["run", "-n", "2", "--cluster", "stuck", "--", "yes"]);
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.process_group(0).spawn().unwrap();
    drop(command);
    eventually("all run", || world.run(&["ps"]).expect(0).out.contains("2 of 2 running"));
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    world.is_clean();

    // One that takes his time gets all, though the programs have long ended.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command =
        world.xlreg(&["run", "-n", "2", "--cluster", "slow", "--", "seq", "-f", "%060.f", "1500"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    let mut child = command.process_group(0).spawn().unwrap();
    drop(command);
    let both = |state| [0, 1].into_iter().all(|rank| world.member("slow", rank)["state"] == state);
    eventually("it is there", || {
        world.run(&["ps", "--output", "json"]).expect(0).json()[0]["run"].is_object()
    });
    eventually("both have ended", || both("ended"));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), 3_000);
    assert!(child.wait().unwrap().success());
    world.is_clean();
}
