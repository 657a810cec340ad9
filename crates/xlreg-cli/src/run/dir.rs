//! Where runs live on this machine: one directory each, locked as long as the run lasts.
//!
//! A run's directory holds all that it makes: its members' directories, its control socket, its
//! logs. Whoever finds one whose lock is free finds the remains of a run that was killed together
//! with its guard: he ends its processes, and removes it.
//!
//! Only who holds the lock removes a directory, and the lock file goes last. So a new run of the same
//! name, which takes the place of an empty directory but of no other, is never taken for the old one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use xlreg::Name;
use xlreg_launch::marked;
use xlreg_proto::keys::random;

use crate::connect::path_from_env;
use crate::exit::{Code, Ending};

/// The variable that marks all processes of a run: with its directory, and with a random number that
/// no run in another container or on another day has.
pub(crate) const MARK: &str = "XLREG_RUN";

/// Held locked by a living run.
const LOCK_FILE: &str = "lock";

/// Left by a detached run, with its logs, until somebody has looked: why it ended by itself, or what stays of
/// it elsewhere.
const ENDED_FILE: &str = "ended";

/// How long the remains of an ended run are kept for somebody to look at.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// How old a directory that never became a run's must be, to be that of a process that was killed.
const STALE: Duration = Duration::from_secs(600);

/// A new directory that is about to become a run's.
const DRAFT: &str = ".new-";

/// A run's directory, locked.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

/// A run, as others find it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    /// Whether it still runs.
    pub(crate) alive: bool,
}

impl RunDir {
    /// Makes a directory for a run of this cluster; its name is the cluster's, or with a number
    /// behind if that is taken.
    pub(crate) fn create(cluster: &Name) -> anyhow::Result<Self> {
        let root = root()?;
        let failed = || format!("making a directory for the run in {}", root.display());
        let hint =
            "; set TMPDIR or XLREG_RUN_DIR to a directory that is there and that you can write to";
        Self::create_in(&root, cluster).map_err(|error| {
            Ending::new(Code::Failed, format!("{}: {error}{hint}", failed())).into()
        })
    }

    fn create_in(root: &Path, cluster: &Name) -> io::Result<Self> {
        let number = u64::from_le_bytes(random());
        let draft = root.join(format!("{DRAFT}{number:016x}"));
        let created = Self::create_by(&draft, root, cluster);
        if created.is_err() {
            let _not_even_that = fs::remove_dir_all(&draft);
            let _others_run = fs::remove_dir(root);
        }
        created
    }

    /// Makes a draft, whole and locked, and then gives it its name.
    fn create_by(draft: &Path, root: &Path, cluster: &Name) -> io::Result<Self> {
        // The last run to end removes the directory of all of them, perhaps just now.
        retry(|| match make_dir(root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => make_dir(draft),
        })?;
        if !is_ours(root)? {
            return Err(io::Error::other("it is not a directory of your own"));
        }
        let mut lock = File::create(draft.join(LOCK_FILE))?;
        lock.lock()?;
        write!(lock, "{:032x}", u128::from_le_bytes(random()))?;
        for number in 1.. {
            let id = if number == 1 { cluster.to_string() } else { format!("{cluster}-{number}") };
            let path = root.join(id);
            match fs::rename(draft, &path) {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and, if it was the last, the directory of all runs.
    pub(crate) fn remove(self) -> io::Result<()> {
        clear(&self.path)
    }

    /// Whether its run has left word for others to look at.
    pub(crate) fn has_word(&self) -> bool {
        self.path.join(ENDED_FILE).exists()
    }
}

/// Removes all but the logs of a run, and leaves word of how it ended.
pub(crate) fn leave_word(path: &Path, word: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    fs::write(path.join(ENDED_FILE), word)
}

/// The word that a run has left, if it has.
pub(crate) fn word(path: &Path) -> Option<String> {
    fs::read_to_string(path.join(ENDED_FILE)).ok()
}

/// Removes what is left of a run that does not live, processes too. Returns whether it did: somebody
/// else may be at it, or the run lives.
pub(crate) fn sweep(path: &Path) -> io::Result<bool> {
    let Some(_claimed) = claim(path)? else { return Ok(false) };
    marked::kill(&[(MARK.into(), mark(path)?)]);
    clear(path).map(|()| true)
}

/// What marks the processes of the run in this directory.
pub(crate) fn mark(path: &Path) -> io::Result<OsString> {
    let number = fs::read_to_string(path.join(LOCK_FILE))?;
    let mut mark = path.as_os_str().to_owned();
    mark.push(":");
    mark.push(number);
    Ok(mark)
}

/// Locks the directory of a run that has ended. None if the run lives, or somebody else was faster.
fn claim(path: &Path) -> io::Result<Option<File>> {
    let there = path.join(LOCK_FILE);
    let claim = || -> io::Result<_> {
        let lock = File::open(&there)?;
        // What we have opened may have been removed meanwhile, and a new run's be in its place.
        let is_claimed =
            lock.try_lock().is_ok() && identity(&lock.metadata()?) == identity(&there.metadata()?);
        Ok(is_claimed.then_some(lock))
    };
    match claim() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        claimed => claimed,
    }
}

/// What tells a file from all others on this machine.
fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes a run's directory, for who holds its lock, and the directory of all runs if it was the
/// last.
fn clear(path: &Path) -> io::Result<()> {
    let removed = retry(|| {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != LOCK_FILE {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    });
    removed?;
    fs::remove_file(path.join(LOCK_FILE))?;
    // From here on a new run may be in its place; then it is not empty, and stays.
    let _taken = fs::remove_dir(path);
    if let Some(root) = path.parent() {
        let _others_run = fs::remove_dir(root);
    }
    Ok(())
}

/// All runs of this user on this machine. Removes what killed ones left.
pub(crate) fn all() -> anyhow::Result<Vec<Found>> {
    let root = root()?;
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("listing the runs in {}", root.display()))?,
    };
    let mut found: Vec<_> = entries.flatten().filter_map(|entry| look(&entry.path())).collect();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

/// The run in this directory, if there is one. Removes what a killed one left.
pub(crate) fn look(path: &Path) -> Option<Found> {
    let id = path.file_name()?.to_str()?.to_owned();
    if id.starts_with(DRAFT) {
        if age(path).is_some_and(|age| age > STALE) {
            let _somebody_else_did = fs::remove_dir_all(path);
        }
        return None;
    }
    let Ok(lock) = File::open(path.join(LOCK_FILE)) else {
        // Who removed it was killed before the last step. It stays if it is not empty.
        let _not_ours = fs::remove_dir(path);
        return None;
    };
    // Shared: others who look at the same time must not take us for the run.
    let alive = lock.try_lock_shared().is_err();
    drop(lock);
    let ended = path.join(ENDED_FILE);
    let worth_a_look = || age(&ended).is_some_and(|age| age < KEPT_FOR);
    if !alive && !worth_a_look() {
        let _somebody_else_did = sweep(path);
        return None;
    }
    Some(Found { id, path: path.to_owned(), alive })
}

/// Since when a file has been as it is.
fn age(path: &Path) -> Option<Duration> {
    let modified = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// The directory of all runs, one of this user's own where `XLREG_RUN_DIR` says or else where
/// temporary files go. In it is nothing but ours: what nobody has locked there is removed.
fn root() -> anyhow::Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let above = path_from_env("XLREG_RUN_DIR").unwrap_or_else(std::env::temp_dir);
    let root = std::path::absolute(above)?.join(format!("xlreg-{uid}"));
    if matches!(is_ours(&root), Ok(false)) {
        let message = format!(
            "{} is not a directory of your own that nobody else may write to; remove it, or set \
             XLREG_RUN_DIR to one that is",
            root.display()
        );
        return Err(Ending::new(Code::Failed, message).into());
    }
    Ok(root)
}

/// Whether a directory is this user's own, and nobody else's to write to: whoever may could lay out
/// a socket of his own for us to talk to.
fn is_ours(dir: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(dir)?;
    let own = metadata.uid() == nix::unistd::geteuid().as_raw();
    Ok(metadata.is_dir() && own && metadata.mode() & 0o022 == 0)
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Tries again what others may disturb in passing.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..100 {
        match attempt() {
            Err(error) if is_passing(&error) => {}
            done => return done,
        }
    }
    attempt()
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_name_get_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("runs");
        let name: Name = "alpha".parse().unwrap();
        let runs = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..16).map(|_| scope.spawn(|| RunDir::create_in(&root, &name).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let mut paths: Vec<_> = runs.iter().map(|run| run.path().to_owned()).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 16);
        assert!(paths.contains(&root.join("alpha")) && paths.contains(&root.join("alpha-16")));
        let found = paths.iter().map(|path| look(path).unwrap());
        assert!(found.into_iter().all(|found| found.alive));
        for run in runs {
            run.remove().unwrap();
        }
        assert!(!root.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_ended_by_itself_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let name: Name = "alpha".parse().unwrap();
        let killed = RunDir::create_in(root.path(), &name).unwrap();
        let ended = RunDir::create_in(root.path(), &name).unwrap();
        fs::write(ended.path().join(ENDED_FILE), "done").unwrap();
        let paths = [killed.path().to_owned(), ended.path().to_owned()];
        drop((killed, ended));
        assert!(look(&paths[0]).is_none() && !paths[0].exists());
        assert!(look(&paths[1]).is_some_and(|found| !found.alive));
        assert!(sweep(&paths[1]).unwrap() && !paths[1].exists());
    }

    /// Some remove what dead runs of a name left, while others start runs of that name.
    #[test]
    fn nobody_takes_a_new_run_for_the_remains_of_an_old_one() {
        let root = tempfile::tempdir().unwrap();
        let name: Name = "alpha".parse().unwrap();
        let path = root.path().join("alpha");
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(std::sync::atomic::Ordering::Relaxed) {
                        look(&path);
                    }
                });
            }
            for _ in 0..300 {
                let run = RunDir::create_in(root.path(), &name).unwrap();
                fs::create_dir(run.path().join("member_0")).unwrap();
                for _ in 0..3 {
                    assert!(run.path().join("member_0").exists(), "a living run was removed");
                    assert!(look(run.path()).is_some_and(|found| found.alive));
                }
                // As if it was killed.
                drop(run);
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn what_was_only_half_removed_is_removed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("alpha")).unwrap();
        assert!(look(&root.path().join("alpha")).is_none() && !root.path().join("alpha").exists());
    }
}
