//! Counting what each address and each key has open at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What counts as one address. Whoever has an IPv6 address has 2^64 of them.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How many one address may have where it may have `each` and all together `max`, of which `used` are
/// taken: no more than are left for all others, or a few addresses could take all there are. Whoever
/// lets one address have more than half of them means it.
pub(crate) fn fair(each: usize, max: usize, used: usize) -> usize {
    if is_shared(each, max) { each.min(max.saturating_sub(used)) } else { each }
}

/// Whether all there is, `max`, is meant for several, of whom one may have `each`.
pub(crate) fn is_shared(each: usize, max: usize) -> bool {
    each <= max / 2
}

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

/// One or several of those that were counted; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Copy + Eq + Hash> {
    tally: Tally<K>,
    key: K,
    room: usize,
}

impl<K: Copy + Eq + Hash> Tally<K> {
    /// Counts one more for `key`, unless it has `max` already.
    pub(crate) fn take(&self, key: K, max: usize) -> Option<Place<K>> {
        self.take_room(key, 1, max)
    }

    /// Counts `room` more for `key`, unless it would have more than `max` then.
    pub(crate) fn take_room(&self, key: K, room: usize, max: usize) -> Option<Place<K>> {
        let mut counts = self.lock();
        let count = counts.get(&key).copied().unwrap_or(0).checked_add(room)?;
        if count > max {
            return None;
        }
        if count > 0 {
            counts.insert(key, count);
        }
        Some(Place { tally: self.clone(), key, room })
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
            *count -= self.room;
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
    fn an_address_is_what_one_machine_has() {
        for (address, counts_as) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(site(address.parse().unwrap()), counts_as.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn nothing_is_kept_of_who_gets_nothing() {
        let tally = Tally::default();
        assert!(tally.take("a", 0).is_none());
        assert!(tally.lock().is_empty());
    }

    /// How many addresses it takes until one that has nothing gets nothing.
    #[test]
    fn a_few_addresses_do_not_take_all_there_is() {
        let (each, max) = (256, 1024);
        let tally = Tally::default();
        let mut held = Vec::new();
        let mut addresses = 0;
        while held.len() < max {
            addresses += 1;
            let before = held.len();
            while let Some(place) = tally.take(addresses, fair(each, max, held.len())) {
                held.push(place);
            }
            assert!(held.len() > before, "address {addresses} gets nothing");
            assert!(addresses < 4 || held.len() - before < each, "and no more than there is left");
        }
        assert!(addresses >= 12, "{addresses}");
        assert_eq!(fair(1024, 1024, 1000), 1024, "it may have all");
    }

    #[test]
    fn room_is_counted_by_its_size() {
        let tally = Tally::default();
        let large = tally.take_room("a", 7, 10);
        assert!(tally.take_room("a", 4, 10).is_none());
        let rest = tally.take_room("a", 3, 10);
        assert_eq!(tally.of(&"a"), 10);
        drop(large);
        assert!(tally.take_room("a", usize::MAX, 10).is_none());
        assert!(tally.take_room("a", 0, 10).is_some());
        drop(rest);
        assert!(tally.lock().is_empty());
    }

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
