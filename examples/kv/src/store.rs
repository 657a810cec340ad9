//! A member's own copy, on disk.
//!
//! Whatever a member acknowledges it must still have after a crash, or a majority would no longer
//! mean anything. So each entry is appended to a file and synced before anybody hears of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::str::FromStr;

/// Which of two values is newer: the count first, then the rank of the member that coordinated the
/// request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// One more than any that the coordinator met before.
    pub count: u64,
    /// Its rank, since two coordinators may have met the same.
    pub rank: usize,
}

/// A value and its version. As text: `count rank key value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How new it is.
    pub version: Version,
    /// The key, without white space.
    pub key: String,
    /// The value, without newlines.
    pub value: String,
}

/// The newest entry of each key that this member has met.
#[derive(Debug)]
pub struct Store {
    entries: BTreeMap<String, Entry>,
    log: File,
}

impl Store {
    /// Opens the copy in `dir`; a new one is empty.
    ///
    /// # Errors
    /// What the operating system says, or that the file is not ours.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("kv.log");
        let mut log = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        log.read_to_string(&mut text)?;
        // A crash may have cut the last line short. Nobody has heard of it, so it can go.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        log.set_len(whole as u64)?;
        let mut entries = BTreeMap::new();
        for line in text.get(..whole).unwrap_or_default().lines() {
            // What is written later is newer.
            let entry: Entry = line.parse()?;
            entries.insert(entry.key.clone(), entry);
        }
        Ok(Self { entries, log })
    }

    /// The entry of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Takes an entry in, unless it is no newer than the one that is there. It is on the disk when
    /// this returns.
    ///
    /// # Errors
    /// What the operating system says; the entry counts as not taken then.
    pub fn put(&mut self, entry: Entry) -> io::Result<()> {
        if self.get(&entry.key).is_some_and(|mine| mine.version >= entry.version) {
            return Ok(());
        }
        self.log.write_all(format!("{entry}\n").as_bytes())?;
        self.log.sync_data()?;
        self.entries.insert(entry.key.clone(), entry);
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version: Version { count, rank }, key, value } = self;
        write!(f, "{count} {rank} {key} {value}")
    }
}

impl FromStr for Entry {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let mut parts = text.splitn(4, ' ');
        let mut next = || parts.next().ok_or_else(|| invalid(text));
        let (count, rank, key, value) = (next()?, next()?, next()?, next()?);
        let count = count.parse().map_err(|_| invalid(text))?;
        let rank = rank.parse().map_err(|_| invalid(text))?;
        Ok(Self { version: Version { count, rank }, key: key.to_owned(), value: value.to_owned() })
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no entry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(count: u64, rank: usize, value: &str) -> Entry {
        Entry { version: Version { count, rank }, key: "key".to_owned(), value: value.to_owned() }
    }

    #[test]
    fn the_newest_value_is_there_after_a_crash_and_half_a_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.put(entry(1, 0, "one")).unwrap();
        store.put(entry(2, 1, "two, and more")).unwrap();
        for stale in [entry(1, 2, "stale"), entry(2, 0, "stale"), entry(2, 1, "the same")] {
            store.put(stale).unwrap();
        }
        store.log.write_all(b"3 0 key cut sh").unwrap();
        drop(store);
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get("key"), Some(&entry(2, 1, "two, and more")));
        store.put(entry(3, 0, "three")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get("key"), Some(&entry(3, 0, "three")));
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused() {
        for text in ["hello\n", "1 0 key\n", "x 0 key value\n", "-1 0 key value\n"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("kv.log"), text).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
    }
}
