//! `regCred.dat`: the text by which a registry is known and pinned.

use std::fmt;
use std::str::FromStr;

use xlreg_core::limits::MEMBER_ENDPOINTS_MAX;
use xlreg_core::{Endpoint, Name, PublicKey, Version};

use super::block::{Reader, Writer};
use super::error::TextError;
use super::id::FileId;
use super::sshkey;

/// Endpoints that credentials may name: as many as any node may have.
pub const CREDENTIALS_ENDPOINTS_MAX: usize = MEMBER_ENDPOINTS_MAX;

/// A registry's name, ID, public keys, addresses and version. Nothing in it is secret.
///
/// ```text
/// regCred {
///     Name: xlReg
///     ID: 9cf517be9bcaaeb794a7530dd34ae873651c41b4
///     CommsPubKey: ssh-rsa AAAA...
///
///     SigPubKey: ssh-rsa AAAA...
///
///     EndPoints {
///          TcpEndPoint: 54.186.197.123:56789
///     }
///     Version: 1.8.2
/// }
/// ```
///
/// Source: docs/protocol.md, section 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The registry's name.
    pub name: Name,
    /// The registry's own ID.
    pub id: FileId,
    /// The key that clients seal their hello with.
    pub comms_key: PublicKey,
    /// The key that the registry signs with.
    pub sig_key: PublicKey,
    /// Where it is reached: 1 to [`CREDENTIALS_ENDPOINTS_MAX`].
    pub endpoints: Vec<Endpoint>,
    /// Its version; below 1.9 it speaks the 1.8 dialect.
    pub version: Version,
}

impl Credentials {
    /// Reads credentials as any version of the originals wrote them.
    ///
    /// # Errors
    /// [`TextError`] with the line, for anything else.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut reader = Reader::new("credentials", text)?;
        let credentials = Self::read(&mut reader)?;
        reader.end()?;
        Ok(credentials)
    }

    /// The text that server 1.9.24 would write, to the byte: CRLF after each line, and the end of an
    /// `ssh-rsa` line twice, once as LF.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut writer = Writer::new("\r\n");
        self.write(&mut writer);
        std::mem::take(&mut *writer.finish())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("regCred")?;
        let name = r.value("Name")?;
        let id = r.value("ID")?;
        let comms_key = r.parsed("CommsPubKey", sshkey::decode)?;
        let sig_key = r.parsed("SigPubKey", sshkey::decode)?;
        let count = 1..=CREDENTIALS_ENDPOINTS_MAX;
        let endpoints = r.block("EndPoints", count, |r| r.value("TcpEndPoint"))?;
        let version = r.value("Version")?;
        r.close()?;
        Ok(Self { name, id, comms_key, sig_key, endpoints, version })
    }

    fn write(&self, w: &mut Writer) {
        // The originals' text of a key ends with an LF of its own.
        let key_line = |key| sshkey::encode(key) + "\n";
        w.open("regCred");
        w.value("Name", &self.name);
        w.value("ID", self.id);
        w.value("CommsPubKey", key_line(&self.comms_key));
        w.value("SigPubKey", key_line(&self.sig_key));
        // With the space that they put before each: it stands nine columns in, not eight.
        w.block("EndPoints", &self.endpoints, |w, endpoint| w.value(" TcpEndPoint", endpoint));
        w.value("Version", self.version);
        w.close();
    }
}

impl FromStr for Credentials {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}
