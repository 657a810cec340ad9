//! `xlreg cluster`: look at clusters, wait for them, and end them.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::timeout;
use xlreg::{Listed, Member, Roster};

use crate::connect::{AsWhom, Connect, duration};
use crate::create::{self, CreateArgs};
use crate::exit::{Code, Ending};
use crate::export::{self, ExportArgs};
use crate::output::{self, Output};
use crate::patience::{saying_so, until_reached};
use crate::signed::SignedTo;
use crate::target::{Found, Which};
use crate::verify::{self, VerifyArgs};
use crate::watch::{self, WatchArgs};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a cluster; if there is one of that name and size already, that is it
    Create(CreateArgs),
    /// Show who is in a cluster
    Show(ShowOneArgs),
    /// Wait until a cluster is full, and show who is in it
    Wait(WaitArgs),
    /// List the registry's clusters
    List(ListArgs),
    /// Follow a cluster: a live table, or a line of JSON for each change
    Watch(WatchArgs),
    /// Write a member's keys and roster for other programs: TLS, SSH, JSON, variables
    Export(ExportArgs),
    /// Check a signed roster, a file; or, of a cluster, who reaches whom
    Verify(VerifyArgs),
    /// Take a member's rank away, and shut its key out of the cluster
    Expel(ExpelArgs),
    /// Remove a cluster, its roster and its tokens
    Delete(OneArgs),
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only clusters that you own or are a member of
    #[arg(long)]
    mine: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct OneArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct ExpelArgs {
    #[command(flatten)]
    which: Which,
    /// The member's name, rank or ID
    member: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct ShowOneArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    signed: SignedTo,
}

#[derive(Args)]
pub(crate) struct WaitArgs {
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Create(args) => crate::block_on(create::create(args)),
        Command::Show(args) => crate::block_on(show(args)),
        Command::Wait(args) => crate::block_on(wait(args)),
        Command::List(args) => crate::block_on(list(args)),
        Command::Watch(args) => crate::block_on(watch::watch(args)),
        Command::Export(args) => crate::block_on(export::export(args)),
        Command::Verify(args) => verify::main(args),
        Command::Expel(args) => crate::block_on(expel(args)),
        Command::Delete(args) => crate::block_on(delete(args)),
    }
}

async fn list(args: &ListArgs) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let clusters = registry.list(&identity, args.mine).await.context("listing clusters")?;
    let json = clusters.iter().map(|listed| {
        let state = json!({ "present": listed.present, "complete": listed.is_complete() });
        output::merged([output::summary(&listed.cluster), state])
    });
    args.output.print(&json.collect::<Vec<_>>().into(), || {
        if clusters.is_empty() {
            let whose = if args.mine { "no clusters of yours" } else { "no clusters" };
            return whose.to_owned();
        }
        let rows = clusters.iter().map(|Listed { cluster, present }| {
            vec![
                cluster.name.to_string(),
                format!("{present} of {}", cluster.size),
                output::policy(&cluster.policy).to_owned(),
                output::lifetime(&cluster.life).unwrap_or_else(|| "until deleted".to_owned()),
                cluster.id.to_string(),
            ]
        });
        output::table(&["NAME", "MEMBERS", "JOIN", "LIVES", "ID"], rows)
    })?;
    Ok(Code::Done)
}

async fn delete(args: &OneArgs) -> anyhow::Result<Code> {
    let Found { registry, identity, cluster } = args.which.find().await?;
    let deleted = registry.delete(&identity, &cluster).await;
    deleted.with_context(|| format!("deleting cluster {cluster}"))?;
    let json = json!({ "cluster": cluster.to_string() });
    args.output.print(&json, || format!("cluster {cluster} is deleted"))?;
    Ok(Code::Done)
}

async fn expel(args: &ExpelArgs) -> anyhow::Result<Code> {
    let Found { registry, identity, cluster } = args.which.find().await?;
    let doing = || format!("expelling {} from cluster {cluster}", args.member);
    let roster = registry.show(&identity, &cluster).await.with_context(doing)?;
    let (rank, member) = holder(&roster, &args.member)?;
    registry.expel(&identity, &cluster, &member.id).await.with_context(doing)?;
    let json = json!({
        "cluster": cluster.to_string(),
        "name": member.name.as_str(),
        "id": member.id.to_string(),
        "rank": rank,
    });
    args.output.print(&json, || {
        format!("{} is expelled from cluster {cluster}; rank {rank} is free", member.name)
    })?;
    Ok(Code::Done)
}

/// Who holds a rank, there or not, by name, rank or ID.
fn holder<'a>(roster: &'a Roster, named: &str) -> anyhow::Result<(usize, &'a Member)> {
    let holders = roster.holders();
    let meant = |rank: usize, member: &Member| {
        named == member.name.as_str() || named == rank.to_string() || named == member.id.to_string()
    };
    if let Some((rank, member, _)) = holders.iter().find(|(rank, member, _)| meant(*rank, member)) {
        return Ok((*rank, *member));
    }
    let names: Vec<_> = holders.iter().map(|(_, member, _)| member.name.as_str()).collect();
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let message = format!("cluster {} has no member {named}; it has {has}", roster.title());
    Err(Ending::new(Code::NotFound, message).into())
}

async fn show(args: &ShowOneArgs) -> anyhow::Result<Code> {
    let ShowOneArgs { one: args, signed } = args;
    let Found { registry, identity, cluster } = args.which.find().await?;
    let doing = || format!("asking about cluster {cluster}");
    if signed.keep(&registry, &identity, &cluster).await.with_context(doing)? {
        return Ok(Code::Done);
    }
    let roster = registry.show(&identity, &cluster).await.with_context(doing)?;
    args.output.print(&roster.to_json(), || output::roster(&roster))?;
    Ok(Code::Done)
}

async fn wait(args: &WaitArgs) -> anyhow::Result<Code> {
    let began = Instant::now();
    let mut told = !args.output.is_human();
    let roster = until_reached(args.timeout, async || {
        let rest = || args.timeout.saturating_sub(began.elapsed());
        let found = timeout(rest(), args.which.find()).await;
        let Found { registry, identity, cluster } =
            found.unwrap_or_else(|_| Err(Ending::no_answer(args.timeout).into()))?;
        let registry = saying_so(registry);
        if !std::mem::replace(&mut told, true)
            && let Ok(Ok(roster)) = timeout(rest(), registry.show(&identity, &cluster)).await
            && let Some(waiting) = output::waiting_for(&roster, args.timeout)
        {
            output::note(&format!("cluster {cluster}: {waiting}"));
        }
        let roster = registry.wait(&identity, &cluster, rest()).await;
        let roster = roster.map_err(|error| error.since(began));
        roster.with_context(|| format!("waiting for cluster {cluster}"))
    });
    let roster = roster.await?;
    args.output.print(&roster.to_json(), || output::roster(&roster))?;
    Ok(Code::Done)
}
