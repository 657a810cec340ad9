//! A cluster for tests, and what can be done to its members.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use xlreg_launch::supervise::Order;

use super::background;
use super::builder::{Builder, CheckMaker};
use super::error::TestError;
use super::member::TestMember;
use super::programs::Programs;
use super::registry::TestRegistry;
use super::slot::{MemberState, Slot};
use super::threads::Threads;
use crate::registry::Registry;
use crate::roster::Roster;

/// How long a member may take to end that was killed, or to stand still. One that works needs an
/// instant.
const OBEY: Duration = Duration::from_secs(10);

/// How long dropping a cluster waits at most for its members' ends; a little longer than those who
/// end them.
const END: Duration = Duration::from_secs(12);

/// What is printed of each program's output when a test panics; the last of it.
const PRINTED_BYTES_MAX: usize = 8 * 1024;

/// A complete cluster in a test. Dropped, it ends and removes everything; see the
/// [module](super).
pub struct TestCluster {
    pub(super) slots: Vec<Arc<Slot>>,
    pub(super) life: Life,
    pub(super) roster: Arc<Roster>,
    pub(super) timeout: Duration,
    pub(super) make_check: CheckMaker,
    /// None once it was removed.
    pub(super) dir: Option<TempDir>,
    pub(super) registry: Registry,
    /// Lives as long as the cluster, if it is the cluster's own.
    pub(super) _own_registry: Option<TestRegistry>,
}

/// What its members are.
pub(super) enum Life {
    Nothing,
    Threads(Threads),
    Programs(Programs),
}

impl TestCluster {
    /// A cluster to be. Without further ado: three members with an endpoint each, that the test
    /// drives by itself.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The complete roster, the same for all.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The registry that it formed at: its own, as long as the cluster lives, or the one that the
    /// builder was given.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The member of this rank. Of one that is restarted, only what is asked for afterwards has the
    /// new listeners.
    ///
    /// # Panics
    /// If there is none: ranks are 0 to `size` - 1.
    #[must_use]
    #[track_caller]
    pub fn member(&self, rank: usize) -> TestMember {
        self.slot(rank).member()
    }

    /// All members, by rank.
    pub fn members(&self) -> impl Iterator<Item = TestMember> {
        self.slots.iter().map(|slot| slot.member())
    }

    /// How the member of this rank is.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn state(&self, rank: usize) -> MemberState {
        self.slot(rank).state()
    }

    /// What the program of this rank has written, to stdout and stderr, since it was last started:
    /// the last 256 KiB of it. Empty for a function, which prints where the test does.
    ///
    /// # Panics
    /// If there is no such member.
    #[must_use]
    #[track_caller]
    pub fn output(&self, rank: usize) -> String {
        self.slot(rank).written.borrow().now.clone()
    }

    /// Waits until the program of this rank has written `text`, since it was last started.
    ///
    /// # Errors
    /// [`TestError::NotWritten`] if it has not in time, or has ended without it.
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn wait_output(&self, rank: usize, text: &str) -> Result<(), TestError> {
        let (slot, at_most, wanted) = (Arc::clone(self.slot(rank)), self.timeout, text.to_owned());
        let (has_it, waited) = background::run(async move {
            let began = Instant::now();
            let has_it = timeout(at_most, slot.writes(&wanted)).await.unwrap_or(false);
            (has_it, began.elapsed())
        })
        .await?;
        if has_it {
            return Ok(());
        }
        let slot = self.slot(rank);
        Err(TestError::NotWritten {
            name: slot.name().clone(),
            state: slot.state(),
            text: text.to_owned(),
            written: slot.written.borrow().now.clone(),
            waited,
        })
    }

    /// Waits until all members are ready, but for those that were killed.
    ///
    /// # Errors
    /// [`TestError::NotReady`] if that takes too long, or a member has ended by itself.
    pub async fn wait_ready(&self) -> Result<(), TestError> {
        let (slots, at_most) = (self.slots.clone(), self.timeout);
        background::run(all_ready(slots, at_most)).await?
    }

    /// Waits until all members have ended by themselves, but for those that were killed: for
    /// members that do their work and are done.
    ///
    /// # Errors
    /// [`TestError::Failed`] if a member has ended badly, [`TestError::NotEnded`] if one still runs
    /// after the builder's timeout.
    pub async fn wait_ended(&self) -> Result<(), TestError> {
        let (slots, at_most) = (self.slots.clone(), self.timeout);
        let all_over = background::run(async move {
            let all = async {
                for slot in &slots {
                    slot.wait_for(MemberState::is_over).await;
                }
            };
            timeout(at_most, all).await
        });
        if all_over.await?.is_err() {
            let running = self.slots.iter().filter(|slot| !slot.state().is_over());
            let running = running.map(|slot| slot.name().to_string()).collect();
            return Err(TestError::NotEnded { running, waited: at_most });
        }
        self.failures()
    }

    /// Kills a member, as a crash would, paused or not. When this returns it has ended, and nobody
    /// listens at its address.
    ///
    /// # Errors
    /// [`TestError::NotRunning`] if it has ended before, [`TestError::Nothing`] if the test drives
    /// it, [`TestError::Hangs`] if it is a function that blocks its thread.
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn kill(&self, rank: usize) -> Result<(), TestError> {
        let slot = self.slot(rank);
        let _turn = slot.turn.lock().await;
        self.running(slot)?;
        self.end(rank, slot).await
    }

    /// Has a member stand still: it keeps all it has and does nothing with it. When this returns,
    /// it does.
    ///
    /// # Errors
    /// As for [`Self::kill`].
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn pause(&self, rank: usize) -> Result<(), TestError> {
        let slot = self.slot(rank);
        let _turn = slot.turn.lock().await;
        self.running(slot)?;
        match &self.life {
            Life::Nothing => return Err(nothing(slot)),
            Life::Threads(_) if slot.state() == MemberState::Paused => return Ok(()),
            Life::Threads(threads) => {
                let is_still = threads.pause(rank).ok_or_else(|| not_running(slot))?;
                let obeyed = background::run(async { timeout(OBEY, is_still).await }).await?;
                obeyed.map_err(|_| hangs(slot))?.map_err(|_| not_running(slot))?;
            }
            Life::Programs(programs) => programs.order(rank, Order::Pause, slot).await?,
        }
        slot.change(&MemberState::Running, MemberState::Paused);
        Ok(())
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    /// As for [`Self::kill`].
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn resume(&self, rank: usize) -> Result<(), TestError> {
        let slot = self.slot(rank);
        let _turn = slot.turn.lock().await;
        self.running(slot)?;
        // Before it goes on, as it may end right then.
        slot.change(&MemberState::Paused, MemberState::Running);
        match &self.life {
            Life::Nothing => Err(nothing(slot)),
            Life::Threads(threads) => {
                threads.resume(rank);
                Ok(())
            }
            Life::Programs(programs) => programs.order(rank, Order::Resume, slot).await,
        }
    }

    /// Starts a member again, with the identity, rank, address and directory that it had; kills it
    /// before if it runs. When this returns it runs, and [`Self::wait_ready`] tells when it is
    /// ready. A member that the test drives gets new listeners, if the old ones are closed.
    ///
    /// # Errors
    /// As for [`Self::kill`], [`TestError::Start`] if its program can't be started, or
    /// [`TestError::Io`] if somebody listens at its address.
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn restart(&self, rank: usize) -> Result<(), TestError> {
        let slot = self.slot(rank);
        let _turn = slot.turn.lock().await;
        match (&self.life, slot.state().is_over()) {
            (Life::Nothing, _) => {}
            (_, false) => self.end(rank, slot).await?,
            // It may have ended just now.
            (_, true) => self.over(slot).await?,
        }
        let check = (self.make_check)(&slot.member())?;
        slot.begin_anew(check);
        let started = self.start_again(rank, slot).await;
        if let Err(error) = &started {
            slot.state.send_replace(MemberState::Failed(error.to_string()));
        }
        started
    }

    /// Ends all members and removes everything, as dropping does, but tells whether all went well.
    /// Programs are asked to stop first (`SIGTERM`), and have 5 s for that.
    ///
    /// # Errors
    /// [`TestError::Failed`] if a member had ended badly by itself, [`TestError::Io`] if the
    /// directories can't be removed.
    pub async fn stop(mut self) -> Result<(), TestError> {
        let failures = self.failures();
        background::run(self.ending(false)).await?;
        let removed = self.dir.take().map_or(Ok(()), TempDir::close);
        failures?;
        removed.map_err(|error| TestError::io("removing the cluster's directories", error))
    }

    /// The slot of this rank.
    #[track_caller]
    fn slot(&self, rank: usize) -> &Arc<Slot> {
        self.slots.get(rank).expect("ranks are 0 to `size` - 1")
    }

    /// That a member runs, paused or not, and is ours to treat.
    fn running(&self, slot: &Slot) -> Result<(), TestError> {
        match self.life {
            Life::Nothing => Err(nothing(slot)),
            _ if slot.state().is_over() => Err(not_running(slot)),
            _ => Ok(()),
        }
    }

    /// Starts a member that does not run.
    async fn start_again(&self, rank: usize, slot: &Arc<Slot>) -> Result<(), TestError> {
        match &self.life {
            Life::Nothing => {
                slot.member().close();
                slot.listen()?;
                slot.state.send_replace(MemberState::Running);
            }
            Life::Threads(threads) => threads.start(rank, slot)?,
            Life::Programs(programs) => {
                programs.order(rank, Order::Restart, slot).await?;
                slot.wait_for(|state| *state != MemberState::Starting).await;
            }
        }
        Ok(())
    }

    /// Kills a member that runs, and waits for its end.
    async fn end(&self, rank: usize, slot: &Arc<Slot>) -> Result<(), TestError> {
        match &self.life {
            Life::Nothing => return Err(nothing(slot)),
            Life::Threads(threads) => threads.kill(rank),
            Life::Programs(programs) => {
                // It may have ended by itself just now.
                let _ended = programs.order(rank, Order::Kill, slot).await;
            }
        }
        self.over(slot).await
    }

    /// Waits for the end of a member that ends.
    async fn over(&self, slot: &Arc<Slot>) -> Result<(), TestError> {
        let ending = Arc::clone(slot);
        let ended = background::run(async move { timeout(OBEY, ending.end()).await });
        ended.await?.map_err(|_| hangs(slot))
    }

    /// The work of ending all members.
    fn ending(&self, at_once: bool) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (mut programs, mut slots) = (None, self.slots.clone());
        match &self.life {
            Life::Nothing => slots.clear(),
            Life::Threads(threads) => (0..slots.len()).for_each(|rank| threads.kill(rank)),
            Life::Programs(running) => programs = Some(running.end(at_once)),
        }
        async move {
            if let Some(programs) = programs {
                programs.await;
            }
            let all = async {
                for slot in slots {
                    slot.end().await;
                }
            };
            let _hanging = timeout(OBEY, all).await;
        }
    }

    /// That no member has ended badly by itself.
    fn failures(&self) -> Result<(), TestError> {
        let failed = |slot: &Arc<Slot>| match slot.state() {
            MemberState::Failed(how) => Some(format!("{}: {how}", slot.name())),
            _ => None,
        };
        let failed: Vec<_> = self.slots.iter().filter_map(failed).collect();
        if failed.is_empty() { Ok(()) } else { Err(TestError::Failed(failed)) }
    }

    /// Tells on stderr, where a failed test's reader looks, how the members are and what they have
    /// written.
    #[expect(clippy::print_stderr, reason = "the test has failed, and this may say why")]
    fn print(&self) {
        for slot in &self.slots {
            eprintln!("---- {}", slot.told());
            for line in slot.written.borrow().end(PRINTED_BYTES_MAX).lines() {
                eprintln!("{} | {line}", slot.name());
            }
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if self.dir.is_none() {
            // It was stopped.
            return;
        }
        if thread::panicking() {
            self.print();
        }
        background::finish(self.ending(true), END);
    }
}

impl fmt::Debug for TestCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<_> = self.slots.iter().map(|slot| slot.told()).collect();
        let name = self.roster.title();
        f.debug_struct("TestCluster")
            .field("name", &name)
            .field("members", &members)
            .finish_non_exhaustive()
    }
}

fn nothing(slot: &Slot) -> TestError {
    TestError::Nothing { name: slot.name().clone() }
}

fn not_running(slot: &Slot) -> TestError {
    TestError::NotRunning { name: slot.name().clone(), state: slot.state() }
}

fn hangs(slot: &Slot) -> TestError {
    TestError::Hangs { name: slot.name().clone(), waited: OBEY }
}

/// Waits until all that run are ready, or one of them never will be.
async fn all_ready(slots: Vec<Arc<Slot>>, at_most: Duration) -> Result<(), TestError> {
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for (rank, slot) in slots.iter().cloned().enumerate() {
        waiting.spawn(async move { (rank, ready(&slot).await) });
    }
    let mut late: BTreeSet<_> = (0..slots.len()).collect();
    let mut hopeless = None;
    let all = async {
        while let Some(Ok((rank, is_ready))) = waiting.join_next().await {
            match is_ready {
                Ok(()) => late.remove(&rank),
                Err(why) => return hopeless = Some(why),
            };
        }
    };
    let in_time = timeout_at(began + at_most, all).await.is_ok();
    let late = match hopeless {
        None if in_time => return Ok(()),
        None => late.iter().filter_map(|rank| slots.get(*rank)).map(|slot| trouble(slot)).collect(),
        Some(why) => vec![why],
    };
    Err(TestError::NotReady { size: slots.len(), late, waited: began.elapsed() })
}

/// Waits until a member is ready, or was killed; an error says why it never will be ready.
async fn ready(slot: &Slot) -> Result<(), String> {
    let Some(check) = slot.check() else {
        return match slot.state() {
            MemberState::Failed(_) => Err(slot.told()),
            _ => Ok(()),
        };
    };
    tokio::select! {
        biased;
        end = slot.wait_for(MemberState::is_over) => match end {
            MemberState::Killed => Ok(()),
            _ => Err(format!("{}; the last it wrote: {:?}", slot.told(), slot.last_lines())),
        },
        () = check.wait() => Ok(()),
    }
}

/// Why a member that runs is not ready yet.
fn trouble(slot: &Slot) -> String {
    let trouble = slot.check().map(|check| check.trouble()).unwrap_or_default();
    format!("{}: {trouble}", slot.told())
}
