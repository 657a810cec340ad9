//! Many keys at once: what a pool has, and the rest made on all cores.

use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use thiserror::Error;
use xlreg_proto::keys::{KeyError, PrivateKey};

use crate::pool::KeyPool;

/// Keys, and where they came from.
#[derive(Debug)]
pub struct Made {
    /// As many as were asked for.
    pub keys: Vec<PrivateKey>,
    /// How many of them came from the pool.
    pub pooled: usize,
}

/// Why there are not as many keys as asked for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum MakeError {
    /// Whoever asked wants them no more.
    #[error("making keys was stopped")]
    Stopped,
    /// A key that can't be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Gets `n` keys: from `pool` as many as it has, and the rest new, one at a time on each core.
///
/// A new key takes tens to hundreds of milliseconds of one core, one from a pool about one. Keys of
/// a pool are for throw-away clusters only, see [`KeyPool`]; without a pool all are new. A pool
/// that fails costs time and no keys, so it is no error here.
///
/// `progress` hears how many of `n` are there: first what the pool had, then each new one, from
/// several threads but one call at a time. `stop` is asked before each new key, and after yes this
/// returns within the time that one key takes.
///
/// Blocks; async callers move it off their threads.
///
/// # Errors
/// [`MakeError::Stopped`] if `stop` said so before all were there; they are wiped then.
/// [`MakeError::Key`] if the cryptographic library fails.
pub fn make_keys(
    n: usize,
    pool: Option<&KeyPool>,
    stop: impl Fn() -> bool + Sync,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Made, MakeError> {
    let keys = pool.and_then(|pool| pool.take(n).ok()).unwrap_or_default();
    let pooled = keys.len();
    progress(pooled, n);
    let keys = generate(keys, n, stop, progress)?;
    Ok(Made { keys, pooled })
}

/// What the threads that make keys share.
struct Work {
    keys: Vec<PrivateKey>,
    /// How many keys somebody has begun to make.
    begun: usize,
}

/// Adds new keys until there are `n`.
fn generate(
    keys: Vec<PrivateKey>,
    n: usize,
    stop: impl Fn() -> bool + Sync,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Vec<PrivateKey>, MakeError> {
    let missing = n.saturating_sub(keys.len());
    let work = Mutex::new(Work { begun: keys.len(), keys });
    on_threads(cores().min(missing), || {
        while begin(&work, n) {
            if stop() {
                return Err(MakeError::Stopped);
            }
            let key = PrivateKey::generate()?;
            let mut work = lock(&work);
            work.keys.push(key);
            progress(work.keys.len(), n);
        }
        Ok(())
    })?;
    Ok(work.into_inner().unwrap_or_else(PoisonError::into_inner).keys)
}

/// Whether there is another key to make; if so, it is the caller's.
fn begin(work: &Mutex<Work>, n: usize) -> bool {
    let mut work = lock(work);
    let more = work.begun < n;
    work.begun += usize::from(more);
    more
}

/// Does the same work on `threads` threads, this one among them, until each has returned.
///
/// # Errors
/// The first error of any; the others' work has ended by then too.
pub(crate) fn on_threads<E: Send>(
    threads: usize,
    work: impl Fn() -> Result<(), E> + Sync,
) -> Result<(), E> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        let mine = if threads == 0 { Ok(()) } else { work() };
        let panicked = |panic| std::panic::resume_unwind(panic);
        others.into_iter().fold(mine, |done, other| done.and(other.join().unwrap_or_else(panicked)))
    })
}

/// How many threads can make keys at the same time.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// What a mutex guards here is whole between any two statements, so a panic elsewhere spoils none.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn new_keys_are_as_many_as_asked_for_and_each_another() {
        let heard = Mutex::new(Vec::new());
        let made = make_keys(3, None, || false, |done, n| lock(&heard).push((done, n))).unwrap();
        let different: HashSet<_> =
            made.keys.iter().map(|key| key.public().fingerprint()).collect();
        assert_eq!((different.len(), made.keys.len(), made.pooled), (3, 3, 0));
        assert_eq!(*lock(&heard), [(0, 3), (1, 3), (2, 3), (3, 3)]);
        let none = make_keys(0, None, || panic!("there is nothing to stop"), |_, _| {}).unwrap();
        assert!(none.keys.is_empty());
    }

    #[test]
    fn stopping_keeps_further_keys_from_being_begun() {
        let made = AtomicUsize::new(0);
        let stop = || made.load(Ordering::Relaxed) > 0;
        let stopped = make_keys(1000, None, stop, |done, _| made.store(done, Ordering::Relaxed));
        assert_eq!(stopped.unwrap_err(), MakeError::Stopped);
        assert!(made.into_inner() <= cores());
    }
}
