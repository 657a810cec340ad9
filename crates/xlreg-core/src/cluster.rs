//! A cluster: its ranks and who holds them, who may come in, and what has happened to it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::admission::{Life, Policy, Token, TokenId};
use crate::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_EVENTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN,
    MEMBER_ENDPOINTS_MAX,
};
use crate::registry::{Refusal, Who};
use crate::{Admission, ClusterId, Fingerprint, Lifetime, Member, Name, NodeId, Time};

/// Attribute bit: the cluster goes when its use is over.
pub const CLUSTER_ATTR_EPHEMERAL: u64 = 1;
/// Attribute bit: the cluster has been deleted.
pub const CLUSTER_ATTR_DELETED: u64 = 2;

/// How a request says which cluster it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClusterKey {
    /// By the ID that the registry issued.
    Id(ClusterId),
    /// By its name.
    Name(Name),
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What a creator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// The name, unique in the registry.
    pub name: Name,
    /// `CLUSTER_ATTR_*` bits.
    pub attrs: u64,
    /// How many members it is for; brought within [`CLUSTER_SIZE_MIN`] to [`CLUSTER_SIZE_MAX`].
    pub size: u32,
    /// Endpoints it asks of each member; brought within 1 to [`CLUSTER_ENDPOINTS_MAX`].
    pub endpoint_count: u32,
    /// Who may join.
    pub policy: Policy,
    /// How long it is to live.
    pub lifetime: Lifetime,
}

impl NewCluster {
    /// A cluster that whoever comes may join, and that stays until it is deleted: the only kind
    /// that the old wire knows.
    #[must_use]
    pub fn open(name: Name, size: u32, endpoint_count: u32) -> Self {
        let (policy, lifetime) = (Policy::Open, Lifetime::default());
        Self { name, attrs: 0, size, endpoint_count, policy, lifetime }
    }
}

/// A place in a cluster. The rank is its place among the seats, and never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Nobody's: its member was expelled.
    Free,
    /// A member holds it.
    Present(Arc<Member>),
    /// Its member has left, and may come back to it.
    Left(Arc<Member>),
}

impl Seat {
    /// The member that holds the rank, there or not.
    #[must_use]
    pub fn holder(&self) -> Option<&Arc<Member>> {
        match self {
            Self::Free => None,
            Self::Present(member) | Self::Left(member) => Some(member),
        }
    }

    /// The member, if it is there.
    #[must_use]
    pub fn present(&self) -> Option<&Arc<Member>> {
        match self {
            Self::Present(member) => Some(member),
            Self::Free | Self::Left(_) => None,
        }
    }
}

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// It took its rank.
    Joined,
    /// It came back after it had left.
    Returned,
    /// It has other endpoints, another ID or other attributes, or has signed its entry.
    Updated,
    /// It has other keys.
    Rotated,
    /// It left.
    Left,
    /// Its rank was taken away.
    Expelled,
}

/// One change of a roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The cluster's revision with it.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// To whom, by rank.
    pub rank: usize,
    /// The member after it; one that was expelled as it was.
    pub member: Arc<Member>,
    /// Whether it has left, and its rank is kept for it.
    pub left: bool,
    /// Whether the roster was complete with it.
    pub complete: bool,
}

/// How a cluster came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Somebody deleted it.
    Deleted,
    /// Its time was over.
    Expired,
}

/// A declared number of members, and those who have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The ID that the registry issued.
    pub id: ClusterId,
    /// The name, unique in the registry.
    pub name: Name,
    /// `CLUSTER_ATTR_*` bits, as its creator gave them.
    pub attrs: u64,
    /// How many members it is for: [`CLUSTER_SIZE_MIN`] to [`CLUSTER_SIZE_MAX`].
    pub size: u32,
    /// Endpoints it asks of each member: 1 or 2.
    pub endpoint_count: u32,
    /// The sig key that created it; none for clusters of before this was kept.
    pub owner: Option<Fingerprint>,
    /// Who may join.
    pub policy: Policy,
    /// How long it lives.
    pub life: Life,
    /// The ranks that have been taken so far, at most `size`. The last is not [`Seat::Free`].
    pub seats: Vec<Seat>,
    /// Sig keys that may not join any more.
    pub expelled: BTreeSet<Fingerprint>,
    /// Join tokens, oldest first.
    pub tokens: Vec<Arc<Token>>,
    /// Rises by one with every change of the roster.
    pub revision: u64,
    /// When it last changed or was watched, as far as this process knows. It is not kept.
    pub active: Time,
    /// Set in the last state that watchers see.
    pub gone: Option<Gone>,
    /// The latest changes of the roster.
    pub events: Events,
}

/// The latest changes of a roster, oldest first, without a gap up to the present revision.
///
/// They are for watchers who come back, and no part of what a cluster is: after a restart there are
/// none, and two clusters that differ in nothing else are equal.
#[derive(Clone, Debug, Default)]
pub struct Events(Vec<Arc<Event>>);

impl PartialEq for Events {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Events {}

impl Events {
    fn push(&mut self, event: Event) {
        if self.0.len() >= CLUSTER_EVENTS_MAX {
            self.0.remove(0);
        }
        self.0.push(Arc::new(event));
    }
}

impl Cluster {
    /// An empty cluster, its size and endpoint count clamped to what the wire can carry.
    #[must_use]
    pub fn new(id: ClusterId, new: &NewCluster, owner: Option<Fingerprint>, now: Time) -> Self {
        Self {
            id,
            name: new.name.clone(),
            attrs: new.attrs,
            size: new.size.clamp(CLUSTER_SIZE_MIN, CLUSTER_SIZE_MAX),
            endpoint_count: new.endpoint_count.clamp(1, CLUSTER_ENDPOINTS_MAX),
            owner,
            policy: new.policy.clone(),
            life: Life::new(&new.lifetime, now),
            seats: Vec::new(),
            expelled: BTreeSet::new(),
            tokens: Vec::new(),
            revision: 0,
            active: now,
            gone: None,
            events: Events::default(),
        }
    }

    /// Whether as many members are there as were declared.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.present().count() >= self.size as usize
    }

    /// The members that are there, with their ranks.
    pub fn present(&self) -> impl Iterator<Item = (usize, &Arc<Member>)> {
        let ranked = self.seats.iter().enumerate();
        ranked.filter_map(|(rank, seat)| Some((rank, seat.present()?)))
    }

    /// Everyone who holds a rank, there or not.
    pub fn holders(&self) -> impl Iterator<Item = (usize, &Arc<Member>)> {
        let ranked = self.seats.iter().enumerate();
        ranked.filter_map(|(rank, seat)| Some((rank, seat.holder()?)))
    }

    /// The rank and the entry of who holds a rank with this ID.
    #[must_use]
    pub fn member(&self, id: &NodeId) -> Option<(usize, &Arc<Member>)> {
        self.holders().find(|(_, member)| member.id == *id)
    }

    /// The ranks that this sig key holds.
    pub fn ranks_of(&self, sig_key: &Fingerprint) -> impl Iterator<Item = usize> {
        let own = move |member: &Member| member.sig_key.fingerprint() == *sig_key;
        self.holders().filter(move |(_, member)| own(member)).map(|(rank, _)| rank)
    }

    /// The one rank that a member means by `who`, and its entry.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`] if there is none, [`Refusal::WhichMember`] if there are several.
    pub fn entry_of(&self, who: &Who) -> Result<(usize, &Arc<Member>), Refusal> {
        let own = |member: &Member| member.sig_key.fingerprint() == who.sig_key;
        let named = |member: &Member| who.name.as_ref().is_none_or(|name| member.name == *name);
        let mut meant = self.holders().filter(|(_, member)| own(member) && named(member));
        let one = meant.next().ok_or(Refusal::NotAMember)?;
        if meant.next().is_some() { Err(Refusal::WhichMember) } else { Ok(one) }
    }

    /// The token of this ID.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<&Arc<Token>> {
        self.tokens.iter().find(|token| token.id == *id)
    }

    /// When its time is over, as far as it is known beforehand.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let idle = self.life.idle.map(|idle| self.active.after(idle));
        [self.life.fill_by, self.life.ends, idle].into_iter().flatten().min()
    }

    /// Whether its time is over in any case, whoever still watches it.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        [self.life.fill_by, self.life.ends].into_iter().flatten().any(|end| now >= end)
    }

    /// Whether nothing has happened in it for as long as it may be idle.
    #[must_use]
    pub fn is_idle(&self, now: Time) -> bool {
        self.life.idle.is_some_and(|idle| now >= self.active.after(idle))
    }

    /// The changes after `revision`, if all of them are remembered.
    #[must_use]
    pub fn events_after(&self, revision: u64) -> Option<&[Arc<Event>]> {
        let missed = usize::try_from(self.revision.checked_sub(revision)?).ok()?;
        let known = &self.events.0;
        known.get(known.len().checked_sub(missed)?..)
    }

    /// The rank that `member` gets, or keeps if it comes back, and the token that it takes for it.
    ///
    /// # Errors
    /// A [`Refusal`] if it brings too few endpoints, if its name or ID is another member's, if it
    /// may not come in, or if there is no room.
    pub fn admit(
        &self,
        member: &Member,
        admission: &Admission,
        now: Time,
    ) -> Result<(usize, Option<TokenId>), Refusal> {
        self.check_endpoints(member.endpoints.len())?;
        if *admission == Admission::OldWire && self.policy != Policy::Open {
            return Err(Refusal::NotByOldWire);
        }
        let same_name = self.holders().find(|(_, holder)| holder.name == member.name);
        if same_name.is_some_and(|(_, holder)| holder.sig_key != member.sig_key) {
            return Err(Refusal::MemberNameInUse);
        }
        let same_name = same_name.map(|(rank, _)| rank);
        if self.member(&member.id).is_some_and(|(rank, _)| Some(rank) != same_name) {
            return Err(Refusal::MemberIdInUse);
        }
        if let Some(rank) = same_name {
            // Whoever has been let in once needs no leave to come back.
            return Ok((rank, None));
        }
        let key = member.sig_key.fingerprint();
        if self.expelled.contains(&key) {
            return Err(Refusal::Expelled);
        }
        let token = self.check_policy(&key, admission, now)?;
        Ok((self.free_rank().ok_or(Refusal::ClusterFull { size: self.size })?, token))
    }

    /// # Errors
    /// A [`Refusal`] if a member may not bring so many endpoints.
    pub fn check_endpoints(&self, got: usize) -> Result<(), Refusal> {
        if got == 0 {
            return Err(Refusal::NoEndpoint);
        }
        if got < self.endpoint_count as usize {
            return Err(Refusal::TooFewEndpoints { got, asked: self.endpoint_count });
        }
        if got > MEMBER_ENDPOINTS_MAX {
            return Err(Refusal::TooManyEndpoints { got });
        }
        Ok(())
    }

    fn check_policy(
        &self,
        key: &Fingerprint,
        admission: &Admission,
        now: Time,
    ) -> Result<Option<TokenId>, Refusal> {
        match (&self.policy, admission) {
            (Policy::Open, _) => Ok(None),
            (Policy::Keys(keys), _) if keys.contains(key) => {
                self.check_share(keys, key).map(|()| None)
            }
            (Policy::Keys(_), _) => Err(Refusal::KeyNotAllowed),
            (Policy::Token, Admission::Token(proof)) => {
                // Only whoever knows the secret hears what has become of the token.
                let known = self.token(&proof.id).filter(|token| token.digest == proof.digest);
                let token = known.ok_or(Refusal::TokenInvalid)?;
                if now >= token.expires {
                    return Err(Refusal::TokenExpired);
                }
                if token.uses >= token.uses_max {
                    // Another token would be of no use to it.
                    let full = Refusal::ClusterFull { size: self.size };
                    return Err(self.free_rank().map_or(full, |_| Refusal::TokenSpent));
                }
                Ok(Some(token.id))
            }
            (Policy::Token, Admission::Key | Admission::OldWire) => Err(Refusal::TokenRequired),
        }
    }

    /// Each key of a list has a rank kept for it until it takes one, or one key with several IDs could
    /// shut the others out. Of a list that is shorter than the cluster, keys may have more.
    fn check_share(&self, keys: &BTreeSet<Fingerprint>, key: &Fingerprint) -> Result<(), Refusal> {
        let there: BTreeSet<_> =
            self.holders().map(|(_, holder)| holder.sig_key.fingerprint()).collect();
        let may_come = |key: &&Fingerprint| !there.contains(key) && !self.expelled.contains(key);
        let free = (self.size as usize).saturating_sub(self.holders().count());
        if there.contains(key) && free > 0 && free <= keys.iter().filter(may_come).count() {
            return Err(Refusal::RanksKept);
        }
        Ok(())
    }

    /// The lowest rank that nobody holds.
    fn free_rank(&self) -> Option<usize> {
        let vacant = self.seats.iter().position(|seat| *seat == Seat::Free);
        vacant.or((self.seats.len() < self.size as usize).then_some(self.seats.len()))
    }

    /// This cluster after `rank` has become `seat` by an event of `kind`.
    #[must_use]
    pub fn with_seat(&self, rank: usize, seat: Seat, kind: EventKind, now: Time) -> Self {
        let mut cluster = self.clone();
        let left = matches!(seat, Seat::Left(_));
        let about = seat.holder().or_else(|| self.seats.get(rank)?.holder()).cloned();
        match cluster.seats.get_mut(rank) {
            Some(place) => *place = seat,
            None => cluster.seats.push(seat),
        }
        while cluster.seats.last() == Some(&Seat::Free) {
            cluster.seats.pop();
        }
        cluster.revision += 1;
        cluster.active = now;
        let complete = cluster.is_complete();
        if complete {
            cluster.life.fill_by = None;
        }
        if let Some(member) = about {
            let revision = cluster.revision;
            cluster.events.push(Event { revision, kind, rank, member, left, complete });
        }
        cluster
    }

    /// Takes a change that a registry has told of, as a watcher does. Ranks beyond the size are no
    /// change of this cluster, and left alone.
    pub fn follow(&mut self, event: &Event) {
        if event.rank >= self.size as usize {
            return;
        }
        let member = Arc::clone(&event.member);
        let seat = match (event.kind, event.left) {
            (EventKind::Expelled, _) => Seat::Free,
            (_, true) => Seat::Left(member),
            (_, false) => Seat::Present(member),
        };
        if self.seats.len() <= event.rank {
            self.seats.resize(event.rank + 1, Seat::Free);
        }
        if let Some(place) = self.seats.get_mut(event.rank) {
            *place = seat;
        }
        while self.seats.last() == Some(&Seat::Free) {
            self.seats.pop();
        }
        self.revision = event.revision;
        if event.complete {
            self.life.fill_by = None;
        }
    }

    /// This cluster with one use of a token more.
    #[must_use]
    pub fn with_use_of(mut self, id: &TokenId) -> Self {
        if let Some(token) = self.tokens.iter_mut().find(|token| token.id == *id) {
            Arc::make_mut(token).uses += 1;
        }
        self
    }

    /// The state of this cluster that tells watchers of its end, which is no change of the roster.
    #[must_use]
    pub fn ended(&self, how: Gone) -> Self {
        Self { gone: Some(how), ..self.clone() }
    }
}
