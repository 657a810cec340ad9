//! The threads that open hellos.
//!
//! Opening a hello is the one RSA private operation that a session can't avoid, and the most that a
//! stranger can make the registry do. As many threads as cores do it, off a bounded queue: a flood
//! of hellos waits here, each under its connection's deadline, while sessions under way go on.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tracing::error;
use xlreg_proto::hello::{Hello, HelloError};
use xlreg_proto::keys::PrivateKey;

/// Hellos that wait for a thread, for each thread. About 10 ms of work: more would only grow the
/// time that each waits, and whoever finds the queue full waits at its end.
const QUEUE_PER_THREAD: usize = 32;

/// A hello and where its answer goes.
struct Job {
    packet: Vec<u8>,
    answer: oneshot::Sender<Result<Hello, HelloError>>,
}

/// A handle to the threads; they end when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Pool {
    jobs: mpsc::Sender<Job>,
}

impl Pool {
    /// Starts as many threads as there are cores.
    ///
    /// # Errors
    /// What the operating system says if it grants no thread.
    pub fn start(key: &Arc<PrivateKey>) -> std::io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let (jobs, queue) = mpsc::channel(threads * QUEUE_PER_THREAD);
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..threads {
            let (queue, key) = (Arc::clone(&queue), Arc::clone(key));
            thread::Builder::new()
                .name(format!("xlreg-rsa-{n}"))
                .spawn(move || work(&queue, &key))?;
        }
        Ok(Self { jobs })
    }

    /// Opens a hello; waits for room in the queue, then for a thread.
    ///
    /// # Errors
    /// [`HelloError`] if it does not open. Nothing distinguishes why.
    pub async fn open(&self, packet: Vec<u8>) -> Result<Hello, HelloError> {
        let (answer, opened) = oneshot::channel();
        let job = Job { packet, answer };
        if self.jobs.send(job).await.is_err() {
            error!("the threads that open hellos are gone; this is a bug");
            return Err(HelloError);
        }
        opened.await.unwrap_or(Err(HelloError))
    }
}

/// One thread: takes a job, opens it, until there are no more senders.
fn work(queue: &Mutex<mpsc::Receiver<Job>>, key: &PrivateKey) {
    loop {
        // Nothing under this lock panics, and a receiver has no state that one could break.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Job { packet, answer }) = job else {
            return;
        };
        // A client that has gone meanwhile is not worth an RSA operation.
        if !answer.is_closed() {
            let _gone_meanwhile = answer.send(Hello::open(key, &packet));
        }
    }
}
