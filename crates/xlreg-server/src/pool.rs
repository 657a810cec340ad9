//! The threads that open hellos.
//!
//! Opening a hello is the one RSA private operation that a session can't avoid, and the most that a
//! stranger can make the registry do. As many threads as cores do it, off a bounded queue: a flood
//! of hellos waits here, each under its connection's deadline, while sessions under way go on.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use xlreg_proto::hello::{Hello, HelloError};
use xlreg_proto::keys::PrivateKey;

/// Hellos that wait for a thread, for each thread. Some 10 ms of work: more would only grow the
/// time that each waits, and whoever finds the queue full waits at its end.
const QUEUE_PER_THREAD: usize = 32;

/// A handle to the threads. They end when it is dropped.
#[derive(Debug)]
pub struct Pool {
    queue: Arc<Queue>,
    /// One permit for each place in the queue.
    places: Arc<Semaphore>,
}

/// Jobs on their way from async tasks to the threads.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// Told once for each job, so that one thread wakes for it.
    work: Condvar,
    /// RSA operations so far.
    opened: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    ended: bool,
}

/// A hello and where its answer goes.
#[derive(Debug)]
struct Job {
    packet: Vec<u8>,
    answer: oneshot::Sender<Result<Hello, HelloError>>,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    /// Starts as many threads as there are cores.
    ///
    /// # Errors
    /// What the operating system says if it grants no thread.
    pub fn start(key: &Arc<PrivateKey>) -> std::io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let places = Arc::new(Semaphore::new(threads * QUEUE_PER_THREAD));
        let pool = Self { queue: Arc::default(), places };
        for n in 0..threads {
            let (queue, key) = (Arc::clone(&pool.queue), Arc::clone(key));
            thread::Builder::new().name(format!("xlreg-rsa-{n}")).spawn(move || {
                while let Some(job) = queue.take() {
                    job.run(&key, &queue.opened);
                }
            })?;
        }
        Ok(pool)
    }

    /// A pool without threads, which opens nothing.
    #[cfg(feature = "simulation")]
    pub(crate) fn none() -> Self {
        Self { queue: Arc::default(), places: Arc::new(Semaphore::new(0)) }
    }

    /// Opens a hello; waits for room in the queue, then for a thread.
    ///
    /// # Errors
    /// [`HelloError`] if it does not open. Nothing distinguishes why.
    pub async fn open(&self, packet: Vec<u8>) -> Result<Hello, HelloError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| HelloError)?;
        let (answer, opened) = oneshot::channel();
        self.queue.put(Job { packet, answer, _place: place });
        opened.await.unwrap_or(Err(HelloError))
    }

    /// Hellos that cost an RSA operation so far, whether or not they did open.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.queue.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.work.notify_all();
    }
}

impl Job {
    fn run(self, key: &PrivateKey, opened: &AtomicU64) {
        // A client that has gone meanwhile is not worth an RSA operation.
        if !self.answer.is_closed() {
            let _gone_meanwhile = self.answer.send(Hello::open(key, &self.packet));
            opened.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Queue {
    fn put(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.work.notify_one();
    }

    /// The oldest job; waits for one. None when the pool is gone.
    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, so a poisoned one holds a sound queue all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
