//! When a program counts as ready.
//!
//! | written | ready once |
//! |---|---|
//! | `tcp` | the member's first endpoint takes a connection |
//! | `tcp:HOST:PORT` | that endpoint does; may have placeholders |
//! | `http://HOST[:PORT]/PATH` | a GET is answered with 2xx; may have placeholders |
//! | `https://HOST[:PORT]/PATH` | the same over TLS, if members have files for that |
//! | `line:REGEX` | a line of the program's output, stdout or stderr, matches |
//! | `cmd:COMMAND` | `sh -c COMMAND` ends with 0; may have placeholders |
//!
//! A [`Readiness`] is parsed once for all members. For each it becomes a [`Check`], which tries until
//! it succeeds: 50 ms after the first failure, then after longer pauses, up to 500 ms. Each try is
//! bounded, in time and in what it keeps. How long the whole may take is its owner's business; so is
//! the program, which may have ended meanwhile.

mod command;
mod connect;
mod http;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;
use tokio::sync::{SetOnce, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;
use xlreg_core::Endpoint;
use xlreg_core::endpoint::EndpointError;

use self::http::Url;
use crate::{Offer, Template, TemplateError, Values};

/// The pause after the first try. Most programs are up after one or two.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause between two tries; what a program that starts slowly waits at most in vain.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The time for one try over the network. On a machine of its own a program answers in far less,
/// unless it is too busy to be called ready.
const NETWORK_TRY: Duration = Duration::from_secs(2);

/// The time for one try of a command, which may have to start an interpreter.
const COMMAND_TRY: Duration = Duration::from_secs(5);

/// How large a compiled pattern may become, and again the memory it works in: a slip such as
/// `(a{1000}){1000}` is refused rather than paid for by every member.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// An environment variable, to be set or, without a value, removed.
pub type Variable = (OsString, Option<OsString>);

/// How `https:` speaks TLS with a member's program: whom it trusts, and which certificate it shows.
pub type Tls = Arc<ClientConfig>;

/// When a program counts as ready; the same for all members.
#[derive(Clone, Debug)]
pub struct Readiness(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Tcp(Template),
    Http(Template),
    Line(Regex),
    Command(Template),
}

/// A text from which nobody can tell when a program is ready.
#[derive(Clone, Debug, Error)]
pub enum ReadinessError {
    /// None of the ways there are.
    #[error(
        "{text:?} does not say when a program is ready; there are tcp, tcp:HOST:PORT, \
         http://HOST[:PORT]/PATH, https://HOST[:PORT]/PATH, line:REGEX and cmd:COMMAND"
    )]
    Unknown {
        /// What was given.
        text: String,
    },
    /// A way without what it needs.
    #[error("{kind}: has nothing after it; write {example}")]
    Empty {
        /// The way.
        kind: &'static str,
        /// How it could look.
        example: &'static str,
    },
    /// HTTP over TLS, where members have no files for it.
    #[error(
        "https:// can be tried only with --tls, for want of certificates to trust; add that, or use \
         tcp, http:// or cmd:curl with the options that your certificates need"
    )]
    Https,
    /// `tcp` alone, for a program whose endpoint isn't known.
    #[error(
        "tcp needs an endpoint: the program joins the cluster by itself, so its own is not known \
         before it starts; write tcp:HOST:PORT, or use line:REGEX or cmd:COMMAND"
    )]
    NoEndpoint,
    /// A placeholder that can't be filled in.
    #[error("in {text:?}: {reason}")]
    Template {
        /// The text with the placeholder.
        text: String,
        /// What is wrong with it.
        reason: TemplateError,
    },
    /// A pattern that isn't one, or is too large.
    #[error("line:{pattern} can't be used: {reason}")]
    Regex {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: regex::Error,
    },
    /// What `tcp:` became for a member is no endpoint.
    #[error("tcp:{text} can't be tried: {reason}")]
    Endpoint {
        /// The text, filled in.
        text: String,
        /// What is wrong with it.
        reason: EndpointError,
    },
    /// What `http://` or `https://` became for a member is no URL that can be asked.
    #[error(
        "{text} can't be tried: {reason}; write http[s]://HOST[:PORT]/PATH, with an IPv6 address in \
         brackets, as it is in {{endpoint}}"
    )]
    Url {
        /// The text, filled in.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One member's check. Its owner awaits [`wait`](Check::wait) under a timeout of its own, and feeds
/// it the program's output.
pub struct Check {
    probe: Probe,
    trouble: watch::Sender<String>,
}

/// A [`Kind`] with one member's values.
enum Probe {
    Tcp(Endpoint),
    Http(Url),
    Line { regex: Regex, seen: SetOnce<()> },
    Command { command: String, env: Vec<Variable> },
}

impl Readiness {
    /// Parses `text`, of which every placeholder must be on `offer`.
    ///
    /// # Errors
    /// [`ReadinessError`], but for its `Endpoint` and `Url`: those show when values are filled in.
    pub fn parse(text: &str, offer: &Offer) -> Result<Self, ReadinessError> {
        let template = |text: &str| {
            Template::parse(text, offer)
                .map_err(|reason| ReadinessError::Template { text: text.to_owned(), reason })
        };
        let empty = |kind, example| Err(ReadinessError::Empty { kind, example });
        Ok(Self(match text.split_once(':').unwrap_or((text, "")) {
            ("tcp", "") if !text.contains(':') => match offer.roster {
                true => Kind::Tcp(template("{endpoint}")?),
                false => return Err(ReadinessError::NoEndpoint),
            },
            ("tcp", "") => return empty("tcp", "tcp:{endpoint}"),
            ("tcp", endpoint) => Kind::Tcp(template(endpoint)?),
            ("http", address) if address.starts_with("//") => Kind::Http(template(text)?),
            ("https", address) if address.starts_with("//") && offer.tls => {
                Kind::Http(template(text)?)
            }
            ("https", address) if address.starts_with("//") => return Err(ReadinessError::Https),
            ("line", "") => return empty("line", "line:listening"),
            ("line", pattern) => Kind::Line(regex(pattern)?),
            ("cmd", "") => return empty("cmd", "cmd:test -e {dir}/ready"),
            ("cmd", command) => Kind::Command(template(command)?),
            _ => return Err(ReadinessError::Unknown { text: text.to_owned() }),
        }))
    }

    /// The check of one member. `env` is what the member's environment has that ours hasn't, for
    /// commands; `tls` is for `https:`.
    ///
    /// # Errors
    /// [`ReadinessError::Endpoint`] or [`ReadinessError::Url`] if that is not what it becomes with
    /// these values, [`ReadinessError::Https`] if it needs `tls` and there is none.
    pub fn check(
        &self,
        values: &Values<'_>,
        env: Vec<Variable>,
        tls: Option<&Tls>,
    ) -> Result<Check, ReadinessError> {
        let probe = match &self.0 {
            Kind::Tcp(template) => Probe::Tcp(endpoint(template.fill_with(values))?),
            Kind::Http(template) => Probe::Http(Url::parse(template.fill_with(values), tls)?),
            Kind::Line(regex) => Probe::Line { regex: regex.clone(), seen: SetOnce::new() },
            Kind::Command(template) => Probe::Command { command: template.fill_with(values), env },
        };
        let trouble = match &probe {
            Probe::Line { regex, .. } => format!("no line of its output has matched {regex} yet"),
            _ => "the first try has not ended yet".to_owned(),
        };
        Ok(Check { probe, trouble: watch::Sender::new(trouble) })
    }
}

impl Check {
    /// Waits until the program is ready, for as long as that takes.
    ///
    /// Cancel safe: dropped, it stops trying, ends what the try under way has started, and can be
    /// called again.
    pub async fn wait(&self) {
        let mut pause = PAUSE_MIN;
        while let Err(trouble) = self.probe.attempt().await {
            self.trouble.send_replace(trouble);
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// What stood in the way last, to follow "member_2 is not ready: ".
    #[must_use]
    pub fn trouble(&self) -> String {
        self.trouble.borrow().clone()
    }

    /// Takes a line of the program's output, with or without its end. Returns whether it is one that
    /// says the program is ready, which only `line:` can tell; then [`wait`](Self::wait) ends.
    pub fn sees_line(&self, line: &[u8]) -> bool {
        let Probe::Line { regex, seen } = &self.probe else { return false };
        // Without the end of the line, `$` in a pattern is where its writer thinks it is.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let matches = regex.is_match(line);
        if matches {
            // An error is an earlier line's match.
            let _set_before = seen.set(());
        }
        matches
    }
}

impl Probe {
    /// One try, or for `line:` the only one; its error says what stood in the way.
    async fn attempt(&self) -> Result<(), String> {
        match self {
            Self::Tcp(endpoint) => timeout(NETWORK_TRY, connect::connect(endpoint))
                .await
                .unwrap_or_else(|_| {
                    Err(format!("no connection within {NETWORK_TRY:?} at {endpoint}"))
                })
                .map(drop),
            Self::Http(url) => timeout(NETWORK_TRY, url.get())
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {NETWORK_TRY:?} from {url}"))),
            Self::Line { seen, .. } => {
                seen.wait().await;
                Ok(())
            }
            Self::Command { command, env } => timeout(COMMAND_TRY, command::run(command, env))
                .await
                .unwrap_or_else(|_| Err(format!("it did not end within {COMMAND_TRY:?}")))
                .map_err(|trouble| format!("`{command}`: {trouble}")),
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, ReadinessError> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|reason| ReadinessError::Regex { pattern: pattern.to_owned(), reason })
}

fn endpoint(text: String) -> Result<Endpoint, ReadinessError> {
    text.parse().map_err(|reason| ReadinessError::Endpoint { text, reason })
}
