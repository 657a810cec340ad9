//! `xlreg leave`: stop being a member; the rank is kept.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use xlreg::{Identity, Name};

use crate::connect::MaybeConnect;
use crate::exit::Code;
use crate::kept::{self, Whose};
use crate::output::{self, Output};
use crate::target::{At, Goal, Target, target, unsaid};

#[derive(clap::Args)]
#[command(after_help = "Example:
  xlreg leave alpha --name node_1 --registry regCred.dat")]
pub(crate) struct Args {
    /// The cluster's name or ID; or the invitation it was joined by, xlreg://... or @FILE
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    /// The member's name [default: that of the identity]
    #[arg(long)]
    name: Option<Name>,
    /// The identity it joined with [default: the one that `xlreg join` keeps for this cluster and
    /// name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    connect: MaybeConnect,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    crate::block_on(leave(args))
}

async fn leave(args: &Args) -> anyhow::Result<Code> {
    let Goal { cluster, invitation, .. } = Goal::new(&args.target)?;
    let whose = Whose::Member { identity: args.identity.as_deref(), name: args.name.as_ref() };
    let at = At::new(invitation, &args.connect, &cluster, whose).await?.ok_or_else(unsaid)?;
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => kept::member(&cluster, args.name.as_ref())?,
    };
    let mut identity = Identity::load(&dir).await?;
    if let Some(name) = &args.name {
        identity = identity.with_name(name.clone());
    }
    let doing = || format!("leaving cluster {cluster}");
    let registry = at.registry(&identity).await.with_context(doing)?;
    registry.leave(&identity, &cluster).await.with_context(doing)?;
    let json = json!({ "cluster": cluster.to_string(), "name": identity.name().as_str() });
    args.output.print(&json, || format!("{} has left cluster {cluster}", identity.name()))?;
    if args.output.is_human() {
        output::note("its rank is kept: the same xlreg join makes it a member again");
    }
    Ok(Code::Done)
}
