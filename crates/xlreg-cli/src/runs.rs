//! `xlreg ps`, `logs`, `down`, `pause`, `resume`, `kill`, `restart`: runs, from outside.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use crate::connect::duration;
use crate::exit::{self, Code, Ending};
use crate::output::{self, Output};
use crate::run::control::{self, Answer, Request, Run, Wanted};
use crate::run::dir::{self, Found};

/// How long a run may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// Between looks at a log that is followed, and at a run that is stopping.
const LOOK: Duration = Duration::from_millis(50);

/// The longest state in a list of runs: one that has ended may have a long story.
const STATE_CHARS: usize = 40;

#[derive(Args)]
pub(crate) struct PsArgs {
    /// Show the members of this run [default: all runs]
    #[arg(value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Which run.
#[derive(Args)]
struct Which {
    /// The run, as `xlreg ps` names it [default: the only one]
    #[arg(long, short, value_name = "CLUSTER")]
    cluster: Option<String>,
}

#[derive(Args)]
pub(crate) struct LogsArgs {
    /// Only these members' lines
    #[arg(value_name = "MEMBER")]
    members: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Go on with what comes, until the run ends
    #[arg(long, short)]
    follow: bool,
    /// Begin with the last N lines [default: all]
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<usize>,
}

#[derive(Args)]
pub(crate) struct DownArgs {
    /// The run, as `xlreg ps` names it [default: the only one]
    #[arg(value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Stop all runs
    #[arg(long, conflicts_with = "cluster")]
    all: bool,
    /// How long the programs may take to stop
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
}

#[derive(Args)]
pub(crate) struct MemberArgs {
    /// The member's name, or its rank
    #[arg(value_name = "MEMBER")]
    member: String,
    #[command(flatten)]
    which: Which,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
}

/// A run, and what it says of itself.
struct Told {
    found: Found,
    run: Option<Run>,
    /// It has answered, if only that there is nothing to tell yet.
    answers: bool,
}

impl Told {
    fn state(&self) -> String {
        let Some(run) = &self.run else {
            return match dir::word(&self.found.path) {
                Some(word) if !self.found.alive => format!("ended: {word}"),
                _ if self.answers => "starting".to_owned(),
                _ => "not answering".to_owned(),
            };
        };
        let running = run.members.iter().filter(|member| member.state == "running").count();
        format!("{running} of {} running", run.members.len())
    }
}

pub(crate) fn ps(args: &PsArgs) -> anyhow::Result<Code> {
    if let Some(cluster) = &args.cluster {
        let told = tell(find(Some(cluster))?);
        args.output.print(&members_json(&told), || members(&told))?;
        return Ok(Code::Done);
    }
    let runs: Vec<_> = dir::all()?.into_iter().map(tell).collect();
    let json = runs.iter().map(members_json).collect();
    args.output.print(&serde_json::Value::Array(json), || list(&runs))?;
    Ok(Code::Done)
}

fn tell(found: Found) -> Told {
    // The socket of one that has ended is still there, but nobody is behind it.
    let answer = found.alive.then(|| control::ask(&found.path, &Request::Status, STATUS_WITHIN));
    let answer = answer.and_then(Result::ok);
    let answers = answer.is_some();
    let run = match answer {
        Some(Answer::Status(run)) => Some(run),
        _ => None,
    };
    Told { found, run, answers }
}

fn list(runs: &[Told]) -> String {
    if runs.is_empty() {
        return "no runs; start one with xlreg run -n N --detach -- CMD".to_owned();
    }
    let rows = runs.iter().map(|told| {
        let (since, pid, kind) = match &told.run {
            Some(run) => {
                let kind = if run.detached { "detached" } else { "attached" };
                (age(run.since), run.pid.to_string(), kind)
            }
            None => (String::new(), String::new(), ""),
        };
        vec![told.found.id.clone(), shortened(&told.state()), since, kind.to_owned(), pid]
    });
    output::table(&["CLUSTER", "STATE", "SINCE", "KIND", "PID"], rows)
}

/// So much of a text as fits into a column; `xlreg ps CLUSTER` shows all of it.
fn shortened(text: &str) -> String {
    if text.chars().count() <= STATE_CHARS {
        return text.to_owned();
    }
    text.chars().take(STATE_CHARS - 1).chain(['…']).collect()
}

fn members(told: &Told) -> String {
    let Some(run) = &told.run else {
        return format!("{}: {}", told.found.id, told.state());
    };
    let rows = run.members.iter().map(|member| {
        let mut state = match (member.exit_code, member.signal) {
            (Some(code), _) => format!("ended ({code})"),
            (_, Some(signal)) => format!("ended (signal {signal})"),
            _ => member.state.clone(),
        };
        if let Some(tunnel) = member.tunnel.as_ref().filter(|tunnel| tunnel.state != "running") {
            state.push_str(&format!(", tunnel {}", tunnel.state));
        }
        let pid = member.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let (rank, restarts) = (member.rank.to_string(), member.restarts.to_string());
        vec![rank, member.name.clone(), state, pid, restarts, member.endpoints.join(" ")]
    });
    output::table(&["RANK", "NAME", "STATE", "PID", "RESTARTS", "ENDPOINTS"], rows)
}

fn members_json(told: &Told) -> serde_json::Value {
    json!({ "id": told.found.id, "state": told.state(), "dir": told.found.path, "run": told.run })
}

fn age(since: u64) -> String {
    let age = Duration::from_secs(Run::now().saturating_sub(since));
    format!("{} ago", humantime::format_duration(age))
}

/// The run of that name, or the only one.
fn find(cluster: Option<&String>) -> anyhow::Result<Found> {
    let runs = dir::all()?;
    let names = runs.iter().map(|found| found.id.clone()).collect::<Vec<_>>().join(", ");
    match cluster {
        Some(cluster) => {
            let found = runs.into_iter().find(|found| found.id == *cluster);
            found.ok_or_else(|| {
                let known = if names.is_empty() {
                    "nothing runs".to_owned()
                } else {
                    format!("there is: {names}")
                };
                Ending::new(Code::NotFound, format!("no cluster {cluster} runs here; {known}"))
                    .into()
            })
        }
        None => only(runs),
    }
}

/// The only run that there is; or, beside some that have ended, the only one that lives.
fn only(mut runs: Vec<Found>) -> anyhow::Result<Found> {
    if runs.iter().any(|found| found.alive) {
        runs.retain(|found| found.alive);
    }
    let names = runs.iter().map(|found| found.id.clone()).collect::<Vec<_>>().join(", ");
    let ending = match (runs.pop(), runs.is_empty()) {
        (Some(only), true) => return Ok(only),
        (None, _) => Ending::new(
            Code::NotFound,
            "no cluster runs here; start one with xlreg run -n N --detach -- CMD",
        ),
        (Some(_), false) => Ending::new(
            Code::Usage,
            format!(
                "several clusters run here; say which, with -c where there is that flag: {names}"
            ),
        ),
    };
    Err(ending.into())
}

pub(crate) fn member(args: &MemberArgs, order: Wanted) -> anyhow::Result<Code> {
    let found = find(args.which.cluster.as_ref())?;
    if !found.alive {
        return Err(over(&found));
    }
    let request = Request::Member { member: args.member.clone(), order };
    control::ask(&found.path, &request, args.timeout)?;
    Ok(Code::Done)
}

fn over(found: &Found) -> anyhow::Error {
    let message = format!(
        "cluster {} does not run any more; see xlreg logs -c {0}, and clear it away with xlreg \
         down {0}",
        found.id
    );
    Ending::new(Code::Failed, message).into()
}

pub(crate) fn down(args: &DownArgs) -> anyhow::Result<Code> {
    let runs = if args.all { dir::all()? } else { vec![find(args.cluster.as_ref())?] };
    let by = Instant::now() + args.timeout;
    let asked: Vec<_> = runs.iter().map(|found| ask_to_end(found, by)).collect();
    // One that does not answer is told of when the others are down.
    let mut ended = Ok(());
    for (found, asked) in runs.iter().zip(asked) {
        let gone = asked.and_then(|()| wait_until_gone(found, by, args.timeout));
        if let Ok(word) = &gone {
            let word = word.as_ref().map_or_else(String::new, |word| format!("; {word}"));
            output::note(&format!("xlreg: {} is down{word}", found.id));
        }
        ended = ended.and(gone.map(drop));
    }
    ended.map(|()| Code::Done)
}

fn ask_to_end(found: &Found, by: Instant) -> anyhow::Result<()> {
    let rest = by.saturating_duration_since(Instant::now());
    match found.alive.then(|| control::ask(&found.path, &Request::Down, rest)) {
        // No answer in time.
        Some(Err(error)) if exit::code(&error) == Code::Incomplete => Err(error),
        // Nobody there to ask: it is about to end by itself, or has.
        _ => Ok(()),
    }
}

/// Returns the word that it has left, if it has.
fn wait_until_gone(
    found: &Found,
    by: Instant,
    at_most: Duration,
) -> anyhow::Result<Option<String>> {
    loop {
        match dir::look(&found.path) {
            None => return Ok(None),
            Some(again) if !again.alive => {
                let doing = || format!("removing {}", found.path.display());
                let word = dir::word(&found.path);
                if dir::sweep(&found.path).with_context(doing)? {
                    return Ok(word);
                }
            }
            Some(_) => {}
        }
        if Instant::now() >= by {
            let message = format!(
                "cluster {} has not stopped within {at_most:?}; see xlreg ps {0}",
                found.id
            );
            return Err(Ending::new(Code::Incomplete, message).into());
        }
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn logs(args: &LogsArgs) -> anyhow::Result<Code> {
    let found = find(args.which.cluster.as_ref())?;
    let path = log_of(&found)?;
    let wanted = wanted(&args.members, &found)?;
    let mut log = Follower::open(&path)?;
    let kept = args.tail.unwrap_or(usize::MAX);
    let mut last = VecDeque::new();
    let mut out = BufWriter::new(io::stdout().lock());
    log.read(&mut |line| {
        if !is_wanted(line, &wanted) {
            return Ok(());
        }
        if kept == usize::MAX {
            return print(&mut out, line);
        }
        last.push_back(line.to_vec());
        last.drain(..last.len().saturating_sub(kept));
        Ok(())
    })?;
    last.iter().try_for_each(|line| print(&mut out, line))?;
    loop {
        read_enough(out.flush())?;
        let over = !args.follow || dir::look(&found.path).is_none_or(|found| !found.alive);
        log.read(&mut |line| {
            if is_wanted(line, &wanted) { print(&mut out, line) } else { Ok(()) }
        })?;
        if over {
            read_enough(out.flush())?;
            return Ok(Code::Done);
        }
        std::thread::sleep(LOOK);
    }
}

/// The file with a run's log.
fn log_of(found: &Found) -> anyhow::Result<PathBuf> {
    let log = found.path.join(control::LOG_FILE);
    // That of a kept cluster is elsewhere, and linked from here.
    if let Ok(log) = log.canonicalize() {
        return Ok(log);
    }
    let message = format!(
        "cluster {} has no log: it prints its programs' output where it was started, or has started \
         none yet; see --detach and --log-dir of xlreg run",
        found.id
    );
    Err(Ending::new(Code::NotFound, message).into())
}

/// The names of these members, some of which may be given by rank.
fn wanted(members: &[String], found: &Found) -> anyhow::Result<Vec<String>> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let Some(run) = tell(found.clone()).run else {
        // Nobody is left to ask. The names that `run` gives are made of ranks.
        let named = |member: &String| match member.parse::<usize>() {
            Ok(rank) => format!("member_{rank}"),
            Err(_) => member.clone(),
        };
        return Ok(members.iter().map(named).collect());
    };
    let name = |member: &String| {
        let known = run.members.iter();
        known
            .map(|other| (&other.name, other.rank.to_string()))
            .find_map(|(name, rank)| (name == member || rank == *member).then(|| name.clone()))
            .ok_or_else(|| control::no_member(&run, member))
    };
    members
        .iter()
        .map(|member| Ok(name(member).map_err(|why| Ending::new(Code::NotFound, why))?))
        .collect()
}

fn is_wanted(line: &[u8], members: &[String]) -> bool {
    members.is_empty()
        || members.iter().any(|member| {
            let rest = line.strip_prefix(member.as_bytes());
            let rest = rest.map(|rest| rest.trim_ascii_start());
            rest.is_some_and(|rest| rest.starts_with(b"| "))
        })
}

fn print(out: &mut impl Write, line: &[u8]) -> io::Result<()> {
    read_enough(out.write_all(line))
}

/// Whoever closed the pipe has read enough.
fn read_enough(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written,
    }
}

/// A log that grows, and may be cut and begun anew.
struct Follower {
    path: PathBuf,
    file: BufReader<File>,
    inode: u64,
    /// The beginning of a line that is not whole yet.
    held: Vec<u8>,
}

impl Follower {
    /// From the beginning of all that there is: that of the part that was cut off last, if any.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = open(&control::older(path)).or_else(|_| open(path));
        let (file, inode) = opened.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, inode, held: Vec::new() })
    }

    /// Hands over all whole lines that there are.
    fn read(&mut self, each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> anyhow::Result<()> {
        loop {
            self.read_file(each)?;
            // Just now there may be none, while it is being cut.
            let Ok((next, inode)) = open(&self.path) else { return Ok(()) };
            if inode == self.inode {
                return Ok(());
            }
            // More may have been written before it was cut.
            self.read_file(each)?;
            (self.file, self.inode) = (next, inode);
        }
    }

    fn read_file(&mut self, each: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            let read = (&mut self.file).take(1 << 20).read_until(b'\n', &mut self.held)?;
            if read == 0 {
                return Ok(());
            }
            if self.held.ends_with(b"\n") || self.held.len() >= 1 << 20 {
                each(&self.held)?;
                self.held.clear();
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(BufReader<File>, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((BufReader::new(file), inode))
}
