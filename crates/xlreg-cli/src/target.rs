//! Which cluster a user means, and at which registry: by its name, its ID or an invitation.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use xlreg::tokens::TOKEN_PREFIX;
use xlreg::{ClusterKey, Error, Identity, Invitation, Registry, TokenSecret};
use xlreg_node::files;
use xlreg_proto::text::FILE_BYTES_MAX;
use zeroize::Zeroizing;

use crate::connect::{AsWhom, MaybeConnect, cluster_key};
use crate::exit::{Code, Ending};
use crate::kept::{self, Whose};

/// A cluster, as a user names it.
#[derive(Clone)]
pub(crate) enum Target {
    Cluster(ClusterKey),
    /// An invitation's text, not yet read: what clap refuses it prints, and this may hold a secret.
    Invitation(Zeroizing<String>),
    /// The file that has one in it.
    File(PathBuf),
}

/// Which cluster, at which registry, and as whom to ask.
#[derive(Args)]
pub(crate) struct Which {
    /// The cluster's name or ID; or an invitation to it, xlreg://..., or @FILE with one in it
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    #[command(flatten)]
    connect: MaybeConnect,
    #[command(flatten)]
    who: AsWhom,
}

/// A registry to ask, as whom, and about what.
pub(crate) struct Found {
    pub(crate) registry: Registry,
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterKey,
}

impl Which {
    /// Reads the files that are named, and makes the identity if it is the default one and missing.
    pub(crate) async fn find(&self) -> anyhow::Result<Found> {
        let Goal { cluster, invitation, .. } = Goal::new(&self.target)?;
        let whose = Whose::Anybody { identity: self.who.dir() };
        let at = At::new(invitation, &self.connect, &cluster, whose).await?.ok_or_else(unsaid)?;
        let identity = self.who.identity().await?;
        let registry = at.registry(&identity).await.context("following the invitation")?;
        Ok(Found { registry, identity, cluster })
    }
}

/// Which cluster, and what an invitation says of the way to it.
pub(crate) struct Goal {
    pub(crate) cluster: ClusterKey,
    pub(crate) token: Option<TokenSecret>,
    pub(crate) invitation: Option<Invitation>,
}

/// How the registry is known.
pub(crate) enum At {
    Credentials(Registry),
    /// By its address and a fingerprint; it must be asked for the rest.
    Invitation(Invitation),
}

impl Goal {
    /// Reads the invitation, if it is one.
    pub(crate) fn new(target: &Target) -> anyhow::Result<Self> {
        let invitation = match target {
            Target::Cluster(cluster) => {
                return Ok(Self { cluster: cluster.clone(), token: None, invitation: None });
            }
            // Misuse, as any argument that is not what it should be.
            Target::Invitation(text) => Invitation::parse(text).map_err(Error::from)?,
            Target::File(path) => {
                let doing = || format!("reading the invitation in {}", path.display());
                let text = files::read_text(path, FILE_BYTES_MAX).with_context(doing)?;
                Invitation::parse(text.trim()).with_context(doing)?
            }
        };
        let (cluster, token) = (invitation.cluster().clone(), invitation.token().cloned());
        Ok(Self { cluster, token, invitation: Some(invitation) })
    }
}

impl At {
    /// What is said of the registry: an invitation goes before flag and variable, lest its token
    /// come to another registry than the one that it is for. Where nothing is said, it is the
    /// registry that a member of the cluster joined at, if that is kept.
    pub(crate) async fn new(
        invitation: Option<Invitation>,
        connect: &MaybeConnect,
        cluster: &ClusterKey,
        whose: Whose<'_>,
    ) -> anyhow::Result<Option<Self>> {
        if let Some(invitation) = invitation {
            return Ok(Some(Self::Invitation(invitation)));
        }
        if let Some(registry) = connect.registry()? {
            return Ok(Some(Self::Credentials(registry)));
        }
        let kept = kept::registry(cluster, whose).await?;
        Ok(kept.map(|file| connect.open(&file)).transpose()?.map(Self::Credentials))
    }

    /// The registry; who is invited asks it for its credentials.
    pub(crate) async fn registry(&self, identity: &Identity) -> Result<Registry, Error> {
        match self {
            Self::Credentials(registry) => Ok(registry.clone()),
            Self::Invitation(invitation) => Registry::from_invitation(invitation, identity).await,
        }
    }
}

/// That nothing says which registry.
pub(crate) fn unsaid() -> Ending {
    let message = "say which registry: --registry or XLREG_REGISTRY with its credentials, whose \
                   place `xlreg serve` prints; or, in the cluster's place, an invitation, as \
                   `xlreg cluster create` prints it";
    Ending::new(Code::Usage, message)
}

/// Reads what a user names a cluster by.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    if let Some(file) = text.strip_prefix('@') {
        return Ok(Target::File(PathBuf::from(file)));
    }
    // No name and no ID has a slash: unless it is a file, it is meant for an invitation, whole or not.
    let is_file = || std::fs::exists(text).unwrap_or(false);
    if is_invitation(text) || text.contains('/') && !is_file() {
        return Ok(Target::Invitation(Zeroizing::new(text.trim().to_owned())));
    }
    cluster_key(text).map(Target::Cluster).map_err(|error| match is_file() {
        true => format!("{error}; if an invitation is in this file, say @{text}"),
        false => error,
    })
}

/// Whether this is meant for an invitation, whole or not, even where a path could stand.
pub(crate) fn is_invitation(text: &str) -> bool {
    let text = text.trim_start().to_ascii_lowercase();
    let has_token = text.contains(&format!("token={TOKEN_PREFIX}"));
    has_token || text.starts_with("xlreg:") || text.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_invitation_is_never_refused_by_clap_which_would_print_it() {
        for text in [
            "xlreg://h:1/a?key=x",
            " xlreg://h:1/a\n",
            "lreg://h:1/a&token=x",
            "//h:1/a",
            "xlreg:h:1",
        ] {
            assert!(matches!(target(text), Ok(Target::Invitation(_))), "{text:?}");
        }
        assert!(matches!(target("@some file"), Ok(Target::File(_))));
        assert!(matches!(target("alpha"), Ok(Target::Cluster(ClusterKey::Name(_)))));
        assert!(target("no name").is_err());
        let Err(error) = target(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")) else {
            panic!()
        };
        assert!(error.contains("say @/"), "{error}");
    }
}
