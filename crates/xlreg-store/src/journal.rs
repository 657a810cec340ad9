//! The SQLite file: opened with suspicion, written in transactions, its log kept short.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};
use xlreg_core::limits::Limits;
use xlreg_core::{Change, NodeId, Registry, Time};

use crate::ledger::Ledger;
use crate::load::Loader;
use crate::{StoreError, folder, rows, schema};

/// The database's file name.
const DATABASE: &str = "registry.db";

/// What a registry remembers is in these: the database, its log, and the log's index, which SQLite
/// names after it.
pub const FILES: [&str; 3] = [DATABASE, "registry.db-wal", "registry.db-shm"];

/// How long a commit waits for an operator's own write transaction on the same file, before it
/// counts as failed.
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Bytes in the smallest database: one page of the smallest size.
const FILE_BYTES_MIN: u64 = 512;

/// Where a database says by which version of SQLite's format it may be written to, and the latest
/// version there is; SQLite only reads what is later.
const WRITE_VERSION_AT: usize = 18;
const WRITE_VERSION_MAX: u8 = 2;

/// Bytes the write-ahead log may reach before a checkpoint moves it into the database.
pub(crate) const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The durable half of a local engine: every change so far, in DIR/registry.db.
pub(crate) struct Journal {
    path: PathBuf,
    log: PathBuf,
    connection: Connection,
    /// At how many bytes of log the next checkpoint is due.
    due: u64,
    /// Whether the log may hold something that the database does not.
    dirty: bool,
    /// Dropped last: nobody else may open the file while the connection lives.
    _folder: folder::Folder,
}

impl Journal {
    /// Opens DIR/registry.db, or makes it, for `registry`; and loads what it remembers.
    pub(crate) fn open(
        dir: &Path,
        registry: NodeId,
        limits: Limits,
        now: Time,
    ) -> Result<(Self, Registry), StoreError> {
        let folder = folder::Folder::open(dir)?;
        let [path, log] = files(dir);
        if !exists(&path)? {
            if exists(&log)? {
                return Err(StoreError::Missing { path, log });
            }
            create(dir, &path, registry)?;
        }
        let (connection, state) = open(&path, |loader| {
            let got = loader.owner()?;
            if got != registry {
                return Err(StoreError::OtherRegistry {
                    path: path.clone(),
                    expected: registry,
                    got,
                });
            }
            loader.registry(limits, now)
        })?;
        let journal = Self {
            path,
            log,
            connection,
            due: LOG_BYTES_MAX,
            // A log that a crash left behind.
            dirty: true,
            _folder: folder,
        };
        Ok((journal, state))
    }

    fn write<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
    ) -> Result<(), StoreError> {
        self.dirty = true;
        self.transact(changes).map_err(|source| StoreError::sqlite("commit to", &self.path, source))
    }

    fn transact<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
    ) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            rows::write_change(&transaction, change)?;
        }
        transaction.commit()
    }

    fn truncate_log(&self) -> rusqlite::Result<bool> {
        // Writers wait for us, so don't wait for a reader.
        self.connection.busy_timeout(Duration::ZERO)?;
        let pragma = "PRAGMA wal_checkpoint(TRUNCATE)";
        let blocked = self.connection.query_row(pragma, [], |row| row.get::<_, bool>(0))?;
        self.connection.busy_timeout(BUSY_WAIT)?;
        Ok(blocked)
    }

    fn log_bytes(&self) -> u64 {
        // Only ever stat the file: closing any handle of ours on it would drop SQLite's locks.
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }
}

impl Ledger for Journal {
    /// Done when it returns: its thread waits for the disk.
    fn keep(&mut self, changes: &[&Change]) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(self.write(changes.iter().copied()))
    }

    fn is_dirty(&self) -> bool {
        self.dirty
    }

    fn is_due(&self) -> bool {
        self.log_bytes() >= self.due
    }

    /// Moves the log into the database and empties it, as far as readers of the file let it.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let blocked = self
            .truncate_log()
            .map_err(|source| StoreError::sqlite("checkpoint", &self.path, source))?;
        self.dirty = blocked;
        // An operator who reads the file, say for a backup, keeps the log from shrinking; then
        // try again when it has grown as much once more, not with every batch.
        self.due = if blocked { self.log_bytes() } else { 0 } + LOG_BYTES_MAX;
        Ok(())
    }

    /// Leaves one whole file behind, if nobody else is reading it.
    fn close(mut self) -> Result<(), StoreError> {
        self.checkpoint()?;
        let Self { path, connection, .. } = self;
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
            .and_then(|_| connection.close().map_err(|(_, source)| source))
            .map_err(|source| StoreError::sqlite("close", &path, source))
    }
}

/// The database in a directory, and its log, as SQLite names it.
pub(crate) fn files(dir: &Path) -> [PathBuf; 2] {
    let [database, log, _] = FILES;
    [dir.join(database), dir.join(log)]
}

/// The index of the log, which is there while somebody has the database open.
pub(crate) fn index(dir: &Path) -> PathBuf {
    let [_, _, index] = FILES;
    dir.join(index)
}

pub(crate) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(StoreError::folder("look for", path))
}

/// Makes a whole, empty registry under another name and then gives it its own. So a database that
/// is there was whole once, and an empty or half-written one is damage, not a first start.
fn create(dir: &Path, path: &Path, registry: NodeId) -> Result<(), StoreError> {
    let draft = dir.join(format!("{DATABASE}.new"));
    folder::remove(&draft)?;
    folder::remove(&dir.join(format!("{DATABASE}.new-journal")))?;
    folder::create_private(&draft)?;
    fill(&draft, registry).map_err(|source| StoreError::sqlite("create", &draft, source))?;
    fs::rename(&draft, path).map_err(StoreError::folder("create", path))?;
    folder::sync(dir)
}

fn fill(draft: &Path, registry: NodeId) -> rusqlite::Result<()> {
    let mut connection = connect(draft)?;
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    schema::upgrade(&mut connection, 0)?;
    rows::write_registry(&connection, &registry)?;
    connection.close().map_err(|(_, source)| source)
}

/// Reads a file of the schema's `version`, upgraded if need be. The upgrade is kept only if all of it
/// can be read: a file that is refused is left as it was.
fn load(
    connection: &mut Connection,
    path: &Path,
    version: i32,
    read: impl FnOnce(&Loader<'_>) -> Result<Registry, StoreError>,
) -> Result<Registry, StoreError> {
    let failed = |source| StoreError::sqlite("upgrade", path, source);
    let transaction = connection.transaction().map_err(failed)?;
    schema::migrate(&transaction, version, schema::VERSION).map_err(failed)?;
    let state = read(&Loader { connection: &transaction, path })?;
    transaction.commit().map_err(failed)?;
    Ok(state)
}

/// Opens a file that is there, checks its structure and reads it.
fn open(
    path: &Path,
    read: impl FnOnce(&Loader<'_>) -> Result<Registry, StoreError>,
) -> Result<(Connection, Registry), StoreError> {
    let failed = |source| StoreError::sqlite("open", path, source);
    refuse_stub(path)?;
    let mut connection = connect(path).map_err(failed)?;
    let version = version(&connection, path)?;
    // SQLite would tell with the first write.
    if connection.is_readonly(MAIN_DB).map_err(failed)? {
        File::options().write(true).open(path).map_err(StoreError::folder("write to", path))?;
        return Err(read_only(path));
    }
    let mode = |connection: &Connection, sql| {
        connection.query_row(sql, [], |row| row.get::<_, String>(0)).map_err(failed)
    };
    let is_written_to =
        version != schema::VERSION || mode(&connection, "PRAGMA journal_mode")? != "wal";
    let open = || {
        if !schema::is_ours(&connection, version).map_err(failed)? {
            return Err(not_ours(path));
        }
        let mode = mode(&connection, "PRAGMA journal_mode = WAL")?;
        if mode != "wal" {
            let path = path.to_owned();
            return Err(StoreError::NoLog { path, mode });
        }
        load(&mut connection, path, version, read)
    };
    let state = if is_written_to {
        // Only when it is known to be sound.
        check_structure(path)?;
        open()?
    } else {
        alongside(path, open)?
    };
    Ok((connection, state))
}

/// Reads a file while its structure is checked on another core: each takes a good part of a start.
fn alongside<T>(
    path: &Path,
    read: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    thread::scope(|scope| {
        let checking = thread::Builder::new()
            .name("xlreg-check".to_owned())
            .spawn_scoped(scope, || check_structure(path))
            .map_err(|source| StoreError::Thread { source })?;
        let state = read();
        // Of a file that is not sound this says more than whatever came of reading it.
        checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        state
    })
}

/// SQLite would take a file of next to nothing for a new database, and throw its log away.
pub(crate) fn refuse_stub(path: &Path) -> Result<(), StoreError> {
    let file = fs::metadata(path).map_err(StoreError::folder("open", path))?;
    if file.is_file() && file.len() < FILE_BYTES_MIN {
        let problem = format!("it has only {} bytes", file.len());
        return Err(corrupt(path, &problem));
    }
    Ok(())
}

/// Refuses a database that SQLite would not write to, whoever asks. SQLite goes by the header in the log,
/// if there is one; this, by the file's own.
pub(crate) fn refuse_read_only(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; WRITE_VERSION_AT + 1];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(StoreError::folder("read", path))?;
    if header[WRITE_VERSION_AT] > WRITE_VERSION_MAX { Err(read_only(path)) } else { Ok(()) }
}

fn read_only(path: &Path) -> StoreError {
    let problem = format!("its header lets no SQLite write to it (byte {WRITE_VERSION_AT})");
    corrupt(path, &problem)
}

pub(crate) fn not_ours(path: &Path) -> StoreError {
    corrupt(path, "its tables are not defined as its schema version defines them")
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Never create: an empty file that SQLite makes would pass for a new registry.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    // A file that is refused, or that a write failed on, is left with its log as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // FULL: a commit is on the disk when it returns, not only in the system's cache.
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA wal_autocheckpoint = 0;",
    )?;
    Ok(connection)
}

/// The file's schema version, if it is a registry's file and not from the future.
pub(crate) fn version(connection: &Connection, path: &Path) -> Result<i32, StoreError> {
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i32>(0))
            .map_err(|source| StoreError::sqlite("open", path, source))
    };
    let application = pragma("application_id")?;
    let version = pragma("user_version")?;
    if application != schema::APPLICATION_ID {
        return Err(StoreError::NotRegistry { path: path.to_owned(), got: application });
    }
    match version {
        1..=schema::VERSION => Ok(version),
        ..=0 => Err(corrupt(path, "its schema version is one that never was")),
        got => Err(StoreError::Newer { path: path.to_owned(), got, known: schema::VERSION }),
    }
}

/// Lets SQLite check its own structure. Rows that were lost with a page can't be missed otherwise.
fn check_structure(path: &Path) -> Result<(), StoreError> {
    let found: String = connect(path)
        .and_then(|connection| connection.pragma_query_value(None, "quick_check", |row| row.get(0)))
        .map_err(|source| StoreError::sqlite("check", path, source))?;
    if found == "ok" {
        return Ok(());
    }
    // Several lines, of which the first says it after a heading.
    let problem = found.lines().find(|line| !line.starts_with("***"));
    Err(corrupt(path, problem.unwrap_or("quick_check failed")))
}

fn corrupt(path: &Path, problem: &str) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use xlreg_core::admission::Life;
    use xlreg_core::cluster::NewCluster;
    use xlreg_core::registry::{Who, decide};
    use xlreg_core::{
        Admission, Cluster, ClusterId, ClusterKey, Command, EntrySignature, Fingerprint, Member,
        Policy, PublicKey, Seat, View,
    };

    fn write_node(journal: &mut Journal, number: u8) {
        let change = Change::Node {
            id: NodeId::from_bytes([number; 20]),
            sig_key: Fingerprint::from_bytes([number; 32]),
        };
        journal.write([&change]).unwrap();
    }

    #[test]
    fn a_checkpoint_empties_the_log_unless_somebody_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let id = NodeId::from_bytes([7; 20]);
        let (mut journal, _) =
            Journal::open(dir.path(), id, Limits::default(), Time::default()).unwrap();
        write_node(&mut journal, 1);
        assert!(journal.is_dirty() && !journal.is_due() && journal.log_bytes() > 0);
        journal.due = journal.log_bytes();
        assert!(journal.is_due());
        journal.checkpoint().unwrap();
        assert!(!journal.is_dirty() && !journal.is_due());
        assert_eq!((journal.log_bytes(), journal.due), (0, LOG_BYTES_MAX));

        let reader = Connection::open(&journal.path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM nodes").unwrap();
        write_node(&mut journal, 2);
        journal.checkpoint().unwrap();
        // Not at once again, and not never.
        assert!(journal.is_dirty() && !journal.is_due());
        assert_eq!(journal.due, journal.log_bytes() + LOG_BYTES_MAX);
        reader.execute_batch("COMMIT").unwrap();
        journal.checkpoint().unwrap();
        assert_eq!((journal.log_bytes(), journal.due), (0, LOG_BYTES_MAX));
    }

    const ALPHA: ClusterId = ClusterId::from_bytes([3; 20]);
    const REGISTRY: NodeId = NodeId::from_bytes([7; 20]);

    fn member(number: u8) -> Member {
        let key = PublicKey::from_checked(&[number], Fingerprint::from_bytes([number; 32]));
        Member {
            id: NodeId::from_bytes([number; 20]),
            name: format!("node_{number}").parse().unwrap(),
            attrs: 0,
            comms_key: key.clone(),
            sig_key: key,
            endpoints: vec!["localhost:1".parse().unwrap()],
            entry_signature: None,
        }
    }

    /// A file as the program wrote it before there was version 2.
    fn write_version_1(dir: &Path) -> rusqlite::Result<()> {
        let connection = Connection::open(dir.join(DATABASE))?;
        connection.execute_batch(schema::VERSION_1)?;
        connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", 1)?;
        rows::write_registry(&connection, &REGISTRY)?;
        for number in 1..=2 {
            let Member { id, sig_key, .. } = member(number);
            let change = Change::Node { id, sig_key: sig_key.fingerprint() };
            rows::write_change(&connection, &change)?;
        }
        let new = NewCluster::open("alpha".parse().unwrap(), 3, 1);
        let mut alpha = Cluster::new(ALPHA, &new, None, Time::default());
        alpha.revision = 2;
        rows::write_cluster(&connection, &alpha)?;
        rows::write_member(&connection, &ALPHA, 0, &member(1))?;
        rows::write_member(&connection, &ALPHA, 1, &member(2))?;
        connection.close().map_err(|(_, source)| source)
    }

    fn open_at(dir: &Path, now: Time) -> Result<(Journal, Registry), StoreError> {
        Journal::open(dir, REGISTRY, Limits::default(), now)
    }

    #[test]
    fn a_file_of_version_1_is_upgraded_with_all_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        write_version_1(dir.path()).unwrap();
        let before = fs::read(dir.path().join(DATABASE)).unwrap();
        let report = crate::check(dir.path()).unwrap();
        assert!(report.findings.iter().all(|finding| finding.table.is_none()), "{report:?}");
        assert_eq!((report.schema, report.registry), (Some(1), Some(REGISTRY)));
        assert_eq!((report.nodes, report.clusters, report.members), (2, 1, 2));
        assert_eq!(fs::read(dir.path().join(DATABASE)).unwrap(), before);
        let now = Time::from_millis(1_800_000_000_000);
        let (mut journal, mut registry) = open_at(dir.path(), now).unwrap();
        let alpha = registry.cluster(&ALPHA).unwrap();
        assert_eq!(
            (alpha.owner, &alpha.policy, alpha.life),
            (None, &Policy::Open, Life::default())
        );
        let seats = [1, 2].map(|number| Seat::Present(Arc::new(member(number))));
        assert_eq!((alpha.seats.as_slice(), alpha.revision), (&seats[..], 2));
        assert_eq!(registry.counts().nodes, 2);
        // What version 1 had no place for: somebody signs its entry, and leaves, and another key takes
        // its own place.
        let (old, new) = (member(1).sig_key.fingerprint(), member(9).sig_key);
        let who = Who { sig_key: member(2).sig_key.fingerprint(), name: None };
        let signed = Member { entry_signature: EntrySignature::new(&[1; 256]), ..member(2) };
        let (cluster, signed) = (ClusterKey::Id(ALPHA), Arc::new(signed));
        for command in [
            Command::Join { cluster, member: signed, admission: Admission::Key },
            Command::Leave { cluster: ClusterKey::Id(ALPHA), who },
            Command::Rotate { old, sig_key: Some(new), comms_key: None },
        ] {
            let decision = decide(&command, now, &registry).unwrap();
            journal.write(&decision.changes).unwrap();
            decision.changes.iter().for_each(|change| registry.apply(change));
        }
        journal.close().unwrap();
        let (_journal, again) = open_at(dir.path(), now).unwrap();
        assert_eq!(again.cluster(&ALPHA), registry.cluster(&ALPHA));
        let alpha = again.cluster(&ALPHA).unwrap();
        assert!(alpha.member(&member(2).id).unwrap().1.entry_signature.is_some());
        assert_eq!(again.counts(), registry.counts());
        assert!(again.key(&old).is_retired());
    }

    /// Also a file that is damaged, or another registry's, and could be upgraded before that shows.
    #[test]
    fn a_file_of_version_1_that_is_refused_stays_one() {
        for damage in ["DELETE FROM members WHERE rank = 0", "UPDATE registry SET sum = 0"] {
            let dir = tempfile::tempdir().unwrap();
            write_version_1(dir.path()).unwrap();
            let operator = Connection::open(dir.path().join(DATABASE)).unwrap();
            operator.execute_batch(damage).unwrap();
            let error = open_at(dir.path(), Time::default()).err().unwrap();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            let version = operator.pragma_query_value(None, "user_version", |row| row.get(0));
            assert_eq!(version, Ok(1));
        }
    }
}
