//! Looking a registry's file over, and copying it, while a server may have it open.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rusqlite::Connection;
use xlreg_core::limits::Limits;
use xlreg_core::{NodeId, Time};

use crate::load::Loader;
use crate::rows::{TABLES, Table};
use crate::{StoreError, folder, journal, schema, snapshot};

/// Findings that a report has; of a file that is rubbish every row would be one.
pub const FINDINGS_MAX: usize = 100;

/// What is in a registry's file, and all that is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of its schema; none if it can't be told.
    pub schema: Option<i32>,
    /// The registry whose file it is; none if it can't be told.
    pub registry: Option<NodeId>,
    /// IDs that are registered.
    pub nodes: u64,
    /// Clusters.
    pub clusters: u64,
    /// Members of all clusters, those included who have left and whose rank is kept.
    pub members: u64,
    /// Join tokens, used up and expired ones included.
    pub tokens: u64,
    /// Bytes of the database.
    pub bytes: u64,
    /// Bytes of the log beside it: commits on their way into the database.
    pub log_bytes: u64,
    /// What is wrong, [`FINDINGS_MAX`] at most. The file is sound if there is nothing.
    pub findings: Vec<Finding>,
    /// Whether there were more.
    pub more: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name.
    pub file: String,
    /// The table, if it is about one.
    pub table: Option<&'static str>,
    /// Which row of it, by its key.
    pub row: Option<String>,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(table) = self.table {
            write!(f, ", table {table}")?;
        }
        if let Some(row) = &self.row {
            write!(f, ", {row}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Looks the file in `dir` over: what SQLite says of its structure, each table's definition, each
/// row's checksum, and whether the rules could ever have led to it.
///
/// Reads all of it as it is at one moment, and changes nothing, also while a server has it open. It
/// takes as long and as much memory as a server's start.
///
/// # Errors
/// A [`StoreError`] if there is nothing to look at: no file, one that can't be read, one that is no
/// registry's, or one of a later version. What is wrong with a registry's file is no error, but in
/// the report.
pub fn check(dir: &Path) -> Result<Report, StoreError> {
    let [path, log] = journal::files(dir);
    if !journal::exists(&path)? && journal::exists(&log)? {
        return Err(StoreError::Missing { path, log });
    }
    let mut report = snapshot::read(dir, |connection| {
        let mut report = Report::default();
        let looked = look(connection, &path, &mut report);
        report.absorb(looked).map(|_| report)
    })?;
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    (report.bytes, report.log_bytes) = (size(&path), size(&log));
    for file in [path, log, journal::index(dir)] {
        report.look_at_mode(&file);
    }
    Ok(report)
}

/// Copies what the registry in `dir` remembers, as it is at one moment, to a directory that has no
/// registry's memory yet. The copy is on the disk when this returns.
///
/// A server that has the file open goes on meanwhile. Rows are copied as they are, damaged ones
/// too: [`check`] both.
///
/// # Errors
/// A [`StoreError`] if the one can't be read or the other not be written. What there is of a copy then
/// must not be used.
pub fn copy(dir: &Path, to: &Path) -> Result<(), StoreError> {
    let [path, _] = journal::files(to);
    if journal::exists(&path)? {
        return Err(StoreError::folder("create", &path)(io::ErrorKind::AlreadyExists.into()));
    }
    snapshot::read(dir, |connection| {
        // Of an attempt amid which a server has started.
        folder::remove(&path)?;
        snapshot::write_out(connection, &path)
    })?;
    folder::sync(to)
}

/// All that can be found without leaving the file. An error ends the search, and may be a finding.
fn look(connection: &Connection, path: &Path, report: &mut Report) -> Result<(), StoreError> {
    journal::refuse_stub(path)?;
    let version = journal::version(connection, path)?;
    report.schema = Some(version);
    report.absorb(journal::refuse_read_only(path))?;
    if version == schema::VERSION {
        // One transaction, so that all is of one moment.
        return look_at(connection, path, version, report);
    }
    // It has to be brought to this version to be read, and is to stay what it is.
    let copies = tempfile::tempdir().map_err(StoreError::folder("copy", path))?;
    let [copy, _] = journal::files(copies.path());
    structure(connection, path, version, report)?;
    snapshot::write_out(connection, &copy)?;
    let failed = |source| StoreError::sqlite("upgrade a copy of", path, source);
    let mut copy = Connection::open(copy).map_err(failed)?;
    schema::upgrade(&mut copy, version).map_err(failed)?;
    contents(&copy, path, report)
}

fn look_at(
    connection: &Connection,
    path: &Path,
    version: i32,
    report: &mut Report,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("read", path, source);
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    structure(&transaction, path, version, report)?;
    contents(&transaction, path, report)
}

/// What SQLite says, and whether the tables are ours. Rows mean nothing if they are not.
fn structure(
    connection: &Connection,
    path: &Path,
    version: i32,
    report: &mut Report,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::sqlite("check", path, source);
    connection
        .pragma(None, "integrity_check", FINDINGS_MAX as i64, |row| {
            let said: String = row.get(0)?;
            for line in said.lines().filter(|line| *line != "ok" && !line.starts_with("***")) {
                report.find(path, None, None, line.to_owned());
            }
            Ok(())
        })
        .map_err(failed)?;
    if schema::is_ours(connection, version).map_err(failed)? {
        Ok(())
    } else {
        Err(journal::not_ours(path))
    }
}

/// Each row by itself, and then all together as a server would load them.
fn contents(connection: &Connection, path: &Path, report: &mut Report) -> Result<(), StoreError> {
    for table in &TABLES {
        let rows = rows_of(connection, path, table, report);
        let rows = report.absorb(rows)?.unwrap_or_default();
        match table.name {
            "nodes" => report.nodes = rows,
            "clusters" => report.clusters = rows,
            "members" => report.members = rows,
            "tokens" => report.tokens = rows,
            _ => {}
        }
    }
    let loader = Loader { connection, path };
    let owner = loader.owner();
    report.registry = report.absorb(owner)?;
    // The first thing only, for all that comes after it may follow from it.
    let loaded = loader.registry(Limits::default(), Time::default());
    report.absorb(loaded).map(drop)
}

/// Looks at every row of a table, and counts them.
fn rows_of(
    connection: &Connection,
    path: &Path,
    table: &Table,
    report: &mut Report,
) -> Result<u64, StoreError> {
    let failed = |source| StoreError::sqlite("read", path, source);
    let mut statement = connection.prepare(table.select).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut count = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        count += 1;
        if let Err(problem) = (table.check)(row) {
            report.find(path, Some(table.name), Some((table.place)(row, count)), problem);
        }
    }
    Ok(count)
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Takes an error for a finding, if the file is to blame.
    fn absorb<T>(&mut self, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(StoreError::Damaged { path, table, row, problem }) => {
                self.find(&path, Some(table), Some(row), problem);
            }
            Err(StoreError::Corrupt { path, problem }) => self.find(&path, None, None, problem),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Notes what is wrong, once.
    fn find(
        &mut self,
        path: &Path,
        table: Option<&'static str>,
        row: Option<String>,
        problem: String,
    ) {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let finding = Finding { file, table, row, problem };
        if self.findings.contains(&finding) {
            return;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more = true;
        }
    }

    /// What is remembered is nobody else's business, and nobody else's to change.
    fn look_at_mode(&mut self, path: &Path) {
        #[cfg(unix)]
        if let Ok(file) = fs::metadata(path) {
            let mode = std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777;
            if mode & 0o077 != 0 {
                let shown = path.display();
                let problem = format!("others may open it (mode {mode:o}): chmod 600 {shown}");
                self.find(path, None, None, problem);
            }
        }
    }
}
