//! `xlreg id pool`: keys made ahead of need, for clusters that are thrown away.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use xlreg_node::KeyPool;
use xlreg_node::pool::KEYS_MAX;

use crate::connect::data_dir;
use crate::exit::{Code, Ending};
use crate::output::Output;
use crate::progress::Bar;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show how many keys are ready
    Status(StatusArgs),
    /// Make keys until so many are ready
    Fill(FillArgs),
    /// Remove all keys
    Clear(ClearArgs),
}

/// Which pool.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// The directory with the keys [default: key-pool in your data directory]
    #[arg(long = "key-pool", value_name = "DIR", env = "XLREG_KEY_POOL")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
#[command(after_help = "\
A member takes two keys, and each cluster's own registry two more: with 160, a cluster of 64 \
finds all it needs. A key takes a tenth of a second or so of one core; Ctrl-C keeps those made by then.")]
pub(crate) struct FillArgs {
    /// How many keys shall be ready: 1 to 1024
    #[arg(value_name = "N", default_value = "160", value_parser = clap::value_parser!(u16).range(1..=KEYS_MAX as i64))]
    target: u16,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct ClearArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

impl Place {
    /// Opens the pool there; makes an empty one if there is none.
    pub(crate) fn open(&self) -> anyhow::Result<KeyPool> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => data_dir()?.join("key-pool"),
        };
        let refused = |error| {
            let message = format!(
                "cannot use the key pool: {error}; another directory can be named with --key-pool"
            );
            Ending::new(Code::Failed, message)
        };
        Ok(KeyPool::open(dir).map_err(refused)?)
    }
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Status(args) => status(args)?,
        Command::Fill(args) => fill(args)?,
        Command::Clear(args) => clear(args)?,
    }
    Ok(Code::Done)
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let pool = args.place.open()?;
    let contents = pool.contents()?;
    let dir = pool.dir().display();
    let json = json!({
        "count": contents.keys, "bytes": contents.bytes, "dir": dir.to_string()
    });
    args.output
        .print(&json, || format!("{} in {dir}, {} bytes", keys(contents.keys), contents.bytes))?;
    Ok(())
}

fn fill(args: &FillArgs) -> anyhow::Result<()> {
    let pool = args.place.open()?;
    let (filled, target) = (pool.clone(), usize::from(args.target));
    let (made, interrupted) = until_interrupted(move |stop| {
        let bar = Bar::new("making keys");
        filled.fill(target, || stop.is_cancelled(), |there, target| bar.set(there, target))
    })?;
    let (made, count) = (made?, pool.count()?);
    if interrupted {
        let message =
            format!("interrupted: there are {count} of {target} keys, {made} of them new");
        return Err(Ending::new(Code::Interrupted, message).into());
    }
    let dir = pool.dir().display();
    let json = json!({ "count": count, "made": made, "dir": dir.to_string() });
    args.output.print(&json, || format!("{} in {dir}, {made} of them new", keys(count)))?;
    Ok(())
}

fn clear(args: &ClearArgs) -> anyhow::Result<()> {
    let pool = args.place.open()?;
    let removed = pool.clear()?;
    let dir = pool.dir().display();
    let json = json!({ "removed": removed, "dir": dir.to_string() });
    args.output.print(&json, || format!("removed {} from {dir}", keys(removed)))?;
    Ok(())
}

/// Does blocking work to its end. On Ctrl-C asks it by way of the token to end early; returns what
/// it gave, and whether that happened.
fn until_interrupted<T: Send + 'static>(
    work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
) -> anyhow::Result<(T, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = CancellationToken::new();
        let asked = stop.clone();
        let mut work = tokio::task::spawn_blocking(move || work(&asked));
        let ended = tokio::select! {
            ended = &mut work => ended,
            _ = interrupt.recv() => {
                stop.cancel();
                work.await
            }
        };
        Ok((ended.context("the work ended badly")?, stop.is_cancelled()))
    })
}

fn keys(count: usize) -> String {
    if count == 1 { "1 key".to_owned() } else { format!("{count} keys") }
}
