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
mod doors;
mod export;
mod foreign;
mod guard;
mod helper;
mod identity;
mod invited;
mod kept;
mod linked;
mod members;
mod output;
mod outside;
mod owners;
mod pool;
mod ports;
mod ready;
mod room;
mod rotating;
mod run;
mod serve;
mod store;
mod supervision;
mod support;
mod templates;
mod terminal;
mod tunnel;
mod tunnelled;
mod usage;
mod verify;
mod verify_file;
mod watching;
