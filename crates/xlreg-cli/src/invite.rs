//! Invitations handed out: the one line that another machine needs, or the file to carry there.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use xlreg::Invitation;
use xlreg_node::files::{self, Mode};
use zeroize::Zeroizing;

use crate::connect::shell_word;
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

/// How an invitation is handed over.
#[derive(Args, Clone)]
pub(crate) struct Handing {
    /// Write the invitation to this file, readable by you alone, rather than print it: join with
    /// `xlreg join @FILE`
    #[arg(long, value_name = "FILE")]
    invitation_file: Option<PathBuf>,
}

/// An invitation that goes to others.
pub(crate) enum Handed {
    Text(Zeroizing<String>),
    File(PathBuf),
}

impl Handing {
    /// Whether the file, if there is to be one, can be written. Asked before there is anything to
    /// write: a token whose secret is lost is good all the same.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Some(path) = &self.invitation_file else { return Ok(()) };
        if path.is_dir() {
            return Err(unwritten(path, "it is a directory; name a file in it").into());
        }
        files::try_out(path).map_err(|error| unwritten(path, without_path(&error)).into())
    }

    /// Writes the file, if there is to be one.
    pub(crate) fn hand_over(&self, invitation: &Invitation) -> anyhow::Result<Handed> {
        let text = invitation.to_text();
        let Some(path) = &self.invitation_file else { return Ok(Handed::Text(text)) };
        let line = Zeroizing::new(format!("{}\n", text.as_str()));
        files::replace(path, line.as_bytes(), Mode::Private)
            .map_err(|error| unwritten(path, error))?;
        Ok(Handed::File(path.clone()))
    }
}

fn unwritten(path: &Path, why: impl std::fmt::Display) -> Ending {
    Ending::new(Code::Failed, format!("writing the invitation {}: {why}", path.display()))
}

/// The error alone: tempfile adds where it was, under a name that nobody knows.
fn without_path(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => io::Error::from(error.kind()).to_string(),
    }
}

impl Handed {
    /// Whether nothing of it is to be printed.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "invitation": text.as_str(), "invitation_file": null }),
            Self::File(path) => json!({ "invitation": null, "invitation_file": path }),
        }
    }

    /// Says what to run on the other machines.
    pub(crate) fn say(&self, endpoint_count: u32, output: Output) {
        if !output.is_human() {
            return;
        }
        let joining = match self {
            Self::Text(text) => format!("'{}'", text.as_str()),
            Self::File(path) => shell_word(Path::new(&format!("@{}", path.display()))),
        };
        let endpoints = " --endpoint HOST:PORT".repeat(endpoint_count as usize);
        output::note(&format!("next, for each member: xlreg join {joining}{endpoints}"));
    }
}
