//! Keys that all tests share, since making them takes longer than everything else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use xlreg_core::Name;
use xlreg_node::files::{self, Durability, Mode};
use xlreg_node::{Identity, MakeError, make_keys};
use xlreg_proto::keys::PrivateKey;

/// Where test keys are kept for other processes; empty for nowhere.
const DIR_VARIABLE: &str = "XLREG_TEST_KEYS";

/// The directory of test keys in Cargo's target directory.
const DIR_NAME: &str = "xlreg-test-keys";

/// Keys in PKCS #1 DER, by their numbers. They protect nothing, so they need not be wiped.
static KEYS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A registry's identity, with test keys. Blocks while they are made.
pub(super) fn registry(name: Name) -> Result<Identity, MakeError> {
    let mut keys = shared(2)?.into_iter();
    let (comms, sig) = keys.next().zip(keys.next()).expect("two keys were asked for");
    Ok(Identity::from_keys(name, comms, sig))
}

/// Identities for the members of these names, by rank; of keys that nobody else has if they are to
/// be `fresh`. Blocks while keys are made.
pub(super) fn members(names: &[Name], fresh: bool) -> Result<Vec<Identity>, MakeError> {
    let count = 2 * names.len();
    let keys = match fresh {
        true => make_keys(count, None, || false, |_, _| {})?.keys,
        // The first two are the registry's.
        false => shared(count + 2)?.split_off(2),
    };
    let mut keys = keys.into_iter();
    let pairs = std::iter::from_fn(|| keys.next().zip(keys.next()));
    let named = names.iter().cloned().zip(pairs);
    Ok(named.map(|(name, (comms, sig))| Identity::from_keys(name, comms, sig)).collect())
}

/// The first `count` test keys.
fn shared(count: usize) -> Result<Vec<PrivateKey>, MakeError> {
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    if keys.len() < count {
        extend(&mut keys, count, dir().as_deref())?;
    }
    let first = keys.iter().take(count);
    Ok(first.map(|der| PrivateKey::from_pkcs1(der)).collect::<Result<_, _>>()?)
}

/// Adds keys until there are `count`: those in `dir`, and new ones, which are put there. That this
/// fails costs time, and nothing else.
fn extend(keys: &mut Vec<Vec<u8>>, count: usize, dir: Option<&Path>) -> Result<(), MakeError> {
    // Others wait here, rather than make the same keys at the same time on the same cores.
    let _lock = dir.and_then(lock);
    let find = |number| read(&path(dir?, number));
    let known: Vec<_> = (keys.len()..count).map(find).collect();
    let missing = known.iter().filter(|key| key.is_none()).count();
    let mut made = make_keys(missing, None, || false, |_, _| {})?.keys.into_iter();
    for key in known {
        let der = match key {
            Some(der) => der,
            None => {
                let der = made.next().expect("as many as were missing").pkcs1().to_vec();
                if let Some(dir) = dir {
                    keep(&path(dir, keys.len()), &der);
                }
                der
            }
        };
        keys.push(der);
    }
    Ok(())
}

/// The place for test keys: where we were told, or in Cargo's target directory, which this process
/// is in if it is a test that Cargo has built.
fn dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        return Some(PathBuf::from(dir)).filter(|dir| !dir.as_os_str().is_empty());
    }
    let program = std::env::current_exe().ok()?;
    let deps = program.parent().filter(|dir| dir.ends_with("deps"))?;
    Some(deps.parent()?.join(DIR_NAME))
}

/// Locks the directory, which is made if it is missing, until the file is dropped.
fn lock(dir: &Path) -> Option<File> {
    files::create_dir_with(dir, Durability::Fleeting).ok()?;
    let file = File::create(dir.join("lock")).ok()?;
    file.lock().ok()?;
    Some(file)
}

fn path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number}.der"))
}

/// The key in this file, if there is a sound one.
fn read(path: &Path) -> Option<Vec<u8>> {
    let der = fs::read(path).ok()?;
    PrivateKey::from_pkcs1(&der).is_ok().then_some(der)
}

fn keep(path: &Path, der: &[u8]) {
    // Whoever needs it next makes another.
    let _not_kept = files::replace_with(path, der, Mode::Private, Durability::Fleeting);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_damaged_ones_again() {
        let dir = tempfile::tempdir().unwrap();
        let taken = |count| {
            let mut keys = Vec::new();
            extend(&mut keys, count, Some(dir.path())).unwrap();
            keys
        };
        let first = taken(2);
        let more = taken(3);
        assert_eq!(more[..2], first, "the same as before");
        fs::write(path(dir.path(), 1), "not a key").unwrap();
        let mended = taken(3);
        assert_eq!((&mended[0], &mended[2]), (&more[0], &more[2]));
        assert_ne!(mended[1], more[1]);
        assert_eq!(taken(3), mended);
    }

    #[test]
    fn without_a_directory_there_are_keys_all_the_same() {
        let mut keys = Vec::new();
        extend(&mut keys, 1, None).unwrap();
        extend(&mut keys, 2, Some(Path::new("/dev/null/no/such"))).unwrap();
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0], keys[1]);
    }
}
