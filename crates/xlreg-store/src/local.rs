//! The registry on one machine.

use std::collections::BTreeSet;
use std::fmt;
use std::future;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use xlreg_core::limits::Limits;
use xlreg_core::registry::{Counts, View};
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Command, Fingerprint, NodeId, Outcome, Refusal, Registry, Time,
};

use crate::engine::{Listing, Node};
use crate::journal::{self, Journal};
use crate::shared::{Phase, Shared};
use crate::writer::Queue;
use crate::{Answer, ApplyError, Clock, Engine, StoreError};

/// A registry kept in this process's memory, and, if it is durable, in a directory.
///
/// Reads never wait for the disk: they see the committed state. Commands that change nothing are
/// answered from it at once; the others share commits.
///
/// Dropping an engine that was not closed waits for the commit under way and for those queued, on
/// the spot. Better [`Engine::close`] it first.
pub struct LocalEngine {
    shared: Arc<Shared>,
    clock: Clock,
    /// The way to what makes changes durable; none if nothing does.
    queue: Option<Queue>,
}

impl LocalEngine {
    /// An empty registry that is gone with the process.
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        let clock = Clock::system();
        Self {
            shared: Arc::new(Shared::new(Registry::new(limits), clock.clone())),
            clock,
            queue: None,
        }
    }

    /// The same, with time told by `clock`.
    #[must_use]
    pub fn in_memory_by(clock: Clock, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared::new(Registry::new(limits), clock.clone())),
            clock,
            queue: None,
        }
    }

    /// The registry with the ID `registry` that is kept in the directory `dir`, which is made if it
    /// is not there.
    ///
    /// Reads everything, so it takes a while if there is much, and blocks its thread. From then on
    /// this process alone has the directory, until the engine is closed or dropped.
    ///
    /// # Errors
    /// A [`StoreError`] that says what to do. A file that is damaged or not ours is never touched.
    pub fn open(dir: &Path, registry: NodeId, limits: Limits) -> Result<Self, StoreError> {
        Self::open_by(Clock::system(), dir, registry, limits)
    }

    /// The same, with time told by `clock`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_by(
        clock: Clock,
        dir: &Path,
        registry: NodeId,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let (journal, state) = Journal::open(dir, registry, limits, clock.now())?;
        let shared = Arc::new(Shared::new(state, clock.clone()));
        let queue = Some(Queue::start(Arc::clone(&shared), journal)?);
        Ok(Self { shared, clock, queue })
    }

    /// A durable registry over another ledger than a file, and its writer's life, for the owner to
    /// run.
    #[cfg(feature = "simulation")]
    pub(crate) fn over(
        ledger: impl crate::ledger::Ledger,
        state: Registry,
        clock: Clock,
        flaw: Option<crate::simulation::Flaw>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let shared = Arc::new(Shared::new(state, clock.clone()).with(flaw));
        let (queue, life) = Queue::threadless(Arc::clone(&shared), ledger);
        (Self { shared, clock, queue: Some(queue) }, life)
    }

    /// Whether `dir` holds a registry's memory, or any part of it, usable or not.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        journal::files(dir).iter().any(|file| file.exists())
    }

    /// What is committed, unless the engine serves no more.
    fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> Result<T, ApplyError> {
        self.shared.check()?;
        Ok(read(&self.shared.registry()))
    }

    async fn run(&self, command: Command) -> Result<Outcome, ApplyError> {
        self.shared.check()?;
        let Some(queue) = &self.queue else {
            return Ok(self.shared.run(&command)?);
        };
        // Refusals and news that is none need no writer. What they rest on is durable.
        let decision = self.shared.decide(&command)?;
        if decision.changes.is_empty() {
            return Ok(decision.outcome);
        }
        match queue.submit(command).await {
            Some(answer) => answer,
            None => Err(self.shared.ended()),
        }
    }
}

impl Engine for LocalEngine {
    fn apply(&self, command: Command) -> Answer<'_, Result<Outcome, ApplyError>> {
        Box::pin(self.run(command))
    }

    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>> {
        let found = self.read(|registry| {
            let cluster = registry.find(key)?;
            let over = cluster.is_over(self.clock.now());
            if over { Err(Refusal::unknown(key).into()) } else { Ok(cluster) }
        });
        Box::pin(future::ready(found.flatten()))
    }

    fn node(&self, sig_key: &Fingerprint) -> Answer<'_, Result<Node, ApplyError>> {
        let node = self.read(|registry| {
            let record = registry.key(sig_key);
            let ids: Vec<_> = record.ids().collect();
            let bound = |id: &NodeId| Some((*id, registry.comms_key(id)?));
            let comms_keys = ids.iter().filter_map(bound).collect();
            Node { ids, retired: record.is_retired(), comms_keys }
        });
        Box::pin(future::ready(node))
    }

    fn list(&self, listing: &Listing) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        let now = self.clock.now();
        let page = self.read(|registry| {
            let after = listing.after.as_ref();
            let live = |cluster: &&Arc<Cluster>| !cluster.is_over(now);
            let Some(key) = &listing.of else {
                return registry.by_name(after).filter(live).take(listing.max).cloned().collect();
            };
            let record = registry.key(key);
            let ids: BTreeSet<_> = record.owned().iter().chain(record.joined()).collect();
            let own = ids.into_iter().filter_map(|id| registry.cluster(id));
            let mut own: Vec<_> = own
                .filter(|cluster| live(&cluster) && after.is_none_or(|after| cluster.name > *after))
                .collect();
            own.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            own.truncate(listing.max);
            own
        });
        Box::pin(future::ready(page))
    }

    fn with_owner(&self) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        let all = self.read(|registry| registry.with_owner().cloned().collect());
        Box::pin(future::ready(all))
    }

    fn is_watched(&self, id: &ClusterId) -> bool {
        self.shared.is_watched(id)
    }

    fn next_deadline(&self) -> watch::Receiver<Option<(Time, ClusterId)>> {
        self.shared.next_deadline()
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>> {
        self.shared.watch(id)
    }

    fn counts(&self) -> Counts {
        self.shared.registry().counts()
    }

    fn failure(&self) -> Answer<'_, Arc<StoreError>> {
        Box::pin(async {
            match self.shared.ended_as(Phase::is_failed).await {
                Some(error) => error,
                // The phase lives as long as the engine that lent us this future.
                None => future::pending().await,
            }
        })
    }

    fn close(&self) -> Answer<'_, Result<(), Arc<StoreError>>> {
        self.shared.close(self.queue.is_some());
        Box::pin(async {
            match self.shared.ended_as(Phase::is_end).await {
                Some(error) => Err(error),
                None => Ok(()),
            }
        })
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.shared.close(self.queue.is_some());
        if let Some(queue) = &mut self.queue {
            queue.join();
        }
    }
}

impl fmt::Debug for LocalEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEngine")
            .field("durable", &self.queue.is_some())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
