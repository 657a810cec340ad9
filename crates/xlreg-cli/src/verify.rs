//! `xlreg cluster verify`: of a FILE, whether a signed roster holds, and what it says, without any
//! network; of a CLUSTER, who reaches whom, which is the affair of [`verify_live`].

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use xlreg::signing::{Expected, Finding, Ranked, TextError, Verdict};
use xlreg::{Fingerprint, Name, Registry, SignedRoster};
use xlreg_proto::text::FILE_BYTES_MAX;

use crate::connect::{MaybeConnect, Wire, duration, path_from_env};
use crate::exit::{Code, Ending};
use crate::kept::Whose;
use crate::output::{self, Output};
use crate::target::{At, Goal, is_invitation, target};
use crate::verify_live;

/// What a signed roster's file is called, so that a name without a path is known to be one.
const EXTENSION: &str = "signed";

#[derive(Args)]
#[command(after_help = "Examples:
  xlreg cluster verify alpha --registry regCred.dat
  xlreg cluster verify alpha.signed --registry regCred.dat
  xlreg cluster verify alpha.signed --pin 25a5...ba35 --max-age 1h

Of a file, it ends with 0 if everything holds; else with 1, and prints what does not match, a line \
for each. Of a cluster, it ends with 0 if all members are there and reach each other, else with 7.")]
pub(crate) struct VerifyArgs {
    /// A signed roster: a path, or a file's name that ends in .signed; or else a cluster's name or ID,
    /// or an invitation to it, xlreg://..., or @FILE with one in it
    #[arg(value_name = "FILE|CLUSTER")]
    what: String,
    #[command(flatten)]
    trust: Trust,
    /// Of a file: it must have been signed within this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_age: Option<Duration>,
    /// Of a file: members may be missing
    #[arg(long)]
    allow_incomplete: bool,
    /// Of a file: members may have signed nothing, as those that joined over the old wire have
    #[arg(long)]
    allow_unsigned: bool,
    /// Of a cluster: the name of the member to look from [default: that of the identity]
    #[arg(long)]
    name: Option<Name>,
    /// Of a cluster: the identity it joined with [default: the one that `xlreg join` keeps for this
    /// cluster and name]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
    /// Of a cluster: how long to try, and to be there for the others
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, env = "XLREG_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    wire: Wire,
    #[command(flatten)]
    output: Output,
}

/// Whose signature counts.
#[derive(Args)]
#[group(multiple = false)]
struct Trust {
    /// The credentials of the registry that must have signed it, or knows the cluster [env:
    /// XLREG_REGISTRY]
    // Not clap's `env`: the variable must not stand against --pin and --unpinned.
    #[arg(long, value_name = "CRED")]
    registry: Option<PathBuf>,
    /// The same by the SHA-256 of its sig key: the sig_key_sha256 that `xlreg cred show` tells
    #[arg(long, value_name = "SHA256")]
    pin: Option<Fingerprint>,
    /// Believe the key in the file itself, which whoever made the file chose
    #[arg(long)]
    unpinned: bool,
}

impl Trust {
    /// The key that must have signed; none if the file's own is believed.
    fn pin(&self) -> anyhow::Result<Option<Fingerprint>> {
        match (self.pin, self.unpinned) {
            (Some(pin), _) => Ok(Some(pin)),
            (None, true) => Ok(None),
            (None, false) => match self.credentials() {
                Some(credentials) => key_of(&credentials).map(Some),
                None => {
                    let message = "say which registry must have signed it: --registry CRED or --pin \
                                   SHA256; or --unpinned, to believe the key in the file itself, \
                                   which proves nothing about who made it";
                    Err(Ending::new(Code::Usage, message).into())
                }
            },
        }
    }
}

impl Trust {
    /// The file of the registry's credentials.
    fn credentials(&self) -> Option<PathBuf> {
        self.registry.clone().or_else(|| path_from_env("XLREG_REGISTRY"))
    }
}

fn key_of(credentials: &Path) -> anyhow::Result<Fingerprint> {
    Ok(Registry::open(credentials)?.credentials().sig_key.fingerprint())
}

/// Whether `text` means a file rather than a cluster.
fn is_file(text: &str) -> bool {
    // Not even to look for it: what is missing is told by its name, and this may hold a secret.
    if text.starts_with('@') || is_invitation(text) {
        return false;
    }
    let path = Path::new(text);
    text.contains('/') || path.extension().is_some_and(|end| end == EXTENSION) || path.is_file()
}

pub(crate) fn main(args: &VerifyArgs) -> anyhow::Result<Code> {
    if is_file(&args.what) { verify_file(args) } else { crate::block_on(verify_cluster(args)) }
}

async fn verify_cluster(args: &VerifyArgs) -> anyhow::Result<Code> {
    let usage = |message: String| Ending::new(Code::Usage, message);
    let target = target(&args.what).map_err(|problem| {
        usage(format!(
            "{:?} is neither a file here, nor a name that ends in .{EXTENSION}, nor a cluster: {problem}",
            args.what
        ))
    })?;
    let of_files = args.trust.pin.is_some()
        || args.trust.unpinned
        || args.max_age.is_some()
        || args.allow_incomplete
        || args.allow_unsigned;
    if of_files {
        let message = "there is no file of that name here, and --pin, --unpinned, --max-age, \
                       --allow-incomplete and --allow-unsigned are about signed rosters, not about \
                       clusters; a file elsewhere is named by its path";
        return Err(usage(message.to_owned()).into());
    }
    let Goal { cluster, invitation, .. } = Goal::new(&target)?;
    let connect = MaybeConnect::new(args.trust.credentials(), args.wire.clone());
    let whose = Whose::Member { identity: args.identity.as_deref(), name: args.name.as_ref() };
    let at = At::new(invitation, &connect, &cluster, whose).await?.ok_or_else(|| {
        let said =
            "say which registry knows the cluster: --registry CRED, or an invitation in its place";
        usage(said.to_owned())
    })?;
    let live = verify_live::Live {
        cluster,
        name: args.name.clone(),
        identity: args.identity.clone(),
        timeout: args.timeout,
        output: args.output,
    };
    verify_live::verify_cluster(&live, at).await
}

fn verify_file(args: &VerifyArgs) -> anyhow::Result<Code> {
    let registry = args.trust.pin()?;
    let name = args.what.clone();
    let bytes = read(Path::new(&args.what)).with_context(|| format!("reading {name}"))?;
    let now = SystemTime::now().into();
    let expected = Expected {
        registry,
        age: args.max_age.map(|max| (now, max)),
        incomplete: args.allow_incomplete,
        unsigned: args.allow_unsigned,
    };
    let checked = Checked::new(name, &bytes, &expected);
    args.output.print(&checked.to_json(), || checked.to_text())?;
    if args.output.is_human() {
        for remark in checked.remarks() {
            output::note(&format!("note: {remark}"));
        }
        if registry.is_none() {
            output::note(
                "note: the registry's key was taken from the file itself (--unpinned): this says \
                 nothing of who made it",
            );
        }
    }
    match checked.faults() {
        0 => Ok(Code::Done),
        faults => {
            let s = if faults == 1 { "" } else { "s" };
            let message = format!("{} does not hold: {faults} finding{s}", checked.name);
            Err(Ending::new(Code::Failed, message).into())
        }
    }
}

/// Reads no more than a roster can have, and one byte to tell.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that was looked at.
struct Checked {
    name: String,
    pinned: bool,
    found: Result<(SignedRoster, Verdict), TextError>,
}

impl Checked {
    fn new(name: String, bytes: &[u8], expected: &Expected) -> Self {
        let found = SignedRoster::parse(bytes).map(|roster| {
            let verdict = roster.verify(expected);
            (roster, verdict)
        });
        Self { name, pinned: expected.registry.is_some(), found }
    }

    fn faults(&self) -> usize {
        self.found.as_ref().map_or(1, |(_, verdict)| verdict.faults.len())
    }

    fn remarks(&self) -> &[Finding] {
        self.found.as_ref().map_or(&[], |(_, verdict)| &verdict.remarks)
    }

    /// The roster if it holds, else what does not match, a line for each.
    fn to_text(&self) -> String {
        match &self.found {
            Err(error) => format!("{}: {}", self.name, explain(error)),
            Ok((roster, verdict)) if verdict.is_good() => self.table(roster),
            Ok((_, verdict)) => {
                let lines = verdict.faults.iter().map(|fault| format!("{}: {fault}", self.name));
                lines.collect::<Vec<_>>().join("\n")
            }
        }
    }

    fn table(&self, roster: &SignedRoster) -> String {
        let SignedRoster { registry, cluster, .. } = roster;
        let state = if roster.is_complete() { "complete" } else { "incomplete" };
        let title = format!(
            "cluster {} ({}): {} of {}, {state}, revision {}\n\
             signed {} by registry {}, sig key sha256 {}, {}",
            cluster.name,
            cluster.id,
            roster.present(),
            cluster.size,
            cluster.revision,
            output::moment(roster.signed),
            registry.name,
            registry.sig_key.fingerprint(),
            if self.pinned { "the pinned one" } else { "taken from the file itself" },
        );
        if roster.members.is_empty() {
            return title;
        }
        let rows = roster.members.iter().map(|Ranked { rank, left, member }| {
            let endpoints: Vec<_> = member.endpoints.iter().map(ToString::to_string).collect();
            vec![
                rank.to_string(),
                member.name.to_string(),
                if *left { "left" } else { "present" }.to_owned(),
                if member.entry_signature.is_some() { "signed" } else { "unsigned" }.to_owned(),
                endpoints.join(" "),
                member.id.to_string(),
            ]
        });
        let header = ["RANK", "NAME", "STATE", "ENTRY", "ENDPOINTS", "ID"];
        format!("{title}\n{}", output::table(&header, rows))
    }

    fn to_json(&self) -> Value {
        match &self.found {
            Err(error) => json!({
                "file": self.name,
                "verified": false,
                "pinned": self.pinned,
                "findings": [
                    { "kind": "unreadable", "line": error.line(), "text": explain(error) },
                ],
                "remarks": [],
                "roster": null,
            }),
            Ok((roster, verdict)) => json!({
                "file": self.name,
                "verified": verdict.is_good(),
                "pinned": self.pinned,
                "findings": verdict.faults.iter().map(finding_json).collect::<Vec<_>>(),
                "remarks": verdict.remarks.iter().map(finding_json).collect::<Vec<_>>(),
                "roster": roster_json(roster),
            }),
        }
    }
}

/// An error and its cause: the line, and what is wrong with it.
fn explain(error: &TextError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({ "kind": finding.kind(), "rank": finding.rank(), "text": finding.to_string() })
}

fn roster_json(roster: &SignedRoster) -> Value {
    let SignedRoster { registry, cluster, signed, members, .. } = roster;
    let members = members.iter().map(|Ranked { rank, left, member }| {
        json!({
            "rank": rank,
            "name": member.name.as_str(),
            "id": member.id.to_string(),
            "left": left,
            "entry_signed": member.entry_signature.is_some(),
            "endpoints": member.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "sig_key_sha256": member.sig_key.fingerprint().to_string(),
            "comms_key_sha256": member.comms_key.fingerprint().to_string(),
        })
    });
    json!({
        "registry": {
            "id": registry.id.to_string(),
            "name": registry.name.as_str(),
            "sig_key_sha256": registry.sig_key.fingerprint().to_string(),
        },
        "cluster": cluster.name.as_str(),
        "cluster_id": cluster.id.to_string(),
        "size": cluster.size,
        "endpoint_count": cluster.endpoint_count,
        "revision": cluster.revision,
        "complete": roster.is_complete(),
        "signed": output::moment(*signed),
        "members": members.collect::<Vec<_>>(),
    })
}
