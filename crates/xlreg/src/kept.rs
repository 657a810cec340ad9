//! The roster that a member keeps beside its identity, read back: for when no registry is asked.

use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use thiserror::Error;
use tokio::task::spawn_blocking;
use xlreg_core::limits::{CLUSTER_SIZE_MAX, MEMBER_ENDPOINTS_MAX};
use xlreg_core::{Endpoint, Member};
use xlreg_node::files;
use xlreg_proto::text::{FILE_BYTES_MAX, sshkey};

use crate::identity::ROSTER_FILE;
use crate::roster::Roster;

/// A kept roster that can't be used.
#[derive(Debug, Error)]
pub enum KeptError {
    /// There is none.
    #[error("there is no {path}: `xlreg join` keeps a roster beside the identity it joined with")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// Others could have put anybody in it.
    #[error(
        "{path} says whom to trust, and others may write to it (mode {mode:o}): \
         chmod go-w {path}, once you have made sure that it is right"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file that can't be read.
    #[error("reading {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that no roster could be in.
    #[error("{path} holds no roster that can be: {problem}; ask the registry for it again")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Roster {
    /// Reads the roster that was last kept in `dir`, by [`Identity::keep_roster`] or `xlreg join`.
    ///
    /// It is as old as its file, and as true as whoever could write there wanted it. The cluster's
    /// attributes, [`Roster::about`] and members' signatures are not in it.
    ///
    /// # Errors
    /// [`KeptError`] if there is none, or none that can be.
    ///
    /// [`Identity::keep_roster`]: crate::Identity::keep_roster
    pub async fn kept(dir: impl Into<PathBuf>) -> Result<Self, KeptError> {
        Self::read(dir.into().join(ROSTER_FILE)).await
    }

    /// As [`Self::kept`], from a file of any name: what was a `roster.json`, with
    /// [`Self::to_file_json`] in it.
    ///
    /// # Errors
    /// As [`Self::kept`].
    pub async fn read(path: impl Into<PathBuf>) -> Result<Self, KeptError> {
        let path = path.into();
        spawn_blocking(move || read(&path)).await.expect("reading a file does not panic")
    }
}

fn read(path: &Path) -> Result<Roster, KeptError> {
    let path = path.to_owned();
    let text = match files::read_text(&path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeptError::Missing { path });
        }
        Err(source) => return Err(KeptError::File { path, source }),
    };
    #[cfg(unix)]
    {
        let mode = match path.metadata() {
            Ok(metadata) => std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777,
            Err(source) => return Err(KeptError::File { path, source }),
        };
        if mode & 0o022 != 0 {
            return Err(KeptError::Exposed { path, mode });
        }
    }
    parse(&text).map_err(|problem| KeptError::Content { path, problem })
}

/// What a file says, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Roster, String> {
    let parsed = serde_json::from_str::<KeptRoster>(text).map_err(|error| error.to_string());
    parsed.and_then(KeptRoster::check)
}

/// What [`Roster::to_file_json`] writes. Fields may be added, as docs/operations/cli.md promises.
#[derive(Deserialize)]
struct KeptRoster {
    cluster: Option<String>,
    cluster_id: String,
    size: u32,
    endpoint_count: u32,
    members: Vec<KeptMember>,
}

#[derive(Deserialize)]
struct KeptMember {
    rank: usize,
    name: String,
    id: String,
    attrs: u64,
    endpoints: Vec<String>,
    comms_key: String,
    sig_key: String,
}

impl KeptRoster {
    fn check(self) -> Result<Roster, String> {
        let size = self.size as usize;
        if !(1..=CLUSTER_SIZE_MAX).contains(&self.size) {
            return Err(format!("size {size} is not from 1 to {CLUSTER_SIZE_MAX}"));
        }
        if !(1..=MEMBER_ENDPOINTS_MAX).contains(&(self.endpoint_count as usize)) {
            let count = self.endpoint_count;
            return Err(format!("endpoint_count {count} is not from 1 to {MEMBER_ENDPOINTS_MAX}"));
        }
        let mut ranks = Vec::new();
        let mut members = Vec::new();
        for member in self.members {
            let above = ranks.last().is_none_or(|last| member.rank > *last);
            if member.rank >= size || !above {
                return Err(format!(
                    "rank {} stands out of order, or beyond the size",
                    member.rank
                ));
            }
            ranks.push(member.rank);
            members.push(Arc::new(member.check()?));
        }
        let names: HashSet<_> = members.iter().map(|member| &member.name).collect();
        let ids: HashSet<_> = members.iter().map(|member| member.id).collect();
        if names.len() < members.len() || ids.len() < members.len() {
            return Err("two members have the same name or ID".to_owned());
        }
        Ok(Roster {
            name: self.cluster.as_deref().map(|name| parsed("cluster", name)).transpose()?,
            id: parsed("cluster_id", &self.cluster_id)?,
            size: self.size,
            attrs: 0,
            endpoint_count: self.endpoint_count,
            members,
            ranks,
            about: None,
        })
    }
}

impl KeptMember {
    fn check(self) -> Result<Member, String> {
        if self.endpoints.len() > MEMBER_ENDPOINTS_MAX {
            return Err(format!("more than {MEMBER_ENDPOINTS_MAX} endpoints"));
        }
        let endpoints = self.endpoints.iter().map(|text| parsed::<Endpoint>("endpoints", text));
        let key =
            |field, text: &str| sshkey::decode(text).map_err(|error| format!("{field}: {error}"));
        Ok(Member {
            id: parsed("id", &self.id)?,
            name: parsed("name", &self.name)?,
            attrs: self.attrs,
            comms_key: key("comms_key", &self.comms_key)?,
            sig_key: key("sig_key", &self.sig_key)?,
            endpoints: endpoints.collect::<Result<_, _>>()?,
            // Who wants signatures reads the signed roster.
            entry_signature: None,
        })
    }
}

fn parsed<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{field}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::OnceLock;

    use serde_json::{Value, json};
    use xlreg_proto::keys::PrivateKey;

    use super::*;

    /// A roster of two, the second of rank 2, as it is kept.
    fn good() -> Value {
        static KEY: OnceLock<String> = OnceLock::new();
        let make = || sshkey::encode(PrivateKey::generate().unwrap().public());
        let key = KEY.get_or_init(make);
        let member = |rank: usize, name: &str| {
            json!({
                "rank": rank, "name": name, "id": format!("{rank:02x}").repeat(20), "attrs": 3,
                "endpoints": ["127.0.0.1:4001", "[::1]:4002"], "comms_key": key, "sig_key": key,
            })
        };
        json!({
            "cluster": "alpha", "cluster_id": "a5".repeat(20), "size": 3, "endpoint_count": 2,
            "complete": false, "members": [member(0, "a"), member(2, "c")],
        })
    }

    async fn read(text: &str, mode: u32) -> Result<Roster, KeptError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ROSTER_FILE);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Roster::kept(dir.path()).await
    }

    #[tokio::test]
    async fn what_was_kept_is_read_back() {
        let roster = read(&good().to_string(), 0o644).await.unwrap();
        assert_eq!(roster.to_file_json(), good());
        // Fields of a later version are no trouble.
        let mut more = good();
        more["members"][0]["later"] = json!([1]);
        more["later"] = json!({});
        assert_eq!(read(&more.to_string(), 0o600).await.unwrap(), roster);
    }

    #[tokio::test]
    async fn what_is_missing_or_not_ones_own_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = Roster::kept(dir.path()).await.unwrap_err();
        assert!(matches!(error, KeptError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("roster.json"), "{error}");
        for mode in [0o664, 0o646, 0o666] {
            let error = read(&good().to_string(), mode).await.unwrap_err();
            assert!(matches!(&error, KeptError::Exposed { mode: got, .. } if *got == mode));
        }
        let error = Roster::kept("/dev/null").await.unwrap_err();
        assert!(matches!(error, KeptError::File { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_no_roster_could_be_is_refused_and_says_why() {
        let bad = |path: &str, value: Value| {
            let mut roster = good();
            *roster.pointer_mut(path).unwrap() = value;
            roster.to_string()
        };
        let twice = good()["members"][0].clone();
        for (text, why) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "missing field"),
            (format!("{{\"later\":{}", "[".repeat(100_000)), "EOF while parsing a list"),
            (bad("/cluster", json!("no name")), "cluster: "),
            (bad("/cluster_id", json!("a5")), "cluster_id: "),
            (bad("/size", json!(0)), "size 0 is not"),
            (bad("/size", json!(65)), "size 65 is not"),
            (bad("/size", json!(-1)), "invalid value"),
            (bad("/size", json!(2)), "rank 2 stands out of order, or beyond the size"),
            (bad("/endpoint_count", json!(0)), "endpoint_count 0 is not"),
            (bad("/endpoint_count", json!(9)), "endpoint_count 9 is not"),
            (bad("/members/1/rank", json!(0)), "rank 0 stands out of order"),
            (bad("/members/1/name", json!("a")), "the same name or ID"),
            (bad("/members/1/id", twice["id"].clone()), "the same name or ID"),
            (bad("/members/1/id", json!("xx")), "id: "),
            (bad("/members/0/name", json!("")), "name: "),
            (bad("/members/0/endpoints", json!(["here"])), "endpoints: "),
            (bad("/members/0/endpoints", json!(vec!["127.0.0.1:1"; 9])), "more than 8 endpoints"),
            (bad("/members/0/sig_key", json!("ssh-rsa AAAA")), "sig_key: "),
            (bad("/members/0/comms_key", json!("")), "comms_key: "),
            (bad("/members", json!(vec![twice; 65])), "rank 0 stands out of order"),
        ] {
            let error = read(&text, 0o644).await.unwrap_err().to_string();
            assert!(error.contains("roster.json holds no roster that can be: "), "{error}");
            assert!(error.contains(why), "{why}: {error}");
        }
        let huge = " ".repeat(FILE_BYTES_MAX + 1);
        assert!(matches!(read(&huge, 0o644).await, Err(KeptError::File { .. })));
    }
}
