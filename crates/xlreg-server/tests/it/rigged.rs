//! An engine that behaves as a test wants it to.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use xlreg_core::limits::Limits;
use xlreg_core::registry::Counts;
use xlreg_core::{Cluster, ClusterId, ClusterKey, Command, Outcome};
use xlreg_store::{Answer, ApplyError, Engine, LocalEngine, StoreError};

/// What becomes of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They are carried out.
    Well,
    /// The first one fails, and with it the store.
    Failing,
    /// They are never answered.
    Stuck,
}

/// An engine of that mood, which tells when it is asked for news or given a command.
pub(crate) struct Rigged {
    inner: LocalEngine,
    mood: Mood,
    failed: Notify,
    pub(crate) asked: Notify,
}

impl Rigged {
    pub(crate) fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            inner: LocalEngine::in_memory(Limits::default()),
            mood,
            failed: Notify::new(),
            asked: Notify::new(),
        })
    }
}

fn failure() -> Arc<StoreError> {
    Arc::new(StoreError::WriterGone)
}

impl Engine for Rigged {
    fn apply(&self, command: Command) -> Answer<'_, Result<Outcome, ApplyError>> {
        match self.mood {
            Mood::Well => self.inner.apply(command),
            Mood::Failing => {
                self.failed.notify_one();
                Box::pin(async { Err(ApplyError::Failed(failure())) })
            }
            Mood::Stuck => {
                self.asked.notify_one();
                Box::pin(pending())
            }
        }
    }

    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>> {
        self.inner.find(key)
    }

    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>> {
        self.asked.notify_one();
        self.inner.watch(id)
    }

    fn counts(&self) -> Counts {
        self.inner.counts()
    }

    fn failure(&self) -> Answer<'_, Arc<StoreError>> {
        Box::pin(async {
            self.failed.notified().await;
            failure()
        })
    }

    fn close(&self) -> Answer<'_, Result<(), Arc<StoreError>>> {
        self.inner.close()
    }
}
