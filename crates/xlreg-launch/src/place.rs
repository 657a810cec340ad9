//! What a program is told: its own place and everybody's.

use std::path::PathBuf;

use xlreg_core::{ClusterId, Endpoint, Name, NodeId};

/// The environment variables of a member itself.
const OWN: [&str; 8] = [
    "XLREG_NAME",
    "XLREG_ID",
    "XLREG_RANK",
    "XLREG_SIZE",
    "XLREG_CLUSTER",
    "XLREG_CLUSTER_ID",
    "XLREG_DIR",
    "XLREG_ROSTER",
];

/// The environment variables of a member's TLS files.
const OF_TLS: [&str; 3] = ["XLREG_CERT", "XLREG_KEY", "XLREG_ROSTER_CA"];

/// The environment variables of an endpoint, its host and its port, by the endpoint's place.
const OF_ENDPOINTS: [[&str; 3]; 2] = [
    ["XLREG_ENDPOINT", "XLREG_HOST", "XLREG_PORT"],
    ["XLREG_ENDPOINT1", "XLREG_HOST1", "XLREG_PORT1"],
];

/// One member, as programs are told of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: Name,
    /// Its ID.
    pub id: NodeId,
    /// Where it is reached: first by the other members, second by clients.
    pub endpoints: Vec<Endpoint>,
    /// Its own directory, absolute.
    pub dir: PathBuf,
    /// What it needs for TLS with the others, if it has that.
    pub tls: Option<TlsFiles>,
}

/// The files by which a member's program speaks TLS with the others'. Their paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The member's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates that the members' rest on, and nobody else's.
    pub roster_ca: PathBuf,
}

/// All members of a complete cluster; a member's index is its rank.
#[derive(Clone, Debug)]
pub struct Places {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's ID.
    pub cluster_id: ClusterId,
    /// How many members it is for.
    pub size: u32,
    /// The members, by rank.
    pub members: Vec<Place>,
}

impl Places {
    /// Variables by which a program of ours would be taken for one of our caller's: to be removed.
    pub const FOREIGN: [&str; 3] = ["XLREG_REGISTRY", "XLREG_DIALECT", "XLREG_IDENTITY"];

    /// The names of all variables that [`Self::variables`] sets or removes.
    pub fn variable_names() -> impl Iterator<Item = &'static str> {
        OWN.iter().chain(&OF_TLS).chain(OF_ENDPOINTS.as_flattened()).copied()
    }

    /// The `XLREG_*` variables for the member at `rank`, as docs/operations/cli.md lists them, with
    /// the roster in `roster_file`. Those without a value are to be removed: we may be a member's
    /// program ourselves, and have that member's variables. None if nobody has that rank.
    #[must_use]
    pub fn variables(
        &self,
        rank: usize,
        roster_file: &std::path::Path,
    ) -> Option<Vec<(&'static str, Option<String>)>> {
        let me = self.members.get(rank)?;
        let own = [
            me.name.to_string(),
            me.id.to_string(),
            rank.to_string(),
            self.size.to_string(),
            self.cluster.clone(),
            self.cluster_id.to_string(),
            me.dir.display().to_string(),
            roster_file.display().to_string(),
        ];
        let mut variables: Vec<_> = OWN.into_iter().zip(own.map(Some)).collect();
        let path = |path: &PathBuf| path.display().to_string();
        let tls = me.tls.as_ref().map(|tls| [&tls.cert, &tls.key, &tls.roster_ca].map(path));
        for (nth, name) in OF_TLS.into_iter().enumerate() {
            variables.push((name, tls.as_ref().and_then(|paths| paths.get(nth)).cloned()));
        }
        for (place, [whole, host, port]) in OF_ENDPOINTS.into_iter().enumerate() {
            let endpoint = me.endpoints.get(place);
            variables.extend([
                (whole, endpoint.map(ToString::to_string)),
                (host, endpoint.map(|endpoint| endpoint.host().to_owned())),
                (port, endpoint.map(|endpoint| endpoint.port().to_string())),
            ]);
        }
        Some(variables)
    }
}
