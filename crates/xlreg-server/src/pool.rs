//! The threads that open hellos.
//!
//! Opening a hello is the one RSA private operation that a session can't avoid, and the most that a
//! stranger can make the registry do. As many threads as cores do it: a flood of hellos waits here,
//! each under its connection's deadline, while sessions under way go on. Whose turn it is, `turns`
//! says. What waits is bounded by the number of connections.

use std::net::IpAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use xlreg_proto::hello::{Hello, HelloError};
use xlreg_proto::keys::PrivateKey;

use crate::rates::Rate;
use crate::turns::{Turn, Turns};

/// A handle to the threads. They end when it is dropped.
#[derive(Debug)]
pub struct Pool {
    queue: Arc<Queue>,
}

/// Jobs on their way from async tasks to the threads.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Told once for each job, so that one thread wakes for it.
    work: Condvar,
    /// RSA operations so far.
    opened: AtomicU64,
}

#[derive(Debug)]
struct State {
    turns: Turns<Job>,
    ended: bool,
}

/// A hello and where its answer goes.
#[derive(Debug)]
struct Job {
    packet: Vec<u8>,
    answer: oneshot::Sender<Result<Hello, HelloError>>,
}

impl Pool {
    /// Starts as many threads as there are cores. `unproven` is how many hellos of one address are
    /// opened whose clients do not prove who they are.
    ///
    /// # Errors
    /// What the operating system says if it grants no thread.
    pub fn start(key: &Arc<PrivateKey>, unproven: Rate) -> std::io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let pool = Self::idle(unproven);
        for n in 0..threads {
            let (queue, key) = (Arc::clone(&pool.queue), Arc::clone(key));
            thread::Builder::new().name(format!("xlreg-rsa-{n}")).spawn(move || {
                while let Some(job) = queue.take() {
                    let _gone_meanwhile = job.answer.send(Hello::open(&key, &job.packet));
                    queue.opened.fetch_add(1, Ordering::Relaxed);
                }
            })?;
        }
        Ok(pool)
    }

    /// A pool without threads, which opens nothing.
    pub(crate) fn idle(unproven: Rate) -> Self {
        let turns = Turns::new(unproven, |job: &Job| job.answer.is_closed());
        let state = Mutex::new(State { turns, ended: false });
        let queue = Queue { state, work: Condvar::new(), opened: AtomicU64::new(0) };
        Self { queue: Arc::new(queue) }
    }

    /// Opens a hello that came from there, when it is its turn. Dropping the future gives it up.
    ///
    /// # Errors
    /// [`HelloError`] if it does not open. Nothing distinguishes why.
    pub async fn open(&self, from: IpAddr, packet: Vec<u8>) -> Result<Hello, HelloError> {
        let (answer, opened) = oneshot::channel();
        self.queue.lock().turns.push(from, Job { packet, answer }, Instant::now());
        self.queue.work.notify_one();
        opened.await.unwrap_or(Err(HelloError))
    }

    /// A client from there, whose hello was opened, has proven who it is.
    pub fn proven(&self, from: IpAddr) {
        self.queue.lock().turns.forgive(from, Instant::now());
        self.queue.work.notify_one();
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

impl Queue {
    /// The next job; waits for one. None when the pool is gone.
    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            let now = Instant::now();
            state = match state.turns.next(now) {
                Turn::Now(job) => return Some(job),
                Turn::At(then) => {
                    let waited = self.work.wait_timeout(state, then - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Turn::Nobody => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics, so a poisoned one holds a sound queue all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
