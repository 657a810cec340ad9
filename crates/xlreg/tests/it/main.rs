//! The library against a registry in process, and against one that misbehaves.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod fake;
mod files;
mod meeting;
mod misbehaving;
mod modern;
mod peers;
mod refusals;
mod restart;
mod rotating;
mod showing;
mod signing;
mod support;
mod tunnel;
mod watching;
