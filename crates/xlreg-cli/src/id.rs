//! `xlreg id`: make and show identities.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use xlreg::{Identity, Name, NewKeys, PrivateKey, Registry};
use xlreg_proto::text;

use crate::connect::Connect;
use crate::exit::Code;
use crate::output::{self, Output};
use crate::pool;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make an identity: an ID and two RSA keys
    New(NewArgs),
    /// Show an identity; never its private keys
    Show(ShowArgs),
    /// Put new keys in the place of an identity's; its ID, ranks and clusters stay
    Rotate(RotateArgs),
    /// Keep keys ready, for clusters that start at once and are thrown away
    #[command(subcommand)]
    Pool(pool::Command),
}

#[derive(Args)]
pub(crate) struct NewArgs {
    /// The directory to keep it in; made if missing
    dir: PathBuf,
    /// Its name: a letter or '_', then letters, digits and '_'
    #[arg(long, default_value = "node")]
    name: Name,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The directory it is kept in
    #[arg(env = "XLREG_IDENTITY")]
    dir: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
#[command(after_help = "Cut off halfway, say by a power cut, it is finished by running it again.")]
pub(crate) struct RotateArgs {
    /// The directory the identity is kept in
    #[arg(env = "XLREG_IDENTITY")]
    dir: PathBuf,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::New(args) => {
            let made = crate::block_on(async {
                Ok(Identity::create(&args.dir, args.name.clone()).await?)
            })?;
            print(&made, args.output)?;
            if args.output.is_human() {
                let dir = std::path::absolute(&args.dir)?;
                let dir = crate::connect::shell_word(&dir);
                output::note(&format!(
                    "next: xlreg join CLUSTER --registry CRED --identity {dir} --endpoint HOST:PORT"
                ));
            }
        }
        Command::Rotate(args) => {
            let registry = args.connect.registry()?;
            let rotated = crate::block_on(rotate(&registry, &args.dir))
                .with_context(|| format!("rotating the keys in {}", args.dir.display()))?;
            print(&rotated, args.output)?;
            if args.output.is_human() {
                output::note("its old keys are of no use at this registry any more");
            }
        }
        Command::Pool(command) => return pool::main(command),
        Command::Show(args) => {
            let identity = crate::block_on(async { Ok(Identity::load(&args.dir).await?) })?;
            print(&identity, args.output)?;
        }
    }
    Ok(Code::Done)
}

/// New keys, unless there are some that an earlier rotation has left behind.
async fn rotate(registry: &Registry, dir: &Path) -> anyhow::Result<Identity> {
    let identity = Identity::load(dir).await?;
    let make = || tokio::task::spawn_blocking(PrivateKey::generate);
    let (sig, comms) = tokio::try_join!(make(), make())?;
    let keys = NewKeys { sig: Some(Arc::new(sig?)), comms: Some(Arc::new(comms?)) };
    Ok(registry.rotate(&identity, keys).await?)
}

fn print(identity: &Identity, output: Output) -> anyhow::Result<()> {
    let id = identity.id().map(|id| id.to_string());
    let dir = identity.dir().map(|dir| dir.display().to_string());
    let json = json!({
        "name": identity.name().as_str(),
        "id": id,
        "dir": dir,
        "sig_key": text::sshkey::encode(identity.sig_key()),
        "sig_key_sha256": identity.sig_key().fingerprint().to_string(),
        "comms_key": text::sshkey::encode(identity.comms_key()),
        "comms_key_sha256": identity.comms_key().fingerprint().to_string(),
    });
    output.print(&json, || {
        format!(
            "name       {}\nid         {}\nsig key    sha256 {}\ncomms key  sha256 {}\nkept in    {}",
            identity.name(),
            id.as_deref().unwrap_or("none yet: the registry issues one"),
            identity.sig_key().fingerprint(),
            identity.comms_key().fingerprint(),
            dir.as_deref().unwrap_or("memory"),
        )
    })?;
    Ok(())
}
