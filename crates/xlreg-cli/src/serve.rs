//! `xlreg serve`: run a registry.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use xlreg::{Endpoint, Name, Version};
use xlreg_core::Fingerprint;
use xlreg_core::limits::Limits;
use xlreg_launch::descriptors;
use xlreg_node::Identity;
use xlreg_server::config::File;
use xlreg_server::{Config, Home, Report, Server};
use xlreg_store::{Engine, LocalEngine};

use crate::connect::{data_dir, path_from_env, shell_word};
use crate::exit::{self, Code, Ending};
use crate::kept;
use crate::logs::Logs;
use crate::output;
use crate::store::restore::UNFINISHED;

/// The port that deployed clients know.
const DEFAULT_LISTEN: &str = "127.0.0.1:56789";

/// The name that the originals give themselves.
const DEFAULT_NAME: &str = "xlReg";

/// Cores that one thread for sockets keeps busy: the rest of a session costs some tenth of its RSA.
const CORES_PER_IO_THREAD: usize = 4;

/// Connections that may wait in the kernel until they are accepted, as far as the system's own limit
/// allows: a burst of some thousand must not cost those in it a second.
const BACKLOG: u32 = 4096;

/// File descriptors that are not connections: the store's, the log's, the runtime's.
const OTHER_DESCRIPTORS: u64 = 64;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  xlreg serve --data /var/lib/xlreg --listen 0.0.0.0:56789 --advertise registry.example.org
  xlreg serve --ephemeral --listen 127.0.0.1:0

It prints one line when it is ready. SIGTERM and SIGINT stop it in good order, a second one at once.

Limits, such as connections.max-per-address and connections.unproven-hellos-per-second, are set \
in the file of --config; docs/operations/running.md lists them with their defaults.")]
pub(crate) struct Args {
    /// Listen here; port 0 takes a free one [default: 127.0.0.1:56789]
    #[arg(long, value_name = "HOST:PORT", value_parser = listen_address, env = "XLREG_LISTEN")]
    listen: Option<String>,
    /// Put this address into the credentials [default: where it listens]
    #[arg(long, value_name = "HOST[:PORT]", value_parser = advertisable, env = "XLREG_ADVERTISE")]
    advertise: Option<String>,
    /// Keep everything in this directory [env: XLREG_DATA] [default: registry/ in your data
    /// directory, such as ~/.local/share/xlreg]
    // Not clap's `env`: a variable must not conflict with the flag --ephemeral.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The registry's name, given when its directory is made [default: xlReg]
    #[arg(long)]
    name: Option<Name>,
    /// Keep nothing: a registry of new keys that is gone when it stops
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    /// Serve the old xlReg wire, too, which has no protection against change on the way [default:
    /// only where it listens on loopback]
    #[arg(long, overrides_with = "no_legacy")]
    legacy: bool,
    /// Don't serve the old wire, not even on loopback
    #[arg(long)]
    no_legacy: bool,
    /// Let the holder of this sig key do to every cluster what its owner may: the sig_key_sha256
    /// that `xlreg id show` tells; may be given several times
    #[arg(long = "admin", value_name = "SHA256")]
    admins: Vec<Fingerprint>,
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
    let hints = !args.logs.are_json();
    match start(args, hints) {
        // Whoever reads the log as JSON finds the reason there, too.
        Err(error) if !hints && exit::code(&error) != Code::Usage => {
            error!("{}", exit::message(&error));
            Ok(exit::code(&error))
        }
        ended => ended,
    }
}

fn start(args: &Args, hints: bool) -> anyhow::Result<Code> {
    let settings = settings(args)?;
    runtime()?.block_on(serve(settings, hints))
}

/// A thread for sockets for every [`CORES_PER_IO_THREAD`] cores. The others' time is for RSA, and
/// on few cores a single thread, woken less often, costs a session less.
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut builder = match cores / CORES_PER_IO_THREAD {
        0 | 1 => Builder::new_current_thread(),
        threads => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build()
}

/// Flag, then environment (clap does those two), then file, then default.
fn settings(args: &Args) -> anyhow::Result<Settings> {
    let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let mut config = Config::from_file(&file)?;
    config.access.admins.extend(&args.admins);
    if args.legacy || args.no_legacy {
        config.access.legacy = Some(args.legacy);
    }
    let (listen, advertise) = addresses(args, &file)?;
    let name = match (&args.name, &file.name) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(text)) => Some(text.parse().context("the configuration file's name")?),
        (None, None) => None,
    };
    let data = args.data.clone().or_else(|| path_from_env("XLREG_DATA"));
    // --data and XLREG_DATA go before `ephemeral` in a file.
    let ephemeral = args.ephemeral || (data.is_none() && file.ephemeral == Some(true));
    if ephemeral && !args.ephemeral && file.data.is_some() {
        let message =
            "the configuration file says both `data` and `ephemeral = true`; leave one out";
        return Err(Ending::new(Code::Failed, message).into());
    }
    let data = match (ephemeral, data.or(file.data)) {
        (true, _) => None,
        (false, Some(dir)) => Some(dir),
        (false, None) => {
            let dir = data_dir()?.join("registry");
            info!(dir = %dir.display(), "no --data given: keeping everything in your data directory");
            Some(dir)
        }
    };
    Ok(Settings { listen, advertise, data, name, config })
}

/// Where to listen and what to tell of it; refused before anything is made if it can't be right.
fn addresses(args: &Args, file: &File) -> anyhow::Result<(String, Option<String>)> {
    let in_file = |key, value: &Option<String>, parse: fn(&str) -> Result<String, String>| {
        let parsed = value.as_deref().map(parse).transpose();
        parsed.map_err(|problem| {
            Ending::new(Code::Failed, format!("the configuration file's {key}: {problem}"))
        })
    };
    let listen = match &args.listen {
        Some(listen) => Some(listen.clone()),
        None => in_file("listen", &file.listen, listen_address)?,
    };
    let advertise = match &args.advertise {
        Some(advertise) => Some(advertise.clone()),
        None => in_file("advertise", &file.advertise, advertisable)?,
    };
    let listen = listen.unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let everywhere =
        listen.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    if everywhere && advertise.is_none() {
        let message = format!(
            "listening on {listen}, every address of this machine, does not say where others \
             reach it; add --advertise HOST"
        );
        return Err(Ending::new(Code::Usage, message).into());
    }
    Ok((listen, advertise))
}

/// `HOST:PORT`, where the port may be 0 and the host be resolved later.
fn listen_address(text: &str) -> Result<String, String> {
    let shape = "listen on HOST:PORT, such as 127.0.0.1:56789, [::1]:7000 or localhost:0; \
                 port 0 takes a free one";
    // Only in that port does it differ from an endpoint.
    let probe = text.strip_suffix(":0").map_or_else(|| text.to_owned(), |host| format!("{host}:1"));
    probe.parse::<Endpoint>().map(|_| text.to_owned()).map_err(|_| shape.to_owned())
}

/// `HOST` or `HOST:PORT`.
fn advertisable(text: &str) -> Result<String, String> {
    let good = text.parse::<Endpoint>().is_ok()
        || text.parse::<Ipv6Addr>().is_ok()
        || format!("{text}:1").parse::<Endpoint>().is_ok();
    let shape = "advertise HOST or HOST:PORT, such as registry.example.org or [2001:db8::1]:7000";
    if good { Ok(text.to_owned()) } else { Err(shape.to_owned()) }
}

async fn serve(settings: Settings, hints: bool) -> anyhow::Result<Code> {
    let stop = stop_on_signals()?;
    let Settings { listen, advertise, data, name, mut config } = settings;
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

    let connections = config.connections;
    config.connections = connections.at_most(connections_possible(connections.max));
    let listener = bind(&listen).await.map_err(|error| {
        let advice = advice_on_listening(&error);
        Ending::new(Code::Failed, format!("cannot listen on {listen}: {error}; {advice}"))
    })?;
    let address = listener.local_addr()?;
    let credentials = home.credentials(address, advertise.as_deref(), Version::CURRENT)?;
    let path = home.write_credentials(&credentials)?;
    let identity = home.introduce(&credentials);
    let server = Server::new(listener, engine, &home.keys(), identity, &config)?;
    tell_of_old_wire(address, server.serves_old_wire());
    let path = std::path::absolute(&path).unwrap_or(path);
    output::line(&format!("xlreg: ready on {address}, credentials in {}", path.display()))?;
    if hints {
        let path = shell_word(&path);
        output::note(&format!("next: xlreg cluster create NAME --size N --registry {path}"));
    }
    let report = server.run(stop).await;
    drop(scratch);
    finish(&report)
}

/// As [`TcpListener::bind`], with a longer backlog: what overflows it is asked for again only a second
/// later.
async fn bind(listen: &str) -> io::Result<TcpListener> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(listen).await? {
        match bind_to(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Says at each start what it means that the old wire is served, or is not.
fn tell_of_old_wire(listen: SocketAddr, served: bool) {
    match OldWire::of(listen, served) {
        OldWire::Exposed => warn!("{}", OldWire::Exposed),
        harmless => info!("{harmless}"),
    }
}

/// Whether the old wire is served, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OldWire {
    Loopback(SocketAddr),
    Exposed,
    Shut,
}

impl OldWire {
    fn of(listen: SocketAddr, served: bool) -> Self {
        match (served, listen.ip().is_loopback()) {
            (true, true) => Self::Loopback(listen),
            (true, false) => Self::Exposed,
            (false, _) => Self::Shut,
        }
    }
}

impl fmt::Display for OldWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(listen) => {
                write!(f, "the old wire is served, too, as nobody else can reach {listen}")
            }
            Self::Exposed => f.write_str(
                "the old wire is served, too (legacy): whoever is on the way can change what it \
                 says, and who gets the registry's key later can read what was said; see \
                 docs/operations/legacy.md",
            ),
            Self::Shut => {
                f.write_str("the old wire is not served; clients of before version 2 need --legacy")
            }
        }
    }
}

fn advice_on_listening(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop what listens there, or take a free port with --listen 127.0.0.1:0"
        }
        io::ErrorKind::AddrNotAvailable => "that is no address of this machine",
        io::ErrorKind::PermissionDenied => "take a port above 1023, or run with more rights",
        _ => "check the host's name and the port",
    }
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
        let identity = Identity::generate(name.unwrap_or_else(default_name))?;
        let home = Home::ephemeral(dir, identity)?;
        return Ok((home, Arc::new(LocalEngine::in_memory(limits))));
    }
    refuse_unfit(dir)?;
    let home = Home::open(dir, name.as_ref(), default_name)?;
    let engine = LocalEngine::open(dir, home.id(), limits)?;
    Ok((home, Arc::new(engine)))
}

/// What is no place for a registry is refused before anything is made there. Keys without memory, or memory
/// without keys, is a loss to be told of. A first start that was cut short is neither: there the keys come
/// first, and the credentials last.
fn refuse_unfit(dir: &Path) -> anyhow::Result<()> {
    let shown = dir.display();
    if dir.join(UNFINISHED).exists() {
        let message = format!(
            "{shown} holds a restored registry in part: the restore was cut short; run it again, \
             with --replace: xlreg store restore BACKUP --data {} --replace",
            shell_word(dir)
        );
        return Err(Ending::new(Code::Failed, message).into());
    }
    let message = match (Home::exists(dir), LocalEngine::exists(dir)) {
        _ if dir.exists() && !dir.is_dir() => {
            format!("{shown} is no directory; name one with --data")
        }
        (_, false) if kept::is_members(dir) => format!(
            "{shown} holds a member's keys, which are not for a registry; name another directory with \
             --data"
        ),
        (false, true) => format!(
            "{shown} holds a registry's memory, but not its keys: .xlattice/node.config is missing; \
             put it back, or start a new registry in another directory"
        ),
        (true, false) if Home::has_served(dir) => format!(
            "{shown} holds a registry's keys, but not its memory: registry.db is missing; put it \
             back, or remove regCred.dat to go on with these keys and an empty memory"
        ),
        _ => return Ok(()),
    };
    Err(Ending::new(Code::Failed, message).into())
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
    let Some(granted) = descriptors::allow(wanted as u64 + OTHER_DESCRIPTORS) else {
        return wanted;
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
    let Report { accepted, turned_away, completed, opened, aborted, failure } = report;
    info!(accepted, turned_away, completed, opened, aborted, "stopped");
    match failure {
        None => Ok(Code::Done),
        Some(failure) => {
            error!("the store failed: {failure}");
            let message = format!("stopped, because the store failed: {failure}");
            Err(Ending::new(Code::Failed, message).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what others can reach is worth a warning.
    #[test]
    fn the_old_wire_is_warned_of_where_others_can_reach_it() {
        let of = |listen: &str, served| OldWire::of(listen.parse().unwrap(), served);
        for exposed in ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1"] {
            assert_eq!(of(exposed, true), OldWire::Exposed);
            assert_eq!(of(exposed, false), OldWire::Shut);
        }
        for own in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            assert!(matches!(of(own, true), OldWire::Loopback(_)));
            assert_eq!(of(own, false), OldWire::Shut);
        }
        assert!(OldWire::Exposed.to_string().contains("docs/operations/legacy.md"));
    }
}
