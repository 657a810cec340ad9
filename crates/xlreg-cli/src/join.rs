//! `xlreg join`: become a member, wait for the roster, optionally become a program.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, timeout};
use xlreg::{
    ClusterKey, Endpoint, Identity, Invitation, Name, Registry, Roster, TokenSecret, Wire,
};
use xlreg_launch::{Place, Places};

use crate::connect::{MaybeConnect, cluster_key, data_dir, duration};
use crate::exit::{Code, Ending};
use crate::invite;
use crate::output::{self, Output};
use crate::signed;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  xlreg join alpha --endpoint 10.0.0.7:4001 --registry regCred.dat
  xlreg join alpha --endpoint 10.0.0.7:4001 --name a -- ./my-server --verbose
  xlreg join 'xlreg://HOST:PORT/alpha?key=...&token=...' --endpoint 10.0.0.7:4001

A program finds its place in XLREG_NAME, _ID, _RANK, _SIZE, _CLUSTER, _CLUSTER_ID, _ENDPOINT,
_HOST, _PORT and _DIR, and everybody's in the JSON file that XLREG_ROSTER names.")]
pub(crate) struct Args {
    /// The cluster's name or ID; or an invitation, xlreg://..., or @FILE with one in it
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    /// A token's secret, if the cluster asks for one [env: XLREG_TOKEN]
    // Not clap's `env`: its help would print the secret.
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    token: Option<TokenSecret>,
    /// Where this member is reached, HOST:PORT: first by the other members, second by clients
    #[arg(long = "endpoint", value_name = "HOST:PORT", required = true)]
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

/// Which cluster a user means.
#[derive(Clone, Debug)]
enum Target {
    Cluster(ClusterKey),
    Invitation(invite::Source),
}

fn target(text: &str) -> Result<Target, String> {
    match invite::Source::parse(text) {
        Some(source) => source.map(Target::Invitation),
        None => cluster_key(text).map(Target::Cluster),
    }
}

fn secret(text: &str) -> Result<TokenSecret, String> {
    TokenSecret::parse(text).map_err(|error| error.to_string())
}

/// Where to join what, and with which token.
struct Goal {
    at: At,
    cluster: ClusterKey,
    token: Option<TokenSecret>,
}

/// How the registry is known.
enum At {
    Credentials(Registry),
    /// By its address and a fingerprint; it must be asked for the rest.
    Invitation(Invitation),
}

impl At {
    async fn registry(self, identity: &Identity) -> Result<Registry, xlreg::Error> {
        match self {
            Self::Credentials(registry) => Ok(registry),
            Self::Invitation(invitation) => Registry::from_invitation(&invitation, identity).await,
        }
    }
}

impl Args {
    fn goal(&self) -> anyhow::Result<Goal> {
        let from_env = || std::env::var("XLREG_TOKEN").ok().filter(|text| !text.is_empty());
        let token = match (&self.token, from_env()) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(text)) => Some(TokenSecret::parse(&text).context("XLREG_TOKEN")?),
            (None, None) => None,
        };
        match &self.target {
            Target::Cluster(cluster) => {
                let at = At::Credentials(self.connect.registry()?);
                Ok(Goal { at, cluster: cluster.clone(), token })
            }
            Target::Invitation(source) => {
                let invitation = source.read()?;
                let cluster = invitation.cluster().clone();
                let token = token.or_else(|| invitation.token().cloned());
                Ok(Goal { at: At::Invitation(invitation), cluster, token })
            }
        }
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
    let Goal { at, cluster, token } = args.goal()?;
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => data_dir()?.join("members").join(cluster.to_string()).join(name(args)?.as_str()),
    };
    let mut identity = Identity::load_or_create(&dir, name(args)?).await?;
    if let Some(name) = &args.name {
        identity = identity.with_name(name.clone());
    }
    let doing = || format!("joining {cluster}");
    let began = Instant::now();
    let joining = async {
        let registry = at.registry(&identity).await?;
        let endpoints = args.endpoints.clone();
        let membership = registry.join_with(&identity, &cluster, endpoints, token.as_ref()).await?;
        anyhow::Ok((registry, membership))
    };
    let (registry, mut membership) = timeout(args.timeout, joining)
        .await
        .unwrap_or_else(|_| Err(no_answer(args.timeout)))
        .with_context(doing)?;
    let roster = if args.no_wait {
        membership.roster().await.with_context(doing)?
    } else {
        let waited = membership.wait(args.timeout.saturating_sub(began.elapsed())).await;
        waited.map_err(|error| error.since(began.into_std())).with_context(doing)?
    };
    let joined = ClusterKey::Id(membership.cluster());
    membership.close().await;
    let rank = roster
        .rank_of_key(identity.sig_key(), identity.name())
        .ok_or_else(|| not_in(&roster))
        .with_context(doing)?;
    let roster_file = identity.keep_roster(&dir, &roster, registry.credentials()).await?;
    if registry.wire() == Wire::V2 {
        signed::keep_beside(&registry, &identity, &joined, &dir).await?;
    }
    Ok(Joined { dir, roster, rank, roster_file })
}

fn no_answer(waited: Duration) -> anyhow::Error {
    let message = format!(
        "the registry has not answered within {waited:?}; look at its log, or allow more with \
         --timeout"
    );
    Ending::new(Code::Incomplete, message).into()
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
fn places(roster: &Roster, dir: &Path) -> Places {
    let members = roster.members.iter().map(|member| Place {
        name: member.name.clone(),
        id: member.id,
        endpoints: member.endpoints.clone(),
        dir: dir.to_owned(),
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
