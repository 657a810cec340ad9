//! What serving takes from its surroundings besides sockets and time: chance, and tasks that run by
//! themselves. In a simulation both come from its seed.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use xlreg_proto::keys::random;

/// Fills bytes at random.
pub(crate) type Fill = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Runs a task.
pub(crate) type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// Chance and tasks; the operating system's and tokio's, unless it is said otherwise. What keeps
/// sessions secret is drawn elsewhere, and never comes from here.
#[derive(Clone, Default)]
pub(crate) struct Surroundings(Option<(Fill, Spawn)>);

impl Surroundings {
    #[cfg(feature = "simulation")]
    pub(crate) fn new(fill: Fill, spawn: Spawn) -> Self {
        Self(Some((fill, spawn)))
    }

    /// Random bytes, for what the registry issues.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let Some((fill, _)) = &self.0 else { return random() };
        let mut bytes = [0; N];
        fill(&mut bytes);
        bytes
    }

    /// Runs a task until it ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            Some((_, spawn)) => spawn(Box::pin(task)),
            None => drop(tokio::spawn(task)),
        }
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Surroundings(simulated)" } else { "Surroundings" })
    }
}
