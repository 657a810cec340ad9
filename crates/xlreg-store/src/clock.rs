//! What time it is, and waiting for a time to come.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use xlreg_core::Time;

/// How long to sleep at most before looking at the clock again: somebody may set it, and a machine
/// that was suspended wakes up hours later.
const LOOK: Duration = Duration::from_secs(5);

/// The clock by which clusters and tokens expire. Cheap to clone; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The time that somebody has set; none for the system's.
    set: Option<watch::Sender<Time>>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still at `now` until it is moved on: for tests, so that what expires
    /// does so without waiting.
    #[must_use]
    pub fn standing(now: Time) -> Self {
        Self { set: Some(watch::Sender::new(now)) }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        match &self.set {
            Some(set) => *set.borrow(),
            None => SystemTime::now().into(),
        }
    }

    /// Moves a standing clock on, and wakes whoever waits for that time. The system's clock can't
    /// be moved, and says so by returning false.
    pub fn advance(&self, by: Duration) -> bool {
        let moved = |set: &watch::Sender<Time>| set.send_modify(|now| *now = now.after(by));
        self.set.as_ref().map(moved).is_some()
    }

    /// Sets a standing clock, backwards too, as an operator may set the system's. False as with
    /// [`Self::advance`].
    pub fn set(&self, now: Time) -> bool {
        self.set.as_ref().map(|set| set.send_replace(now)).is_some()
    }

    /// Waits until it is `at`.
    pub async fn reach(&self, at: Time) {
        match &self.set {
            Some(set) => {
                // The sender is ours, so it is not gone.
                let mut time = set.subscribe();
                let _reached = time.wait_for(|now| *now >= at).await;
            }
            None => loop {
                let left = at.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LOOK)).await;
            },
        }
    }
}
