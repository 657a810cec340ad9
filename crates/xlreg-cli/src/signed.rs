//! Fetching signed rosters, and keeping them as the files they are.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use xlreg::{ClusterKey, Identity, Registry};
use xlreg_node::files::{self, Mode};

use crate::output;

/// Where to write a signed roster.
#[derive(Args, Clone, Debug)]
pub(crate) struct SignedTo {
    /// Write the roster to FILE as well, signed by the registry and the members, for `xlreg cluster
    /// verify`; `-` prints that file and nothing else
    #[arg(long = "signed", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl SignedTo {
    /// Does so, if it was asked for. Tells whether that was all that was asked for.
    pub(crate) async fn keep(
        &self,
        registry: &Registry,
        identity: &Identity,
        cluster: &ClusterKey,
    ) -> anyhow::Result<bool> {
        match &self.file {
            None => Ok(false),
            Some(file) if file.as_os_str() == "-" => {
                let roster = registry.signed_roster(identity, cluster).await?;
                output::bytes(roster.to_text().as_bytes())?;
                Ok(true)
            }
            Some(file) => {
                write(registry, identity, cluster, file).await?;
                Ok(false)
            }
        }
    }
}

/// Fetches a cluster's signed roster, and writes it to `path` in place of whatever is there.
pub(crate) async fn write(
    registry: &Registry,
    identity: &Identity,
    cluster: &ClusterKey,
    path: &Path,
) -> anyhow::Result<()> {
    let roster = registry.signed_roster(identity, cluster).await?;
    files::replace(path, roster.to_text().as_bytes(), Mode::Public)
        .with_context(|| format!("writing {}", path.display()))
}

/// Keeps a cluster's signed roster in `dir`, beside the other one or above those of all members. They
/// have their rosters without it, so there is only a word about it if it can't be had; then one of old
/// goes, lest the two differ.
pub(crate) async fn keep_beside(
    registry: &Registry,
    identity: &Identity,
    cluster: &ClusterKey,
    dir: &Path,
) -> anyhow::Result<()> {
    let fetched = registry.signed_roster(identity, cluster).await;
    if let Err(error) = &fetched {
        output::note(&format!("the roster is kept, but not the signed one: {error}"));
    }
    identity.keep_signed_roster(dir, fetched.as_ref().ok()).await?;
    Ok(())
}
