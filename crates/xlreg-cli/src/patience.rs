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

/// Tries again and again for as long as the registry can't be reached, until `at_most` is over. Says so
/// once, on stderr, when it begins to wait.
///
/// # Errors
/// Those of the last try.
pub(crate) async fn until_reached<T>(
    at_most: Duration,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + at_most;
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let error = match attempt().await {
            Err(error) if is_unreachable(&error) => error,
            done => return done,
        };
        let pause = pauses.next();
        if Instant::now() + pause >= end {
            return Err(error);
        }
        if pause == PAUSE_MIN {
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

fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Unreachable { .. }))
}
