//! What is true: every change in the order in which it became durable, and all that was told
//! measured against it.
//!
//! It is a registry once more, as plain as can be: each cluster is the list of all its rosters, one
//! for each revision. It is told of commits by the disk, and of answers by those who got them; the
//! server never hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xlreg_core::cluster::{Event, EventKind, Gone};
use xlreg_core::limits::CLUSTER_EVENTS_MAX;
use xlreg_core::{
    Change, Cluster, ClusterId, Fingerprint, Member, Name, NodeId, Registry, Seat, Time, View,
};
use xlreg_proto::entry;

/// That something is not as it was promised.
pub(crate) type Checked = Result<(), String>;

/// All that ever became durable.
pub(crate) struct History {
    /// The registry's sig key.
    registry: Fingerprint,
    lives: BTreeMap<ClusterId, Life>,
    names: BTreeMap<Name, ClusterId>,
    owners: BTreeMap<NodeId, Fingerprint>,
    /// Which key took which other's place.
    retired: BTreeMap<Fingerprint, Fingerprint>,
    /// Endpoints of joins and moves that were refused.
    refused: BTreeSet<u16>,
    /// Endpoints that were kept.
    kept: BTreeSet<u16>,
}

/// One cluster, from its creation to its end.
struct Life {
    name: Name,
    size: u32,
    /// As it was kept last.
    latest: Cluster,
    /// Whether it has a time at which it is over, kept or not.
    ends: bool,
    /// The roster of each revision.
    rosters: Vec<Vec<Seat>>,
    /// What led from each to the next.
    events: Vec<Arc<Event>>,
    gone: bool,
    /// The latest revision that anybody was told of.
    told: usize,
    gone_told: bool,
    /// Whether anybody was told that it is there.
    known: bool,
    /// The latest revision when the server last started.
    loaded: usize,
}

/// What had been told of a cluster when a question was asked: the answer may not be older.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    revision: usize,
    gone: bool,
    known: bool,
}

impl Floor {
    /// As low as can be.
    pub(crate) const NONE: Self = Self { revision: 0, gone: false, known: false };
}

impl Life {
    /// Somebody knows of this revision from now on.
    fn tell(&mut self, revision: usize) {
        self.told = self.told.max(revision);
        self.known = true;
    }

    fn head(&self) -> usize {
        self.rosters.len() - 1
    }

    fn roster(&self, revision: usize) -> Result<&Vec<Seat>, String> {
        let head = self.head();
        let untold = || format!("revision {revision} of {}, which is at {head}", self.name);
        self.rosters.get(revision).ok_or_else(untold)
    }
}

fn ensure(good: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(otherwise()) }
}

fn ports(member: &Member) -> impl Iterator<Item = u16> {
    member.endpoints.iter().map(|endpoint| endpoint.port())
}

/// Without the free seats at its end, which say nothing.
fn trimmed(seats: &[Seat]) -> &[Seat] {
    let held = seats.iter().rposition(|seat| *seat != Seat::Free).map_or(0, |last| last + 1);
    seats.get(..held).unwrap_or_default()
}

// ---- commits ----

impl History {
    /// The history of the registry with this sig key, before anything has happened.
    pub(crate) fn new(registry: Fingerprint) -> Self {
        Self {
            registry,
            lives: BTreeMap::new(),
            names: BTreeMap::new(),
            owners: BTreeMap::new(),
            retired: BTreeMap::new(),
            refused: BTreeSet::new(),
            kept: BTreeSet::new(),
        }
    }

    /// Takes changes that have just become durable.
    pub(crate) fn keep(&mut self, changes: &[&Change]) -> Checked {
        changes.iter().try_for_each(|change| self.keep_one(change))
    }

    fn keep_one(&mut self, change: &Change) -> Checked {
        match change {
            Change::Node { id, sig_key } => {
                let before = self.owners.insert(*id, *sig_key);
                ensure(before.is_none(), || format!("ID {id} was issued twice"))
            }
            Change::Comms { .. } | Change::Touched(_) => Ok(()),
            Change::Retired { old, new } => {
                let owners = self.owners.values_mut().filter(|owner| *owner == old);
                owners.for_each(|owner| *owner = *new);
                let before = self.retired.insert(*old, *new);
                ensure(before.is_none(), || format!("{old} was retired twice"))
            }
            Change::Cluster(cluster) => self.create(cluster),
            Change::Gone(cluster) => self.end(cluster),
            Change::Terms { cluster, .. }
            | Change::Seat { cluster, .. }
            | Change::Expelled { cluster, .. }
            | Change::Token { cluster, .. } => self.change(cluster),
        }
    }

    fn create(&mut self, cluster: &Cluster) -> Checked {
        let Cluster { id, name, size, life, .. } = cluster;
        let ends =
            life.fill_by.is_some() || life.ends.is_some() || life.idle.is_some() || life.with_owner;
        let life = Life {
            name: name.clone(),
            size: *size,
            latest: cluster.clone(),
            ends,
            rosters: vec![Vec::new()],
            events: Vec::new(),
            gone: false,
            told: 0,
            gone_told: false,
            known: false,
            loaded: 0,
        };
        ensure(self.names.insert(name.clone(), *id).is_none(), || format!("a second {name}"))?;
        ensure(self.lives.insert(*id, life).is_none(), || format!("cluster ID {id} twice"))?;
        ensure(cluster.revision == 0 && cluster.seats.is_empty(), || format!("{name} is born old"))
    }

    fn end(&mut self, cluster: &Cluster) -> Checked {
        self.names.remove(&cluster.name);
        let life = self.life_mut(&cluster.id)?;
        ensure(!life.gone, || format!("{} ended twice", life.name))?;
        life.gone = true;
        let asked = cluster.gone == Some(Gone::Deleted);
        ensure(asked || life.ends, || format!("{} ended though it was to stay", life.name))
    }

    /// Follows a cluster event by event. What its seats are afterwards is compared, not believed.
    fn change(&mut self, cluster: &Cluster) -> Checked {
        let life = self.lives.get_mut(&cluster.id);
        let life = life.ok_or_else(|| format!("{} changed before it was there", cluster.name))?;
        ensure(!life.gone, || format!("{} changed after its end", life.name))?;
        let head = life.head() as u64;
        let events = cluster.events_after(head);
        let events =
            events.ok_or_else(|| format!("no events of {} after {head}", life.name))?.to_vec();
        for event in &events {
            let next = follow(life, event)?;
            for port in ports(&event.member) {
                ensure(!self.refused.contains(&port), || {
                    format!("what was refused was done all the same: {}", event.member.name)
                })?;
                self.kept.insert(port);
            }
            let owner = self.owners.get(&event.member.id);
            ensure(owner == Some(&event.member.sig_key.fingerprint()), || {
                format!("{} has an ID of another key's", event.member.name)
            })?;
            if event.member.entry_signature.is_some() {
                entry::verify(&self.registry, &cluster.id, &event.member)
                    .map_err(|error| format!("{}: {error}", event.member.name))?;
            }
            life.rosters.push(next);
            life.events.push(Arc::clone(event));
        }
        life.latest = cluster.clone();
        let roster = life.roster(life.head())?;
        ensure(trimmed(roster) == trimmed(&cluster.seats), || {
            format!("{} at {} is not what its events come to", life.name, cluster.revision)
        })
    }

    fn life(&self, id: &ClusterId) -> Result<&Life, String> {
        self.lives.get(id).ok_or_else(|| format!("cluster {id} was told of and never was kept"))
    }

    fn life_mut(&mut self, id: &ClusterId) -> Result<&mut Life, String> {
        let life = self.lives.get_mut(id);
        life.ok_or_else(|| format!("cluster {id} was told of and never was kept"))
    }
}

/// The roster after an event that may come next.
fn follow(life: &Life, event: &Event) -> Result<Vec<Seat>, String> {
    let mut roster = life.roster(life.head())?.clone();
    let what = || format!("{} at {}: {event:?}", life.name, event.revision);
    ensure(event.revision == life.head() as u64 + 1, what)?;
    ensure(event.rank < life.size as usize, || {
        format!("more members than there may be: {}", what())
    })?;
    if roster.len() <= event.rank {
        roster.resize(event.rank + 1, Seat::Free);
    }
    let seat = roster.get_mut(event.rank).ok_or_else(what)?;
    let same = |member: &Member| member.name == event.member.name;
    let same_key = |member: &Member| same(member) && member.sig_key == event.member.sig_key;
    let allowed = match (event.kind, &*seat) {
        (EventKind::Joined, Seat::Free) => !event.left,
        (EventKind::Returned, Seat::Left(member)) | (EventKind::Updated, Seat::Present(member)) => {
            same_key(member) && !event.left
        }
        (EventKind::Left, Seat::Present(member)) => **member == *event.member && event.left,
        (EventKind::Expelled, Seat::Present(member) | Seat::Left(member)) => same_key(member),
        (EventKind::Rotated, Seat::Present(member) | Seat::Left(member)) => same(member),
        _ => false,
    };
    ensure(allowed, || format!("a rank is not stable: {seat:?}, then {}", what()))?;
    let member = Arc::clone(&event.member);
    *seat = match (event.kind, event.left) {
        (EventKind::Expelled, _) => Seat::Free,
        (_, true) => Seat::Left(member),
        (_, false) => Seat::Present(member),
    };
    let holders: Vec<_> = roster.iter().filter_map(Seat::holder).collect();
    let names: BTreeSet<_> = holders.iter().map(|member| &member.name).collect();
    let ids: BTreeSet<_> = holders.iter().map(|member| member.id).collect();
    ensure(names.len() == holders.len(), || format!("a name twice: {}", what()))?;
    ensure(ids.len() == holders.len(), || format!("an ID twice: {}", what()))?;
    let complete = is_complete(life.size, &roster);
    ensure(complete == event.complete, || {
        format!("it does not know whether it is complete: {}", what())
    })?;
    Ok(roster)
}

fn is_complete(size: u32, roster: &[Seat]) -> bool {
    roster.iter().filter(|seat| seat.present().is_some()).count() == size as usize
}

// ---- starts ----

impl History {
    /// Compares what a disk holds with what became durable.
    pub(crate) fn compare(&mut self, loaded: &Registry) -> Checked {
        let counts = loaded.counts();
        ensure(counts.nodes == self.owners.len(), || {
            format!("{} IDs are there after a restart, of {}", counts.nodes, self.owners.len())
        })?;
        for (id, owner) in &self.owners {
            let kept = loaded.owner(id);
            ensure(kept.as_ref() == Some(owner), || format!("ID {id} is lost: {kept:?}"))?;
        }
        let live = self.lives.iter().filter(|(_, life)| !life.gone).count();
        ensure(counts.clusters == live, || {
            format!("{} clusters are there after a restart, of {live}", counts.clusters)
        })?;
        for (id, life) in self.lives.iter_mut().filter(|(_, life)| !life.gone) {
            let cluster = loaded.cluster(id).ok_or_else(|| format!("{} is lost", life.name))?;
            // When it was alive last is not kept.
            let kept = Cluster { active: cluster.active, ..life.latest.clone() };
            ensure(*cluster == kept && cluster.revision == life.head() as u64, || {
                format!("{} is another after a restart: {cluster:?}", life.name)
            })?;
            life.loaded = life.head();
        }
        Ok(())
    }
}

// ---- answers ----

impl History {
    /// What an answer about this cluster to a question that is asked now may not fall behind.
    pub(crate) fn floor(&self, id: &ClusterId) -> Floor {
        let life = self.lives.get(id);
        life.map_or(Floor::NONE, |life| Floor {
            revision: life.told,
            gone: life.gone_told,
            known: life.known,
        })
    }

    /// The same for all clusters, for questions by name.
    pub(crate) fn floors(&self) -> BTreeMap<ClusterId, Floor> {
        self.lives.keys().map(|id| (*id, self.floor(id))).collect()
    }

    /// A key was told that it has this ID.
    pub(crate) fn told_id(&self, id: &NodeId, key: &Fingerprint) -> Checked {
        let owner = self.owners.get(id);
        // Another key may have taken its place while the answer was under way.
        let good = owner == Some(key) || (owner.is_some() && owner == self.retired.get(key));
        ensure(good, || format!("ID {id} was told to {key} and is {owner:?}'s"))
    }

    /// Somebody was shown a whole cluster.
    pub(crate) fn told_cluster(&mut self, told: &Cluster, floor: Floor) -> Checked {
        let life = self.life_mut(&told.id)?;
        let revision = usize::try_from(told.revision).unwrap_or(usize::MAX);
        let roster = life.roster(revision)?;
        let same = trimmed(roster) == trimmed(&told.seats)
            && (&told.name, told.size) == (&life.name, life.size);
        ensure(same, || format!("{} never was so: {told:?}", life.name))?;
        ensure(revision >= floor.revision && !floor.gone, || {
            format!("{} at {revision} was told after {floor:?} had been", life.name)
        })?;
        life.tell(revision);
        Ok(())
    }

    /// A command was answered with the revision that it led to, or found.
    pub(crate) fn told_revision(&mut self, id: &ClusterId, revision: u64, floor: Floor) -> Checked {
        let life = self.life_mut(id)?;
        let revision = usize::try_from(revision).unwrap_or(usize::MAX);
        life.roster(revision)?;
        ensure(revision >= floor.revision && !floor.gone, || {
            format!("{} at {revision} was told after {floor:?} had been", life.name)
        })?;
        life.tell(revision);
        Ok(())
    }

    /// Somebody was told by the old wire of the members at these ranks.
    pub(crate) fn told_members(
        &mut self,
        id: &ClusterId,
        size: Option<u32>,
        members: &BTreeMap<usize, Arc<Member>>,
        floor: Floor,
    ) -> Checked {
        let life = self.life_mut(id)?;
        ensure(size.is_none_or(|size| size == life.size), || {
            format!("{} has no such size", life.name)
        })?;
        ensure(!floor.gone, || format!("{} was shown after its end was told", life.name))?;
        life.known = true;
        let is_so = |roster: &&Vec<Seat>| {
            members.iter().all(|(rank, member)| {
                roster.get(*rank).and_then(Seat::present).is_some_and(|at| at.is_like(member))
            })
        };
        let since = life.rosters.get(floor.revision..).unwrap_or_default();
        ensure(since.iter().any(|roster| is_so(&roster)), || {
            format!("{} never was so since {floor:?}: {members:?}", life.name)
        })
    }

    /// A member was told that it is in, or has moved, with this endpoint.
    pub(crate) fn told_joined(&self, id: &ClusterId, stamp: u16) -> Checked {
        let life = self.life(id)?;
        let is_mine = |seat: &Seat| {
            seat.present().is_some_and(|member| ports(member).any(|port| port == stamp))
        };
        let any = life.rosters.iter().any(|roster| roster.iter().any(is_mine));
        ensure(any, || format!("{}: who was let in with {stamp} is not there", life.name))
    }

    /// A member was told that it has left.
    pub(crate) fn told_left(&self, id: &ClusterId, revision: u64, name: &Name) -> Checked {
        let life = self.life(id)?;
        let roster = life.roster(usize::try_from(revision).unwrap_or(usize::MAX))?;
        let there = roster.iter().filter_map(Seat::present).any(|member| member.name == *name);
        ensure(!there, || format!("{}: {name} was told that it had left, and is there", life.name))
    }

    /// Somebody was told that the cluster is gone, or has deleted it.
    pub(crate) fn told_gone(&mut self, id: &ClusterId) -> Checked {
        let life = self.life_mut(id)?;
        life.gone_told |= life.gone;
        ensure(life.gone, || format!("{} was said to be gone, and is there", life.name))
    }

    /// Somebody was told that there is no cluster of this ID. One whose time is over may be kept
    /// for a little longer.
    pub(crate) fn told_unknown(&mut self, id: &ClusterId) -> Checked {
        let life = self.life_mut(id)?;
        ensure(life.gone || life.ends, || format!("{} is there, and was not found", life.name))
    }

    /// Somebody was told that there is no cluster of this name, though some had been told of one.
    pub(crate) fn told_no_name(&self, name: &Name, floors: &BTreeMap<ClusterId, Floor>) -> Checked {
        let is_there = |(id, life): (&ClusterId, &Life)| {
            let known = floors.get(id).is_some_and(|floor| floor.known);
            known && life.name == *name && !life.gone && !life.ends
        };
        let there = self.lives.iter().any(is_there);
        ensure(!there, || format!("{name} is there, and was not found"))
    }

    /// Somebody was told that the cluster of this name is full: one of them was at some moment since
    /// `floors`, though it may have been created later.
    pub(crate) fn told_full(&self, name: &Name, floors: &BTreeMap<ClusterId, Floor>) -> Checked {
        let full = |(id, life): (&ClusterId, &Life)| {
            let floor = floors.get(id).copied().unwrap_or(Floor::NONE);
            let since = life.rosters.get(floor.revision..).unwrap_or_default();
            let is_full = |roster: &Vec<Seat>| {
                roster.iter().filter(|seat| **seat != Seat::Free).count() == life.size as usize
            };
            !floor.gone && since.iter().any(is_full)
        };
        let mut named = self.lives.iter().filter(|(_, life)| life.name == *name);
        ensure(named.any(full), || format!("{name} was said to be full, and was not"))
    }

    /// Whoever brought this endpoint was refused.
    pub(crate) fn told_refused(&mut self, stamp: u16) -> Checked {
        self.refused.insert(stamp);
        ensure(!self.kept.contains(&stamp), || format!("{stamp} was refused, and is there"))
    }
}

// ---- watches ----

impl History {
    /// A watcher that knew `known` was told of a change.
    pub(crate) fn told_change(&mut self, id: &ClusterId, known: u64, event: &Event) -> Checked {
        let life = self.life_mut(id)?;
        ensure(event.revision == known + 1, || {
            format!("a watch of {} went from {known} to {}", life.name, event.revision)
        })?;
        let revision = usize::try_from(event.revision).unwrap_or(usize::MAX);
        let kept = revision.checked_sub(1).and_then(|place| life.events.get(place));
        ensure(kept.is_some_and(|kept| **kept == *event), || {
            format!("a watch of {} was told {event:?}, which is {kept:?}", life.name)
        })?;
        life.tell(revision);
        Ok(())
    }

    /// A watcher that knew `known`, if anything, was shown the cluster anew. That is for those who
    /// know nothing, or less than the server remembers.
    pub(crate) fn told_snapshot(
        &mut self,
        known: Option<u64>,
        told: &Cluster,
        floor: Floor,
    ) -> Checked {
        self.told_cluster(told, floor)?;
        let life = self.life(&told.id)?;
        let Some(known) = known else { return Ok(()) };
        let lost =
            (known as usize) < life.loaded || life.head() - known as usize > CLUSTER_EVENTS_MAX;
        ensure(lost && told.revision > known, || {
            format!("a watch of {} at {known} was shown {} anew", life.name, told.revision)
        })
    }

    /// Whether a cluster is kept though its time is over, which must not last.
    pub(crate) fn is_overdue(&self, now: Time) -> bool {
        self.lives.values().any(|life| !life.gone && life.latest.is_over(now))
    }

    /// What a watcher has to come to: the latest revision, or that it is gone.
    pub(crate) fn head(&self, id: &ClusterId) -> Option<u64> {
        self.lives.get(id).filter(|life| !life.gone).map(|life| life.head() as u64)
    }
}
