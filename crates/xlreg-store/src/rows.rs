//! One row to and from domain types.
//!
//! SQLite has no checksums in its database file: a bit that flips within a value is handed out as
//! if it had been written. An ID or a key that changes silently would break the promise that an ID
//! belongs to its key, so every row carries a checksum of its own, and loading believes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use xlreg_core::admission::{Label, Life, TokenDigest};
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, MEMBER_ENDPOINTS_MAX,
    SIGNATURE_BYTES_MAX, SIGNATURE_BYTES_MIN, TOKEN_USES_MAX,
};
use xlreg_core::{
    Change, Cluster, ClusterId, Endpoint, EntrySignature, Fingerprint, Member, NodeId, Policy,
    PublicKey, Seat, Time, Token, TokenId,
};

/// Why a row is not what was written; a part of [`crate::StoreError::Damaged`].
pub(crate) type Problem = String;

pub(crate) const SELECT_REGISTRY: &str = "SELECT id, sum FROM registry";
pub(crate) const SELECT_NODES: &str = "SELECT id, sig_print, sum, seq FROM nodes ORDER BY seq";
pub(crate) const SELECT_CLUSTERS: &str =
    "SELECT id, name, attrs, size, endpoint_count, revision, sum FROM clusters ORDER BY id";
pub(crate) const SELECT_MEMBERS: &str = "SELECT cluster, rank, id, name, attrs, comms_key, \
     comms_print, sig_key, sig_print, endpoints, sum FROM members ORDER BY cluster, rank";
pub(crate) const SELECT_TERMS: &str = "SELECT cluster, owner, created, policy, keys, fill_by, ends, \
     idle, with_owner, sum FROM terms ORDER BY cluster";
pub(crate) const SELECT_DEPARTED: &str =
    "SELECT cluster, rank, sum FROM departed ORDER BY cluster, rank";
pub(crate) const SELECT_SIGNATURES: &str =
    "SELECT cluster, rank, signature, sum FROM signatures ORDER BY cluster, rank";
pub(crate) const SELECT_EXPELLED: &str =
    "SELECT cluster, sig_print, sum FROM expelled ORDER BY cluster, sig_print";
pub(crate) const SELECT_TOKENS: &str = "SELECT cluster, place, id, digest, label, created, expires, \
     uses_max, uses, sum FROM tokens ORDER BY cluster, place";
pub(crate) const SELECT_COMMS_KEYS: &str =
    "SELECT node, key, print, sum FROM comms_keys ORDER BY node";
pub(crate) const SELECT_RETIREMENTS: &str =
    "SELECT after_node, old_print, new_print, sum, seq FROM retirements ORDER BY seq";

/// A table, and how its rows are looked at one by one, without regard to any other.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) select: &'static str,
    /// Whether a row is one that was written.
    pub(crate) check: fn(&Row<'_>) -> Result<(), Problem>,
    /// Which row it is, told the row and its place from 1, in the words of the loader.
    pub(crate) place: fn(&Row<'_>, u64) -> String,
}

/// All tables of the present schema.
pub(crate) const TABLES: [Table; 11] = [
    Table {
        name: "registry",
        select: SELECT_REGISTRY,
        check: |row| read_registry(row).map(drop),
        place: |_, _| "its only row".to_owned(),
    },
    Table {
        name: "nodes",
        select: SELECT_NODES,
        check: |row| read_node(row, integer(row, 3)?).map(drop),
        place: |row, count| seq_of(row, 3, count),
    },
    Table {
        name: "comms_keys",
        select: SELECT_COMMS_KEYS,
        check: |row| read_comms_key(row).map(drop),
        place: |_, count| format!("row {count} by node"),
    },
    Table {
        name: "retirements",
        select: SELECT_RETIREMENTS,
        check: |row| read_retirement(row, integer(row, 4)?).map(drop),
        place: |row, count| seq_of(row, 4, count),
    },
    Table {
        name: "clusters",
        select: SELECT_CLUSTERS,
        check: |row| read_cluster(row).map(drop),
        place: |_, count| format!("row {count} by ID"),
    },
    about("terms", SELECT_TERMS, |row| read_terms(row).map(drop)),
    about("members", SELECT_MEMBERS, |row| read_member(row).map(drop)),
    about("departed", SELECT_DEPARTED, |row| read_departed(row).map(drop)),
    about("signatures", SELECT_SIGNATURES, |row| read_signature(row).map(drop)),
    about("expelled", SELECT_EXPELLED, |row| read_expelled(row).map(drop)),
    about("tokens", SELECT_TOKENS, |row| read_token(row).map(drop)),
];

/// A table about clusters.
const fn about(
    name: &'static str,
    select: &'static str,
    check: fn(&Row<'_>) -> Result<(), Problem>,
) -> Table {
    Table { name, select, check, place: |row, _| place_of(row) }
}

const INSERT_REGISTRY: &str = "INSERT INTO registry (one, id, sum) VALUES (1, ?1, ?2)";
const INSERT_NODE: &str = "INSERT INTO nodes (id, sig_print, sum) VALUES (?1, ?2, ?3)";
const UPSERT_CLUSTER: &str = "INSERT INTO clusters (id, name, attrs, size, endpoint_count, revision, sum) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, sum = excluded.sum";
const UPSERT_MEMBER: &str = "INSERT OR REPLACE INTO members (cluster, rank, id, name, attrs, \
     comms_key, comms_print, sig_key, sig_print, endpoints, sum) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
const UPSERT_TERMS: &str = "INSERT OR REPLACE INTO terms (cluster, owner, created, policy, keys, \
     fill_by, ends, idle, with_owner, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
const UPSERT_DEPARTED: &str =
    "INSERT OR REPLACE INTO departed (cluster, rank, sum) VALUES (?1, ?2, ?3)";
const UPSERT_SIGNATURE: &str =
    "INSERT OR REPLACE INTO signatures (cluster, rank, signature, sum) VALUES (?1, ?2, ?3, ?4)";
const UPSERT_EXPELLED: &str =
    "INSERT OR REPLACE INTO expelled (cluster, sig_print, sum) VALUES (?1, ?2, ?3)";
const UPSERT_TOKEN: &str = "INSERT OR REPLACE INTO tokens (cluster, place, id, digest, label, \
     created, expires, uses_max, uses, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
const UPSERT_COMMS_KEY: &str =
    "INSERT OR REPLACE INTO comms_keys (node, key, print, sum) VALUES (?1, ?2, ?3, ?4)";
const INSERT_RETIREMENT: &str =
    "INSERT INTO retirements (after_node, old_print, new_print, sum) VALUES (?1, ?2, ?3, ?4)";

const LAST_NODE: &str = "SELECT coalesce(max(seq), 0) FROM nodes";
const TOKEN_PLACE: &str = "SELECT place FROM tokens WHERE cluster = ?1 AND id = ?2";
const NEXT_TOKEN_PLACE: &str = "SELECT coalesce(max(place), 0) + 1 FROM tokens WHERE cluster = ?1";
const DELETE_DEPARTED: &str = "DELETE FROM departed WHERE cluster = ?1 AND rank = ?2";
const DELETE_SIGNATURE: &str = "DELETE FROM signatures WHERE cluster = ?1 AND rank = ?2";
const DELETE_MEMBER: &str = "DELETE FROM members WHERE cluster = ?1 AND rank = ?2";
const DELETE_EXPELLED: &str = "DELETE FROM expelled WHERE cluster = ?1 AND sig_print = ?2";
const DELETE_TOKEN: &str = "DELETE FROM tokens WHERE cluster = ?1 AND id = ?2";

/// What takes a cluster out of every table, those that refer to others first.
const DELETE_CLUSTER: [&str; 7] = [
    "DELETE FROM tokens WHERE cluster = ?1",
    "DELETE FROM expelled WHERE cluster = ?1",
    "DELETE FROM departed WHERE cluster = ?1",
    "DELETE FROM signatures WHERE cluster = ?1",
    "DELETE FROM members WHERE cluster = ?1",
    "DELETE FROM terms WHERE cluster = ?1",
    "DELETE FROM clusters WHERE id = ?1",
];

/// Writes whose registry this is.
pub(crate) fn write_registry(connection: &Connection, id: &NodeId) -> rusqlite::Result<()> {
    put(connection, INSERT_REGISTRY, &[ValueRef::Blob(id.as_bytes())])
}

/// Writes one change; the caller's transaction makes it last.
pub(crate) fn write_change(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Node { id, sig_key } => {
            let values = [ValueRef::Blob(id.as_bytes()), ValueRef::Blob(sig_key.as_bytes())];
            put(connection, INSERT_NODE, &values)
        }
        Change::Comms { id, key } => {
            let print = key.fingerprint();
            let values = [id.as_bytes(), key.der(), &print.as_bytes()[..]].map(ValueRef::Blob);
            put(connection, UPSERT_COMMS_KEY, &values)
        }
        Change::Retired { old, new } => {
            let after = connection.prepare_cached(LAST_NODE)?.query_row([], |row| row.get(0))?;
            let [old, new] = [old, new].map(|key| ValueRef::Blob(key.as_bytes()));
            put(connection, INSERT_RETIREMENT, &[ValueRef::Integer(after), old, new])
        }
        Change::Cluster(cluster) => {
            write_cluster(connection, cluster)?;
            write_terms(connection, cluster)
        }
        Change::Terms { cluster, .. } => write_terms(connection, cluster),
        Change::Seat { cluster, rank, .. } => {
            write_cluster(connection, cluster)?;
            write_seat(connection, cluster, *rank)
        }
        Change::Expelled { cluster, key, was } => {
            if let Some(was) = was {
                let [cluster, was] =
                    [&cluster.id.as_bytes()[..], was.as_bytes()].map(ValueRef::Blob);
                run(connection, DELETE_EXPELLED, &[cluster, was])?;
            }
            let [cluster, key] = [&cluster.id.as_bytes()[..], key.as_bytes()].map(ValueRef::Blob);
            put(connection, UPSERT_EXPELLED, &[cluster, key])
        }
        Change::Token { cluster, token } => write_token(connection, cluster, token),
        Change::Touched(_) => Ok(()),
        Change::Gone(cluster) => DELETE_CLUSTER
            .iter()
            .try_for_each(|sql| run(connection, sql, &[ValueRef::Blob(cluster.id.as_bytes())])),
    }
}

pub(crate) fn write_cluster(connection: &Connection, cluster: &Cluster) -> rusqlite::Result<()> {
    let values = [
        ValueRef::Blob(cluster.id.as_bytes()),
        ValueRef::Text(cluster.name.as_str().as_bytes()),
        ValueRef::Integer(cluster.attrs.cast_signed()),
        ValueRef::Integer(cluster.size.into()),
        ValueRef::Integer(cluster.endpoint_count.into()),
        ValueRef::Integer(cluster.revision.cast_signed()),
    ];
    put(connection, UPSERT_CLUSTER, &values)
}

fn write_terms(connection: &Connection, cluster: &Cluster) -> rusqlite::Result<()> {
    let Cluster { owner, life, .. } = cluster;
    let (policy, keys) = match &cluster.policy {
        Policy::Open => ("open", None),
        Policy::Token => ("token", None),
        Policy::Keys(keys) => {
            ("keys", Some(keys.iter().flat_map(Fingerprint::as_bytes).copied().collect()))
        }
    };
    let keys: Option<Vec<u8>> = keys;
    let time = |time: Time| ValueRef::Integer(time.as_millis().cast_signed());
    // Counted from 1970, a duration is a time.
    let millis = |idle: Duration| time(Time::default().after(idle));
    let values = [
        ValueRef::Blob(cluster.id.as_bytes()),
        owner.as_ref().map_or(ValueRef::Null, |owner| ValueRef::Blob(owner.as_bytes())),
        time(life.created),
        ValueRef::Text(policy.as_bytes()),
        keys.as_deref().map_or(ValueRef::Null, ValueRef::Blob),
        life.fill_by.map_or(ValueRef::Null, time),
        life.ends.map_or(ValueRef::Null, time),
        life.idle.map_or(ValueRef::Null, millis),
        ValueRef::Integer(life.with_owner.into()),
    ];
    put(connection, UPSERT_TERMS, &values)
}

fn write_seat(connection: &Connection, cluster: &Cluster, rank: usize) -> rusqlite::Result<()> {
    let place = [ValueRef::Blob(cluster.id.as_bytes()), ValueRef::Integer(rank as i64)];
    match cluster.seats.get(rank) {
        Some(Seat::Left(member)) => {
            write_member(connection, &cluster.id, rank, member)?;
            write_signature(connection, place, member)?;
            put(connection, UPSERT_DEPARTED, &place)
        }
        Some(Seat::Present(member)) => {
            run(connection, DELETE_DEPARTED, &place)?;
            write_member(connection, &cluster.id, rank, member)?;
            write_signature(connection, place, member)
        }
        Some(Seat::Free) | None => {
            run(connection, DELETE_DEPARTED, &place)?;
            run(connection, DELETE_SIGNATURE, &place)?;
            run(connection, DELETE_MEMBER, &place)
        }
    }
}

fn write_signature(
    connection: &Connection,
    [cluster, rank]: [ValueRef<'_>; 2],
    member: &Member,
) -> rusqlite::Result<()> {
    match &member.entry_signature {
        Some(over) => {
            let values = [cluster, rank, ValueRef::Blob(over.as_bytes())];
            put(connection, UPSERT_SIGNATURE, &values)
        }
        None => run(connection, DELETE_SIGNATURE, &[cluster, rank]),
    }
}

/// Writes a token where it stands, or after the others, or takes it away.
fn write_token(connection: &Connection, cluster: &Cluster, id: &TokenId) -> rusqlite::Result<()> {
    let key = [ValueRef::Blob(cluster.id.as_bytes()), ValueRef::Blob(id.as_bytes())];
    let Some(token) = cluster.token(id) else {
        return run(connection, DELETE_TOKEN, &key);
    };
    let ask = |sql, key: &[ValueRef<'_>]| {
        let key = params_from_iter(key.iter().copied().map(ToSqlOutput::Borrowed));
        connection.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()
    };
    let [cluster, id] = key;
    let place = match ask(TOKEN_PLACE, &key)? {
        Some(place) => Some(place),
        None => ask(NEXT_TOKEN_PLACE, &[cluster])?,
    };
    let values = [
        cluster,
        // Counting gives one row, always.
        ValueRef::Integer(place.unwrap_or_default()),
        id,
        ValueRef::Blob(token.digest.as_bytes()),
        ValueRef::Text(token.label.as_str().as_bytes()),
        ValueRef::Integer(token.created.as_millis().cast_signed()),
        ValueRef::Integer(token.expires.as_millis().cast_signed()),
        ValueRef::Integer(token.uses_max.into()),
        ValueRef::Integer(token.uses.into()),
    ];
    put(connection, UPSERT_TOKEN, &values)
}

pub(crate) fn write_member(
    connection: &Connection,
    cluster: &ClusterId,
    rank: usize,
    member: &Member,
) -> rusqlite::Result<()> {
    let (comms_print, sig_print) = (member.comms_key.fingerprint(), member.sig_key.fingerprint());
    // An endpoint has no spaces.
    let endpoints: Vec<_> = member.endpoints.iter().map(Endpoint::as_str).collect();
    let endpoints = endpoints.join(" ");
    let values = [
        ValueRef::Blob(cluster.as_bytes()),
        ValueRef::Integer(rank as i64),
        ValueRef::Blob(member.id.as_bytes()),
        ValueRef::Text(member.name.as_str().as_bytes()),
        ValueRef::Integer(member.attrs.cast_signed()),
        ValueRef::Blob(member.comms_key.der()),
        ValueRef::Blob(comms_print.as_bytes()),
        ValueRef::Blob(member.sig_key.der()),
        ValueRef::Blob(sig_print.as_bytes()),
        ValueRef::Text(endpoints.as_bytes()),
    ];
    put(connection, UPSERT_MEMBER, &values)
}

/// Writes one row: the values, and after them their checksum.
fn put(connection: &Connection, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let sum = values.iter().fold(CHECKSUM_OF_NOTHING, |sum, value| checksum(sum, *value));
    let sum = ValueRef::Integer(sum.cast_signed());
    let bound: Vec<_> = values.iter().copied().chain([sum]).collect();
    run(connection, sql, &bound)
}

fn run(connection: &Connection, sql: &str, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    let values = values.iter().copied().map(ToSqlOutput::Borrowed);
    connection.prepare_cached(sql)?.execute(params_from_iter(values)).map(drop)
}

/// Reads a row of [`SELECT_REGISTRY`].
pub(crate) fn read_registry(row: &Row<'_>) -> Result<NodeId, Problem> {
    verify(row, 1)?;
    Ok(NodeId::from_bytes(bytes(row, 0)?))
}

/// Reads a row of [`SELECT_NODES`]; it must be the one registered as number `seq`, from 1.
pub(crate) fn read_node(row: &Row<'_>, seq: i64) -> Result<Change, Problem> {
    let got = integer(row, 3)?;
    if got != seq {
        return Err(format!("expected seq {seq}, got {got}: rows are missing"));
    }
    verify(row, 2)?;
    Ok(Change::Node {
        id: NodeId::from_bytes(bytes(row, 0)?),
        sig_key: Fingerprint::from_bytes(bytes(row, 1)?),
    })
}

/// Reads a row of [`SELECT_CLUSTERS`]: a cluster with its last revision and no members yet.
pub(crate) fn read_cluster(row: &Row<'_>) -> Result<Cluster, Problem> {
    verify(row, 6)?;
    let new = NewCluster {
        attrs: integer(row, 2)?.cast_unsigned(),
        ..NewCluster::open(
            parse(text(row, 1)?)?,
            within(integer(row, 3)?, CLUSTER_SIZE_MIN, CLUSTER_SIZE_MAX)?,
            within(integer(row, 4)?, 1, CLUSTER_ENDPOINTS_MAX)?,
        )
    };
    let id = ClusterId::from_bytes(bytes(row, 0)?);
    let mut cluster = Cluster::new(id, &new, None, Time::default());
    cluster.revision = integer(row, 5)?.cast_unsigned();
    Ok(cluster)
}

/// Reads a row of [`SELECT_MEMBERS`]: the cluster, the rank in it, and who holds it, not yet signed.
pub(crate) fn read_member(row: &Row<'_>) -> Result<(ClusterId, usize, Member), Problem> {
    verify(row, 10)?;
    let rank = within(integer(row, 1)?, 0, CLUSTER_SIZE_MAX - 1)?;
    let endpoints = text(row, 9)?.split(' ').take(MEMBER_ENDPOINTS_MAX + 1);
    let member = Member {
        id: NodeId::from_bytes(bytes(row, 2)?),
        name: parse(text(row, 3)?)?,
        attrs: integer(row, 4)?.cast_unsigned(),
        comms_key: key(row, 5, 6)?,
        sig_key: key(row, 7, 8)?,
        endpoints: endpoints.map(parse).collect::<Result<_, _>>()?,
        entry_signature: None,
    };
    Ok((ClusterId::from_bytes(bytes(row, 0)?), rank as usize, member))
}

/// What version 1 did not keep of a cluster.
pub(crate) struct Terms {
    pub(crate) owner: Option<Fingerprint>,
    pub(crate) policy: Policy,
    pub(crate) life: Life,
}

/// Reads a row of [`SELECT_TERMS`].
pub(crate) fn read_terms(row: &Row<'_>) -> Result<(ClusterId, Terms), Problem> {
    verify(row, 9)?;
    let policy = match (text(row, 3)?, maybe(row, 4, blob)?) {
        ("open", None) => Policy::Open,
        ("token", None) => Policy::Token,
        ("keys", Some(keys)) => Policy::Keys(read_keys(keys)?),
        (other, keys) => {
            let keys = if keys.is_some() { "with" } else { "without" };
            return Err(format!("there is no policy {other:?} {keys} keys"));
        }
    };
    let life = Life {
        created: time(row, 2)?,
        fill_by: maybe(row, 5, time)?,
        ends: maybe(row, 6, time)?,
        idle: maybe(row, 7, time)?.map(|idle| Duration::from_millis(idle.as_millis())),
        with_owner: within(integer(row, 8)?, 0, 1)? == 1,
    };
    let owner = maybe(row, 1, bytes)?.map(Fingerprint::from_bytes);
    Ok((ClusterId::from_bytes(bytes(row, 0)?), Terms { owner, policy, life }))
}

fn read_keys(keys: &[u8]) -> Result<BTreeSet<Fingerprint>, Problem> {
    let wrong = |_| format!("expected keys of 32 bytes each, got {} bytes", keys.len());
    keys.chunks(32).map(|key| Fingerprint::try_from(key).map_err(wrong)).collect()
}

/// Reads a row of [`SELECT_DEPARTED`]: the cluster, and the rank whose holder has left.
pub(crate) fn read_departed(row: &Row<'_>) -> Result<(ClusterId, usize), Problem> {
    verify(row, 2)?;
    let rank = within(integer(row, 1)?, 0, CLUSTER_SIZE_MAX - 1)?;
    Ok((ClusterId::from_bytes(bytes(row, 0)?), rank as usize))
}

/// Reads a row of [`SELECT_SIGNATURES`]: the cluster, and the rank whose holder has signed its entry.
pub(crate) fn read_signature(row: &Row<'_>) -> Result<(ClusterId, usize, EntrySignature), Problem> {
    verify(row, 3)?;
    let rank = within(integer(row, 1)?, 0, CLUSTER_SIZE_MAX - 1)?;
    let signature = blob(row, 2)?;
    let wrong = || {
        format!(
            "a signature has {SIGNATURE_BYTES_MIN} to {SIGNATURE_BYTES_MAX} bytes, got {}",
            signature.len()
        )
    };
    let signature = EntrySignature::new(signature).ok_or_else(wrong)?;
    Ok((ClusterId::from_bytes(bytes(row, 0)?), rank as usize, signature))
}

/// Reads a row of [`SELECT_EXPELLED`]: the cluster, and the key.
pub(crate) fn read_expelled(row: &Row<'_>) -> Result<(ClusterId, Fingerprint), Problem> {
    verify(row, 2)?;
    Ok((ClusterId::from_bytes(bytes(row, 0)?), Fingerprint::from_bytes(bytes(row, 1)?)))
}

/// Reads a row of [`SELECT_TOKENS`]: the cluster, and the token.
pub(crate) fn read_token(row: &Row<'_>) -> Result<(ClusterId, Token), Problem> {
    verify(row, 9)?;
    let label = Label::new(text(row, 4)?).ok_or_else(|| "its label is none".to_owned())?;
    let uses_max = within(integer(row, 7)?, 1, TOKEN_USES_MAX)?;
    let token = Token {
        id: TokenId::from_bytes(bytes(row, 2)?),
        digest: TokenDigest::from_bytes(bytes(row, 3)?),
        label,
        created: time(row, 5)?,
        expires: time(row, 6)?,
        uses_max,
        uses: within(integer(row, 8)?, 0, uses_max)?,
    };
    Ok((ClusterId::from_bytes(bytes(row, 0)?), token))
}

/// Reads a row of [`SELECT_COMMS_KEYS`].
pub(crate) fn read_comms_key(row: &Row<'_>) -> Result<(NodeId, PublicKey), Problem> {
    verify(row, 3)?;
    Ok((NodeId::from_bytes(bytes(row, 0)?), key(row, 1, 2)?))
}

/// One key in another's place, and after how many registrations.
pub(crate) struct Retirement {
    pub(crate) after: i64,
    pub(crate) old: Fingerprint,
    pub(crate) new: Fingerprint,
}

/// Reads a row of [`SELECT_RETIREMENTS`]; it must be number `seq`, from 1.
pub(crate) fn read_retirement(row: &Row<'_>, seq: i64) -> Result<Retirement, Problem> {
    let got = integer(row, 4)?;
    if got != seq {
        return Err(format!("expected seq {seq}, got {got}: rows are missing"));
    }
    verify(row, 3)?;
    let [old, new] = [bytes(row, 1)?, bytes(row, 2)?].map(Fingerprint::from_bytes);
    Ok(Retirement { after: integer(row, 0)?, old, new })
}

/// Which row of a table about clusters this is, as far as it can be told of a damaged one: the
/// first column is the cluster, and the second may be a number within it.
pub(crate) fn place_of(row: &Row<'_>) -> String {
    let Ok(cluster) = bytes(row, 0) else { return "a row without cluster".to_owned() };
    let cluster = ClusterId::from_bytes(cluster);
    match (integer(row, 1), row.as_ref().column_name(1)) {
        (Ok(number), Ok(column)) => format!("cluster {cluster}, {column} {number}"),
        _ => format!("cluster {cluster}"),
    }
}

/// The number by which a row stands in its order; its place in it, if that can't be read.
fn seq_of(row: &Row<'_>, column: usize, count: u64) -> String {
    match integer(row, column) {
        Ok(seq) => format!("seq {seq}"),
        Err(_) => format!("seq {count}"),
    }
}

/// Checks the columns before `sum_column` against it.
fn verify(row: &Row<'_>, sum_column: usize) -> Result<(), Problem> {
    let sum = (0..sum_column).try_fold(CHECKSUM_OF_NOTHING, |sum, column| {
        Ok::<_, Problem>(checksum(sum, value(row, column)?))
    });
    if integer(row, sum_column)? == sum?.cast_signed() {
        Ok(())
    } else {
        Err("the checksum does not match".to_owned())
    }
}

/// Where a row's checksum starts.
const CHECKSUM_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of 64 bits over a row's values: `sum` is that of those before this one, which is added with
/// its type and length before it.
///
/// It is there for accidents, not for attackers, who could write a matching sum. Each of its steps
/// is a bijection, so a single byte that changed always changes the result.
fn checksum(sum: u64, value: ValueRef<'_>) -> u64 {
    fn mix(sum: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }
    match value {
        ValueRef::Null => mix(sum, b"n"),
        ValueRef::Integer(number) => mix(mix(sum, b"i"), &number.to_le_bytes()),
        ValueRef::Real(number) => mix(mix(sum, b"r"), &number.to_le_bytes()),
        ValueRef::Text(bytes) => mix(mix(mix(sum, b"t"), &bytes.len().to_le_bytes()), bytes),
        ValueRef::Blob(bytes) => mix(mix(mix(sum, b"b"), &bytes.len().to_le_bytes()), bytes),
    }
}

fn value<'r>(row: &'r Row<'_>, column: usize) -> Result<ValueRef<'r>, Problem> {
    row.get_ref(column).map_err(|error| error.to_string())
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, Problem> {
    value(row, column)?.as_i64().map_err(|error| error.to_string())
}

fn time(row: &Row<'_>, column: usize) -> Result<Time, Problem> {
    Ok(Time::from_millis(integer(row, column)?.cast_unsigned()))
}

/// Reads a column that may be null.
fn maybe<'r, T>(
    row: &'r Row<'_>,
    column: usize,
    read: impl FnOnce(&'r Row<'_>, usize) -> Result<T, Problem>,
) -> Result<Option<T>, Problem> {
    match value(row, column)? {
        ValueRef::Null => Ok(None),
        _ => read(row, column).map(Some),
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str, Problem> {
    value(row, column)?.as_str().map_err(|error| error.to_string())
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8], Problem> {
    value(row, column)?.as_blob().map_err(|error| error.to_string())
}

fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], Problem> {
    let bytes = blob(row, column)?;
    let wrong = |_| format!("expected {N} bytes, got {}", bytes.len());
    bytes.try_into().map_err(wrong)
}

fn key(row: &Row<'_>, der: usize, print: usize) -> Result<PublicKey, Problem> {
    let print = Fingerprint::from_bytes(bytes(row, print)?);
    Ok(PublicKey::from_checked(blob(row, der)?, print))
}

fn within(number: i64, min: u32, max: u32) -> Result<u32, Problem> {
    let wrong = || format!("expected {min} to {max}, got {number}");
    let number = u32::try_from(number).map_err(|_| wrong())?;
    if (min..=max).contains(&number) { Ok(number) } else { Err(wrong()) }
}

fn parse<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| error.to_string())
}
