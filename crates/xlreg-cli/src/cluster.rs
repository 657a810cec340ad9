//! `xlreg cluster`: create clusters, look at them, and end them.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use xlreg::{ClusterKey, Fingerprint, Lifetime, Listed, Member, Name, NewCluster, Policy, Wire};

use crate::connect::{AsWhom, Connect, cluster_key, duration, shell_word};
use crate::exit::{Code, Ending};
use crate::invite::{self, Handing};
use crate::output::{self, Output};
use crate::signed::SignedTo;
use crate::token::Terms;
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
    /// Check a signed roster, a file, without asking anybody
    Verify(VerifyArgs),
    /// Take a member's rank away, and shut its key out of the cluster
    Expel(ExpelArgs),
    /// Remove a cluster, its roster and its tokens
    Delete(DeleteArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:
  xlreg cluster create alpha --size 3 --registry /var/lib/xlreg/regCred.dat
  xlreg cluster create beta --size 5 --policy token --ttl 1h --registry regCred.dat")]
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
    /// Who may join: anybody who reaches the registry, who has a token, or the holders of the keys
    /// that --allow names
    #[arg(long, value_enum, default_value = "open")]
    policy: PolicyFlag,
    /// A sig key that may join: the sig_key_sha256 that `xlreg id show` tells; repeat it for each
    #[arg(long, value_name = "SHA256", required_if_eq("policy", "keys"))]
    allow: Vec<Fingerprint>,
    #[command(flatten)]
    lifetime: LifetimeArgs,
    #[command(flatten)]
    token: Terms,
    #[command(flatten)]
    handing: Handing,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyFlag {
    Open,
    Token,
    Keys,
}

/// How long the cluster lives [default: until it is deleted].
#[derive(Args, Clone, Copy)]
struct LifetimeArgs {
    /// It must be full within this time, or it is deleted
    #[arg(long, value_name = "TIME", value_parser = duration)]
    fill_within: Option<Duration>,
    /// It is deleted after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// It is deleted when nothing has changed in it and nobody has watched it for this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
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
pub(crate) struct ExpelArgs {
    #[command(flatten)]
    show: ShowArgs,
    /// The member's name, rank or ID
    member: String,
}

#[derive(Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    show: ShowArgs,
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
pub(crate) struct ShowOneArgs {
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    signed: SignedTo,
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
        Command::List(args) => crate::block_on(list(args)),
        Command::Watch(args) => crate::block_on(watch::watch(args)),
        Command::Verify(args) => verify::main(args),
        Command::Expel(args) => crate::block_on(expel(args)),
        Command::Delete(args) => crate::block_on(delete(args)),
    }
}

/// A name that nobody could take for an ID.
fn new_name(text: &str) -> Result<Name, String> {
    match cluster_key(text)? {
        ClusterKey::Name(name) => Ok(name),
        ClusterKey::Id(_) => Err("40 hex digits are taken for a cluster's ID".to_owned()),
    }
}

impl CreateArgs {
    /// What the flags ask for.
    fn cluster(&self) -> anyhow::Result<NewCluster> {
        let policy = match self.policy {
            PolicyFlag::Open => Policy::Open,
            PolicyFlag::Token => Policy::Token,
            PolicyFlag::Keys => Policy::Keys(self.allow.iter().copied().collect()),
        };
        if self.policy != PolicyFlag::Keys && !self.allow.is_empty() {
            return Err(Ending::new(Code::Usage, "--allow goes with --policy keys").into());
        }
        let LifetimeArgs { fill_within, ttl, idle } = self.lifetime;
        let lifetime = Lifetime { fill_within, ttl, idle, with_owner: false };
        let plain = NewCluster::open(self.name.clone(), self.size, self.endpoints);
        Ok(NewCluster { policy, lifetime, ..plain })
    }
}

async fn create(args: &CreateArgs) -> anyhow::Result<Code> {
    let new = args.cluster()?;
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let doing = || format!("creating cluster {}", new.name);
    let made = registry.create(&identity, &new).await.with_context(doing)?;
    if (made.size, made.endpoint_count) != (new.size, new.endpoint_count) {
        let message = format!(
            "there is a cluster {} already, for {} members with {} endpoint(s) each, not {} with {}; \
             choose another name",
            new.name, made.size, made.endpoint_count, new.size, new.endpoint_count
        );
        return Err(Ending::new(Code::Conflict, message).into());
    }
    let key = ClusterKey::Name(new.name.clone());
    // A token goes along, so that one line is all that the other machines need.
    let token = if new.policy == Policy::Token {
        let issued = registry.create_token(&identity, &key, &args.token.token("")).await;
        Some(issued.with_context(doing)?)
    } else {
        None
    };
    let mut json = json!({
        "cluster": new.name.as_str(),
        "cluster_id": made.id.to_string(),
        "size": made.size,
        "endpoint_count": made.endpoint_count,
    });
    let say = || format!("cluster {} ({}) for {} members", new.name, made.id, made.size);
    if registry.wire() == Wire::V2 {
        let secret = token.as_ref().map(|(secret, _)| secret);
        let invitation = registry.invitation(&key, secret)?;
        json["token"] = json!(token.as_ref().map(|(_, token)| token.id.to_string()));
        json["invitation"] = json!(invitation.to_text().as_str());
        args.output.print(&json, say)?;
        invite::hand_over(&invitation, made.endpoint_count, &args.handing, args.output)?;
    } else {
        args.output.print(&json, say)?;
        if args.output.is_human() {
            let endpoints = " --endpoint HOST:PORT".repeat(made.endpoint_count as usize);
            let credentials = shell_word(&args.connect.path());
            output::note(&format!(
                "next, for each member: xlreg join {} --registry {credentials}{endpoints}",
                new.name
            ));
        }
    }
    Ok(Code::Done)
}

async fn list(args: &ListArgs) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let clusters = registry.list(&identity, args.mine).await.context("listing clusters")?;
    let json = clusters.iter().map(|listed| {
        let Listed { cluster, present } = listed;
        json!({
            "cluster": cluster.name.as_str(),
            "cluster_id": cluster.id.to_string(),
            "size": cluster.size,
            "present": present,
            "complete": listed.is_complete(),
            "policy": output::policy(&cluster.policy),
            "owner": cluster.owner.map(|owner| owner.to_string()),
            "revision": cluster.revision,
            "expires": cluster.life.ends.map(output::moment),
        })
    });
    args.output.print(&json.collect::<Vec<_>>().into(), || {
        if clusters.is_empty() {
            return "no clusters".to_owned();
        }
        let rows = clusters.iter().map(|Listed { cluster, present }| {
            vec![
                cluster.name.to_string(),
                format!("{present} of {}", cluster.size),
                output::policy(&cluster.policy).to_owned(),
                cluster.life.ends.map_or_else(|| "-".to_owned(), output::moment),
                cluster.id.to_string(),
            ]
        });
        output::table(&["NAME", "MEMBERS", "JOIN", "EXPIRES", "ID"], rows)
    })?;
    Ok(Code::Done)
}

async fn delete(args: &DeleteArgs) -> anyhow::Result<Code> {
    let ShowArgs { cluster, connect, who, output } = &args.show;
    let registry = connect.registry()?;
    let identity = who.identity().await?;
    registry
        .delete(&identity, cluster)
        .await
        .with_context(|| format!("deleting cluster {cluster}"))?;
    let json = json!({ "cluster": cluster.to_string() });
    output.print(&json, || format!("cluster {cluster} is deleted"))?;
    Ok(Code::Done)
}

async fn expel(args: &ExpelArgs) -> anyhow::Result<Code> {
    let ShowArgs { cluster, connect, who, output } = &args.show;
    let registry = connect.registry()?;
    let identity = who.identity().await?;
    let doing = || format!("expelling {} from cluster {cluster}", args.member);
    let roster = registry.show(&identity, cluster).await.with_context(doing)?;
    let left = roster.about().into_iter().flat_map(|about| &about.left);
    let mut holders = roster.iter().chain(left.map(|(rank, member)| (*rank, member)));
    let meant = |rank: usize, member: &Member| {
        args.member == member.name.as_str()
            || args.member == rank.to_string()
            || args.member == member.id.to_string()
    };
    let found = holders.find(|(rank, member)| meant(*rank, member));
    let Some((rank, member)) = found else {
        let message = format!("cluster {cluster} has no member {}", args.member);
        return Err(Ending::new(Code::NotFound, message).into());
    };
    registry.expel(&identity, cluster, &member.id).await.with_context(doing)?;
    let json = json!({
        "cluster": cluster.to_string(),
        "name": member.name.as_str(),
        "id": member.id.to_string(),
        "rank": rank,
    });
    output.print(&json, || {
        format!("{} is expelled from cluster {cluster}; rank {rank} is free", member.name)
    })?;
    Ok(Code::Done)
}

async fn show(args: &ShowOneArgs) -> anyhow::Result<Code> {
    let ShowOneArgs { show: args, signed } = args;
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let doing = || format!("asking about cluster {}", args.cluster);
    if signed.keep(&registry, &identity, &args.cluster).await.with_context(doing)? {
        return Ok(Code::Done);
    }
    let roster = registry.show(&identity, &args.cluster).await.with_context(doing)?;
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
