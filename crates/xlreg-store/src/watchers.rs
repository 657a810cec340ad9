//! Who follows which cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xlreg_core::{Cluster, ClusterId};

/// How many entries are kept before the first sweep.
const SWEEP_MIN: usize = 64;

/// A channel for each cluster that somebody follows.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    channels: HashMap<ClusterId, watch::Sender<Arc<Cluster>>>,
    /// At how many channels those that nobody follows any more are dropped.
    sweep_at: usize,
    /// Whether the engine has ended, and all following with it.
    ended: bool,
}

impl Watchers {
    /// Follows the cluster whose present state `current` shows.
    ///
    /// `current` is asked under the lock that [`Self::publish`] takes after a change is visible, so
    /// the receiver starts with the change or is told of it, whichever comes first.
    pub(crate) fn watch(
        &self,
        id: &ClusterId,
        current: impl FnOnce() -> Option<Arc<Cluster>>,
    ) -> Option<watch::Receiver<Arc<Cluster>>> {
        let mut inner = self.lock();
        if inner.ended {
            return None;
        }
        if let Some(channel) = inner.channels.get(id)
            && channel.receiver_count() > 0
        {
            return Some(channel.subscribe());
        }
        let (channel, receiver) = watch::channel(current()?);
        inner.sweep();
        inner.channels.insert(*id, channel);
        Some(receiver)
    }

    /// Tells those who follow one of these clusters of its new state, which is visible already.
    pub(crate) fn publish<'c>(&self, clusters: impl IntoIterator<Item = &'c Arc<Cluster>>) {
        let mut inner = self.lock();
        for cluster in clusters {
            let Some(channel) = inner.channels.get(&cluster.id) else {
                continue;
            };
            if channel.receiver_count() == 0 {
                inner.channels.remove(&cluster.id);
                continue;
            }
            let gone = cluster.gone.is_some();
            // Several may publish at once, and the later change first: revisions tell.
            channel.send_if_modified(|known| {
                let newer = gone || cluster.revision > known.revision;
                if newer {
                    *known = Arc::clone(cluster);
                }
                newer
            });
            if gone {
                // Receivers keep the last state.
                inner.channels.remove(&cluster.id);
            }
        }
    }

    /// Lets those who begin to follow this cluster see its new owner. It is no change of the roster,
    /// so nobody is told.
    pub(crate) fn amend(&self, cluster: &Arc<Cluster>) {
        if let Some(channel) = self.lock().channels.get(&cluster.id) {
            channel.send_if_modified(|known| {
                if cluster.revision == known.revision && known.gone.is_none() {
                    *known = Arc::clone(cluster);
                }
                false
            });
        }
    }

    /// Whether anybody follows this cluster.
    pub(crate) fn is_watched(&self, id: &ClusterId) -> bool {
        self.lock().channels.get(id).is_some_and(|channel| channel.receiver_count() > 0)
    }

    /// Lets all receivers end.
    pub(crate) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.channels = HashMap::new();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The map is whole after each single step, so a panic between them has broken nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Drops what nobody follows, each time as many channels have come as were left last time: so
    /// there are at most twice as many as are followed, at a constant cost each.
    fn sweep(&mut self) {
        if self.channels.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.channels.retain(|_, channel| channel.receiver_count() > 0);
            self.sweep_at = self.channels.len() * 2;
            self.channels.shrink_to(self.sweep_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xlreg_core::cluster::NewCluster;
    use xlreg_core::{Fingerprint, Time};

    fn cluster(id: u32, revision: u64) -> Arc<Cluster> {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        let new = NewCluster::open("alpha".parse().unwrap(), 2, 1);
        let id = ClusterId::from_bytes(bytes);
        let mut cluster = Cluster::new(id, &new, None, Time::default());
        cluster.revision = revision;
        Arc::new(cluster)
    }

    fn watch(watchers: &Watchers, now: &Arc<Cluster>) -> watch::Receiver<Arc<Cluster>> {
        watchers.watch(&now.id, || Some(Arc::clone(now))).unwrap()
    }

    fn channels(watchers: &Watchers) -> usize {
        watchers.lock().channels.len()
    }

    #[test]
    fn a_follower_sees_only_ever_later_states() {
        let watchers = Watchers::default();
        let mut receiver = watch(&watchers, &cluster(1, 4));
        watchers.publish([&cluster(1, 3), &cluster(1, 4), &cluster(2, 9)]);
        assert!(!receiver.has_changed().unwrap());
        watchers.publish([&cluster(1, 6), &cluster(1, 5)]);
        assert!(receiver.has_changed().unwrap());
        assert_eq!(receiver.borrow_and_update().revision, 6);
    }

    #[test]
    fn a_second_follower_shares_the_channel_and_a_late_one_starts_afresh() {
        let watchers = Watchers::default();
        let first = watch(&watchers, &cluster(1, 4));
        // The channel knows; the state isn't asked again.
        let second = watchers.watch(&first.borrow().id, || None).unwrap();
        assert_eq!((channels(&watchers), second.borrow().revision), (1, 4));
        drop((first, second));
        // What nobody followed was not published, so the old channel's state is stale.
        let third = watch(&watchers, &cluster(1, 8));
        assert_eq!((channels(&watchers), third.borrow().revision), (1, 8));
    }

    #[test]
    fn another_owner_is_seen_by_whoever_comes_next_and_told_to_nobody() {
        let watchers = Watchers::default();
        let first = watch(&watchers, &cluster(1, 4));
        let owned = |revision| {
            let owner = Some(Fingerprint::from_bytes([7; 32]));
            Arc::new(Cluster { owner, ..Cluster::clone(&cluster(1, revision)) })
        };
        watchers.amend(&owned(3));
        assert_eq!(
            watch(&watchers, &cluster(1, 4)).borrow().owner,
            None,
            "older than what is known"
        );
        watchers.amend(&owned(4));
        assert!(!first.has_changed().unwrap());
        let late = watch(&watchers, &cluster(1, 4));
        assert_eq!(late.borrow().owner, owned(4).owner);
    }

    #[test]
    fn an_unknown_cluster_leaves_nothing_behind() {
        let watchers = Watchers::default();
        assert!(watchers.watch(&cluster(1, 0).id, || None).is_none());
        assert_eq!(channels(&watchers), 0);
    }

    #[test]
    fn a_change_drops_a_channel_that_nobody_follows() {
        let watchers = Watchers::default();
        drop(watch(&watchers, &cluster(1, 0)));
        watchers.publish([&cluster(1, 1)]);
        assert_eq!(channels(&watchers), 0);
    }

    #[test]
    fn channels_stay_in_proportion_to_followers_even_if_nothing_changes() {
        let watchers = Watchers::default();
        let kept: Vec<_> = (0..100).map(|n| watch(&watchers, &cluster(n, 0))).collect();
        for n in 100..100_000 {
            drop(watch(&watchers, &cluster(n, 0)));
            assert!(channels(&watchers) <= 2 * kept.len() + SWEEP_MIN);
        }
        drop(kept);
        for n in 0..1000 {
            drop(watch(&watchers, &cluster(n, 0)));
        }
        assert!(channels(&watchers) <= SWEEP_MIN);
    }

    #[test]
    fn the_end_reaches_every_follower() {
        let watchers = Watchers::default();
        let receiver = watch(&watchers, &cluster(1, 0));
        watchers.end();
        assert!(receiver.has_changed().is_err());
        assert!(watchers.watch(&cluster(1, 0).id, || Some(cluster(1, 0))).is_none());
    }
}
