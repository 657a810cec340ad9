//! What goes to stdout, for people or for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};
use xlreg::{Cluster, Member, Policy, Roster};
use xlreg_core::Time;
use xlreg_core::admission::Life;
use xlreg_proto::text;

/// How to print.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Output {
    /// Print for people, or one JSON document for programs
    #[arg(long = "output", value_name = "FORMAT", default_value = "human", env = "XLREG_OUTPUT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

impl Output {
    /// Prints one or the other to stdout.
    pub(crate) fn print(
        self,
        json: &serde_json::Value,
        human: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => line(&format!("{json:#}")),
            Format::Human => line(human().trim_end()),
        }
    }

    /// Whether a person reads it, who may be glad of a hint.
    pub(crate) fn is_human(self) -> bool {
        self.format == Format::Human
    }
}

/// A line to stdout. Whoever closed the pipe has read enough; that is no error.
pub(crate) fn line(text: &str) -> io::Result<()> {
    unless_unwanted(writeln!(io::stdout().lock(), "{text}"))
}

/// Bytes to stdout, as they are.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    unless_unwanted(io::stdout().lock().write_all(bytes))
}

fn unless_unwanted(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        kind => Err(io::Error::new(kind, format!("cannot print to stdout: {error}"))),
    })
}

/// A line to stderr. If nobody can read it any more, the work goes on all the same.
pub(crate) fn note(text: &str) {
    let _unread = writeln!(anstream::stderr().lock(), "{text}");
}

/// A time as people say it: `39 ms`, `1.25 s`.
pub(crate) fn took(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// A roster as a table, with a line above that says how complete it is.
pub(crate) fn roster(roster: &Roster) -> String {
    with_members(format!("cluster {} ({}): {}", roster.title(), roster.id, state(roster)), roster)
}

/// What somebody should know who is about to wait for a cluster to be full, be it from a log.
pub(crate) fn waiting_for(roster: &Roster, at_most: Duration) -> Option<String> {
    let (here, size) = (roster.members.len(), roster.size);
    let at_most = humantime::format_duration(at_most);
    (!roster.is_complete())
        .then(|| format!("{here} of {size} are here; waiting for the others, {at_most} at most"))
}

/// The same for a terminal that may be narrow: what can be missed stands to the right.
pub(crate) fn live(roster: &Roster) -> String {
    with_members(format!("cluster {}: {}", roster.title(), state(roster)), roster)
}

fn state(roster: &Roster) -> String {
    let complete = if roster.is_complete() { "complete" } else { "incomplete" };
    format!("{} of {}, {complete}", roster.members.len(), roster.size)
}

fn with_members(title: String, roster: &Roster) -> String {
    let holders = roster.holders();
    if holders.is_empty() {
        return title;
    }
    // Most rosters never see anybody leave.
    let with_state = holders.iter().any(|(_, _, left)| *left);
    let rows = holders.iter().map(|(rank, member, left)| {
        let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
        let state = with_state.then(|| if *left { "left" } else { "present" }.to_owned());
        let head = [rank.to_string(), member.name.to_string()];
        let tail = [endpoints.join(" "), member.id.to_string()];
        head.into_iter().chain(state).chain(tail).collect()
    });
    let state = with_state.then_some("STATE");
    let header = ["RANK", "NAME"].into_iter().chain(state).chain(["ENDPOINTS", "ID"]);
    format!("{title}\n{}", table(&header.collect::<Vec<_>>(), rows))
}

/// Who holds a rank, for programs.
pub(crate) fn holder(rank: usize, member: &Member, left: bool) -> Value {
    json!({
        "rank": rank,
        "name": member.name.as_str(),
        "id": member.id.to_string(),
        "left": left,
        "endpoints": member.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sig_key": text::sshkey::encode(&member.sig_key),
        "comms_key": text::sshkey::encode(&member.comms_key),
    })
}

/// A cluster without its members, for programs.
pub(crate) fn summary(cluster: &Cluster) -> Value {
    let Life { fill_by, ends, idle, .. } = cluster.life;
    json!({
        "cluster": cluster.name.as_str(),
        "cluster_id": cluster.id.to_string(),
        "size": cluster.size,
        "endpoint_count": cluster.endpoint_count,
        "policy": policy(&cluster.policy),
        "owner": cluster.owner.map(|owner| owner.to_string()),
        "revision": cluster.revision,
        "expires": ends.map(moment),
        "full_by": fill_by.map(moment),
        "idle_ms": idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
    })
}

/// Several JSON objects as one.
pub(crate) fn merged<const N: usize>(objects: [Value; N]) -> Value {
    let fields = objects.into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect())
}

/// How long a cluster lives, for people; nothing if that is until somebody deletes it.
pub(crate) fn lifetime(life: &Life) -> Option<String> {
    let until = life.ends.map(|end| format!("until {}", moment(end)));
    let full = life.fill_by.map(|by| format!("to be full by {}", moment(by)));
    let idle = life.idle.map(|idle| format!("until idle for {}", humantime::format_duration(idle)));
    let owner = life.with_owner.then(|| "as long as its owner is connected".to_owned());
    let all: Vec<_> = [until, full, idle, owner].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// A join policy in a word.
pub(crate) fn policy(policy: &Policy) -> &'static str {
    match policy {
        Policy::Open => "open",
        Policy::Token => "token",
        Policy::Keys(_) => "keys",
    }
}

/// A point in time, to the second, in UTC.
pub(crate) fn moment(time: Time) -> String {
    humantime::format_rfc3339_seconds(time.into()).to_string()
}

/// Columns without lines, as wide as their contents.
pub(crate) fn table<'a>(header: &[&str], rows: impl Iterator<Item = Vec<String>> + 'a) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}
