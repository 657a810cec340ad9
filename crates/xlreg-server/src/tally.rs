//! Counting what each address and each key has open at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many of something each `K` has. Cheap to clone; clones count together.
#[derive(Debug)]
pub(crate) struct Tally<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Tally<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of those that were counted; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Copy + Eq + Hash> {
    tally: Tally<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> Tally<K> {
    /// Counts one more for `key`, unless it has `max` already.
    pub(crate) fn take(&self, key: K, max: usize) -> Option<Place<K>> {
        let mut counts = self.lock();
        let count = counts.entry(key).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { tally: self.clone(), key })
    }

    /// How many `key` has.
    pub(crate) fn of(&self, key: &K) -> usize {
        self.lock().get(key).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Nothing under this lock panics, so a poisoned one holds sound counts all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_as_many_as_it_may_and_what_is_given_back_can_be_taken() {
        let tally = Tally::default();
        let first = tally.take("a", 2);
        let second = tally.take("a", 2);
        assert!(first.is_some() && second.is_some() && tally.take("a", 2).is_none());
        assert!(tally.take("b", 2).is_some());
        drop(first);
        assert_eq!((tally.of(&"a"), tally.of(&"b")), (1, 0));
        assert!(tally.take("a", 2).is_some());
        drop(second);
        assert!(tally.lock().is_empty());
    }
}
