//! OpenSSH's files.

use std::net::Ipv6Addr;

use xlreg_core::{Endpoint, Member};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::{pem, sshkey};
use xlreg_tls::is_own_domain;

use super::File;
use crate::roster::Roster;

/// The port that `known_hosts` does not write.
const PORT: u16 = 22;

/// All four, for the member that is `me`. Its key is PKCS #1, which every SSH program reads.
pub(super) fn files(roster: &Roster, me: &Member, key: &PrivateKey) -> Vec<File> {
    let members = || roster.members.iter();
    vec![
        File::public("known_hosts", members().map(|member| known_host(member)).collect()),
        File::public("authorized_keys", members().map(|member| public_key(member)).collect()),
        File::private("ssh_key", pem::encode("RSA PRIVATE KEY", key.pkcs1())),
        File::public("ssh_key.pub", public_key(me)),
    ]
}

/// The line of a member: under each of its endpoints, and under a name that is its own wherever it
/// listens, for `HostKeyAlias`, and that no endpoint can claim.
fn known_host(member: &Member) -> String {
    let claimable = |endpoint: &&Endpoint| !is_own_domain(endpoint.host());
    let mut hosts: Vec<_> = member.endpoints.iter().filter(claimable).map(host).collect();
    hosts.push(format!("{}.xlreg", member.id));
    format!("{} {}", hosts.join(","), public_key(member))
}

fn host(endpoint: &Endpoint) -> String {
    let (host, port) = (endpoint.host(), endpoint.port());
    // As ssh writes an address that was given to it.
    let host = host.parse::<Ipv6Addr>().map_or_else(|_| host.to_owned(), |ip| ip.to_string());
    if port == PORT { host } else { format!("[{host}]:{port}") }
}

/// A member's key, with its name as a comment.
fn public_key(member: &Member) -> String {
    format!("{} {}\n", sshkey::encode(&member.sig_key), member.name)
}
