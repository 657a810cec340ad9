//! Ending clusters whose time is over: by the clock, for want of use, or with their owner.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};
use xlreg_core::registry::{Because, Command, Outcome};
use xlreg_core::{ClusterId, Fingerprint, Time};
use xlreg_store::engine::Listing;
use xlreg_store::{ApplyError, Clock, Engine};

use crate::tally::{Place, Tally};

/// Who is connected over the modern door, and since when somebody is not any more.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    connections: Tally<Fingerprint>,
    departures: Arc<Departures>,
    /// Keys whose leaving ends clusters.
    tethers: Arc<Mutex<HashSet<Fingerprint>>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Departures {
    /// Keys whose last connection ended, and when.
    since: Mutex<HashMap<Fingerprint, Time>>,
    /// Told when there is one more.
    news: Notify,
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct Present {
    presence: Presence,
    key: Fingerprint,
    place: Option<Place<Fingerprint>>,
}

impl Presence {
    pub(crate) fn new(clock: Clock) -> Self {
        let (connections, departures) = (Tally::default(), Arc::default());
        Self { connections, departures, tethers: Arc::default(), clock }
    }

    /// Notes whose leaving ends clusters from now on, after what `by` has done.
    pub(crate) fn note(&self, by: Fingerprint, outcome: &Outcome) {
        match outcome {
            Outcome::Created { cluster, new: true } if cluster.life.with_owner => self.tether(by),
            Outcome::Rotated { sig_key, .. } if self.is_tethered(&by) => self.tether(*sig_key),
            _ => {}
        }
    }

    /// From now on, clusters may end when `key` leaves; or has left already.
    fn tether(&self, key: Fingerprint) {
        lock(&self.tethers).insert(key);
        self.depart(key);
    }

    /// Whether clusters may end when `key` leaves.
    fn is_tethered(&self, key: &Fingerprint) -> bool {
        lock(&self.tethers).contains(key)
    }

    fn is_here(&self, key: &Fingerprint) -> bool {
        self.connections.of(key) > 0
    }

    /// Counts a connection of `key`, unless it has `max` already.
    pub(crate) fn arrive(&self, key: Fingerprint, max: usize) -> Option<Present> {
        let place = self.connections.take(key, max)?;
        lock(&self.departures.since).remove(&key);
        Some(Present { presence: self.clone(), key, place: Some(place) })
    }

    /// Notes that `key` has no connection, unless it has, or nothing depends on it.
    fn depart(&self, key: Fingerprint) {
        if !self.is_tethered(&key) {
            return;
        }
        let mut since = lock(&self.departures.since);
        if !self.is_here(&key) {
            since.insert(key, self.clock.now());
            drop(since);
            self.departures.news.notify_one();
        }
    }

    /// Who left first, and when.
    fn first_departure(&self) -> Option<(Fingerprint, Time)> {
        let since = lock(&self.departures.since);
        since.iter().map(|(key, since)| (*key, *since)).min_by_key(|(key, since)| (*since, *key))
    }

    /// Forgets that `key` left at `since`. False if it has come back meanwhile.
    fn settle(&self, key: &Fingerprint, since: Time) -> bool {
        let mut departures = lock(&self.departures.since);
        let still = departures.get(key) == Some(&since);
        if still {
            departures.remove(key);
            lock(&self.tethers).remove(key);
        }
        still
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Present {
    fn drop(&mut self) {
        self.place = None;
        self.presence.depart(self.key);
    }
}

/// What is due next.
enum Due {
    Cluster(Time, ClusterId),
    Owner(Time, Fingerprint),
}

/// Ends clusters, each when its time has come, until the engine serves no more.
pub(crate) async fn run(engine: Arc<dyn Engine>, presence: Presence, grace: Duration) {
    let clock = engine.clock().clone();
    let mut deadline = engine.next_deadline();
    // Who owns such a cluster and was connected before we started has to come back, too.
    if let Ok(clusters) = engine.with_owner().await {
        let owners = clusters.iter().filter_map(|cluster| cluster.owner);
        owners.for_each(|owner| presence.tether(owner));
    }
    loop {
        let cluster = deadline.borrow_and_update().map(|(at, id)| Due::Cluster(at, id));
        let owner = presence.first_departure().map(|(key, since)| Due::Owner(since, key));
        let at = |due: &Due| match due {
            Due::Cluster(at, _) => *at,
            Due::Owner(since, _) => since.after(grace),
        };
        let next = [cluster, owner].into_iter().flatten().min_by_key(at);
        let reached = async {
            match &next {
                Some(due) => clock.reach(at(due)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What is due goes first: no stream of news puts it off.
            biased;
            () = reached => {
                let ended = match next {
                    Some(Due::Cluster(_, id)) => expire(&*engine, id).await,
                    Some(Due::Owner(since, key)) => {
                        if !presence.settle(&key, since) {
                            continue;
                        }
                        end_with(&*engine, &presence, key).await
                    }
                    None => Ok(()),
                };
                if let Err(error) = ended {
                    // A closing engine; one that failed has told the server already.
                    warn!(%error, "clusters expire no more");
                    return;
                }
            }
            changed = deadline.changed() => if changed.is_err() { return },
            () = presence.departures.news.notified() => {}
        }
    }
}

/// Ends a cluster whose time is over. One that has been idle for too long, but is watched, goes on.
async fn expire(engine: &dyn Engine, id: ClusterId) -> Result<(), ApplyError> {
    end(engine, id, Because::Time).await?;
    if engine.is_watched(&id) {
        engine.apply(Command::Touch { cluster: id }).await.map(drop)
    } else {
        end(engine, id, Because::Idle).await
    }
}

/// Ends the clusters that were to live as long as this owner is there, unless it comes back amid.
async fn end_with(
    engine: &dyn Engine,
    presence: &Presence,
    owner: Fingerprint,
) -> Result<(), ApplyError> {
    let own = Listing { of: Some(owner), after: None, max: usize::MAX };
    for cluster in engine.list(&own).await? {
        if cluster.life.with_owner && cluster.owner == Some(owner) {
            if presence.is_here(&owner) {
                presence.tether(owner);
                return Ok(());
            }
            end(engine, cluster.id, Because::OwnerGone).await?;
        }
    }
    Ok(())
}

async fn end(engine: &dyn Engine, cluster: ClusterId, because: Because) -> Result<(), ApplyError> {
    if let Outcome::Ended(cluster) = engine.apply(Command::Expire { cluster, because }).await? {
        info!(cluster = %cluster.name, id = %cluster.id, ?because, "cluster expired");
    }
    Ok(())
}
