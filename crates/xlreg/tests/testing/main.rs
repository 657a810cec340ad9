//! Registries and clusters for tests, tested: what they give, what can be done to them, and that
//! nothing of them stays.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails should say where and stop"
)]

mod dropping;
mod example;
mod functions;
mod listeners;
mod programs;
mod refusals;
mod registry;
mod runtimes;
mod support;

/// What the document shows is what has been tested.
#[test]
fn the_document_has_the_example() {
    let document = include_str!("../../../../docs/testing.md");
    assert!(document.contains(include_str!("example.rs")), "copy example.rs to docs/testing.md");
}
