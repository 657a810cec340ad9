//! Handshakes under way: so many in all and of each address, and nobody takes the room of all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The handshakes under way. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    count: usize,
    /// Numbers rise with time.
    last: u64,
    of: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    handshakes: Handshakes,
    site: IpAddr,
    number: u64,
    /// Cancelled when its place has gone to somebody else.
    pub(crate) cut: CancellationToken,
}

impl Handshakes {
    /// Counts one more of `site`. When all places are taken, the address that has most of them loses
    /// its oldest: whoever leaves handshakes half done keeps nobody out but himself.
    ///
    /// # Errors
    /// What there are too many of.
    pub(crate) fn begin(
        &self,
        site: IpAddr,
        max: usize,
        per_address_max: usize,
    ) -> Result<Handshake, &'static str> {
        let mut open = self.lock();
        let own = open.of.get(&site).map_or(0, BTreeMap::len);
        if own >= per_address_max {
            return Err("too many handshakes of its address are under way");
        }
        if open.count >= max && !open.cut_one(own) {
            return Err("too many handshakes are under way");
        }
        open.last += 1;
        open.count += 1;
        let (number, cut) = (open.last, CancellationToken::new());
        open.of.entry(site).or_default().insert(number, cut.clone());
        Ok(Handshake { handshakes: self.clone(), site, number, cut })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Cuts off the oldest of the address that has most, if that leaves it no fewer than who comes
    /// would have then.
    fn cut_one(&mut self, own: usize) -> bool {
        let most = self.of.iter().max_by_key(|(_, open)| open.len());
        let Some((site, _)) = most.filter(|(_, open)| open.len() > own + 1) else { return false };
        let site = *site;
        let oldest = self.of.get(&site).and_then(|open| open.first_key_value());
        let Some((number, cut)) = oldest.map(|(number, cut)| (*number, cut.clone())) else {
            return false;
        };
        cut.cancel();
        self.remove(site, number);
        true
    }

    fn remove(&mut self, site: IpAddr, number: u64) {
        let Some(open) = self.of.get_mut(&site) else { return };
        if open.remove(&number).is_some() {
            self.count -= 1;
        }
        if open.is_empty() {
            self.of.remove(&site);
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.handshakes.lock().remove(self.site, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn an_address_has_as_many_as_it_may_and_they_are_given_back() {
        let handshakes = Handshakes::default();
        let first = handshakes.begin(site(1), 10, 2).unwrap();
        let second = handshakes.begin(site(1), 10, 2).unwrap();
        assert!(handshakes.begin(site(1), 10, 2).is_err());
        drop(first);
        let third = handshakes.begin(site(1), 10, 2).unwrap();
        drop((second, third));
        assert!(handshakes.lock().of.is_empty());
        assert_eq!(handshakes.lock().count, 0);
    }

    #[test]
    fn who_has_most_makes_room_with_its_oldest_for_who_has_less() {
        let handshakes = Handshakes::default();
        let begin = |number| handshakes.begin(site(number), 6, 6);
        let flood: Vec<_> = (0..6).map(|_| begin(1).unwrap()).collect();
        assert!(begin(1).is_err(), "not for itself");
        let guests: Vec<_> = (2..5).map(|number| begin(number).unwrap()).collect();
        let cut: Vec<_> = flood.iter().map(|handshake| handshake.cut.is_cancelled()).collect();
        assert_eq!(cut, [true, true, true, false, false, false]);
        assert!(guests.iter().all(|guest| !guest.cut.is_cancelled()));
        let _second = begin(2).unwrap();
        assert!(begin(2).is_err(), "two of each by now, and three would be more than its share");
        assert_eq!(handshakes.lock().count, 6);
        drop(flood);
        assert_eq!(handshakes.lock().count, 4, "what was cut off is not given back twice");
    }
}
