//! `xlreg run`: a cluster of N copies of a program, here, now.
//!
//! A registry of its own, in this process; N members with identities and ports of their own, joined
//! over real TCP; and then, once all hold the whole roster, the N programs. What it made is gone
//! when they are.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use xlreg::{
    Credentials, Error, Identity, Membership, Name, NewCluster, Registry, Roster, Version,
};
use xlreg_core::limits::Limits;
use xlreg_proto::keys::random;
use xlreg_server::{Config, Home, Report, Server};
use xlreg_store::LocalEngine;

use crate::connect::duration;
use crate::exit::{Code, Ending};
use crate::{member_env, output};

/// Between asking programs to stop and stopping them.
const GRACE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  xlreg run -n 5 -- ./my-server
  xlreg run -n 3 -- sh -c 'echo I am $XLREG_NAME, rank $XLREG_RANK of $XLREG_SIZE'

A program finds its place in XLREG_NAME, _ID, _RANK, _SIZE, _CLUSTER, _CLUSTER_ID, _ENDPOINT,
_HOST, _PORT and _DIR, and everybody's in the JSON file that XLREG_ROSTER names. The first program
that fails ends the others; what a program leaves running is killed when it ends.")]
pub(crate) struct Args {
    /// How many members: 2 to 64
    #[arg(short = 'n', long = "members", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    members: u32,
    /// How long the members may take to meet, once their keys are made
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    /// The program, and its arguments; each finds its place and the roster in XLREG_* variables
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// A registry in this process, with nothing to outlive it.
struct ThrowAway {
    credentials: Credentials,
    stop: CancellationToken,
    server: JoinHandle<Report>,
}

/// A member before its program starts.
struct Seat {
    identity: Identity,
    /// Holds the member's port until its program is about to start.
    port: TcpListener,
    dir: PathBuf,
}

/// A member's program and what it needs.
struct Ready {
    seat: Seat,
    roster: Roster,
    roster_file: PathBuf,
    rank: usize,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    let (program, _) = args.command.split_first().context("no program")?;
    refuse_missing(program)?;
    let scratch = tempfile::Builder::new().prefix("xlreg-run-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(args, scratch.path()));
    // Keys may still be in the making; only when the runtime has ended will nobody write any more.
    drop(runtime);
    scratch.close().context("removing the cluster's directory")?;
    ended
}

/// Finds out before keys are made, which takes seconds for many members, that there is nothing to
/// start.
fn refuse_missing(program: &str) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = if program.contains('/') {
        Path::new(program).exists()
    } else {
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    };
    if found {
        return Ok(());
    }
    let message =
        format!("cannot start {program}: not found; give its path, or a name on your PATH");
    Err(Ending::new(Code::Failed, message).into())
}

async fn run(args: &Args, scratch: &Path) -> anyhow::Result<Code> {
    let stop = CancellationToken::new();
    // A terminal that is closed hangs up, and must not leave the programs behind either.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signals, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            if signals.recv().await.is_some() {
                stop.cancel();
            }
        });
    }
    let ready = tokio::select! {
        formed = form(args, scratch) => formed?,
        () = stop.cancelled() => return Err(interrupted().into()),
    };
    supervise(&args.command, ready, &stop).await
}

fn interrupted() -> Ending {
    Ending::new(Code::Interrupted, "interrupted")
}

/// Everything up to the barrier: when this returns, every member holds the whole roster.
async fn form(args: &Args, scratch: &Path) -> anyhow::Result<Vec<Ready>> {
    let (throw_away, seats) =
        tokio::try_join!(ThrowAway::start(scratch), seats(args.members, scratch))?;
    let registry = Registry::new(throw_away.credentials.clone());
    let by = Instant::now() + args.timeout;
    let members = timeout_at(by, join_all(&registry, seats)).await.map_err(|_| {
        let message = format!("the members have not joined within {:?}", args.timeout);
        Ending::new(Code::Incomplete, message)
    })??;
    let mut waiting = JoinSet::new();
    for (seat, membership) in members {
        let rest = by.saturating_duration_since(Instant::now());
        waiting.spawn(wait(seat, membership, registry.clone(), rest));
    }
    let mut ready = Vec::new();
    while let Some(waited) = waiting.join_next().await {
        ready.push(waited.context("waiting for the roster")??);
    }
    ready.sort_by_key(|member: &Ready| member.rank);
    throw_away.finish().await;
    Ok(ready)
}

/// Makes the cluster, and all of them its members: one after another, so that member_0 has rank 0
/// and so on.
async fn join_all(
    registry: &Registry,
    seats: Vec<Seat>,
) -> anyhow::Result<Vec<(Seat, Membership)>> {
    let cluster = unique_name()?;
    let size = u32::try_from(seats.len()).context("at most 64 members")?;
    let new = NewCluster { name: cluster.clone(), size, endpoint_count: 1, attrs: 1 };
    let first = seats.first().context("at least two members")?;
    registry.create(&first.identity, &new).await?;
    let key = xlreg::ClusterKey::Name(cluster);
    let mut members = Vec::new();
    for seat in seats {
        let endpoint = seat.port.local_addr()?.to_string().parse().context("a bound address")?;
        let membership = registry.join(&seat.identity, &key, vec![endpoint]).await?;
        members.push((seat, membership));
    }
    Ok(members)
}

/// One member's wait for the others.
async fn wait(
    seat: Seat,
    mut membership: Membership,
    registry: Registry,
    at_most: Duration,
) -> anyhow::Result<Ready> {
    let roster = match membership.wait(at_most).await {
        // Not the library's error, whose hint is about places that are kept: here, none is.
        Err(Error::Incomplete(incomplete)) => {
            let message = format!("{incomplete}; allow more with --timeout");
            return Err(Ending::new(Code::Incomplete, message).into());
        }
        waited => waited?,
    };
    membership.close().await;
    let rank = roster
        .rank_of_key(seat.identity.sig_key(), seat.identity.name())
        .context("the complete roster does not show one of its members; this is a bug")?;
    let roster_file = seat.identity.keep_roster(&seat.dir, &roster, registry.credentials()).await?;
    Ok(Ready { seat, roster, roster_file, rank })
}

/// A name that no other cluster has: `run_` and 48 random bits.
fn unique_name() -> anyhow::Result<Name> {
    let number = random::<6>().iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    format!("run_{number:012x}").parse().context("a generated name")
}

/// Identities and ports for all members; keys are made on all cores.
async fn seats(members: u32, scratch: &Path) -> anyhow::Result<Vec<Seat>> {
    // No more at once than there are cores, so that an interrupted run has few to wait for.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let turns = Arc::new(Semaphore::new(cores));
    let mut making = Vec::new();
    for rank in 0..members {
        let name: Name = format!("member_{rank}").parse().context("a generated name")?;
        let dir = scratch.join(name.as_str());
        let (turns, path) = (Arc::clone(&turns), dir.clone());
        let identity = tokio::spawn(async move {
            let _turn = turns.acquire_owned().await;
            Identity::create(path, name).await
        });
        let port = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        making.push((identity, port, dir));
    }
    let mut seats = Vec::new();
    for (identity, port, dir) in making {
        seats.push(Seat { identity: identity.await??, port, dir });
    }
    Ok(seats)
}

impl ThrowAway {
    async fn start(scratch: &Path) -> anyhow::Result<Self> {
        let dir = scratch.to_owned();
        let name: Name = "xlReg".parse().context("the registry's name")?;
        let made = tokio::task::spawn_blocking(move || {
            Home::ephemeral(&dir, xlreg_node::Identity::generate(name)?)
        });
        let home = made.await??;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let credentials = home.credentials(listener.local_addr()?, None, Version::CURRENT)?;
        let engine = Arc::new(LocalEngine::in_memory(Limits::default()));
        let (key, identity) = (home.comms_key(), home.introduce(&credentials));
        let server = Server::new(listener, engine, key, identity, Config::default().connections)?;
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(stop.clone()));
        Ok(Self { credentials, stop, server })
    }

    /// From here on, nobody needs the registry.
    async fn finish(self) {
        self.stop.cancel();
        if let Err(error) = self.server.await {
            output::note(&format!("xlreg: the registry ended badly: {error}"));
        }
    }
}

/// A running program, with the process group it leads.
struct Program {
    name: Name,
    group: Pid,
    child: Child,
}

/// Starts the programs, and waits for their end. The first that fails ends the others.
async fn supervise(
    command: &[String],
    ready: Vec<Ready>,
    stop: &CancellationToken,
) -> anyhow::Result<Code> {
    let mut groups = Groups::default();
    let mut ends = JoinSet::new();
    for member in ready {
        let Program { name, group, mut child } = start(command, member)?;
        groups.0.push(group);
        ends.spawn(async move { (name, group, child.wait().await) });
    }
    let mut failure = None;
    while failure.is_none() {
        let ended = tokio::select! {
            ended = ends.join_next() => ended,
            () = stop.cancelled() => {
                failure = Some(interrupted());
                break;
            }
        };
        let Some(ended) = ended else { break };
        let (name, group, status) = ended.context("waiting for a program")?;
        groups.end(group);
        let status = status.with_context(|| format!("waiting for {name}"))?;
        if !status.success() {
            failure = Some(Ending::new(Code::Failed, format!("{name} failed: {status}")));
        }
    }
    let Some(failure) = failure else {
        return Ok(Code::Done);
    };
    groups.signal(Signal::SIGTERM);
    let all_over = async { while ends.join_next().await.is_some() {} };
    if timeout(GRACE, all_over).await.is_err() {
        output::note(&format!("xlreg: some programs did not stop within {GRACE:?}; killing them"));
    }
    Err(failure.into())
}

/// Process groups that may still have processes; killed when dropped.
#[derive(Default)]
struct Groups(Vec<Pid>);

impl Groups {
    /// Kills what a program that has ended leaves behind: at once, as long as the number of its
    /// group is surely still its own.
    fn end(&mut self, group: Pid) {
        // ESRCH: it left nothing behind.
        let _ended = killpg(group, Signal::SIGKILL);
        self.0.retain(|other| *other != group);
    }

    fn signal(&self, signal: Signal) {
        for group in &self.0 {
            // ESRCH: all its processes have ended already.
            let _ended = killpg(*group, signal);
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Starts one member's program in a process group of its own, on the port that was held for it.
fn start(command: &[String], member: Ready) -> anyhow::Result<Program> {
    let Ready { seat, roster, roster_file, rank } = member;
    let (program, arguments) = command.split_first().context("no program")?;
    let me = roster.members.get(rank).context("a rank beyond the roster")?;
    let name = me.name.clone();
    drop(seat.port);
    let mut command = Command::new(program);
    member_env::set(command.as_std_mut(), &roster, rank, me, &seat.dir, &roster_file);
    // Our caller's registry is not this cluster's, whose own is gone by now.
    for variable in ["XLREG_REGISTRY", "XLREG_DIALECT", "XLREG_IDENTITY"] {
        command.env_remove(variable);
    }
    let child = command
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            let message = format!(
                "cannot start {program} for {name}: {error}; give its path, or a name on your PATH"
            );
            Ending::new(Code::Failed, message)
        })?;
    let pid = child.id().context("a program that has just started has a process ID")?;
    let group = Pid::from_raw(pid.cast_signed());
    Ok(Program { name, group, child })
}
