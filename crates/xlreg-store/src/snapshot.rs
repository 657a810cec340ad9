//! Reading a registry's file from beside: as it is at one moment, changing nothing, in nobody's way.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::{StoreError, folder, journal};

/// How often a file is read again that a server has just begun to write to.
const ATTEMPTS: usize = 3;

/// A file open for reading alone. A server that runs goes on as if nobody looked; only its log can't
/// be emptied as long as a transaction is open.
pub(crate) struct Snapshot {
    pub(crate) connection: Connection,
    kind: Kind,
}

/// How the file has to be read.
enum Kind {
    /// It has a log, which SQLite reads along, with the log's index as it finds it.
    Logged,
    /// It has none: nobody has it open, and this is how it looks as long as that is so.
    Alone { bytes: u64, modified: Option<SystemTime> },
    /// Somebody copied it with its log, but without the log's index, which SQLite would have to
    /// make. It does so for a copy of both.
    Copied { _dir: TempDir },
}

impl Snapshot {
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let [path, log] = journal::files(dir);
        let file = fs::metadata(&path).map_err(StoreError::folder("open", &path))?;
        if !journal::exists(&log)? {
            let kind = Kind::Alone { bytes: file.len(), modified: file.modified().ok() };
            return Ok(Self { connection: connect(&path, "immutable=1")?, kind });
        }
        if journal::exists(&journal::index(dir))? {
            // Read-only: SQLite would else set the index right that a killed server has left.
            let connection = connect(&path, "mode=ro&readonly_shm=1")?;
            return Ok(Self { connection, kind: Kind::Logged });
        }
        let copies = tempfile::tempdir().map_err(StoreError::folder("copy", &path))?;
        for (from, to) in [path, log].iter().zip(journal::files(copies.path())) {
            fs::copy(from, to).map_err(StoreError::folder("copy", from))?;
        }
        let [copy, _] = journal::files(copies.path());
        let connection = connect(&copy, "mode=ro")?;
        Ok(Self { connection, kind: Kind::Copied { _dir: copies } })
    }

    /// Whether what was read is what there was: no server has begun meanwhile.
    fn held(&self, dir: &Path) -> bool {
        let Kind::Alone { bytes, modified } = self.kind else { return true };
        let [path, log] = journal::files(dir);
        let now = fs::metadata(path).map(|file| (file.len(), file.modified().ok()));
        !log.exists() && now.is_ok_and(|now| now == (bytes, modified))
    }
}

/// Reads the file in `dir`, once more if a server starts amid it.
pub(crate) fn read<T>(
    dir: &Path,
    read: impl Fn(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let snapshot = Snapshot::open(dir)?;
        let result = read(&snapshot.connection);
        if attempt == ATTEMPTS || snapshot.held(dir) {
            return result;
        }
    }
}

/// Writes all that a connection sees into a new file, which this user alone may read, and which is on
/// the disk when this returns.
pub(crate) fn write_out(connection: &Connection, to: &Path) -> Result<(), StoreError> {
    folder::create_private(to)?;
    let path = ToSqlOutput::Borrowed(ValueRef::Text(to.as_os_str().as_encoded_bytes()));
    connection
        .execute("VACUUM INTO ?1", [path])
        .map_err(|source| StoreError::sqlite("copy the registry to", to, source))?;
    fs::File::open(to).and_then(|file| file.sync_all()).map_err(StoreError::folder("sync", to))
}

fn connect(path: &Path, how: &str) -> Result<Connection, StoreError> {
    let failed = |source| StoreError::sqlite("open", path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let absolute = std::path::absolute(path).map_err(StoreError::folder("open", path))?;
    let uri = uri(&absolute, how);
    let connection = Connection::open_with_flags(uri, flags).map_err(failed)?;
    connection.busy_timeout(journal::BUSY_WAIT).map_err(failed)?;
    // If a server ends amid our reading, its log stays, for the next one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    let pragmas = "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF;";
    connection.execute_batch(pragmas).map_err(failed)?;
    Ok(connection)
}

/// An absolute path as SQLite takes it with options. All but the plainest bytes are escaped.
fn uri(path: &Path, how: &str) -> String {
    let mut uri = "file://".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "?" + how
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use xlreg_core::NodeId;
    use xlreg_core::limits::Limits;

    use super::*;
    use crate::LocalEngine;

    /// What was read of a file that changes under us may be half of the one and half of the other.
    #[test]
    fn a_server_that_starts_amid_it_makes_for_another_look() {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let id = NodeId::from_bytes([7; 20]);
            LocalEngine::open(dir.path(), id, Limits::default()).unwrap()
        };
        drop(start());
        let looks = RefCell::new(Vec::new());
        read(dir.path(), |_| {
            let first = looks.borrow().is_empty();
            looks.borrow_mut().push(first.then(start));
            Ok(())
        })
        .unwrap();
        assert_eq!(looks.borrow().len(), 2);
    }

    #[test]
    fn a_path_may_have_any_characters() {
        let uri = uri(Path::new("/a b/ä?x=1#%/r.db"), "immutable=1");
        assert_eq!(uri, "file:///a%20b/%C3%A4%3Fx%3D1%23%25/r.db?immutable=1");
    }
}
