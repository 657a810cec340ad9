//! The registry's directory: made private, and open to one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use crate::StoreError;

/// The lock's file name. A file of its own: SQLite's locks on the database come and go.
pub const LOCK: &str = "lock";

/// Bytes read of the lock's file to tell who holds it; a process ID is shorter.
const HOLDER_BYTES_MAX: u64 = 32;

/// A registry's directory, held by this process until dropped: nobody else opens it meanwhile.
#[derive(Debug)]
pub struct Folder {
    /// The system frees the lock with the file, also when the process is killed.
    lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that another thread is just starting has
        // a copy of it until it becomes its program. If this fails, closing has to do.
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Makes the directory if there is none, for this user only, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::Folder`] if it can't be made
    /// or written to.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        if !dir.is_dir() {
            create_dir(dir).map_err(StoreError::folder("create", dir))?;
        }
        let path = dir.join(LOCK);
        let mut lock = private(OpenOptions::new().create(true).truncate(false))
            .open(&path)
            .map_err(StoreError::folder("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&lock);
                return Err(StoreError::Locked { path, holder });
            }
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::folder("lock", &path)(source));
            }
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(StoreError::folder("write", &path))?;
        Ok(Self { lock })
    }
}

/// Makes an empty file that only this user may read and write.
pub(crate) fn create_private(path: &Path) -> Result<(), StoreError> {
    private(OpenOptions::new().create_new(true))
        .open(path)
        .map(drop)
        .map_err(StoreError::folder("create", path))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::folder("remove", path)(source))
        }
        _ => Ok(()),
    }
}

/// Makes the directory's entries durable: a new or renamed file is there after a power cut.
pub(crate) fn sync(dir: &Path) -> Result<(), StoreError> {
    // Elsewhere a directory can't be opened as a file, nor does it need to be.
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::folder("sync", dir))?;
    }
    Ok(())
}

fn create_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    // The new entry stands in the parent.
    match dir.canonicalize()?.parent() {
        Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.read(true).write(true)
}

/// Who holds the lock, as its file says. The file may be anything, so only a number is believed.
fn holder(lock: &File) -> String {
    let mut text = String::new();
    let read = lock.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "process unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second handle on the same open file is what a child process has before it becomes its
    /// program.
    #[test]
    fn the_lock_goes_with_the_folder_though_a_child_has_a_copy_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let _copy = folder.lock.try_clone().unwrap();
        assert!(Folder::open(dir.path()).is_err());
        drop(folder);
        assert!(Folder::open(dir.path()).is_ok());
    }

    #[test]
    fn only_a_process_id_is_believed_of_the_lock_file() {
        for (text, expected) in [("4711\n", "process 4711"), ("\u{1b}[2J", "process unknown")] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(LOCK);
            fs::write(&path, text).unwrap();
            assert_eq!(holder(&File::open(&path).unwrap()), expected);
        }
    }
}
