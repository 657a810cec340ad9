//! Who may open a directory, and what is said to those who may not.

use std::fs;
use std::path::Path;

use xlreg_core::NodeId;
use xlreg_core::limits::Limits;
use xlreg_store::{Engine, LocalEngine, StoreError};

use crate::support::{open, operator, register, try_open};

/// A directory with one node in it, closed.
async fn closed(dir: &Path) {
    let engine = open(dir);
    engine.apply(register(1)).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let holder = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    // The first is none the worse for it.
    first.apply(register(1)).await.unwrap();
    drop(first);
    assert_eq!(open(dir.path()).counts().nodes, 1);
}

#[tokio::test]
async fn a_file_from_the_future_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path()).await;
    operator(dir.path()).pragma_update(None, "user_version", 3).unwrap();
    let before = fs::read(dir.path().join("registry.db")).unwrap();
    let error = try_open(dir.path()).unwrap_err();
    let expected = matches!(error, StoreError::Newer { got: 3, known: 2, .. });
    assert!(expected, "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(fs::read(dir.path().join("registry.db")).unwrap(), before);
}

#[tokio::test]
async fn versions_that_never_were_are_refused() {
    for version in [0, -1, i32::MIN] {
        let dir = tempfile::tempdir().unwrap();
        closed(dir.path()).await;
        operator(dir.path()).pragma_update(None, "user_version", version).unwrap();
        let error = try_open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_file_of_another_registry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path()).await;
    let other = NodeId::from_bytes([8; 20]);
    let error = LocalEngine::open(dir.path(), other, Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::OtherRegistry { .. }), "{error}");
    assert!(error.to_string().contains(&other.to_string()), "{error}");
    assert_eq!(open(dir.path()).counts().nodes, 1);
}

#[test]
fn the_database_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    operator(dir.path()).execute_batch("CREATE TABLE recipes (title TEXT)").unwrap();
    let error = try_open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::NotRegistry { got: 0, .. }), "{error}");
}

#[tokio::test]
async fn tables_that_were_changed_and_triggers_are_refused() {
    for sql in [
        "CREATE TRIGGER t AFTER INSERT ON nodes BEGIN DELETE FROM members; END",
        "ALTER TABLE nodes ADD COLUMN note TEXT",
        "DROP TABLE members",
        "CREATE TABLE notes (note TEXT)",
    ] {
        let dir = tempfile::tempdir().unwrap();
        closed(dir.path()).await;
        operator(dir.path()).execute_batch(sql).unwrap();
        let error = try_open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{sql}: {error}");
    }
}

/// An operator may look into the file, also with an index, a view or statistics to help.
#[tokio::test]
async fn an_operator_may_read_while_the_registry_runs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let reader = operator(dir.path());
    reader.execute_batch("BEGIN").unwrap();
    let count = || reader.query_row("SELECT count(*) FROM nodes", [], |row| row.get::<_, i64>(0));
    assert_eq!(count(), Ok(0));
    for n in 0..50 {
        engine.apply(register(n)).await.unwrap();
    }
    assert_eq!(count(), Ok(0));
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), Ok(50));
    let aids = "CREATE INDEX by_key ON nodes (sig_print); \
                CREATE VIEW readable AS SELECT hex(id) FROM nodes; ANALYZE";
    reader.execute_batch(aids).unwrap();
    drop(reader);
    engine.apply(register(50)).await.unwrap();
    engine.close().await.unwrap();
    assert_eq!(open(dir.path()).counts().nodes, 51);
}

/// A first start that was cut short leaves a draft, which is no database yet.
#[test]
fn a_draft_left_by_a_crash_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("registry.db.new"), "half a draft").unwrap();
    fs::write(dir.path().join("registry.db.new-journal"), "and its journal").unwrap();
    assert_eq!(open(dir.path()).counts().nodes, 0);
    assert!(!dir.path().join("registry.db.new").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_made_is_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("a/b");
    let engine = open(&dir);
    engine.apply(register(1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["lock", "registry.db", "registry.db-wal", "registry.db-shm"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_place_where_no_directory_can_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for dir in [file.path().to_owned(), file.path().join("below")] {
        let error = try_open(&dir).unwrap_err();
        assert!(matches!(error, StoreError::Folder { .. }), "{error}");
        assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    }
}
