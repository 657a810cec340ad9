//! What all tasks of a run share: chance, time, the trace, the truth, and the network's state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use xlreg_core::{Change, Fingerprint, Time};
use xlreg_store::Clock;
use xlreg_store::simulation::{Course, Fate, Weather};

use crate::chance::Chance;
use crate::executor::Tasks;
use crate::history::{Checked, History};
use crate::keys::Who;

/// When every run begins.
const BEGIN: Time = Time::from_millis(1_800_000_000_000);

/// Shared by all tasks of one run.
pub(crate) struct World {
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    chance: Mutex<Chance>,
    trace: Mutex<Trace>,
    history: Mutex<History>,
    climate: Mutex<Climate>,
    began: Instant,
    /// Nodes whose keys have been rotated, as far as they know themselves.
    rotated: Mutex<BTreeSet<usize>>,
    /// The latest token of each cluster, by its number.
    tokens: Mutex<BTreeMap<u64, String>>,
    /// The latest endpoint of the modern door, and those of each node by the old wire.
    stamp: AtomicU16,
    signed_stamps: Mutex<BTreeMap<usize, u16>>,
    over: AtomicBool,
}

/// What goes wrong at present.
#[derive(Default)]
struct Climate {
    /// Nothing goes wrong any more.
    calm: bool,
    /// By how much misfortunes are rarer than they would be: each run has its own.
    mildness: u64,
    /// What the next commits come to, if it is settled.
    disk: Option<Fate>,
    /// Nodes that no connection gets through to.
    cut_off: BTreeSet<usize>,
    /// How far the registry's clock is from the time that has passed, in milliseconds.
    offset: i64,
    /// When the clock was set last.
    told: Option<Duration>,
}

/// What has happened.
pub(crate) struct Trace {
    /// All of it, in order, if it was to be kept.
    pub(crate) lines: Option<Vec<String>>,
    hasher: DefaultHasher,
    line: String,
    pub(crate) violation: Option<String>,
    pub(crate) tally: Tally,
}

/// How much has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Commits that were kept.
    pub commits: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Crashes and stops of the server.
    pub ends: u64,
    /// Answers that were checked.
    pub answers: u64,
    /// Things that watchers were told.
    pub news: u64,
    /// Rosters that were waited for and came.
    pub formed: u64,
    /// Connections that broke.
    pub broken: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(seed: u64, registry: Fingerprint, keep_trace: bool) -> Arc<Self> {
        let mut chance = Chance::new(seed);
        let mildness = [1, 1, 4, 20].get(usize::try_from(chance.below(4)).unwrap_or(0)).copied();
        let climate = Climate { mildness: mildness.unwrap_or(1), ..Climate::default() };
        let trace = Trace {
            lines: keep_trace.then(Vec::new),
            hasher: DefaultHasher::new(),
            line: String::new(),
            violation: None,
            tally: Tally::default(),
        };
        Arc::new(Self {
            tasks: Tasks::default(),
            clock: Clock::standing(BEGIN),
            chance: Mutex::new(chance),
            trace: Mutex::new(trace),
            history: Mutex::new(History::new(registry)),
            climate: Mutex::new(climate),
            began: Instant::now(),
            rotated: Mutex::default(),
            tokens: Mutex::default(),
            stamp: AtomicU16::new(20_000),
            signed_stamps: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    // ---- chance ----

    pub(crate) fn below(&self, end: u64) -> u64 {
        lock(&self.chance).below(end)
    }

    pub(crate) fn one_in(&self, times: u64) -> bool {
        lock(&self.chance).one_in(times)
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        lock(&self.chance).millis(from, to)
    }

    pub(crate) fn pause(&self, from: u64, to: u64) -> impl Future<Output = ()> + Send + use<> {
        sleep(self.millis(from, to))
    }

    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        lock(&self.chance).fill(bytes);
    }

    /// Chance for somebody else, from this.
    pub(crate) fn fork(&self) -> Chance {
        Chance::new(lock(&self.chance).next())
    }

    /// An endpoint's port that nobody else has.
    pub(crate) fn stamp(&self) -> u16 {
        self.stamp.fetch_add(1, Ordering::Relaxed)
    }

    /// The same for what a node will sign: the same few in each run, so that each is signed once.
    pub(crate) fn signed_stamp(&self, number: usize) -> u16 {
        let mut stamps = lock(&self.signed_stamps);
        let first = u16::try_from(number).unwrap_or(0).saturating_add(1).saturating_mul(1000);
        let stamp = stamps.entry(number).or_insert(first);
        *stamp += 1;
        *stamp
    }

    // ---- what nodes know of themselves and each other ----

    pub(crate) fn who(&self, number: usize) -> Who {
        Who { number, rotated: lock(&self.rotated).contains(&number) }
    }

    /// A node has heard that its first key is of no use any more.
    pub(crate) fn rotated(&self, number: usize) {
        lock(&self.rotated).insert(number);
    }

    pub(crate) fn token(&self, cluster: u64) -> String {
        lock(&self.tokens).get(&cluster).cloned().unwrap_or_default()
    }

    pub(crate) fn hand_out(&self, cluster: u64, token: String) {
        lock(&self.tokens).insert(cluster, token);
    }

    // ---- time ----

    /// How long the run has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets the registry's clock show what time has passed.
    pub(crate) fn tick(&self) {
        let elapsed = self.elapsed();
        let mut climate = lock(&self.climate);
        if climate.told.replace(elapsed) != Some(elapsed) {
            let now = BEGIN.after(elapsed).as_millis();
            let now = now.saturating_add_signed(climate.offset);
            drop(climate);
            self.clock.set(Time::from_millis(now));
        }
    }

    /// Sets the registry's clock forward, or back.
    pub(crate) fn jump(&self, by_millis: i64) {
        let mut climate = lock(&self.climate);
        climate.offset += by_millis;
        climate.told = None;
    }

    // ---- the trace ----

    /// Notes what happens.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let mut trace = lock(&self.trace);
        let elapsed = self.elapsed();
        let Trace { lines, hasher, line, .. } = &mut *trace;
        line.clear();
        // Writing into a string does not fail.
        let _written = write!(line, "{:>6} {what}", elapsed.as_millis());
        hasher.write(line.as_bytes());
        if let Some(lines) = lines {
            lines.push(line.clone());
        }
    }

    /// Notes that something is not as promised, which ends the run.
    pub(crate) fn check(&self, whose: fmt::Arguments<'_>, checked: Checked) {
        lock(&self.trace).tally.answers += 1;
        let Err(wrong) = checked else { return };
        self.note(format_args!("{whose}: VIOLATION: {wrong}"));
        let mut trace = lock(&self.trace);
        let at = self.elapsed().as_millis();
        trace.violation.get_or_insert_with(|| format!("at {at} ms, {whose}: {wrong}"));
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut lock(&self.trace).tally);
    }

    /// What has happened, and a number that stands for all of it.
    pub(crate) fn told(&self) -> (MutexGuard<'_, Trace>, u64) {
        let trace = lock(&self.trace);
        let hash = trace.hasher.finish();
        (trace, hash)
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether the run is over, in a good way or another.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || lock(&self.trace).violation.is_some()
    }

    // ---- faults ----

    pub(crate) fn is_calm(&self) -> bool {
        lock(&self.climate).calm
    }

    /// From now on nothing goes wrong.
    pub(crate) fn calm(&self) {
        let mut climate = lock(&self.climate);
        climate.calm = true;
        climate.disk = None;
        climate.cut_off.clear();
    }

    /// True once in so many times, or more rarely in a milder world, until it is calm.
    pub(crate) fn misfortune(&self, once_in: u64) -> bool {
        let mildness = lock(&self.climate).mildness;
        self.one_in(once_in * mildness) && !self.is_calm()
    }

    /// How much milder than the worst this world is.
    pub(crate) fn mildness(&self) -> u64 {
        lock(&self.climate).mildness
    }

    pub(crate) fn settle_disk(&self, fate: Option<Fate>) {
        lock(&self.climate).disk = fate;
    }

    pub(crate) fn cut_off(&self, node: usize, cut: bool) {
        let cut_off = &mut lock(&self.climate).cut_off;
        if cut {
            cut_off.insert(node);
        } else {
            cut_off.remove(&node);
        }
    }

    pub(crate) fn is_cut_off(&self, node: usize) -> bool {
        lock(&self.climate).cut_off.contains(&node)
    }
}

impl Weather for World {
    fn course(&self) -> Course {
        let (before, after) = if self.misfortune(20) {
            (self.millis(0, 3000), self.millis(0, 3000))
        } else {
            (self.millis(0, 6), self.millis(0, 4))
        };
        let settled = lock(&self.climate).disk;
        let chance = || {
            if !self.misfortune(60) {
                Fate::Kept
            } else if self.one_in(2) {
                Fate::KeptAndDenied
            } else {
                Fate::Torn(usize::try_from(self.below(3)).unwrap_or(0))
            }
        };
        let fate = settled.unwrap_or_else(chance);
        if fate != Fate::Kept {
            self.note(format_args!("disk: the commit is {fate:?}"));
            self.count(|tally| tally.failed_commits += 1);
        }
        Course { before, fate, after }
    }

    fn kept(&self, changes: &[&Change]) {
        self.note(format_args!("disk: {} changes kept", changes.len()));
        self.count(|tally| tally.commits += 1);
        let kept = self.history().keep(changes);
        self.check(format_args!("disk"), kept);
    }

    fn is_due(&self) -> bool {
        self.one_in(50)
    }

    fn checkpoint(&self) -> bool {
        !self.misfortune(30)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.commits += other.commits;
        self.failed_commits += other.failed_commits;
        self.ends += other.ends;
        self.answers += other.answers;
        self.news += other.news;
        self.formed += other.formed;
        self.broken += other.broken;
    }
}
