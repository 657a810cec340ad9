//! A node's identity: make it, keep it, prove it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use thiserror::Error;
use xlreg_core::{Endpoint, Name, NodeId};
use xlreg_proto::keys::{KeyError, PrivateKey, random};
use xlreg_proto::message::Claim;
use xlreg_proto::text::node::NODE_FILE;
use xlreg_proto::text::{FILE_BYTES_MAX, FileId, NodeFile, TextError};

use crate::files::{self, Durability, Mode};

/// A node's name, ID and two keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Identity {
    node: Arc<NodeFile>,
    name: Name,
    dir: Option<PathBuf>,
    durability: Durability,
}

/// An identity that can't be made, kept or used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is none in this directory.
    #[error(
        "there is no identity in {dir} ({NODE_FILE} is missing); make one with `xlreg id new {dir}`"
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// There is one in this directory.
    #[error("there is an identity in {dir} already; it stays as it is")]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There are keys already that are about to take the place of this identity's.
    #[error(
        "{path} holds keys that have not taken the place of the present ones yet: finish that, by rotating keys again, before others are made"
    )]
    Staged {
        /// The file.
        path: PathBuf,
    },
    /// A file that can't be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done to it.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others may read the private keys.
    #[error("{path} holds private keys, and others may read it (mode {mode:o}): chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file that is not what it should be.
    #[error("{path} is not a usable node file: {source}")]
    Text {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: TextError,
    },
    /// A key that can't be made or used.
    #[error("making or using a key of {name}: {source}")]
    Key {
        /// The node.
        name: Name,
        /// Why.
        source: KeyError,
    },
}

impl Identity {
    /// Makes an identity that lives in memory only: a random ID and two new keys, on a core each.
    ///
    /// # Errors
    /// [`IdentityError::Key`] if the cryptographic library fails.
    pub fn generate(name: Name) -> Result<Self, IdentityError> {
        let (comms, sig) = thread::scope(|scope| {
            let comms = scope.spawn(PrivateKey::generate);
            let sig = PrivateKey::generate();
            (comms.join().unwrap_or(Err(KeyError::Generate)), sig)
        });
        let failed = |source| IdentityError::Key { name: name.clone(), source };
        let (comms, sig) = (comms.map_err(failed)?, sig.map_err(failed)?);
        Ok(Self::from_keys(name, comms, sig))
    }

    /// Makes an identity of two keys that are there already, with a random ID. It lives in memory
    /// only, until [`Self::keep`].
    ///
    /// The keys must be this node's alone: whoever else has them can pass for it.
    #[must_use]
    pub fn from_keys(name: Name, comms: PrivateKey, sig: PrivateKey) -> Self {
        let node = NodeFile {
            name: name.clone(),
            id: FileId::from(NodeId::from_bytes(random())),
            overlays: Vec::new(),
            lfs: ".".parse().expect("a dot fits on a line"),
            comms_key: Arc::new(comms),
            sig_key: Arc::new(sig),
            endpoints: Vec::new(),
            peers: Vec::new(),
        };
        Self { node: Arc::new(node), name, dir: None, durability: Durability::default() }
    }

    /// Makes an identity and keeps it below `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if there is one already.
    pub fn create(dir: &Path, name: Name) -> Result<Self, IdentityError> {
        refuse_existing(dir)?;
        Self::generate(name)?.keep(dir, Durability::Lasting)
    }

    /// Keeps this identity below `dir`, which is made if it is missing; what it was kept as before,
    /// if it was, stays. [`Durability::Fleeting`] is for clusters that nobody wants back after a
    /// power cut.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if there is one already, [`IdentityError::File`] if it can't be
    /// written.
    pub fn keep(self, dir: &Path, durability: Durability) -> Result<Self, IdentityError> {
        let path = dir.join(NODE_FILE);
        let failed = |doing, source| IdentityError::File { doing, path: path.clone(), source };
        let lfs = dir.to_string_lossy().parse().map_err(|_| {
            failed("naming the identity's directory in", io::ErrorKind::InvalidFilename.into())
        })?;
        let node = NodeFile { lfs, ..NodeFile::clone(&self.node) };
        let written = files::create_dir_with(path.parent().unwrap_or(dir), durability);
        let written = written.and_then(|()| {
            files::create_with(&path, node.to_text().as_bytes(), Mode::Private, durability)
        });
        if written.map_err(|source| failed("writing", source))? {
            Ok(Self { node: Arc::new(node), dir: Some(dir.to_owned()), durability, ..self })
        } else {
            Err(IdentityError::Exists { dir: dir.to_owned() })
        }
    }

    /// Loads the identity below `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if there is none, and others if its file is not usable.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let missing = || IdentityError::Missing { dir: dir.to_owned() };
        let node = read(&dir.join(NODE_FILE))?.ok_or_else(missing)?;
        let name = node.name.clone();
        let dir = Some(dir.to_owned());
        Ok(Self { node: Arc::new(node), name, dir, durability: Durability::default() })
    }

    /// Loads the identity below `dir`, or makes one named `name` there. Of several who try at
    /// once, all get the same.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::create`].
    pub fn load_or_create(dir: &Path, name: Name) -> Result<Self, IdentityError> {
        match Self::load(dir) {
            Err(IdentityError::Missing { .. }) => {}
            loaded => return loaded,
        }
        match Self::create(dir, name) {
            Err(IdentityError::Exists { .. }) => Self::load(dir),
            created => created,
        }
    }

    /// The same node under another name, for one cluster. Its file stays as it is.
    #[must_use]
    pub fn with_name(mut self, name: Name) -> Self {
        self.name = name;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its ID; none if its file is of before 2014-11, when IDs were too long for today's wire. The
    /// registry issues one then.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.node.id.node_id()
    }

    /// The key that others agree on session keys with.
    #[must_use]
    pub fn comms_key(&self) -> &Arc<PrivateKey> {
        &self.node.comms_key
    }

    /// The key that says who this is.
    #[must_use]
    pub fn sig_key(&self) -> &Arc<PrivateKey> {
        &self.node.sig_key
    }

    /// Where it is kept, if it is.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// What its file must outlive, and with it all that is kept beside it.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// All that its file says.
    #[must_use]
    pub fn node(&self) -> &NodeFile {
        &self.node
    }

    /// The same identity with another file's content.
    pub(crate) fn with_node(&self, node: NodeFile) -> Self {
        Self { node: Arc::new(node), ..self.clone() }
    }

    /// Signs what this node says of itself to a registry: one RSA private operation.
    ///
    /// # Errors
    /// [`IdentityError::Key`] if the cryptographic library refuses.
    pub fn claim(&self, attrs: u64, endpoints: Vec<Endpoint>) -> Result<Claim, IdentityError> {
        let comms = self.comms_key().public().clone();
        Claim::sign(self.id(), self.name.clone(), attrs, comms, self.sig_key(), endpoints)
            .map_err(|source| IdentityError::Key { name: self.name.clone(), source })
    }
}

/// Reads a node file, if it is there.
pub(crate) fn read(path: &Path) -> Result<Option<NodeFile>, IdentityError> {
    let path = path.to_owned();
    let text = match files::read_text(&path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::File { doing: "reading", path, source }),
    };
    let parsed = NodeFile::parse(&text);
    let node = parsed.map_err(|source| IdentityError::Text { path: path.clone(), source })?;
    refuse_exposed(&path)?;
    Ok(Some(node))
}

/// Finds out before keys are made that there would be no place for them.
fn refuse_existing(dir: &Path) -> Result<(), IdentityError> {
    if dir.join(NODE_FILE).exists() {
        return Err(IdentityError::Exists { dir: dir.to_owned() });
    }
    Ok(())
}

/// Keys that others may read are no secret any more, and nobody would notice.
fn refuse_exposed(path: &Path) -> Result<(), IdentityError> {
    #[cfg(unix)]
    {
        let failed = |source| IdentityError::File { doing: "reading", path: path.into(), source };
        let permissions = path.metadata().map_err(failed)?.permissions();
        let mode = std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn an_identity_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::load_or_create(dir.path(), name("a")).unwrap();
        let again = Identity::load_or_create(dir.path(), name("b")).unwrap();
        assert_eq!(again.name(), &name("a"));
        assert_eq!(again.id(), made.id());
        assert_eq!(again.sig_key().public(), made.sig_key().public());
        assert!(again.claim(0, vec![]).unwrap().prove().is_ok());
        assert!(matches!(
            Identity::create(dir.path(), name("a")),
            Err(IdentityError::Exists { .. })
        ));
    }

    #[test]
    fn of_several_who_make_one_at_once_all_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = thread::scope(|scope| {
            let make = || Identity::load_or_create(dir.path(), name("a")).unwrap().id();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| id.is_some() && *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn an_identity_of_given_keys_is_kept_when_told_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (comms, sig) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let public = [comms.public().clone(), sig.public().clone()];
        let made = Identity::from_keys(name("a"), comms, sig);
        assert_eq!((made.dir(), made.durability()), (None, Durability::Lasting));
        let kept = made.clone().keep(dir.path(), Durability::Fleeting).unwrap();
        assert_eq!((kept.dir(), kept.durability()), (Some(dir.path()), Durability::Fleeting));
        let loaded = Identity::load(dir.path()).unwrap();
        assert_eq!((loaded.id(), loaded.name()), (made.id(), made.name()));
        let keys = [loaded.comms_key().public().clone(), loaded.sig_key().public().clone()];
        assert_eq!(keys, public);
        let again = made.keep(dir.path(), Durability::Fleeting);
        assert!(matches!(again, Err(IdentityError::Exists { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn keys_that_others_may_read_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        Identity::create(dir.path(), name("a")).unwrap();
        let path = dir.path().join(NODE_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_missing_or_damaged_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Missing { .. })));
        Identity::create(dir.path(), name("a")).unwrap();
        let path = dir.path().join(NODE_FILE);
        for damage in ["", "node {\n", "\0\0\0"] {
            fs::write(&path, damage).unwrap();
            let error = Identity::load(dir.path()).unwrap_err();
            assert!(error.to_string().contains("node.config"), "{error}");
        }
        fs::write(&path, [0xFF, 0xFE]).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::File { .. })));
    }
}
