//! `xlreg cred`: show and check a registry's credentials.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use xlreg::{Credentials, Error, Registry, Version};
use xlreg_proto::text;

use crate::exit::{Code, Ending};
use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show what credentials say
    Show(FileArgs),
    /// Check that credentials are sound, and that the server they name holds their keys
    Check(CheckArgs),
}

#[derive(Args)]
pub(crate) struct FileArgs {
    /// The registry's credentials, its regCred.dat
    #[arg(value_name = "FILE", env = "XLREG_REGISTRY")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Check the file alone; don't connect
    #[arg(long)]
    offline: bool,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Show(args) => show(args),
        Command::Check(args) => check(args),
    }
}

fn show(args: &FileArgs) -> anyhow::Result<Code> {
    let registry = Registry::open(&args.file)?;
    let credentials = registry.credentials();
    let endpoints = endpoints(credentials);
    let json = json!({
        "name": credentials.name.as_str(),
        "id": credentials.id.to_string(),
        "version": credentials.version.to_string(),
        "dialect": registry.dialect().to_string(),
        "endpoints": endpoints,
        "sig_key": text::sshkey::encode(&credentials.sig_key),
        "sig_key_sha256": credentials.sig_key.fingerprint().to_string(),
        "comms_key": text::sshkey::encode(&credentials.comms_key),
        "comms_key_sha256": credentials.comms_key.fingerprint().to_string(),
    });
    args.output.print(&json, || {
        format!(
            "name       {}\nid         {}\nversion    {} (dialect {})\nendpoints  {}\n\
             sig key    sha256 {}\ncomms key  sha256 {}",
            credentials.name,
            credentials.id,
            credentials.version,
            registry.dialect(),
            endpoints.join(" "),
            credentials.sig_key.fingerprint(),
            credentials.comms_key.fingerprint(),
        )
    })?;
    Ok(Code::Done)
}

fn check(args: &CheckArgs) -> anyhow::Result<Code> {
    let registry = Registry::open(&args.file.file)?;
    let found = if args.offline { None } else { Some(crate::block_on(ask(&registry))?) };
    let json = json!({
        "sound": true,
        "reached": found.is_some(),
        "version": found.as_ref().and_then(|found| found.version).map(|version| version.to_string()),
    });
    args.file.output.print(&json, || match found {
        None => "the file is sound; the server was not asked".to_owned(),
        Some(Found { version: None }) => {
            "the file is sound, and the server holds the comms key; an original server, it tells no more"
                .to_owned()
        }
        Some(Found { version: Some(version) }) => {
            format!("the file is sound, and the server is the registry it describes, version {version}")
        }
    })?;
    Ok(Code::Done)
}

/// What a server answered; the version is missing if it knows no such question.
struct Found {
    version: Option<Version>,
}

/// Asks the server who it is. That it can answer at all proves that it holds the comms key.
async fn ask(registry: &Registry) -> anyhow::Result<Found> {
    let credentials = registry.credentials();
    match registry.describe().await {
        Ok((version, entry)) if entry.sig_key == credentials.sig_key => {
            Ok(Found { version: Some(version) })
        }
        Ok(_) => {
            let message = "the server holds the comms key of these credentials, but calls another \
                           sig key its own: they are forged or out of date";
            Err(Ending::new(Code::Conflict, message).into())
        }
        // Original servers refuse the question, or hang up over it, but not before the hello.
        Err(Error::Refused { .. }) => Ok(Found { version: None }),
        Err(Error::Lost { request, .. }) if request != "the hello" => Ok(Found { version: None }),
        Err(error) => Err(error.into()),
    }
}

fn endpoints(credentials: &Credentials) -> Vec<String> {
    credentials.endpoints.iter().map(ToString::to_string).collect()
}
