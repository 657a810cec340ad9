//! A run's cluster at a registry that was there before and stays: looked after while the run lives,
//! and taken away with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use xlreg::{ClusterKey, Error, Identity, Reason, Registry, Wire};
use xlreg_core::Refusal;

use super::plan::Plan;
use crate::output;

/// How long such a cluster outlives a launcher that was killed, or that can't reach the registry:
/// longer than a registry takes to be started again, and not so long that names stay taken.
pub(super) const IDLE: Duration = Duration::from_secs(10 * 60);

/// How long to spend on going. The cluster goes by itself, too, if later.
const GOING: Duration = Duration::from_secs(2);

/// A cluster at somebody else's registry, and all of ours in it.
pub(super) struct Guest {
    registry: Registry,
    cluster: ClusterKey,
    members: Vec<Identity>,
    /// Whether the cluster is wanted again later.
    kept: bool,
    /// Whether it is known that there is something to take away.
    arrived: AtomicBool,
}

impl Guest {
    /// Who `members` are at `registry`; none if that is the run's own, which goes with it, or if it
    /// speaks the old wire only, which has no way to leave.
    pub(super) fn new(plan: &Plan, registry: &Registry, members: Vec<Identity>) -> Option<Self> {
        (plan.registry.is_some() && registry.wire() == Wire::V2).then(|| Self {
            registry: registry.clone(),
            cluster: ClusterKey::Name(plan.cluster.clone()),
            members,
            kept: plan.keep.is_some(),
            arrived: AtomicBool::new(false),
        })
    }

    /// From now on there is something to take away.
    pub(super) fn arrive(&self) {
        self.arrived.store(true, Ordering::Relaxed);
    }

    /// Keeps the cluster from being idle, as long as what comes back lives: a cluster that is
    /// watched is not.
    pub(super) fn stay(&self) -> Option<AbortOnDropHandle<()>> {
        let watcher = self.members.first()?.clone();
        let (registry, cluster) = (self.registry.clone(), self.cluster.clone());
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let Ok(mut watch) = registry.watch(&watcher, &cluster).await else { return };
            // It goes on over restarts of the registry; what it tells is for others.
            while watch.next().await.is_ok() {}
        })))
    }

    /// Takes away the cluster if this run has made it and nobody wants it back; else only ours from
    /// it. Returns what there is to say of that, if it can't be done.
    pub(super) async fn go(&self) -> Option<String> {
        let why = match timeout(GOING, self.take_away()).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it has not answered within {}", output::took(GOING)),
        };
        // Else somebody is told already why nothing came of it.
        if !self.arrived.load(Ordering::Relaxed) {
            return None;
        }
        let later = if self.kept {
            "its members are shown as present until they leave: xlreg leave".to_owned()
        } else {
            let idle = humantime::format_duration(IDLE);
            format!("if this run has made it, it goes by itself after {idle}")
        };
        let cluster = &self.cluster;
        Some(format!("cluster {cluster} is still at the registry: {why}; {later}"))
    }

    async fn take_away(&self) -> Result<(), Error> {
        let Some(owner) = self.members.first() else { return Ok(()) };
        if !self.kept {
            match self.registry.delete(owner, &self.cluster).await {
                // Somebody else has made it, and it stays.
                Err(error) if is(&error, |why| *why == Refusal::NotOwner) => {}
                Err(error) if is(&error, is_unknown) => return Ok(()),
                deleted => return deleted,
            }
        }
        for member in &self.members {
            match self.registry.leave(member, &self.cluster).await {
                Err(error) if is(&error, is_unknown) => return Ok(()),
                Err(error) if is(&error, |why| *why == Refusal::NotAMember) => {}
                left => left?,
            }
        }
        Ok(())
    }
}

fn is(error: &Error, which: impl FnOnce(&Refusal) -> bool) -> bool {
    matches!(error, Error::Refused { reason: Reason::Known(refusal), .. } if which(refusal))
}

fn is_unknown(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::UnknownClusterId | Refusal::UnknownClusterName)
}
