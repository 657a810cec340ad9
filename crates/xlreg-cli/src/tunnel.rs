//! `xlreg tunnel`: private links for a program that knows nothing of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tracing::warn;
use xlreg::peers::{self, Peers};
use xlreg::tunnel::{CARRIED_MAX, Door, Tunnel};
use xlreg::{ClusterKey, Identity, Name, Roster, Wire};
use xlreg_launch::descriptors;

use crate::connect::{MaybeConnect, duration};
use crate::exit::{Code, Ending};
use crate::kept::{self, Whose};
use crate::logs::Logs;
use crate::output::{self, Output};
use crate::patience::{saying_so, until_reached};
use crate::target::{At, Goal, Target, target};

/// File descriptors that are neither doors nor carried connections: handshakes with those who come,
/// the registry's connection, the runtime's.
const OTHER_DESCRIPTORS: usize = 256;

#[derive(clap::Args)]
#[command(
    after_help = "Example: members a and b have joined alpha with the endpoints 10.0.0.1:7000 and \
10.0.0.2:7000, and the program beside each listens on 127.0.0.1:8000. On both:
  xlreg tunnel alpha --program 8000 --door a=9000 --door b=9001 --registry regCred.dat

Then the program of a reaches that of b at 127.0.0.1:9001, and the other way round at :9000.

Whoever can connect to this machine's loopback can use the doors, so keep strangers off it."
)]
pub(crate) struct Args {
    /// The cluster's name or ID; or an invitation to it, xlreg://..., or @FILE with one in it
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    /// Where the program beside this tunnel listens, on loopback: what peers bring is carried there
    /// [default: nowhere, and peers can bring nothing]
    #[arg(long, value_name = "[HOST:]PORT", value_parser = loopback)]
    program: Option<SocketAddr>,
    /// Where the program finds a peer, on loopback; repeat it for each [default: a port that is free,
    /// for each peer that no --door names]
    #[arg(long = "door", value_name = "NAME=[HOST:]PORT", value_parser = door)]
    doors: Vec<(Name, SocketAddr)>,
    /// Where peers' tunnels come to [default: the member's first endpoint]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The member's name [default: that of the identity]
    #[arg(long)]
    name: Option<Name>,
    /// The identity it joined with [default: the one that `xlreg join` keeps for this cluster and
    /// name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    /// Don't ask the registry: take the roster in this file, a roster.json as `xlreg join` keeps it.
    /// It stays as it is
    #[arg(long, value_name = "FILE")]
    roster: Option<PathBuf>,
    /// How long to wait for the cluster to be complete
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    connect: MaybeConnect,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    logs: Logs,
}

/// An address that only this machine reaches; a port alone is one at 127.0.0.1.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = text.parse().map(|port| SocketAddr::new(here, port));
    let address: SocketAddr = address.or_else(|_| text.parse()).map_err(|_| {
        format!("{text:?} is neither a port nor an IP address and port, like 127.0.0.1:8000")
    })?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{} is not this machine's loopback, and would be open to others", address.ip()))
    }
}

fn door(text: &str) -> Result<(Name, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("not of the form NAME=PORT")?;
    let name = name.parse().map_err(|error| format!("{name:?} is no member's name: {error}"))?;
    Ok((name, loopback(address)?))
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    args.logs.start()?;
    // One thread: whatever is carried is handed on by the thread that was woken for it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tunnel(args))
}

async fn tunnel(args: &Args) -> anyhow::Result<Code> {
    let Goal { cluster, invitation, .. } = Goal::new(&args.target)?;
    let at = match args.roster {
        Some(_) => None,
        None => {
            let whose =
                Whose::Member { identity: args.identity.as_deref(), name: args.name.as_ref() };
            let at = At::new(invitation, &args.connect, &cluster, whose).await?;
            Some(at.ok_or_else(unsaid)?)
        }
    };
    let identity = identity(args, &cluster).await?;
    // Before waiting, so that none is lost.
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let carry = async {
        let (peers, roster) = match at {
            Some(at) => meet(args, &cluster, at, &identity).await?,
            None => read(args, &cluster, &identity).await?,
        };
        allow_open_files(&cluster, &roster);
        let mut tunnel = open(args, &peers, &roster, &identity).await?;
        tunnel.ended().await;
        Err(Ending::new(Code::Failed, "the tunnel carries no more; this is a bug").into())
    };
    tokio::select! {
        ended = carry => ended,
        _ = terminate.recv() => Ok(Code::Done),
        _ = interrupt.recv() => Ok(Code::Done),
    }
}

async fn identity(args: &Args, cluster: &ClusterKey) -> anyhow::Result<Identity> {
    let dir = match &args.identity {
        Some(dir) => dir.clone(),
        None => kept::member(cluster, args.name.as_ref())?,
    };
    let identity = Identity::load(&dir).await?;
    Ok(match &args.name {
        Some(name) => identity.with_name(name.clone()),
        None => identity,
    })
}

/// Raises the limit on open files to what doors, carried connections and handshakes may need.
fn allow_open_files(cluster: &ClusterKey, roster: &Roster) {
    let needed = 2 * CARRIED_MAX + roster.size as usize + OTHER_DESCRIPTORS;
    if let Some(granted) = descriptors::allow(needed as u64)
        && granted < needed as u64
    {
        warn!(%cluster, needed, granted, "the limit on open files allows fewer connections");
    }
}

fn unsaid() -> Ending {
    let message = "say which registry to ask for the roster: --registry CRED, or an invitation in the \
                   cluster's place; or take the one in a file: --roster FILE";
    Ending::new(Code::Usage, message)
}

/// Takes the roster that is in a file, for good.
async fn read(
    args: &Args,
    cluster: &ClusterKey,
    identity: &Identity,
) -> anyhow::Result<(Peers, Roster)> {
    let file = args.roster.clone().unwrap_or_default();
    let roster = Roster::read(&file).await?;
    if !roster.is_of(cluster) {
        let message = format!(
            "{} is the roster of another cluster, {} ({}); name that, or another file",
            file.display(),
            roster.title(),
            roster.id
        );
        return Err(Ending::new(Code::NotFound, message).into());
    }
    Ok((Peers::new(identity, &roster).await?, roster))
}

/// Waits for all members, and keeps the roster current where the registry's wire can tell of changes.
async fn meet(
    args: &Args,
    cluster: &ClusterKey,
    at: At,
    identity: &Identity,
) -> anyhow::Result<(Peers, Roster)> {
    let doing = || format!("waiting for cluster {cluster}");
    let began = Instant::now();
    let rest = || args.timeout.saturating_sub(began.elapsed());
    let waiting = until_reached(args.timeout, async || {
        let found = timeout(rest(), async { anyhow::Ok(at.registry(identity).await?) }).await;
        let found = found.unwrap_or_else(|_| Err(Ending::no_answer(args.timeout).into()));
        let registry = saying_so(found?);
        let waited = registry.wait(identity, cluster, rest()).await;
        Ok((waited.map_err(|error| error.since(began))?, registry))
    });
    let (roster, registry) = waiting.await.with_context(doing)?;
    let peers = if registry.wire() == Wire::V2 {
        Peers::follow(&registry, identity, cluster).await
    } else {
        Peers::new(identity, &roster).await
    };
    Ok((peers.with_context(doing)?, roster))
}

/// Binds all that is listened at, tells where that is, and starts to carry.
async fn open(
    args: &Args,
    peers: &Peers,
    roster: &Roster,
    identity: &Identity,
) -> anyhow::Result<Tunnel> {
    let rank = roster.rank_of_key(identity.sig_key(), identity.name()).ok_or_else(|| {
        let message = format!(
            "{} is no member of cluster {} with these keys; join it first: xlreg join {}",
            identity.name(),
            roster.title(),
            roster.title()
        );
        Ending::new(Code::NotFound, message)
    })?;
    let mut wanted: BTreeMap<_, _> = args.doors.iter().cloned().collect();
    let mut doors = Vec::new();
    let mut told = Vec::new();
    for (peer, member) in roster.iter().filter(|(peer, _)| *peer != rank) {
        let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let address = wanted.remove(&member.name).unwrap_or(anywhere);
        let listener = bind(address, &format!("the door to {}", member.name)).await?;
        told.push((peer, member.name.clone(), listener.local_addr()?));
        // For this member alone: its rank may be another's one day, and its name, if it is expelled.
        doors.push(Door { peer: peers::Target::Id(member.id), listener });
    }
    // A door to oneself is of no use, but one list of doors may serve all members.
    wanted.remove(identity.name());
    if let Some(name) = wanted.keys().next() {
        let message =
            format!("--door names {name}, who is no member of cluster {}", roster.title());
        return Err(Ending::new(Code::NotFound, message).into());
    }
    let endpoint = match args.program {
        Some(program) => Some((listen(args, roster, rank).await?, program)),
        None => None,
    };
    let listening = endpoint.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
    tell(args, roster, &told, listening)?;
    Ok(Tunnel::start(peers, doors, endpoint))
}

/// Binds where peers come to: where we said, when we joined, that we are reached.
async fn listen(args: &Args, roster: &Roster, rank: usize) -> anyhow::Result<TcpListener> {
    if let Some(address) = args.listen {
        return bind(address, "the peers' tunnels").await;
    }
    let own = roster.member(rank).and_then(|member| member.endpoints.first());
    let own = own.context("a member has an endpoint; this is a bug")?;
    let address = (own.host(), own.port());
    TcpListener::bind(address).await.map_err(|error| {
        let message = format!(
            "listening at {own}, this member's endpoint, for the peers' tunnels: {error}; if that \
             address leads here from elsewhere, say where to listen with --listen"
        );
        Ending::new(Code::Failed, message).into()
    })
}

async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("listening at {address} for {what}"))
}

fn tell(
    args: &Args,
    roster: &Roster,
    doors: &[(usize, Name, SocketAddr)],
    listening: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let json = json!({
        "cluster": roster.title(),
        "cluster_id": roster.id.to_string(),
        "listening": listening.map(|address| address.to_string()),
        "program": args.program.map(|address| address.to_string()),
        "doors": doors.iter().map(|(rank, name, address)| json!({
            "rank": rank, "name": name.as_str(), "address": address.to_string(),
        })).collect::<Vec<_>>(),
    });
    args.output.print(&json, || {
        let rows = doors.iter().map(|(rank, name, address)| {
            vec![rank.to_string(), name.to_string(), address.to_string()]
        });
        output::table(&["RANK", "PEER", "REACHED AT"], rows)
    })?;
    if args.output.is_human() {
        match (listening, args.program) {
            (Some(listening), Some(program)) => output::note(&format!(
                "peers' tunnels come to {listening}, and are carried to {program}; Ctrl-C ends this"
            )),
            _ => output::note("peers can bring nothing: name the program here with --program"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_open_on_loopback_alone() {
        assert_eq!(loopback("80"), Ok("127.0.0.1:80".parse().unwrap()));
        assert_eq!(loopback("127.0.0.2:80"), Ok("127.0.0.2:80".parse().unwrap()));
        assert_eq!(loopback("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        for wrong in ["0.0.0.0:80", "192.0.2.1:80", "localhost:80", "65536", "", "x"] {
            assert!(loopback(wrong).is_err(), "{wrong}");
        }
        let (name, address) = door("b=9001").unwrap();
        assert_eq!((name.as_str(), address.port()), ("b", 9001));
        for wrong in ["b", "=1", "b=", "b c=1", "b=0.0.0.0:1"] {
            assert!(door(wrong).is_err(), "{wrong}");
        }
    }
}
