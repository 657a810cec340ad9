//! From programs that have started to programs that are up: joined, if they do that by themselves,
//! and ready, if somebody wants to know.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use xlreg::{ClusterKey, Error, Name};
use xlreg_launch::Check;

use super::console::Console;
use super::form::{self, Formed};
use super::plan::Plan;
use crate::exit::{Code, Ending};
use crate::output;

/// From programs that start to programs that are up.
pub(super) struct GettingUp<'a> {
    pub(super) plan: &'a Plan,
    pub(super) checks: &'a [Arc<Check>],
    pub(super) console: &'a Console,
    /// Cancelled when all programs have started.
    pub(super) up: &'a CancellationToken,
    /// To be cancelled when all is up.
    pub(super) all_up: &'a CancellationToken,
    pub(super) began: Instant,
}

impl GettingUp<'_> {
    /// Tells when all is up, and then never returns; or why it can't get up.
    pub(super) async fn and_stay(self, formed: &Formed) -> anyhow::Error {
        if let Err(error) = self.tell_when_up(formed).await {
            return error;
        }
        self.all_up.cancel();
        // Only now: before, the cores had better things to do.
        let _refilling = formed.refill.as_ref().map(|(pool, target)| {
            // A pool that can't be filled costs the next run time, and this one nothing.
            pool.refill_in_background(*target).ok()
        });
        std::future::pending().await
    }

    async fn tell_when_up(&self, formed: &Formed) -> anyhow::Result<()> {
        self.up.cancelled().await;
        let Plan { cluster, size, .. } = self.plan;
        let (took, keys) = (output::took(self.began.elapsed()), output::took(formed.keys));
        let note = format!("{cluster}: {size} members in {took}, of that {keys} for keys");
        self.console.note(note).await;
        if formed.gate.is_some() {
            self.wait_for_joins(formed).await?;
        }
        if !self.checks.is_empty() {
            let began = Instant::now();
            self.wait_until_ready(formed).await?;
            let took = output::took(began.elapsed());
            self.console.note(format!("{cluster}: all ready after {took}")).await;
        }
        if self.plan.detach {
            let id = self.run_id();
            let next = format!("next: xlreg ps {id}; xlreg logs -f -c {id}; xlreg down {id}");
            self.console.note(next).await;
            self.console.flush().await;
            output::line(&id)?;
        }
        Ok(())
    }

    /// The name of the run's directory, which is how others call it.
    fn run_id(&self) -> String {
        let dir = self.plan.run_dir.as_deref().and_then(Path::file_name);
        dir.map_or_else(|| self.plan.cluster.to_string(), |id| id.to_string_lossy().into_owned())
    }

    /// Waits until the programs have joined by themselves.
    async fn wait_for_joins(&self, formed: &Formed) -> anyhow::Result<()> {
        let Some(gate) = &formed.gate else { return Ok(()) };
        let key = ClusterKey::Name(self.plan.cluster.clone());
        let joined = gate.registry.wait(&gate.onlooker, &key, self.plan.timeout).await;
        joined.map_err(|error| match error {
            Error::Incomplete(incomplete) => {
                let missing = formed.members.iter().map(|member| &member.name);
                let missing = missing.filter(|name| !incomplete.joined.contains(name));
                let missing: Vec<_> = missing.map(Name::as_str).collect();
                let message = format!(
                    "{incomplete}; missing: {}, whose programs run but have not joined; do they \
                     join $XLREG_CLUSTER at $XLREG_REGISTRY as $XLREG_IDENTITY? or allow more with \
                     --timeout",
                    missing.join(", ")
                );
                Ending::new(Code::Incomplete, message).into()
            }
            error => anyhow::Error::from(error).context("watching the programs join"),
        })?;
        let home = self.plan.home().context("a worker without its run's directory")?;
        let key = ClusterKey::Name(self.plan.cluster.clone());
        form::keep_signed(&gate.registry, &gate.onlooker, key, home).await?;
        let took = output::took(self.began.elapsed());
        self.console.note(format!("{}: all joined after {took}", self.plan.cluster)).await;
        Ok(())
    }

    async fn wait_until_ready(&self, formed: &Formed) -> anyhow::Result<()> {
        let mut waiting = JoinSet::new();
        for (rank, check) in self.checks.iter().map(Arc::clone).enumerate() {
            waiting.spawn(async move {
                check.wait().await;
                rank
            });
        }
        let mut ready = HashSet::new();
        let all = async {
            while let Some(rank) = waiting.join_next().await {
                ready.extend(rank);
            }
        };
        if timeout(self.plan.timeout, all).await.is_ok() {
            return Ok(());
        }
        let members = formed.members.iter().zip(self.checks).enumerate();
        let late = members.filter(|(rank, _)| !ready.contains(rank));
        let late = late.map(|(_, (member, check))| format!("{}: {}", member.name, check.trouble()));
        let message = format!(
            "{} of {} programs are ready after {:.1} s; not ready: {}; allow more with --timeout",
            ready.len(),
            self.checks.len(),
            self.plan.timeout.as_secs_f64(),
            late.collect::<Vec<_>>().join("; ")
        );
        Err(Ending::new(Code::Incomplete, message).into())
    }
}
