//! What `xlreg join` keeps of a member: its identity and, beside that, which registry it joined at.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use xlreg::{ClusterKey, Credentials, Fingerprint, Name, Registry, Roster};
use xlreg_node::files::{self, Mode};

use crate::connect::data_dir;
use crate::exit::{Code, Ending};

/// The credentials of the registry that a member joined at. Not `regCred.dat`, which a registry keeps.
const REGISTRY_FILE: &str = "registry.dat";

/// Whose registry is asked for where nothing else says which.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// The member's that acts: its directory, or else the kept member of this name.
    Member { identity: Option<&'a Path>, name: Option<&'a Name> },
    /// That of any member of the cluster; of the identity's in this directory, if it is one.
    Anybody { identity: Option<&'a Path> },
}

/// Keeps, in a member's directory, where its registry is and which keys it has; never a token.
pub(crate) fn keep_registry(dir: &Path, registry: &Credentials) -> anyhow::Result<()> {
    let path = dir.join(REGISTRY_FILE);
    files::replace(&path, registry.to_text().as_bytes(), Mode::Public)
        .with_context(|| format!("writing {}", path.display()))
}

/// Whether this is the directory of somebody who has joined a cluster.
pub(crate) fn is_members(dir: &Path) -> bool {
    file_in(dir).is_some()
}

/// The file with the credentials of the registry that knows the cluster, if one is kept.
pub(crate) async fn registry(
    cluster: &ClusterKey,
    whose: Whose<'_>,
) -> anyhow::Result<Option<PathBuf>> {
    let identity = match whose {
        Whose::Member { identity, .. } | Whose::Anybody { identity } => identity,
    };
    if let Some(dir) = identity
        && Roster::kept(dir).await.is_ok_and(|roster| roster.is_of(cluster))
        && let Some(file) = file_in(dir)
    {
        return Ok(Some(file));
    }
    match whose {
        // Kept of another cluster, or of none.
        Whose::Member { identity: Some(_), .. } => Ok(None),
        Whose::Member { name, .. } => {
            let (_, names) = members(cluster)?;
            if names.is_empty() { Ok(None) } else { Ok(file_in(&member(cluster, name)?)) }
        }
        Whose::Anybody { .. } => common(cluster),
    }
}

fn file_in(dir: &Path) -> Option<PathBuf> {
    Some(dir.join(REGISTRY_FILE)).filter(|file| file.exists())
}

/// The registry that all kept members of a cluster joined at, as it was found last.
fn common(cluster: &ClusterKey) -> anyhow::Result<Option<PathBuf>> {
    let (dir, names) = members(cluster)?;
    let mut found: Vec<(String, Fingerprint, SystemTime, PathBuf)> = Vec::new();
    for name in names {
        let Some(file) = file_in(&dir.join(&name)) else { continue };
        let credentials = Registry::open(&file)?.credentials().clone();
        let first = credentials.endpoints.first().map_or("nowhere", |endpoint| endpoint.as_str());
        let kept = file.metadata().and_then(|metadata| metadata.modified());
        let kept = kept.with_context(|| format!("looking at {}", file.display()))?;
        found.push((format!("{name} at {first}"), credentials.sig_key.fingerprint(), kept, file));
    }
    if let [(_, key, ..), rest @ ..] = found.as_slice()
        && rest.iter().any(|(_, other, ..)| other != key)
    {
        let all: Vec<_> = found.iter().map(|(told, ..)| told.as_str()).collect();
        let message = format!(
            "members of clusters {cluster} at several registries are kept here: {}; say which \
             registry with --registry, such as {}",
            all.join(", "),
            found.first().map(|(.., file)| file.display().to_string()).unwrap_or_default(),
        );
        return Err(Ending::new(Code::Usage, message).into());
    }
    Ok(found.into_iter().max_by_key(|(_, _, kept, _)| *kept).map(|(.., file)| file))
}

/// Where members of a cluster are kept, each in a directory of its name.
pub(crate) fn members_dir(cluster: &ClusterKey) -> anyhow::Result<PathBuf> {
    Ok(data_dir()?.join("members").join(cluster.to_string()))
}

/// The same, and their names.
fn members(cluster: &ClusterKey) -> anyhow::Result<(PathBuf, Vec<String>)> {
    let members = members_dir(cluster)?;
    let entries = std::fs::read_dir(&members).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok((members, names))
}

/// Where `xlreg join` keeps the identity of this member.
pub(crate) fn member(cluster: &ClusterKey, name: Option<&Name>) -> anyhow::Result<PathBuf> {
    let (members, mut names) = members(cluster)?;
    if let Some(name) = name
        && names.iter().any(|kept| kept == name.as_str())
    {
        return Ok(members.join(name.as_str()));
    }
    // Who was never let in left an identity, too, but is no member.
    let joined = |name: &String| file_in(&members.join(name)).is_some();
    if names.iter().any(joined) {
        names.retain(joined);
    }
    let missing = |message: String| Ending::new(Code::NotFound, message).into();
    let all = names.join(", ");
    match (name, names.as_slice()) {
        (None, [only]) => Ok(members.join(only)),
        (_, []) => Err(missing(format!(
            "no member of cluster {cluster} is kept in {}; name its identity with --identity",
            members.display()
        ))),
        (Some(name), _) => Err(missing(format!(
            "no member {name} of cluster {cluster} is kept here, but: {all}; if its identity is \
             elsewhere, name it with --identity"
        ))),
        (None, _) => {
            let message = format!(
                "several members of cluster {cluster} are kept here: {all}; say which with --name"
            );
            Err(Ending::new(Code::Usage, message).into())
        }
    }
}
