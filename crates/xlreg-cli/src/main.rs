//! The command `xlreg`.
//!
//! One file a subcommand; each holds its flags, what it does, and what it prints. Data goes to
//! stdout, everything else to stderr; [`exit`] says with which code each ending leaves.
//!
//! | module | subcommand |
//! |---|---|
//! | [`serve`] | run a registry |
//! | [`run`] | a cluster of N copies of a program, here, now |
//! | [`runs`] | ps, logs, down, pause, resume, kill, restart |
//! | [`cluster`], [`create`], [`watch`] | create, show, wait, list, watch, expel, delete |
//! | [`export`] | a member's keys and roster for other programs, below `cluster` |
//! | [`verify`] | cluster verify: whether a signed roster holds |
//! | [`verify_live`] | cluster verify: who reaches whom |
//! | [`join`] | become a member, and then a program |
//! | [`leave`] | stop being one |
//! | [`tunnel`] | private links for programs that know nothing of them |
//! | [`token`] | secrets that let others in |
//! | [`id`], [`cred`] | identities and credentials |
//! | [`pool`] | keys made ahead of need, below `id` |
//! | [`store`] | check, back up and restore what a registry keeps |
//! | [`extras`] | completions and man pages |
//!
//! [`connect`] and [`target`] have the flags that say which registry and which cluster, as whom;
//! [`kept`] is what is kept of members; [`invite`] has the line that other machines join with. [`signed`] fetches
//! signed rosters, [`output`] prints, [`screen`] and
//! [`progress`] draw on a terminal, and [`usage`] answers misuse.

#![forbid(unsafe_code)]

mod cluster;
mod connect;
mod create;
mod cred;
mod exit;
mod export;
mod extras;
mod id;
mod invite;
mod join;
mod kept;
mod leave;
mod logs;
mod output;
mod patience;
mod pool;
mod progress;
mod run;
mod runs;
mod screen;
mod serve;
mod signed;
mod store;
mod target;
mod token;
mod tunnel;
mod usage;
mod verify;
mod verify_live;
mod watch;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::exit::Code;
use crate::run::control::Wanted;

/// Bring small clusters into being in seconds.
///
/// Machines meet at a registry, prove who they are with their own RSA keys, agree on a roster, and
/// leave knowing every other member's ID, rank, addresses and public keys.
#[derive(Parser)]
#[command(name = "xlreg", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a registry: durable by default, with --ephemeral a throw-away one
    Serve(serve::Args),
    /// Start N copies of a program as one cluster, here, now
    Run(run::Args),
    /// Show the runs on this machine, or the members of one
    Ps(runs::PsArgs),
    /// Print what a detached run's programs wrote
    Logs(runs::LogsArgs),
    /// Stop a run, and clean up after it
    Down(runs::DownArgs),
    /// Stop a member's program where it is (SIGSTOP)
    Pause(runs::MemberArgs),
    /// Let a paused member's program go on (SIGCONT)
    Resume(runs::MemberArgs),
    /// Kill a member's program (SIGKILL), as a crash would
    Kill(runs::MemberArgs),
    /// Start a member's program again: same identity, rank and ports
    Restart(runs::MemberArgs),
    /// Create, show, wait for, list, watch and delete clusters, expel members, verify rosters
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Become a member, wait for the roster, optionally become a program
    Join(join::Args),
    /// Stop being a member; the rank is kept for the same keys
    Leave(leave::Args),
    /// Carry a program's plain TCP to its peers over private links
    Tunnel(tunnel::Args),
    /// Issue, list and revoke join tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Make, show and rotate identities, and keep keys ready
    #[command(subcommand)]
    Id(id::Command),
    /// Show and check a registry's credentials, and export its certificate
    #[command(subcommand)]
    Cred(cred::Command),
    /// Check, back up and restore what a registry keeps in its directory
    #[command(subcommand)]
    Store(store::Command),
    /// Print a completion script for a shell
    Completions(extras::CompletionsArgs),
    /// Print the manual page, or write those of all subcommands
    Man(extras::ManArgs),
}

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return usage::report(error).into(),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Ps(args) => runs::ps(&args),
        Command::Logs(args) => runs::logs(&args),
        Command::Down(args) => runs::down(&args),
        Command::Pause(args) => runs::member(&args, Wanted::Pause),
        Command::Resume(args) => runs::member(&args, Wanted::Resume),
        Command::Kill(args) => runs::member(&args, Wanted::Kill),
        Command::Restart(args) => runs::member(&args, Wanted::Restart),
        Command::Cluster(command) => cluster::main(&command),
        Command::Join(args) => join::main(&args),
        Command::Leave(args) => leave::main(&args),
        Command::Tunnel(args) => tunnel::main(&args),
        Command::Token(command) => token::main(&command),
        Command::Id(command) => id::main(&command),
        Command::Cred(command) => cred::main(&command),
        Command::Store(command) => store::main(&command),
        Command::Completions(args) => extras::completions(&args),
        Command::Man(args) => extras::man(&args),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => exit::report(&error).into(),
    }
}

/// Reads the command line. A variable that is set to nothing counts as one that is not set.
fn parse() -> Result<Cli, clap::Error> {
    let command = || without_empty_variables(Cli::command());
    let matches = command().try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command()))
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Runs an async command to its end, or until Ctrl-C ends it.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err(exit::Ending::new(Code::Interrupted, "interrupted").into()),
        }
    })
}
