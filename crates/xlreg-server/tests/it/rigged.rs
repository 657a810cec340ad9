//! An engine that behaves as a test wants it to.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use xlreg_core::limits::Limits;
use xlreg_core::registry::Counts;
use xlreg_core::{Cluster, ClusterId, ClusterKey, Command, Fingerprint, Outcome, Time};
use xlreg_store::engine::{Listing, Node};
use xlreg_store::{Answer, ApplyError, Clock, Engine, LocalEngine, StoreError};

/// What becomes of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They are carried out.
    Well,
    /// The first one fails, and with it the store.
    Failing,
    /// They are never answered.
    Stuck,
    /// They are carried out, and answered when nobody expects it any more.
    Late,
}

/// An engine of that mood, which tells when it is asked for news or given a command.
pub(crate) struct Rigged {
    inner: LocalEngine,
    mood: Mood,
    failed: Notify,
    pub(crate) asked: Notify,
    /// Lets one late answer go.
    pub(crate) answer: Notify,
}

impl Rigged {
    pub(crate) fn new(mood: Mood) -> Arc<Self> {
        Self::by(Clock::system(), mood)
    }

    /// The same, with time told by `clock`.
    pub(crate) fn by(clock: Clock, mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            inner: LocalEngine::in_memory_by(clock, Limits::default()),
            mood,
            failed: Notify::new(),
            asked: Notify::new(),
            answer: Notify::new(),
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
            Mood::Late => Box::pin(async {
                let outcome = self.inner.apply(command).await;
                self.asked.notify_one();
                self.answer.notified().await;
                outcome
            }),
        }
    }

    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>> {
        self.inner.find(key)
    }

    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>> {
        self.asked.notify_one();
        self.inner.watch(id)
    }

    fn node(&self, sig_key: &Fingerprint) -> Answer<'_, Result<Node, ApplyError>> {
        self.inner.node(sig_key)
    }

    fn list(&self, listing: &Listing) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        self.inner.list(listing)
    }

    fn with_owner(&self) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>> {
        self.inner.with_owner()
    }

    fn is_watched(&self, id: &ClusterId) -> bool {
        self.inner.is_watched(id)
    }

    fn next_deadline(&self) -> watch::Receiver<Option<(Time, ClusterId)>> {
        self.inner.next_deadline()
    }

    fn clock(&self) -> &Clock {
        self.inner.clock()
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
