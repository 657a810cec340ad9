//! The tables, and the way from each version of them to the next.

use rusqlite::Connection;

/// Marks the file as a registry's: `xlrg` in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x786c_7267;

/// What leads from each version to the next, starting from an empty file. Never edit one that has
/// been released; add another.
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

/// The version that this program writes.
pub(crate) const VERSION: i32 = MIGRATIONS.len() as i32;

/// IDs and keys are raw bytes, `hex(id)` shows them. `attrs` and `revision` are 64 unsigned bits,
/// shown by SQLite as signed. Every `sum` is the checksum of the columns before it, see `rows`. Keys
/// are DER, and `*_print` their SHA-256. Endpoints are separated by spaces.
///
/// `nodes` keeps the order of registration, which tells a key's latest ID. The others have no rowid,
/// so each roster lies together and in order.
pub(crate) const VERSION_1: &str = "
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

/// What has been kept since clusters have owners. It all stands beside the tables of version 1, whose
/// rows and checksums stay as they are. Times are milliseconds since 1970, an `idle` is milliseconds.
///
/// A cluster without `terms` is one of version 1: nobody's, open, and without an end. A rank that has
/// no row in `members` is free, and a member that has none in `signatures` has not signed its entry.
/// `retirements` tells between which rows of `nodes` each one happened,
/// and a token's `place` in which order the tokens of its cluster were issued.
const VERSION_2: &str = "
CREATE TABLE terms (
    cluster BLOB NOT NULL PRIMARY KEY REFERENCES clusters (id),
    owner BLOB CHECK (length(owner) = 32),
    created INTEGER NOT NULL,
    policy TEXT NOT NULL CHECK (policy IN ('open', 'token', 'keys')),
    keys BLOB CHECK (length(keys) % 32 = 0),
    fill_by INTEGER,
    ends INTEGER,
    idle INTEGER,
    with_owner INTEGER NOT NULL CHECK (with_owner IN (0, 1)),
    sum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE departed (
    cluster BLOB NOT NULL,
    rank INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (cluster, rank),
    FOREIGN KEY (cluster, rank) REFERENCES members (cluster, rank)
) STRICT, WITHOUT ROWID;

CREATE TABLE signatures (
    cluster BLOB NOT NULL,
    rank INTEGER NOT NULL,
    signature BLOB NOT NULL CHECK (length(signature) BETWEEN 256 AND 512),
    sum INTEGER NOT NULL,
    PRIMARY KEY (cluster, rank),
    FOREIGN KEY (cluster, rank) REFERENCES members (cluster, rank)
) STRICT, WITHOUT ROWID;

CREATE TABLE expelled (
    cluster BLOB NOT NULL REFERENCES clusters (id),
    sig_print BLOB NOT NULL CHECK (length(sig_print) = 32),
    sum INTEGER NOT NULL,
    PRIMARY KEY (cluster, sig_print)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    cluster BLOB NOT NULL REFERENCES clusters (id),
    place INTEGER NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 4),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    label TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    uses_max INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (cluster, place)
) STRICT, WITHOUT ROWID;

CREATE TABLE comms_keys (
    node BLOB NOT NULL PRIMARY KEY REFERENCES nodes (id),
    key BLOB NOT NULL,
    print BLOB NOT NULL CHECK (length(print) = 32),
    sum INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE retirements (
    seq INTEGER NOT NULL PRIMARY KEY,
    after_node INTEGER NOT NULL,
    old_print BLOB NOT NULL UNIQUE CHECK (length(old_print) = 32),
    new_print BLOB NOT NULL UNIQUE CHECK (length(new_print) = 32),
    sum INTEGER NOT NULL
) STRICT;
";

/// Brings a file of version `from`, 0 for an empty one, to [`VERSION`], in a transaction.
pub(crate) fn upgrade(connection: &mut Connection, from: i32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    migrate(&transaction, from, VERSION)?;
    transaction.commit()
}

/// Takes the steps from version `from` to version `to`, in the caller's transaction.
pub(crate) fn migrate(connection: &Connection, from: i32, to: i32) -> rusqlite::Result<()> {
    for (version, sql) in (1..=to).zip(MIGRATIONS) {
        if version > from {
            connection.execute_batch(sql)?;
            connection.pragma_update(None, "user_version", version)?;
        }
    }
    Ok(())
}

/// Whether the file has our tables exactly as `version` had them, and nothing that would act on its
/// own.
///
/// A flipped bit in a table's definition, or a trigger that somebody added, would change what later
/// statements mean. Indexes and views that an operator added for reading do no harm.
pub(crate) fn is_ours(connection: &Connection, version: i32) -> rusqlite::Result<bool> {
    let fresh = Connection::open_in_memory()?;
    migrate(&fresh, 0, version)?;
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
