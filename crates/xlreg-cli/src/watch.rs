//! `xlreg cluster watch`: a live table on a terminal, JSON lines in a pipe.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use xlreg::{Cluster, Event, EventKind, Gone, News, Watch};

use crate::exit::Code;
use crate::output;
use crate::screen::Screen;
use crate::target::{Found, Which};

/// How often to see whether the registry is heard, and whether anybody still reads.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Args)]
#[command(
    after_help = "Each line in a pipe is one event: snapshot, joined, returned, updated, rotated, left, \
expelled, or gone, with which it ends. A snapshot after others means that changes in between are not known.

Examples:
  xlreg cluster watch alpha --registry regCred.dat
  xlreg cluster watch alpha --registry regCred.dat | jq -r 'select(.complete) | .revision'"
)]
pub(crate) struct WatchArgs {
    /// How to print: a table that follows the cluster, or a line of JSON for each event [default:
    /// table on a terminal, json elsewhere]
    #[arg(long = "output", value_name = "FORMAT", env = "XLREG_OUTPUT")]
    format: Option<Format>,
    #[command(flatten)]
    which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[value(alias = "human")]
    Table,
    Json,
}

pub(crate) async fn watch(args: &WatchArgs) -> anyhow::Result<Code> {
    let Found { registry, identity, cluster } = args.which.find().await?;
    let doing = || format!("watching cluster {cluster}");
    let mut watch = registry.watch(&identity, &cluster).await.with_context(doing)?;
    let terminal = if io::stdout().is_terminal() { Format::Table } else { Format::Json };
    let mut view = match args.format.unwrap_or(terminal) {
        Format::Table => View::Table { screen: Screen::new(), latest: String::new() },
        Format::Json => View::Lines { silent: false },
    };
    let mut look = interval(LOOK);
    let mut resized = signal(SignalKind::window_change())?;
    loop {
        let news = tokio::select! {
            news = watch.next() => Some(news.with_context(doing)?),
            _ = look.tick() => None,
            _ = resized.recv() => None,
        };
        let over = matches!(news, Some(News::Gone(_)));
        match view.show(news.as_ref(), &watch) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Code::Done),
            shown => shown?,
        }
        if over || nobody_reads() {
            return Ok(Code::Done);
        }
    }
}

/// Whether the other end of our output is closed. Nothing else tells, as long as nothing happens
/// that could be written.
fn nobody_reads() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let closed = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled.iter().filter_map(PollFd::revents).any(|events| events.intersects(closed))
}

/// How a cluster is watched.
enum View {
    Table {
        screen: Screen,
        /// What happened last.
        latest: String,
    },
    Lines {
        /// Whether it was said that the registry can't be heard.
        silent: bool,
    },
}

impl View {
    /// Shows what is new, if anything is, and whether the registry is still heard.
    fn show(&mut self, news: Option<&News>, watch: &Watch) -> io::Result<()> {
        match self {
            Self::Table { screen, latest } => {
                if let Some(news) = news {
                    *latest = in_words(news, watch.cluster());
                } else if latest.is_empty() {
                    return Ok(());
                }
                let silence = watch.silence().map(|why| format!("trying again: {why}"));
                let text = output::live(&watch.roster());
                let last = silence.unwrap_or_else(|| latest.clone());
                screen.draw(text.lines().map(str::to_owned).chain([last]).collect())
            }
            Self::Lines { silent } => {
                if let Some(why) = watch.silence().filter(|_| !*silent) {
                    output::note(&format!("xlreg: trying again: {why}"));
                }
                *silent = watch.silence().is_some();
                match news {
                    Some(news) => writeln!(io::stdout().lock(), "{}", event(news, watch.cluster())),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What has happened, for people.
fn in_words(news: &News, cluster: &Cluster) -> String {
    match news {
        News::Snapshot(_) => format!("revision {}", cluster.revision),
        News::Change(Event { kind, rank, member, .. }) => {
            let (revision, name) = (cluster.revision, &member.name);
            let what = match kind {
                EventKind::Joined => "joined",
                EventKind::Returned => "has come back",
                EventKind::Updated => "is reached elsewhere now",
                EventKind::Rotated => "has other keys",
                EventKind::Left => "has left, and may come back",
                EventKind::Expelled => "was expelled",
            };
            format!("revision {revision}: {name} (rank {rank}) {what}")
        }
        News::Gone(how) => match how {
            Some(Gone::Deleted) => "the cluster is gone: it was deleted".to_owned(),
            Some(Gone::Expired) => "the cluster is gone: its time is over".to_owned(),
            None => "the cluster is gone; nobody saw how".to_owned(),
        },
    }
}

/// One event as a line for programs.
fn event(news: &News, cluster: &Cluster) -> Value {
    let (kind, more) = match news {
        News::Snapshot(_) => {
            let members = cluster.seats.iter().enumerate().filter_map(|(rank, seat)| {
                Some(output::holder(rank, seat.holder()?, seat.present().is_none()))
            });
            let members: Vec<_> = members.collect();
            ("snapshot", json!({ "size": cluster.size, "members": members }))
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
            let member = output::holder(change.rank, &change.member, change.left);
            (kind, json!({ "member": member }))
        }
        // A registry that could not be reached when it ended tells only that it did.
        News::Gone(how) => {
            let reason = match how {
                Some(Gone::Deleted) => "deleted",
                Some(Gone::Expired) => "expired",
                None => "unknown",
            };
            ("gone", json!({ "reason": reason }))
        }
    };
    let about = json!({
        "event": kind,
        "cluster": cluster.name.as_str(),
        "cluster_id": cluster.id.to_string(),
        "revision": cluster.revision,
        "complete": cluster.is_complete(),
    });
    output::merged([about, more])
}
