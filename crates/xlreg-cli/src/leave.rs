//! `xlreg leave`: stop being a member; the rank is kept.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use xlreg::{ClusterKey, Identity, Name};

use crate::connect::{Connect, cluster_key, data_dir};
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

#[derive(clap::Args)]
#[command(after_help = "Example:
  xlreg leave alpha --name node_1 --registry regCred.dat")]
pub(crate) struct Args {
    /// The cluster's name or ID
    #[arg(value_parser = cluster_key, value_name = "CLUSTER")]
    cluster: ClusterKey,
    /// The member's name [default: that of the identity]
    #[arg(long)]
    name: Option<Name>,
    /// The identity it joined with [default: the one that `xlreg join` keeps for this cluster and
    /// name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    crate::block_on(leave(args))
}

async fn leave(args: &Args) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => kept(&args.cluster, args.name.as_ref())?,
    };
    let mut identity = Identity::load(&dir).await?;
    if let Some(name) = &args.name {
        identity = identity.with_name(name.clone());
    }
    registry
        .leave(&identity, &args.cluster)
        .await
        .with_context(|| format!("leaving cluster {}", args.cluster))?;
    let json = json!({ "cluster": args.cluster.to_string(), "name": identity.name().as_str() });
    args.output
        .print(&json, || format!("{} has left cluster {}", identity.name(), args.cluster))?;
    if args.output.is_human() {
        output::note("its rank is kept: the same xlreg join makes it a member again");
    }
    Ok(Code::Done)
}

/// Where `xlreg join` keeps the identity of this member.
pub(crate) fn kept(cluster: &ClusterKey, name: Option<&Name>) -> anyhow::Result<PathBuf> {
    let members = data_dir()?.join("members").join(cluster.to_string());
    if let Some(name) = name {
        return Ok(members.join(name.as_str()));
    }
    let entries = std::fs::read_dir(&members).map(|entries| entries.flatten().collect::<Vec<_>>());
    let entries = entries.unwrap_or_default();
    match entries.as_slice() {
        [only] => Ok(only.path()),
        [] => {
            let message = format!(
                "no member of cluster {cluster} is kept in {}; name its identity with --identity",
                members.display()
            );
            Err(Ending::new(Code::NotFound, message).into())
        }
        several => {
            let mut names: Vec<_> = several
                .iter()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort_unstable();
            let message = format!(
                "several members are kept here: {}; say which with --name",
                names.join(", ")
            );
            Err(Ending::new(Code::Usage, message).into())
        }
    }
}
