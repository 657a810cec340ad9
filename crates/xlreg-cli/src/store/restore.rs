//! `xlreg store restore`: a backup becomes the registry in a directory.
//!
//! The directory itself stays: it may be a mount point, or its parent be closed to us. So the backup is
//! first copied into it, below another name, and checked there; then what was there is moved aside, and
//! the copy's files into place. From the one to the other [`UNFINISHED`] is there, and `serve`
//! refuses a directory that has it. Each step is on the disk before the next.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::json;
use xlreg_node::files::{self, Durability};
use xlreg_server::home;
use xlreg_store::Folder;

use super::{Look, human, remove_dir, stage, told};
use crate::connect::shell_word;
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

/// A copy on its way into place.
pub(crate) const UNFINISHED: &str = ".restore";

/// A copy that is not whole yet.
const DRAFT: &str = ".restore.draft";

/// What may be in an empty directory: our lock, and what a new file system comes with.
const NOTHING: [&str; 2] = [xlreg_store::LOCK, "lost+found"];

#[derive(clap::Args)]
#[command(
    after_help = "Stop the registry first. Afterwards `xlreg serve --data DIR` is the registry \
of the backup: same ID, same keys. What came after the backup is unknown to it."
)]
pub(crate) struct Args {
    /// The backup: a directory that `xlreg store backup` has made, or any registry's directory
    backup: PathBuf,
    /// The registry's directory; made if missing
    #[arg(long, value_name = "DIR", env = "XLREG_DATA")]
    data: PathBuf,
    /// Take the place of the registry that is there, and keep its files in DIR/replaced-TIME
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn restore(args: &Args) -> anyhow::Result<Code> {
    let Args { backup, data, replace, output } = args;
    Look::at(backup)?.refuse_unsound(backup, "restored")?;
    refuse_occupied(data, *replace)?;
    let _held = Folder::open(data)?;
    // Now that nobody else can have begun.
    refuse_occupied(data, *replace)?;
    let doing = || format!("restoring {} in {}", backup.display(), data.display());
    let report = stage(backup, &data.join(DRAFT)).with_context(doing)?;
    let aside = put_in_place(data).with_context(doing)?;

    let replaced = aside.as_ref().map(|aside| aside.to_string_lossy());
    let dir = data.to_string_lossy();
    let json = told(&report, [("dir", json!(dir)), ("replaced", json!(replaced))]);
    output.print(&json, || {
        let text = format!("{}\nrestored   {}", human(&report), data.display());
        match &aside {
            Some(aside) => format!("{text}\nreplaced   {}", aside.display()),
            None => text,
        }
    })?;
    if output.is_human() {
        output::note(&format!("next: xlreg serve --data {}", shell_word(data)));
    }
    Ok(Code::Done)
}

/// Moves what is there aside, and the draft's files into place. Gives where the former are, if
/// there were any.
fn put_in_place(data: &Path) -> io::Result<Option<PathBuf>> {
    let unfinished = data.join(UNFINISHED);
    // Of a restore that was cut short; its backup is still where it was.
    remove_dir(&unfinished)?;
    let old: Vec<_> = ours().filter(|name| data.join(name).exists()).collect();
    rename(&data.join(DRAFT), &unfinished)?;
    let aside = if old.is_empty() { None } else { Some(make_aside(data)?) };
    if let Some(aside) = &aside {
        move_all(&old, data, aside)?;
    }
    let new: Vec<_> = ours().filter(|name| unfinished.join(name).exists()).collect();
    move_all(&new, &unfinished, data)?;
    fs::remove_dir(&unfinished)?;
    sync(data)?;
    Ok(aside)
}

/// All that a registry is made of, by name.
fn ours() -> impl Iterator<Item = &'static str> {
    home::FILES.into_iter().chain(xlreg_store::FILES)
}

fn make_aside(data: &Path) -> io::Result<PathBuf> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let now: String = now.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let private = fs::Permissions::from_mode(0o700);
    let prefix = format!("replaced-{now}-");
    let mut aside = tempfile::Builder::new();
    let made = aside.prefix(&prefix).permissions(private).tempdir_in(data)?;
    sync(data)?;
    Ok(made.keep())
}

fn move_all(names: &[&str], from: &Path, to: &Path) -> io::Result<()> {
    names.iter().try_for_each(|name| rename(&from.join(name), &to.join(name)))?;
    sync(from)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    files::rename_with(from, to, Durability::Lasting)
}

/// Makes a directory's entries last.
fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Whatever is there is kept from being mixed with a registry; a registry, from being lost.
fn refuse_occupied(data: &Path, replace: bool) -> anyhow::Result<()> {
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", data.display())),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    let there = names.iter().find(|name| !NOTHING.iter().any(|nothing| *name == nothing));
    match there {
        Some(there) if !replace => {
            let message = format!(
                "{} is not empty: it has {}. Name another directory; or, to put the backup in the \
                 place of the registry there and keep its files aside, add --replace",
                data.display(),
                there.display(),
            );
            Err(Ending::new(Code::Conflict, message).into())
        }
        _ => Ok(()),
    }
}
