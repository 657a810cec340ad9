//! What can go wrong with a store. Each message says what was tried, what stood in the way, and
//! what to do next.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;
use xlreg_core::NodeId;

/// What to do about a file that can't be trusted.
const RESTORE: &str = "Restore a backup (xlreg store restore), or move the directory away to start an empty registry; \
     the file was left as it is";

/// Why a store can't be opened, or can't go on.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory, or a file in it, can't be made or read.
    #[error(
        "cannot {action} {path}: {source}. \
         Check that the path is right and that this user may write there"
    )]
    Folder {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error(
        "{path} is in use by another registry ({holder}). \
         Stop that one first, or give this one a directory of its own"
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// Who holds it: `process 4711`, as far as known.
        holder: String,
    },
    /// A log without the database that it belongs to.
    #[error(
        "{path} is missing, but its log {log} is there. Put the database back beside its log, or \
         restore both from a backup; to start an empty registry, move the directory away"
    )]
    Missing {
        /// Where the database should be.
        path: PathBuf,
        /// The log.
        log: PathBuf,
    },
    /// The file is a healthy SQLite database of something else.
    #[error(
        "{path} is a database, but not a registry's (application_id {got:#x}). \
         Check the path; a registry needs a directory of its own"
    )]
    NotRegistry {
        /// The file.
        path: PathBuf,
        /// Its application ID.
        got: i32,
    },
    /// The file was written by a later version of this program.
    #[error(
        "{path} has schema version {got}, and this program knows versions up to {known}. \
         Run the newer version of xlreg that wrote it, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        got: i32,
        /// The latest version known here.
        known: i32,
    },
    /// The file holds what another registry remembers.
    #[error(
        "{path} belongs to registry {got}, and this is registry {expected}. \
         Put the keys and the database of one registry together, or use another directory"
    )]
    OtherRegistry {
        /// The file.
        path: PathBuf,
        /// The ID of the registry that opened it.
        expected: NodeId,
        /// The ID in the file.
        got: NodeId,
    },
    /// SQLite finds the file's structure broken.
    #[error("{path} is damaged: {problem}. {RESTORE}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A row can be read, but is not what was written.
    #[error("{path} is damaged: table {table}, {row}: {problem}. {RESTORE}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// Which row, by its key.
        row: String,
        /// What is wrong with it.
        problem: String,
    },
    /// SQLite could not do something, and the file is not to blame.
    #[error(
        "cannot {action} {path}: {source}. \
         Check the disk's space and health, the file's permissions, and that no other program writes \
         to it; then start again. Nothing that was answered is lost"
    )]
    Sqlite {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// SQLite can't keep its log beside the file.
    #[error(
        "cannot keep a write-ahead log beside {path} (its journal mode stays {mode:?}). \
         Move the directory to a local disk: network and some shared file systems won't do"
    )]
    NoLog {
        /// The file.
        path: PathBuf,
        /// The journal mode that SQLite chose instead.
        mode: String,
    },
    /// The thread that writes can't be started.
    #[error(
        "cannot start the store's writer: {source}. \
         Raise the limit on this user's threads and open files, then start again"
    )]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The thread that writes is gone, which only a bug can bring about.
    #[error(
        "the store's writer ended unexpectedly. Start again: nothing that was answered is lost; \
         and please report this, with the panic message from the log"
    )]
    WriterGone,
}

impl StoreError {
    /// An error of SQLite, sorted by whether the file's content is to blame.
    pub(crate) fn sqlite(action: &'static str, path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, problem: source.to_string() }
            }
            _ => Self::Sqlite { action, path, source },
        }
    }

    /// For `map_err` after an action on a file or directory.
    pub(crate) fn folder(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Folder { action, path, source }
    }
}
