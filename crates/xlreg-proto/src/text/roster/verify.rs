//! What is wrong with a signed roster, as far as the file itself and a pinned key can tell.

use std::time::Duration;

use thiserror::Error;
use xlreg_core::{Fingerprint, Name, NodeId, Time};

use super::{Ranked, SignedRoster};
use crate::entry::{self, EntryError};
use crate::keys;

/// How far ahead of ours a registry's clock may be.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// What a roster is held against, and what may pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The fingerprint of the sig key of the registry that must have signed it. Without it **the key
    /// in the file is believed**, which whoever made the file chose.
    pub registry: Option<Fingerprint>,
    /// The time now, and how long ago it may have been signed at most.
    pub age: Option<(Time, Duration)>,
    /// Whether members may be missing.
    pub incomplete: bool,
    /// Whether entries may be without their members' signatures, as those of members are that joined
    /// over the old wire.
    pub unsigned: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a verdict says whether a roster holds"]
pub struct Verdict {
    /// What does not match. The roster is good only if there is nothing here.
    pub faults: Vec<Finding>,
    /// What may be, and is worth knowing.
    pub remarks: Vec<Finding>,
}

impl Verdict {
    /// Whether everything holds that was asked for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn note(&mut self, allowed: bool, finding: Finding) {
        if allowed { &mut self.remarks } else { &mut self.faults }.push(finding);
    }
}

/// One thing about a roster. What it displays names the member and the rank it is about.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Finding {
    /// The file is not as it was signed, or by another key than the one in it.
    #[error(
        "the registry's signature does not verify: the file was changed after it was signed, or the \
         sig key in it is not the one that signed it"
    )]
    RegistrySignature,
    /// The key in the file is not the pinned one.
    #[error("it is by the registry with sig key sha256 {got}, not by that with sha256 {expected}")]
    OtherRegistry {
        /// The pinned key.
        expected: Fingerprint,
        /// The key in the file.
        got: Fingerprint,
    },
    /// A member has not signed this.
    #[error("member {name} (rank {rank}): its entry is not what its sig key signed")]
    EntrySignature {
        /// Its rank.
        rank: u32,
        /// Its name.
        name: Name,
    },
    /// A member has signed nothing.
    #[error("member {name} (rank {rank}): it has not signed its entry")]
    Unsigned {
        /// Its rank.
        rank: u32,
        /// Its name.
        name: Name,
    },
    /// Two members of one name.
    #[error("ranks {} and {} have the same name, {name}", ranks[0], ranks[1])]
    NameTwice {
        /// The name.
        name: Name,
        /// The two.
        ranks: [u32; 2],
    },
    /// Two members of one ID.
    #[error("ranks {} and {} have the same ID, {id}", ranks[0], ranks[1])]
    IdTwice {
        /// The ID.
        id: NodeId,
        /// The two.
        ranks: [u32; 2],
    },
    /// A rank that is not there.
    #[error("member {name}: its rank is {rank}, and there are only ranks 0 to {}", size.saturating_sub(1))]
    RankRange {
        /// The rank.
        rank: u32,
        /// Its name.
        name: Name,
        /// How many ranks there are.
        size: u32,
    },
    /// Ranks twice, or out of order.
    #[error("rank {rank} stands after rank {after}")]
    RankOrder {
        /// The rank.
        rank: u32,
        /// The one before it.
        after: u32,
    },
    /// A member with fewer endpoints than its cluster asks for.
    #[error("member {name} (rank {rank}): {got} endpoint(s), where the cluster asks for {asked}")]
    TooFewEndpoints {
        /// Its rank.
        rank: u32,
        /// Its name.
        name: Name,
        /// How many it has.
        got: usize,
        /// How many it should.
        asked: u32,
    },
    /// Somebody is missing.
    #[error("it is incomplete: {present} of {size} members are there")]
    Incomplete {
        /// How many are there.
        present: usize,
        /// How many there should be.
        size: u32,
    },
    /// It was signed too long ago.
    #[error("it was signed {age:?} ago, and may be at most {max:?} old")]
    TooOld {
        /// How long ago.
        age: Duration,
        /// How old it may be.
        max: Duration,
    },
    /// It was signed later than now.
    #[error("it was signed {ahead:?} from now: one of the two clocks is wrong")]
    FromFuture {
        /// By how much.
        ahead: Duration,
    },
    /// One node holds two ranks, which a registry allows.
    #[error("ranks {} and {} have the same sig key: they are one node", ranks[0], ranks[1])]
    SharedSigKey {
        /// The two.
        ranks: [u32; 2],
    },
    /// Two nodes share a comms key, which a registry allows.
    #[error("ranks {} and {} have the same comms key", ranks[0], ranks[1])]
    SharedCommsKey {
        /// The two.
        ranks: [u32; 2],
    },
}

impl Finding {
    /// A name for it that programs can rely on.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RegistrySignature => "registry_signature",
            Self::OtherRegistry { .. } => "other_registry",
            Self::EntrySignature { .. } => "entry_signature",
            Self::Unsigned { .. } => "unsigned",
            Self::NameTwice { .. } => "name_twice",
            Self::IdTwice { .. } => "id_twice",
            Self::RankRange { .. } => "rank_range",
            Self::RankOrder { .. } => "rank_order",
            Self::TooFewEndpoints { .. } => "too_few_endpoints",
            Self::Incomplete { .. } => "incomplete",
            Self::TooOld { .. } => "too_old",
            Self::FromFuture { .. } => "from_future",
            Self::SharedSigKey { .. } => "shared_sig_key",
            Self::SharedCommsKey { .. } => "shared_comms_key",
        }
    }

    /// The member it is about, by rank, if it is about one.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        match self {
            Self::EntrySignature { rank, .. }
            | Self::Unsigned { rank, .. }
            | Self::RankRange { rank, .. }
            | Self::RankOrder { rank, .. }
            | Self::TooFewEndpoints { rank, .. } => Some(*rank),
            _ => None,
        }
    }
}

impl SignedRoster {
    /// Says everything about this roster that is not as it should be. Needs nothing but the file: no
    /// registry, no network. One RSA public operation, and one more for each member: some 20
    /// microseconds each.
    pub fn verify(&self, expected: &Expected) -> Verdict {
        let mut verdict = Verdict::default();
        self.check_registry(expected.registry, &mut verdict);
        for ranked in &self.members {
            self.check_member(ranked, expected.unsigned, &mut verdict);
        }
        self.check_members(&mut verdict);
        if !self.is_complete() {
            let (present, size) = (self.present(), self.cluster.size);
            verdict.note(expected.incomplete, Finding::Incomplete { present, size });
        }
        if let Some((now, max)) = expected.age {
            self.check_age(now, max, &mut verdict);
        }
        verdict
    }

    fn check_registry(&self, pinned: Option<Fingerprint>, verdict: &mut Verdict) {
        let key = &self.registry.sig_key;
        let got = key.fingerprint();
        if let Some(expected) = pinned
            && expected != got
        {
            verdict.faults.push(Finding::OtherRegistry { expected, got });
        }
        let text = self.signed_text();
        if keys::verify_pkcs1(key, &[text.as_bytes()], &self.signature).is_err() {
            verdict.faults.push(Finding::RegistrySignature);
        }
    }

    fn check_member(&self, ranked: &Ranked, unsigned: bool, verdict: &mut Verdict) {
        let Ranked { rank, member, .. } = ranked;
        let (rank, name) = (*rank, member.name.clone());
        let registry = self.registry.sig_key.fingerprint();
        match entry::verify(&registry, &self.cluster.id, member) {
            Ok(()) => {}
            Err(EntryError::Unsigned) => {
                verdict.note(unsigned, Finding::Unsigned { rank, name: name.clone() });
            }
            Err(EntryError::Wrong) => {
                verdict.faults.push(Finding::EntrySignature { rank, name: name.clone() });
            }
        }
        let (got, asked) = (member.endpoints.len(), self.cluster.endpoint_count);
        if got < asked as usize {
            let name = name.clone();
            verdict.faults.push(Finding::TooFewEndpoints { rank, name, got, asked });
        }
        if rank >= self.cluster.size {
            let size = self.cluster.size;
            verdict.faults.push(Finding::RankRange { rank, name, size });
        }
    }

    /// What can be said only of two: each against those before it.
    fn check_members(&self, verdict: &mut Verdict) {
        for (place, Ranked { rank, member, .. }) in self.members.iter().enumerate() {
            let before = self.members.get(..place).unwrap_or_default();
            if let Some(last) = before.last()
                && last.rank >= *rank
            {
                verdict.faults.push(Finding::RankOrder { rank: *rank, after: last.rank });
            }
            let like = |is_like: &dyn Fn(&xlreg_core::Member) -> bool| {
                let other = before.iter().find(|other| is_like(&other.member));
                other.map(|other| [other.rank, *rank])
            };
            if let Some(ranks) = like(&|other| other.name == member.name) {
                verdict.faults.push(Finding::NameTwice { name: member.name.clone(), ranks });
            }
            if let Some(ranks) = like(&|other| other.id == member.id) {
                verdict.faults.push(Finding::IdTwice { id: member.id, ranks });
            }
            if let Some(ranks) = like(&|other| other.sig_key == member.sig_key) {
                verdict.remarks.push(Finding::SharedSigKey { ranks });
            }
            if let Some(ranks) = like(&|other| other.comms_key == member.comms_key) {
                verdict.remarks.push(Finding::SharedCommsKey { ranks });
            }
        }
    }

    fn check_age(&self, now: Time, max: Duration, verdict: &mut Verdict) {
        let (age, ahead) = (now.since(self.signed), self.signed.since(now));
        if age > max {
            verdict.faults.push(Finding::TooOld { age, max });
        }
        if ahead > SKEW_MAX {
            verdict.faults.push(Finding::FromFuture { ahead });
        }
    }
}
