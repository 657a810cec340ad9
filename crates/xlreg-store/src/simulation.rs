//! A disk in memory for simulations: it is slow, fails and is full when it is told to, and survives
//! the engine over it. Rows are written and read by the code that does so in a file; only SQLite's
//! own dealings with the file system are not there.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, ffi};
use tokio::time::sleep;
use xlreg_core::limits::Limits;
use xlreg_core::{Change, NodeId, Registry};

use crate::ledger::Ledger;
use crate::load::Loader;
use crate::{Clock, LocalEngine, StoreError, rows, schema};

/// What the disk is called in errors.
const NAME: &str = "simulated.db";

/// A bug that can be planted, to see whether a simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Commands of one batch are decided without regard to each other.
    BlindBatches,
    /// Commands are answered before their changes are kept.
    AnswersFirst,
    /// That a member has left is not written down.
    ForgetsLeaving,
    /// A watcher that was slow is told only the latest of the changes it has missed.
    SkipsMissed,
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is kept, and said to be.
    Kept,
    /// After so many of its changes the disk is full, or fails; nothing is kept.
    Torn(usize),
    /// It is kept, and said not to be.
    KeptAndDenied,
}

/// What becomes of a commit, and how long it takes until it is kept, and until that is said.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// From its beginning until it is kept or not.
    pub before: Duration,
    /// What becomes of it.
    pub fate: Fate,
    /// From then until the writer is told.
    pub after: Duration,
}

/// Who decides what becomes of commits, and sees what was kept.
pub trait Weather: Send + Sync + 'static {
    /// What becomes of the commit that begins now.
    fn course(&self) -> Course;
    /// These changes are durable from this moment on.
    fn kept(&self, changes: &[&Change]);
    /// Whether the log is so long that a checkpoint is due.
    fn is_due(&self) -> bool;
    /// Whether the checkpoint that begins now succeeds.
    fn checkpoint(&self) -> bool;
}

/// What survives a crash. Cheap to clone; clones are one disk.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Connection>>);

impl Disk {
    /// The disk of a new registry.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn new(registry: &NodeId) -> Result<Self, StoreError> {
        let make = || {
            let mut connection = Connection::open_in_memory()?;
            connection.execute_batch("PRAGMA foreign_keys = ON")?;
            schema::upgrade(&mut connection, 0)?;
            rows::write_registry(&connection, registry)?;
            Ok(connection)
        };
        let connection = make().map_err(failed("create"))?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// What is on it, loaded as from a file.
    ///
    /// # Errors
    /// What the loader finds wrong with it.
    pub fn load(&self, limits: Limits, clock: &Clock) -> Result<Registry, StoreError> {
        let connection = self.lock();
        Loader { connection: &connection, path: Path::new(NAME) }.registry(limits, clock.now())
    }

    /// An engine over it, and its writer's life. Dropping that amid a commit is a crash.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn mount(
        &self,
        clock: Clock,
        limits: Limits,
        weather: Arc<dyn Weather>,
        flaw: Option<Flaw>,
    ) -> Result<(LocalEngine, impl Future<Output = ()> + Send + use<>), StoreError> {
        let state = self.load(limits, &clock)?;
        let mount = Mount { disk: self.clone(), weather, dirty: true, flaw };
        Ok(LocalEngine::over(mount, state, clock, flaw))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk as one engine has it.
struct Mount {
    disk: Disk,
    weather: Arc<dyn Weather>,
    dirty: bool,
    flaw: Option<Flaw>,
}

impl Mount {
    /// One transaction; it breaks off after `most` changes, if there are more.
    fn write(&self, changes: &[&Change], most: Option<usize>) -> rusqlite::Result<()> {
        let mut connection = self.disk.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes.iter().take(most.unwrap_or(usize::MAX)) {
            if self.flaw == Some(Flaw::ForgetsLeaving) && is_leaving(change) {
                continue;
            }
            rows::write_change(&transaction, change)?;
        }
        if most.is_some() {
            return Err(full());
        }
        transaction.commit()?;
        // While it is locked: nobody loads what has not been told of.
        self.weather.kept(changes);
        Ok(())
    }
}

impl Ledger for Mount {
    async fn keep(&mut self, changes: &[&Change]) -> Result<(), StoreError> {
        self.dirty = true;
        let Course { before, fate, after } = self.weather.course();
        sleep(before).await;
        let most = if let Fate::Torn(most) = fate { Some(most) } else { None };
        let written = self.write(changes, most).map_err(failed("commit to"));
        sleep(after).await;
        written?;
        if fate == Fate::KeptAndDenied { Err(failed("commit to")(full())) } else { Ok(()) }
    }

    fn is_dirty(&self) -> bool {
        self.dirty
    }

    fn is_due(&self) -> bool {
        self.weather.is_due()
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.dirty = false;
        if self.weather.checkpoint() { Ok(()) } else { Err(failed("checkpoint")(full())) }
    }

    fn close(mut self) -> Result<(), StoreError> {
        self.checkpoint()
    }
}

fn is_leaving(change: &Change) -> bool {
    use xlreg_core::Seat;
    let Change::Seat { cluster, rank, .. } = change else { return false };
    matches!(cluster.seats.get(*rank), Some(Seat::Left(_)))
}

fn full() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None)
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::sqlite(action, Path::new(NAME), source)
}
