//! The wire against what the originals put on it, and the conversation as a table.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod conversation;
mod sessions;
