//! `xlreg serve`: run a registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use xlreg::{Name, Version};
use xlreg_core::limits::Limits;
use xlreg_server::config::File;
use xlreg_server::{Config, Home, Report, Server};
use xlreg_store::{Engine, LocalEngine};

use crate::connect::data_dir;
use crate::exit::{Code, Ending};
use crate::logs::Logs;
use crate::output;

/// The port that deployed clients know.
const DEFAULT_LISTEN: &str = "127.0.0.1:56789";

/// The name that the originals give themselves.
const DEFAULT_NAME: &str = "xlReg";

/// File descriptors that are not connections: the store's, the log's, the runtime's.
const OTHER_DESCRIPTORS: u64 = 64;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Listen here; port 0 takes a free one [default: 127.0.0.1:56789]
    #[arg(long, value_name = "HOST:PORT", env = "XLREG_LISTEN")]
    listen: Option<String>,
    /// Put this address into the credentials [default: where it listens]
    #[arg(long, value_name = "HOST[:PORT]", env = "XLREG_ADVERTISE")]
    advertise: Option<String>,
    /// Keep everything in this directory [default: one of your own]
    #[arg(long, value_name = "DIR", env = "XLREG_DATA")]
    data: Option<PathBuf>,
    /// The registry's name, given when its directory is made [default: xlReg]
    #[arg(long)]
    name: Option<Name>,
    /// Keep nothing: a registry of new keys that is gone when it stops
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    /// Take all of this, and every limit, from a TOML file; flags go first
    #[arg(long, value_name = "FILE", env = "XLREG_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    logs: Logs,
}

/// What flags, environment and file together ask for.
struct Settings {
    listen: String,
    advertise: Option<String>,
    /// None: ephemeral.
    data: Option<PathBuf>,
    name: Option<Name>,
    config: Config,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    args.logs.start()?;
    let settings = settings(args)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(settings))
}

/// Flag, then environment (clap does those two), then file, then default.
fn settings(args: &Args) -> anyhow::Result<Settings> {
    let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let config = Config::from_file(&file)?;
    let name = match (&args.name, &file.name) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(text)) => Some(text.parse().context("the configuration file's name")?),
        (None, None) => None,
    };
    // --data on the command line goes before `ephemeral` in a file.
    let ephemeral = args.ephemeral || (args.data.is_none() && file.ephemeral == Some(true));
    let data = match (ephemeral, args.data.clone().or(file.data)) {
        (true, _) => None,
        (false, Some(dir)) => Some(dir),
        (false, None) => {
            let dir = data_dir()?.join("registry");
            info!(dir = %dir.display(), "no --data given: keeping everything in your data directory");
            Some(dir)
        }
    };
    Ok(Settings {
        listen: args.listen.clone().or(file.listen).unwrap_or_else(|| DEFAULT_LISTEN.to_owned()),
        advertise: args.advertise.clone().or(file.advertise),
        data,
        name,
        config,
    })
}

async fn serve(settings: Settings) -> anyhow::Result<Code> {
    let stop = stop_on_signals()?;
    let Settings { listen, advertise, data, name, config } = settings;
    // An ephemeral registry's directory holds its credentials alone, and goes with it.
    let scratch = match data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("xlreg-").tempdir()?),
    };
    let dir = data.as_deref().or(scratch.as_ref().map(tempfile::TempDir::path)).map(Path::to_owned);
    let dir = dir.expect("either kept or scratch");
    let limits = config.limits;
    let durable = data.is_some();
    let opened = tokio::task::spawn_blocking(move || open(&dir, name, durable, limits));
    let (home, engine) = opened.await??;

    let mut bounds = config.connections;
    bounds.max = bounds.max.min(connections_possible(bounds.max));
    let listener = TcpListener::bind(&listen).await.map_err(|error| {
        Ending::new(Code::Failed, format!("cannot listen on {listen}: {error}"))
    })?;
    let address = listener.local_addr()?;
    let credentials = home.credentials(address, advertise.as_deref(), Version::CURRENT)?;
    let path = home.write_credentials(&credentials)?;
    let identity = home.introduce(&credentials);
    let server = Server::new(listener, engine, home.comms_key(), identity, bounds)?;
    output::line(&format!("xlreg: ready on {address}, credentials in {}", path.display()))?;
    let report = server.run(stop).await;
    drop(scratch);
    finish(&report)
}

/// The registry's identity, and the engine that remembers for it.
fn open(
    dir: &Path,
    name: Option<Name>,
    durable: bool,
    limits: Limits,
) -> anyhow::Result<(Home, Arc<dyn Engine>)> {
    let default_name = || DEFAULT_NAME.parse().expect("the default name is one");
    if !durable {
        let home = Home::ephemeral(dir, name.unwrap_or_else(default_name))?;
        return Ok((home, Arc::new(LocalEngine::in_memory(limits))));
    }
    let home = Home::open(dir, name.as_ref(), default_name)?;
    let engine = LocalEngine::open(dir, home.id(), limits)?;
    Ok((home, Arc::new(engine)))
}

/// SIGTERM and SIGINT ask for a stop in good order; a second one ends the process at once.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        for already_stopping in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if already_stopping {
                std::process::exit(Code::Interrupted as i32);
            }
            info!("stopping: no new connections; sessions may finish");
            asked.cancel();
        }
    });
    Ok(stop)
}

/// How many connections the limit on open files leaves room for, after raising it as far as
/// allowed.
fn connections_possible(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let needed = wanted as u64 + OTHER_DESCRIPTORS;
    let granted =
        if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_ok() {
            needed.min(hard)
        } else {
            soft
        };
    let possible =
        usize::try_from(granted.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(wanted).max(1);
    if possible < wanted {
        warn!(wanted, possible, "the limit on open files allows fewer connections at once");
    }
    possible
}

/// Reports what the server did, and ends with an error if its store failed.
fn finish(report: &Report) -> anyhow::Result<Code> {
    let Report { accepted, turned_away, completed, aborted, failure } = report;
    info!(accepted, turned_away, completed, aborted, "stopped");
    match failure {
        None => Ok(Code::Done),
        Some(failure) => {
            error!("the store failed: {failure}");
            let message = format!("stopped, because the store failed: {failure}");
            Err(Ending::new(Code::Failed, message).into())
        }
    }
}
