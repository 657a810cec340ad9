//! `xlreg cred`: show and check a registry's credentials.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use xlreg::{Credentials, Registry, Version};
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
    #[arg(long, conflicts_with = "identify")]
    offline: bool,
    /// Ask the server for its sig key, too. Not of an original server: it may end over the question
    #[arg(long)]
    identify: bool,
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
        "dialect": registry.wire().to_string(),
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
            registry.wire(),
            endpoints.join(" "),
            credentials.sig_key.fingerprint(),
            credentials.comms_key.fingerprint(),
        )
    })?;
    Ok(Code::Done)
}

fn check(args: &CheckArgs) -> anyhow::Result<Code> {
    let registry = Registry::open(&args.file.file)?;
    let version = match (args.offline, args.identify) {
        (true, _) => None,
        (false, false) => Some(crate::block_on(async { Ok(registry.greet().await?) })?),
        (false, true) => Some(crate::block_on(identify(&registry))?),
    };
    let json = json!({
        "sound": true,
        "reached": version.is_some(),
        "version": version.map(|version| version.to_string()),
        "identified": args.identify,
    });
    args.file.output.print(&json, || match (version, args.identify) {
        (None, _) => "the file is sound; the server was not asked".to_owned(),
        (Some(version), false) => {
            format!("the file is sound, and the server holds its comms key (version {version})")
        }
        (Some(version), true) => {
            format!(
                "the file is sound, and the server is the registry it describes (version {version})"
            )
        }
    })?;
    Ok(Code::Done)
}

/// Asks the server who it is, and compares.
async fn identify(registry: &Registry) -> anyhow::Result<Version> {
    let (version, entry) = registry.describe().await?;
    if entry.sig_key != registry.credentials().sig_key {
        let message = "the server holds the comms key of these credentials, but calls another \
                       sig key its own: they are forged or out of date";
        return Err(Ending::new(Code::Conflict, message).into());
    }
    Ok(version)
}

fn endpoints(credentials: &Credentials) -> Vec<String> {
    credentials.endpoints.iter().map(ToString::to_string).collect()
}
