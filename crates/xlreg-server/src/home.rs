//! The data directory: who this registry is, and the credentials by which others know it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use xlreg_core::endpoint::EndpointError;
use xlreg_core::{Endpoint, Member, Name, NodeId, Version};
use xlreg_node::files::{self, Mode};
use xlreg_node::{Identity, IdentityError};
use xlreg_proto::session;
use xlreg_proto::text::node::NODE_FILE;
use xlreg_proto::text::{Credentials, FILE_BYTES_MAX, FileId};

use crate::server::Keys;

/// The credentials' file, under the name that the originals give it.
const CREDENTIALS_FILE: &str = "regCred.dat";

/// Who a registry is stands in these, of its data directory: its keys' directory, and the
/// credentials.
pub const FILES: [&str; 2] = [".xlattice", CREDENTIALS_FILE];

/// A registry's directory and identity.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    identity: Identity,
    id: NodeId,
}

/// A data directory that can't be used, or an address that can't be advertised.
#[derive(Debug, Error)]
pub enum HomeError {
    /// The registry's identity can't be made or read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directory is of before 2014-11, when IDs had 32 bytes.
    #[error(
        "the registry in {dir} has an ID of 32 bytes, from before 2014-11; start a new one in another directory"
    )]
    LongId {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds a registry of another name.
    #[error(
        "the registry in {dir} is named {kept}, not {asked}; leave --name out, or name another directory"
    )]
    Name {
        /// The directory.
        dir: PathBuf,
        /// Its registry's name.
        kept: Name,
        /// The name asked for.
        asked: Name,
    },
    /// Listening on every address says nothing about where others find us.
    #[error(
        "listening on {listen}, every address of this machine, does not say where others reach it; add --advertise HOST"
    )]
    Unspecified {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// What to advertise is no address.
    #[error("cannot advertise {text:?}: {source}")]
    Advertise {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// A file can't be copied.
    #[error("copying {from} to {to}: {source}")]
    Copy {
        /// The file.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The credentials can't be written.
    #[error("writing the credentials {path}: {source}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Home {
    /// Opens the registry in `dir`, or makes one there: two keys and an ID.
    ///
    /// # Errors
    /// [`HomeError`] if what is there is not usable, or its name is not the one asked for.
    pub fn open(
        dir: &Path,
        name: Option<&Name>,
        default_name: impl FnOnce() -> Name,
    ) -> Result<Self, HomeError> {
        let identity = Identity::load_or_create(dir, name.cloned().unwrap_or_else(default_name))?;
        if let Some(asked) = name
            && asked != identity.name()
        {
            return Err(HomeError::Name {
                dir: dir.to_owned(),
                kept: identity.name().clone(),
                asked: asked.clone(),
            });
        }
        let id = identity.id().ok_or_else(|| HomeError::LongId { dir: dir.to_owned() })?;
        Ok(Self { dir: dir.to_owned(), identity, id })
    }

    /// Whether `dir` holds a registry's identity, usable or not.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(NODE_FILE).exists()
    }

    /// Whether the registry in `dir` has ever been ready: its credentials are there.
    #[must_use]
    pub fn has_served(dir: &Path) -> bool {
        dir.join(CREDENTIALS_FILE).exists()
    }

    /// What is wrong with the keys in `dir`, and with the credentials, if there are any; each
    /// problem with the file's name. `registry` is the ID in what the registry remembers.
    #[must_use]
    pub fn check(dir: &Path, registry: Option<NodeId>) -> Vec<(&'static str, String)> {
        let identity = match Identity::load(dir) {
            Ok(identity) => identity,
            Err(IdentityError::Missing { .. }) => {
                return vec![(NODE_FILE, "it is missing, and the keys with it".to_owned())];
            }
            Err(error) => return vec![(NODE_FILE, error.to_string())],
        };
        let mut found = Vec::new();
        match (identity.id(), registry) {
            (None, _) => {
                found.push((NODE_FILE, HomeError::LongId { dir: dir.to_owned() }.to_string()));
            }
            (Some(id), Some(registry)) if id != registry => {
                let problem = format!("it is of registry {id}, and {registry} is remembered");
                found.push((NODE_FILE, problem));
            }
            _ => {}
        }
        let problem = check_credentials(&dir.join(CREDENTIALS_FILE), &identity);
        found.extend(problem.map(|problem| (CREDENTIALS_FILE, problem)));
        found
    }

    /// Copies the keys in `dir`, and the credentials, if there are any, to another directory, and
    /// onto the disk.
    ///
    /// # Errors
    /// [`HomeError::Copy`] if they can't be read or written.
    pub fn copy(dir: &Path, to: &Path) -> Result<(), HomeError> {
        for (file, mode) in [(NODE_FILE, Mode::Private), (CREDENTIALS_FILE, Mode::Public)] {
            let (from, to) = (dir.join(file), to.join(file));
            if file == CREDENTIALS_FILE && !from.exists() {
                continue;
            }
            copy(&from, &to, mode).map_err(|source| HomeError::Copy { from, to, source })?;
        }
        Ok(())
    }

    /// A registry with the keys of `identity`, of which only its credentials, in `dir`, tell.
    ///
    /// # Errors
    /// [`HomeError::LongId`] if the identity is of before 2014-11.
    pub fn ephemeral(dir: &Path, identity: Identity) -> Result<Self, HomeError> {
        let id = identity.id().ok_or_else(|| HomeError::LongId { dir: dir.to_owned() })?;
        Ok(Self { dir: dir.to_owned(), identity, id })
    }

    /// The registry's ID.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The registry's keys.
    #[must_use]
    pub fn keys(&self) -> Keys {
        let (comms, sig) = (self.identity.comms_key(), self.identity.sig_key());
        Keys { comms: Arc::clone(comms), sig: Arc::clone(sig) }
    }

    /// The credentials of this registry, listening on `listen`, reached at `advertise`: `HOST` or
    /// `HOST:PORT`, or where it listens.
    ///
    /// # Errors
    /// [`HomeError::Unspecified`] or [`HomeError::Advertise`] if that gives no address.
    pub fn credentials(
        &self,
        listen: SocketAddr,
        advertise: Option<&str>,
        version: Version,
    ) -> Result<Credentials, HomeError> {
        Ok(Credentials {
            name: self.identity.name().clone(),
            id: FileId::from(self.id),
            comms_key: self.identity.comms_key().public().clone(),
            sig_key: self.identity.sig_key().public().clone(),
            endpoints: vec![advertised(listen, advertise)?],
            version,
        })
    }

    /// Writes `regCred.dat`, and returns its path.
    ///
    /// # Errors
    /// [`HomeError::Credentials`] if it can't be written.
    pub fn write_credentials(&self, credentials: &Credentials) -> Result<PathBuf, HomeError> {
        let path = self.dir.join(CREDENTIALS_FILE);
        files::replace(&path, credentials.to_text().as_bytes(), Mode::Public)
            .map_err(|source| HomeError::Credentials { path: path.clone(), source })?;
        Ok(path)
    }

    /// What the registry says of itself to those who ask.
    #[must_use]
    pub fn introduce(&self, credentials: &Credentials) -> session::Identity {
        let entry = Member {
            id: self.id,
            name: credentials.name.clone(),
            attrs: 0,
            comms_key: credentials.comms_key.clone(),
            sig_key: credentials.sig_key.clone(),
            endpoints: credentials.endpoints.clone(),
            entry_signature: None,
        };
        session::Identity { version: credentials.version, entry: Arc::new(entry) }
    }
}

/// What is wrong with a registry's credentials.
fn check_credentials(path: &Path, identity: &Identity) -> Option<String> {
    let text = match files::read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        // They are written at each start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("it can't be read: {error}")),
    };
    let credentials = match Credentials::parse(&text) {
        Ok(credentials) => credentials,
        Err(error) => return Some(error.to_string()),
    };
    let same = credentials.id.node_id() == identity.id()
        && credentials.name == *identity.name()
        && credentials.comms_key == *identity.comms_key().public()
        && credentials.sig_key == *identity.sig_key().public();
    let problem = "it is of another registry than the keys; the next start writes it anew";
    (!same).then(|| problem.to_owned())
}

fn copy(from: &Path, to: &Path, mode: Mode) -> std::io::Result<()> {
    let text = files::read_text(from, FILE_BYTES_MAX)?;
    to.parent().map_or(Ok(()), files::create_dir)?;
    files::replace(to, text.as_bytes(), mode)
}

/// Where others reach a registry that listens on `listen`.
fn advertised(listen: SocketAddr, advertise: Option<&str>) -> Result<Endpoint, HomeError> {
    let Some(text) = advertise else {
        if listen.ip().is_unspecified() {
            return Err(HomeError::Unspecified { listen });
        }
        return Ok(listen.to_string().parse().expect("a socket's address is an endpoint"));
    };
    // A bare IPv6 address has colons of its own, so try the host alone first.
    let host_only = match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{}", listen.port()),
        Err(_) => format!("{text}:{}", listen.port()),
    };
    let parsed = host_only.parse::<Endpoint>().or_else(|_| text.parse());
    parsed.map_err(|source| HomeError::Advertise { text: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised() {
        let listen: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        for (advertise, expected) in [
            (None, "127.0.0.1:7000"),
            (Some("example.org"), "example.org:7000"),
            (Some("example.org:9"), "example.org:9"),
            (Some("::1"), "[::1]:7000"),
            (Some("[::1]"), "[::1]:7000"),
            (Some("[::1]:9"), "[::1]:9"),
        ] {
            assert_eq!(advertised(listen, advertise).unwrap().as_str(), expected);
        }
        for bad in ["", "a b", "host:0", "host:99999", ":"] {
            assert!(
                matches!(advertised(listen, Some(bad)), Err(HomeError::Advertise { .. })),
                "{bad}"
            );
        }
        let everywhere = "0.0.0.0:7000".parse().unwrap();
        assert!(matches!(advertised(everywhere, None), Err(HomeError::Unspecified { .. })));
        assert_eq!(advertised(everywhere, Some("h")).unwrap().as_str(), "h:7000");
    }
}
