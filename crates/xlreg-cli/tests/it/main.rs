//! The real binary, driven as a user drives it: what it prints, what it leaves behind, and the code
//! it exits with.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod crash;
mod identity;
mod members;
mod pool;
mod run;
mod serve;
mod support;
mod usage;
