//! `.xlattice/node.config`: who a node is, with its private keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use xlreg_core::limits::MEMBER_ENDPOINTS_MAX;
use xlreg_core::{Endpoint, Name, PublicKey};
use zeroize::Zeroizing;

use super::block::{LINE_BYTES_MAX, Reader, Writer};
use super::credentials::Credentials;
use super::error::{TextError, ValueError};
use super::id::FileId;
use super::{pem, sshkey};
use crate::keys::PrivateKey;

/// Where a node keeps its file, below the root of its local file system.
pub const NODE_FILE: &str = ".xlattice/node.config";

/// Endpoints of a node and connectors of a peer.
pub const ENDPOINTS_MAX: usize = MEMBER_ENDPOINTS_MAX;

/// Peers of a node: the members of a few clusters, and their registries.
pub const PEERS_MAX: usize = 256;

/// Overlays of a node or peer: the originals make one for each kind of address they see.
pub const OVERLAYS_MAX: usize = 64;

/// A node's identity as the original library keeps it. **It holds private keys.**
///
/// Files from before 2015-06 have their public keys as `ssh-rsa` lines, those from before 2014-09
/// call the private keys `commsKey` and `sigKey`; both are read, and written as of today.
///
/// Source: docs/protocol.md, section 5.
#[derive(Clone, Debug)]
pub struct NodeFile {
    /// The node's name.
    pub name: Name,
    /// The node's ID.
    pub id: FileId,
    /// Address ranges that the node says it can reach, each as text such as
    /// `localhost, ip, 127.0.0.0/8, 1.000000`: at most [`OVERLAYS_MAX`].
    pub overlays: Vec<OneLine>,
    /// The path of the root of its local file system.
    pub lfs: OneLine,
    /// The key that others agree on session keys with.
    pub comms_key: Arc<PrivateKey>,
    /// The key that says who this is.
    pub sig_key: Arc<PrivateKey>,
    /// Where it listens: at most [`ENDPOINTS_MAX`], perhaps none.
    pub endpoints: Vec<Endpoint>,
    /// Nodes it knows, its registry among them: at most [`PEERS_MAX`].
    pub peers: Vec<Peer>,
}

/// Another node, as a node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: Name,
    /// Its ID.
    pub id: FileId,
    /// Its key for agreeing on session keys.
    pub comms_key: PublicKey,
    /// Its key for signatures.
    pub sig_key: PublicKey,
    /// As in [`NodeFile::overlays`].
    pub overlays: Vec<OneLine>,
    /// Where it is reached: at most [`ENDPOINTS_MAX`], perhaps none.
    pub connectors: Vec<Endpoint>,
}

/// Bytes of a [`OneLine`]: its line, with key and indentation, stays far below [`LINE_BYTES_MAX`].
pub const ONE_LINE_BYTES_MAX: usize = LINE_BYTES_MAX / 2;

/// Text that has a line to itself in a node file: not empty, at most [`ONE_LINE_BYTES_MAX`] bytes, no
/// control characters, no space at either end, and no `: `, at which the originals would cut it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OneLine(String);

/// Text that a node file cannot hold.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("text that a node file cannot hold: {reason}")]
pub struct OneLineError {
    reason: &'static str,
}

impl NodeFile {
    /// Reads a node file. The caller wipes `text`; what is copied from it here is wiped.
    ///
    /// # Errors
    /// [`TextError`] with the line; also if a private key is not that of the public key above it.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut reader = Reader::private("node file", text)?;
        let node = Self::read(&mut reader)?;
        reader.end()?;
        Ok(node)
    }

    /// The text that the original library would write, to the byte: LF between lines, none at the
    /// end. It holds the private keys, and is wiped when it is dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut writer = Writer::new("\n");
        self.write(&mut writer);
        writer.finish_unended()
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("node")?;
        let base = Base::read(r)?;
        let lfs = r.value("lfs")?;
        let comms_key = read_private_key(r, ["ckPriv", "commsKey"], &base.comms_key)?;
        let sig_key = read_private_key(r, ["skPriv", "sigKey"], &base.sig_key)?;
        let endpoints = r.block("endPoints", 0..=ENDPOINTS_MAX, |r| r.value("TcpEndPoint"))?;
        let peers = r.block("peers", 0..=PEERS_MAX, Peer::read)?;
        r.close()?;
        let Base { name, id, overlays, .. } = base;
        Ok(Self {
            name,
            id,
            overlays,
            lfs,
            comms_key: Arc::new(comms_key),
            sig_key: Arc::new(sig_key),
            endpoints,
            peers,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.open("node");
        self.base().write(w);
        w.value("lfs", &self.lfs);
        pem::write_private(w, "ckPriv", &self.comms_key);
        pem::write_private(w, "skPriv", &self.sig_key);
        w.block("endPoints", &self.endpoints, |w, endpoint| w.value("TcpEndPoint", endpoint));
        w.block("peers", &self.peers, |w, peer| peer.write(w));
        w.close();
    }

    fn base(&self) -> Base {
        Base {
            name: self.name.clone(),
            id: self.id,
            comms_key: self.comms_key.public().clone(),
            sig_key: self.sig_key.public().clone(),
            overlays: self.overlays.clone(),
        }
    }
}

impl Peer {
    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("peer")?;
        let base = Base::read(r)?;
        let connectors = read_connectors(r)?;
        r.close()?;
        Ok(Self::new(base, connectors))
    }

    fn write(&self, w: &mut Writer) {
        w.open("peer");
        self.base().write(w);
        write_connectors(w, &self.connectors);
        w.close();
    }

    pub(super) fn new(base: Base, connectors: Vec<Endpoint>) -> Self {
        let Base { name, id, comms_key, sig_key, overlays } = base;
        Self { name, id, comms_key, sig_key, overlays, connectors }
    }

    pub(super) fn base(&self) -> Base {
        Base {
            name: self.name.clone(),
            id: self.id,
            comms_key: self.comms_key.clone(),
            sig_key: self.sig_key.clone(),
            overlays: self.overlays.clone(),
        }
    }
}

impl From<&Credentials> for Peer {
    /// The registry as its clients' node files list it.
    fn from(registry: &Credentials) -> Self {
        Self {
            name: registry.name.clone(),
            id: registry.id,
            comms_key: registry.comms_key.clone(),
            sig_key: registry.sig_key.clone(),
            overlays: Vec::new(),
            connectors: registry.endpoints.clone(),
        }
    }
}

/// The lines that nodes, peers and members begin with.
pub(super) struct Base {
    name: Name,
    id: FileId,
    comms_key: PublicKey,
    sig_key: PublicKey,
    overlays: Vec<OneLine>,
}

impl Base {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        Ok(Self {
            name: r.value("name")?,
            id: r.value("nodeID")?,
            comms_key: read_public_key(r, "commsPubKey")?,
            sig_key: read_public_key(r, "sigPubKey")?,
            overlays: r.block("overlays", 0..=OVERLAYS_MAX, |r| r.value("overlay"))?,
        })
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.value("name", &self.name);
        w.value("nodeID", self.id);
        pem::write_public(w, "commsPubKey", &self.comms_key);
        pem::write_public(w, "sigPubKey", &self.sig_key);
        w.block("overlays", &self.overlays, |w, overlay| w.value("overlay", overlay));
    }
}

pub(super) fn read_connectors(r: &mut Reader<'_>) -> Result<Vec<Endpoint>, TextError> {
    r.block("connectors", 0..=ENDPOINTS_MAX, |r| r.value("TcpConnector"))
}

pub(super) fn write_connectors(w: &mut Writer, connectors: &[Endpoint]) {
    w.block("connectors", connectors, |w, endpoint| w.value("TcpConnector", endpoint));
}

/// A public key in a PEM frame, or the `ssh-rsa` line of older files.
fn read_public_key(r: &mut Reader<'_>, key: &'static str) -> Result<PublicKey, TextError> {
    if r.at(key) && r.clone().raw(key)?.starts_with("ssh-rsa ") {
        r.parsed(key, sshkey::decode)
    } else {
        pem::read_public(r, key)
    }
}

/// A private key under its name of today or of old, the other half of `public`.
fn read_private_key(
    r: &mut Reader<'_>,
    [today, of_old]: [&'static str; 2],
    public: &PublicKey,
) -> Result<PrivateKey, TextError> {
    let key = if r.at(of_old) { of_old } else { today };
    let private = pem::read_private(r, key)?;
    if private.public() == public { Ok(private) } else { Err(r.bad(key, ValueError::KeyPair)) }
}

impl OneLine {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OneLine {
    type Err = OneLineError;

    fn from_str(text: &str) -> Result<Self, OneLineError> {
        let reason = if text.is_empty() {
            "it is empty"
        } else if text.len() > ONE_LINE_BYTES_MAX {
            "it is too long for a line"
        } else if text.chars().any(char::is_control) {
            "it has line ends or other control characters"
        } else if text.trim() != text {
            "it begins or ends with a space"
        } else if text.contains(": ") {
            "it has a colon with a space after it"
        } else {
            return Ok(Self(text.into()));
        };
        Err(OneLineError { reason })
    }
}

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_one_line_cannot_break_out_of_it() {
        for good in ["members/m0", "/var/lib/x y", "localhost, ip, 127.0.0.0/8, 1.000000", "é:ü"]
        {
            assert_eq!(good.parse::<OneLine>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            " a",
            "a ",
            "a\u{a0}",
            "a\n}",
            "a\r",
            "a\tb",
            "a\0",
            "a\u{1b}",
            "a\u{85}b",
            "a: b",
            &"a".repeat(LINE_BYTES_MAX),
        ] {
            assert!(bad.parse::<OneLine>().is_err(), "{bad:?}");
        }
    }
}
