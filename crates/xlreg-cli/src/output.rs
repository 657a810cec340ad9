//! What goes to stdout, for people or for programs.

use std::io::{self, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};
use xlreg::{Cluster, Policy, Roster};
use xlreg_core::{Seat, Time};
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
    let written = writeln!(io::stdout().lock(), "{text}");
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Bytes to stdout, as they are.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
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
    let state = if roster.is_complete() { "complete" } else { "incomplete" };
    let (here, size) = (roster.members.len(), roster.size);
    let title = format!("cluster {} ({}): {here} of {size}, {state}", roster.title(), roster.id);
    if here == 0 {
        return title;
    }
    let rows = roster.iter().map(|(rank, member)| {
        let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
        vec![rank.to_string(), member.name.to_string(), endpoints.join(" "), member.id.to_string()]
    });
    format!("{title}\n{}", table(&["RANK", "NAME", "ENDPOINTS", "ID"], rows))
}

/// A cluster with all who hold a rank, there or not.
pub(crate) fn cluster(cluster: &Cluster) -> String {
    let state = if cluster.is_complete() { "complete" } else { "incomplete" };
    let (here, size) = (cluster.present().count(), cluster.size);
    let title = format!("cluster {} ({}): {here} of {size}, {state}", cluster.name, cluster.id);
    let rows: Vec<_> = cluster
        .seats
        .iter()
        .enumerate()
        .filter_map(|(rank, seat)| {
            let member = seat.holder()?;
            let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
            let there = if seat.present().is_some() { "present" } else { "left" };
            let name = member.name.to_string();
            let id = member.id.to_string();
            Some(vec![rank.to_string(), name, there.to_owned(), endpoints.join(" "), id])
        })
        .collect();
    if rows.is_empty() {
        return title;
    }
    let header = ["RANK", "NAME", "STATE", "ENDPOINTS", "ID"];
    format!("{title}\n{}", table(&header, rows.into_iter()))
}

/// Who holds a rank, for programs; none if nobody does.
pub(crate) fn seat_json(rank: usize, seat: &Seat) -> Option<Value> {
    let member = seat.holder()?;
    Some(json!({
        "rank": rank,
        "name": member.name.as_str(),
        "id": member.id.to_string(),
        "left": seat.present().is_none(),
        "endpoints": member.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "sig_key": text::sshkey::encode(&member.sig_key),
        "comms_key": text::sshkey::encode(&member.comms_key),
    }))
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
