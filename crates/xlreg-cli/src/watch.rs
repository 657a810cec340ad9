//! `xlreg cluster watch`: a live table on a terminal, JSON lines in a pipe.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use xlreg::{Cluster, ClusterKey, EventKind, Gone, News};
use xlreg_core::Seat;

use crate::connect::{AsWhom, Connect, cluster_key};
use crate::exit::Code;
use crate::output;

#[derive(Args)]
#[command(
    after_help = "Each line in a pipe is one event: snapshot, joined, returned, updated, rotated, left, expelled, or
gone, with which it ends. A snapshot after others means that changes in between are not known."
)]
pub(crate) struct WatchArgs {
    /// The cluster's name or ID
    #[arg(value_parser = cluster_key, value_name = "CLUSTER")]
    cluster: ClusterKey,
    /// How to print: a table that follows the cluster, or a line of JSON for each event [default:
    /// table on a terminal, json elsewhere]
    #[arg(long = "output", value_name = "FORMAT", env = "XLREG_OUTPUT")]
    format: Option<Format>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[value(alias = "human")]
    Table,
    Json,
}

pub(crate) async fn watch(args: &WatchArgs) -> anyhow::Result<Code> {
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let terminal = if io::stdout().is_terminal() { Format::Table } else { Format::Json };
    let mut screen = match args.format.unwrap_or(terminal) {
        Format::Table => Screen::Table(Table { redraws: io::stdout().is_terminal(), lines: 0 }),
        Format::Json => Screen::Json,
    };
    let doing = || format!("watching cluster {}", args.cluster);
    let mut watch = registry.watch(&identity, &args.cluster).await.with_context(doing)?;
    loop {
        let news = watch.next().await.with_context(doing)?;
        let over = matches!(news, News::Gone(_));
        if !screen.show(&news, watch.cluster())? || over {
            return Ok(Code::Done);
        }
    }
}

enum Screen {
    Table(Table),
    Json,
}

/// A table that takes the place of the one before.
struct Table {
    redraws: bool,
    /// How many lines of it stand on the terminal.
    lines: usize,
}

impl Screen {
    /// False if nobody reads any more.
    fn show(&mut self, news: &News, cluster: &Cluster) -> io::Result<bool> {
        let written = match self {
            Self::Table(table) => table.show(news, cluster),
            Self::Json => writeln!(io::stdout().lock(), "{}", event(news, cluster)),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true),
        }
    }
}

impl Table {
    fn show(&mut self, news: &News, cluster: &Cluster) -> io::Result<()> {
        let text = match news {
            News::Gone(how) => format!("cluster {} is gone: {}", cluster.name, ended(*how)),
            News::Snapshot(_) | News::Change(_) => output::cluster(cluster),
        };
        let mut stdout = io::stdout().lock();
        if self.redraws && self.lines > 0 {
            // Up to where the table began, and clear from there.
            write!(stdout, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        writeln!(stdout, "{text}")?;
        stdout.flush()
    }
}

/// A registry that could not be reached when it ended tells only that it did.
fn ended(how: Option<Gone>) -> &'static str {
    match how {
        Some(Gone::Deleted) => "deleted",
        Some(Gone::Expired) => "expired",
        None => "unknown",
    }
}

/// One event as a line for programs.
fn event(news: &News, cluster: &Cluster) -> Value {
    let about = |event: &str| {
        json!({
            "event": event,
            "cluster": cluster.name.as_str(),
            "cluster_id": cluster.id.to_string(),
            "revision": cluster.revision,
            "complete": cluster.is_complete(),
        })
    };
    match news {
        News::Snapshot(_) => {
            let mut event = about("snapshot");
            event["size"] = json!(cluster.size);
            let members = cluster.seats.iter().enumerate();
            let members: Vec<_> =
                members.filter_map(|(rank, seat)| output::seat_json(rank, seat)).collect();
            event["members"] = json!(members);
            event
        }
        News::Change(change) => {
            let kind = match change.kind {
                EventKind::Joined => "joined",
                EventKind::Returned => "returned",
                EventKind::Updated => "updated",
                EventKind::Rotated => "rotated",
                EventKind::Left => "left",
                EventKind::Expelled => "expelled",
            };
            let mut event = about(kind);
            let member = change.member.clone();
            let seat = if change.left { Seat::Left(member) } else { Seat::Present(member) };
            event["member"] = output::seat_json(change.rank, &seat).unwrap_or_default();
            event
        }
        News::Gone(how) => {
            let mut event = about("gone");
            event["reason"] = json!(ended(*how));
            event
        }
    }
}
