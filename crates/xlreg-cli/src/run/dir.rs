//! Where runs live on this machine: one directory each, locked as long as the run lasts.
//!
//! A run's directory holds all that it makes: its members' directories, its control socket, its
//! logs. Whoever finds one whose lock is free finds the remains of a run that was killed together
//! with its guard, and removes them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use xlreg::Name;
use xlreg_proto::keys::random;

use crate::exit::{Code, Ending};

/// Held locked by a living run.
const LOCK_FILE: &str = "lock";

/// Left by a detached run that has ended by itself, with its logs, until somebody has looked.
pub(crate) const ENDED_FILE: &str = "ended";

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
#[derive(Debug)]
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
        let hint = "; set TMPDIR or XLREG_RUN_DIR to a directory that you can write to";
        Self::create_in(&root, cluster).map_err(|error| {
            Ending::new(Code::Failed, format!("{}: {error}{hint}", failed())).into()
        })
    }

    fn create_in(root: &Path, cluster: &Name) -> io::Result<Self> {
        let number = u64::from_le_bytes(random());
        let draft = root.join(format!("{DRAFT}{number:016x}"));
        // The last run to end removes the directory of all of them, perhaps just now.
        retry(|| make_dir(root).and_then(|()| make_dir(&draft)))?;
        let lock = File::create(draft.join(LOCK_FILE))?;
        lock.lock()?;
        for number in 1.. {
            let id = if number == 1 { cluster.to_string() } else { format!("{cluster}-{number}") };
            let path = root.join(id);
            match fs::rename(&draft, &path) {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(error) if is_taken(&error) => {}
                Err(error) => {
                    let _not_even_that = fs::remove_dir_all(&draft);
                    return Err(error);
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a run's directory and, if it was the last, that of all runs.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = retry(|| match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    });
    if let Some(root) = path.parent() {
        // Not empty: others run.
        let _others_run = fs::remove_dir(root);
    }
    removed
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

fn look(path: &Path) -> Option<Found> {
    let id = path.file_name()?.to_str()?.to_owned();
    if id.starts_with(DRAFT) {
        if age(path).is_some_and(|age| age > STALE) {
            let _somebody_else_did = remove(path);
        }
        return None;
    }
    let lock = File::open(path.join(LOCK_FILE)).ok()?;
    let alive = lock.try_lock().is_err();
    let ended = path.join(ENDED_FILE);
    let worth_a_look = || age(&ended).is_some_and(|age| age < KEPT_FOR);
    if !alive && !worth_a_look() {
        let _somebody_else_did = remove(path);
        return None;
    }
    Some(Found { id, path: path.to_owned(), alive })
}

/// Since when a file has been as it is.
fn age(path: &Path) -> Option<Duration> {
    let modified = path.metadata().and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(modified).unwrap_or_default())
}

/// The directory of all runs: `XLREG_RUN_DIR`, or one of this user's own where temporary files go.
fn root() -> anyhow::Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let root = match std::env::var_os("XLREG_RUN_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => std::env::temp_dir().join(format!("xlreg-{uid}")),
    };
    let root = std::path::absolute(root)?;
    // Whoever may write there could lay out a socket of his own for us to talk to.
    if let Ok(metadata) = fs::symlink_metadata(&root)
        && (!metadata.is_dir() || metadata.uid() != uid.as_raw() || metadata.mode() & 0o022 != 0)
    {
        let message = format!(
            "{} is not a directory of your own that nobody else may write to; remove it, or set \
             XLREG_RUN_DIR to one that is",
            root.display()
        );
        return Err(Ending::new(Code::Failed, message).into());
    }
    Ok(root)
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)
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
        for path in &paths {
            remove(path).unwrap();
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
    }
}
