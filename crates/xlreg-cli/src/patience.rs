//! Trying again: waiting for a registry that is not there yet, since members and their registry often
//! start together, or not any more; and the pauses of whoever else tries.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use xlreg::{Error, Registry};

use crate::{exit, output};

/// The first and the longest pause before the next try.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pauses between tries, each twice as long as the one before it, up to a bound.
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
}

impl Pauses {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// How long to wait before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }
}

/// How often in a row somebody may hang up on us before that is told: so does a registry that stops, but
/// one, too, that these credentials are not for.
const HANG_UPS_MAX: u32 = 3;

/// Tries again and again for as long as the registry can't be reached, or is lost amid the attempt, until
/// `at_most` is over. Says so once, on stderr, when it begins to wait.
///
/// # Errors
/// Those of the last try.
pub(crate) async fn until_reached<T>(
    at_most: Duration,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + at_most;
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    let (mut told, mut hang_ups) = (false, 0);
    loop {
        let error = match attempt().await {
            Err(error) => error,
            done => return done,
        };
        let Some(asked) = error.downcast_ref().and_then(may_pass) else { return Err(error) };
        let is_hang_up = matches!(error.downcast_ref(), Some(Error::HungUp { .. }));
        hang_ups = if is_hang_up { hang_ups + 1 } else { 0 };
        let pause = pauses.next().max(asked);
        if hang_ups > HANG_UPS_MAX || Instant::now() + pause >= end {
            return Err(error);
        }
        if !std::mem::replace(&mut told, true) {
            let left = humantime::format_duration(at_most);
            let error = exit::message(&error);
            output::note(&format!("xlreg: {error}; trying again for up to {left}"));
        }
        sleep(pause).await;
    }
}

/// The registry, which says so on stderr each time that it falls silent while it is waited for.
pub(crate) fn saying_so(registry: Registry) -> Registry {
    registry.with_listener(|error| output::note(&format!("xlreg: trying again: {error}")))
}

/// How long the registry asks to be left alone, if the same may go well after that.
fn may_pass(error: &Error) -> Option<Duration> {
    let is_final = match error {
        // The time for an answer was all there is.
        Error::NoAnswer { .. } => true,
        // Over the old wire; original servers end when they are asked for what they don't know.
        Error::Lost { request, .. } => matches!(*request, "Member" | "Join"),
        error => !error.is_transient(),
    };
    (!is_final).then(|| error.retry_after().unwrap_or_default())
}
