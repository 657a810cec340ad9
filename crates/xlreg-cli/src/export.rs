//! `xlreg cluster export`: a member's keys and its roster, in the forms that other programs take.

mod telling;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use xlreg::portable::{self, File, PortableError, Tls, WriteError};
use xlreg::{ClusterKey, Identity, KeptError, Name, Portable, Registry, Roster, Wire};
use xlreg_launch::TlsFiles;

use self::telling::Told;
use crate::connect::{MaybeConnect, duration, shell_word};
use crate::exit::{Code, Ending};
use crate::join;
use crate::kept::{self, Whose};
use crate::output::{self, Output};
use crate::target::{At, Goal, Target, target};

/// The file of `--format env`.
const ENV_FILE: &str = "xlreg.env";

/// The roster, which that one names.
const ROSTER_FILE: &str = "roster.json";

#[derive(Args)]
#[command(after_help = "Examples:
  xlreg cluster export alpha --format pem /etc/alpha --registry regCred.dat
  xlreg cluster export alpha --format ssh ./alpha-ssh --offline --identity ./me

What other programs want these files as: docs/operations/export.md.")]
pub(crate) struct ExportArgs {
    /// The cluster's name or ID; or an invitation to it, xlreg://..., or @FILE with one in it
    #[arg(value_parser = target, value_name = "CLUSTER")]
    target: Target,
    /// Certificate, key and CA bundle; these with all else as JSON, or as variables; OpenSSH's
    /// files; or the original library's
    // `format` is how the command itself prints.
    #[arg(long, value_enum, id = "form", value_name = "FORMAT")]
    format: Format,
    /// Where to write; made if it is missing. Only what an earlier export wrote there is replaced
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The identity that joined [default: the one that `xlreg join` keeps for this cluster and name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    /// The member's name [default: that of the identity]
    #[arg(long)]
    name: Option<Name>,
    /// Don't ask the registry: take the roster that is kept beside the identity
    #[arg(long)]
    offline: bool,
    /// Write it also if members are missing; those who come later won't be trusted
    #[arg(long)]
    incomplete: bool,
    /// How long the certificate is good: formats pem, json and env [default: 90d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    valid: Option<Duration>,
    #[command(flatten)]
    connect: MaybeConnect,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Pem,
    Json,
    Env,
    Ssh,
    Xlattice,
}

/// What is to be written, and until when that is good, if it ends.
struct Export {
    files: Vec<File>,
    tls: Option<Tls>,
}

pub(crate) async fn export(args: &ExportArgs) -> anyhow::Result<Code> {
    let dir = args.dir()?;
    if args.valid.is_some() && !args.format.has_certificate() {
        return Err(misuse("--valid is about certificates, of which this format has none").into());
    }
    let Goal { cluster, invitation, .. } = Goal::new(&args.target)?;
    let doing = || format!("exporting a member of cluster {cluster}");
    let identity = args.identity(&cluster).await?;
    let registry = match args.offline {
        true => None,
        false => {
            let whose =
                Whose::Member { identity: args.identity.as_deref(), name: args.name.as_ref() };
            let at = At::new(invitation, &args.connect, &cluster, whose).await?;
            let at = at.ok_or_else(unsaid)?;
            Some(at.registry(&identity).await.with_context(doing)?)
        }
    };
    let roster = args.roster(&cluster, &identity, registry.as_ref()).await.with_context(doing)?;
    args.refuse_incomplete(&cluster, &roster)?;
    let portable = Portable::new(&identity, &roster);
    let portable = portable.map_err(|error| args.not_a_member(&error))?;
    let mut export = args.make(&portable, &dir, registry.as_ref()).await.with_context(doing)?;
    let signed = args.signed(&identity, &roster, registry.as_ref()).await.with_context(doing)?;
    export.files.extend(signed);
    let written: Vec<_> = export.files.iter().map(|file| (file.path, file.private)).collect();
    portable::write(&dir, export.files).await.map_err(|error| not_written(&error))?;

    let until = export.tls.map(|tls| output::moment(tls.valid_until().into()));
    let told = Told { portable: &portable, dir: &dir, written: &written, until };
    args.output.print(&told.to_json(), || told.to_text())?;
    if args.output.is_human() {
        output::note(&telling::hints(args.format, &portable, &dir));
    }
    Ok(Code::Done)
}

impl Format {
    fn has_certificate(self) -> bool {
        matches!(self, Self::Pem | Self::Json | Self::Env)
    }
}

impl ExportArgs {
    /// Where to write, absolute, as it will stand in files and lines to copy.
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let dir = std::path::absolute(&self.dir).context("the directory to write to")?;
        let trouble = match dir.to_str() {
            Some(text) if text.chars().any(char::is_control) => "has control characters",
            Some(text) if self.format == Format::Ssh && !is_plain(text) => {
                "has characters that mean something in OpenSSH's configuration"
            }
            Some(_) => return Ok(dir),
            None => "is not UTF-8",
        };
        let message = format!(
            "{} can't stand in what names it, as its path {trouble}: choose another directory",
            dir.display()
        );
        Err(misuse(message).into())
    }

    async fn identity(&self, cluster: &ClusterKey) -> anyhow::Result<Identity> {
        let dir = match &self.identity {
            Some(dir) => dir.clone(),
            None => kept::member(cluster, self.name.as_ref())?,
        };
        let identity = Identity::load(dir).await?;
        Ok(match &self.name {
            Some(name) => identity.with_name(name.clone()),
            None => identity,
        })
    }

    async fn roster(
        &self,
        cluster: &ClusterKey,
        identity: &Identity,
        registry: Option<&Registry>,
    ) -> anyhow::Result<Roster> {
        if let Some(registry) = registry {
            return Ok(registry.show(identity, cluster).await?);
        }
        let kept = Roster::kept(identity.dir().unwrap_or(Path::new("."))).await;
        let roster = kept.map_err(|error| not_kept(&error))?;
        if roster.is_of(cluster) {
            return Ok(roster);
        }
        let message = format!(
            "the roster that is kept beside this identity is of another cluster, {} ({}): name that, \
             or another --identity",
            roster.title(),
            roster.id
        );
        Err(Ending::new(Code::NotFound, message).into())
    }

    /// The roster as the registry signs it, which only the modern door hands out.
    async fn signed(
        &self,
        identity: &Identity,
        roster: &Roster,
        registry: Option<&Registry>,
    ) -> anyhow::Result<Option<File>> {
        let Some(registry) = registry.filter(|registry| registry.wire() == Wire::V2) else {
            return Ok(None);
        };
        let signed = registry.signed_roster(identity, &ClusterKey::Id(roster.id)).await?;
        Ok(Some(File::public(portable::SIGNED_ROSTER_FILE, signed.to_text())))
    }

    fn refuse_incomplete(&self, cluster: &ClusterKey, roster: &Roster) -> anyhow::Result<()> {
        let (here, size) = (roster.members.len(), roster.size as usize);
        if self.incomplete || here >= size {
            return Ok(());
        }
        let there: Vec<_> = roster.members.iter().map(|member| member.name.as_str()).collect();
        let then = if self.offline { " and leave out --offline" } else { "" };
        let message = format!(
            "cluster {}: {here} of {size} members; still missing {}; joined: {}; wait for the rest with \
             xlreg cluster wait {cluster}{then}, or export those who are there with --incomplete",
            roster.title(),
            size - here,
            if there.is_empty() { "nobody".to_owned() } else { there.join(", ") },
        );
        Err(Ending::new(Code::Incomplete, message).into())
    }

    fn not_a_member(&self, error: &PortableError) -> Ending {
        let hint = match self.offline {
            true => "was that before its keys were rotated? then leave out --offline",
            false => "name the identity that joined with --identity, or join first: xlreg join",
        };
        Ending::new(Code::NotFound, format!("{error}; {hint}"))
    }

    async fn make(
        &self,
        portable: &Portable,
        dir: &Path,
        registry: Option<&Registry>,
    ) -> anyhow::Result<Export> {
        let credentials = registry.map(Registry::credentials);
        let files = match self.format {
            Format::Ssh => portable.ssh(),
            Format::Xlattice => portable.xlattice(dir, credentials).await?,
            Format::Pem | Format::Json | Format::Env => {
                let tls = portable.tls(self.valid.unwrap_or(portable::VALID)).await?;
                let mut files = tls.files();
                match self.format {
                    Format::Json => files.push(portable.json(&tls, dir)),
                    Format::Env => files.extend(variables(portable, dir)),
                    _ => {}
                }
                return Ok(Export { files, tls: Some(tls) });
            }
        };
        Ok(Export { files, tls: None })
    }
}

/// The variables that a program of `xlreg run --tls` finds, as a file, and the roster that they name.
fn variables(portable: &Portable, dir: &Path) -> [File; 2] {
    let roster = portable.roster();
    let mut places = join::places(roster, dir);
    for place in &mut places.members {
        place.tls = Some(TlsFiles {
            cert: dir.join(portable::CERT_FILE),
            key: dir.join(portable::KEY_FILE),
            roster_ca: dir.join(portable::ROSTER_CA_FILE),
        });
    }
    // Ranks may have gaps, places have none.
    let me = roster.iter().position(|(rank, _)| rank == portable.rank()).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in places.variables(me, &dir.join(ROSTER_FILE)).into_iter().flatten() {
        let value = match name {
            "XLREG_RANK" => Some(portable.rank().to_string()),
            _ => value,
        };
        if let Some(value) = value {
            let _to_memory = writeln!(text, "{name}={}", env_word(&value));
        }
    }
    let roster = format!("{:#}\n", roster.to_file_json());
    [File::public(ENV_FILE, text), File::public(ROSTER_FILE, roster)]
}

/// A value as the shell, systemd and, if it needs no quotes, Docker read it.
fn env_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,[]".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::from('"');
    for c in value.chars() {
        if "\"\\`$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Whether OpenSSH takes a path for what it says.
fn is_plain(path: &str) -> bool {
    shell_word(Path::new(path)) == path && !path.contains('%')
}

fn unsaid() -> Ending {
    misuse(
        "say which registry to ask for the roster: --registry CRED, or an invitation in the cluster's \
         place; or take the one that is kept beside the identity: --offline",
    )
}

fn misuse(message: impl Into<String>) -> Ending {
    Ending::new(Code::Usage, message)
}

fn not_kept(error: &KeptError) -> Ending {
    match error {
        KeptError::Missing { .. } => {
            let hint =
                "join the cluster with this identity, or ask the registry: leave out --offline";
            Ending::new(Code::NotFound, format!("{error}; {hint}"))
        }
        _ => Ending::new(Code::Failed, error.to_string()),
    }
}

fn not_written(error: &WriteError) -> Ending {
    match error {
        WriteError::Foreign { .. } => Ending::new(Code::Conflict, error.to_string()),
        WriteError::File { .. } => {
            let hint = "see that you may write there and that there is room, and run this again";
            Ending::new(Code::Failed, format!("{error}; {hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_shells_and_need_no_quotes_if_they_are_plain() {
        for plain in ["", "/run/m-1/cert.pem", "[::1]:4001", "alpha"] {
            assert_eq!(env_word(plain), plain);
        }
        assert_eq!(env_word("/a b"), r#""/a b""#);
        assert_eq!(env_word(r#"/it's $5 `x` "\"#), r#""/it's \$5 \`x\` \"\\""#);
    }
}
