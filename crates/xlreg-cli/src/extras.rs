//! `xlreg completions` and `xlreg man`.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::exit::Code;

#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to complete in; put the script where that shell looks for them
    shell: Shell,
}

#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for each subcommand into this directory, instead of printing the main one
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "xlreg", &mut script);
    crate::output::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Code::Done)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Code> {
    // clap's own `help` needs no page.
    let mut command = crate::Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| {
                format!("making {} for the manual pages, which needs a directory", dir.display())
            })?;
            write_pages(&command, dir)
                .with_context(|| format!("writing manual pages into {}", dir.display()))?;
            crate::output::note(&format!("wrote the manual pages into {}", dir.display()));
        }
        None => crate::output::line(page(&command)?.1.trim_end())?,
    }
    Ok(Code::Done)
}

/// The pages of a command and of all below it.
fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, dir)?;
    }
    let (file, text) = page(command)?;
    std::fs::write(dir.join(file), text)
}

/// A command's page and its file's name. Its synopsis is the usage that `--help` shows: the generator's own
/// leaves out what a flag takes, and what separates a program from the flags before it.
fn page(command: &Command) -> io::Result<(String, String)> {
    let man =
        clap_mangen::Man::new(command.clone()).source(concat!("xlreg ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8_lossy(&page);
    let usage = command.clone().render_usage().to_string();
    let usage =
        usage.strip_prefix("Usage: ").unwrap_or(&usage).replace('\\', "\\e").replace('-', "\\-");
    let mut text = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        text += match line {
            ".SH EXTRA" => ".SH MORE",
            line => line,
        };
        text.push('\n');
        if line == ".SH SYNOPSIS" {
            lines.next();
            text += &format!("{usage}\n");
        }
    }
    Ok((man.get_filename(), text))
}
