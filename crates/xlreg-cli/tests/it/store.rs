//! `xlreg store`: what is wrong is found, a backup of a running registry is whole, and a restored
//! registry is the same one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Done, Server, World, own_address};

/// A registry with a cluster of two, of whom one has come.
fn registry(world: &World, address: &str) -> Server {
    let server = world.serve(&["--listen", address, "--data", "d"]);
    world.ask(&server, &["cluster", "create", "alpha", "-n", "2"]).expect(0);
    let join = ["join", "alpha", "--name", "a", "--endpoint", "127.0.0.1:4001", "--no-wait"];
    world.ask(&server, &join).expect(0);
    server
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// All files below, and all directories, by their paths.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(tree(&path));
        }
        all.push(path);
    }
    all.sort();
    all
}

fn flip(path: &Path, needle: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let place = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn checked(world: &World, dir: &str) -> Done {
    world.run(&["store", "check", "--data", dir, "--output", "json"])
}

#[test]
fn a_registry_is_sound_running_killed_and_stopped() {
    let world = World::new();
    let server = registry(&world, &own_address());
    let check = || {
        let before = tree(&world.path("work/d"));
        let done = checked(&world, "d");
        let told = done.expect(0).json();
        assert_eq!(told["sound"], true, "{told}");
        // The registry's, the administrator's and the member's.
        let counts = ["nodes", "clusters", "members", "tokens"].map(|key| told[key].as_u64());
        assert_eq!(counts, [Some(2), Some(1), Some(1), Some(0)], "{told}");
        assert_eq!(tree(&world.path("work/d")), before);
    };
    check();
    server.running.kill();
    check();
    world.serve(&["--listen", "127.0.0.1:0", "--data", "d"]).stop();
    check();
    let done = world.run(&["store", "check", "--data", "d"]);
    done.expect(0).prints(&["clusters   1", "all of it is sound"]);
}

#[test]
fn a_flipped_byte_is_found_and_where_it_is() {
    let world = World::new();
    registry(&world, &own_address()).stop();
    flip(&world.path("work/d/registry.db"), b"127.0.0.1:4001");
    let done = checked(&world, "d");
    done.expect(1).says(&["is not sound; nothing was changed", "xlreg store restore"]);
    let told = done.json();
    assert_eq!(told["sound"], false);
    let found = &told["findings"][0];
    assert_eq!((&found["file"], &found["table"]), (&"registry.db".into(), &"members".into()));
    assert!(found["row"].as_str().unwrap().ends_with("rank 0"), "{found}");
    assert_eq!(found["problem"], "the checksum does not match");
    let done = world.run(&["store", "check", "--data", "d"]);
    done.expect(1).prints(&["WRONG      registry.db, table members, cluster "]);
    // Nor is it backed up as if nothing were.
    let done = world.run(&["store", "backup", "b", "--data", "d"]);
    done.expect(1).says(&["is not sound, so it is not backed up: registry.db, table members"]);
    assert_eq!(world.list("work"), ["d"]);
}

#[test]
fn keys_that_are_exposed_missing_or_anothers_are_found() {
    let world = World::new();
    registry(&world, &own_address()).stop();
    let keys = world.path("work/d/.xlattice/node.config");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    checked(&world, "d").expect(1).prints(&["others may read it (mode 644)"]);
    let other = ["serve", "--listen", "127.0.0.1:0", "--data", "o"];
    Server::ready(world.start(&other)).stop();
    fs::remove_file(&keys).unwrap();
    checked(&world, "d").expect(1).prints(&["and the keys with it"]);
    fs::copy(world.path("work/o/.xlattice/node.config"), &keys).unwrap();
    checked(&world, "d").expect(1).prints(&["is remembered", "regCred.dat"]);
    fs::remove_file(world.path("work/o/registry.db")).unwrap();
    checked(&world, "o").expect(1).prints(&["registry.db", "all that was remembered"]);
    world.run(&["store", "check", "--data", "nowhere"]).expect(5);
}

#[test]
fn a_backup_of_a_running_registry_restores_to_the_same_registry() {
    let world = World::new();
    let address = own_address();
    let server = registry(&world, &address);
    let credentials = fs::read(&server.credentials).unwrap();
    let roster = |server: &Server| {
        let done = world.ask(server, &["cluster", "show", "alpha", "--output", "json"]);
        done.expect(0).json()
    };
    let before = roster(&server);
    let done = world.run(&["store", "backup", "b", "--data", "d"]);
    done.expect(0).prints(&["members    1"]).says(&["xlreg store restore /"]);
    // All is private but the credentials, and there is nothing else.
    let modes: Vec<_> = tree(&world.path("work/b")).iter().map(|path| mode(path)).collect();
    assert_eq!(modes, [0o700, 0o600, 0o644, 0o600]);
    assert_eq!(mode(&world.path("work/b")), 0o700);
    let mut names = world.list("work");
    names.sort();
    assert_eq!(names, ["b", "d"]);
    checked(&world, "b").expect(0);

    // What comes after the backup is forgotten by going back to it.
    world.ask(&server, &["cluster", "create", "beta", "-n", "2"]).expect(0);
    let kept = server.address.to_string();
    server.running.kill();
    world.run(&["store", "restore", "b", "--data", "new/place"]).expect(0);
    let server = world.serve(&["--listen", &kept, "--data", "new/place"]);
    assert_eq!(fs::read(&server.credentials).unwrap(), credentials);
    assert_eq!(roster(&server), before);
    world.ask(&server, &["cluster", "show", "beta"]).expect(5);
    server.stop();
}

#[test]
fn a_restore_keeps_what_was_there_aside_and_only_if_told_to() {
    let world = World::new();
    let server = registry(&world, &own_address());
    world.run(&["store", "backup", "b", "--data", "d"]).expect(0);
    let onto = ["store", "restore", "b", "--data", "d"];
    let replace = [&onto[..], &["--replace", "--output", "json"]].concat();
    world.run(&replace).expect(1).says(&["in use by another registry"]);
    server.stop();
    let before = tree(&world.path("work/d"));
    world.run(&onto).expect(8).says(&["is not empty", "--replace"]);
    assert_eq!(tree(&world.path("work/d")), before);

    fs::write(world.path("work/d/notes.txt"), "the operator's").unwrap();
    let told = world.run(&replace).expect(0).json();
    let aside = PathBuf::from(told["replaced"].as_str().unwrap());
    let aside = aside.file_name().unwrap().to_str().unwrap();
    assert!(world.path("work/d/notes.txt").exists());
    // Both are a registry.
    checked(&world, "d").expect(0);
    checked(&world, &format!("d/{aside}")).expect(0);
    assert_eq!(mode(&world.path(&format!("work/d/{aside}"))), 0o700);
}

#[test]
fn what_is_no_sound_backup_of_this_version_is_not_restored() {
    let world = World::new();
    registry(&world, &own_address()).stop();
    for (damage, expected) in [("127.0.0.1:4001", "rank 0"), ("xlrg", "not a registry's")] {
        world.run(&["store", "backup", "b", "--data", "d"]).expect(0);
        flip(&world.path("work/b/registry.db"), damage.as_bytes());
        let done = world.run(&["store", "restore", "b", "--data", "e"]);
        done.expect(1).says(&[expected]);
        fs::remove_dir_all(world.path("work/b")).unwrap();
    }
    assert_eq!(world.list("work"), ["d"]);
    // The schema's version, in the database's header.
    let file = world.path("work/d/registry.db");
    let mut bytes = fs::read(&file).unwrap();
    bytes[63] = 99;
    fs::write(&file, bytes).unwrap();
    let done = world.run(&["store", "restore", "d", "--data", "e"]);
    done.expect(1).says(&["has schema version 99", "Run the newer version of xlreg"]);
    checked(&world, "d").expect(1).says(&["has schema version 99"]);
    assert!(!world.path("work/e").exists());
}

#[test]
fn a_restore_that_was_cut_short_is_not_taken_for_a_registry() {
    let world = World::new();
    registry(&world, &own_address()).stop();
    world.run(&["store", "backup", "b", "--data", "d"]).expect(0);
    // As if it had ended amid moving the new files into place.
    let [unfinished, file] =
        [".restore", "registry.db"].map(|name| world.path("work/d").join(name));
    fs::create_dir(&unfinished).unwrap();
    fs::rename(&file, unfinished.join("registry.db")).unwrap();
    let done = world.run(&["serve", "--listen", "127.0.0.1:0", "--data", "d"]);
    done.expect(1).says(&["the restore was cut short", "--replace"]);
    checked(&world, "d").expect(1).prints(&["a restore was cut short"]);
    world.run(&["store", "restore", "b", "--data", "d", "--replace"]).expect(0);
    checked(&world, "d").expect(0);
    world.serve(&["--listen", "127.0.0.1:0", "--data", "d"]).stop();
}

#[test]
fn a_backup_goes_to_a_new_directory_only() {
    let world = World::new();
    registry(&world, &own_address()).stop();
    fs::create_dir(world.path("work/full")).unwrap();
    fs::write(world.path("work/full/file"), "").unwrap();
    fs::write(world.path("work/file"), "").unwrap();
    for dest in ["full", "file", "d"] {
        let done = world.run(&["store", "backup", dest, "--data", "d"]);
        done.expect(8).says(&["is there already"]);
    }
    // A draft that a killed backup has left is in nobody's way.
    fs::create_dir(world.path("work/.b.draft")).unwrap();
    fs::write(world.path("work/.b.draft/registry.db"), "half").unwrap();
    fs::create_dir(world.path("work/b")).unwrap();
    world.run(&["store", "backup", "b", "--data", "d"]).expect(0);
    assert!(!world.path("work/.b.draft").exists());
    checked(&world, "b").expect(0);
}
