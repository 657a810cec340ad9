//! A small replicated store: an example of a cluster that `xlreg` starts and tests.
//!
//! Every member keeps a copy of everything. A client talks to any of them; that one *coordinates*
//! the request, and answers once a majority of all members, itself among them, has taken part. Two
//! majorities always have a member in common, so whoever reads meets somebody who has the newest
//! value: as long as a majority lives, nothing acknowledged is lost or forgotten, and all members
//! give the same answers.
//!
//! | module | what it holds |
//! |---|---|
//! | [`node`] | a member: answers requests, and coordinates them |
//! | [`store`] | its own copy, on disk |
//!
//! # What a member knows of the others
//! Their addresses, by rank, which is all that [`Config`] says. Under `xlreg run` it comes from the
//! environment, and in a test from a `TestMember`; see `tests/cluster.rs`.
//!
//! # Requests
//! A connection carries one request, which is a line, and its answer, which ends with the
//! connection. Keys have no white space, values no newline.
//!
//! | request | of | answer |
//! |---|---|---|
//! | `SET key value` | clients | `OK` |
//! | `GET key` | clients | `VALUE value`, or `NONE` |
//! | `READ key` | members | the entry in the member's own copy, or nothing |
//! | `WRITE entry` | members | `OK`, once the member has it on disk |
//! | `DUMP` | members | all entries of the member's own copy, a line each |
//!
//! What goes wrong is answered with `ERR` and why.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub mod node;
pub mod store;

/// Bytes of the longest answer: a dump.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A member's place in its cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its rank.
    pub rank: usize,
    /// Where all members are reached, by rank.
    pub members: Vec<String>,
    /// The directory for its copy.
    pub dir: PathBuf,
}

/// What we need of `roster.json`.
#[derive(Deserialize)]
struct Roster {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    endpoints: Vec<String>,
}

impl Config {
    /// What `xlreg run` and `xlreg join` tell a program: `XLREG_RANK`, `XLREG_DIR`, and in
    /// `XLREG_ROSTER` the path of a file with all members.
    ///
    /// # Errors
    /// If a variable is missing or makes no sense, or the file can't be read.
    pub fn from_env() -> io::Result<Self> {
        let rank = variable("XLREG_RANK")?.parse().map_err(io::Error::other)?;
        let roster = std::fs::read_to_string(variable("XLREG_ROSTER")?)?;
        let roster: Roster = serde_json::from_str(&roster)?;
        let first = |member: Member| member.endpoints.into_iter().next().unwrap_or_default();
        let members = roster.members.into_iter().map(first).collect();
        Ok(Self { rank, members, dir: variable("XLREG_DIR")?.into() })
    }

    /// Its own address.
    ///
    /// # Errors
    /// If the rank is not one of the members'.
    pub fn address(&self) -> io::Result<&str> {
        let own = self.members.get(self.rank).map(String::as_str);
        own.ok_or_else(|| io::Error::other(format!("nobody has rank {}", self.rank)))
    }
}

fn variable(name: &str) -> io::Result<String> {
    let missing = |_| io::Error::other(format!("{name} is not set; start this with xlreg run"));
    std::env::var(name).map_err(missing)
}

/// Sends a request, without its newline, and returns the answer, without its last.
///
/// # Errors
/// What the network says.
pub async fn ask(address: &str, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    // One that was cut off, as its sender was killed, must not pass for a whole one.
    let whole = answer.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(whole.to_owned())
}
