//! How long to leave a registry alone that went away.

use std::time::Duration;

/// The first and the longest pause before connecting again.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pauses between attempts, each twice as long as the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE_MIN)
    }
}

impl Pause {
    /// How long to wait before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut pause = Pause::default();
        assert_eq!((pause.next(), pause.next()), (PAUSE_MIN, PAUSE_MIN * 2));
        assert!((0..64).all(|_| pause.next() <= PAUSE_MAX));
    }
}
