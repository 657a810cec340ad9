//! Writing files so that they are whole or not there, and private if they must be.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// How old a draft must be to be the remains of a process that was killed, and not another's that
/// is still writing.
const STALE: Duration = Duration::from_secs(600);

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its owner alone: 0600.
    Private,
    /// Everybody: 0644.
    Public,
}

/// What a file must outlive.
///
/// Either way whoever looks while the machine runs sees a file whole or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Everything, a power cut too: file and name are on the disk before a function returns, which
    /// takes milliseconds each.
    #[default]
    Lasting,
    /// The process that writes it, and no more: after a power cut it may be there, damaged or gone.
    /// For what nobody wants to have back then.
    Fleeting,
}

/// Writes a file in place of whatever is there: whoever looks sees the old content or the new, also
/// after a power cut.
///
/// # Errors
/// What the operating system says; the old content stands then.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    replace_with(path, content, mode, Durability::Lasting)
}

/// As [`replace`], with a choice of what the file must outlive.
///
/// # Errors
/// What the operating system says; the old content stands then.
pub fn replace_with(
    path: &Path,
    content: &[u8],
    mode: Mode,
    durability: Durability,
) -> io::Result<()> {
    draft(path, content, mode, durability)?.persist(path)?;
    durability.sync_dir(parent(path))
}

/// Whether a file can be put where `path` says, as far as its directory lets one be made.
///
/// # Errors
/// What the operating system says.
pub fn try_out(path: &Path) -> io::Result<()> {
    tempfile::tempfile_in(parent(path)).map(drop)
}

/// Writes a file if there is none; of several who try at once, one succeeds.
///
/// Returns whether this one did.
///
/// # Errors
/// What the operating system says; there is no new file then.
pub fn create(path: &Path, content: &[u8], mode: Mode) -> io::Result<bool> {
    create_with(path, content, mode, Durability::Lasting)
}

/// As [`create`], with a choice of what the file must outlive.
///
/// # Errors
/// What the operating system says; there is no new file then.
pub fn create_with(
    path: &Path,
    content: &[u8],
    mode: Mode,
    durability: Durability,
) -> io::Result<bool> {
    match draft(path, content, mode, durability)?.persist_noclobber(path) {
        Ok(_) => durability.sync_dir(parent(path)).map(|()| true),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(failed) => Err(failed.error),
    }
}

/// Puts a file in the place of another in the same directory: whoever looks sees the one or the
/// other.
///
/// # Errors
/// What the operating system says; both stand as they were then.
pub fn rename_with(from: &Path, to: &Path, durability: Durability) -> io::Result<()> {
    fs::rename(from, to)?;
    durability.sync_dir(parent(to))
}

/// Removes a file, if it is there.
///
/// # Errors
/// What the operating system says.
pub fn remove_with(path: &Path, durability: Durability) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => durability.sync_dir(parent(path)),
    }
}

/// Reads a text of at most `bytes_max` bytes, into memory that is wiped when it is dropped.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] beyond that, [`io::ErrorKind::InvalidData`] if it is not UTF-8,
/// or what the operating system says.
pub fn read_text(path: &Path, bytes_max: usize) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    // Room for all of it at once, so that growing leaves no copies behind.
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(bytes_max).min(bytes_max);
    let mut text = Zeroizing::new(String::with_capacity(expected + 1));
    file.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
    if text.len() > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Makes a directory that its owner alone may enter (0700), and those above it, if they are missing.
///
/// # Errors
/// What the operating system says.
pub fn create_dir(path: &Path) -> io::Result<()> {
    create_dir_with(path, Durability::Lasting)
}

/// As [`create_dir`], with a choice of what the directories must outlive.
///
/// # Errors
/// What the operating system says.
pub fn create_dir_with(path: &Path, durability: Durability) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|dir| !is_there(dir)).collect();
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    // The new names must last as long as what will be put there.
    missing.into_iter().try_for_each(|dir| durability.sync_dir(parent(dir)))
}

impl Durability {
    fn sync(self, file: &File) -> io::Result<()> {
        match self {
            Self::Lasting => file.sync_all(),
            Self::Fleeting => Ok(()),
        }
    }

    /// Makes the names in a directory last. Directories can't be opened for that everywhere.
    fn sync_dir(self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Lasting if cfg!(unix) => File::open(dir)?.sync_all(),
            _ => Ok(()),
        }
    }
}

/// A file beside the one it is to become, whole and as durable as that must be; removed if it
/// becomes none.
fn draft(
    target: &Path,
    content: &[u8],
    mode: Mode,
    durability: Durability,
) -> io::Result<NamedTempFile> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let prefix = format!(".{name}.");
    remove_stale_drafts(parent(target), &prefix);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(
        match mode {
            Mode::Private => 0o600,
            Mode::Public => 0o644,
        },
    ));
    let mut draft = builder.tempfile_in(parent(target))?;
    draft.write_all(content)?;
    durability.sync(draft.as_file())?;
    Ok(draft)
}

/// Removes what processes left behind that were killed amid writing: it may hold private keys.
pub(crate) fn remove_stale_drafts(dir: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age > STALE) {
            // Somebody else may have removed it; nothing depends on who does.
            let _gone = fs::remove_file(entry.path());
        }
    }
}

fn is_there(dir: &Path) -> bool {
    dir.as_os_str().is_empty() || dir.exists()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_and_creating_leave_no_draft_and_no_half_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(create(&path, b"one", Mode::Private).unwrap());
        assert!(!create(&path, b"two", Mode::Private).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three", Mode::Public).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        replace_with(&path, b"four", Mode::Private, Durability::Fleeting).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four");
        assert!(!create_with(&path, b"five", Mode::Private, Durability::Fleeting).unwrap());
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

    #[test]
    fn drafts_of_the_killed_are_removed_and_those_of_the_living_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join(".f.old"), dir.path().join(".f.new"));
        fs::write(&new, b"").unwrap();
        let long_ago = SystemTime::now() - 2 * STALE;
        File::create(&old).unwrap().set_modified(long_ago).unwrap();
        replace(&dir.path().join("f"), b"", Mode::Private).unwrap();
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn reading_is_bounded_and_takes_text_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap().as_str(), "12345");
        assert_eq!(read_text(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        fs::write(&path, b"\xFF").unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read_text(Path::new("/dev/zero"), 1 << 20).is_err());
    }
}
