//! What a durable registry finds when it is opened: anything, as nothing in its file is believed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tempfile::TempDir;
use tokio::runtime::Builder;
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::Limits;
use xlreg_core::{ClusterId, Command, NodeId, Time};
use xlreg_store::{Clock, Engine, LocalEngine, check};

use crate::parts::Parts;
use crate::service::{check_rosters, clients, populate};

const REGISTRY: NodeId = NodeId::from_bytes([250; 20]);
const DATABASE: &str = "registry.db";

/// A store's files: one that was whole, with bytes or with values changed; a log beside it; or all
/// of it as it comes. What is found to be sound opens; what opens serves, and opens again.
pub fn store(input: &[u8]) {
    let mut parts = Parts::new(input);
    let dir = directory();
    let path = dir.path().join(DATABASE);
    let whole = Whole::get();
    match parts.byte() % 4 {
        0 => write(&path, &with_bytes_changed(&whole.bytes, parts)),
        1 => {
            write(&path, &whole.bytes);
            // SQLite itself refuses some values.
            let _written = whole.change_values(&path, parts);
        }
        2 => {
            write(&path, &whole.bytes);
            write(&dir.path().join(format!("{DATABASE}-wal")), parts.rest());
        }
        _ => write(&path, parts.rest()),
    }
    let sound = is_sound(dir.path(), &path);
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    for fresh in 1..=2 {
        let engine = match LocalEngine::open_by(clock(), dir.path(), REGISTRY, Limits::default()) {
            Ok(engine) => engine,
            Err(error) => {
                drop(error.to_string());
                assert!(!sound, "nothing was found, but: {error}");
                assert_eq!(fresh, 1, "it opened before: {error}");
                return;
            }
        };
        runtime.block_on(async {
            check_rosters(&engine).await;
            let name = format!("fresh_{fresh}").parse().expect("a name");
            let command = Command::Create {
                new: NewCluster::open(name, 2, 1),
                owner: clients()[0].fingerprint(),
                fresh: ClusterId::from_bytes([0xF0 | fresh; 20]),
                strict: true,
            };
            let _refused = engine.apply(command).await;
            engine.close().await.expect("a file that was fit to be opened");
        });
    }
}

/// Whether nothing is wrong with it, as far as looking at it tells; which leaves it as it is.
fn is_sound(dir: &Path, path: &Path) -> bool {
    let read = || fs::read(path).expect("the file that we wrote");
    let before = read();
    let checked = check::check(dir);
    assert!(read() == before, "it was changed by being looked at");
    match checked {
        Ok(report) => {
            report.findings.iter().for_each(|finding| drop(finding.to_string()));
            report.findings.is_empty() && report.registry == Some(REGISTRY)
        }
        Err(error) => {
            drop(error.to_string());
            false
        }
    }
}

fn directory() -> TempDir {
    // In memory if it can be: there are a thousand of these a second.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    dir.expect("a directory")
}

fn clock() -> Clock {
    Clock::standing(Time::from_millis(1_800_000_000_000))
}

fn write(path: &Path, bytes: &[u8]) {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.expect("a file of our own").write_all(bytes).expect("room for a small one");
}

/// Flips bits here and there; and if the input says so, the end is missing.
fn with_bytes_changed(bytes: &[u8], mut parts: Parts<'_>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while !parts.is_empty() {
        let place = u32::from_le_bytes([parts.byte(), parts.byte(), parts.byte(), 0]) as usize;
        match parts.byte() {
            0 => bytes.truncate(place),
            flip => bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= flip),
        }
    }
    bytes
}

/// A store's file as the engine leaves it, and what is in its tables.
struct Whole {
    bytes: Vec<u8>,
    tables: Vec<Table>,
}

/// A table; the last column of each is the checksum of the others.
struct Table {
    name: String,
    rows: Vec<Vec<Value>>,
}

impl Whole {
    fn get() -> &'static Self {
        static WHOLE: OnceLock<Whole> = OnceLock::new();
        WHOLE.get_or_init(Self::new)
    }

    fn new() -> Self {
        let dir = directory();
        let engine = LocalEngine::open_by(clock(), dir.path(), REGISTRY, Limits::default());
        let engine = engine.expect("a new store");
        Builder::new_current_thread().build().expect("a runtime").block_on(async {
            populate(&engine).await;
            engine.close().await.expect("a store that closes");
        });
        drop(engine);
        let path = dir.path().join(DATABASE);
        let bytes = fs::read(&path).expect("a file");
        Self { tables: tables(&path).expect("a database"), bytes }
    }

    /// Changes values, rows and their number, and makes the checksums right again.
    fn change_values(&self, path: &Path, mut parts: Parts<'_>) -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; BEGIN")?;
        while !parts.is_empty() {
            let table = &self.tables[usize::from(parts.byte()) % self.tables.len()];
            let mut rows = table.rows.clone();
            for _ in 0..=parts.byte() % 4 {
                change_row(&mut rows, &mut parts);
            }
            connection.execute(&format!("DELETE FROM {}", table.name), [])?;
            for row in &mut rows {
                let sum = checksum(&row[..row.len() - 1]);
                row.last_mut().expect("a sum").clone_from(&Value::Integer(sum));
                let places = vec!["?"; row.len()].join(",");
                let sql = format!("INSERT OR IGNORE INTO {} VALUES ({places})", table.name);
                let _unfit = connection.prepare_cached(&sql)?.execute(params_from_iter(row.iter()));
            }
        }
        connection.execute_batch("COMMIT")
    }
}

fn change_row(rows: &mut Vec<Vec<Value>>, parts: &mut Parts<'_>) {
    let (how, number, column) = (parts.byte(), parts.byte(), parts.byte());
    if rows.is_empty() {
        return;
    }
    let number = usize::from(number) % rows.len();
    let other = usize::from(how >> 3) % rows.len();
    let columns = rows[number].len() - 1;
    let column = usize::from(column) % columns;
    let value = match how & 7 {
        0 => Value::Integer(i64::from(parts.byte())),
        1 => Value::Integer(i64::from_le_bytes(std::array::from_fn(|_| parts.byte()))),
        2 => Value::Text(String::from_utf8_lossy(parts.piece()).into_owned()),
        3 => Value::Blob(parts.piece().to_vec()),
        4 => Value::Null,
        5 => rows[other][column].clone(),
        6 => {
            let row = rows[number].clone();
            return rows.push(row);
        }
        _ => return drop(rows.remove(number)),
    };
    rows[number][column] = value;
}

fn tables(path: &Path) -> rusqlite::Result<Vec<Table>> {
    let connection = Connection::open(path)?;
    let mut names =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let read = |name: String| {
        let mut all = connection.prepare(&format!("SELECT * FROM {name}"))?;
        let columns = all.column_count();
        let rows = all.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
        Ok(Table { rows: rows.collect::<Result<_, _>>()?, name })
    };
    names.into_iter().map(read).collect()
}

/// The store's checksum: FNV-1a over each value with its type and length.
fn checksum(values: &[Value]) -> i64 {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for value in values {
        match value {
            Value::Null => mix(b"n"),
            Value::Integer(number) => {
                mix(b"i");
                mix(&number.to_le_bytes());
            }
            Value::Real(number) => {
                mix(b"r");
                mix(&number.to_le_bytes());
            }
            Value::Text(text) => {
                mix(b"t");
                mix(&text.len().to_le_bytes());
                mix(text.as_bytes());
            }
            Value::Blob(bytes) => {
                mix(b"b");
                mix(&bytes.len().to_le_bytes());
                mix(bytes);
            }
        }
    }
    sum.cast_signed()
}
