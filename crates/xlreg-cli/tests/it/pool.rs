//! `xlreg id pool`: keys that wait for an owner.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use xlreg_node::KeyPool;

use crate::support::{Done, Running, World};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn count(done: &Done) -> u64 {
    done.expect(0).json()["count"].as_u64().unwrap()
}

#[test]
fn a_pool_is_filled_up_shown_and_cleared() {
    let world = World::new();
    let dir = world.path("data/xlreg/key-pool");
    let shown = dir.to_str().unwrap();
    let status = ["id", "pool", "status", "--output", "json"];
    let empty = world.run(&status).expect(0).json();
    assert_eq!(empty, serde_json::json!({ "count": 0, "bytes": 0, "dir": shown }));

    let filled = world.run(&["id", "pool", "fill", "3"]);
    assert_eq!(filled.expect(0).out, format!("3 keys in {shown}, 3 of them new\n"));
    assert_eq!(filled.err, "", "no progress without a terminal");
    assert_eq!(mode(&dir), 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let full = world.run(&status).expect(0).json();
    let bytes = full["bytes"].as_u64().unwrap();
    assert!(full["count"] == 3 && (3300..3900).contains(&bytes), "{full}");
    let human = world.run(&["id", "pool", "status"]);
    assert_eq!(human.expect(0).out, format!("3 keys in {shown}, {bytes} bytes\n"));

    let again = world.run(&["id", "pool", "fill", "2", "--output", "json"]).expect(0).json();
    assert_eq!(again, serde_json::json!({ "count": 3, "made": 0, "dir": shown }));
    assert_eq!(KeyPool::open(&dir).unwrap().take(2).unwrap().len(), 2);
    let cleared = world.run(&["id", "pool", "clear"]);
    assert_eq!(cleared.expect(0).out, format!("removed 1 key from {shown}\n"));
    let cleared = world.run(&["id", "pool", "clear", "--output", "json"]).expect(0).json();
    assert_eq!(cleared, serde_json::json!({ "removed": 0, "dir": shown }));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_pool_is_where_the_flag_says_or_else_the_variable() {
    let world = World::new();
    let status = |args: &[&str]| {
        let mut command = world.xlreg(&[&["id", "pool", "status"], args].concat());
        command.env("XLREG_KEY_POOL", "by-variable");
        Running::start(command).finish()
    };
    status(&[]).expect(0).prints(&["0 keys in by-variable"]);
    status(&["--key-pool", "by/flag"]).expect(0).prints(&["0 keys in by/flag"]);
    let mut made = world.list("work");
    made.sort();
    assert_eq!((made, world.list("data")), (vec!["by".into(), "by-variable".into()], vec![]));
}

#[test]
fn a_place_that_cannot_be_a_pool_is_named_with_what_to_do() {
    let world = World::new();
    fs::write(world.path("work/file"), "").unwrap();
    fs::create_dir(world.path("work/open")).unwrap();
    fs::set_permissions(world.path("work/open"), fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["status", "fill", "clear"] {
        for (dir, parts) in
            [("file", ["file", "exists"]), ("file/below", ["file/below", "directory"])]
        {
            let done = world.run(&["id", "pool", command, "--key-pool", dir]);
            done.expect(1).says(&["cannot use the key pool", "--key-pool"]).says(&parts);
        }
        let done = world.run(&["id", "pool", command, "--key-pool", "open"]);
        done.expect(1).says(&["others may enter it (mode 755)", "chmod 700 open"]);
    }
    // Here the user's data directory itself can't be made.
    fs::write(world.path("data/xlreg"), "").unwrap();
    world.run(&["id", "pool", "fill"]).expect(1).says(&["data/xlreg/key-pool", "--key-pool"]);
}

#[test]
fn an_interrupted_fill_keeps_what_it_made() {
    let world = World::new();
    let status = || count(&world.run(&["id", "pool", "status", "--output", "json"]));
    let filling = world.start(&["id", "pool", "fill", "1024"]);
    let by = Instant::now() + Duration::from_secs(60);
    while status() == 0 {
        assert!(Instant::now() < by, "no key within a minute");
    }
    filling.signal(Signal::SIGINT);
    let done = filling.finish();
    done.expect(130).says(&["interrupted: there are "]);
    assert_eq!(done.out, "");
    let left = status();
    done.says(&[&format!("there are {left} of 1024 keys, {left} of them new")]);
    let pool = KeyPool::open(world.path("data/xlreg/key-pool")).unwrap();
    assert_eq!(pool.take(1024).unwrap().len() as u64, left);
    assert_eq!(fs::read_dir(pool.dir()).unwrap().count(), 0, "no drafts are left");
}
