//! A member's identity and roster in forms that programs take which know nothing of us.
//!
//! | form | files | for |
//! |---|---|---|
//! | [`Tls`] | [`CERT_FILE`], [`KEY_FILE`], [`ROSTER_CA_FILE`] | anything that speaks TLS |
//! | JSON | [`MEMBER_JSON_FILE`], beside these | programs that would rather read one file |
//! | SSH | `known_hosts`, `authorized_keys`, `ssh_key`, `ssh_key.pub` | OpenSSH, on both sides |
//! | XLattice | `.xlattice/node.config`, `.xlattice/cluster.member.config` | the original library |
//!
//! [`write()`] puts them into a directory, and never over a file that somebody else has put there;
//! [`replace`] into one that is ours alone.
//!
//! What trusts the roster is as old as the roster that it is made of: when somebody is expelled or
//! rotates keys, make it anew. What a member's certificate promises, and what a bundle can't,
//! `xlreg_tls::member` says; docs/operations/export.md is for users.

mod folder;
mod ssh;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use xlreg_core::{ClusterId, Member, Name};
use xlreg_node::files;
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::member::MEMBER_FILE;
use xlreg_proto::text::node::NODE_FILE;
use xlreg_proto::text::{Credentials, FILE_BYTES_MAX, MemberFile, pem};
use xlreg_tls::{TlsError, member_certificate, roster_bundle, stock_client};
use zeroize::Zeroizing;

pub use self::folder::{WriteError, replace, write};
use crate::identity::Identity;
pub use crate::identity::SIGNED_ROSTER_FILE;
use crate::roster::Roster;

/// The member's certificate.
pub const CERT_FILE: &str = "cert.pem";

/// The private key to it, the member's sig key: PKCS #8.
pub const KEY_FILE: &str = "key.pem";

/// What trusts the roster's members and nobody else: a CA bundle.
pub const ROSTER_CA_FILE: &str = "roster-ca.pem";

/// All of it, but for the private key, as JSON.
pub const MEMBER_JSON_FILE: &str = "member.json";

/// How long a member's certificate is good unless somebody says otherwise: long enough to be made
/// anew once a month and to be late with that, and not so long that nobody knows any more how.
pub const VALID: Duration = Duration::from_secs(90 * 24 * 3600);

/// A member, ready to be written in any form.
#[derive(Clone, Debug)]
pub struct Portable {
    identity: Identity,
    roster: Roster,
    rank: usize,
    member: Arc<Member>,
}

/// What trusts a roster's members and nobody else: certificates.
#[derive(Clone, Debug)]
pub struct RosterCa(Arc<[CertificateDer<'static>]>);

/// What a TLS program of a member needs.
#[derive(Clone, Debug)]
pub struct Tls {
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKey>,
    roster_ca: RosterCa,
    valid_until: SystemTime,
}

/// A file to be written.
#[derive(Clone)]
pub struct File {
    /// Its path below the directory, such as `.xlattice/node.config`.
    pub path: &'static str,
    /// Its content, wiped when it is dropped.
    pub content: Zeroizing<String>,
    /// Whether nobody but its owner may read it.
    pub private: bool,
}

/// A member that can't be written in some form.
#[derive(Debug, Error)]
pub enum PortableError {
    /// The identity is none of the roster's.
    #[error(
        "{name} is not a member of cluster {cluster}: none of its members ({}) has this identity's \
         sig key",
        names(members)
    )]
    NotAMember {
        /// The identity's name.
        name: Name,
        /// The cluster.
        cluster: String,
        /// The members' names.
        members: Vec<Name>,
    },
    /// The original library's files can't do without the cluster's name.
    #[error(
        "cluster {cluster} is known by its ID alone, and the original library's files need its \
         name: ask for the cluster by its name"
    )]
    NoName {
        /// The cluster's ID.
        cluster: ClusterId,
    },
    /// The certificate can't be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Portable {
    /// The member of `roster` that `identity` is: found by its sig key, and if several have the same,
    /// by its name.
    ///
    /// # Errors
    /// [`PortableError::NotAMember`] if it is none.
    pub fn new(identity: &Identity, roster: &Roster) -> Result<Self, PortableError> {
        let key = identity.sig_key();
        let by_key = || roster.iter().find(|(_, member)| member.sig_key == *key);
        let rank = roster.rank_of_key(key, identity.name());
        let rank = rank.or_else(|| by_key().map(|(rank, _)| rank));
        let found = rank.and_then(|rank| Some((rank, roster.member(rank)?)));
        let (rank, member) = found.ok_or_else(|| PortableError::NotAMember {
            name: identity.name().clone(),
            cluster: roster.title(),
            members: roster.members.iter().map(|member| member.name.clone()).collect(),
        })?;
        Ok(Self {
            identity: identity.clone().with_name(member.name.clone()),
            member: Arc::clone(member),
            roster: roster.clone(),
            rank,
        })
    }

    /// The member, as the roster has it.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Its rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Its cluster.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Makes the member's certificate, good for `valid` from now on, and with it what trusts just
    /// this roster. An RSA operation, off the async threads.
    ///
    /// # Errors
    /// [`PortableError::Tls`] if an endpoint's host can't be named in a certificate, or `valid` runs
    /// past the year 9999.
    pub async fn tls(&self, valid: Duration) -> Result<Tls, PortableError> {
        self.tls_with(RosterCa::new(&self.roster)?, valid).await
    }

    /// As [`Self::tls`], with what is made already: one is enough for all members.
    ///
    /// # Errors
    /// As [`Self::tls`].
    pub async fn tls_with(
        &self,
        roster_ca: RosterCa,
        valid: Duration,
    ) -> Result<Tls, PortableError> {
        let (key, member) = (Arc::clone(self.identity.sig_private()), Arc::clone(&self.member));
        let make = move || {
            let now = SystemTime::now();
            let certificate = member_certificate(&key, &member, now, valid)?;
            Ok(Tls { certificate, key, roster_ca, valid_until: now + valid })
        };
        spawn_blocking(make).await.expect("making certificates does not panic")
    }

    /// [`MEMBER_JSON_FILE`]: the roster, who the member is in it, and all of `tls` but the private
    /// key; with the paths that the files of `tls` have in `dir`.
    #[must_use]
    pub fn json(&self, tls: &Tls, dir: &Path) -> File {
        let mut json = self.roster.to_file_json();
        let path = |name| Value::from(dir.join(name).to_string_lossy());
        let until = humantime::format_rfc3339_seconds(tls.valid_until()).to_string();
        if let Value::Object(fields) = &mut json {
            let me = json!({
                "name": self.member.name.as_str(),
                "rank": self.rank,
                "id": self.member.id.to_string(),
            });
            fields.insert("member".to_owned(), me);
            fields.insert("certificate".to_owned(), tls.certificate_pem().into());
            fields.insert("roster_ca".to_owned(), tls.roster_ca.to_pem().into());
            fields.insert("certificate_file".to_owned(), path(CERT_FILE));
            fields.insert("key_file".to_owned(), path(KEY_FILE));
            fields.insert("roster_ca_file".to_owned(), path(ROSTER_CA_FILE));
            fields.insert("valid_until".to_owned(), until.into());
        }
        File::public(MEMBER_JSON_FILE, format!("{json:#}\n"))
    }

    /// OpenSSH's files: whom to take for which member's machine, whom to let in, and the member's own
    /// key, for either side.
    #[must_use]
    pub fn ssh(&self) -> Vec<File> {
        ssh::files(&self.roster, &self.member, self.identity.sig_private())
    }

    /// The original library's two files of this member, for a local file system below `dir`.
    /// `registry` stands in them as a peer; if it isn't given, those do that the identity's own files
    /// have.
    ///
    /// # Errors
    /// [`PortableError::NoName`] if the roster doesn't tell the cluster's name.
    pub async fn xlattice(
        &self,
        dir: &Path,
        registry: Option<&Credentials>,
    ) -> Result<Vec<File>, PortableError> {
        let before = self.kept_member_file().await;
        let no_name = || PortableError::NoName { cluster: self.roster.id };
        let mut member = self.identity.member_file(&self.roster, registry).ok_or_else(no_name)?;
        if let Some(before) = before {
            member.cluster_attrs |= before.cluster_attrs;
            if registry.is_none() {
                member.node.peers = before.node.peers;
            }
        }
        // If no line can hold it, the identity's own stands, which was written by hand then.
        if let Ok(lfs) = dir.to_string_lossy().parse() {
            member.node.lfs = lfs;
        }
        let files = [(NODE_FILE, member.node.to_text()), (MEMBER_FILE, member.to_text())];
        Ok(files.map(|(path, text)| File::private(path, text)).into())
    }

    /// What the identity keeps of this cluster for the original library, if it does.
    async fn kept_member_file(&self) -> Option<MemberFile> {
        let path = self.identity.dir()?.join(MEMBER_FILE);
        let read = move || MemberFile::parse(&files::read_text(&path, FILE_BYTES_MAX).ok()?).ok();
        let file = spawn_blocking(read).await.expect("reading a file does not panic")?;
        (file.cluster_id.cluster_id() == Some(self.roster.id)).then_some(file)
    }
}

/// The label of a certificate's PEM.
const CERTIFICATE: &str = "CERTIFICATE";

impl RosterCa {
    /// Makes what trusts the members of `roster`; of an incomplete one, those that are there. It takes
    /// some milliseconds for the largest.
    ///
    /// # Errors
    /// [`PortableError::Tls`] if the cryptographic library fails.
    pub fn new(roster: &Roster) -> Result<Self, PortableError> {
        let bundle = roster_bundle(roster.members.iter().map(|member| &**member))?;
        Ok(Self(bundle.into()))
    }

    /// The certificates as PEM, for [`ROSTER_CA_FILE`].
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.iter().map(|der| pem::encode(CERTIFICATE, der).to_string()).collect()
    }
}

fn names(members: &[Name]) -> String {
    members.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

impl Tls {
    /// The member's certificate as PEM, for [`CERT_FILE`].
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem::encode(CERTIFICATE, &self.certificate).to_string()
    }

    /// The private key to it, PKCS #8 as PEM, for [`KEY_FILE`].
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.key.pkcs8())
    }

    /// The last moment in which the certificate is good.
    #[must_use]
    pub fn valid_until(&self) -> SystemTime {
        self.valid_until
    }

    /// The three files.
    #[must_use]
    pub fn files(&self) -> Vec<File> {
        vec![
            File::public(CERT_FILE, self.certificate_pem()),
            File::private(KEY_FILE, self.key_pem()),
            File::public(ROSTER_CA_FILE, self.roster_ca.to_pem()),
        ]
    }

    /// How a program with these files connects: for checks of such programs. It speaks TLS 1.3, and
    /// offers no application protocol.
    ///
    /// # Errors
    /// [`PortableError::Tls`] if rustls takes something amiss.
    pub fn client(&self) -> Result<Arc<ClientConfig>, PortableError> {
        Ok(Arc::new(stock_client(&self.key, &self.certificate, &self.roster_ca.0)?))
    }
}

impl File {
    /// A file that everybody may read.
    #[must_use]
    pub fn public(path: &'static str, content: String) -> Self {
        Self { path, content: Zeroizing::new(content), private: false }
    }

    /// A file that its owner alone may read.
    #[must_use]
    pub fn private(path: &'static str, content: Zeroizing<String>) -> Self {
        Self { path, content, private: true }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({}, private: {}, ***)", self.path, self.private)
    }
}
