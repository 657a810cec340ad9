//! The registry on one machine.

use std::fmt;
use std::future;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use xlreg_core::limits::Limits;
use xlreg_core::registry::{Counts, View};
use xlreg_core::{Cluster, ClusterId, ClusterKey, Command, NodeId, Outcome, Registry};

use crate::journal::{self, Journal};
use crate::shared::{Phase, Shared};
use crate::writer::Queue;
use crate::{Answer, ApplyError, Engine, StoreError};

/// A registry kept in this process's memory, and, if it is durable, in a directory.
///
/// Reads never wait for the disk: they see the committed state. Commands that change nothing are
/// answered from it at once; the others share commits.
///
/// Dropping an engine that was not closed waits for the commit under way and for those queued, on
/// the spot. Better [`Engine::close`] it first.
pub struct LocalEngine {
    shared: Arc<Shared>,
    /// The way to what makes changes durable; none if nothing does.
    queue: Option<Queue>,
}

impl LocalEngine {
    /// An empty registry that is gone with the process.
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared::new(Registry::new(limits))), queue: None }
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
        let (journal, state) = Journal::open(dir, registry, limits)?;
        let shared = Arc::new(Shared::new(state));
        let queue = Some(Queue::start(Arc::clone(&shared), journal)?);
        Ok(Self { shared, queue })
    }

    /// Whether `dir` holds a registry's memory, or any part of it, usable or not.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        journal::files(dir).iter().any(|file| file.exists())
    }

    async fn run(&self, command: Command) -> Result<Outcome, ApplyError> {
        self.shared.check()?;
        let Some(queue) = &self.queue else {
            return Ok(self.shared.run(&command)?);
        };
        // Refusals and news that is none need no writer. What they rest on is durable.
        let decision = self.shared.decide(&command)?;
        if decision.change.is_none() {
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
        let found = self.shared.check().and_then(|()| Ok(self.shared.registry().find(key)?));
        Box::pin(future::ready(found))
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
