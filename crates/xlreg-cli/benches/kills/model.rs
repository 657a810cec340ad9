//! What clients were answered, and what follows for what the registry may say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use xlreg::{Name, NodeId, Roster};
use xlreg_core::{Cluster, Fingerprint, Seat};

/// What must not be.
pub(crate) type Wrong = String;

/// All that happened.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) nodes: BTreeMap<NodeId, Registration>,
    pub(crate) clusters: BTreeMap<Name, Known>,
    /// What has been touched since it was last looked at.
    pub(crate) news: BTreeSet<Name>,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
}

/// Whether something was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Done {
    /// No answer came to the first to ask for it: it may be, or not.
    #[default]
    Maybe,
    Yes,
    No,
}

pub(crate) struct Registration {
    pub(crate) sig_key: Fingerprint,
    pub(crate) done: Done,
}

#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) size: u32,
    pub(crate) created: Done,
    pub(crate) places: BTreeMap<NodeId, Place>,
    /// Of its token, which at most so many may redeem: how many have, and how many more may.
    pub(crate) token: Option<Uses>,
}

/// A member's place.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Whether it holds a rank.
    pub(crate) holds: Done,
    /// Whether it is there, if it holds one.
    pub(crate) present: Done,
    /// The rank, once it was seen.
    rank: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Uses {
    pub(crate) max: u32,
    pub(crate) certain: u32,
    pub(crate) maybe: u32,
}

/// A rank, who holds it, and whether it is there.
type Held = (usize, NodeId, bool);

impl Known {
    /// Holds a roster against what is known. Those who have left are not in it.
    pub(crate) fn see_roster(&mut self, name: &Name, roster: &Roster) -> Result<(), Wrong> {
        let present = roster.iter().map(|(rank, member)| (rank, member.id, true));
        self.see(name, &present.collect::<Vec<_>>(), false)
    }

    /// The same of what the file has.
    pub(crate) fn see_cluster(&mut self, cluster: &Cluster) -> Result<(), Wrong> {
        let held = |(rank, seat): (usize, &Seat)| {
            Some((rank, seat.holder()?.id, seat.present().is_some()))
        };
        let held: Vec<_> = cluster.seats.iter().enumerate().filter_map(held).collect();
        if cluster.size != self.size {
            return Err(format!(
                "{}: made for {}, and is for {}",
                cluster.name, self.size, cluster.size
            ));
        }
        self.see_uses(cluster)?;
        self.see(&cluster.name, &held, true)
    }

    fn see_uses(&self, cluster: &Cluster) -> Result<(), Wrong> {
        let Some(Uses { max, certain, maybe }) = self.token else { return Ok(()) };
        let uses: Vec<_> = cluster.tokens.iter().map(|token| token.uses).collect();
        match uses.as_slice() {
            // A token whose issue got no answer was issued again.
            [] => Err(format!("{}: its token is gone", cluster.name)),
            all if all.iter().sum::<u32>() < certain => Err(format!(
                "{}: {certain} have redeemed its token, and {uses:?} are counted",
                cluster.name
            )),
            all if all.iter().any(|uses| *uses > max.min(certain + maybe)) => Err(format!(
                "{}: {certain} to {} have redeemed its token for {max}, and {uses:?} are counted",
                cluster.name,
                certain + maybe
            )),
            _ => Ok(()),
        }
    }

    fn see(&mut self, name: &Name, held: &[Held], all: bool) -> Result<(), Wrong> {
        let wrong = |what: String| {
            let mut told = format!("{name}: {what}");
            let _ = write!(told, "; it has {held:?}");
            Err(told)
        };
        if held.len() > self.size as usize {
            return wrong(format!("more than {} members", self.size));
        }
        for (rank, id, _) in held {
            let Some(place) = self.places.get_mut(id) else {
                return wrong(format!("{id} has never joined"));
            };
            if place.holds == Done::No {
                return wrong(format!("{id} was refused, and is there"));
            }
            let seen = *place.rank.get_or_insert(*rank);
            if seen != *rank {
                return wrong(format!("{id} had rank {seen}, and has {rank}"));
            }
        }
        for (id, place) in &self.places {
            let there = held.iter().find(|(_, holder, _)| holder == id);
            let present = there.is_some_and(|(_, _, present)| *present);
            if place.holds == Done::Yes && all && there.is_none() {
                return wrong(format!("{id} has joined, and holds no rank"));
            }
            if place.holds != Done::Yes {
                continue;
            }
            match place.present {
                Done::Yes if !present => {
                    return wrong(format!("{id} has joined, and is not there"));
                }
                Done::No if present => return wrong(format!("{id} has left, and is there")),
                _ => {}
            }
        }
        Ok(())
    }
}
