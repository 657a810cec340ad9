//! `xlreg join`: become a member, wait for the roster, optionally become a program.

use std::convert::Infallible;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, timeout};
use xlreg::{ClusterKey, Endpoint, Identity, Name, Roster, TokenSecret, Wire};
use xlreg_launch::{Place, Places};
use zeroize::Zeroizing;

use crate::connect::{MaybeConnect, duration};
use crate::exit::{Code, Ending};
use crate::kept::{self, Whose};
use crate::output::{self, Output};
use crate::patience::{saying_so, until_reached};
use crate::signed;
use crate::target::{At, Goal, Target, target, unsaid};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  xlreg join alpha --endpoint 10.0.0.7:4001 --registry regCred.dat
  xlreg join alpha --endpoint 10.0.0.7:4001 --name a -- ./my-server --verbose
  xlreg join 'xlreg://HOST:PORT/alpha?key=...&token=...' --endpoint 10.0.0.7:4001

A program finds its place in XLREG_NAME, _ID, _RANK, _SIZE, _CLUSTER, _CLUSTER_ID, _ENDPOINT, \
_HOST, _PORT and _DIR, and everybody's in the JSON file that XLREG_ROSTER names.")]
pub(crate) struct Args {
    /// The cluster's name or ID; or an invitation, xlreg://..., or @FILE with one in it
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    /// A token's secret, if the cluster asks for one [env: XLREG_TOKEN]
    // Not clap's `env`, whose help would print the secret; nor its parser, whose complaints would.
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    token: Option<Zeroizing<String>>,
    /// Where this member is reached, HOST:PORT: first by the other members, second by clients
    #[arg(long = "endpoint", value_name = "HOST:PORT", required = true, value_parser = reachable)]
    endpoints: Vec<Endpoint>,
    /// The member's name, unique in the cluster [default: its identity's, or one made of HOST and
    /// PORT]
    #[arg(long)]
    name: Option<Name>,
    /// Keep the identity and the roster in this directory; come back with it, and you are the same
    /// member [default: a directory of its own for each cluster and name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    /// How long to wait for the others at most
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    /// Don't wait for the others: go on with whoever is there
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: MaybeConnect,
    #[command(flatten)]
    output: Output,
    /// A program to become once the roster is there, with its arguments; it finds the roster in
    /// its environment
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// An address at which others can reach something.
fn reachable(text: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = text.parse().map_err(|error| format!("{error}"))?;
    let host = endpoint.host();
    let address: Option<IpAddr> = host.parse().ok();
    if address.is_some_and(|address| address.is_unspecified()) {
        return Err(format!(
            "{host} stands for every address of this machine; say the one by which others reach it"
        ));
    }
    Ok(endpoint)
}

fn secret(text: &str) -> Result<Zeroizing<String>, Infallible> {
    Ok(Zeroizing::new(text.to_owned()))
}

impl Args {
    /// The token that is given beside the invitation.
    fn token(&self) -> anyhow::Result<Option<TokenSecret>> {
        let from_env = std::env::var("XLREG_TOKEN").ok().filter(|text| !text.is_empty());
        let (given, text) = match (&self.token, from_env) {
            (Some(text), _) => ("--token", text.clone()),
            (None, Some(text)) => ("XLREG_TOKEN", Zeroizing::new(text)),
            (None, None) => return Ok(None),
        };
        let misuse = |error| Ending::new(Code::Usage, format!("{given}: {error}"));
        Ok(Some(TokenSecret::parse(text.trim()).map_err(misuse)?))
    }
}

/// A member that holds its roster.
struct Joined {
    dir: PathBuf,
    roster: Roster,
    rank: usize,
    roster_file: PathBuf,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    let joined = crate::block_on(join(args))?;
    let human = || output::roster(&joined.roster);
    if let Some((program, arguments)) = args.command.split_first() {
        // Stdout belongs to the program now.
        output::note(&human());
        return become_program(&joined, program, arguments);
    }
    args.output.print(&joined.roster.to_json(), human)?;
    if args.output.is_human() {
        output::note(&format!("kept in {}", joined.roster_file.display()));
    }
    Ok(Code::Done)
}

async fn join(args: &Args) -> anyhow::Result<Joined> {
    let Goal { cluster, token, invitation } = Goal::new(&args.target)?;
    let token = args.token()?.or(token);
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => kept::members_dir(&cluster)?.join(name(args)?.as_str()),
    };
    let whose = Whose::Anybody { identity: Some(&dir) };
    let at = At::new(invitation, &args.connect, &cluster, whose).await?.ok_or_else(unsaid)?;
    let mut identity = Identity::load_or_create(&dir, name(args)?).await?;
    if let Some(name) = &args.name {
        identity = identity.with_name(name.clone());
    }
    let doing = || format!("joining {cluster}");
    let began = Instant::now();
    let rest = || args.timeout.saturating_sub(began.elapsed());
    let joining = until_reached(args.timeout, async || {
        let registry = saying_so(at.registry(&identity).await?);
        let endpoints = args.endpoints.clone();
        let membership = registry.join_with(&identity, &cluster, endpoints, token.as_ref()).await?;
        Ok((registry, membership))
    });
    let (registry, mut membership) = timeout(args.timeout, joining)
        .await
        .unwrap_or_else(|_| Err(Ending::no_answer(args.timeout).into()))
        .with_context(doing)?;
    kept::keep_registry(&dir, registry.credentials())?;
    let roster = if args.no_wait {
        let asking = until_reached(rest(), async || Ok(membership.roster().await?));
        asking.await.with_context(|| format!("joined {cluster}, but cannot tell who is there"))?
    } else {
        // What keeps it from being told now is for the wait to get over, or to tell.
        if args.output.is_human()
            && let Ok(Ok(roster)) = timeout(rest(), membership.roster()).await
            && let Some(waiting) = output::waiting_for(&roster, args.timeout)
        {
            output::note(&format!("joined: {waiting}"));
        }
        let waited = membership.wait(rest()).await;
        waited.map_err(|error| error.since(began.into_std())).with_context(doing)?
    };
    let joined = ClusterKey::Id(membership.cluster());
    membership.close().await;
    let rank = roster
        .rank_of_key(identity.sig_key(), identity.name())
        .ok_or_else(|| not_in(&roster))
        .with_context(doing)?;
    if let Some(shared) = shared_endpoint(&roster, identity.name()) {
        output::note(&shared);
    }
    let roster_file = identity.keep_roster(&dir, &roster, registry.credentials()).await?;
    if registry.wire() == Wire::V2 {
        signed::keep_beside(&registry, &identity, &joined, &dir).await?;
    }
    Ok(Joined { dir, roster, rank, roster_file })
}

/// What to say to the member `own` if another is reached where it is, too, which is hardly ever meant.
fn shared_endpoint(roster: &Roster, own: &Name) -> Option<String> {
    let ours = &roster.members.iter().find(|member| member.name == *own)?.endpoints;
    roster.members.iter().filter(|member| member.name != *own).find_map(|other| {
        let shared = other.endpoints.iter().find(|endpoint| ours.contains(endpoint))?;
        Some(format!(
            "xlreg: note: {} says that it is reached at {shared}, too; if that is not meant, join \
             again with another --endpoint",
            other.name
        ))
    })
}

/// Original servers let in whoever comes, also beyond the size.
fn not_in(roster: &Roster) -> anyhow::Error {
    let (here, size) = (roster.members.len(), roster.size);
    let code = if roster.is_complete() { Code::Full } else { Code::Failed };
    let message = format!(
        "the registry let us in, but we are not among the {here} members of {size} that it shows: \
         an original server doesn't count whom it lets in; join a cluster with room"
    );
    Ending::new(code, message).into()
}

/// The name given, or one made of the first endpoint, such as `node_10_0_0_7_4001`: the same
/// command line is the same member, and those that differ are different ones.
fn name(args: &Args) -> anyhow::Result<Name> {
    if let Some(name) = &args.name {
        return Ok(name.clone());
    }
    let Some(endpoint) = args.endpoints.first() else {
        return Err(Ending::new(Code::Usage, "a member needs at least one --endpoint").into());
    };
    let text: String = endpoint
        .as_str()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let made = format!("node_{text}").parse();
    made.map_err(|_| {
        Ending::new(Code::Usage, format!("no name can be made of {endpoint}: give one with --name"))
            .into()
    })
}

/// Everybody's places. The others' directories are theirs, on other machines, and nobody asks for
/// them here; they stand as ours.
pub(crate) fn places(roster: &Roster, dir: &Path) -> Places {
    let members = roster.members.iter().map(|member| Place {
        name: member.name.clone(),
        id: member.id,
        endpoints: member.endpoints.clone(),
        dir: dir.to_owned(),
        tls: None,
    });
    Places {
        cluster: roster.title(),
        cluster_id: roster.id,
        size: roster.size,
        members: members.collect(),
    }
}

/// Replaces this process. Returns only if that fails.
fn become_program(joined: &Joined, program: &str, arguments: &[String]) -> anyhow::Result<Code> {
    let Joined { dir, roster, rank, roster_file } = joined;
    let dir = std::path::absolute(dir)?;
    let roster_file = std::path::absolute(roster_file)?;
    let mut command = std::process::Command::new(program);
    for (name, value) in places(roster, &dir).variables(*rank, &roster_file).into_iter().flatten() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let error = command.args(arguments).exec();
    let message = format!(
        "joined as rank {rank}, but cannot start {program}: {error}; the place is kept: correct \
         the command and run this again"
    );
    Err(Ending::new(Code::Failed, message).into())
}
