//! `xlreg store`: check, back up and restore what a registry keeps in its directory.

pub(crate) mod restore;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use xlreg_node::files::{self, Durability};
use xlreg_server::Home;
use xlreg_store::check::Report;
use xlreg_store::{LocalEngine, check, copy};

use crate::connect::{data_dir, path_from_env, shell_word};
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Look a registry's files over and say what is wrong with them; they stay as they are
    Check(CheckArgs),
    /// Copy a registry, running or not, to a new directory
    Backup(BackupArgs),
    /// Put a backup back in place
    Restore(restore::Args),
}

/// Which registry's directory.
#[derive(Args)]
struct Data {
    /// The registry's directory [env: XLREG_DATA] [default: registry/ in your data directory]
    #[arg(long = "data", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Data {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        match self.dir.clone().or_else(|| path_from_env("XLREG_DATA")) {
            Some(dir) => Ok(dir),
            None => Ok(data_dir()?.join("registry")),
        }
    }
}

#[derive(Args)]
#[command(after_help = "A backup is checked the same way: xlreg store check --data BACKUP

It leaves with 0 if all is sound, with 1 if anything is wrong, and with 5 if no registry is there.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
#[command(after_help = "A backup holds the registry's private keys: who has it is the registry.")]
pub(crate) struct BackupArgs {
    /// The directory to make; it must be new, or empty
    dest: PathBuf,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Check(args) => check_store(args),
        Command::Backup(args) => backup(args),
        Command::Restore(args) => restore::restore(args),
    }
}

/// What a directory holds, and all that is wrong with it.
struct Look {
    report: Report,
    /// A file, where in it, and what is wrong there.
    findings: Vec<Value>,
    lines: Vec<String>,
}

impl Look {
    /// Looks at the memory and the keys.
    fn at(dir: &Path) -> anyhow::Result<Self> {
        refuse_closed(dir)?;
        if !LocalEngine::exists(dir)
            && !Home::exists(dir)
            && !dir.join(restore::UNFINISHED).exists()
        {
            let message = format!("there is no registry in {}; name its directory", dir.display());
            return Err(Ending::new(Code::NotFound, message).into());
        }
        let mut look = Self { report: Report::default(), findings: vec![], lines: vec![] };
        if dir.join(restore::UNFINISHED).exists() {
            look.find(restore::UNFINISHED, "a restore was cut short: run it again, with --replace");
        }
        if LocalEngine::exists(dir) {
            look.report = check(dir)?;
        } else {
            look.find("registry.db", "it is missing, and all that was remembered with it");
        }
        for finding in &look.report.findings {
            look.lines.push(finding.to_string());
            look.findings.push(json!({
                "file": finding.file,
                "table": finding.table,
                "row": finding.row,
                "problem": finding.problem,
            }));
        }
        for (file, problem) in Home::check(dir, look.report.registry) {
            look.find(file, &problem);
        }
        Ok(look)
    }

    fn find(&mut self, file: &str, problem: &str) {
        self.lines.push(format!("{file}: {problem}"));
        self.findings.push(json!({ "file": file, "table": null, "row": null, "problem": problem }));
    }

    /// The same, or an error that says what keeps `dir` from being `what`.
    fn refuse_unsound(self, dir: &Path, what: &str) -> anyhow::Result<Report> {
        if self.lines.is_empty() {
            return Ok(self.report);
        }
        let (shown, first) = (dir.display(), self.lines.first().map_or("", String::as_str));
        let more = match self.lines.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more: xlreg store check --data {})", shell_word(dir)),
        };
        let message = format!("{shown} is not sound, so it is not {what}: {first}{more}");
        Err(Ending::new(Code::Failed, message).into())
    }
}

/// What is not ours to look into may hold a registry all the same.
fn refuse_closed(dir: &Path) -> anyhow::Result<()> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let shown = dir.display();
            let message =
                format!("cannot look into {shown}: {error}; run this as the registry's user");
            Err(Ending::new(Code::Failed, message).into())
        }
        _ => Ok(()),
    }
}

fn check_store(args: &CheckArgs) -> anyhow::Result<Code> {
    let dir = args.data.dir()?;
    let look = Look::at(&dir)?;
    let sound = look.lines.is_empty();
    let json = told(
        &look.report,
        [
            ("dir", json!(dir.to_string_lossy())),
            ("sound", json!(sound)),
            ("findings", json!(look.findings)),
            ("more_findings", json!(look.report.more)),
        ],
    );
    args.output.print(&json, || {
        let mut text = human(&look.report);
        for line in &look.lines {
            text += &format!("\nWRONG      {line}");
        }
        if look.report.more {
            text += "\nWRONG      and more";
        }
        text + if sound { "\nall of it is sound" } else { "" }
    })?;
    if sound {
        return Ok(Code::Done);
    }
    let message = format!(
        "the registry in {} is not sound; nothing was changed. Where it is said above what to do, \
         do that; else restore a backup: xlreg store restore BACKUP --data {} --replace, which keeps \
         what is there aside",
        dir.display(),
        shell_word(&dir)
    );
    Err(Ending::new(Code::Failed, message).into())
}

/// What a report tells, and what else there is to tell, for programs.
fn told<const N: usize>(report: &Report, more: [(&str, Value); N]) -> Value {
    let told = [
        ("registry", json!(report.registry.map(|id| id.to_string()))),
        ("schema", json!(report.schema)),
        ("nodes", json!(report.nodes)),
        ("clusters", json!(report.clusters)),
        ("members", json!(report.members)),
        ("tokens", json!(report.tokens)),
        ("bytes", json!(report.bytes)),
        ("log_bytes", json!(report.log_bytes)),
    ];
    told.into_iter().chain(more).collect()
}

/// The same for people.
fn human(report: &Report) -> String {
    let Report { schema, registry, nodes, clusters, members, tokens, bytes, log_bytes, .. } =
        report;
    let unknown = || "unknown".to_owned();
    let registry = registry.map_or_else(unknown, |id| id.to_string());
    let schema = schema.map_or_else(unknown, |version| version.to_string());
    format!(
        "registry   {registry}\nschema     {schema}\nnodes      {nodes}\nclusters   {clusters}\n\
         members    {members}\ntokens     {tokens}\nsize       {bytes} bytes, and {log_bytes} of log"
    )
}

fn backup(args: &BackupArgs) -> anyhow::Result<Code> {
    let dir = args.data.dir()?;
    Look::at(&dir)?.refuse_unsound(&dir, "backed up")?;
    refuse_occupied(&args.dest)?;
    let dest = std::path::absolute(&args.dest)?;
    let name = dest.file_name().context("the backup's directory needs a name")?;
    let draft = dest.with_file_name(format!(".{}.draft", name.to_string_lossy()));
    let report = stage(&dir, &draft).and_then(|report| {
        files::rename_with(&draft, &dest, Durability::Lasting)
            .with_context(|| format!("giving the backup its name, {}", dest.display()))?;
        Ok(report)
    });
    if report.is_err() {
        // What can't be removed either is private, and the next backup of that name tries again.
        let _ = fs::remove_dir_all(&draft);
    }
    let report = report?;
    let json = told(&report, [("backup", json!(dest.to_string_lossy()))]);
    args.output.print(&json, || format!("{}\nbackup     {}", human(&report), dest.display()))?;
    if args.output.is_human() {
        let dest = shell_word(&dest);
        output::note(&format!("to go back to it: xlreg store restore {dest} --data DIR"));
    }
    Ok(Code::Done)
}

/// Copies a registry to a directory that is made for it, and makes sure that the copy is one.
fn stage(from: &Path, to: &Path) -> anyhow::Result<Report> {
    remove_dir(to).with_context(|| format!("removing {}, a draft", to.display()))?;
    files::create_dir(to).with_context(|| format!("making {}", to.display()))?;
    copy(from, to)?;
    Home::copy(from, to)?;
    Look::at(to)?.refuse_unsound(to, "the copy that it should be")
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn refuse_occupied(dest: &Path) -> anyhow::Result<()> {
    let free = match fs::read_dir(dest) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(_) => false,
    };
    if free {
        return Ok(());
    }
    let message = format!("{} is there already; name a new directory", dest.display());
    Err(Ending::new(Code::Conflict, message).into())
}
