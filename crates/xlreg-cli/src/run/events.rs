//! What happens to the programs, told as far as somebody wants to know.

use std::collections::HashSet;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use xlreg_launch::supervise::Event;

use super::console::Console;
use super::descendants;
use crate::progress::SharedBar;

/// How long a child's end must have gone unnoticed for it to be an orphan's. Whoever waits for a child
/// notices it within milliseconds.
const REAP_AFTER: Duration = Duration::from_secs(2);

/// What to tell, and of whom.
pub(super) struct Teller {
    /// What they are called.
    pub(super) names: Vec<String>,
    /// Whether to tell that one has failed.
    pub(super) failures: bool,
    /// Whether an end by itself is a failure in any case.
    pub(super) lasting: bool,
    /// Cancelled when all have started.
    pub(super) up: CancellationToken,
    /// Shows how many have, until then.
    pub(super) bar: SharedBar,
}

impl Teller {
    /// Tells until nothing happens any more.
    pub(super) async fn tell(self, mut events: mpsc::UnboundedReceiver<Event>, console: Console) {
        let mut started = HashSet::new();
        while let Some(event) = events.recv().await {
            if let Some(note) = self.note(event, &mut started) {
                self.bar.put_away();
                console.note(note).await;
            }
        }
    }

    /// What to say of an event, if anything.
    fn note(&self, event: Event, started: &mut HashSet<usize>) -> Option<String> {
        match event {
            Event::Started { rank, .. } => {
                started.insert(rank);
                self.bar.set(started.len(), self.names.len());
                if started.len() == self.names.len() {
                    self.bar.put_away();
                    self.up.cancel();
                }
                None
            }
            Event::Ended { rank, status, expected, .. } => {
                let failed = !expected && (self.lasting || !status.success());
                (self.failures && failed).then(|| format!("{} failed: {status}", self.name(rank)))
            }
            Event::Restarting { rank, time, after } => {
                let pause = after.as_secs_f64();
                Some(format!("starting {} again in {pause:.1} s ({time})", self.name(rank)))
            }
            Event::Killing { ranks } => {
                let late: Vec<_> = ranks.into_iter().map(|rank| self.name(rank)).collect();
                Some(format!("{} did not stop in time; killing", late.join(", ")))
            }
            _ => None,
        }
    }

    fn name(&self, rank: usize) -> &str {
        self.names.get(rank).map_or("a program", String::as_str)
    }
}

/// Reaps what programs have left behind, outside of their process groups, and has ended since.
pub(super) async fn reap_orphans() {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    while ended.recv().await.is_some() {
        let mut before = HashSet::new();
        loop {
            sleep(REAP_AFTER).await;
            let now = descendants::ended_children();
            for pid in before.intersection(&now) {
                descendants::reap(*pid);
            }
            before = &now - &before;
            if before.is_empty() {
                break;
            }
        }
    }
}
