//! The one thread that changes a durable registry.
//!
//! It takes all commands that have come meanwhile, decides them one after another against the
//! committed state and what the batch has changed so far, commits once, makes the result visible,
//! and only then answers. While it waits for the disk the next batch gathers, so the busier it is
//! the more commands share a commit; no timer is needed.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use xlreg_core::registry::{Overlay, decide};
use xlreg_core::{Command, Decision, Outcome, Refusal};

use crate::journal::Journal;
use crate::shared::Shared;
use crate::{ApplyError, StoreError};

/// Commands that may wait for the writer; whoever comes later waits for a place.
const QUEUE_MAX: usize = 1024;

/// Commands that share a commit: enough to spread its cost, few enough to keep the wait short.
const BATCH_MAX: usize = 256;

/// How long nothing must have come before the log is moved into the database.
const QUIET: Duration = Duration::from_secs(1);

/// A command, and where its answer goes.
struct Job {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, ApplyError>>,
}

/// The way to the writer's thread.
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts the writer's thread.
    pub(crate) fn start(shared: Arc<Shared>, journal: Journal) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { shared, queue, journal };
        let thread = thread::Builder::new()
            .name("xlreg-store".to_owned())
            .spawn(move || run(writer))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { jobs, thread: Some(thread) })
    }

    /// Hands a command to the writer. `None` if it is gone and may not have seen it.
    pub(crate) async fn submit(&self, command: Command) -> Option<Result<Outcome, ApplyError>> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { command, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Waits for the thread's end, which somebody must have asked for.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed and has failed the engine.
            let _ = thread.join();
        }
    }
}

/// The thread's whole life.
fn run(mut writer: Writer) {
    // Should a bug make the writer panic, the engine fails instead of hanging.
    let _alarm = Alarm(Arc::clone(&writer.shared));
    let mut jobs = Vec::new();
    // Made and dropped on this thread: dropping a runtime within another would panic.
    let served = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(writer.serve(&mut jobs)),
        Err(source) => Err(StoreError::Thread { source }),
    };
    let Writer { shared, journal, queue: _queue } = writer;
    // Only then is the end announced: whoever hears of it may open the directory again.
    let closed = match served {
        Ok(()) => journal.close(),
        Err(error) => {
            drop(journal);
            Err(error)
        }
    };
    match closed {
        Ok(()) => shared.closed(),
        // Whoever still waits for an answer sees its job dropped, next, and looks here for why.
        Err(error) => shared.fail(error),
    }
}

struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.fail(StoreError::WriterGone);
    }
}

struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    journal: Journal,
}

/// What the writer turns to.
enum Next {
    Batch,
    Quiet,
    End,
}

impl Writer {
    async fn serve(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        loop {
            match self.next(jobs).await {
                Next::Batch => {
                    self.commit(jobs)?;
                    if self.journal.is_due() {
                        self.journal.checkpoint()?;
                    }
                }
                Next::Quiet => self.journal.checkpoint()?,
                Next::End => return Ok(()),
            }
        }
    }

    /// Waits for work, and puts it into `jobs`.
    async fn next(&mut self, jobs: &mut Vec<Job>) -> Next {
        let mut phase = self.shared.phase();
        loop {
            tokio::select! {
                biased;
                got = self.queue.recv_many(jobs, BATCH_MAX) => {
                    return if got == 0 { Next::End } else { Next::Batch };
                }
                // From then on nothing more gets in, and the queue ends when it is empty.
                _ = phase.wait_for(|phase| !phase.is_open()),
                    if !self.queue.is_closed() => self.queue.close(),
                () = tokio::time::sleep(QUIET), if self.journal.is_dirty() => return Next::Quiet,
            }
        }
    }

    /// Decides all jobs, makes their changes durable and visible, and answers. After an error they
    /// are left unanswered.
    fn commit(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        let decisions = self.decide(jobs);
        let changes = decisions.iter().flatten().flat_map(|decision| &decision.changes);
        if changes.clone().next().is_some() {
            self.journal.write(changes.clone())?;
            self.shared.commit(changes);
        }
        // A refusal too waits until here: it may rest on what the batch changed.
        for (job, decision) in jobs.drain(..).zip(decisions) {
            let result = decision.map(|decision| decision.outcome);
            // Whoever has gone meanwhile doesn't want to know.
            let _ = job.answer.send(result.map_err(ApplyError::Refused));
        }
        Ok(())
    }

    fn decide(&self, jobs: &[Job]) -> Vec<Result<Decision, Refusal>> {
        let now = self.shared.now();
        let registry = self.shared.registry();
        let mut overlay = Overlay::new(&*registry);
        let mut decide = |job: &Job| {
            let decision = decide(&job.command, now, &overlay)?;
            for change in &decision.changes {
                overlay.apply(change);
            }
            Ok(decision)
        };
        jobs.iter().map(&mut decide).collect()
    }
}
