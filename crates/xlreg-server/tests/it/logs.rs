//! What the operator is told, and what not.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Level, Metadata, Subscriber};

use xlreg_api::v2::ErrorReason;
use xlreg_server::config::Connections;

use crate::admission::with_token;
use crate::caller::{Caller, refused};
use crate::support::{Running, patient, sig_key};

/// Lines of the log of all that runs on this thread: level, message, fields.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = set_default(log.clone());
        (log, guard)
    }

    /// The lines at this level since they were last taken.
    fn take(&self, level: Level) -> Vec<String> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap());
        let start = format!("{level} ");
        lines.iter().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("xlreg_server") && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{}", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        }
        .unwrap();
    }
}

fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(what)).count()
}

/// Or whoever repeats a call would fill the log.
#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let (log, _guard) = Log::listen();
    let server = Running::in_memory(patient()).await;
    let mut caller = Caller::known(server.address, 0).await;
    caller.create("alpha", 2).await.unwrap();
    caller.join("alpha", "a").await.unwrap();
    caller.relocate("alpha").await.unwrap();
    let told = log.take(Level::INFO);
    assert_eq!(["created", "joined", "moved"].map(|what| count(&told, what)), [1; 3], "{told:?}");
    for _ in 0..3 {
        caller.create("alpha", 2).await.unwrap();
        caller.relocate("alpha").await.unwrap();
        caller.rotate_in_place().await.unwrap();
    }
    assert_eq!(log.take(Level::INFO), Vec::<String>::new());
    caller.leave("alpha").await.unwrap();
    assert_eq!(count(&log.take(Level::INFO), "left"), 1);
    for _ in 0..3 {
        caller.leave("alpha").await.unwrap();
    }
    assert_eq!(log.take(Level::INFO), Vec::<String>::new());
    caller.join("alpha", "a").await.unwrap();
    assert_eq!(count(&log.take(Level::INFO), "joined"), 1);
    for _ in 0..3 {
        caller.join("alpha", "a").await.unwrap();
    }
    assert_eq!(log.take(Level::INFO), Vec::<String>::new());
    caller.rotate(sig_key(1)).await.unwrap();
    assert_eq!(count(&log.take(Level::INFO), "keys rotated"), 1);
}

/// Of those who fail without saying who they are there may be as many as an address has ports.
#[tokio::test]
async fn connections_that_come_to_nothing_are_not_told_without_end() {
    let (log, _guard) = Log::listen();
    let silent = Connections { hello: Duration::from_millis(1), ..patient() };
    let server = Running::in_memory(silent).await;
    for _ in 0..200 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    let lines = log.0.lock().unwrap().clone();
    let at = |level: Level| count(&lines, &format!("{level} session over: no hello in 1 ms"));
    // One a second may come while this takes its time.
    assert!(at(Level::INFO) >= 40 && at(Level::DEBUG) >= 50, "{} told", at(Level::INFO));
}

/// With who was refused and why, and nothing of what it sent.
#[tokio::test]
async fn refusals_are_told_without_secrets_and_not_without_end() {
    let (log, _guard) = Log::listen();
    let server = Running::in_memory(patient()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.define(with_token("alpha")).await.unwrap();
    owner.create("beta", 2).await.unwrap();
    let secret = owner.token("alpha", 1, Duration::from_secs(60)).await.unwrap().secret;
    owner.join_with("alpha", "o", &secret).await.unwrap();
    let mut caller = Caller::known(server.address, 1).await;
    log.take(Level::INFO);

    refused(caller.join_with("alpha", "a", &secret).await, ErrorReason::TokenSpent);
    refused(caller.join_with("alpha", "a", &secret[1..]).await, ErrorReason::InvalidField);
    refused(caller.create("beta", 3).await, ErrorReason::ClusterExists);
    refused(caller.rotate(sig_key(0)).await, ErrorReason::KeyInUse);
    refused(caller.delete("beta").await, ErrorReason::NotOwner);
    let lines = log.0.lock().unwrap().clone();
    assert!(lines.iter().all(|line| !line.contains(&secret[4..])), "{lines:?}");
    let who = format!("key={} peer=127.0.0.1:", sig_key(1).public().fingerprint());
    let told = log.take(Level::INFO);
    let expected = [
        "refused call=\"JoinCluster\" reason=\"TOKEN_SPENT\" ",
        "refused call=\"JoinCluster\" reason=\"INVALID_FIELD\" field=\"token\" ",
        "refused call=\"CreateCluster\" reason=\"CLUSTER_EXISTS\" ",
        "refused call=\"RotateKeys\" reason=\"KEY_IN_USE\" ",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (line, start) in told.iter().zip(expected) {
        assert!(line.starts_with(&format!("{start}{who}")), "{line}");
    }

    // One a second may come while this takes its time.
    for _ in 0..300 {
        refused(caller.join("alpha", "a").await, ErrorReason::TokenRequired);
    }
    let lines = log.0.lock().unwrap().clone();
    let at = |level: Level| lines.iter().filter(|line| line.starts_with(level.as_str())).count();
    assert_eq!(at(Level::INFO) + at(Level::DEBUG), 300);
    assert!(at(Level::INFO) >= 40 && at(Level::DEBUG) >= 100, "{} told", at(Level::INFO));
}
