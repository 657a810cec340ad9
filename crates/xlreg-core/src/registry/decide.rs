//! What each command leads to.

use std::sync::Arc;

use super::{
    Actor, Because, Change, Command, Counts, Decision, NewToken, Outcome, Refusal, View, Who,
};
use crate::admission::{Token, TokenId, token_uses};
use crate::cluster::{EventKind, Gone, NewCluster};
use crate::limits::{CLUSTER_EXPELLED_MAX, CLUSTER_TOKENS_MAX, POLICY_KEYS_MAX, TOKEN_USES_MAX};
use crate::{
    Admission, Cluster, ClusterId, ClusterKey, Endpoint, Fingerprint, Member, NodeId, Policy,
    PublicKey, Seat, Time,
};

/// What `command` leads to at the time `now`, given what `view` shows.
///
/// # Errors
/// A [`Refusal`], and then nothing changes.
pub fn decide(command: &Command, now: Time, view: &impl View) -> Result<Decision, Refusal> {
    let rules = Rules { view, now };
    match command {
        Command::Register { claimed, fresh, sig_key, comms_key } => {
            rules.register(claimed.as_ref(), fresh, sig_key, comms_key.as_ref())
        }
        Command::Rotate { old, sig_key, comms_key } => {
            rules.rotate(old, sig_key.as_ref(), comms_key.as_ref())
        }
        Command::Create { new, owner, fresh, strict } => rules.create(new, owner, fresh, *strict),
        Command::Join { cluster, member, admission } => rules.join(cluster, member, admission),
        Command::Leave { cluster, who } => rules.leave(cluster, who),
        Command::Move { cluster, who, endpoints, signed } => {
            rules.relocate(cluster, who, endpoints, signed.as_ref())
        }
        Command::Expel { cluster, by, member } => rules.expel(cluster, by, member),
        Command::Delete { cluster, by } => rules.delete(cluster, by),
        Command::IssueToken { cluster, by, token } => rules.issue(cluster, by, token),
        Command::RevokeToken { cluster, by, token } => rules.revoke(cluster, by, token),
        Command::Expire { cluster, because } => Ok(rules.expire(cluster, *because)),
        Command::Touch { cluster } => Ok(rules.touch(cluster)),
    }
}

/// The state to decide against, and when.
struct Rules<'a, V> {
    view: &'a V,
    now: Time,
}

impl<V: View> Rules<'_, V> {
    /// An ID that is brought is taken if it is free or the key's own. Without one, a key gets its
    /// latest ID again, and a new key a fresh one.
    fn register(
        &self,
        claimed: Option<&NodeId>,
        fresh: &NodeId,
        sig_key: &Fingerprint,
        comms_key: Option<&PublicKey>,
    ) -> Result<Decision, Refusal> {
        let record = self.view.key(sig_key);
        if record.is_retired() {
            return Err(Refusal::KeyRetired);
        }
        let id = *claimed.or(record.latest.as_ref()).unwrap_or(fresh);
        let mut changes = Vec::new();
        match self.view.owner(&id) {
            Some(owner) if owner == *sig_key => {}
            Some(_) => return Err(Refusal::IdInUse),
            None => {
                let Counts { nodes, .. } = self.view.counts();
                room(nodes, self.view.limits().nodes_max)?;
                let max = self.view.limits().ids_per_key_max;
                quota("IDs", record.ids().count(), max)?;
                changes.push(Change::Node { id, sig_key: *sig_key });
            }
        }
        if let Some(key) = comms_key {
            match self.view.comms_key(&id) {
                Some(bound) if bound == *key => {}
                Some(_) => return Err(Refusal::CommsKeyDiffers),
                None => changes.push(Change::Comms { id, key: key.clone() }),
            }
        }
        Ok(Decision { outcome: Outcome::Registered(id), changes })
    }

    /// All that the old key has goes to the new one: IDs, ranks, clusters, and having been expelled; and,
    /// in the clusters of these, its place on the list of who may join. Nothing leads from a key to the
    /// other clusters that name it: anybody may name any, as often as he likes.
    fn rotate(
        &self,
        old: &Fingerprint,
        sig_key: Option<&PublicKey>,
        comms_key: Option<&PublicKey>,
    ) -> Result<Decision, Refusal> {
        self.not_retired(old)?;
        let record = self.view.key(old);
        let ids: Vec<_> = record.ids().collect();
        if ids.is_empty() {
            return Err(Refusal::NotRegistered);
        }
        let new = sig_key.map_or(*old, PublicKey::fingerprint);
        let mut changes = Vec::new();
        if new != *old {
            let known = self.view.key(&new);
            let has_some = !known.owned().is_empty() || !known.joined().is_empty();
            if known.latest.is_some() || known.is_retired() || has_some {
                return Err(Refusal::KeyInUse);
            }
            room(self.view.counts().retired, self.view.limits().nodes_max)?;
            changes.push(Change::Retired { old: *old, new });
        }
        if let Some(key) = comms_key {
            let other = |id: &&NodeId| self.view.comms_key(id).as_ref() != Some(key);
            let bind = |id: &NodeId| Change::Comms { id: *id, key: key.clone() };
            changes.extend(ids.iter().filter(other).map(bind));
        }
        let mut concerned: Vec<ClusterId> =
            [record.joined(), record.owned(), record.barred()].concat();
        concerned.sort_unstable();
        concerned.dedup();
        for id in concerned {
            if let Some(cluster) = self.view.cluster(&id) {
                changes.extend(self.rotated(&cluster, old, sig_key, comms_key));
            }
        }
        Ok(Decision { outcome: Outcome::Rotated { ids, sig_key: new }, changes })
    }

    /// What a rotation changes in one cluster.
    fn rotated(
        &self,
        before: &Cluster,
        old: &Fingerprint,
        sig_key: Option<&PublicKey>,
        comms_key: Option<&PublicKey>,
    ) -> Vec<Change> {
        let mut cluster = before.clone();
        let mut ranks = Vec::new();
        for rank in before.ranks_of(old) {
            let Some(known) = before.seats.get(rank) else { continue };
            let renewed = |known: Arc<Member>| {
                let mut member = Member::clone(&known);
                member.sig_key = sig_key.cloned().unwrap_or(member.sig_key);
                member.comms_key = comms_key.cloned().unwrap_or(member.comms_key);
                if !member.is_like(&known) {
                    // It was over the old keys.
                    member.entry_signature = None;
                }
                Arc::new(member)
            };
            let seat = match known.clone() {
                Seat::Free => continue,
                Seat::Present(member) => Seat::Present(renewed(member)),
                Seat::Left(member) => Seat::Left(renewed(member)),
            };
            // Nobody need hear that a member has the keys that it had.
            if seat != *known {
                cluster = cluster.with_seat(rank, seat, EventKind::Rotated, self.now);
                ranks.push(rank);
            }
        }
        let new = sig_key.map_or(*old, PublicKey::fingerprint);
        let owned = before.owner == Some(*old) && new != *old;
        if owned {
            cluster.owner = Some(new);
        }
        let listed = new != *old && cluster.policy.replace(old, new);
        // Who was expelled does not come back with another key.
        let barred = new != *old && cluster.expelled.remove(old);
        if barred {
            cluster.expelled.insert(new);
        }
        let cluster = Arc::new(cluster);
        let expelled = barred.then(|| Change::Expelled {
            cluster: Arc::clone(&cluster),
            key: new,
            was: Some(*old),
        });
        let terms = || Change::Terms { cluster: Arc::clone(&cluster), was: before.owner };
        let terms = (owned || listed).then(terms);
        let seat = |rank| Change::Seat { cluster: Arc::clone(&cluster), rank, was: Some(*old) };
        ranks.into_iter().map(seat).chain(terms).chain(expelled).collect()
    }

    /// A known name answers with the cluster that has it, unless its time is over.
    fn create(
        &self,
        new: &NewCluster,
        owner: &Fingerprint,
        fresh: &ClusterId,
        strict: bool,
    ) -> Result<Decision, Refusal> {
        self.not_retired(owner)?;
        if let Policy::Keys(keys) = &new.policy
            && keys.len() > POLICY_KEYS_MAX
        {
            return Err(Refusal::Quota { what: "keys in the list", max: POLICY_KEYS_MAX });
        }
        let mut changes = Vec::new();
        let mut freed = 0;
        let fresh = Cluster::new(*fresh, new, Some(*owner), self.now);
        if let Some(known) = self.view.cluster_id(&new.name).and_then(|id| self.view.cluster(&id)) {
            if !known.is_over(self.now) {
                let alike = (known.size, known.endpoint_count)
                    == (fresh.size, fresh.endpoint_count)
                    && known.policy.is_like(&fresh.policy);
                if strict && !alike {
                    let Cluster { size, endpoint_count, .. } = *known;
                    return Err(Refusal::ClusterDiffers { size, endpoint_count });
                }
                return Ok(Decision::nothing_new(Outcome::Created { cluster: known, new: false }));
            }
            freed = usize::from(known.owner == Some(*owner));
            changes.push(Change::Gone(Arc::new(known.ended(Gone::Expired))));
        }
        let limits = self.view.limits();
        room(self.view.counts().clusters, limits.clusters_max + changes.len())?;
        quota("clusters", self.view.key(owner).owned().len(), limits.clusters_per_key_max + freed)?;
        // Chance alone does not bring a fresh ID up twice; a broken source of randomness would.
        if self.view.cluster(&fresh.id).is_some() {
            return Err(Refusal::IdInUse);
        }
        let cluster = Arc::new(fresh);
        changes.push(Change::Cluster(Arc::clone(&cluster)));
        Ok(Decision { outcome: Outcome::Created { cluster, new: true }, changes })
    }

    /// A member that is there already with these very words changes nothing, also if it does not sign
    /// them again.
    fn join(
        &self,
        key: &ClusterKey,
        member: &Arc<Member>,
        admission: &Admission,
    ) -> Result<Decision, Refusal> {
        let sig_key = member.sig_key.fingerprint();
        self.not_retired(&sig_key)?;
        if self.view.comms_key(&member.id).is_some_and(|bound| bound != member.comms_key) {
            return Err(Refusal::CommsKeyDiffers);
        }
        let cluster = self.live(key)?;
        let (rank, token) = cluster.admit(member, admission, self.now)?;
        let before = cluster.seats.get(rank).unwrap_or(&Seat::Free);
        let member = &signed_before(member, before);
        if before.present() == Some(member) {
            let outcome = Outcome::Joined { cluster, rank, changed: false };
            return Ok(Decision::nothing_new(outcome));
        }
        let kind = match before {
            Seat::Free => EventKind::Joined,
            Seat::Present(_) => EventKind::Updated,
            Seat::Left(_) => EventKind::Returned,
        };
        let was = before.holder().map(|holder| holder.sig_key.fingerprint());
        if was.is_none() {
            let limits = self.view.limits();
            room(self.view.counts().members, limits.members_max)?;
            let record = self.view.key(&sig_key);
            // Ranks that it has lost count, too: a rotation has to look at those clusters.
            let held = record.joined().len() + record.barred().len();
            quota("ranks", held, limits.memberships_per_key_max)?;
        }
        let mut after = cluster.with_seat(rank, Seat::Present(Arc::clone(member)), kind, self.now);
        if let Some(token) = &token {
            after = after.with_use_of(token);
        }
        let formed = cluster.life.fill_by.is_some() && after.life.fill_by.is_none();
        let cluster = Arc::new(after);
        let mut changes = vec![Change::Seat { cluster: Arc::clone(&cluster), rank, was }];
        if let Some(token) = token {
            changes.push(Change::Token { cluster: Arc::clone(&cluster), token });
        }
        if formed {
            let was = cluster.owner;
            changes.push(Change::Terms { cluster: Arc::clone(&cluster), was });
        }
        Ok(Decision { outcome: Outcome::Joined { cluster, rank, changed: true }, changes })
    }

    fn leave(&self, key: &ClusterKey, who: &Who) -> Result<Decision, Refusal> {
        let cluster = self.live(key)?;
        let rank = self.rank_of(&cluster, who)?;
        let Some(Seat::Present(member)) = cluster.seats.get(rank) else {
            return Ok(Decision::nothing_new(Outcome::Unchanged(cluster)));
        };
        let seat = Seat::Left(Arc::clone(member));
        Ok(self.reseat(&cluster, rank, seat, EventKind::Left))
    }

    fn relocate(
        &self,
        key: &ClusterKey,
        who: &Who,
        endpoints: &[Endpoint],
        signed: Option<&Arc<Member>>,
    ) -> Result<Decision, Refusal> {
        let cluster = self.live(key)?;
        cluster.check_endpoints(endpoints.len())?;
        let rank = self.rank_of(&cluster, who)?;
        let Some(before @ Seat::Present(member)) = cluster.seats.get(rank) else {
            return Err(Refusal::NotAMember);
        };
        let moved = Member {
            endpoints: endpoints.to_vec(),
            entry_signature: None,
            ..Member::clone(member)
        };
        let moved = match signed {
            // It may have become another since its holder looked at it, and signed.
            Some(signed) if !signed.is_like(&moved) => return Err(Refusal::EntryDiffers),
            Some(signed) => Arc::clone(signed),
            None => signed_before(&Arc::new(moved), before),
        };
        if moved == *member {
            return Ok(Decision::nothing_new(Outcome::Unchanged(cluster)));
        }
        Ok(self.reseat(&cluster, rank, Seat::Present(moved), EventKind::Updated))
    }

    /// One rank becomes something else, by whoever holds it.
    fn reseat(&self, cluster: &Cluster, rank: usize, seat: Seat, kind: EventKind) -> Decision {
        let was = seat.holder().map(|holder| holder.sig_key.fingerprint());
        let cluster = Arc::new(cluster.with_seat(rank, seat, kind, self.now));
        let change = Change::Seat { cluster: Arc::clone(&cluster), rank, was };
        Decision { outcome: Outcome::Changed(cluster), changes: vec![change] }
    }

    /// All ranks of the member's key become free, lest it stay under another name. So the member is
    /// found by any of its key's IDs, whichever it has put in its place meanwhile.
    fn expel(&self, key: &ClusterKey, by: &Actor, member: &NodeId) -> Result<Decision, Refusal> {
        let cluster = self.commanded(key, by)?;
        let shown = cluster.member(member).map(|(_, member)| member.sig_key.fingerprint());
        let key = shown.or_else(|| self.view.owner(member));
        let here = key.filter(|key| cluster.ranks_of(key).next().is_some());
        let out = here.ok_or(Refusal::NotAMember)?;
        if !cluster.expelled.contains(&out) {
            quota("expelled keys", cluster.expelled.len(), CLUSTER_EXPELLED_MAX)?;
        }
        let ranks: Vec<_> = cluster.ranks_of(&out).collect();
        let mut after = Cluster::clone(&cluster);
        after.expelled.insert(out);
        for rank in &ranks {
            after = after.with_seat(*rank, Seat::Free, EventKind::Expelled, self.now);
        }
        let cluster = Arc::new(after);
        let seat = |rank| Change::Seat { cluster: Arc::clone(&cluster), rank, was: Some(out) };
        let expelled = Change::Expelled { cluster: Arc::clone(&cluster), key: out, was: None };
        let changes = ranks.into_iter().map(seat).chain([expelled]).collect();
        Ok(Decision { outcome: Outcome::Changed(cluster), changes })
    }

    fn delete(&self, key: &ClusterKey, by: &Actor) -> Result<Decision, Refusal> {
        let cluster = self.commanded(key, by)?;
        let ended = Arc::new(cluster.ended(Gone::Deleted));
        let changes = vec![Change::Gone(ended)];
        Ok(Decision { outcome: Outcome::Ended(cluster), changes })
    }

    fn issue(&self, key: &ClusterKey, by: &Actor, new: &NewToken) -> Result<Decision, Refusal> {
        let cluster = self.commanded(key, by)?;
        if cluster.token(&new.id).is_some() {
            return Err(Refusal::IdInUse);
        }
        let uses_max = token_uses(new.uses, cluster.size)
            .ok_or(Refusal::Quota { what: "uses of a token", max: TOKEN_USES_MAX as usize })?;
        let token = Arc::new(Token {
            id: new.id,
            digest: new.digest,
            label: new.label.clone(),
            created: self.now,
            // No longer than there is something to join.
            expires: cluster.life.ends.into_iter().fold(self.now.after(new.ttl), Time::min),
            uses_max,
            uses: 0,
        });
        let mut after = Cluster::clone(&cluster);
        let over = after.tokens.iter().position(|token| token.is_over(self.now));
        let full = after.tokens.len() >= CLUSTER_TOKENS_MAX;
        let dropped = match over {
            Some(place) if full => Some(after.tokens.remove(place).id),
            _ => {
                quota("tokens of this cluster", after.tokens.len(), CLUSTER_TOKENS_MAX)?;
                None
            }
        };
        after.tokens.push(Arc::clone(&token));
        after.active = self.now;
        let cluster = Arc::new(after);
        let tokens = dropped.into_iter().chain([new.id]);
        let changes =
            tokens.map(|token| Change::Token { cluster: Arc::clone(&cluster), token }).collect();
        Ok(Decision { outcome: Outcome::Issued { cluster, token }, changes })
    }

    fn revoke(&self, key: &ClusterKey, by: &Actor, token: &TokenId) -> Result<Decision, Refusal> {
        let cluster = self.commanded(key, by)?;
        if cluster.token(token).is_none() {
            return Err(Refusal::UnknownToken);
        }
        let mut after = Cluster::clone(&cluster);
        after.tokens.retain(|known| known.id != *token);
        let cluster = Arc::new(after);
        let changes = vec![Change::Token { cluster: Arc::clone(&cluster), token: *token }];
        Ok(Decision { outcome: Outcome::Changed(cluster), changes })
    }

    /// What seemed to be over may be no more: whoever asks has looked some time ago.
    fn expire(&self, id: &ClusterId, because: Because) -> Decision {
        let over = self.view.cluster(id).filter(|cluster| match because {
            Because::Time => cluster.is_over(self.now),
            Because::Idle => cluster.is_idle(self.now),
            Because::OwnerGone => cluster.life.with_owner,
        });
        let Some(cluster) = over else { return Decision::nothing_new(Outcome::Nothing) };
        let ended = Arc::new(cluster.ended(Gone::Expired));
        Decision { outcome: Outcome::Ended(cluster), changes: vec![Change::Gone(ended)] }
    }

    fn touch(&self, id: &ClusterId) -> Decision {
        match self.view.cluster(id) {
            Some(cluster) if cluster.life.idle.is_some() && cluster.active < self.now => {
                let cluster = Arc::new(Cluster { active: self.now, ..Cluster::clone(&cluster) });
                let changes = vec![Change::Touched(Arc::clone(&cluster))];
                Decision { outcome: Outcome::Changed(cluster), changes }
            }
            _ => Decision::nothing_new(Outcome::Nothing),
        }
    }

    /// The cluster a request means, if its time is not over.
    fn live(&self, key: &ClusterKey) -> Result<Arc<Cluster>, Refusal> {
        let cluster = self.view.find(key)?;
        if cluster.is_over(self.now) { Err(Refusal::unknown(key)) } else { Ok(cluster) }
    }

    /// The cluster, if `by` may command it.
    fn commanded(&self, key: &ClusterKey, by: &Actor) -> Result<Arc<Cluster>, Refusal> {
        self.not_retired(&by.sig_key)?;
        let cluster = self.live(key)?;
        if by.commands(&cluster) { Ok(cluster) } else { Err(Refusal::NotOwner) }
    }

    /// The one rank that is meant.
    fn rank_of(&self, cluster: &Cluster, who: &Who) -> Result<usize, Refusal> {
        self.not_retired(&who.sig_key)?;
        cluster.entry_of(who).map(|(rank, _)| rank)
    }

    fn not_retired(&self, key: &Fingerprint) -> Result<(), Refusal> {
        if self.view.key(key).is_retired() { Err(Refusal::KeyRetired) } else { Ok(()) }
    }
}

/// A member with the signature that its entry had before, if it brings none and says the same.
fn signed_before(member: &Arc<Member>, before: &Seat) -> Arc<Member> {
    match before.holder() {
        Some(known) if member.entry_signature.is_none() && known.is_like(member) => {
            Arc::clone(known)
        }
        _ => Arc::clone(member),
    }
}

fn room(have: usize, max: usize) -> Result<(), Refusal> {
    if have < max { Ok(()) } else { Err(Refusal::RegistryFull) }
}

fn quota(what: &'static str, have: usize, max: usize) -> Result<(), Refusal> {
    if have < max { Ok(()) } else { Err(Refusal::Quota { what, max }) }
}
