//! The real binary, driven as a user drives it: what it prints, what it leaves behind, and the code
//! it exits with.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod barrier;
mod crash;
mod detached;
mod guard;
mod helper;
mod identity;
mod kept;
mod members;
mod output;
mod outside;
mod pool;
mod ports;
mod ready;
mod room;
mod run;
mod serve;
mod store;
mod supervision;
mod support;
mod templates;
mod usage;
