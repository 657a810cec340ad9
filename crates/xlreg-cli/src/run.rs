//! `xlreg run`: a cluster of N copies of a program, here, now.
//!
//! | module | what it holds |
//! |---|---|
//! | [`guard`] | the process above, which makes sure that nothing survives |
//! | [`worker`] | the process below: forms the cluster, starts the programs, watches over them |
//! | [`form`] | everything up to the barrier: keys, ports, registry, joins |
//! | [`guest`] | a cluster at somebody else's registry |
//! | [`getting_up`] | from programs that have started to programs that are up |
//! | [`events`] | what happens to the programs, told |
//! | [`tunnels`] | a tunnel beside each program |
//! | [`view`] | what programs beside tunnels see of the cluster |
//! | [`plan`] | the flags, checked and made ready for use |
//! | [`dir`] | where runs live on this machine |
//! | [`console`] | what is printed |
//! | [`control`] | how a run is asked and told from outside |
//! | [`descendants`] | all that a run has started, at any remove |

mod console;
pub(crate) mod control;
mod descendants;
pub(crate) mod dir;
mod events;
mod form;
mod getting_up;
mod guard;
mod guest;
mod plan;
mod tunnels;
mod view;
mod worker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use xlreg::Name;
use xlreg_launch::supervise::OnExit;

use self::plan::Plan;
use crate::connect::duration;
use crate::exit::{Code, Ending};
use crate::{output, pool};

#[derive(clap::Args, Clone)]
#[command(after_help = "Examples:
  xlreg run -n 5 -- ./my-server --listen {endpoint} --peers '{peers , {endpoint}}'
  xlreg run -n 3 -- sh -c 'echo I am $XLREG_NAME, rank $XLREG_RANK of $XLREG_SIZE'
  xlreg run -n 3 --tunnel -- ./my-plain-server --listen {endpoint} --peers '{peers , {endpoint}}'
  xlreg run -n 3 --ports passed --ready 'http://{endpoint}/' --detach -- ./my-socket-activated-server

A program finds its place in XLREG_NAME, _ID, _RANK, _SIZE, _CLUSTER, _CLUSTER_ID, _ENDPOINT, \
_HOST, _PORT, _DIR and _RUN, and everybody's in the JSON file that XLREG_ROSTER names; the same fills \
in {rank}, {name}, {id}, {size}, {cluster}, {dir}, {roster}, {endpoint}, {host}, {port}, with --tls \
{cert}, {key}, {roster_ca} (XLREG_CERT, _KEY, _ROSTER_CA), and {members SEPARATOR PATTERN} or {peers \
SEPARATOR PATTERN} lists everybody, or everybody else. With --tunnel all of these say where a program \
listens and finds its peers on loopback. What a program leaves running is killed when it ends.")]
pub(crate) struct Args {
    /// How many members: 2 to 64
    #[arg(short = 'n', long = "members", value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    members: u32,
    /// The cluster's name [default: a unique one]
    #[arg(long, value_name = "NAME")]
    cluster: Option<Name>,
    /// Endpoints of each member: 2 if the cluster has clients, who use the second
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=2))]
    endpoints: u32,
    /// Form the cluster at this registry, not at a throw-away one of its own; it is deleted there
    /// when the run ends, or with --keep its members leave
    #[arg(long, value_name = "CRED")]
    registry: Option<PathBuf>,
    /// How long the members may take to meet once their keys are made, and the programs to get
    /// ready
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    /// Keep identities, ports, registry and members' directories in DIR; with the same DIR, it is
    /// the same cluster again
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Go on in the background once all programs run (and are ready, with --ready); see `xlreg ps`
    #[arg(long, short)]
    detach: bool,
    /// What becomes of the members' ports, which are taken before anyone learns them
    #[arg(long, value_enum, default_value = "held")]
    ports: PortMode,
    /// The members' address; `own` gives each a loopback address of its own (127.x.y.z)
    #[arg(long, value_name = "IP|own", default_value = "127.0.0.1", value_parser = address)]
    address: Address,
    /// Fixed ports, one for each endpoint, instead of free ones; needs --address own
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    fixed_ports: Vec<u16>,
    /// Start the programs at once, and let them join by themselves, with the library or
    /// `xlreg join`
    #[arg(long, conflicts_with_all = ["ports", "address", "fixed_ports"])]
    self_join: bool,
    /// Give each program what it needs for TLS that trusts the cluster's members and nobody else:
    /// the files {cert}, {key} and {roster_ca}
    #[arg(long)]
    tls: bool,
    /// Have what members send each other carried by tunnels, encrypted and with both keys proven, while
    /// the programs speak plain TCP on loopback: each is told where to listen and, in its peers' place,
    /// doors of its own tunnel. It is the first endpoint that is carried
    #[arg(long)]
    tunnel: bool,
    /// Set an environment variable for the programs; placeholders are filled in
    #[arg(long = "env", value_name = "NAME=TEMPLATE")]
    variables: Vec<String>,
    /// Write the file IN, its placeholders filled in, to OUT, for each member; a relative OUT is
    /// below the member's directory
    #[arg(long = "template", value_name = "IN=OUT")]
    files: Vec<String>,
    /// What to do when a program fails: stop all others, ignore it, or restart it [at most N times]
    #[arg(long, value_name = "stop|ignore|restart[:N]", default_value = "stop", value_parser = on_exit)]
    on_exit: OnExit,
    /// Between asking programs to stop and killing them
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    grace: Duration,
    /// When a program is ready: tcp, tcp:HOST:PORT, http://HOST:PORT/PATH (or https: with --tls),
    /// line:REGEX or cmd:COMMAND; placeholders are filled in
    #[arg(long, value_name = "CHECK")]
    ready: Option<String>,
    /// Write each program's output to a file of its own in DIR, too
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Print the programs' lines as they are, without their members' names
    #[arg(long)]
    no_prefix: bool,
    #[command(flatten)]
    pool: pool::Place,
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true)]
    run_dir: Option<PathBuf>,
    #[arg(long, hide = true)]
    run_cluster: Option<Name>,
    /// The program, and its arguments, with placeholders; each finds its place and the roster in
    /// XLREG_* variables
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What becomes of the ports that are taken for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PortMode {
    /// Held until the program binds them, and again when it is restarted; it must set SO_REUSEADDR
    Held,
    /// Passed as listening sockets, by the systemd protocol (LISTEN_FDS)
    Passed,
    /// Let go just before the program starts, for programs that don't set SO_REUSEADDR
    Free,
}

/// Where members are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    /// All at one address.
    Shared(IpAddr),
    /// Each at a loopback address of its own.
    Own,
}

/// Which of the run's processes this is; none for the one that the user has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Detached,
    Worker,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Worker => "worker",
        }
    }
}

pub(crate) fn main(args: &Args) -> anyhow::Result<Code> {
    let plan = Plan::new(args)?;
    match args.role {
        Some(Role::Worker) => {
            // A pool that can't be used costs time, and nothing else.
            let complain =
                |error| output::note(&format!("xlreg: {error:#}; making new keys instead"));
            let pool = args.pool.open().map_err(complain).ok();
            worker::main(&plan, pool)
        }
        None if args.detach => guard::detach(),
        None | Some(Role::Detached) => guard::guard(args, &plan.cluster),
    }
}

fn address(text: &str) -> Result<Address, String> {
    if text == "own" {
        return Ok(Address::Own);
    }
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            Err("every address is no address to be reached at; name one, such as 127.0.0.1".into())
        }
        Ok(address) => Ok(Address::Shared(address)),
        Err(_) => Err("neither `own` nor an IP address".to_owned()),
    }
}

fn on_exit(text: &str) -> Result<OnExit, String> {
    match text.split_once(':') {
        None if text == "stop" => Ok(OnExit::Stop),
        None if text == "ignore" => Ok(OnExit::Ignore),
        None if text == "restart" => Ok(OnExit::Restart { times: None }),
        Some(("restart", times)) => match times.parse() {
            Ok(times) => Ok(OnExit::Restart { times: Some(times) }),
            Err(_) => Err("how often is a number, as in restart:3".to_owned()),
        },
        _ => Err("one of stop, ignore, restart, restart:N".to_owned()),
    }
}

/// An ending for flags that don't go together.
fn misuse(message: impl Into<String>) -> anyhow::Error {
    Ending::new(Code::Usage, message).into()
}

fn interrupted() -> Ending {
    Ending::new(Code::Interrupted, "interrupted")
}
