//! What happens to the programs, told as far as somebody wants to know.

use std::collections::HashSet;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use xlreg::Name;
use xlreg_launch::supervise::Event;

use super::console::Console;
use super::descendants;
use crate::progress::SharedBar;

/// How long a child's end must have gone unnoticed for it to be an orphan's. Whoever waits for a child
/// notices it within milliseconds.
const REAP_AFTER: Duration = Duration::from_secs(2);

/// What has been told so far.
struct Teller {
    names: Vec<Name>,
    started: HashSet<usize>,
    /// Whether to tell that a program has failed.
    failures: bool,
    /// Cancelled when all have started.
    up: CancellationToken,
    /// Shows how many have, until then.
    bar: SharedBar,
}

/// Tells until nothing happens any more, and meanwhile reaps orphans.
pub(super) async fn tell(
    mut events: mpsc::UnboundedReceiver<Event>,
    names: Vec<Name>,
    failures: bool,
    console: Console,
    up: CancellationToken,
    bar: SharedBar,
) {
    let reaper = tokio::spawn(reap_orphans());
    let mut teller = Teller { names, started: HashSet::new(), failures, up, bar };
    while let Some(event) = events.recv().await {
        if let Some(note) = teller.note(event) {
            teller.bar.put_away();
            console.note(note).await;
        }
    }
    reaper.abort();
}

impl Teller {
    /// What to say of an event, if anything.
    fn note(&mut self, event: Event) -> Option<String> {
        match event {
            Event::Started { rank, .. } => {
                self.started.insert(rank);
                self.bar.set(self.started.len(), self.names.len());
                if self.started.len() == self.names.len() {
                    self.bar.put_away();
                    self.up.cancel();
                }
                None
            }
            Event::Ended { rank, status, expected, .. } => {
                let failed = self.failures && !expected && !status.success();
                failed.then(|| format!("{} failed: {status}", self.name(rank)))
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
        self.names.get(rank).map_or("a program", Name::as_str)
    }
}

/// Reaps what programs have left behind, outside of their process groups, and has ended since.
async fn reap_orphans() {
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
