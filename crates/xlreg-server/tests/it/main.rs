//! The server on real sockets: limits, hostile clients, stopping, a failing store, a crash.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod crash;
mod home;
mod hostile;
mod limits;
mod rigged;
mod stopping;
mod support;
