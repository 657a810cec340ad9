//! The seam between those who ask the registry and whatever keeps it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use xlreg_core::registry::Counts;
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Command, Fingerprint, Name, NodeId, Outcome, PublicKey,
    Refusal, Time,
};

use crate::{Clock, StoreError};

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

    /// The cluster as of now: it shows every write that was answered before the call. One whose time
    /// is over is not there any more.
    ///
    /// # Errors
    /// As [`Engine::apply`]; refused means there is no such cluster.
    fn find(&self, key: &ClusterKey) -> Answer<'_, Result<Arc<Cluster>, ApplyError>>;

    /// Follows one cluster. The receiver holds the current state and is told of each later one; who
    /// is slow sees only the latest, whose [`Events`](xlreg_core::cluster::Events) tell what was
    /// missed. The last state of a cluster that is gone says so. It ends when the engine does.
    ///
    /// `None` if there is no such cluster, or the engine serves no more.
    fn watch(&self, id: &ClusterId) -> Option<watch::Receiver<Arc<Cluster>>>;

    /// What a sig key has; nothing for one that is unknown.
    fn node(&self, sig_key: &Fingerprint) -> Answer<'_, Result<Node, ApplyError>>;

    /// A page of clusters in the order of their names, as of now.
    fn list(&self, listing: &Listing) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>>;

    /// The clusters that live as long as their owner is connected.
    fn with_owner(&self) -> Answer<'_, Result<Vec<Arc<Cluster>>, ApplyError>>;

    /// Whether anybody follows this cluster.
    fn is_watched(&self, id: &ClusterId) -> bool;

    /// The cluster whose time will be over next, and when; told anew whenever that changes.
    fn next_deadline(&self) -> watch::Receiver<Option<(Time, ClusterId)>>;

    /// The clock that commands are decided by.
    fn clock(&self) -> &Clock;

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

/// What a sig key has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its IDs, the latest last.
    pub ids: Vec<NodeId>,
    /// Whether another key has taken its place.
    pub retired: bool,
    /// The comms keys that are bound to its IDs.
    pub comms_keys: HashMap<NodeId, PublicKey>,
}

/// Which clusters to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Only those that this sig key owns or holds a rank in.
    pub of: Option<Fingerprint>,
    /// Only those whose names come after this one.
    pub after: Option<Name>,
    /// So many at most.
    pub max: usize,
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
