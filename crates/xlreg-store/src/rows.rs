//! One row to and from domain types.
//!
//! SQLite has no checksums in its database file: a bit that flips within a value is handed out as
//! if it had been written. An ID or a key that changes silently would break the promise that an ID
//! belongs to its key, so every row carries a checksum of its own, and loading believes nothing.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};
use xlreg_core::cluster::NewCluster;
use xlreg_core::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, MEMBER_ENDPOINTS_MAX,
};
use xlreg_core::{
    Change, Cluster, ClusterId, Endpoint, Fingerprint, Member, NodeId, PublicKey, Time,
};

/// Why a row is not what was written; a part of [`crate::StoreError::Damaged`].
pub(crate) type Problem = String;

pub(crate) const SELECT_REGISTRY: &str = "SELECT id, sum FROM registry";
pub(crate) const SELECT_NODES: &str = "SELECT id, sig_print, sum, seq FROM nodes ORDER BY seq";
pub(crate) const SELECT_CLUSTERS: &str =
    "SELECT id, name, attrs, size, endpoint_count, revision, sum FROM clusters ORDER BY id";
pub(crate) const SELECT_MEMBERS: &str = "SELECT cluster, rank, id, name, attrs, comms_key, \
     comms_print, sig_key, sig_print, endpoints, sum FROM members ORDER BY cluster, rank";

const INSERT_REGISTRY: &str = "INSERT INTO registry (one, id, sum) VALUES (1, ?1, ?2)";
const INSERT_NODE: &str = "INSERT INTO nodes (id, sig_print, sum) VALUES (?1, ?2, ?3)";
const UPSERT_CLUSTER: &str = "INSERT INTO clusters (id, name, attrs, size, endpoint_count, revision, sum) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, sum = excluded.sum";
const UPSERT_MEMBER: &str = "INSERT OR REPLACE INTO members (cluster, rank, id, name, attrs, \
     comms_key, comms_print, sig_key, sig_print, endpoints, sum) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

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
        Change::Cluster(cluster) => write_cluster(connection, cluster),
        Change::Seat { cluster, rank, .. } => {
            write_cluster(connection, cluster)?;
            match cluster.seats.get(*rank).and_then(xlreg_core::Seat::holder) {
                Some(member) => write_member(connection, &cluster.id, *rank, member),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn write_cluster(connection: &Connection, cluster: &Cluster) -> rusqlite::Result<()> {
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

fn write_member(
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
    let sum = ValueRef::Integer(checksum(values.iter().copied()));
    let bound = values.iter().copied().chain([sum]);
    connection
        .prepare_cached(sql)?
        .execute(params_from_iter(bound.map(ToSqlOutput::Borrowed)))
        .map(drop)
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

/// Reads a row of [`SELECT_MEMBERS`]: the cluster, the rank in it, and who holds it.
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
    };
    Ok((ClusterId::from_bytes(bytes(row, 0)?), rank as usize, member))
}

/// Which row of [`SELECT_MEMBERS`] this is, as far as it can be told of a damaged one.
pub(crate) fn place_of_member(row: &Row<'_>) -> String {
    match (bytes(row, 0), integer(row, 1)) {
        (Ok(cluster), Ok(rank)) => {
            format!("cluster {}, rank {rank}", ClusterId::from_bytes(cluster))
        }
        _ => "a row without cluster or rank".to_owned(),
    }
}

/// Checks the columns before `sum_column` against it.
fn verify(row: &Row<'_>, sum_column: usize) -> Result<(), Problem> {
    let values = (0..sum_column).map(|column| value(row, column));
    let values: Result<Vec<_>, _> = values.collect();
    if integer(row, sum_column)? == checksum(values?) {
        Ok(())
    } else {
        Err("the checksum does not match".to_owned())
    }
}

/// FNV-1a of 64 bits over the values, each with its type and length before it.
///
/// It is there for accidents, not for attackers, who could write a matching sum. Each of its steps
/// is a bijection, so a single byte that changed always changes the result.
fn checksum<'a>(values: impl IntoIterator<Item = ValueRef<'a>>) -> i64 {
    fn mix(sum: u64, bytes: &[u8]) -> u64 {
        bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }
    let start = 0xcbf2_9ce4_8422_2325;
    let sum = values.into_iter().fold(start, |sum, value| match value {
        ValueRef::Null => mix(sum, b"n"),
        ValueRef::Integer(number) => mix(mix(sum, b"i"), &number.to_le_bytes()),
        ValueRef::Real(number) => mix(mix(sum, b"r"), &number.to_le_bytes()),
        ValueRef::Text(bytes) => mix(mix(mix(sum, b"t"), &bytes.len().to_le_bytes()), bytes),
        ValueRef::Blob(bytes) => mix(mix(mix(sum, b"b"), &bytes.len().to_le_bytes()), bytes),
    });
    sum.cast_signed()
}

fn value<'r>(row: &'r Row<'_>, column: usize) -> Result<ValueRef<'r>, Problem> {
    row.get_ref(column).map_err(|error| error.to_string())
}

fn integer(row: &Row<'_>, column: usize) -> Result<i64, Problem> {
    value(row, column)?.as_i64().map_err(|error| error.to_string())
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
