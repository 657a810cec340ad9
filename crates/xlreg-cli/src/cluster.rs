//! `xlreg cluster`: create a cluster, show it, wait until it is full.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use xlreg::{ClusterKey, Name, NewCluster};

use crate::connect::{AsWhom, Connect, cluster_key, duration, shell_word};
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a cluster; if there is one of that name and size already, that is it
    Create(CreateArgs),
    /// Show who is in a cluster
    Show(ShowArgs),
    /// Wait until a cluster is full, and show who is in it
    Wait(WaitArgs),
}

#[derive(Args)]
#[command(after_help = "Example:
  xlreg cluster create alpha --size 3 --registry /var/lib/xlreg/regCred.dat")]
pub(crate) struct CreateArgs {
    /// Its name: a letter or '_', then letters, digits and '_'
    #[arg(value_parser = new_name)]
    name: Name,
    /// How many members it is for: 2 to 64
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    size: u32,
    /// How many endpoints each member must bring: 2 if others than members connect to it
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=2))]
    endpoints: u32,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The cluster's name or ID
    #[arg(value_parser = cluster_key, value_name = "CLUSTER")]
    cluster: ClusterKey,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    show: ShowArgs,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Create(args) => crate::block_on(create(args)),
        Command::Show(args) => crate::block_on(show(args)),
        Command::Wait(args) => crate::block_on(wait(args)),
    }
}

/// A name that nobody could take for an ID.
fn new_name(text: &str) -> Result<Name, String> {
    match cluster_key(text)? {
        ClusterKey::Name(name) => Ok(name),
        ClusterKey::Id(_) => Err("40 hex digits are taken for a cluster's ID".to_owned()),
    }
}

async fn create(args: &CreateArgs) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let new = NewCluster::open(args.name.clone(), args.size, args.endpoints);
    let made = registry
        .create(&identity, &new)
        .await
        .with_context(|| format!("creating cluster {}", new.name))?;
    if (made.size, made.endpoint_count) != (new.size, new.endpoint_count) {
        let message = format!(
            "there is a cluster {} already, for {} members with {} endpoint(s) each, not {} with {}; \
             choose another name",
            new.name, made.size, made.endpoint_count, new.size, new.endpoint_count
        );
        return Err(Ending::new(Code::Conflict, message).into());
    }
    let json = json!({
        "cluster": new.name.as_str(),
        "cluster_id": made.id.to_string(),
        "size": made.size,
        "endpoint_count": made.endpoint_count,
    });
    args.output
        .print(&json, || format!("cluster {} ({}) for {} members", new.name, made.id, made.size))?;
    if args.output.is_human() {
        let endpoints = " --endpoint HOST:PORT".repeat(made.endpoint_count as usize);
        let credentials = shell_word(&args.connect.path());
        output::note(&format!(
            "next, for each member: xlreg join {} --registry {credentials}{endpoints}",
            new.name
        ));
    }
    Ok(Code::Done)
}

async fn show(args: &ShowArgs) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let roster = registry
        .show(&identity, &args.cluster)
        .await
        .with_context(|| format!("asking about cluster {}", args.cluster))?;
    args.output.print(&roster.to_json(), || output::roster(&roster))?;
    Ok(Code::Done)
}

async fn wait(args: &WaitArgs) -> anyhow::Result<Code> {
    let WaitArgs { show, timeout } = args;
    let registry = show.connect.registry()?;
    let identity = show.who.identity().await?;
    let roster = registry
        .wait(&identity, &show.cluster, *timeout)
        .await
        .with_context(|| format!("waiting for cluster {}", show.cluster))?;
    show.output.print(&roster.to_json(), || output::roster(&roster))?;
    Ok(Code::Done)
}
