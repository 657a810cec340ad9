//! From messages to the registry's own types, and back.
//!
//! What comes over the wire is checked here, once: past this line nothing is half-checked. The same
//! functions serve both sides, so what a server writes a client reads.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use xlreg_core::admission::{Life, Token};
use xlreg_core::cluster::{Event, EventKind, Gone, NewCluster};
use xlreg_core::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, MEMBER_ENDPOINTS_MAX,
    POLICY_KEYS_MAX, SIGNATURE_BYTES_MAX, SIGNATURE_BYTES_MIN,
};
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Endpoint, EntrySignature, Fingerprint, Lifetime, Member, Name,
    NodeId, Policy, PublicKey, Refusal, Seat, Time,
};
use xlreg_proto::keys;

use crate::fault::Fault;
use crate::v2;
use crate::v2::cluster_ref::By;
use crate::v2::join_policy::Kind;
use crate::v2::watch_cluster_response as watch;

/// The longest time that anything may be asked to last: ten years.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// The least time after which a cluster may end for want of use.
pub const IDLE_MIN: Duration = Duration::from_secs(1);

/// Reads an ID or a fingerprint.
///
/// # Errors
/// [`Fault::field`] if it has not the right number of bytes.
pub fn bytes<'b, I>(field: &str, bytes: &'b [u8]) -> Result<I, Fault>
where
    I: TryFrom<&'b [u8]>,
    I::Error: fmt::Display,
{
    I::try_from(bytes).map_err(|error| Fault::field(field, error))
}

/// Reads an ID that may be left out.
///
/// # Errors
/// As [`bytes`].
pub fn optional_bytes<'b, I>(field: &str, given: &'b [u8]) -> Result<Option<I>, Fault>
where
    I: TryFrom<&'b [u8]>,
    I::Error: fmt::Display,
{
    if given.is_empty() { Ok(None) } else { bytes(field, given).map(Some) }
}

/// Reads a name or an endpoint.
///
/// # Errors
/// [`Fault::field`] if it is none.
pub fn text<T>(field: &str, text: &str) -> Result<T, Fault>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|error| Fault::field(field, error))
}

/// Reads a name that may be left out.
///
/// # Errors
/// As [`text`].
pub fn optional_name(field: &str, given: &str) -> Result<Option<Name>, Fault> {
    if given.is_empty() { Ok(None) } else { text(field, given).map(Some) }
}

/// Reads endpoints. How many a member must bring is its cluster's business.
///
/// # Errors
/// [`Fault::field`] if one is none, [`Refusal::TooManyEndpoints`] if there are more than any member
/// may have.
pub fn endpoints(texts: &[String]) -> Result<Vec<Endpoint>, Fault> {
    if texts.len() > MEMBER_ENDPOINTS_MAX {
        return Err(Refusal::TooManyEndpoints { got: texts.len() }.into());
    }
    texts.iter().map(|endpoint| text("endpoints", endpoint)).collect()
}

/// Reads a public key.
///
/// # Errors
/// [`Fault::field`] if it is not an RSA key of a size that is taken.
pub fn key(field: &str, der: &[u8]) -> Result<PublicKey, Fault> {
    keys::public_key(der).map_err(|error| Fault::field(field, error))
}

/// Reads which cluster is meant.
///
/// # Errors
/// [`Fault::field`] if none is, or what says so is malformed.
pub fn cluster_key(reference: Option<&v2::ClusterRef>) -> Result<ClusterKey, Fault> {
    match reference.and_then(|reference| reference.by.as_ref()) {
        Some(By::Id(id)) => bytes("cluster.id", id).map(ClusterKey::Id),
        Some(By::Name(name)) => text("cluster.name", name).map(ClusterKey::Name),
        None => Err(Fault::field("cluster", "missing; set id or name")),
    }
}

/// Says which cluster is meant.
#[must_use]
pub fn cluster_ref(key: &ClusterKey) -> v2::ClusterRef {
    let by = match key {
        ClusterKey::Id(id) => By::Id(id.as_bytes().to_vec()),
        ClusterKey::Name(name) => By::Name(name.to_string()),
    };
    v2::ClusterRef { by: Some(by) }
}

/// Reads a duration that may be left out.
///
/// # Errors
/// [`Fault::field`] unless it is more than nothing and at most [`DURATION_MAX`].
pub fn duration(
    field: &str,
    given: Option<&prost_types::Duration>,
) -> Result<Option<Duration>, Fault> {
    let Some(given) = given else { return Ok(None) };
    match read_duration(given) {
        Some(duration) if duration >= Duration::from_millis(1) && duration <= DURATION_MAX => {
            Ok(Some(duration))
        }
        _ => Err(Fault::field(field, "must be from a millisecond to ten years")),
    }
}

/// The same of a time after which a cluster that is watched is looked at again.
fn idle_timeout(given: Option<&prost_types::Duration>) -> Result<Option<Duration>, Fault> {
    const FIELD: &str = "lifetime.idle_timeout";
    match duration(FIELD, given)? {
        Some(idle) if idle < IDLE_MIN => Err(Fault::field(FIELD, "must be a second or more")),
        idle => Ok(idle),
    }
}

/// A duration as it came; none if it is less than nothing, or not as it should be written. Not by
/// prost's own conversion, which overflows on the least that there is.
pub(crate) fn read_duration(given: &prost_types::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(given.seconds).ok()?, u32::try_from(given.nanos).ok()?);
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// Writes a duration.
#[must_use]
pub fn to_duration(duration: Duration) -> prost_types::Duration {
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    prost_types::Duration { seconds: duration.as_secs().cast_signed(), nanos }
}

/// Writes a point in time.
#[must_use]
pub fn to_timestamp(time: Time) -> prost_types::Timestamp {
    let (seconds, millis) = (time.as_millis() / 1000, time.as_millis() % 1000);
    // Below a thousand million, so it fits.
    let nanos = i32::try_from(millis * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: seconds.cast_signed(), nanos }
}

/// Reads a point in time; one of before 1970 becomes 1970.
#[must_use]
pub fn time(timestamp: &prost_types::Timestamp) -> Time {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u64::try_from(timestamp.nanos).unwrap_or(0);
    Time::from_millis(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}

/// Reads what a cluster is to be.
///
/// # Errors
/// [`Fault::field`] for the first field that can't be used.
pub fn new_cluster(request: &v2::CreateClusterRequest) -> Result<NewCluster, Fault> {
    let size = CLUSTER_SIZE_MIN..=CLUSTER_SIZE_MAX;
    if !size.contains(&request.size) {
        let problem = format!("{}; from {CLUSTER_SIZE_MIN} to {CLUSTER_SIZE_MAX}", request.size);
        return Err(Fault::field("size", problem));
    }
    if request.endpoint_count > CLUSTER_ENDPOINTS_MAX {
        let problem = format!("{}; 1 or {CLUSTER_ENDPOINTS_MAX}", request.endpoint_count);
        return Err(Fault::field("endpoint_count", problem));
    }
    Ok(NewCluster {
        name: text("name", &request.name)?,
        attrs: request.attributes,
        size: request.size,
        endpoint_count: request.endpoint_count.max(1),
        policy: policy(request.policy.as_ref(), 1)?,
        lifetime: lifetime(request.lifetime.as_ref())?,
    })
}

/// Says what a cluster is to be.
#[must_use]
pub fn to_create(new: &NewCluster) -> v2::CreateClusterRequest {
    let Lifetime { fill_within, ttl, idle, with_owner } = new.lifetime;
    v2::CreateClusterRequest {
        name: new.name.to_string(),
        size: new.size,
        endpoint_count: new.endpoint_count,
        attributes: new.attrs,
        policy: Some(to_policy(&new.policy, true)),
        lifetime: Some(v2::Lifetime {
            fill_within: fill_within.map(to_duration),
            ttl: ttl.map(to_duration),
            idle_timeout: idle.map(to_duration),
            with_owner,
        }),
    }
}

/// `keys_min` is 1 where somebody says who may join; a registry may keep that to itself.
fn policy(given: Option<&v2::JoinPolicy>, keys_min: usize) -> Result<Policy, Fault> {
    match given.and_then(|policy| policy.kind.as_ref()) {
        None | Some(Kind::Open(_)) => Ok(Policy::Open),
        Some(Kind::Token(_)) => Ok(Policy::Token),
        Some(Kind::Keys(keys)) => {
            let count = keys.sig_key_sha256.len();
            if !(keys_min..=POLICY_KEYS_MAX).contains(&count) {
                let problem = format!("{count} of them; from {keys_min} to {POLICY_KEYS_MAX}");
                return Err(Fault::field("policy.keys", problem));
            }
            let keys = keys.sig_key_sha256.iter();
            let keys: Result<BTreeSet<_>, _> =
                keys.map(|print| bytes("policy.keys.sig_key_sha256", print)).collect();
            keys.map(Policy::Keys)
        }
    }
}

fn to_policy(policy: &Policy, with_keys: bool) -> v2::JoinPolicy {
    let kind = match policy {
        Policy::Open => Kind::Open(v2::join_policy::Open {}),
        Policy::Token => Kind::Token(v2::join_policy::Token {}),
        Policy::Keys(keys) => {
            let shown = keys.iter().filter(|_| with_keys);
            let sig_key_sha256 = shown.map(|key| key.as_bytes().to_vec()).collect();
            Kind::Keys(v2::join_policy::Keys { sig_key_sha256 })
        }
    };
    v2::JoinPolicy { kind: Some(kind) }
}

fn lifetime(given: Option<&v2::Lifetime>) -> Result<Lifetime, Fault> {
    let Some(given) = given else { return Ok(Lifetime::default()) };
    Ok(Lifetime {
        fill_within: duration("lifetime.fill_within", given.fill_within.as_ref())?,
        ttl: duration("lifetime.ttl", given.ttl.as_ref())?,
        idle: idle_timeout(given.idle_timeout.as_ref())?,
        with_owner: given.with_owner,
    })
}

/// How much of a cluster is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Its roster.
    pub members: bool,
    /// The keys that may join it, which are its owner's affair.
    pub keys: bool,
}

/// Writes a cluster.
#[must_use]
pub fn to_cluster(cluster: &Cluster, detail: Detail) -> v2::Cluster {
    let Life { created, fill_by, ends, idle, with_owner } = cluster.life;
    let members = cluster.seats.iter().enumerate().filter_map(|(rank, seat)| match seat {
        Seat::Free => None,
        Seat::Present(member) => Some(to_member(rank, member, false)),
        Seat::Left(member) => Some(to_member(rank, member, true)),
    });
    v2::Cluster {
        id: cluster.id.as_bytes().to_vec(),
        name: cluster.name.to_string(),
        size: cluster.size,
        endpoint_count: cluster.endpoint_count,
        attributes: cluster.attrs,
        revision: cluster.revision,
        owner_sha256: cluster.owner.map_or_else(Vec::new, |owner| owner.as_bytes().to_vec()),
        policy: Some(to_policy(&cluster.policy, detail.keys)),
        create_time: (created != Time::default()).then(|| to_timestamp(created)),
        fill_time: fill_by.map(to_timestamp),
        expire_time: ends.map(to_timestamp),
        idle_timeout: idle.map(to_duration),
        with_owner,
        present: u32::try_from(cluster.present().count()).unwrap_or(u32::MAX),
        complete: cluster.is_complete(),
        members: if detail.members { members.collect() } else { Vec::new() },
    }
}

/// Reads a cluster. Its tokens and whom it has expelled are not told.
///
/// # Errors
/// [`Fault::field`] if it is malformed, or no cluster can be like that.
pub fn cluster(told: &v2::Cluster) -> Result<Cluster, Fault> {
    let new = NewCluster {
        name: text("cluster.name", &told.name)?,
        attrs: told.attributes,
        size: told.size,
        endpoint_count: told.endpoint_count,
        policy: policy(told.policy.as_ref(), 0)?,
        lifetime: Lifetime::default(),
    };
    let id: ClusterId = bytes("cluster.id", &told.id)?;
    let owner = optional_bytes("cluster.owner_sha256", &told.owner_sha256)?;
    let mut cluster = Cluster::new(id, &new, owner, Time::default());
    if (cluster.size, cluster.endpoint_count) != (told.size, told.endpoint_count) {
        return Err(Fault::field("cluster.size", "no cluster is like that"));
    }
    cluster.life = Life {
        created: told.create_time.as_ref().map(time).unwrap_or_default(),
        fill_by: told.fill_time.as_ref().map(time),
        ends: told.expire_time.as_ref().map(time),
        idle: told.idle_timeout.as_ref().and_then(read_duration),
        with_owner: told.with_owner,
    };
    cluster.revision = told.revision;
    for entry in &told.members {
        let (rank, seat) = seat(entry)?;
        if rank >= cluster.size as usize || rank < cluster.seats.len() {
            return Err(Fault::field("cluster.members.rank", "beyond the size, or out of order"));
        }
        cluster.seats.resize(rank, Seat::Free);
        cluster.seats.push(seat);
    }
    Ok(cluster)
}

/// Writes a member.
#[must_use]
pub fn to_member(rank: usize, member: &Member, left: bool) -> v2::Member {
    v2::Member {
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        id: member.id.as_bytes().to_vec(),
        name: member.name.to_string(),
        attributes: member.attrs,
        sig_key: member.sig_key.der().to_vec(),
        comms_key: member.comms_key.der().to_vec(),
        endpoints: member.endpoints.iter().map(ToString::to_string).collect(),
        left,
        entry_signature: member.entry_signature.as_ref().map_or_else(Vec::new, signature_bytes),
    }
}

fn signature_bytes(signature: &EntrySignature) -> Vec<u8> {
    signature.as_bytes().to_vec()
}

/// Reads a member's signature over its entry, if there is one. Whether it is right shows only beside
/// the entry.
///
/// # Errors
/// [`Fault::field`] if no key makes signatures of that length.
pub fn entry_signature(field: &str, given: &[u8]) -> Result<Option<EntrySignature>, Fault> {
    if given.is_empty() {
        return Ok(None);
    }
    let problem = || {
        let got = given.len();
        format!("{got} bytes; from {SIGNATURE_BYTES_MIN} to {SIGNATURE_BYTES_MAX}, or none")
    };
    EntrySignature::new(given).map(Some).ok_or_else(|| Fault::field(field, problem()))
}

/// Reads a member: its rank, and how it holds it.
fn seat(entry: &v2::Member) -> Result<(usize, Seat), Fault> {
    let member = Arc::new(Member {
        id: bytes("member.id", &entry.id)?,
        name: text("member.name", &entry.name)?,
        attrs: entry.attributes,
        comms_key: key("member.comms_key", &entry.comms_key)?,
        sig_key: key("member.sig_key", &entry.sig_key)?,
        endpoints: endpoints(&entry.endpoints)?,
        entry_signature: entry_signature("member.entry_signature", &entry.entry_signature)?,
    });
    let seat = if entry.left { Seat::Left(member) } else { Seat::Present(member) };
    Ok((entry.rank as usize, seat))
}

/// Something that a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The cluster as it is; what was known before is of no use any more.
    Snapshot(Box<Cluster>),
    /// One change.
    Change(Event),
    /// The cluster is gone.
    Gone(Gone),
    /// Nothing new.
    Heartbeat,
}

/// Tells a watcher what the cluster is like.
#[must_use]
pub fn to_snapshot(cluster: &Cluster, detail: Detail) -> v2::WatchClusterResponse {
    v2::WatchClusterResponse {
        revision: cluster.revision,
        complete: cluster.is_complete(),
        event: Some(watch::Event::Snapshot(to_cluster(cluster, detail))),
    }
}

/// Tells a watcher of a change.
#[must_use]
pub fn to_change(event: &Event) -> v2::WatchClusterResponse {
    let kind = match event.kind {
        EventKind::Joined => v2::ChangeKind::Joined,
        EventKind::Returned => v2::ChangeKind::Returned,
        EventKind::Updated => v2::ChangeKind::Updated,
        EventKind::Rotated => v2::ChangeKind::Rotated,
        EventKind::Left => v2::ChangeKind::Left,
        EventKind::Expelled => v2::ChangeKind::Expelled,
    };
    let member = to_member(event.rank, &event.member, event.left);
    let change = watch::Change { kind: kind.into(), member: Some(member) };
    v2::WatchClusterResponse {
        revision: event.revision,
        complete: event.complete,
        event: Some(watch::Event::Change(change)),
    }
}

/// Tells a watcher that the cluster is gone.
#[must_use]
pub fn to_gone(revision: u64, how: Gone) -> v2::WatchClusterResponse {
    let reason = match how {
        Gone::Deleted => v2::GoneReason::Deleted,
        Gone::Expired => v2::GoneReason::Expired,
    };
    let event = watch::Event::Gone(watch::Gone { reason: reason.into() });
    v2::WatchClusterResponse { revision, complete: false, event: Some(event) }
}

/// Tells a watcher that there is nothing new.
#[must_use]
pub fn to_heartbeat(cluster: &Cluster) -> v2::WatchClusterResponse {
    v2::WatchClusterResponse {
        revision: cluster.revision,
        complete: cluster.is_complete(),
        event: Some(watch::Event::Heartbeat(watch::Heartbeat {})),
    }
}

/// Reads what a watcher is told; none if it is something that we don't know yet.
///
/// # Errors
/// [`Fault::field`] if it is malformed.
pub fn news(told: &v2::WatchClusterResponse) -> Result<Option<News>, Fault> {
    Ok(Some(match &told.event {
        None => return Ok(None),
        Some(watch::Event::Heartbeat(_)) => News::Heartbeat,
        Some(watch::Event::Snapshot(told)) => News::Snapshot(Box::new(cluster(told)?)),
        Some(watch::Event::Gone(gone)) => News::Gone(match gone.reason() {
            v2::GoneReason::Expired => Gone::Expired,
            v2::GoneReason::Deleted | v2::GoneReason::Unspecified => Gone::Deleted,
        }),
        Some(watch::Event::Change(change)) => {
            let kind = match change.kind() {
                v2::ChangeKind::Joined => EventKind::Joined,
                v2::ChangeKind::Returned => EventKind::Returned,
                // Whatever it is, the member is now as it is told.
                v2::ChangeKind::Updated | v2::ChangeKind::Unspecified => EventKind::Updated,
                v2::ChangeKind::Rotated => EventKind::Rotated,
                v2::ChangeKind::Left => EventKind::Left,
                v2::ChangeKind::Expelled => EventKind::Expelled,
            };
            let entry = change.member.as_ref();
            let entry = entry.ok_or_else(|| Fault::field("change.member", "missing"))?;
            let (rank, seat) = seat(entry)?;
            let member = seat.holder().cloned();
            let member = member.ok_or_else(|| Fault::field("change.member", "missing"))?;
            let (revision, complete) = (told.revision, told.complete);
            News::Change(Event { revision, kind, rank, member, left: entry.left, complete })
        }
    }))
}

/// Writes what is known of a token.
#[must_use]
pub fn to_token(token: &Token) -> v2::JoinToken {
    v2::JoinToken {
        id: token.id.to_string(),
        label: token.label.as_str().to_owned(),
        create_time: Some(to_timestamp(token.created)),
        expire_time: Some(to_timestamp(token.expires)),
        max_uses: token.uses_max,
        uses: token.uses,
    }
}

/// Writes what is known of a node.
#[must_use]
pub fn to_node(id: NodeId, sig_key: &Fingerprint, comms_key: Option<&PublicKey>) -> v2::Node {
    v2::Node {
        id: id.as_bytes().to_vec(),
        sig_key_sha256: sig_key.as_bytes().to_vec(),
        comms_key: comms_key.map_or_else(Vec::new, |key| key.der().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: the least number of seconds ended whoever read it, where overflows are
    /// checked.
    #[test]
    fn durations_that_are_none_are_refused_to_the_least_and_the_most() {
        let most = DURATION_MAX.as_secs().cast_signed();
        for (seconds, nanos) in [
            (i64::MIN, 0),
            (i64::MIN, i32::MIN),
            (i64::MAX, i32::MAX),
            (0, i32::MIN),
            (1, -1),
            (-1, 1),
            (0, 0),
            (0, 999_999),
            (1, 1_000_000_000),
            (most, 1),
        ] {
            let given = prost_types::Duration { seconds, nanos };
            assert!(duration("ttl", Some(&given)).is_err(), "{given:?}");
        }
        for (seconds, nanos) in [(0, 1_000_000), (1, 999_999_999), (most, 0)] {
            let given = prost_types::Duration { seconds, nanos };
            let read = duration("ttl", Some(&given)).unwrap().unwrap();
            assert_eq!(to_duration(read), given);
        }
    }
}
