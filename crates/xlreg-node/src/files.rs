//! Writing files so that they are whole or not there, and private if they must be.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its owner alone: 0600.
    Private,
    /// Everybody: 0644.
    Public,
}

/// Writes a file in place of whatever is there: whoever looks sees the old content or the new, also
/// after a power cut.
///
/// # Errors
/// What the operating system says; the old content stands then.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let draft = Draft::write(path, content, mode)?;
    fs::rename(&draft.path, path)?;
    sync_parent(path)
}

/// Writes a file if there is none; of several who try at once, one succeeds.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is one; it stands.
pub fn create(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let draft = Draft::write(path, content, mode)?;
    // Unlike a rename, a link never replaces what is there.
    fs::hard_link(&draft.path, path)?;
    sync_parent(path)
}

/// Makes a directory that its owner alone may enter (0700), and those above it, if they are missing.
///
/// # Errors
/// What the operating system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// A file beside the one it is to become; removed when dropped, if it is still there.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(target: &Path, content: &[u8], mode: Mode) -> io::Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let draft = Self {
            path: target.with_file_name(format!(".{name}.{}-{serial}", std::process::id())),
        };
        let mut file = draft.open(mode)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(draft)
    }

    fn open(&self, mode: Mode) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(
            &mut options,
            if mode == Mode::Private { 0o600 } else { 0o644 },
        );
        #[cfg(not(unix))]
        let _ = mode;
        options.open(&self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename it is gone already, and nothing depends on its being gone.
        let _gone = fs::remove_file(&self.path);
    }
}

/// Makes the new name itself last. Directories can't be opened for that everywhere.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if cfg!(unix) { File::open(parent)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_and_creating_leave_no_draft_and_no_half_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        create(&path, b"one", Mode::Private).unwrap();
        let again = create(&path, b"two", Mode::Private).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three", Mode::Public).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn private_is_private_whatever_was_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"open").unwrap();
        replace(&path, b"closed", Mode::Private).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        create_dir(&dir.path().join("a/b")).unwrap();
        let mode = fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
