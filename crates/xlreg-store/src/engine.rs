//! The seam between those who ask the registry and whatever keeps it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use xlreg_core::registry::Counts;
use xlreg_core::{Cluster, ClusterId, ClusterKey, Command, Outcome, Refusal};

use crate::StoreError;

/// What an engine will answer; boxed, so that `dyn Engine` works.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A registry that remembers.
///
/// Every method may be called from any task at any time; none blocks its thread on IO.
pub trait Engine: Send + Sync + 'static {
    /// Decides the command, makes its change durable, then answers.
    ///
    /// Dropping the answer does not take the command back: it may be carried out all the same.
    ///
    /// # Errors
    /// [`ApplyError::Refused`] if the rules say no; nothing changed. [`ApplyError::Closed`] if the
    /// engine took no more commands; nothing changed. [`ApplyError::Failed`] if the store failed:
    /// nobody has been told of the change, and whether it was kept shows when the store is opened
    /// again.
    fn apply(&self, command: Command) -> Answer<'_, Result<Outcome, ApplyError>>;

    /// The cluster as of now: it shows every write that was answered before the call.
    ///
    /// # Errors
    /// As [`Engine::apply`]; refused means there is no such cluster.
    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>>;

    /// Follows one cluster. The receiver holds the current state and is told of each later one; who
    /// is slow sees only the latest. It ends when the engine does.
    ///
    /// `None` if there is no such cluster, or the engine serves no more.
    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>>;

    /// How much is remembered.
    fn counts(&self) -> Counts;

    /// Resolves when the engine can no longer keep its promise, say after a failed commit; the
    /// server must stop then. Never resolves otherwise.
    fn failure(&self) -> Answer<'_, Arc<StoreError>>;

    /// Takes no more commands, waits until everything accepted is durable, then closes. Closing
    /// twice is fine; both wait.
    ///
    /// # Errors
    /// What made the engine fail, now or before.
    fn close(&self) -> Answer<'_, Result<(), Arc<StoreError>>>;
}

/// Why a command or a question got no good answer.
#[derive(Clone, Debug, Error)]
pub enum ApplyError {
    /// The rules say no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine is closing or closed.
    #[error("the registry is shutting down")]
    Closed,
    /// The engine failed, and answers nothing any more.
    #[error("the registry's store failed")]
    Failed(#[source] Arc<StoreError>),
}
