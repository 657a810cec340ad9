//! `xlreg completions` and `xlreg man`.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
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
    match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            clap_mangen::generate_to(crate::Cli::command(), dir)
                .with_context(|| format!("writing manual pages into {}", dir.display()))?;
            crate::output::note(&format!("wrote the manual pages into {}", dir.display()));
        }
        None => render(clap_mangen::Man::new(crate::Cli::command()))?,
    }
    Ok(Code::Done)
}

fn render(man: clap_mangen::Man) -> io::Result<()> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    crate::output::line(String::from_utf8_lossy(&page).trim_end())
}
