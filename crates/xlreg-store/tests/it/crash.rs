//! Power cuts, kills and full disks: what was answered is kept, and what can't be kept is never
//! answered.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;

use tokio::task::JoinSet;
use xlreg_core::Outcome;
use xlreg_store::{Engine, StoreError};

use crate::support::{
    by_name, cluster_id, create, is_failed, join, node_id, open, operator, register,
};

/// Tells the child processes below where to write.
const DIR: &str = "XLREG_STORE_TEST_DIR";

/// Nodes that the child which fills its disk tries to register at once.
const TASKS: u32 = 32;

/// This test binary as a child process that runs one test, below whatever command comes before.
fn child(mut command: Process, test: &str, dir: &Path) -> Process {
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The number in a line such as `kept 17`; libtest prints other lines between.
fn number(line: &str, word: &str) -> Option<u32> {
    let (_, number) = line.split_once(word)?;
    number.trim().parse().ok()
}

/// Asks for node after node, and says which were answered, until somebody kills the process.
#[tokio::test]
#[ignore = "the child process of the test below"]
async fn registers_until_killed() {
    let engine = open(Path::new(&std::env::var_os(DIR).unwrap()));
    for n in 0.. {
        engine.apply(register(n)).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nkept {n}").and_then(|()| out.flush()).unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = 0;
    for round in 1..=3 {
        let exe = Process::new(std::env::current_exe().unwrap());
        let mut child = child(exe, "crash::registers_until_killed", dir.path()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut kept = || lines.find_map(|line| number(&line.unwrap(), "kept "));
        let target = round * 300;
        while kept().unwrap() < target {}
        child.kill().unwrap();
        // What it said before it died counts, too.
        answered = std::iter::from_fn(&mut kept).last().unwrap_or(target) + 1;
        child.wait().unwrap();
    }
    let engine = open(dir.path());
    // One more may have been kept that it had no time to tell.
    let nodes = engine.counts().nodes as u32;
    assert!(nodes == answered || nodes == answered + 1, "{nodes} of {answered}");
}

/// Fills a disk that is too small, from many tasks at once, and says which were answered how.
#[tokio::test]
#[ignore = "the child process of the test below"]
async fn registers_until_the_disk_is_full() {
    let engine = Arc::new(open(Path::new(&std::env::var_os(DIR).unwrap())));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move {
            for n in (task..).step_by(TASKS as usize) {
                let answer = engine.apply(register(n)).await;
                if answer.is_err() {
                    assert!(is_failed(&answer), "{answer:?}");
                    println!("\nfailed {n}");
                    return;
                }
                println!("\nkept {n}");
            }
        });
    }
    tasks.join_all().await;
    println!("\nreason: {}", engine.failure().await);
    assert!(engine.close().await.is_err());
}

/// The limit on a file's size stands in for a full disk: the write itself fails, within a commit.
#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_nothing_is_answered_that_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut shell = Process::new("sh");
    // Without its signal the limit shows as an error of write(2). The unit is 512 or 1024 bytes.
    shell.args(["-c", r#"trap "" XFSZ; ulimit -f 500; exec "$0" "$@""#]);
    shell.arg(std::env::current_exe().unwrap());
    let output = child(shell, "crash::registers_until_the_disk_is_full", dir.path()).output();
    let output = String::from_utf8(output.unwrap().stdout).unwrap();
    let all = |word| -> BTreeSet<u32> { output.lines().filter_map(|l| number(l, word)).collect() };
    let (kept, failed) = (all("kept "), all("failed "));
    assert!(output.contains("reason: cannot commit to"), "{output}");
    assert_eq!(failed.len(), TASKS as usize);
    assert!(kept.len() > 100);

    let engine = open(dir.path());
    assert_eq!(engine.counts().nodes, kept.len());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for n in kept {
        // Answered from memory, with nothing to write, only if it is there.
        let answer = runtime.block_on(engine.apply(register(n))).unwrap();
        assert_eq!(answer, Outcome::Registered(node_id(n)));
    }
}

/// A trigger stands in for whatever may go wrong within a commit.
fn break_writes(dir: &Path) {
    let sql = "CREATE TRIGGER broken BEFORE INSERT ON nodes WHEN new.id = zeroblob(20) \
               BEGIN SELECT raise(ABORT, 'the disk is on fire'); END";
    operator(dir).execute_batch(sql).unwrap();
}

/// One failed commit ends the engine for all: those in it, those queued, and those to come.
#[tokio::test]
async fn a_failed_commit_fails_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(dir.path()));
    engine.apply(create("alpha", 2, 1)).await.unwrap();
    engine.apply(register(1)).await.unwrap();
    let mut follower = engine.watch(&cluster_id(1)).unwrap();
    break_writes(dir.path());
    // The node that breaks comes first; on one thread all are queued before the writer wakes us.
    let mut tasks = JoinSet::new();
    for n in [0, 2, 3, 4] {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move { engine.apply(register(n)).await });
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().any(is_failed), "{answers:?}");
    let reason = engine.failure().await;
    assert!(matches!(*reason, StoreError::Sqlite { .. }), "{reason}");
    assert!(reason.to_string().contains("the disk is on fire"), "{reason}");

    // Also what would need no write, and reads.
    assert!(is_failed(&engine.apply(register(1)).await));
    assert!(is_failed(&engine.apply(join("alpha", 1)).await));
    assert!(is_failed(&engine.find(&by_name("alpha")).await));
    assert!(follower.changed().await.is_err());
    assert!(engine.close().await.is_err());

    let kept = 1 + answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(engine.counts().nodes, kept);
    // The directory is free as soon as the failure is known.
    operator(dir.path()).execute_batch("DROP TRIGGER broken").unwrap();
    let again = open(dir.path());
    assert_eq!(again.counts().nodes, kept);
    again.apply(register(0)).await.unwrap();
}

/// The files as a power cut leaves them: written, never closed.
#[cfg(unix)]
#[tokio::test]
async fn a_copy_of_the_files_of_a_running_registry_is_whole() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = open(dir.path());
    // A reader keeps the log from being emptied between the copying of one file and the other.
    let reader = operator(dir.path());
    reader.execute_batch("BEGIN; SELECT count(*) FROM nodes").unwrap();
    for n in 0..100 {
        engine.apply(register(n)).await.unwrap();
    }
    // Copied by another process: closing a file of ours would drop SQLite's locks on it.
    let files = ["registry.db", "registry.db-wal"].map(|file| dir.path().join(file));
    let copied = Process::new("cp").args(files).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    assert_eq!(open(copy.path()).counts().nodes, 100);
}
