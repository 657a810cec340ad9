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

use crate::ledger::Ledger;
use crate::shared::Shared;
#[cfg(feature = "simulation")]
use crate::simulation::Flaw;
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
    pub(crate) fn start(shared: Arc<Shared>, ledger: impl Ledger) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { shared, queue, ledger };
        let thread = thread::Builder::new()
            .name("xlreg-store".to_owned())
            .spawn(move || run(writer))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { jobs, thread: Some(thread) })
    }

    /// A writer without a thread: it lives in the future.
    #[cfg(feature = "simulation")]
    pub(crate) fn threadless(
        shared: Arc<Shared>,
        ledger: impl Ledger,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let mut writer = Writer { shared, queue, ledger };
        let life = async move {
            let _alarm = Alarm(Arc::clone(&writer.shared));
            let mut jobs = Vec::new();
            let served = writer.serve(&mut jobs).await;
            writer.end(served);
        };
        (Self { jobs, thread: None }, life)
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
fn run<L: Ledger>(mut writer: Writer<L>) {
    // Should a bug make the writer panic, the engine fails instead of hanging.
    let _alarm = Alarm(Arc::clone(&writer.shared));
    let mut jobs = Vec::new();
    // Made and dropped on this thread: dropping a runtime within another would panic.
    let served = match Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(writer.serve(&mut jobs)),
        Err(source) => Err(StoreError::Thread { source }),
    };
    // Whoever still waits for an answer sees its job dropped, next, and looks there for why.
    writer.end(served);
}

struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.fail(StoreError::WriterGone);
    }
}

struct Writer<L> {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    ledger: L,
}

/// What the writer turns to.
enum Next {
    Batch,
    Quiet,
    End,
}

impl<L: Ledger> Writer<L> {
    async fn serve(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        loop {
            match self.next(jobs).await {
                Next::Batch => {
                    self.commit(jobs).await?;
                    if self.ledger.is_due() {
                        self.ledger.checkpoint()?;
                    }
                }
                Next::Quiet => self.ledger.checkpoint()?,
                Next::End => return Ok(()),
            }
        }
    }

    /// Closes the ledger, and only then announces the end: whoever hears of it may open it again.
    fn end(self, served: Result<(), StoreError>) {
        let Self { shared, ledger, queue: _queue } = self;
        let closed = match served {
            Ok(()) => ledger.close(),
            Err(error) => {
                drop(ledger);
                Err(error)
            }
        };
        match closed {
            Ok(()) => shared.closed(),
            Err(error) => shared.fail(error),
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
                () = tokio::time::sleep(QUIET), if self.ledger.is_dirty() => return Next::Quiet,
            }
        }
    }

    /// Decides all jobs, makes their changes durable and visible, and answers. After an error they
    /// are left unanswered.
    async fn commit(&mut self, jobs: &mut Vec<Job>) -> Result<(), StoreError> {
        let decisions = self.decide(jobs);
        let changes: Vec<_> =
            decisions.iter().flatten().flat_map(|decision| &decision.changes).collect();
        #[cfg(feature = "simulation")]
        if self.shared.has(Flaw::AnswersFirst) {
            answer(jobs, decisions.clone());
        }
        if !changes.is_empty() {
            self.ledger.keep(&changes).await?;
            self.shared.commit(changes.iter().copied());
        }
        // A refusal too waits until here: it may rest on what the batch changed.
        answer(jobs, decisions);
        Ok(())
    }

    fn decide(&self, jobs: &[Job]) -> Vec<Result<Decision, Refusal>> {
        let now = self.shared.now();
        let registry = self.shared.registry();
        let mut overlay = Overlay::new(&*registry);
        let mut decide = |job: &Job| {
            let decision = decide(&job.command, now, &overlay)?;
            #[cfg(feature = "simulation")]
            if self.shared.has(Flaw::BlindBatches) {
                return Ok(decision);
            }
            for change in &decision.changes {
                overlay.apply(change);
            }
            Ok(decision)
        };
        jobs.iter().map(&mut decide).collect()
    }
}

/// Tells each job's owner what was decided.
fn answer(jobs: &mut Vec<Job>, decisions: Vec<Result<Decision, Refusal>>) {
    for (job, decision) in jobs.drain(..).zip(decisions) {
        let result = decision.map(|decision| decision.outcome);
        // Whoever has gone meanwhile doesn't want to know.
        let _ = job.answer.send(result.map_err(ApplyError::Refused));
    }
}
