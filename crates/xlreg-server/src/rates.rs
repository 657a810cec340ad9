//! How often somebody may do something.

use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// After so many questions, those who have been quiet for long enough are forgotten.
const SWEEP: u32 = 4096;

/// So many at once are granted by a slow rate at most: with more, its arithmetic in nanoseconds would
/// come to an end.
const SLOW_BURST_MAX: u32 = 1 << 24;

/// A rate: so many a second in the long run, so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a while of quiet.
    pub burst: u32,
}

/// A rate of what is seldom: so many a minute in the long run, so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRate {
    /// In the long run.
    pub per_minute: u32,
    /// At once, after a while of quiet.
    pub burst: u32,
}

/// Holds each `K` to a rate.
pub(crate) struct Rates<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    burst: NonZeroU32,
    clock: DefaultClock,
    asked: AtomicU32,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self::by(Quota::per_second(at_least_one(rate.per_second)), rate.burst)
    }

    pub(crate) fn slow(rate: SlowRate) -> Self {
        Self::by(Quota::per_minute(at_least_one(rate.per_minute)), rate.burst.min(SLOW_BURST_MAX))
    }

    fn by(quota: Quota, burst: u32) -> Self {
        let quota = quota.allow_burst(at_least_one(burst));
        let (burst, clock) = (quota.burst_size(), DefaultClock::default());
        Self { limiter: RateLimiter::hashmap(quota), burst, clock, asked: AtomicU32::new(0) }
    }

    /// Counts one, or says how long to wait for it.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        self.check_many(key, NonZeroU32::MIN)
    }

    /// Counts so many, all or none; as many as the burst at most, or they would never be granted.
    pub(crate) fn check_many(&self, key: &K, count: NonZeroU32) -> Result<(), Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            self.limiter.retain_recent();
        }
        let checked = self.limiter.check_key_n(key, count.min(self.burst));
        let granted = checked.expect("no more than the burst");
        granted.map_err(|early| early.wait_time_from(self.clock.now()))
    }
}

fn at_least_one(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)
}

impl<K: Hash + Eq + Clone> fmt::Debug for Rates<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_the_wait_is_told() {
        let rates = Rates::new(Rate { per_second: 1, burst: 3 });
        for _ in 0..3 {
            assert_eq!(rates.check(&"a"), Ok(()));
        }
        let wait = rates.check(&"a").unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(rates.check(&"b"), Ok(()));
    }

    #[test]
    fn many_count_as_many_and_as_no_more_than_the_burst() {
        let rates = Rates::new(Rate { per_second: 1, burst: 5 });
        let count = |count| NonZeroU32::new(count).unwrap();
        assert_eq!(rates.check_many(&"a", count(3)), Ok(()));
        let wait = rates.check_many(&"a", count(3)).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!((rates.check(&"a"), rates.check(&"a")), (Ok(()), Ok(())), "none were counted");
        assert!(rates.check(&"a").is_err());
        assert_eq!(rates.check_many(&"b", count(6)), Ok(()));
        assert!(rates.check(&"b").is_err());
    }

    #[test]
    fn a_slow_rate_is_told_in_minutes() {
        let rates = Rates::slow(SlowRate { per_minute: 6, burst: 1 });
        assert_eq!(rates.check(&"a"), Ok(()));
        let wait = rates.check(&"a").unwrap_err();
        assert!(wait > Duration::from_secs(5) && wait <= Duration::from_secs(10), "{wait:?}");
    }

    #[test]
    fn no_rate_is_too_large() {
        for (count, burst) in [(1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            let rates = [
                Rates::new(Rate { per_second: count, burst }),
                Rates::slow(SlowRate { per_minute: count, burst }),
            ];
            assert!(rates.iter().all(|rates| rates.check(&"a") == Ok(())), "{count} {burst}");
        }
    }

    #[test]
    fn strangers_are_forgotten() {
        let rates = Rates::new(Rate { per_second: 1_000_000, burst: 1 });
        for stranger in 0..3 * SWEEP {
            assert_eq!(rates.check(&stranger), Ok(()));
        }
        assert!(rates.limiter.len() <= SWEEP as usize + 1, "{}", rates.limiter.len());
    }
}
