//! What a program is told of its membership: environment variables, and the roster in a file.

use std::path::Path;

use xlreg::{Member, Roster};

/// The variables for the member at `rank`, as docs/operations/cli.md lists them.
pub(crate) fn variables(
    roster: &Roster,
    rank: usize,
    me: &Member,
    dir: &Path,
    roster_file: &Path,
) -> Vec<(String, String)> {
    let mut variables = vec![
        ("XLREG_NAME", me.name.to_string()),
        ("XLREG_ID", me.id.to_string()),
        ("XLREG_RANK", rank.to_string()),
        ("XLREG_SIZE", roster.size.to_string()),
        ("XLREG_CLUSTER", roster.title()),
        ("XLREG_CLUSTER_ID", roster.id.to_string()),
        ("XLREG_DIR", dir.display().to_string()),
        ("XLREG_ROSTER", roster_file.display().to_string()),
    ];
    let names = [
        ("XLREG_ENDPOINT", "XLREG_HOST", "XLREG_PORT"),
        ("XLREG_ENDPOINT1", "XLREG_HOST1", "XLREG_PORT1"),
    ];
    for (endpoint, (whole, host, port)) in me.endpoints.iter().zip(names) {
        variables.push((whole, endpoint.to_string()));
        variables.push((host, endpoint.host().to_owned()));
        variables.push((port, endpoint.port().to_string()));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
