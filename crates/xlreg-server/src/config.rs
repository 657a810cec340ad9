//! Every knob of the server.
//!
//! [`File`] is what a configuration file may say; unknown keys are refused. [`Config`] is what the
//! server runs with. The one becomes the other in [`Config::from_file`], and nowhere else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use xlreg_core::Fingerprint;
use xlreg_core::limits::Limits;
use xlreg_node::files;
use xlreg_proto::text::FILE_BYTES_MAX;

use crate::rates::{Rate, SlowRate};
use crate::tally::is_shared;

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
    /// What the modern door grants.
    pub modern: Modern,
    /// Who may do what.
    pub access: Access,
}

/// Bounds of the modern door. The number of connections, the time for a handshake (`hello`) and the
/// drain are those of [`Connections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modern {
    /// TLS handshakes under way at once. Beyond it the address that has most of them loses its oldest
    /// to whoever has fewer; who has as many is turned away.
    pub handshakes_max: usize,
    /// The same from one IP address.
    pub handshakes_per_address_max: usize,
    /// Connections that one sig key may have open. One more is told so when it asks for something,
    /// and closed; until then it counts as a handshake.
    pub connections_per_key_max: usize,
    /// Streams that may follow a cluster for one sig key. An idle one costs a connection, or some
    /// KiB on one that is there.
    pub watches_per_key_max: usize,
    /// The same for one IP address.
    pub watches_per_address_max: usize,
    /// The same in all.
    pub watches_max: usize,
    /// Requests under way at once on one connection.
    pub streams_per_connection_max: u32,
    /// Bytes of news for watchers at one IP address that they have not taken in yet: whole rosters are
    /// up to 300 KiB, changes some KiB. A watch that would go beyond it is ended, and told when to
    /// come back; a connection that takes no news for as long as `request` and `stall` together is
    /// cut off.
    pub unread_bytes_per_address_max: usize,
    /// The same in all.
    pub unread_bytes_max: usize,
    /// Requests under way for one sig key, until their answers have been taken; creates and rotations
    /// also until the store has carried them out.
    pub requests_per_key_max: usize,
    /// The same for one IP address.
    pub requests_per_address_max: usize,
    /// The same in all. An answer that nobody takes may cost 300 KiB, for as long as `request` and
    /// `stall` together.
    pub requests_max: usize,
    /// Handshakes of one IP address.
    pub handshakes: Rate,
    /// Requests of one sig key.
    pub requests: Rate,
    /// Requests of one IP address, whatever keys it has: keys are cheap to make.
    pub address_requests: Rate,
    /// New IDs for one IP address, by both doors together; rotations of keys count among them.
    pub registrations: Rate,
    /// Rotations of one node's keys, whichever it has. One may change as many entries as a key may hold
    /// ranks, and leaves a key behind that has to be remembered for ever.
    pub rotations: SlowRate,
    /// How long a connection may be silent before it is asked to close, unless it follows a cluster.
    /// After `request` and `stall` together it is cut off.
    pub idle: Duration,
    /// How long a request may wait for the store.
    pub request: Duration,
    /// How often a watcher of a quiet cluster is told that there is nothing new.
    pub heartbeat: Duration,
    /// How long a client may take nothing in of what it is sent before its connection is cut off.
    pub stall: Duration,
    /// How long the owner of a cluster that lives as long as its owner is connected may be away.
    pub owner_grace: Duration,
}

impl Default for Modern {
    fn default() -> Self {
        Self {
            handshakes_max: 1024,
            handshakes_per_address_max: 256,
            connections_per_key_max: 1024,
            watches_per_key_max: 1024,
            watches_per_address_max: 32_768,
            watches_max: 131_072,
            unread_bytes_per_address_max: 64 * 1024 * 1024,
            unread_bytes_max: 512 * 1024 * 1024,
            streams_per_connection_max: 128,
            requests_per_key_max: 256,
            requests_per_address_max: 1024,
            requests_max: 8192,
            handshakes: Rate { per_second: 500, burst: 2000 },
            requests: Rate { per_second: 500, burst: 2000 },
            address_requests: Rate { per_second: 5000, burst: 20_000 },
            registrations: Rate { per_second: 100, burst: 2000 },
            rotations: SlowRate { per_minute: 6, burst: 5 },
            idle: Duration::from_secs(300),
            request: Duration::from_secs(10),
            heartbeat: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            owner_grace: Duration::from_secs(10),
        }
    }
}

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether the old wire is served; unless it is said, only where the registry listens on
    /// loopback. That wire has no protection against change on the way and no forward secrecy.
    pub legacy: Option<bool>,
    /// Sig keys, by fingerprint, that may do to every cluster what its owner may.
    pub admins: BTreeSet<Fingerprint>,
    /// Which clusters are listed to whom.
    pub listing: Listed,
}

/// Which clusters a key that is no administrator is listed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Listed {
    /// All of the registry's.
    #[default]
    All,
    /// Those that it owns or is a member of.
    Own,
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
    /// Hellos of the old wire, from one IP address, that are opened without their clients' proving
    /// who they are. Beyond it they wait, until their deadline at most: each costs an RSA private
    /// operation. So it is also how many clients of one address may be between hello and proof.
    pub unproven_hellos: Rate,
    /// From accepting a connection to its hello, whole and opened: in a flood of hellos, those that
    /// wait for longer are not worth the work any more. One that does not open is listened to for as
    /// long.
    pub hello: Duration,
    /// From the first byte of a message to its last. On this wire, rubbish can't be told from a
    /// message still under way, so this is also how long rubbish is listened to, and all else that
    /// must look like it.
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

impl Connections {
    /// The same where only so many connections are possible. What one address may have goes down
    /// with all, or it could have all of what is less then; unless it may have most as it is.
    #[must_use]
    pub fn at_most(mut self, possible: usize) -> Self {
        if possible < self.max {
            if is_shared(self.max_per_address, self.max) {
                self.max_per_address = self.max_per_address.min(possible / 4).max(1);
            }
            self.max = possible;
        }
        self
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 16_384,
            max_per_address: 4_096,
            unproven_hellos: Rate { per_second: 1, burst: 64 },
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
    /// `[modern]`
    #[serde(default)]
    pub modern: FileModern,
    /// `[access]`
    #[serde(default)]
    pub access: FileAccess,
}

/// `[modern]`: see [`Modern`]. Times are milliseconds; rates are a number a second, or a minute where
/// the name says so, and a burst.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileModern {
    handshakes_max: Option<usize>,
    handshakes_per_address_max: Option<usize>,
    connections_per_key_max: Option<usize>,
    watches_per_key_max: Option<usize>,
    watches_per_address_max: Option<usize>,
    watches_max: Option<usize>,
    unread_bytes_per_address_max: Option<usize>,
    unread_bytes_max: Option<usize>,
    streams_per_connection_max: Option<u32>,
    requests_per_key_max: Option<usize>,
    requests_per_address_max: Option<usize>,
    requests_max: Option<usize>,
    handshakes_per_second: Option<u32>,
    handshakes_burst: Option<u32>,
    requests_per_second: Option<u32>,
    requests_burst: Option<u32>,
    address_requests_per_second: Option<u32>,
    address_requests_burst: Option<u32>,
    registrations_per_second: Option<u32>,
    registrations_burst: Option<u32>,
    rotations_per_minute: Option<u32>,
    rotations_burst: Option<u32>,
    idle_ms: Option<u64>,
    request_ms: Option<u64>,
    heartbeat_ms: Option<u64>,
    stall_ms: Option<u64>,
    owner_grace_ms: Option<u64>,
}

/// `[access]`: see [`Access`].
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileAccess {
    legacy: Option<bool>,
    admins: Option<Vec<String>>,
    listing: Option<Listed>,
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
    unproven_hellos_per_second: Option<u32>,
    unproven_hellos_burst: Option<u32>,
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
    /// An administrator is no fingerprint.
    #[error(
        "access.admins has {got:?}, which is no fingerprint of a key: `xlreg id show` tells it as sig_key_sha256"
    )]
    Admin {
        /// What it has.
        got: String,
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
        let Self { limits: rules, connections: bounds, .. } = Self::default();
        Ok(Self {
            modern: modern(&file.modern)?,
            access: access(&file.access)?,
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
                unproven_hellos: Rate {
                    per_second: small(
                        "connections.unproven-hellos-per-second",
                        times.unproven_hellos_per_second,
                        bounds.unproven_hellos.per_second,
                    )?,
                    burst: small(
                        "connections.unproven-hellos-burst",
                        times.unproven_hellos_burst,
                        bounds.unproven_hellos.burst,
                    )?,
                },
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

fn modern(file: &FileModern) -> Result<Modern, ConfigError> {
    let default = Modern::default();
    let rate = |per_second: (&'static str, Option<u32>),
                burst: (&'static str, Option<u32>),
                rate: Rate| {
        Ok::<_, ConfigError>(Rate {
            per_second: small(per_second.0, per_second.1, rate.per_second)?,
            burst: small(burst.0, burst.1, rate.burst)?,
        })
    };
    Ok(Modern {
        handshakes_max: count(
            "modern.handshakes-max",
            file.handshakes_max,
            default.handshakes_max,
        )?,
        handshakes_per_address_max: count(
            "modern.handshakes-per-address-max",
            file.handshakes_per_address_max,
            default.handshakes_per_address_max,
        )?,
        connections_per_key_max: count(
            "modern.connections-per-key-max",
            file.connections_per_key_max,
            default.connections_per_key_max,
        )?,
        watches_per_key_max: count(
            "modern.watches-per-key-max",
            file.watches_per_key_max,
            default.watches_per_key_max,
        )?,
        watches_per_address_max: count(
            "modern.watches-per-address-max",
            file.watches_per_address_max,
            default.watches_per_address_max,
        )?,
        watches_max: count("modern.watches-max", file.watches_max, default.watches_max)?,
        unread_bytes_per_address_max: count(
            "modern.unread-bytes-per-address-max",
            file.unread_bytes_per_address_max,
            default.unread_bytes_per_address_max,
        )?,
        unread_bytes_max: count(
            "modern.unread-bytes-max",
            file.unread_bytes_max,
            default.unread_bytes_max,
        )?,
        streams_per_connection_max: small(
            "modern.streams-per-connection-max",
            file.streams_per_connection_max,
            default.streams_per_connection_max,
        )?,
        requests_per_key_max: count(
            "modern.requests-per-key-max",
            file.requests_per_key_max,
            default.requests_per_key_max,
        )?,
        requests_per_address_max: count(
            "modern.requests-per-address-max",
            file.requests_per_address_max,
            default.requests_per_address_max,
        )?,
        requests_max: count("modern.requests-max", file.requests_max, default.requests_max)?,
        handshakes: rate(
            ("modern.handshakes-per-second", file.handshakes_per_second),
            ("modern.handshakes-burst", file.handshakes_burst),
            default.handshakes,
        )?,
        requests: rate(
            ("modern.requests-per-second", file.requests_per_second),
            ("modern.requests-burst", file.requests_burst),
            default.requests,
        )?,
        address_requests: rate(
            ("modern.address-requests-per-second", file.address_requests_per_second),
            ("modern.address-requests-burst", file.address_requests_burst),
            default.address_requests,
        )?,
        registrations: rate(
            ("modern.registrations-per-second", file.registrations_per_second),
            ("modern.registrations-burst", file.registrations_burst),
            default.registrations,
        )?,
        rotations: SlowRate {
            per_minute: small(
                "modern.rotations-per-minute",
                file.rotations_per_minute,
                default.rotations.per_minute,
            )?,
            burst: small("modern.rotations-burst", file.rotations_burst, default.rotations.burst)?,
        },
        idle: time("modern.idle-ms", file.idle_ms, default.idle)?,
        request: time("modern.request-ms", file.request_ms, default.request)?,
        heartbeat: time("modern.heartbeat-ms", file.heartbeat_ms, default.heartbeat)?,
        stall: time("modern.stall-ms", file.stall_ms, default.stall)?,
        // This may be 0: clusters go at once.
        owner_grace: file.owner_grace_ms.map_or(default.owner_grace, Duration::from_millis),
    })
}

fn access(file: &FileAccess) -> Result<Access, ConfigError> {
    let admins = file.admins.iter().flatten();
    let admin = |text: &String| text.parse().map_err(|_| ConfigError::Admin { got: text.clone() });
    Ok(Access {
        legacy: file.legacy,
        admins: admins.map(admin).collect::<Result<_, _>>()?,
        listing: file.listing.unwrap_or_default(),
    })
}

fn small(key: &'static str, given: Option<u32>, default: u32) -> Result<u32, ConfigError> {
    match given {
        Some(0) => Err(ConfigError::Zero { key, default: default.into() }),
        given => Ok(given.unwrap_or(default)),
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
    fn what_one_address_may_have_goes_down_with_all() {
        let of = |max, max_per_address| Connections { max, max_per_address, ..Default::default() };
        assert_eq!(of(100, 20).at_most(100), of(100, 20));
        assert_eq!(of(100, 20).at_most(90), of(90, 20));
        assert_eq!(of(100, 20).at_most(40), of(40, 10));
        assert_eq!(of(100, 20).at_most(1), of(1, 1));
        assert_eq!(of(100, 80).at_most(40), of(40, 80), "one may have most of them");
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
            unproven-hellos-per-second = 61
            unproven-hellos-burst = 62
            hello-ms = 6
            message-ms = 7
            idle-ms = 8
            write-ms = 9
            session-ms = 10
            hold-ms = 0
            drain-ms = 0
            [modern]
            handshakes-max = 31
            handshakes-per-address-max = 32
            connections-per-key-max = 33
            watches-per-key-max = 34
            watches-per-address-max = 54
            watches-max = 55
            unread-bytes-per-address-max = 58
            unread-bytes-max = 59
            streams-per-connection-max = 35
            requests-per-key-max = 51
            requests-per-address-max = 52
            requests-max = 53
            handshakes-per-second = 36
            handshakes-burst = 37
            requests-per-second = 38
            requests-burst = 39
            address-requests-per-second = 56
            address-requests-burst = 57
            registrations-per-second = 40
            registrations-burst = 41
            rotations-per-minute = 58
            rotations-burst = 59
            idle-ms = 42
            request-ms = 43
            heartbeat-ms = 44
            stall-ms = 45
            owner-grace-ms = 0
            [access]
            legacy = true
            admins = ['abababababababababababababababababababababababababababababababab']
            listing = 'own'
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
                unproven_hellos: Rate { per_second: 61, burst: 62 },
                hello: ms(6),
                message: ms(7),
                idle: ms(8),
                write: ms(9),
                session: ms(10),
                hold: ms(0),
                drain: ms(0),
            },
            modern: Modern {
                handshakes_max: 31,
                handshakes_per_address_max: 32,
                connections_per_key_max: 33,
                watches_per_key_max: 34,
                watches_per_address_max: 54,
                watches_max: 55,
                unread_bytes_per_address_max: 58,
                unread_bytes_max: 59,
                streams_per_connection_max: 35,
                requests_per_key_max: 51,
                requests_per_address_max: 52,
                requests_max: 53,
                handshakes: Rate { per_second: 36, burst: 37 },
                requests: Rate { per_second: 38, burst: 39 },
                address_requests: Rate { per_second: 56, burst: 57 },
                registrations: Rate { per_second: 40, burst: 41 },
                rotations: SlowRate { per_minute: 58, burst: 59 },
                idle: ms(42),
                request: ms(43),
                heartbeat: ms(44),
                stall: ms(45),
                owner_grace: ms(0),
            },
            access: Access {
                legacy: Some(true),
                admins: [Fingerprint::from_bytes([0xab; 32])].into(),
                listing: Listed::Own,
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
            "[connections]\nunproven-hellos-burst = 0",
            "[connections]\nhold-ms = 10001",
            "[limits]\nnodes-max = 0",
            "[limits]\nrooms = 1",
            "[tls]",
            "[modern]\nrequests-per-second = 0",
            "[modern]\nrotations-per-minute = 0",
            "[access]\nadmins = ['me']",
            "[access]\nlisting = 'some'",
            "=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
