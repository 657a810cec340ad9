//! Files written into a directory that may have others' in it.
//!
//! `known_hosts`, `authorized_keys` and `cert.pem` are names that many directories have. So beside
//! our files stands a list of them with their digests, and a file that is there already is replaced
//! only if it is just what we wrote; one that somebody else wrote, or changed, is left, and nothing is
//! written at all.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::spawn_blocking;
use xlreg_node::files::{self, Durability, Mode};
use xlreg_proto::text::FILE_BYTES_MAX;

use super::File;

/// The list.
const LIST_FILE: &str = ".xlreg-export.json";

/// A directory that files can't be written to.
#[derive(Debug, Error)]
pub enum WriteError {
    /// A file is in the way that is not ours.
    #[error(
        "{path} is there already, and is not as we have written it: nothing is written; \
         move it away, or name another directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What we have written into a directory, ever.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct List {
    files: BTreeSet<Entry>,
}

/// A file, as we wrote it. While files are being replaced, there are two of one path.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct Entry {
    path: String,
    sha256: String,
}

/// Writes `files` below `dir`, which is made if it is missing, for its owner alone. Each is replaced in
/// one step; what is private is so (0600) from its first byte on.
///
/// Killed or out of room amid it, some files are new and some old; do it again then.
///
/// # Errors
/// [`WriteError::Foreign`] if that would replace what is not ours, or else [`WriteError::File`].
pub async fn write(dir: &Path, files: Vec<File>) -> Result<(), WriteError> {
    let dir = dir.to_owned();
    spawn_blocking(move || write_all(&dir, &files)).await.expect("writing files does not panic")
}

/// Writes `files` into `dir`, a directory of the caller's own, in place of whatever is there.
///
/// # Errors
/// [`WriteError::File`] if that can't be done.
pub async fn replace(
    dir: &Path,
    files: Vec<File>,
    durability: Durability,
) -> Result<(), WriteError> {
    let dir = dir.to_owned();
    let work = move || files.iter().try_for_each(|file| put(&dir, file, durability));
    spawn_blocking(work).await.expect("writing files does not panic")
}

fn put(dir: &Path, file: &File, durability: Durability) -> Result<(), WriteError> {
    let path = dir.join(file.path);
    let mode = if file.private { Mode::Private } else { Mode::Public };
    files::replace_with(&path, file.content.as_bytes(), mode, durability)
        .map_err(|source| failed("writing", &path, source))
}

fn write_all(dir: &Path, files: &[File]) -> Result<(), WriteError> {
    let before = List::read(dir)?;
    for file in files {
        before.refuse_foreign(dir, file)?;
    }
    for parent in files.iter().filter_map(|file| dir.join(file.path).parent().map(Path::to_owned)) {
        files::create_dir(&parent).map_err(|source| failed("making", &parent, source))?;
    }
    let written: BTreeSet<_> = files.iter().map(Entry::of).collect();
    // Whenever we are killed, all that stands there is on the list.
    let mut list = before.clone();
    list.files.extend(written.iter().cloned());
    list.write(dir)?;
    for file in files {
        put(dir, file, Durability::Lasting)?;
    }
    list.files.retain(|entry| {
        written.contains(entry) || !files.iter().any(|file| file.path == entry.path)
    });
    list.write(dir)
}

impl List {
    fn read(dir: &Path) -> Result<Self, WriteError> {
        let path = dir.join(LIST_FILE);
        let text = match files::read_text(&path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(failed("reading", &path, source)),
        };
        // If it is damaged, nothing is known to be ours.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    fn write(&self, dir: &Path) -> Result<(), WriteError> {
        let path = dir.join(LIST_FILE);
        let json = serde_json::to_string_pretty(self).expect("strings always make JSON");
        files::replace(&path, json.as_bytes(), Mode::Private)
            .map_err(|source| failed("writing", &path, source))
    }

    fn refuse_foreign(&self, dir: &Path, file: &File) -> Result<(), WriteError> {
        let path = dir.join(file.path);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(|source| failed("looking at", &path, source))?,
        };
        let is_ours = |content: &[u8]| {
            let entry = Entry::new(file.path, content);
            content == file.content.as_bytes() || self.files.contains(&entry)
        };
        // All that we write is text, and a plain file.
        let content = metadata.is_file().then(|| files::read_text(&path, FILE_BYTES_MAX).ok());
        match content.flatten() {
            Some(content) if is_ours(content.as_bytes()) => Ok(()),
            _ => Err(WriteError::Foreign { path }),
        }
    }
}

impl Entry {
    fn new(path: &str, content: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, content);
        let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: path.to_owned(), sha256 }
    }

    fn of(file: &File) -> Self {
        Self::new(file.path, file.content.as_bytes())
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> WriteError {
    WriteError::File { doing, path: path.to_owned(), source }
}
