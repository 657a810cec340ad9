//! What an export tells people: what was written, and lines to copy.

use std::path::Path;

use serde_json::{Value, json};
use xlreg::{Member, Name, Portable, portable};

use super::{ENV_FILE, Format};
use crate::connect::shell_word;

/// What was written.
pub(super) struct Told<'a> {
    pub(super) portable: &'a Portable,
    pub(super) dir: &'a Path,
    /// Each file's path in it, and whether it is private.
    pub(super) written: &'a [(&'static str, bool)],
    /// How long the certificate is good, if there is one.
    pub(super) until: Option<String>,
}

impl Told<'_> {
    pub(super) fn to_text(&self) -> String {
        let (name, rank) = (&self.portable.member().name, self.portable.rank());
        let until = self.until.as_ref().map(|until| format!("; good until {until}"));
        let cluster = self.portable.roster().title();
        let title =
            format!("{name}, rank {rank} of cluster {cluster}{}", until.unwrap_or_default());
        let lines = self.written.iter().map(|(path, private)| {
            let private = if *private { "  (private)" } else { "" };
            format!("  {}{private}", self.dir.join(path).display())
        });
        std::iter::once(title).chain(lines).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn to_json(&self) -> Value {
        let roster = self.portable.roster();
        let file = |path: &str, private: bool| json!({ "path": self.dir.join(path).to_string_lossy(), "private": private });
        let files = self.written.iter().map(|(path, private)| file(path, *private));
        json!({
            "cluster": roster.name.as_ref().map(Name::as_str),
            "cluster_id": roster.id.to_string(),
            "complete": roster.is_complete(),
            "name": self.portable.member().name.as_str(),
            "rank": self.portable.rank(),
            "dir": self.dir.to_string_lossy(),
            "files": files.collect::<Vec<_>>(),
            "valid_until": self.until,
        })
    }
}

/// Lines to copy, for typical programs.
pub(super) fn hints(format: Format, portable: &Portable, dir: &Path) -> String {
    let path = |name: &str| shell_word(&dir.join(name));
    let others = portable.roster().iter().filter(|(rank, _)| *rank != portable.rank());
    let peer = others.map(|(_, member)| &**member).next().unwrap_or(portable.member());
    let files = [portable::CERT_FILE, portable::KEY_FILE, portable::ROSTER_CA_FILE].map(path);
    match format {
        Format::Pem => hints_on_tls(&files, peer),
        Format::Json => {
            format!("next, for instance:\n  jq -r .certificate_file {}", path("member.json"))
        }
        Format::Env => format!(
            "next, in a shell:\n  set -a; . {}; set +a\nor in a unit of systemd:\n  \
             EnvironmentFile={}",
            path(ENV_FILE),
            dir.join(ENV_FILE).display()
        ),
        Format::Ssh => hints_on_ssh(path, peer),
        Format::Xlattice => format!(
            "next: the original library finds both below its local file system {}",
            shell_word(dir)
        ),
    }
}

fn hints_on_tls([cert, key, roster_ca]: &[String; 3], peer: &Member) -> String {
    let endpoint = peer.endpoints.first().map_or("HOST:PORT", |endpoint| endpoint.as_str());
    format!(
        "next, for instance, as {endpoint} is {}'s:
  curl --cert {cert} --key {key} --cacert {roster_ca} https://{endpoint}/
  openssl s_client -connect {endpoint} -cert {cert} -key {key} -CAfile {roster_ca} -verify_return_error
  etcd --cert-file {cert} --key-file {key} --trusted-ca-file {roster_ca} --client-cert-auth \\
    --peer-cert-file {cert} --peer-key-file {key} --peer-trusted-ca-file {roster_ca} --peer-client-cert-auth
  redis-server --port 0 --tls-port 6379 --tls-cert-file {cert} --tls-key-file {key} \\
    --tls-ca-cert-file {roster_ca} --tls-auth-clients yes --tls-replication yes --tls-cluster yes",
        peer.name
    )
}

fn hints_on_ssh(path: impl Fn(&str) -> String, peer: &Member) -> String {
    let (host, port) = match peer.endpoints.first() {
        Some(endpoint) => (endpoint.host(), endpoint.port().to_string()),
        None => ("HOST", "PORT".to_owned()),
    };
    format!(
        "next, to reach {}, if its sshd listens at its endpoint:
  ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={} -p {port} {host}
or elsewhere, with:
  -o HostKeyAlias={}.xlreg
and to be reached, in an sshd_config:
  HostKey {}
  AuthorizedKeysFile {}",
        peer.name,
        path("ssh_key"),
        path("known_hosts"),
        peer.id,
        path("ssh_key"),
        path("authorized_keys"),
    )
}
