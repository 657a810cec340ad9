//! Clients over both doors, who note what they were answered.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};
use xlreg::{
    ClusterKey, Dialect, Error, Identity, Name, NewCluster, NewToken, Policy, PrivateKey, Reason,
    Registry, TokenSecret,
};
use xlreg_core::Refusal;
use xlreg_store::{Engine as _, LocalEngine};

use crate::dice::Dice;
use crate::model::{Done, Known, Model, Place, Registration, Uses, Wrong};

/// Clients that work at once.
pub(crate) const CLIENTS: usize = 12;

/// Who they are; each client takes some of these.
const IDENTITIES: usize = 8;

/// For how long a request may have no answer; then nothing is known of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts while the registry is away.
const PAUSE: Duration = Duration::from_millis(20);

/// How often a client tries something again that got no answer.
const ATTEMPTS: u64 = 40;

/// Clusters that are looked at after a start, of those that had news.
const LOOKS_MAX: usize = 60;

/// The doors, and those who go through them.
pub(crate) struct Load {
    doors: [Registry; 3],
    identities: Vec<Identity>,
    keys: Vec<[PrivateKey; 2]>,
    model: Mutex<Model>,
    /// Whoever asks the registry for something is a reader until it is noted; whoever looks whether it
    /// is as noted, the writer.
    gate: RwLock<()>,
    names: AtomicU64,
}

/// How a request ended.
enum Answer<T> {
    Done(T),
    Refused,
    None,
}

impl Load {
    pub(crate) fn new(credentials: &Path) -> Self {
        let modern = Registry::open(credentials).unwrap();
        let old =
            [Dialect::V1_8, Dialect::V1_9].map(|dialect| modern.clone().with_dialect(dialect));
        let [v1_8, v1_9] = old;
        let make = || PrivateKey::generate().unwrap();
        let keys: Vec<_> = (0..IDENTITIES).map(|_| [make(), make()]).collect();
        let identity = |(number, [comms, sig]): (usize, &[PrivateKey; 2])| {
            Identity::from_keys(format!("m{number}").parse().unwrap(), copy(comms), copy(sig))
        };
        let identities = keys.iter().enumerate().map(identity).collect();
        Self {
            doors: [modern, v1_8, v1_9],
            identities,
            keys,
            model: Mutex::default(),
            gate: RwLock::default(),
            names: AtomicU64::new(0),
        }
    }

    pub(crate) fn counts(&self) -> String {
        let model = self.model.lock().unwrap();
        format!(
            "{} requests acknowledged, {} refused, {} without an answer; {} clusters, {} IDs",
            model.acknowledged,
            model.refused,
            model.unanswered,
            model.clusters.len(),
            model.nodes.len()
        )
    }

    /// One thing after another, until the client is aborted.
    pub(crate) async fn go_on(&self, mut dice: Dice) {
        loop {
            match dice.below(4) {
                0 => self.register(&mut dice).await,
                1 => self.redeem(&mut dice).await,
                _ => self.meet(&mut dice).await,
            }
        }
    }

    /// A new ID for keys that have some, by either door.
    async fn register(&self, dice: &mut Dice) {
        let [comms, sig] = &self.keys[dice.below(IDENTITIES as u64) as usize];
        let identity = Identity::from_keys("fresh".parse().unwrap(), copy(comms), copy(sig));
        let (id, sig_key) = (identity.id().unwrap(), identity.sig_key().fingerprint());
        let door = self.door(dice);
        self.ask(
            dice,
            |model| {
                model.nodes.insert(id, Registration { sig_key, done: Done::Maybe });
            },
            || door.register(&identity),
            |model, done| model.nodes.get_mut(&id).unwrap().done = done,
        )
        .await;
    }

    /// A cluster of two, which three want to be in; one leaves and comes back.
    async fn meet(&self, dice: &mut Dice) {
        let [a, b, c] = self.three(dice);
        let name = self.name("open");
        let new = NewCluster::open(name.clone(), 2, 1);
        self.create(self.door(dice), dice, a, &new).await;
        for member in [a, b, c] {
            self.join(self.door(dice), dice, member, &name, None).await;
        }
        if dice.one_in(4) {
            self.refuse_another(dice, c, new).await;
        }
        self.leave(dice, b, &name).await;
        if dice.one_in(2) {
            self.join(self.door(dice), dice, b, &name, None).await;
        }
    }

    /// A name that is taken stays so.
    async fn refuse_another(&self, dice: &mut Dice, owner: &Identity, new: NewCluster) {
        let there = known(&mut self.model.lock().unwrap(), &new.name).created == Done::Yes;
        let other = NewCluster { size: 3, ..new };
        let ask = || self.doors[0].create(owner, &other);
        let refused = |_: &mut Model, done| assert_ne!(done, Done::Yes, "{} twice", other.name);
        if there {
            self.ask(dice, |_| {}, ask, refused).await;
        }
    }

    /// A cluster that asks for a token, which two may redeem.
    async fn redeem(&self, dice: &mut Dice) {
        let [a, b, c] = self.three(dice);
        let name = self.name("token");
        let open = NewCluster::open(name.clone(), 3, 1);
        let new = NewCluster { policy: Policy::Token, ..open };
        let modern = &self.doors[0];
        self.create(modern, dice, a, &new).await;
        let key = ClusterKey::Name(name.clone());
        let asked = NewToken { max_uses: 2, ..NewToken::default() };
        let issued = self
            .ask(
                dice,
                |_| {},
                || modern.create_token(a, &key, &asked),
                |model, done| {
                    if done == Done::Yes {
                        known(model, &name).token = Some(Uses { max: 2, ..Uses::default() });
                    }
                },
            )
            .await;
        let Some((secret, _)) = issued else { return };
        self.join(modern, dice, c, &name, None).await;
        for member in [a, b, c] {
            self.join(modern, dice, member, &name, Some(&secret)).await;
        }
        self.leave(dice, a, &name).await;
    }

    async fn create(&self, door: &Registry, dice: &mut Dice, owner: &Identity, new: &NewCluster) {
        let name = &new.name;
        self.ask(
            dice,
            |model| {
                let known = Known { size: new.size, ..Known::default() };
                model.clusters.insert(name.clone(), known);
            },
            || door.create(owner, new),
            |model, done| known(model, name).created = done,
        )
        .await;
    }

    async fn join(
        &self,
        door: &Registry,
        dice: &mut Dice,
        member: &Identity,
        name: &Name,
        token: Option<&TokenSecret>,
    ) {
        let id = member.id().unwrap();
        let key = ClusterKey::Name(name.clone());
        let endpoints = || vec!["127.0.0.1:4001".parse().unwrap()];
        self.ask(
            dice,
            |model| {
                let known = known(model, name);
                let place = known.places.entry(id).or_default();
                if place.holds == Done::No {
                    place.holds = Done::Maybe;
                }
                place.present = Done::Maybe;
                if let (Some(_), Some(uses)) = (token, &mut known.token) {
                    uses.maybe += 1;
                }
            },
            || async { door.join_with(member, &key, endpoints(), token).await.map(drop) },
            |model, done| {
                let known = known(model, name);
                if done == Done::Yes {
                    known.created = Done::Yes;
                }
                joined(known.places.entry(id).or_default(), done);
                if let (Some(_), Some(uses)) = (token, &mut known.token) {
                    if done != Done::Maybe {
                        uses.maybe -= 1;
                    }
                    uses.certain += u32::from(done == Done::Yes);
                }
            },
        )
        .await;
    }

    async fn leave(&self, dice: &mut Dice, member: &Identity, name: &Name) {
        let id = member.id().unwrap();
        let key = ClusterKey::Name(name.clone());
        self.ask(
            dice,
            |model| known(model, name).places.entry(id).or_default().present = Done::Maybe,
            || self.doors[0].leave(member, &key),
            |model, done| {
                let place = known(model, name).places.entry(id).or_default();
                match done {
                    Done::Yes => place.present = Done::No,
                    // It is no member.
                    Done::No => place.holds = Done::No,
                    Done::Maybe => {}
                }
            },
        )
        .await;
    }

    /// Asks the registry for something, again if there is no answer, at times until it has been away and
    /// come back. Before that `about` notes that it may happen, and then `noted` how it ended.
    async fn ask<T, Asked: Future<Output = Result<T, Error>>>(
        &self,
        dice: &mut Dice,
        about: impl Fn(&mut Model),
        request: impl Fn() -> Asked,
        noted: impl Fn(&mut Model, Done),
    ) -> Option<T> {
        let attempts = if dice.one_in(2) { 1 } else { ATTEMPTS };
        for attempt in 0..attempts {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let _asking = self.gate.read().await;
            about(&mut self.model.lock().unwrap());
            let answer = answer(timeout(PATIENCE, request()).await);
            let mut model = self.model.lock().unwrap();
            match answer {
                Answer::Done(value) => {
                    model.acknowledged += 1;
                    noted(&mut model, Done::Yes);
                    return Some(value);
                }
                Answer::Refused => {
                    model.refused += 1;
                    noted(&mut model, Done::No);
                    return None;
                }
                Answer::None => {
                    model.unanswered += 1;
                    noted(&mut model, Done::Maybe);
                }
            }
        }
        None
    }

    fn three(&self, dice: &mut Dice) -> [&Identity; 3] {
        let first = dice.below(IDENTITIES as u64) as usize;
        [0, 1, 2].map(|place| &self.identities[(first + place) % IDENTITIES])
    }

    /// The modern door as often as the old one.
    fn door(&self, dice: &mut Dice) -> &Registry {
        &self.doors[[0, 0, 1, 2][dice.below(4) as usize]]
    }

    fn name(&self, kind: &str) -> Name {
        format!("{kind}_{}", self.names.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
    }

    /// Holds what was touched since the last look against what the registry says.
    pub(crate) async fn look_at_news(&self) -> Result<(), Wrong> {
        let _alone = self.gate.write().await;
        let news: Vec<_> =
            std::mem::take(&mut self.model.lock().unwrap().news).into_iter().collect();
        let step = news.len().div_ceil(LOOKS_MAX).max(1);
        for (number, name) in news.into_iter().enumerate().step_by(step) {
            let door = &self.doors[if number / step % 4 == 0 { 1 } else { 0 }];
            let onlooker = &self.identities[number % IDENTITIES];
            let shown = door.show(onlooker, &ClusterKey::Name(name.clone())).await;
            let mut model = self.model.lock().unwrap();
            let known = known(&mut model, &name);
            match shown {
                Ok(roster) if known.created != Done::No => known.see_roster(&name, &roster)?,
                Ok(_) => return Err(format!("{name} was refused, and is there")),
                Err(Error::Refused {
                    reason: Reason::Known(Refusal::UnknownClusterName), ..
                }) if known.created != Done::Yes => {}
                Err(error) => return Err(format!("{name}, {:?}: {error}", known.created)),
            }
        }
        Ok(())
    }

    /// Holds all that was ever asked for against the file, and says what that was.
    pub(crate) async fn look_at_everything(
        &self,
        engine: &LocalEngine,
        stored: u32,
    ) -> Result<String, Wrong> {
        let mut model = std::mem::take(&mut *self.model.lock().unwrap());
        let counts = engine.counts();
        let (mut clusters, mut members) = (0, 0);
        for (name, known) in &mut model.clusters {
            match engine.find(&ClusterKey::Name(name.clone())).await {
                Ok(cluster) if known.created != Done::No => {
                    clusters += 1;
                    members += cluster.holders().count();
                    known.see_cluster(&cluster)?;
                }
                Ok(_) => return Err(format!("{name} was refused, and is there")),
                Err(_) if known.created != Done::Yes => {}
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
        for (id, registration) in &model.nodes {
            let node =
                engine.node(&registration.sig_key).await.map_err(|error| error.to_string())?;
            match (registration.done, node.ids.contains(id)) {
                (Done::Yes, false) => return Err(format!("{id} was registered, and is gone")),
                (Done::No, true) => return Err(format!("{id} was refused, and is there")),
                _ => {}
            }
        }
        let expected = (clusters + stored as usize, members);
        if (counts.clusters, counts.members) != expected {
            return Err(format!("expected {expected:?} clusters and members, got {counts:?}"));
        }
        Ok(format!(
            "in the file: {clusters} clusters with {members} members, and {} IDs",
            counts.nodes
        ))
    }
}

/// The cluster, which has news now.
fn known<'m>(model: &'m mut Model, name: &Name) -> &'m mut Known {
    model.news.insert(name.clone());
    model.clusters.get_mut(name).expect("it was noted before it was asked for")
}

fn copy(key: &PrivateKey) -> PrivateKey {
    PrivateKey::from_pkcs1(key.pkcs1()).unwrap()
}

fn joined(place: &mut Place, done: Done) {
    match done {
        Done::Yes => (place.holds, place.present) = (Done::Yes, Done::Yes),
        Done::No => place.holds = Done::No,
        Done::Maybe => {}
    }
}

/// Sorts out what is known of a request. What is neither done nor refused nor the network's doing
/// must not happen.
fn answer<T>(ended: Result<Result<T, Error>, tokio::time::error::Elapsed>) -> Answer<T> {
    match ended {
        Ok(Ok(value)) => Answer::Done(value),
        Err(_) => Answer::None,
        Ok(Err(error)) if error.is_transient() => Answer::None,
        Ok(Err(Error::Refused { reason: Reason::Known(_), .. } | Error::Differs { .. })) => {
            Answer::Refused
        }
        Ok(Err(error)) => panic!("{error:?}"),
    }
}
