//! Invitations: the one line that another machine needs.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use xlreg::Invitation;
use xlreg_node::files::{self, Mode};
use xlreg_proto::text::FILE_BYTES_MAX;

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

/// What a user says of where to join: an invitation's text, or `@` and the file that holds one.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Text(Box<Invitation>),
    File(PathBuf),
}

impl Source {
    /// Reads an argument that is meant for an invitation; none if it is not.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        if let Some(file) = text.strip_prefix('@') {
            return Some(Ok(Self::File(PathBuf::from(file))));
        }
        let invitation = text.starts_with("xlreg:").then(|| Invitation::parse(text))?;
        Some(match invitation {
            Ok(invitation) => Ok(Self::Text(Box::new(invitation))),
            Err(error) => Err(error.to_string()),
        })
    }

    /// The invitation itself.
    pub(crate) fn read(&self) -> anyhow::Result<Invitation> {
        match self {
            Self::Text(invitation) => Ok(Invitation::clone(invitation)),
            Self::File(path) => {
                let doing = || format!("reading the invitation {}", path.display());
                let text = files::read_text(path, FILE_BYTES_MAX).with_context(doing)?;
                Invitation::parse(text.trim()).with_context(doing)
            }
        }
    }
}

/// Says what to run on the other machines, or writes the file to carry there.
pub(crate) fn hand_over(
    invitation: &Invitation,
    endpoint_count: u32,
    handing: &Handing,
    output: Output,
) -> anyhow::Result<()> {
    let endpoints = " --endpoint HOST:PORT".repeat(endpoint_count as usize);
    let text = invitation.to_text();
    let joining = match &handing.invitation_file {
        None => format!("'{}'", text.as_str()),
        Some(path) => {
            let line = zeroize::Zeroizing::new(format!("{}\n", text.as_str()));
            files::replace(path, line.as_bytes(), Mode::Private).map_err(|error| {
                let message = format!("writing the invitation {}: {error}", path.display());
                Ending::new(Code::Failed, message)
            })?;
            shell_word(std::path::Path::new(&format!("@{}", path.display())))
        }
    };
    if output.is_human() {
        output::note(&format!("next, for each member: xlreg join {joining}{endpoints}"));
    }
    Ok(())
}
