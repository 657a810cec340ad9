//! A node's identity, for async callers, and what a member keeps beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;
use xlreg_core::{
    ClusterId, Endpoint, EntrySignature, Fingerprint, Member, Name, NodeId, PublicKey,
};
use xlreg_node::IdentityError;
use xlreg_node::files::{self, Durability, Mode};
use xlreg_proto::entry;
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::message::Claim;
use xlreg_proto::text::member::MEMBER_FILE;
use xlreg_proto::text::{
    Credentials, FileId, MemberFile, MemberInfo, NodeFile, Peer, SignedRoster,
};

use crate::error::Error;
use crate::roster::Roster;

/// The roster as JSON, beside the identity.
pub(crate) const ROSTER_FILE: &str = "roster.json";

/// The roster as its registry signed it, beside that and in exports.
pub const SIGNED_ROSTER_FILE: &str = "roster.signed";

/// A node's name, ID and two RSA keys. Cheap to clone.
///
/// On disk it is `.xlattice/node.config` below a directory of its own, readable by its owner alone
/// and interchangeable with the original library's.
#[derive(Clone, Debug)]
pub struct Identity {
    inner: xlreg_node::Identity,
}

impl Identity {
    /// Makes an identity that lives in memory only.
    ///
    /// # Errors
    /// [`Error::Identity`] if the cryptographic library fails.
    pub async fn generate(name: Name) -> Result<Self, Error> {
        Self::blocking(move || xlreg_node::Identity::generate(name)).await
    }

    /// Makes an identity of two keys that are there already, with a random ID. It lives in memory
    /// only, until [`Self::keep`].
    ///
    /// The keys must be this node's alone: whoever else has them can pass for it.
    #[must_use]
    pub fn from_keys(name: Name, comms: PrivateKey, sig: PrivateKey) -> Self {
        Self { inner: xlreg_node::Identity::from_keys(name, comms, sig) }
    }

    /// Keeps this identity below `dir`, which is made if it is missing. What is kept beside it
    /// later, the roster, will outlive the same; [`Durability::Fleeting`] is for clusters that
    /// nobody wants back after a power cut.
    ///
    /// # Errors
    /// [`Error::Identity`] if there is one already, or it can't be written.
    pub async fn keep(
        self,
        dir: impl Into<PathBuf>,
        durability: Durability,
    ) -> Result<Self, Error> {
        let dir = dir.into();
        Self::blocking(move || self.inner.keep(&dir, durability)).await
    }

    /// Makes an identity named `name` and keeps it below `dir`.
    ///
    /// # Errors
    /// [`Error::Identity`] if there is one already, or it can't be written.
    pub async fn create(dir: impl Into<PathBuf>, name: Name) -> Result<Self, Error> {
        let dir = dir.into();
        Self::blocking(move || xlreg_node::Identity::create(&dir, name)).await
    }

    /// Loads the identity below `dir`.
    ///
    /// # Errors
    /// [`Error::Identity`] if there is none, or it is not usable.
    pub async fn load(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        Self::blocking(move || xlreg_node::Identity::load(&dir)).await
    }

    /// Loads the identity below `dir`, or makes one named `name` there.
    ///
    /// # Errors
    /// [`Error::Identity`] if what is there is not usable, or can't be written.
    pub async fn load_or_create(dir: impl Into<PathBuf>, name: Name) -> Result<Self, Error> {
        let dir = dir.into();
        Self::blocking(move || xlreg_node::Identity::load_or_create(&dir, name)).await
    }

    /// Makes or reads keys off the async threads.
    async fn blocking(
        make: impl FnOnce() -> Result<xlreg_node::Identity, IdentityError> + Send + 'static,
    ) -> Result<Self, Error> {
        let inner = spawn_blocking(make).await.expect("making an identity does not panic")?;
        Ok(Self { inner })
    }

    /// The same node under another name, for one cluster. Its file stays as it is.
    #[must_use]
    pub fn with_name(self, name: Name) -> Self {
        Self { inner: self.inner.with_name(name) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.inner.name()
    }

    /// Its ID; none for an identity from before 2014-11, which gets one from the registry.
    #[must_use]
    pub fn id(&self) -> Option<NodeId> {
        self.inner.id()
    }

    /// The public key that others agree on session keys with.
    #[must_use]
    pub fn comms_key(&self) -> &PublicKey {
        self.inner.comms_key().public()
    }

    /// The public key that says who this is.
    #[must_use]
    pub fn sig_key(&self) -> &PublicKey {
        self.inner.sig_key().public()
    }

    /// Where it is kept, if it is.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.inner.dir()
    }

    /// Signs what it says of itself: an RSA private operation, off the async threads.
    pub(crate) async fn claim(&self, endpoints: Vec<Endpoint>) -> Result<Claim, Error> {
        let inner = self.inner.clone();
        let claim = spawn_blocking(move || inner.claim(0, endpoints)).await;
        Ok(claim.expect("signing does not panic")?)
    }

    /// The private half of its sig key, for TLS.
    pub(crate) fn sig_private(&self) -> &Arc<PrivateKey> {
        self.inner.sig_key()
    }

    /// Signs a statement with its sig key, off the async threads.
    pub(crate) async fn sign_by_sig(&self, statement: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.sign(Arc::clone(self.inner.sig_key()), statement).await
    }

    /// Signs a statement with its comms key, off the async threads.
    pub(crate) async fn sign_by_comms(&self, statement: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.sign(Arc::clone(self.inner.comms_key()), statement).await
    }

    /// Signs what a roster is to say of it, off the async threads.
    pub(crate) async fn sign_entry(
        &self,
        registry: Fingerprint,
        cluster: ClusterId,
        entry: Member,
    ) -> Result<EntrySignature, Error> {
        let key = Arc::clone(self.inner.sig_key());
        let sign = move || entry::sign(&key, &registry, &cluster, &entry);
        let signed = spawn_blocking(sign).await.expect("signing does not panic");
        let name = self.name().clone();
        Ok(signed.map_err(|source| IdentityError::Key { name, source })?)
    }

    async fn sign(&self, key: Arc<PrivateKey>, statement: Vec<u8>) -> Result<Vec<u8>, Error> {
        let signed = spawn_blocking(move || key.sign_pss(&[&statement])).await;
        let signed = signed.expect("signing does not panic");
        let name = self.name().clone();
        Ok(signed.map_err(|source| IdentityError::Key { name, source })?)
    }

    /// Keeps a roster below `dir`: as `roster.json` for any program, and as
    /// `.xlattice/cluster.member.config` for the original library, if this node is in it and the
    /// cluster's name is known. Returns the path of `roster.json`.
    ///
    /// # Errors
    /// [`Error::Identity`] if a file can't be written.
    pub async fn keep_roster(
        &self,
        dir: &Path,
        roster: &Roster,
        registry: &Credentials,
    ) -> Result<PathBuf, Error> {
        let json = format!("{:#}\n", roster.to_file_json());
        let member = self.member_file(roster, Some(registry));
        let (dir, durability) = (dir.to_owned(), self.inner.durability());
        let write = move || {
            let path = dir.join(ROSTER_FILE);
            write(&path, json.as_bytes(), Mode::Public, durability)?;
            if let Some(member) = member {
                let path = dir.join(MEMBER_FILE);
                write(&path, member.to_text().as_bytes(), Mode::Private, durability)?;
            }
            Ok(path)
        };
        spawn_blocking(write).await.expect("writing files does not panic")
    }

    /// Keeps a signed roster below `dir`, as `roster.signed`; without one, removes what was kept there
    /// of an earlier roster. Returns its path.
    ///
    /// # Errors
    /// [`Error::Identity`] if the file can't be written or removed.
    pub async fn keep_signed_roster(
        &self,
        dir: &Path,
        roster: Option<&SignedRoster>,
    ) -> Result<PathBuf, Error> {
        let text = roster.map(SignedRoster::to_text);
        let (path, durability) = (dir.join(SIGNED_ROSTER_FILE), self.inner.durability());
        let keep = move || {
            match text {
                Some(text) => write(&path, text.as_bytes(), Mode::Public, durability)?,
                None => remove(&path, durability)?,
            }
            Ok(path)
        };
        spawn_blocking(keep).await.expect("writing files does not panic")
    }

    /// What the original library keeps of a membership.
    /// If no registry is given, the peers are those of the identity.
    pub(crate) fn member_file(
        &self,
        roster: &Roster,
        registry: Option<&Credentials>,
    ) -> Option<MemberFile> {
        let rank = roster.rank_of_key(self.sig_key(), self.name())?;
        let me = roster.member(rank)?;
        let node = NodeFile {
            name: self.name().clone(),
            id: FileId::from(me.id),
            endpoints: me.endpoints.clone(),
            peers: match registry {
                Some(registry) => vec![Peer::from(registry)],
                None => self.inner.node().peers.clone(),
            },
            ..self.inner.node().clone()
        };
        let info = |member: &Arc<_>| MemberInfo::from(&**member);
        Some(MemberFile {
            node,
            attrs: me.attrs,
            cluster_name: roster.name.clone()?,
            cluster_id: FileId::from(roster.id),
            cluster_attrs: roster.attrs,
            cluster_max_size: roster.size,
            endpoint_count: roster.endpoint_count,
            self_index: u32::try_from(rank).ok()?,
            members: roster.members.iter().map(info).collect(),
        })
    }
}

/// For callers that make identities off the async threads themselves.
impl From<xlreg_node::Identity> for Identity {
    fn from(inner: xlreg_node::Identity) -> Self {
        Self { inner }
    }
}

impl From<Identity> for xlreg_node::Identity {
    fn from(identity: Identity) -> Self {
        identity.inner
    }
}

fn remove(path: &Path, durability: Durability) -> Result<(), Error> {
    files::remove_with(path, durability).map_err(|source| {
        IdentityError::File { doing: "removing", path: path.to_owned(), source }.into()
    })
}

fn write(path: &Path, content: &[u8], mode: Mode, durability: Durability) -> Result<(), Error> {
    let made = path.parent().map_or(Ok(()), |dir| files::create_dir_with(dir, durability));
    made.and_then(|()| files::replace_with(path, content, mode, durability)).map_err(|source| {
        IdentityError::File { doing: "writing", path: path.to_owned(), source }.into()
    })
}
