//! The tables, and the way from each version of them to the next.

use rusqlite::Connection;

/// Marks the file as a registry's: `xlrg` in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x786c_7267;

/// What leads from each version to the next, starting from an empty file. Never edit one that has
/// been released; add another.
const MIGRATIONS: [&str; 1] = [VERSION_1];

/// The version that this program writes.
pub(crate) const VERSION: i32 = MIGRATIONS.len() as i32;

/// IDs and keys are raw bytes, `hex(id)` shows them. `attrs` and `revision` are 64 unsigned bits,
/// shown by SQLite as signed. Every `sum` is the checksum of the columns before it, see `rows`. Keys
/// are DER, and `*_print` their SHA-256. Endpoints are separated by spaces.
///
/// `nodes` keeps the order of registration, which tells a key's latest ID. The others have no rowid,
/// so each roster lies together and in order.
const VERSION_1: &str = "
CREATE TABLE registry (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL CHECK (length(id) = 20),
    sum INTEGER NOT NULL
) STRICT;

CREATE TABLE nodes (
    seq INTEGER NOT NULL PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 20),
    sig_print BLOB NOT NULL CHECK (length(sig_print) = 32),
    sum INTEGER NOT NULL
) STRICT;

CREATE TABLE clusters (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 20),
    name TEXT NOT NULL UNIQUE,
    attrs INTEGER NOT NULL,
    size INTEGER NOT NULL,
    endpoint_count INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    sum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    cluster BLOB NOT NULL REFERENCES clusters (id),
    rank INTEGER NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 20),
    name TEXT NOT NULL,
    attrs INTEGER NOT NULL,
    comms_key BLOB NOT NULL,
    comms_print BLOB NOT NULL CHECK (length(comms_print) = 32),
    sig_key BLOB NOT NULL,
    sig_print BLOB NOT NULL CHECK (length(sig_print) = 32),
    endpoints TEXT NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (cluster, rank)
) STRICT, WITHOUT ROWID;
";

/// Brings a file of version `from`, 0 for an empty one, to [`VERSION`], each step in a transaction.
pub(crate) fn migrate(connection: &mut Connection, from: i32) -> rusqlite::Result<()> {
    for (version, sql) in (1..).zip(MIGRATIONS) {
        if version > from {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

/// Whether the file has our tables exactly as written here, and nothing that would act on its own.
///
/// A flipped bit in a table's definition, or a trigger that somebody added, would change what later
/// statements mean. Indexes and views that an operator added for reading do no harm.
pub(crate) fn is_ours(connection: &Connection) -> rusqlite::Result<bool> {
    let mut fresh = Connection::open_in_memory()?;
    migrate(&mut fresh, 0)?;
    Ok(definitions(connection)? == definitions(&fresh)?)
}

fn definitions(connection: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare(
        "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type IN ('table', 'trigger') \
         AND name NOT GLOB 'sqlite_*' ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
