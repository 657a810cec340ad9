//! What the engine's callers and its writer share: the committed state, who follows it, and whether
//! the engine still serves.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use xlreg_core::registry::{View, decide};
use xlreg_core::{Change, Cluster, ClusterId, Command, Decision, Outcome, Refusal, Registry, Time};

#[cfg(feature = "simulation")]
use crate::simulation::Flaw;
use crate::watchers::Watchers;
use crate::{ApplyError, Clock, StoreError};

/// Whether the engine serves. It only ever moves down this list.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// It takes commands.
    Open,
    /// It takes no more, and finishes those it has.
    Closing,
    /// All it took is durable, and it holds nothing any more.
    Closed,
    /// It can't keep its promise.
    Failed(Arc<StoreError>),
}

impl Phase {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Closed | Self::Failed(_))
    }
}

pub(crate) struct Shared {
    /// What is durable, and nothing else. Held briefly: never across an await, a commit or a wait
    /// for another lock.
    registry: RwLock<Registry>,
    watchers: Watchers,
    /// The cluster whose time will be over next.
    deadline: watch::Sender<Option<(Time, ClusterId)>>,
    clock: Clock,
    phase: watch::Sender<Phase>,
    #[cfg(feature = "simulation")]
    flaw: Option<Flaw>,
}

impl Shared {
    pub(crate) fn new(registry: Registry, clock: Clock) -> Self {
        Self {
            deadline: watch::Sender::new(registry.next_deadline()),
            clock,
            registry: RwLock::new(registry),
            watchers: Watchers::default(),
            phase: watch::Sender::new(Phase::Open),
            #[cfg(feature = "simulation")]
            flaw: None,
        }
    }

    /// The same, with a flaw.
    #[cfg(feature = "simulation")]
    pub(crate) fn with(self, flaw: Option<Flaw>) -> Self {
        Self { flaw, ..self }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// The committed state, for as long as the guard is held.
    pub(crate) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        // Only a panic in the writer while it applies changes could poison the lock; that fails
        // the engine, and then nobody comes here.
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn decide(&self, command: &Command) -> Result<Decision, Refusal> {
        decide(command, self.clock.now(), &*self.registry())
    }

    /// Applies changes that are durable, and tells those who follow them.
    pub(crate) fn commit<'c>(&self, changes: impl IntoIterator<Item = &'c Change> + Clone) {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes.clone() {
            registry.apply(change);
        }
        self.settle(registry);
        self.publish(changes);
    }

    /// Lets the state be read again, and tells what its next deadline is.
    fn settle(&self, registry: RwLockWriteGuard<'_, Registry>) {
        let next = registry.next_deadline();
        // Under the lock, so that what is told last is what is true.
        self.deadline.send_if_modified(|known| std::mem::replace(known, next) != next);
        drop(registry);
    }

    /// Decides and applies in one step, for an engine that keeps nothing else.
    pub(crate) fn run(&self, command: &Command) -> Result<Outcome, Refusal> {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        let Decision { outcome, changes } = decide(command, self.clock.now(), &*registry)?;
        for change in &changes {
            registry.apply(change);
        }
        self.settle(registry);
        self.publish(&changes);
        Ok(outcome)
    }

    fn publish<'c>(&self, changes: impl IntoIterator<Item = &'c Change> + Clone) {
        let rosters = changes.clone().into_iter().filter_map(|change| match change {
            Change::Seat { cluster, .. } | Change::Gone(cluster) => Some(cluster),
            _ => None,
        });
        self.watchers.publish(rosters);
        for change in changes {
            if let Change::Terms { cluster, .. } = change {
                self.watchers.amend(cluster);
            }
        }
    }

    pub(crate) fn is_watched(&self, id: &ClusterId) -> bool {
        self.watchers.is_watched(id)
    }

    pub(crate) fn next_deadline(&self) -> watch::Receiver<Option<(Time, ClusterId)>> {
        self.deadline.subscribe()
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>> {
        self.watchers.watch(id, || self.registry().cluster(id))
    }

    /// # Errors
    /// What a caller is told if the engine serves no more.
    pub(crate) fn check(&self) -> Result<(), ApplyError> {
        match &*self.phase.borrow() {
            Phase::Open => Ok(()),
            Phase::Closing | Phase::Closed => Err(ApplyError::Closed),
            Phase::Failed(error) => Err(ApplyError::Failed(Arc::clone(error))),
        }
    }

    /// Why the writer answers no more.
    pub(crate) fn ended(&self) -> ApplyError {
        match self.check() {
            Err(error) => error,
            // An open engine whose writer is gone: its thread is about to fail it, too.
            Ok(()) => ApplyError::Failed(Arc::new(StoreError::WriterGone)),
        }
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits for a phase, and tells the error if that is it.
    pub(crate) async fn ended_as(&self, wanted: fn(&Phase) -> bool) -> Option<Arc<StoreError>> {
        match self.phase().wait_for(wanted).await.as_deref() {
            Ok(Phase::Failed(error)) => Some(Arc::clone(error)),
            _ => None,
        }
    }

    /// Asks the writer to finish; without one there is nothing to finish.
    pub(crate) fn close(&self, has_writer: bool) {
        self.phase.send_if_modified(|phase| {
            let open = phase.is_open();
            if open {
                *phase = Phase::Closing;
            }
            open
        });
        if !has_writer {
            self.closed();
        }
    }

    pub(crate) fn closed(&self) {
        self.end(Phase::Closed);
    }

    pub(crate) fn fail(&self, error: StoreError) {
        self.end(Phase::Failed(Arc::new(error)));
    }

    /// The first end is the one that counts.
    fn end(&self, end: Phase) {
        self.phase.send_if_modified(|phase| {
            let first = !phase.is_end();
            if first {
                *phase = end;
            }
            first
        });
        self.watchers.end();
    }
}
