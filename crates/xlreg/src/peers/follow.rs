//! A roster kept current, for as long as anybody goes by it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};
use xlreg_core::ClusterKey;

use super::known::Known;
use crate::error::Error;
use crate::following::{News, Watch};
use crate::identity::Identity;
use crate::pause::Pause;
use crate::registry::Registry;

/// Who follows which cluster, and for whom.
pub(super) struct Follow {
    pub(super) registry: Registry,
    /// By its ID: a cluster that has the same name later is another one.
    pub(super) cluster: ClusterKey,
    pub(super) known: Arc<Known>,
    pub(super) ended: Arc<Ended>,
}

/// Why a roster is followed no more.
#[derive(Debug, Default)]
pub(super) struct Ended(Mutex<Option<String>>);

impl Ended {
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

impl Follow {
    /// Follows as whoever we are, which changes when our keys do, until nobody can change them any
    /// more: that is when the last of those who go by the roster is gone.
    pub(super) async fn run(self, first: Watch, mut identities: watch::Receiver<Identity>) {
        let mut watch = Some(first);
        loop {
            let identity = identities.borrow_and_update().clone();
            let why = tokio::select! {
                why = self.follow(&identity, watch.take()) => why,
                changed = identities.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            warn!(cluster = %self.cluster, %why, "the roster is followed no more, and stays as it is");
            self.ended.set(Some(why.to_string()));
            if identities.changed().await.is_err() {
                return;
            }
            self.ended.set(None);
        }
    }

    /// Follows for as long as there is hope, and returns why there is none any more.
    async fn follow(&self, identity: &Identity, watch: Option<Watch>) -> Error {
        let mut watch = match watch {
            Some(watch) => watch,
            None => match self.begin(identity).await {
                Ok(watch) => watch,
                Err(error) => return error,
            },
        };
        loop {
            match watch.next().await {
                // What members come and go does not change after the end.
                Ok(News::Gone(_)) => {}
                Ok(_) => self.known.update(&watch.roster()),
                Err(error) => return error,
            }
        }
    }

    async fn begin(&self, identity: &Identity) -> Result<Watch, Error> {
        let mut pause = Pause::default();
        loop {
            match self.registry.watch(identity, &self.cluster).await {
                Err(error) if error.is_transient() => {
                    debug!(%error, "following again later");
                    sleep(pause.next()).await;
                }
                begun => return begun,
            }
        }
    }
}
