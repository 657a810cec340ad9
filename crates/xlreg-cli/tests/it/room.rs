//! Places where there is no room, or no way in.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Running, World};

/// A file system of its own, if we may have one.
struct Small(PathBuf);

impl Small {
    fn mount(world: &World, options: &str) -> Option<Self> {
        let dir = world.path("small");
        fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&dir);
        let mounted = mount.output().is_ok_and(|done| done.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _still_used = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn without_a_way_in_it_says_where() {
    let world = World::new();
    let run = |variable: &str, dir: PathBuf| {
        let mut command = world.xlreg(&["run", "-n", "2", "--", "touch", "started"]);
        command.env(variable, dir);
        Running::start(command).finish()
    };
    let none = world.path("none");
    run("TMPDIR", none.clone()).expect(1).says(&["none", "set TMPDIR or XLREG_RUN_DIR"]);
    assert!(!none.exists());
    fs::write(world.path("file"), "").unwrap();
    run("TMPDIR", world.path("file")).expect(1).says(&["file", "set TMPDIR"]);
    run("XLREG_RUN_DIR", world.path("file")).expect(1).says(&["file", "XLREG_RUN_DIR"]);
    let long = world.path(&"x".repeat(110));
    fs::create_dir(&long).unwrap();
    run("XLREG_RUN_DIR", long.clone()).expect(1).says(&["control.sock", "too long"]);
    assert_eq!(fs::read_dir(long).unwrap().count(), 0);
    // Whoever may write there could lay out a socket of his own for us to talk to.
    let open = world.path("open");
    let uid = fs::metadata(world.path("work")).unwrap().uid();
    let root = open.join(format!("xlreg-{uid}"));
    fs::create_dir_all(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    run("XLREG_RUN_DIR", open).expect(1).says(&["nobody else may write to"]);
    assert!(!world.path("work/started").exists());
    world.is_clean();
}

/// Somebody's project has a file named lock, too.
#[test]
fn what_others_have_where_runs_are_kept_is_left_alone() {
    let world = World::new();
    fs::create_dir_all(world.path("dir/project")).unwrap();
    fs::create_dir_all(world.path("dir/empty")).unwrap();
    fs::write(world.path("dir/project/lock"), "mine").unwrap();
    for args in [&["ps"][..], &["run", "-n", "2", "--", "true"], &["down", "--all"]] {
        let mut command = world.xlreg(args);
        command.env("XLREG_RUN_DIR", world.path("dir"));
        Running::start(command).finish().expect(0);
        assert!(world.path("dir/project/lock").exists() && world.path("dir/empty").exists());
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left_on_it() {
    let world = World::new();
    let Some(small) = Small::mount(&world, "size=24k") else { return };
    let list = || fs::read_dir(&small.0).unwrap().count();
    let mut command = world.xlreg(&["run", "-n", "2", "--", "true"]);
    command.env("TMPDIR", &small.0);
    Running::start(command).finish().expect(1).says(&["No space left on device"]);
    assert_eq!(list(), 0);

    let keep = small.0.join("kept");
    let done = world.run(&["run", "-n", "2", "--keep", keep.to_str().unwrap(), "--", "true"]);
    done.expect(1).says(&["No space left on device", "kept"]);
    fs::remove_dir_all(keep).unwrap();

    // A log that is full is no reason to stop.
    let logs = small.0.join("logs");
    let script = "head -c 100000 /dev/zero; echo; echo goes on";
    let flags = ["--log-dir", logs.to_str().unwrap(), "--", "sh", "-c", script];
    let done = world.run(&[&["run", "-n", "2"], &flags[..]].concat());
    done.expect(0).says(&["No space left on device", "not kept there"]);
    done.prints(&["member_0 | goes on", "member_1 | goes on"]);
    world.is_clean();
}
