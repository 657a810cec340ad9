//! The state itself, in memory, and a layer of changes over it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::{Change, Counts, KeyRecord, View, take_one};
use crate::limits::Limits;
use crate::{Cluster, ClusterId, Fingerprint, Name, NodeId, PublicKey, Seat, Time};

/// The maps behind both the state and what is layered over it.
#[derive(Debug, Default)]
pub(super) struct Maps {
    pub(super) owners: HashMap<NodeId, Fingerprint>,
    comms: HashMap<NodeId, PublicKey>,
    pub(super) keys: HashMap<Fingerprint, KeyRecord>,
    pub(super) clusters: HashMap<ClusterId, Arc<Cluster>>,
    pub(super) names: BTreeMap<Name, ClusterId>,
    counts: Counts,
}

impl Maps {
    /// Applies a change, given that the maps have all that it touches.
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Node { id, sig_key } => {
                self.owners.insert(*id, *sig_key);
                self.keys.entry(*sig_key).or_default().register(*id);
                self.counts.nodes += 1;
            }
            Change::Comms { id, key } => {
                self.comms.insert(*id, key.clone());
            }
            Change::Retired { old, new } => self.retire(old, new),
            Change::Cluster(cluster) => {
                self.names.insert(cluster.name.clone(), cluster.id);
                self.clusters.insert(cluster.id, Arc::clone(cluster));
                self.counts.clusters += 1;
                self.own(cluster);
                cluster.expelled.iter().for_each(|key| self.bar(key, &cluster.id));
            }
            Change::Terms { cluster, was } => {
                self.clusters.insert(cluster.id, Arc::clone(cluster));
                if *was != cluster.owner {
                    self.disown(was.as_ref(), &cluster.id);
                    self.own(cluster);
                }
            }
            Change::Seat { cluster, rank, was } => {
                self.clusters.insert(cluster.id, Arc::clone(cluster));
                let holder = cluster.seats.get(*rank).and_then(Seat::holder);
                let now = holder.map(|holder| holder.sig_key.fingerprint());
                if now != *was {
                    self.unseat(was.as_ref(), &cluster.id);
                    self.seat(now.as_ref(), &cluster.id);
                }
            }
            Change::Expelled { cluster, key, was } => {
                self.clusters.insert(cluster.id, Arc::clone(cluster));
                if let Some(was) = was {
                    self.unbar(was, &cluster.id);
                }
                self.bar(key, &cluster.id);
            }
            Change::Token { cluster, .. } | Change::Touched(cluster) => {
                self.clusters.insert(cluster.id, Arc::clone(cluster));
            }
            Change::Gone(cluster) => {
                self.clusters.remove(&cluster.id);
                self.names.remove(&cluster.name);
                self.counts.clusters -= 1;
                self.disown(cluster.owner.as_ref(), &cluster.id);
                for (_, member) in cluster.holders() {
                    self.unseat(Some(&member.sig_key.fingerprint()), &cluster.id);
                }
                cluster.expelled.iter().for_each(|key| self.unbar(key, &cluster.id));
            }
        }
    }

    /// Gives the IDs of one key to another. Its clusters and ranks follow by changes of their own.
    fn retire(&mut self, old: &Fingerprint, new: &Fingerprint) {
        let record = self.keys.entry(*old).or_default();
        let ids: Vec<_> = record.ids().collect();
        record.latest = None;
        let rest = record.rest();
        rest.earlier.clear();
        rest.retired = true;
        self.counts.retired += 1;
        for id in ids {
            self.owners.insert(id, *new);
            self.keys.entry(*new).or_default().register(id);
        }
    }

    fn bar(&mut self, key: &Fingerprint, cluster: &ClusterId) {
        let barred = &mut self.keys.entry(*key).or_default().rest().barred;
        if !barred.contains(cluster) {
            barred.push(*cluster);
        }
    }

    fn unbar(&mut self, key: &Fingerprint, cluster: &ClusterId) {
        if let Some(record) = self.keys.get_mut(key) {
            take_one(&mut record.rest().barred, cluster);
        }
    }

    fn own(&mut self, cluster: &Cluster) {
        if let Some(owner) = cluster.owner {
            self.keys.entry(owner).or_default().rest().owned.push(cluster.id);
        }
    }

    fn disown(&mut self, owner: Option<&Fingerprint>, cluster: &ClusterId) {
        if let Some(record) = owner.and_then(|owner| self.keys.get_mut(owner)) {
            take_one(&mut record.rest().owned, cluster);
        }
    }

    fn seat(&mut self, key: Option<&Fingerprint>, cluster: &ClusterId) {
        if let Some(key) = key {
            self.counts.members += 1;
            self.keys.entry(*key).or_default().rest().joined.push(*cluster);
        }
    }

    fn unseat(&mut self, key: Option<&Fingerprint>, cluster: &ClusterId) {
        if let Some(key) = key {
            self.counts.members -= 1;
            if let Some(record) = self.keys.get_mut(key) {
                take_one(&mut record.rest().joined, cluster);
            }
        }
    }
}

/// The registry's state in memory: every change so far, applied.
#[derive(Debug, Default)]
pub struct Registry {
    pub(super) maps: Maps,
    limits: Limits,
    /// When each cluster that has a time ends, soonest first.
    deadlines: BTreeSet<(Time, ClusterId)>,
    /// Clusters that live as long as their owner is connected.
    with_owner: HashSet<ClusterId>,
}

impl Registry {
    /// An empty registry that will remember at most `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Applies a change that [`decide`](super::decide) made and a store has made durable.
    pub fn apply(&mut self, change: &Change) {
        let id = match change {
            Change::Node { .. } | Change::Comms { .. } | Change::Retired { .. } => None,
            Change::Cluster(cluster) | Change::Touched(cluster) | Change::Gone(cluster) => {
                Some(cluster.id)
            }
            Change::Terms { cluster, .. }
            | Change::Seat { cluster, .. }
            | Change::Expelled { cluster, .. }
            | Change::Token { cluster, .. } => Some(cluster.id),
        };
        if let Some(deadline) = id.and_then(|id| self.deadline(&id)) {
            self.deadlines.remove(&deadline);
        }
        self.maps.apply(change);
        let Some(id) = id else { return };
        if let Some(deadline) = self.deadline(&id) {
            self.deadlines.insert(deadline);
        }
        match change {
            Change::Cluster(cluster) if cluster.life.with_owner => {
                self.with_owner.insert(id);
            }
            Change::Gone(_) => {
                self.with_owner.remove(&id);
            }
            _ => {}
        }
    }

    fn deadline(&self, id: &ClusterId) -> Option<(Time, ClusterId)> {
        Some((self.maps.clusters.get(id)?.deadline()?, *id))
    }

    /// The next cluster whose time will be over, and when.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Time, ClusterId)> {
        self.deadlines.first().copied()
    }

    /// The clusters that live as long as their owner is connected.
    pub fn with_owner(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.with_owner.iter().filter_map(|id| self.maps.clusters.get(id))
    }

    /// Clusters in the order of their names, from after the one of the name `after`.
    pub fn by_name(&self, after: Option<&Name>) -> impl Iterator<Item = &Arc<Cluster>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let named = self.maps.names.range::<Name, _>((from, Bound::Unbounded));
        named.filter_map(|(_, id)| self.maps.clusters.get(id))
    }
}

impl View for Registry {
    fn owner(&self, id: &NodeId) -> Option<Fingerprint> {
        self.maps.owners.get(id).copied()
    }

    fn key(&self, sig_key: &Fingerprint) -> KeyRecord {
        self.maps.keys.get(sig_key).cloned().unwrap_or_default()
    }

    fn comms_key(&self, id: &NodeId) -> Option<PublicKey> {
        self.maps.comms.get(id).cloned()
    }

    fn cluster(&self, id: &ClusterId) -> Option<Arc<Cluster>> {
        self.maps.clusters.get(id).cloned()
    }

    fn cluster_id(&self, name: &Name) -> Option<ClusterId> {
        self.maps.names.get(name).copied()
    }

    fn counts(&self) -> Counts {
        self.maps.counts
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

/// A view of `base` with changes over it that are decided and not yet durable.
#[derive(Debug)]
pub struct Overlay<'a, V> {
    base: &'a V,
    over: Maps,
    /// Clusters that the base has, and that are no more.
    gone: HashSet<ClusterId>,
}

impl<'a, V: View> Overlay<'a, V> {
    /// An overlay with no changes yet.
    pub fn new(base: &'a V) -> Self {
        let over = Maps { counts: base.counts(), ..Maps::default() };
        Self { base, over, gone: HashSet::new() }
    }

    /// Lays a change over the base, which itself stays as it is.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Node { sig_key, .. } => self.pull(Some(sig_key)),
            Change::Retired { old, new } => {
                self.pull(Some(old));
                self.pull(Some(new));
            }
            Change::Cluster(cluster) => self.pull(cluster.owner.as_ref()),
            Change::Terms { cluster, was } => {
                self.pull(was.as_ref());
                self.pull(cluster.owner.as_ref());
            }
            Change::Seat { cluster, rank, was } => {
                self.pull(was.as_ref());
                let holder = cluster.seats.get(*rank).and_then(Seat::holder);
                self.pull(holder.map(|holder| holder.sig_key.fingerprint()).as_ref());
            }
            Change::Gone(cluster) => {
                self.pull(cluster.owner.as_ref());
                for (_, member) in cluster.holders() {
                    self.pull(Some(&member.sig_key.fingerprint()));
                }
                cluster.expelled.iter().for_each(|key| self.pull(Some(key)));
                self.gone.insert(cluster.id);
            }
            Change::Expelled { key, was, .. } => {
                self.pull(Some(key));
                self.pull(was.as_ref());
            }
            Change::Comms { .. } | Change::Token { .. } | Change::Touched(_) => {}
        }
        self.over.apply(change);
    }

    /// Brings up what the base has of a key, to change it here.
    fn pull(&mut self, key: Option<&Fingerprint>) {
        if let Some(key) = key {
            let base = self.base;
            self.over.keys.entry(*key).or_insert_with(|| base.key(key));
        }
    }
}

impl<V: View> View for Overlay<'_, V> {
    fn owner(&self, id: &NodeId) -> Option<Fingerprint> {
        self.over.owners.get(id).copied().or_else(|| self.base.owner(id))
    }

    fn key(&self, sig_key: &Fingerprint) -> KeyRecord {
        self.over.keys.get(sig_key).cloned().unwrap_or_else(|| self.base.key(sig_key))
    }

    fn comms_key(&self, id: &NodeId) -> Option<PublicKey> {
        self.over.comms.get(id).cloned().or_else(|| self.base.comms_key(id))
    }

    fn cluster(&self, id: &ClusterId) -> Option<Arc<Cluster>> {
        // What is over it comes first: an ID that is gone may have come up again.
        let below = || self.base.cluster(id).filter(|_| !self.gone.contains(id));
        self.over.clusters.get(id).cloned().or_else(below)
    }

    fn cluster_id(&self, name: &Name) -> Option<ClusterId> {
        let below = || self.base.cluster_id(name).filter(|id| !self.gone.contains(id));
        self.over.names.get(name).copied().or_else(below)
    }

    fn counts(&self) -> Counts {
        self.over.counts
    }

    fn limits(&self) -> Limits {
        self.base.limits()
    }
}
