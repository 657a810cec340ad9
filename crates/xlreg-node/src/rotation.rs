//! New keys beside the present ones, until they take their place.
//!
//! Whoever changes keys at a registry must have the new ones on the disk before the registry hears
//! of them, and the old ones until it has answered: at any moment one of the two files holds the
//! keys that the registry knows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::NodeFile;

use crate::files::{self, Mode};
use crate::identity::{Identity, IdentityError, read};

/// The node file to come, beside the present one.
pub const NEXT_FILE: &str = ".xlattice/node.config.next";

/// What this node is known by from now on. What is not set stays.
#[derive(Clone, Debug, Default)]
pub struct NewKeys {
    /// What says who this is.
    pub sig: Option<Arc<PrivateKey>>,
    /// What others agree on session keys with.
    pub comms: Option<Arc<PrivateKey>>,
}

impl Identity {
    /// The same node with other keys, in memory only.
    #[must_use]
    pub fn with_keys(&self, keys: &NewKeys) -> Self {
        let node = self.node();
        let or = |new: &Option<_>, present| Arc::clone(new.as_ref().unwrap_or(present));
        let node = NodeFile {
            sig_key: or(&keys.sig, &node.sig_key),
            comms_key: or(&keys.comms, &node.comms_key),
            ..node.clone()
        };
        self.with_node(node)
    }

    /// The keys that were put beside the present ones and have not taken their place yet.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn staged(&self) -> Result<Option<Self>, IdentityError> {
        let Some(path) = self.next_file() else { return Ok(None) };
        match read(&path) {
            Ok(Some(node)) => Ok(Some(self.with_node(node))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts other keys beside the present ones. The identity that is returned has them; for one that
    /// lives in memory only, that is all.
    ///
    /// # Errors
    /// [`IdentityError::Staged`] if there are some already, [`IdentityError::File`] if they can't be
    /// written.
    pub fn stage(&self, keys: &NewKeys) -> Result<Self, IdentityError> {
        let next = self.with_keys(keys);
        let Some(path) = self.next_file() else { return Ok(next) };
        let text = next.node().to_text();
        let made = files::create_with(&path, text.as_bytes(), Mode::Private, self.durability());
        match made {
            Ok(true) => Ok(next),
            Ok(false) => Err(IdentityError::Staged { path }),
            Err(source) => Err(IdentityError::File { doing: "writing", path, source }),
        }
    }

    /// Has the keys that were staged take the place of the present ones.
    ///
    /// # Errors
    /// [`IdentityError::File`] if the file can't be renamed; the old one stands then.
    pub fn promote(&self) -> Result<(), IdentityError> {
        let (Some(path), Some(dir)) = (self.next_file(), self.dir()) else { return Ok(()) };
        let to = dir.join(xlreg_proto::text::node::NODE_FILE);
        files::rename_with(&path, &to, self.durability()).map_err(|source| IdentityError::File {
            doing: "putting in place",
            path,
            source,
        })
    }

    /// Throws the keys that were staged away. **Only for keys that no registry has heard of.**
    ///
    /// # Errors
    /// [`IdentityError::File`] if the file can't be removed.
    pub fn discard(&self) -> Result<(), IdentityError> {
        let Some(path) = self.next_file() else { return Ok(()) };
        files::remove_with(&path, self.durability()).map_err(|source| IdentityError::File {
            doing: "removing",
            path,
            source,
        })
    }

    fn next_file(&self) -> Option<PathBuf> {
        self.dir().map(|dir: &Path| dir.join(NEXT_FILE))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys() -> NewKeys {
        let key = || Some(Arc::new(PrivateKey::generate().unwrap()));
        NewKeys { sig: key(), comms: key() }
    }

    fn public(identity: &Identity) -> [xlreg_core::PublicKey; 2] {
        [identity.sig_key().public().clone(), identity.comms_key().public().clone()]
    }

    #[test]
    fn staged_keys_take_the_place_of_the_present_ones_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let old = Identity::create(dir.path(), "a".parse().unwrap()).unwrap();
        assert!(old.staged().unwrap().is_none());
        let next = old.stage(&keys()).unwrap();
        assert_eq!((next.id(), next.dir()), (old.id(), old.dir()));
        assert_ne!(public(&next), public(&old));

        // A crash here leaves both.
        let loaded = Identity::load(dir.path()).unwrap();
        assert_eq!(public(&loaded), public(&old));
        let staged = loaded.staged().unwrap().unwrap();
        assert_eq!(public(&staged), public(&next));
        assert!(matches!(loaded.stage(&keys()), Err(IdentityError::Staged { .. })));

        staged.promote().unwrap();
        let loaded = Identity::load(dir.path()).unwrap();
        assert_eq!((public(&loaded), loaded.id()), (public(&next), old.id()));
        assert!(loaded.staged().unwrap().is_none());
    }

    #[test]
    fn one_key_may_stay_and_staged_keys_can_be_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let old = Identity::create(dir.path(), "a".parse().unwrap()).unwrap();
        let next = old.stage(&NewKeys { comms: None, ..keys() }).unwrap();
        let (before, after) = (public(&old), public(&next));
        assert_eq!((before[0] == after[0], before[1] == after[1]), (false, true));
        old.discard().unwrap();
        old.discard().unwrap();
        assert!(old.staged().unwrap().is_none());
        assert!(old.stage(&keys()).is_ok());
    }

    #[test]
    fn an_identity_in_memory_has_no_files() {
        let old = Identity::generate("a".parse().unwrap()).unwrap();
        let next = old.stage(&keys()).unwrap();
        assert!(old.staged().unwrap().is_none());
        next.promote().unwrap();
        assert_ne!(public(&next), public(&old));
    }

    #[cfg(unix)]
    #[test]
    fn staged_keys_are_private_and_refused_if_they_are_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let old = Identity::create(dir.path(), "a".parse().unwrap()).unwrap();
        old.stage(&keys()).unwrap();
        let path = dir.path().join(NEXT_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(old.staged(), Err(IdentityError::Exposed { .. })));
    }
}
