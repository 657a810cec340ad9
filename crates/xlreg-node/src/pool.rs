//! Keys made ahead of need, for clusters that are thrown away.
//!
//! A pool is a directory, and a key is a file in it: PKCS #1 DER, named by the fingerprint of its
//! public half. A key appears by rename, so it is whole, and whoever removes the file has the key:
//! the file system lets one remove it, whichever processes try. Nothing else is kept, so there is
//! nothing to lock, to repair or to agree on, and a process may be killed at any moment: at worst a
//! key is lost with it.
//!
//! Nothing here is synced to the disk. A power cut may therefore bring back a key that was handed
//! out, which is why these keys are for throw-away clusters only: all who knew the key by then were
//! processes of this very machine, and ended with it. The one who gets it next shares it with
//! nobody alive. A file that is damaged by the power cut is like any damaged file: removed, and
//! skipped.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use thiserror::Error;
use xlreg_proto::keys::{KeyError, PrivateKey};
use zeroize::Zeroizing;

use crate::files::{self, Durability, Mode};
use crate::keygen::{cores, lock, on_threads};

/// How many keys a pool is filled up to at most: what clusters of 64 members need seven times over,
/// and little more than a megabyte.
pub const KEYS_MAX: usize = 1024;

/// How many keys a pool is refilled to at least: enough for clusters of 15 members.
pub const REFILL_MIN: usize = 32;

/// Bytes of the largest file that is taken for a key; one of 2048 bits has about 1,200.
const KEY_FILE_BYTES_MAX: usize = 4096;

/// How the name of a key's file ends.
const KEY_SUFFIX: &str = ".der";

/// How the names of files begin that are still being written.
const DRAFT_PREFIX: &str = ".";

/// A directory of private keys that wait for an owner, each handed out once.
///
/// Any number of processes and threads may use the same directory at once. The keys are for
/// throw-away clusters only: they lay on the disk before their owner existed, where a backup or a
/// power cut may bring them back.
#[derive(Clone, Debug)]
pub struct KeyPool {
    dir: PathBuf,
}

/// What a pool holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Keys.
    pub keys: usize,
    /// Bytes of all their files.
    pub bytes: u64,
}

/// A pool that can't be used, or filled.
#[derive(Debug, Error)]
pub enum PoolError {
    /// A file or directory that can't be read, written or removed.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done to it.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others may enter the directory.
    #[error(
        "{dir} is for private keys, and others may enter it (mode {mode:o}): name a directory that is yours alone; only if this is one, chmod 700 {dir}"
    )]
    Exposed {
        /// The directory.
        dir: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A key that can't be made.
    #[error("making a key: {0}")]
    Key(#[from] KeyError),
}

impl KeyPool {
    /// Opens the pool in `dir`, which is made (0700) if it is missing, and removes what fillers
    /// left behind that were killed long ago.
    ///
    /// # Errors
    /// [`PoolError::Exposed`] if others may enter `dir`, [`PoolError::File`] if it can't be made or
    /// read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, PoolError> {
        let pool = Self { dir: dir.into() };
        files::create_dir_with(&pool.dir, Durability::Fleeting).map_err(pool.failed("making"))?;
        refuse_exposed(&pool.dir)?;
        files::remove_stale_drafts(&pool.dir, DRAFT_PREFIX);
        // If it can't be listed, that is better known now.
        pool.files()?;
        Ok(pool)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many keys there are at the moment.
    ///
    /// # Errors
    /// [`PoolError::File`] if the directory can't be read.
    pub fn count(&self) -> Result<usize, PoolError> {
        self.files().map(|files| files.len())
    }

    /// How many keys there are at the moment, and how much room they take.
    ///
    /// # Errors
    /// [`PoolError::File`] if the directory can't be read.
    pub fn contents(&self) -> Result<Contents, PoolError> {
        let mut contents = Contents::default();
        for path in self.files()? {
            // Somebody may have taken it meanwhile.
            if let Ok(metadata) = path.metadata() {
                contents.keys += 1;
                contents.bytes += metadata.len();
            }
        }
        Ok(contents)
    }

    /// Takes as many keys as there are, but at most `n`. Nobody else gets these.
    ///
    /// A key takes about a millisecond of one core, and all cores take part. Files that hold no
    /// usable key, or that others may have read, are removed and not counted.
    ///
    /// # Errors
    /// [`PoolError::File`] if the directory can't be read, or a file in it not be removed: a key
    /// whose file stays is nobody's. What was taken by then is lost.
    pub fn take(&self, n: usize) -> Result<Vec<PrivateKey>, PoolError> {
        let mut files = self.files()?.into_iter();
        let mut keys = Vec::new();
        loop {
            let mut claimed = Vec::new();
            while keys.len() + claimed.len() < n
                && let Some(path) = files.next()
            {
                claimed.extend(claim(&path).map_err(failed("taking", &path))?);
            }
            if claimed.is_empty() {
                return Ok(keys);
            }
            keys.extend(load(claimed));
        }
    }

    /// Makes keys on all cores until there are `target`, at most [`KEYS_MAX`]. Returns how many it
    /// made.
    ///
    /// `progress` hears how many of `target` are there, at first and after each key, from several
    /// threads but one call at a time; others who use the pool meanwhile make that more or fewer.
    /// `stop` is asked before each key, and after yes this returns within the time that one key
    /// takes; what was made is kept. Several who fill at once end with at most a key too many for
    /// each of their threads.
    ///
    /// # Errors
    /// [`PoolError::File`] if a key can't be kept, [`PoolError::Key`] if none can be made.
    pub fn fill(
        &self,
        target: usize,
        stop: impl Fn() -> bool + Sync,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Result<usize, PoolError> {
        self.fill_on(cores(), target, stop, progress)
    }

    /// Removes all keys; returns how many this call has removed.
    ///
    /// # Errors
    /// [`PoolError::File`] if a file can't be removed; it goes on with the others before.
    pub fn clear(&self) -> Result<usize, PoolError> {
        let mut removed = 0;
        let mut ended = Ok(());
        for path in self.files()? {
            match remove(&path) {
                Ok(mine) => removed += usize::from(mine),
                Err(source) => ended = Err(failed("removing", &path)(source)),
            }
        }
        ended.map(|()| removed)
    }

    /// Fills the pool up to `target` keys, at most [`KEYS_MAX`], on one thread that gives way to
    /// all others of the machine (on Linux; elsewhere it is like any other).
    ///
    /// Dropping the handle asks the thread to end, which it does within the time that one key
    /// takes, and waits for nothing; the process may also end at once.
    ///
    /// # Errors
    /// [`PoolError::File`] if no thread can be started.
    pub fn refill_in_background(&self, target: usize) -> Result<Refill, PoolError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (pool, stopped) = (self.clone(), Arc::clone(&stop));
        let thread = thread::Builder::new().name("xlreg-refill".to_owned()).spawn(move || {
            give_way();
            pool.fill_on(1, target, || stopped.load(Ordering::Relaxed), |_, _| {})
        });
        let thread = thread.map_err(self.failed("starting a thread to fill"))?;
        Ok(Refill { stop, thread: Some(thread) })
    }

    fn fill_on(
        &self,
        threads: usize,
        target: usize,
        stop: impl Fn() -> bool + Sync,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Result<usize, PoolError> {
        let target = target.min(KEYS_MAX);
        progress(self.count()?, target);
        let work = Mutex::new(Filling::default());
        on_threads(threads, || -> Result<(), PoolError> {
            while !stop() && self.begin(&work, target)? {
                let kept = self.put_new();
                let mut work = lock(&work);
                work.begun -= 1;
                kept?;
                work.made += 1;
                progress(self.count()?, target);
            }
            Ok(())
        })?;
        Ok(lock(&work).made)
    }

    /// Whether a key is missing that nobody makes yet; if so, it is the caller's to make. Counts
    /// anew each time, as others may take and fill meanwhile.
    fn begin(&self, work: &Mutex<Filling>, target: usize) -> Result<bool, PoolError> {
        let mut work = lock(work);
        let missing = self.count()? + work.begun < target;
        work.begun += usize::from(missing);
        Ok(missing)
    }

    fn put_new(&self) -> Result<(), PoolError> {
        let key = PrivateKey::generate()?;
        let path = self.dir.join(format!("{}{KEY_SUFFIX}", key.public().fingerprint()));
        files::replace_with(&path, key.pkcs1(), Mode::Private, Durability::Fleeting)
            .map_err(failed("writing", &path))
    }

    /// The keys' files; what is no file, or still being written, is not among them.
    fn files(&self) -> Result<Vec<PathBuf>, PoolError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(self.failed("reading"))? {
            let entry = entry.map_err(self.failed("reading"))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(KEY_SUFFIX)
                && !name.starts_with(DRAFT_PREFIX)
                && entry.file_type().is_ok_and(|kind| kind.is_file())
            {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> PoolError {
        failed(doing, &self.dir)
    }
}

/// What the threads that fill a pool share.
#[derive(Default)]
struct Filling {
    /// Keys that are being made.
    begun: usize,
    /// Keys that have been kept.
    made: usize,
}

/// A thread that refills a pool; dropping this asks it to end.
#[derive(Debug)]
pub struct Refill {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize, PoolError>>>,
}

impl Refill {
    /// Waits until the pool is full, and returns how many keys that took.
    ///
    /// # Errors
    /// As [`KeyPool::fill`].
    pub fn join(mut self) -> Result<usize, PoolError> {
        let Some(thread) = self.thread.take() else { return Ok(0) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Refill {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many keys to refill a pool to that had `before` of them when a cluster was started that
/// needed `needed`: what it had, or enough to start such a cluster again at once.
#[must_use]
pub fn refill_target(before: usize, needed: usize) -> usize {
    before.max(needed).clamp(REFILL_MIN, KEYS_MAX)
}

/// Makes a file's key the caller's: reads it, and removes it. None if somebody else has it, or if
/// it is of no use.
///
/// Reading comes first, so that nothing remains to be cleaned up if we are killed in between: until
/// the file is gone, the key is nobody's.
fn claim(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let read = read(path).unwrap_or_default();
    let mine = remove(path)?;
    Ok(read.filter(|_| mine))
}

/// What a key's file holds; none if others may have read it too, or if it is too large for a key.
fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = File::open(path)?;
    if exposed_mode(&file.metadata()?).is_some() {
        return Ok(None);
    }
    // Room for all of it at once, so that growing leaves no copies behind.
    let mut der = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX + 1));
    file.take(KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut der)?;
    Ok(Some(der).filter(|der| der.len() <= KEY_FILE_BYTES_MAX))
}

/// Whether it was us who removed a file.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The keys of files that have been claimed; what is damaged is left out.
fn load(claimed: Vec<Zeroizing<Vec<u8>>>) -> Vec<PrivateKey> {
    let threads = cores().min(claimed.len());
    let (claimed, keys) = (Mutex::new(claimed), Mutex::new(Vec::new()));
    let next = || lock(&claimed).pop();
    let Ok(()) = on_threads(threads, || {
        while let Some(der) = next() {
            if let Ok(key) = PrivateKey::from_pkcs1(&der) {
                lock(&keys).push(key);
            }
        }
        Ok::<_, Infallible>(())
    });
    keys.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever may enter the directory could take keys, or leave some that he knows.
fn refuse_exposed(dir: &Path) -> Result<(), PoolError> {
    let metadata = dir.metadata().map_err(failed("reading", dir))?;
    match exposed_mode(&metadata) {
        Some(mode) => Err(PoolError::Exposed { dir: dir.to_owned(), mode }),
        None => Ok(()),
    }
}

/// The permissions, if they give others than the owner any.
fn exposed_mode(metadata: &fs::Metadata) -> Option<u32> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        (mode & 0o077 != 0).then_some(mode)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        None
    }
}

/// Lets all other threads of the machine go first.
fn give_way() {
    // On Linux the priority is each thread's own, whatever POSIX says, and 0 means this one. If it
    // can't be lowered, the work is done all the same.
    #[cfg(target_os = "linux")]
    let _as_before = rustix::process::setpriority_process(None, 19);
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let path = path.to_owned();
    move |source| PoolError::File { doing, path, source }
}

#[cfg(test)]
mod tests;
