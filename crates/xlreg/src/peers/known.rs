//! The roster as it is known now, and the keys that have gone out of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use xlreg_core::{Fingerprint, Member, Name, NodeId};
use xlreg_tls::{Admission, Departure, PeerRefused};

use super::Target;
use crate::roster::Roster;

/// Keys remembered that have gone out of the roster: each of a whole cluster's members four times.
const FORMER_MAX: usize = 256;

/// A roster that changes under those who go by it.
#[derive(Debug)]
pub(super) struct Known {
    roster: watch::Sender<Arc<Roster>>,
    former: Mutex<VecDeque<Former>>,
}

/// A key that was a member's, so that who still shows it hears what has become of it.
#[derive(Debug)]
struct Former {
    key: Fingerprint,
    name: Name,
    how: Departure,
}

impl Known {
    pub(super) fn new(roster: &Roster) -> Self {
        let roster = watch::Sender::new(Arc::new(roster.clone()));
        Self { roster, former: Mutex::default() }
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.borrow())
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    /// Goes by this roster from now on.
    pub(super) fn update(&self, next: &Roster) {
        let last = self.roster();
        let gone = holders(&last).filter(|(_, old)| holder(next, &print(old)).is_none());
        let mut former = self.lock();
        for (_, old) in gone {
            let stays = holders(next).any(|(_, member)| member.id == old.id);
            let how = if stays { Departure::Retired } else { Departure::Removed };
            if former.len() >= FORMER_MAX {
                former.pop_front();
            }
            former.push_back(Former { key: print(old), name: old.name.clone(), how });
        }
        drop(former);
        self.roster.send_replace(Arc::new(next.clone()));
    }

    /// The member that is meant, with its rank, if it is there.
    pub(super) fn find(&self, target: &Target) -> Option<(usize, Arc<Member>)> {
        let roster = self.roster();
        let meant = |rank: usize, member: &Member| match target {
            Target::Rank(wanted) => rank == *wanted,
            Target::Name(name) => member.name == *name,
            Target::Id(id) => member.id == *id,
        };
        let mut all = roster.iter();
        all.find(|(rank, member)| meant(*rank, member))
            .map(|(rank, member)| (rank, Arc::clone(member)))
    }

    /// The member with this sig key. If it is several, the one whose ID the peer `claims` to have.
    pub(super) fn identify(
        &self,
        key: &Fingerprint,
        claims: impl Fn(NodeId) -> bool,
    ) -> Option<(usize, Arc<Member>)> {
        let roster = self.roster();
        let mut own = roster.iter().filter(|(_, member)| print(member) == *key);
        let first = own.next()?;
        let (rank, member) = match own.next() {
            None => first,
            Some(second) => {
                let mut all = [first, second].into_iter().chain(own);
                all.find(|(_, member)| claims(member.id)).unwrap_or(first)
            }
        };
        Some((rank, Arc::clone(member)))
    }

    /// Why the holder of this key, who is no member, is not let in.
    fn absent(&self, roster: &Roster, key: &Fingerprint) -> PeerRefused {
        let refused = |name: &Name, how| PeerRefused::Former { key: *key, name: name.clone(), how };
        if let Some((_, left)) = holder(roster, key) {
            return refused(&left.name, Departure::Left);
        }
        let former = self.lock();
        match former.iter().rev().find(|former| former.key == *key) {
            Some(former) => refused(&former.name, former.how),
            None => PeerRefused::Stranger { key: *key },
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Former>> {
        // Nothing under this lock panics.
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Known {
    fn admit(&self, key: &Fingerprint, meant: Option<&Fingerprint>) -> Result<(), PeerRefused> {
        let roster = self.roster();
        let present = |key: &Fingerprint| {
            let mut all = roster.members.iter();
            all.find(|member| print(member) == *key).map(|member| member.name.clone())
        };
        let Some(got) = present(key) else { return Err(self.absent(&roster, key)) };
        match meant {
            Some(meant) if meant != key => match present(meant) {
                Some(meant) => Err(PeerRefused::Swapped { meant, got }),
                // It has gone out of the roster in this very moment.
                None => Err(self.absent(&roster, meant)),
            },
            _ => Ok(()),
        }
    }
}

fn print(member: &Member) -> Fingerprint {
    member.sig_key.fingerprint()
}

/// Everyone who holds a rank, there or not.
fn holders(roster: &Roster) -> impl Iterator<Item = (usize, &Arc<Member>)> {
    let left = roster.about.iter().flat_map(|about| &about.left);
    roster.iter().chain(left.map(|(rank, member)| (*rank, member)))
}

fn holder<'a>(roster: &'a Roster, key: &Fingerprint) -> Option<(usize, &'a Arc<Member>)> {
    holders(roster).find(|(_, member)| print(member) == *key)
}
