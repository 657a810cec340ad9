//! What a program is told of its membership: environment variables, and the roster in a file.

use std::path::Path;
use std::process::Command;

use xlreg::{Member, Roster};

/// Variables that only members with as many endpoints have.
const OF_ENDPOINTS: [(&str, &str, &str); 2] = [
    ("XLREG_ENDPOINT", "XLREG_HOST", "XLREG_PORT"),
    ("XLREG_ENDPOINT1", "XLREG_HOST1", "XLREG_PORT1"),
];

/// Sets the variables for the member at `rank`, as docs/operations/cli.md lists them.
pub(crate) fn set(
    command: &mut Command,
    roster: &Roster,
    rank: usize,
    me: &Member,
    dir: &Path,
    roster_file: &Path,
) {
    command.envs([
        ("XLREG_NAME", me.name.to_string()),
        ("XLREG_ID", me.id.to_string()),
        ("XLREG_RANK", rank.to_string()),
        ("XLREG_SIZE", roster.size.to_string()),
        ("XLREG_CLUSTER", roster.title()),
        ("XLREG_CLUSTER_ID", roster.id.to_string()),
        ("XLREG_DIR", dir.display().to_string()),
        ("XLREG_ROSTER", roster_file.display().to_string()),
    ]);
    for (place, (whole, host, port)) in OF_ENDPOINTS.into_iter().enumerate() {
        // We may be a member's program ourselves, and have that member's variables.
        let Some(endpoint) = me.endpoints.get(place) else {
            command.env_remove(whole).env_remove(host).env_remove(port);
            continue;
        };
        command.env(whole, endpoint.as_str()).env(host, endpoint.host());
        command.env(port, endpoint.port().to_string());
    }
}
