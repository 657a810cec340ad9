//! Every knob of the server.
//!
//! [`File`] is what a configuration file may say; unknown keys are refused. [`Config`] is what the
//! server runs with. The one becomes the other in [`Config::from_file`], and nowhere else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use xlreg_core::limits::Limits;
use xlreg_node::files;
use xlreg_proto::text::FILE_BYTES_MAX;

/// Milliseconds that a lookup may be held at most: well within the 20 s that our own client waits
/// for an answer.
const HOLD_MS_MAX: u64 = 10_000;

/// What the server runs with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How much the registry remembers.
    pub limits: Limits,
    /// How many connections, and how long each part of one may take.
    pub connections: Connections,
}

/// Bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Connections at once. Beyond it new ones wait in the kernel's backlog. Each costs some KiB
    /// and a file descriptor.
    pub max: usize,
    /// Connections at once from one IP address. Beyond it new ones are closed at once, so one
    /// machine can't take all the room.
    pub max_per_address: usize,
    /// From accepting a connection to its hello, whole and opened: in a flood of hellos, those that
    /// wait for longer are not worth the work any more.
    pub hello: Duration,
    /// From the first byte of a message to its last. On this wire, rubbish can't be told from a
    /// message still under way, so this is also how long rubbish is listened to.
    pub message: Duration,
    /// From an answer to the first byte of the next request.
    pub idle: Duration,
    /// For the client to take an answer.
    pub write: Duration,
    /// For a session as a whole. Our client reconnects and goes on waiting.
    pub session: Duration,
    /// How long a lookup of members who are not there yet is held, waiting for news. 0 answers at
    /// once, as the originals do. Deployed clients ask 32 times, so the product is how long they
    /// wait for a cluster.
    pub hold: Duration,
    /// For sessions to end by themselves when the server stops.
    pub drain: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 16_384,
            max_per_address: 4_096,
            hello: Duration::from_secs(5),
            message: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            write: Duration::from_secs(10),
            session: Duration::from_secs(900),
            hold: Duration::from_secs(2),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a configuration file may say. Everything is optional; a flag of the same name goes first.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// Address to listen on, `HOST:PORT`; port 0 takes a free one.
    pub listen: Option<String>,
    /// `HOST` or `HOST:PORT` to put into the credentials.
    pub advertise: Option<String>,
    /// Directory to keep everything in.
    pub data: Option<PathBuf>,
    /// The registry's name, given when its directory is made.
    pub name: Option<String>,
    /// Keep nothing.
    pub ephemeral: Option<bool>,
    /// `[limits]`
    #[serde(default)]
    pub limits: FileLimits,
    /// `[connections]`
    #[serde(default)]
    pub connections: FileConnections,
}

/// `[limits]`: see [`Limits`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileLimits {
    nodes_max: Option<usize>,
    clusters_max: Option<usize>,
    members_max: Option<usize>,
    ids_per_key_max: Option<usize>,
    clusters_per_key_max: Option<usize>,
    memberships_per_key_max: Option<usize>,
}

/// `[connections]`: see [`Connections`]. Times are milliseconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileConnections {
    max: Option<usize>,
    max_per_address: Option<usize>,
    hello_ms: Option<u64>,
    message_ms: Option<u64>,
    idle_ms: Option<u64>,
    write_ms: Option<u64>,
    session_ms: Option<u64>,
    hold_ms: Option<u64>,
    drain_ms: Option<u64>,
}

/// A configuration file that can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("reading the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the TOML expected.
    #[error("reading the configuration file {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Lookups would be held longer than clients wait for an answer.
    #[error(
        "connections.hold-ms is {got}, but clients give a registry up soon after {HOLD_MS_MAX} ms"
    )]
    Hold {
        /// What it is.
        got: u64,
    },
    /// A value makes no sense.
    #[error(
        "{key} is 0, and nothing could ever be served; leave it out for the default, {default}"
    )]
    Zero {
        /// The key.
        key: &'static str,
        /// What it is when left out.
        default: u64,
    },
}

impl File {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] if it can't be read, or says something we don't know.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = files::read_text(path, FILE_BYTES_MAX)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

impl Config {
    /// The runtime's configuration: what the file says, and the default for the rest.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] for a zero where nothing could be served with it.
    pub fn from_file(file: &File) -> Result<Self, ConfigError> {
        let (limits, times) = (&file.limits, &file.connections);
        let Self { limits: rules, connections: bounds } = Self::default();
        Ok(Self {
            limits: Limits {
                nodes_max: count("limits.nodes-max", limits.nodes_max, rules.nodes_max)?,
                clusters_max: count(
                    "limits.clusters-max",
                    limits.clusters_max,
                    rules.clusters_max,
                )?,
                members_max: count("limits.members-max", limits.members_max, rules.members_max)?,
                ids_per_key_max: count(
                    "limits.ids-per-key-max",
                    limits.ids_per_key_max,
                    rules.ids_per_key_max,
                )?,
                clusters_per_key_max: count(
                    "limits.clusters-per-key-max",
                    limits.clusters_per_key_max,
                    rules.clusters_per_key_max,
                )?,
                memberships_per_key_max: count(
                    "limits.memberships-per-key-max",
                    limits.memberships_per_key_max,
                    rules.memberships_per_key_max,
                )?,
            },
            connections: Connections {
                max: count("connections.max", times.max, bounds.max)?,
                max_per_address: count(
                    "connections.max-per-address",
                    times.max_per_address,
                    bounds.max_per_address,
                )?,
                hello: time("connections.hello-ms", times.hello_ms, bounds.hello)?,
                message: time("connections.message-ms", times.message_ms, bounds.message)?,
                idle: time("connections.idle-ms", times.idle_ms, bounds.idle)?,
                write: time("connections.write-ms", times.write_ms, bounds.write)?,
                session: time("connections.session-ms", times.session_ms, bounds.session)?,
                // These two may be 0: hold nothing, drain nobody.
                hold: hold(times.hold_ms, bounds.hold)?,
                drain: times.drain_ms.map_or(bounds.drain, Duration::from_millis),
            },
        })
    }
}

fn count(key: &'static str, given: Option<usize>, default: usize) -> Result<usize, ConfigError> {
    match given {
        Some(0) => Err(ConfigError::Zero { key, default: default as u64 }),
        given => Ok(given.unwrap_or(default)),
    }
}

fn time(key: &'static str, given: Option<u64>, default: Duration) -> Result<Duration, ConfigError> {
    match given {
        Some(0) => Err(ConfigError::Zero { key, default: default.as_millis() as u64 }),
        given => Ok(given.map_or(default, Duration::from_millis)),
    }
}

fn hold(given: Option<u64>, default: Duration) -> Result<Duration, ConfigError> {
    match given {
        Some(got) if got > HOLD_MS_MAX => Err(ConfigError::Hold { got }),
        given => Ok(given.map_or(default, Duration::from_millis)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        Config::from_file(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse(""), Ok(Config::default()));
    }

    #[test]
    fn every_key_arrives() {
        let text = "
            listen = '127.0.0.1:0'
            advertise = 'h'
            data = '/d'
            name = 'n'
            ephemeral = false
            [limits]
            nodes-max = 1
            clusters-max = 2
            members-max = 3
            ids-per-key-max = 21
            clusters-per-key-max = 22
            memberships-per-key-max = 23
            [connections]
            max = 4
            max-per-address = 5
            hello-ms = 6
            message-ms = 7
            idle-ms = 8
            write-ms = 9
            session-ms = 10
            hold-ms = 0
            drain-ms = 0
        ";
        let ms = Duration::from_millis;
        let expected = Config {
            limits: Limits {
                nodes_max: 1,
                clusters_max: 2,
                members_max: 3,
                ids_per_key_max: 21,
                clusters_per_key_max: 22,
                memberships_per_key_max: 23,
            },
            connections: Connections {
                max: 4,
                max_per_address: 5,
                hello: ms(6),
                message: ms(7),
                idle: ms(8),
                write: ms(9),
                session: ms(10),
                hold: ms(0),
                drain: ms(0),
            },
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn what_is_unknown_or_could_not_work_is_refused() {
        for bad in [
            "lisen = 'x'",
            "listen = 5",
            "[connections]\nmax = -1",
            "[connections]\nmax = 0",
            "[connections]\nhello-ms = 0",
            "[connections]\nhold-ms = 10001",
            "[limits]\nnodes-max = 0",
            "[limits]\nrooms = 1",
            "[tls]",
            "=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
