//! The server on real sockets, through both of its doors.
//!
//! | of the old wire | of the modern door | of both |
//! |---|---|---|
//! | `hostile`, `limits` | `strangers`, `floods`, `abuse`, `quotas`, `watchers` | `doors`, `races`, `admission`, `lifetimes` |
//! | `crash`, `stopping` | | `home`, `logs` |
//!
//! Clients are bare: those of the old wire are in `support`, those of the modern door in `caller`,
//! which calls as a library would, and `frames`, which writes HTTP/2 by hand.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod abuse;
mod admission;
mod caller;
mod crash;
mod doors;
mod floods;
mod frames;
mod home;
mod hostile;
mod lifetimes;
mod limits;
mod logs;
mod quotas;
mod races;
mod rigged;
mod stopping;
mod strangers;
mod support;
mod watchers;
