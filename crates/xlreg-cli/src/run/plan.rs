//! What a run is to be: the flags, checked, with all that can be wrong found before anything starts.

use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use xlreg::{Lifetime, Name, NewCluster, Wire};
use xlreg_core::cluster::CLUSTER_ATTR_EPHEMERAL;
use xlreg_launch::program;
use xlreg_launch::ready::Readiness;
use xlreg_launch::supervise::OnExit;
use xlreg_launch::template::{Offer, Template};
use xlreg_node::files::{self, Mode};
use xlreg_proto::keys::random;

use super::view::KeptInside;
use super::{Address, Args, PortMode, Role, guest, misuse};
use crate::exit::{Code, Ending};

/// The longest file that is taken as a template.
const TEMPLATE_BYTES_MAX: usize = 1024 * 1024;

/// The longest description of a kept cluster: 64 members with two addresses each.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What a kept cluster is, beside what its members are.
const KEPT_FILE: &str = "cluster.json";

/// Held locked by the run of a kept cluster.
const LOCK_FILE: &str = "cluster.lock";

/// How long a run that was killed may take to let go of the cluster that it kept.
const JUST_KILLED: Duration = Duration::from_secs(1);

/// Between looks at whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// A run to be.
pub(crate) struct Plan {
    pub(crate) cluster: Name,
    pub(crate) size: u32,
    pub(crate) endpoints: u32,
    pub(crate) registry: Option<PathBuf>,
    pub(crate) timeout: Duration,
    pub(crate) keep: Option<Keep>,
    pub(crate) detach: bool,
    pub(crate) ports: PortMode,
    pub(crate) address: Address,
    pub(crate) fixed_ports: Vec<u16>,
    pub(crate) self_join: bool,
    pub(crate) tls: bool,
    pub(crate) tunnel: bool,
    pub(crate) program: String,
    pub(crate) arguments: Vec<Template>,
    pub(crate) variables: Vec<(String, Template)>,
    pub(crate) files: Vec<FileTemplate>,
    pub(crate) on_exit: OnExit,
    pub(crate) grace: Duration,
    pub(crate) ready: Option<Readiness>,
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) prefix: bool,
    /// The run's directory, which the guard has made; for the worker.
    pub(crate) run_dir: Option<PathBuf>,
}

/// A file to write for each member.
pub(crate) struct FileTemplate {
    pub(crate) content: Template,
    pub(crate) path: Template,
}

/// Where a cluster is kept, and what it was the last time.
pub(crate) struct Keep {
    pub(crate) dir: PathBuf,
    pub(crate) before: Option<Kept>,
    /// Held by the worker as long as it lives.
    _lock: Option<File>,
}

/// A kept cluster, as its directory tells of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) cluster: String,
    pub(crate) size: u32,
    pub(crate) endpoints: u32,
    /// Whether it was formed at a registry of its own, which is kept too.
    pub(crate) own_registry: bool,
    /// The second and third byte of the members' own loopback addresses.
    pub(crate) own_addresses: Option<[u8; 2]>,
    /// Where each member is reached, by rank.
    pub(crate) addresses: Vec<Vec<SocketAddr>>,
    /// Where each member's program and its tunnel meet, by rank; none without tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tunnels: Vec<KeptInside>,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let args = args.clone();
        refuse_contradictions(&args)?;
        let keep = args.keep.as_deref().map(|dir| Keep::open(dir, &args)).transpose()?;
        let kept_name = keep.as_ref().and_then(|keep| keep.before.as_ref());
        let kept_name = kept_name.map(|kept| kept.cluster.parse()).transpose();
        let kept_name = kept_name.context("the name of the kept cluster")?;
        let cluster = match args.run_cluster.or(args.cluster).or(kept_name) {
            Some(name) => name,
            None => unique_name()?,
        };
        let offer =
            Offer { endpoints: args.endpoints as usize, roster: !args.self_join, tls: args.tls };
        let template = |text: &str, of: &str| {
            Template::parse(text, &offer).map_err(|error| misuse(format!("in {of}: {error}")))
        };
        let (program, rest) = args.command.split_first().context("no program")?;
        let own_path = args.variables.iter().any(|variable| variable.starts_with("PATH="));
        if args.role.is_none() && !own_path {
            refuse_missing(program)?;
        }
        let arguments = rest.iter().map(|text| template(text, &format!("the argument {text:?}")));
        let variables = args.variables.iter().map(|text| {
            let (name, value) = split(text, "--env", "NAME=TEMPLATE")?;
            Ok((name.to_owned(), template(value, &format!("--env {name}"))?))
        });
        let files = args.files.iter().map(|text| {
            let (from, to) = split(text, "--template", "IN=OUT")?;
            let content = read_template(Path::new(from))?;
            let content = template(&content, &format!("the file {from}"))?;
            Ok(FileTemplate { content, path: template(to, "--template's OUT")? })
        });
        let ready = args.ready.as_deref().map(|text| {
            Readiness::parse(text, &offer).map_err(|error| misuse(format!("--ready: {error}")))
        });
        Ok(Self {
            cluster,
            size: args.members,
            endpoints: args.endpoints,
            registry: args.registry,
            timeout: args.timeout,
            keep,
            detach: args.detach,
            ports: args.ports,
            address: args.address,
            fixed_ports: args.fixed_ports,
            self_join: args.self_join,
            tls: args.tls,
            tunnel: args.tunnel,
            program: program.clone(),
            arguments: arguments.collect::<anyhow::Result<_>>()?,
            variables: variables.collect::<anyhow::Result<_>>()?,
            files: files.collect::<anyhow::Result<_>>()?,
            on_exit: args.on_exit,
            grace: args.grace,
            ready: ready.transpose()?,
            log_dir: args.log_dir,
            prefix: !args.no_prefix,
            run_dir: args.run_dir,
        })
    }

    /// The cluster to define, at a registry that is spoken to over `wire`. A registry that stays is
    /// to forget it, even if nobody can tell it to.
    pub(crate) fn new_cluster(&self, wire: Wire) -> NewCluster {
        let forgets = self.registry.is_some() && self.keep.is_none() && wire == Wire::V2;
        let lifetime = Lifetime { idle: forgets.then_some(guest::IDLE), ..Lifetime::default() };
        let new = NewCluster::open(self.cluster.clone(), self.size, self.endpoints);
        NewCluster { attrs: CLUSTER_ATTR_EPHEMERAL, lifetime, ..new }
    }

    /// Whether programs that have started are not up by that alone.
    pub(crate) fn has_to_get_up(&self) -> bool {
        self.self_join || self.ready.is_some()
    }

    /// Where the members' directories and the registry's are: the kept cluster's, or the run's.
    pub(crate) fn home(&self) -> Option<&Path> {
        self.keep.as_ref().map(|keep| keep.dir.as_path()).or(self.run_dir.as_deref())
    }

    /// The members' names, by rank.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<Name>> {
        let names = (0..self.size).map(|rank| format!("member_{rank}").parse());
        names.collect::<Result<_, _>>().context("a generated name")
    }
}

/// What clap can't see.
fn refuse_contradictions(args: &Args) -> anyhow::Result<()> {
    if !args.fixed_ports.is_empty() {
        if args.address != Address::Own {
            return Err(misuse(
                "with a fixed --port, only one member can listen at one address: add --address own",
            ));
        }
        if args.fixed_ports.len() != args.endpoints as usize {
            let (given, endpoints) = (args.fixed_ports.len(), args.endpoints);
            return Err(misuse(format!(
                "--port is given {given} times, and each member has {endpoints} endpoint(s) \
                 (--endpoints)"
            )));
        }
    }
    let tcp = args.ready.as_deref().is_some_and(|check| check == "tcp");
    if tcp && args.ports == PortMode::Passed {
        return Err(misuse(
            "--ready tcp says nothing with --ports passed: those sockets take connections before \
             the program runs; use http:, line: or cmd:",
        ));
    }
    if args.self_join && args.tls {
        return Err(misuse(
            "--tls trusts the roster, which with --self-join is known only once the programs have \
             joined; let each make its files then: xlreg cluster export $XLREG_CLUSTER --format pem \
             --offline $XLREG_DIR/tls",
        ));
    }
    refuse_with_tunnel(args)?;
    if args.self_join && tcp {
        return Err(misuse(
            "--ready tcp needs to know the endpoint, and with --self-join only the program does; \
             use line: or cmd:",
        ));
    }
    Ok(())
}

/// What can't be carried, or need not.
fn refuse_with_tunnel(args: &Args) -> anyhow::Result<()> {
    if !args.tunnel {
        return Ok(());
    }
    if args.self_join {
        return Err(misuse(
            "--tunnel takes the ports before the programs start, and with --self-join each program \
             brings its own; let it start its tunnel once it has joined: xlreg tunnel $XLREG_CLUSTER \
             --program PORT",
        ));
    }
    if !args.fixed_ports.is_empty() {
        return Err(misuse(
            "--tunnel carries one port of each member, which peers find at another; programs that \
             expect each other at a fixed --port, or at others beside it, would find themselves \
             there. Leave out --port, and tell them their peers by {peers SEPARATOR {endpoint}}",
        ));
    }
    if args.tls && args.endpoints == 1 {
        return Err(misuse(
            "--tls is for programs that speak TLS with each other, --tunnel for those that can't: \
             take one of them; or with --endpoints 2 both, if it is the cluster's clients that they \
             speak TLS with",
        ));
    }
    Ok(())
}

/// Finds out before keys are made, which takes seconds for many members, that there is nothing to
/// start.
fn refuse_missing(program: &str) -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if program::find(OsStr::new(program), &path).is_some() {
        return Ok(());
    }
    let message =
        format!("cannot start {program}: not found; give its path, or a name on your PATH");
    Err(Ending::new(Code::Failed, message).into())
}

fn split<'a>(text: &'a str, flag: &str, form: &str) -> anyhow::Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name, value)),
        Some((name, value)) if !name.is_empty() && flag == "--env" => Ok((name, value)),
        _ => Err(misuse(format!("{flag} {text:?} is not of the form {form}"))),
    }
}

fn read_template(path: &Path) -> anyhow::Result<String> {
    // The guard reads it too, and a pipe gives what it has only once.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(misuse(format!("the template {} is not a file", path.display())));
    }
    let text = files::read_text(path, TEMPLATE_BYTES_MAX).map_err(|error| {
        let message = format!(
            "reading the template {}: {error}; it must be text of at most 1 MiB",
            path.display()
        );
        Ending::new(Code::Failed, message)
    })?;
    Ok(text.to_string())
}

/// A directory with other things in it is no place for private keys, and to forget a cluster is to
/// remove its directory.
fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let Some(other) = entries.map(|entry| entry.file_name()).find(|name| name != LOCK_FILE) else {
        return Ok(());
    };
    let message = format!(
        "{} keeps no cluster and is not empty: it has {}; name a new or an empty directory",
        dir.display(),
        other.display()
    );
    Err(Ending::new(Code::Conflict, message).into())
}

/// Makes the directory of a kept cluster, and locks it against other runs as long as the result
/// lives.
fn lock(dir: &Path) -> anyhow::Result<File> {
    files::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    let began = Instant::now();
    while file.try_lock().is_err() {
        if began.elapsed() > JUST_KILLED {
            let message = format!(
                "the cluster kept in {} runs already: see xlreg ps, and stop it with xlreg down",
                dir.display()
            );
            return Err(Ending::new(Code::Conflict, message).into());
        }
        std::thread::sleep(LOOK);
    }
    Ok(file)
}

/// A name that no other cluster has: `run_` and 48 random bits.
fn unique_name() -> anyhow::Result<Name> {
    let number = random::<6>().iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    format!("run_{number:012x}").parse().context("a generated name")
}

impl Kept {
    /// Whether its members are reached where they are asked to be.
    fn is_at(&self, args: &Args) -> bool {
        let mut all = self.addresses.iter().flatten();
        let is_there = match args.address {
            Address::Own => self.own_addresses.is_some(),
            Address::Shared(ip) => all.all(|address| address.ip() == ip),
        };
        let ports = self.addresses.iter().map(|own| own.iter().map(SocketAddr::port));
        let fixed = || args.fixed_ports.iter().copied();
        is_there && (args.fixed_ports.is_empty() || { ports }.all(|own| own.eq(fixed())))
    }
}

impl Keep {
    /// What is kept in `dir`, which must be the cluster that is asked for.
    fn open(dir: &Path, args: &Args) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        // Before it is read: who had it locked until now may have changed it.
        let lock = (args.role == Some(Role::Worker)).then(|| lock(&dir)).transpose()?;
        let path = dir.join(KEPT_FILE);
        let text = match files::read_text(&path, KEPT_BYTES_MAX) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                refuse_foreign(&dir)?;
                return Ok(Self { dir, before: None, _lock: lock });
            }
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let before: Kept = serde_json::from_str(&text)
            .with_context(|| format!("{} does not tell of a kept cluster", path.display()))?;
        let fits = before.size == args.members
            && before.endpoints == args.endpoints
            && before.own_registry == args.registry.is_none()
            && before.is_at(args)
            && before.tunnels.is_empty() != args.tunnel
            && args
                .run_cluster
                .as_ref()
                .or(args.cluster.as_ref())
                .is_none_or(|name| name.as_str() == before.cluster);
        if !fits {
            let registry = if before.own_registry { "its own registry" } else { "--registry" };
            let own = if before.own_addresses.is_some() { ", --address own" } else { "" };
            let tunnel = if before.tunnels.is_empty() { "" } else { ", --tunnel" };
            let first = before.addresses.first().and_then(|own| own.first());
            let at = first.map(|address| format!(", the first at {address}")).unwrap_or_default();
            let message = format!(
                "{} keeps another cluster: {} with -n {}, --endpoints {}, {registry}{own}{tunnel}{at}; ask \
                 for just that, or keep this one elsewhere",
                dir.display(),
                before.cluster,
                before.size,
                before.endpoints
            );
            return Err(Ending::new(Code::Conflict, message).into());
        }
        Ok(Self { dir, before: Some(before), _lock: lock })
    }

    /// Writes down what the cluster is now.
    pub(crate) fn write(&self, kept: &Kept) -> anyhow::Result<()> {
        let path = self.dir.join(KEPT_FILE);
        let text = format!("{}\n", serde_json::to_string_pretty(kept)?);
        files::replace(&path, text.as_bytes(), Mode::Public)
            .with_context(|| format!("writing {}", path.display()))
    }
}
