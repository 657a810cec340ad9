//! A damaged file is refused with an error that says so. It never makes the registry panic, and it
//! is never taken for what was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Builder;
use xlreg_core::admission::{Label, TokenDigest};
use xlreg_core::registry::{Actor, NewToken};
use xlreg_core::{Command, Outcome, TokenId};
use xlreg_store::engine::Node;
use xlreg_store::{Engine, StoreError, check};

use crate::support::{
    REGISTRY, by_name, create, find, join, join_signed, key, leave, node_id, open, operator, print,
    register, rotate, try_open, with_keys,
};

const NODES: u32 = 300;

/// A registry with some of everything, closed; gives its database's path.
async fn registry(dir: &Path) -> PathBuf {
    let engine = open(dir);
    for n in 0..NODES {
        engine.apply(register(n)).await.unwrap();
    }
    engine.apply(register(NODES)).await.unwrap();
    for (n, name) in (1..).zip(["alpha", "beta", "gamma"]) {
        engine.apply(create(name, 5, n)).await.unwrap();
        for member in 0..=n {
            engine.apply(join(name, member)).await.unwrap();
        }
    }
    for command in newer() {
        engine.apply(command).await.unwrap();
    }
    engine.close().await.unwrap();
    dir.join("registry.db")
}

/// What fills the tables that came with version 2, each with a row or two.
fn newer() -> Vec<Command> {
    let by = Actor { sig_key: print(1), admin: true };
    let token = |n| NewToken {
        id: TokenId::from_bytes([n; 4]),
        digest: TokenDigest::from_bytes([n; 32]),
        label: Label::new("for the lab").unwrap(),
        ttl: Duration::from_secs(3600),
        uses: u32::from(n),
    };
    let issue = |n| Command::IssueToken { cluster: by_name("beta"), by, token: token(n) };
    let comms = |n| Command::Register {
        claimed: Some(node_id(n)),
        fresh: node_id(n),
        sig_key: print(n),
        comms_key: Some(key(!n)),
    };
    vec![
        issue(1),
        issue(2),
        Command::Expel { cluster: by_name("gamma"), by, member: node_id(2) },
        leave("gamma", 1),
        join_signed("beta", 1, 7),
        join_signed("gamma", 3, 7),
        comms(3),
        comms(4),
        rotate(NODES, NODES + 1),
        rotate(NODES + 1, NODES + 2),
    ]
}

/// Everything that can be seen of a registry as [`registry`] makes it.
async fn all(engine: &dyn Engine) -> String {
    let mut seen = format!("{:?}", engine.counts());
    for name in ["alpha", "beta", "gamma"] {
        seen += &format!("{:?}", with_keys(&*find(engine, name).await));
    }
    for n in 0..NODES + 3 {
        seen += &seen_of(engine, n).await;
    }
    for n in 0..NODES {
        // Whose ID is it, and what is its latest ID? If it is as it was, nothing is written.
        let own = engine.apply(register(n)).await.unwrap();
        let latest = Command::Register {
            claimed: None,
            fresh: node_id(u32::MAX),
            sig_key: print(n),
            comms_key: None,
        };
        assert_eq!(engine.apply(latest).await.unwrap(), own);
        assert_eq!(own, Outcome::Registered(node_id(n)));
    }
    seen += &format!("{:?}", engine.counts());
    seen
}

async fn seen_of(engine: &dyn Engine, n: u32) -> String {
    let Node { ids, retired, comms_keys } = engine.node(&print(n)).await.unwrap();
    let keys = ids.iter().filter_map(|id| comms_keys.get(id)).map(|key| (key, key.der().to_vec()));
    format!("{ids:?} {retired} {:?}", keys.collect::<Vec<_>>())
}

fn refused(dir: &Path) -> StoreError {
    let error = try_open(dir).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("registry.db"), "{message}");
    error
}

/// SQLite opens such a file, and refuses to write to it. Found by fuzzing.
#[tokio::test]
async fn a_file_that_sqlite_would_only_read_is_refused_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = registry(dir.path()).await;
    let whole = fs::read(&path).unwrap();
    let (mut at, mut later) = (whole.clone(), whole.clone());
    (at[18], later[18]) = (1, 3);
    fs::write(&path, &later).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let findings = check(dir.path()).unwrap().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].problem, "its header lets no SQLite write to it (byte 18)");
    assert!(fs::read(&path).unwrap() == later, "it was changed");

    // What the format's first version says is written to, as a copy that was made with it is.
    fs::write(&path, &at).unwrap();
    assert!(check(dir.path()).unwrap().is_sound());
    let engine = open(dir.path());
    engine.apply(register(1000)).await.unwrap();
    engine.close().await.unwrap();
}

/// One bit anywhere in the file: either the file is refused, or what is remembered is untouched.
#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let runtime = Builder::new_current_thread().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = runtime.block_on(registry(dir.path()));
    let whole = fs::read(&path).unwrap();
    let expected = runtime.block_on(async { all(&open(dir.path())).await });
    let (mut refusals, mut harmless) = (0, 0);
    // Every byte of the header, then one here and there: 127 shares no factor with a page.
    let places = (0..100).chain((100..whole.len()).step_by(127));
    for (place, bit) in places.zip((0..8).cycle()) {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << bit;
        fs::write(&path, damaged).unwrap();
        match try_open(dir.path()) {
            Err(error) => {
                assert!(error.to_string().contains("registry.db"), "{error}");
                // A look at each would take a minute.
                if refusals % 5 == 0 {
                    let found = check(dir.path()).map_or(true, |report| !report.is_sound());
                    assert!(found, "bit {bit} of byte {place}: {error}, and nothing was found");
                }
                refusals += 1;
            }
            Ok(engine) => {
                let seen = runtime.block_on(all(&engine));
                assert!(seen == expected, "bit {bit} of byte {place} went unnoticed");
                harmless += 1;
            }
        }
    }
    assert!(refusals > 100, "{refusals} refused, {harmless} harmless");
}

#[tokio::test]
async fn a_file_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = registry(dir.path()).await;
    let whole = fs::read(&path).unwrap();
    for length in
        [0, 1, 99, 100, 511, 512, 4095, 4096, 4097, 8192, whole.len() - 4096, whole.len() - 1]
    {
        fs::write(&path, &whole[..length]).unwrap();
        refused(dir.path());
        // Refusing must not change it, nor make it pass the next time.
        assert_eq!(fs::metadata(&path).unwrap().len(), length as u64);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(open(dir.path()).counts().nodes, NODES as usize + 1);
}

#[test]
fn rubbish_is_refused() {
    for rubbish in [vec![0; 100], vec![0; 8192], vec![0xff; 8192], b"hello\n".repeat(2000)] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("registry.db"), rubbish).unwrap();
        refused(dir.path());
    }
}

#[test]
fn a_directory_in_place_of_the_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("registry.db")).unwrap();
    refused(dir.path());
}

/// A new database beside an old log would swallow what the log holds.
#[test]
fn a_log_without_its_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("registry.db-wal"), "commits").unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(dir.path().join("registry.db-wal").exists());
}

/// Values that SQLite finds in order, each in a row that says so, and which are still no registry's.
#[tokio::test]
async fn rows_that_do_not_decode_are_named() {
    let own = REGISTRY.to_string();
    for (table, sql) in [
        ("registry", "DELETE FROM registry".to_owned()),
        ("registry", "UPDATE registry SET id = zeroblob(20)".to_owned()),
        ("registry", format!("UPDATE registry SET id = x'{own}', sum = 0")),
        ("nodes", "DELETE FROM nodes WHERE seq = 5".to_owned()),
        ("nodes", "UPDATE nodes SET sig_print = zeroblob(32) WHERE seq = 5".to_owned()),
        ("nodes", "UPDATE nodes SET seq = 5000 WHERE seq = 301".to_owned()),
        ("clusters", "UPDATE clusters SET name = '7 up' WHERE name = 'beta'".to_owned()),
        ("clusters", "UPDATE clusters SET size = 1000000 WHERE name = 'beta'".to_owned()),
        ("members", "UPDATE members SET endpoints = 'nowhere' WHERE rank = 0".to_owned()),
        ("members", "UPDATE members SET rank = 60 WHERE rank = 0".to_owned()),
        ("members", "DELETE FROM members WHERE rank = 0".to_owned()),
        ("terms", "DELETE FROM clusters WHERE name = 'beta'".to_owned()),
        ("nodes", "DELETE FROM nodes WHERE seq = 301".to_owned()),
        ("terms", "UPDATE terms SET policy = 'token'".to_owned()),
        ("terms", "UPDATE terms SET owner = NULL".to_owned()),
        ("members", "DELETE FROM expelled".to_owned()),
        ("expelled", "UPDATE expelled SET sig_print = zeroblob(32)".to_owned()),
        (
            "departed",
            "DELETE FROM members WHERE (cluster, rank) IN (SELECT cluster, rank FROM departed)"
                .to_owned(),
        ),
        ("departed", "UPDATE departed SET rank = 3".to_owned()),
        ("signatures", "UPDATE signatures SET signature = zeroblob(256)".to_owned()),
        ("signatures", "UPDATE signatures SET rank = 60".to_owned()),
        // The last rank of `gamma`, which has gaps.
        ("signatures", "DELETE FROM members WHERE rank = 3".to_owned()),
        ("signatures", "UPDATE signatures SET cluster = zeroblob(20)".to_owned()),
        ("tokens", "UPDATE tokens SET uses = 1 WHERE place = 2".to_owned()),
        ("tokens", "UPDATE tokens SET place = 3 WHERE place = 1".to_owned()),
        ("comms_keys", "UPDATE comms_keys SET print = zeroblob(32)".to_owned()),
        ("comms_keys", "DELETE FROM nodes; DELETE FROM retirements".to_owned()),
        ("retirements", "DELETE FROM retirements WHERE seq = 1".to_owned()),
        ("retirements", "UPDATE retirements SET after_node = 3".to_owned()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        registry(dir.path()).await;
        let operator = operator(dir.path());
        operator.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        operator.execute_batch(&sql).unwrap();
        drop(operator);
        match refused(dir.path()) {
            StoreError::Damaged { table: got, .. } => assert_eq!(got, table, "{sql}"),
            other => panic!("{sql}: {other}"),
        }
    }
}
