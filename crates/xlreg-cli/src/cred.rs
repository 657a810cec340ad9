//! `xlreg cred`: show and check a registry's credentials.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pem_rfc7468::LineEnding;
use serde_json::json;
use xlreg::{Credentials, Registry, Version, Wire};
use xlreg_proto::text;

use crate::connect::AsWhom;
use crate::exit::{Code, Ending};
use crate::output::{self, Output};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show what credentials say
    Show(FileArgs),
    /// Check that credentials are sound, and that the server they name holds their keys
    Check(CheckArgs),
    /// Fetch the registry's root certificate, for tools that know nothing of xlreg
    Export(ExportArgs),
}

#[derive(Args)]
#[command(after_help = "Example:
  xlreg cred export regCred.dat > root.pem
  openssl s_client -connect HOST:PORT -CAfile root.pem -verify_return_error")]
pub(crate) struct ExportArgs {
    /// The registry's credentials, its regCred.dat
    #[arg(value_name = "FILE", env = "XLREG_REGISTRY")]
    file: PathBuf,
    /// How to write it
    #[arg(long, value_enum, default_value = "pem")]
    format: CertificateFormat,
    #[command(flatten)]
    who: AsWhom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CertificateFormat {
    Pem,
    Der,
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
        Command::Export(args) => crate::block_on(export(args)),
    }
}

/// The certificate is the registry's own, so it is fetched from there; that it is the right one,
/// the key in the credentials tells.
async fn export(args: &ExportArgs) -> anyhow::Result<Code> {
    let registry = Registry::open(&args.file)?;
    let identity = args.who.identity().await?;
    let certificate = registry.root_certificate(&identity).await?;
    match args.format {
        CertificateFormat::Pem => {
            let pem = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &certificate);
            let pem = pem.map_err(|error| Ending::new(Code::Failed, error.to_string()))?;
            output::line(pem.trim_end())?;
        }
        CertificateFormat::Der => output::bytes(&certificate)?,
    }
    Ok(Code::Done)
}

fn show(args: &FileArgs) -> anyhow::Result<Code> {
    let registry = Registry::open(&args.file)?;
    let credentials = registry.credentials();
    let endpoints = endpoints(credentials);
    let wire = match registry.wire().dialect() {
        None => "over TLS".to_owned(),
        Some(_) => format!("dialect {}", registry.wire()),
    };
    let json = json!({
        "name": credentials.name.as_str(),
        "id": credentials.id.to_string(),
        "version": credentials.version.to_string(),
        "wire": registry.wire().to_string(),
        "endpoints": endpoints,
        "sig_key": text::sshkey::encode(&credentials.sig_key),
        "sig_key_sha256": credentials.sig_key.fingerprint().to_string(),
        "comms_key": text::sshkey::encode(&credentials.comms_key),
        "comms_key_sha256": credentials.comms_key.fingerprint().to_string(),
    });
    args.output.print(&json, || {
        format!(
            "name       {}\nid         {}\nversion    {} ({wire})\nendpoints  {}\n\
             sig key    sha256 {}\ncomms key  sha256 {}",
            credentials.name,
            credentials.id,
            credentials.version,
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
    let key = if registry.wire() == Wire::V2 { "sig key" } else { "comms key" };
    let json = json!({
        "sound": true,
        "reached": version.is_some(),
        "version": version.map(|version| version.to_string()),
        "identified": args.identify,
    });
    args.file.output.print(&json, || match (version, args.identify) {
        (None, _) => "the file is sound; the server was not asked".to_owned(),
        (Some(version), false) => {
            format!("the file is sound, and the server holds its {key} (version {version})")
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
