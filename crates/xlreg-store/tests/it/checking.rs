//! Looking a file over and copying it: what is found, and that nobody is disturbed by it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use xlreg_core::admission::{Label, TokenDigest};
use xlreg_core::registry::{Actor, NewToken};
use xlreg_core::{Command, TokenId};
use xlreg_store::check::{FINDINGS_MAX, Report};
use xlreg_store::{Engine, LocalEngine, StoreError, check, copy};

use crate::support::{
    REGISTRY, by_name, create, find, join, leave, open, operator, print, register, try_open,
    with_keys,
};

/// Three nodes; a cluster of two, of whom one has left; and a token.
async fn fill(engine: &LocalEngine) {
    let token = NewToken {
        id: TokenId::from_bytes([1; 4]),
        digest: TokenDigest::from_bytes([1; 32]),
        label: Label::new("lab").unwrap(),
        ttl: Duration::from_secs(3600),
        uses: 1,
    };
    let by = Actor { sig_key: print(1), admin: true };
    for command in [
        register(1),
        register(2),
        register(3),
        create("alpha", 3, 1),
        join("alpha", 1),
        join("alpha", 2),
        leave("alpha", 1),
        Command::IssueToken { cluster: by_name("alpha"), by, token },
    ] {
        engine.apply(command).await.unwrap();
    }
}

fn counts(report: &Report) -> [u64; 4] {
    [report.nodes, report.clusters, report.members, report.tokens]
}

fn findings(dir: &Path) -> Vec<String> {
    check(dir).unwrap().findings.iter().map(ToString::to_string).collect()
}

/// Every file and its bytes. Of no registry that is open in this process: reading and closing its
/// files would drop SQLite's locks.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

/// The files of a running registry, as a kill leaves them.
fn killed(engine_dir: &Path, dir: &Path, names: &[&str]) {
    let files = names.iter().map(|name| engine_dir.join(name));
    assert!(Process::new("cp").args(files).arg(dir).status().unwrap().success());
}

#[tokio::test]
async fn a_stopped_registry_is_told_and_left_as_it_is() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("50% of äll?x=1#");
    let engine = open(&dir);
    fill(&engine).await;
    engine.close().await.unwrap();
    let before = files(&dir);
    let report = check(&dir).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.schema, report.registry), (Some(2), Some(REGISTRY)));
    assert_eq!(counts(&report), [3, 1, 2, 1]);
    assert!(report.bytes > 0 && report.log_bytes == 0);
    assert_eq!(files(&dir), before);
}

#[tokio::test]
async fn a_running_registry_is_told_up_to_its_last_commit_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    fill(&engine).await;
    assert_eq!(counts(&check(dir.path()).unwrap()), [3, 1, 2, 1]);
    engine.apply(register(4)).await.unwrap();
    let report = check(dir.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.nodes, report.log_bytes > 0), (4, true));
    engine.close().await.unwrap();
    assert!(!dir.path().join("registry.db-wal").exists());
}

/// Not even the log's index is set right, which the next start will do.
#[tokio::test]
async fn a_killed_registry_is_told_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    fill(&engine).await;
    let all = ["registry.db", "registry.db-wal", "registry.db-shm"];
    for names in [&all[..], &all[..2]] {
        let copied = tempfile::tempdir().unwrap();
        killed(dir.path(), copied.path(), names);
        let before = files(copied.path());
        let report = check(copied.path()).unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(counts(&report), [3, 1, 2, 1]);
        assert!(files(copied.path()) == before, "something was changed");
        assert_eq!(open(copied.path()).counts().nodes, 3);
    }
}

#[tokio::test]
async fn an_empty_log_is_as_good_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    fill(&engine).await;
    engine.close().await.unwrap();
    for names in [&["registry.db-wal"][..], &["registry.db-wal", "registry.db-shm"]] {
        names.iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        assert_eq!(counts(&check(dir.path()).unwrap()), [3, 1, 2, 1]);
    }
}

#[tokio::test]
async fn all_rows_that_are_damaged_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    fill(&engine).await;
    engine.close().await.unwrap();
    let sql = "UPDATE nodes SET sig_print = zeroblob(32) WHERE seq >= 2; \
               UPDATE members SET endpoints = 'h:1' WHERE rank = 1; \
               UPDATE tokens SET uses = 1";
    operator(dir.path()).execute_batch(sql).unwrap();
    let found = findings(dir.path());
    assert_eq!(found.len(), 4, "{found:#?}");
    for (found, expected) in found.iter().zip([
        "registry.db, table nodes, seq 2: the checksum does not match",
        "registry.db, table nodes, seq 3: the checksum does not match",
        "registry.db, table members, cluster 00000001",
        "registry.db, table tokens, cluster 00000001",
    ]) {
        assert!(found.starts_with(expected), "{found}");
    }
    assert!(found[2].ends_with(", rank 1: the checksum does not match"), "{}", found[2]);
}

/// Each row is as it was written, and yet they don't belong together.
#[tokio::test]
async fn rows_that_are_missing_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    fill(&engine).await;
    engine.close().await.unwrap();
    operator(dir.path()).execute_batch("DELETE FROM nodes WHERE seq = 2").unwrap();
    let expected = "registry.db, table nodes, seq 2: expected seq 2, got 3: rows are missing";
    assert_eq!(findings(dir.path()), [expected]);
}

#[tokio::test]
async fn what_is_found_in_rubbish_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for n in 0..2 * FINDINGS_MAX as u32 {
        engine.apply(register(n)).await.unwrap();
    }
    engine.close().await.unwrap();
    operator(dir.path()).execute_batch("UPDATE nodes SET sum = 0").unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!((report.findings.len(), report.more), (FINDINGS_MAX, true));

    for rubbish in [&b""[..], b"cut", &[0xff; 8192]] {
        fs::write(dir.path().join("registry.db"), rubbish).unwrap();
        let report = check(dir.path()).unwrap();
        assert!(!report.is_sound() && report.schema.is_none(), "{report:?}");
    }
}

#[tokio::test]
async fn what_is_no_registrys_file_of_this_version_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = check(dir.path()).unwrap_err();
    assert!(matches!(missing, StoreError::Folder { .. }), "{missing}");
    fs::write(dir.path().join("registry.db-wal"), "commits").unwrap();
    let missing = check(dir.path()).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    fs::remove_file(dir.path().join("registry.db-wal")).unwrap();
    open(dir.path()).close().await.unwrap();
    operator(dir.path()).pragma_update(None, "user_version", 99).unwrap();
    let newer = check(dir.path()).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { got: 99, .. }), "{newer}");
    operator(dir.path()).pragma_update(None, "application_id", 1).unwrap();
    let other = check(dir.path()).unwrap_err();
    assert!(matches!(other, StoreError::NotRegistry { .. }), "{other}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_others_may_open_is_found() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await.unwrap();
    let file = dir.path().join("registry.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let expected =
        format!("registry.db: others may open it (mode 644): chmod 600 {}", file.display());
    assert_eq!(findings(dir.path()), [expected]);
}

#[tokio::test]
async fn a_copy_of_a_running_registry_is_the_same_registry() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = open(dir.path());
    fill(&engine).await;
    copy(dir.path(), to.path()).unwrap();
    // What comes after it is not in it, and comes on.
    engine.apply(register(4)).await.unwrap();
    let report = check(to.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.registry, counts(&report)), (Some(REGISTRY), [3, 1, 2, 1]));
    let again = open(to.path());
    let [was, is] = [&engine, &again].map(|engine| find(engine, "alpha"));
    assert_eq!(with_keys(&*was.await), with_keys(&*is.await));
    again.apply(register(5)).await.unwrap();
}

#[tokio::test]
async fn a_copy_takes_damage_along_so_that_it_is_found() {
    let (dir, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = open(dir.path());
    fill(&engine).await;
    engine.close().await.unwrap();
    operator(dir.path()).execute_batch("UPDATE nodes SET sum = 0 WHERE seq = 2").unwrap();
    copy(dir.path(), to.path()).unwrap();
    assert!(!check(to.path()).unwrap().is_sound());
    assert!(try_open(to.path()).is_err());
}
