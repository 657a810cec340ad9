//! The wire and the files against what the originals put there, and the conversation as a table.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod conversation;
mod roster;
mod sessions;
mod text;
