//! Whose hello is opened next, and whose must wait.
//!
//! Opening a hello costs an RSA private operation, and whoever knows the registry's public key can
//! ask for as many as they like. So each address runs up a debt: one for each of its hellos that is
//! opened. It is forgiven when the client proves who it is, and by and by. Of those who wait, the
//! address with the least debt goes first, so that a flood, from however many addresses, is opened
//! in what time others leave; and beyond a bound its hellos wait, and mostly end at their deadline
//! without having cost anything.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::rates::Rate;

/// After so many hellos, addresses that wait for nothing and owe nothing are forgotten.
const SWEEP: u32 = 4096;

/// Jobs `J` that wait, by the address that they are for.
#[derive(Debug)]
pub(crate) struct Turns<J> {
    /// In which a debt of one goes by.
    step: Duration,
    /// What an address may owe before its next is opened: all but one of a burst.
    owed_max: Duration,
    /// Whether a job has been given up meanwhile.
    gone: fn(&J) -> bool,
    sites: HashMap<IpAddr, Site<J>>,
    /// Those for which something waits, least debt first.
    order: BTreeSet<(Instant, IpAddr)>,
    pushed: u32,
}

#[derive(Debug)]
struct Site<J> {
    /// Oldest first.
    waiting: VecDeque<J>,
    /// When nothing will be owed any more.
    clear: Instant,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn<J> {
    /// This.
    Now(J),
    /// Nothing before then.
    At(Instant),
    /// Nothing.
    Nobody,
}

impl<J> Turns<J> {
    /// With debts that are forgiven at this rate and bounded by its burst.
    pub(crate) fn new(rate: Rate, gone: fn(&J) -> bool) -> Self {
        let step = Duration::from_secs(1) / rate.per_second.max(1);
        let owed_max = step * rate.burst.saturating_sub(1);
        let (sites, order) = (HashMap::new(), BTreeSet::new());
        Self { step, owed_max, gone, sites, order, pushed: 0 }
    }

    /// Lets a job wait for its turn. How many may is for the caller to bound.
    pub(crate) fn push(&mut self, address: IpAddr, job: J, now: Instant) {
        self.pushed = self.pushed.wrapping_add(1);
        if self.pushed.is_multiple_of(SWEEP) {
            self.sites.retain(|_, site| !site.waiting.is_empty() || site.clear > now);
        }
        let new = || Site { waiting: VecDeque::new(), clear: now };
        let site = self.sites.entry(address).or_insert_with(new);
        if site.waiting.is_empty() {
            site.clear = site.clear.max(now);
            self.order.insert((site.clear, address));
        }
        site.waiting.push_back(job);
        // The oldest are given up first; who is not served must not collect them.
        while site.waiting.len() > 1 && site.waiting.front().is_some_and(self.gone) {
            site.waiting.pop_front();
        }
    }

    /// The job whose turn it is. Its address owes one more from now on.
    pub(crate) fn next(&mut self, now: Instant) -> Turn<J> {
        while let Some((clear, address)) = self.order.first().copied() {
            if clear > now + self.owed_max {
                return Turn::At(clear - self.owed_max);
            }
            self.order.pop_first();
            let Some(site) = self.sites.get_mut(&address) else { continue };
            let job = site.waiting.pop_front().filter(|job| !(self.gone)(job));
            if job.is_some() {
                site.clear = site.clear.max(now) + self.step;
            }
            if !site.waiting.is_empty() {
                self.order.insert((site.clear, address));
            }
            if let Some(job) = job {
                return Turn::Now(job);
            }
        }
        Turn::Nobody
    }

    /// Forgives a debt of one.
    pub(crate) fn forgive(&mut self, address: IpAddr, now: Instant) {
        let Some(site) = self.sites.get_mut(&address) else { return };
        let listed = self.order.remove(&(site.clear, address));
        site.clear = if site.clear > now + self.step { site.clear - self.step } else { now };
        if listed {
            self.order.insert((site.clear, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Jobs are numbers here, and those below 100 are wanted.
    fn turns(burst: u32) -> Turns<u32> {
        Turns::new(Rate { per_second: 1, burst }, |job| *job >= 100)
    }

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// All whose turn it is at this moment.
    fn all(turns: &mut Turns<u32>, now: Instant) -> Vec<u32> {
        let mut jobs = Vec::new();
        while let Turn::Now(job) = turns.next(now) {
            jobs.push(job);
        }
        jobs
    }

    #[test]
    fn who_has_asked_for_less_goes_first_however_much_others_ask() {
        let now = Instant::now();
        let mut turns = turns(10);
        for job in 0..5 {
            turns.push(address(1), job, now);
        }
        assert_eq!([turns.next(now), turns.next(now)], [Turn::Now(0), Turn::Now(1)]);
        turns.push(address(2), 50, now);
        turns.push(address(2), 51, now);
        turns.push(address(2), 52, now);
        assert_eq!(all(&mut turns, now)[..3], [50, 51, 2]);
        assert_eq!(turns.next(now), Turn::Nobody);
    }

    #[test]
    fn what_is_forgiven_costs_nothing_and_the_rest_goes_by_with_time() {
        let now = Instant::now();
        let mut turns = turns(3);
        for job in 0..8 {
            turns.push(address(1), job, now);
        }
        assert_eq!(all(&mut turns, now), [0, 1, 2]);
        assert_eq!(turns.next(now), Turn::At(now + SECOND));
        turns.forgive(address(1), now);
        assert_eq!(all(&mut turns, now), [3]);
        assert_eq!(all(&mut turns, now + SECOND * 9 / 10), []);
        assert_eq!(all(&mut turns, now + SECOND), [4]);
        assert_eq!(all(&mut turns, now + SECOND * 60), [5, 6, 7]);
    }

    #[test]
    fn who_is_out_of_credit_does_not_hold_up_who_is_not() {
        let now = Instant::now();
        let mut turns = turns(2);
        for job in 0..9 {
            turns.push(address(1), job, now);
        }
        assert_eq!(all(&mut turns, now), [0, 1]);
        turns.push(address(2), 50, now);
        assert_eq!(turns.next(now), Turn::Now(50));
    }

    /// More forgiveness than debt is no credit.
    #[test]
    fn nobody_gets_more_than_a_burst_at_once() {
        let now = Instant::now();
        let mut turns = turns(3);
        turns.push(address(1), 0, now);
        assert_eq!(all(&mut turns, now), [0]);
        (0..9).for_each(|_| turns.forgive(address(1), now));
        turns.forgive(address(2), now);
        for job in 1..9 {
            turns.push(address(1), job, now);
        }
        assert_eq!(all(&mut turns, now), [1, 2, 3]);
    }

    #[test]
    fn who_has_given_up_costs_nothing_and_is_not_kept() {
        let now = Instant::now();
        let mut turns = turns(2);
        for job in [0, 1, 100, 101, 102, 2, 103] {
            turns.push(address(1), job, now);
        }
        assert_eq!(all(&mut turns, now), [0, 1]);
        for job in 104..1000 {
            turns.push(address(1), job, now);
        }
        assert_eq!(turns.sites[&address(1)].waiting[0], 2);
        assert_eq!(turns.next(now + SECOND), Turn::Now(2));
        turns.push(address(1), 3, now + SECOND);
        assert_eq!(turns.sites[&address(1)].waiting, [3]);
    }

    #[test]
    fn strangers_are_forgotten() {
        let now = Instant::now();
        let mut turns = turns(2);
        for number in 0..3 * SWEEP {
            let now = now + SECOND * number;
            turns.push(IpAddr::from(number.to_be_bytes()), 0, now);
            assert_eq!(turns.next(now), Turn::Now(0));
        }
        assert!(turns.sites.len() <= SWEEP as usize + 1, "{}", turns.sites.len());
        assert!(turns.order.is_empty());
    }
}
