//! How N copies of a program are started, watched and stopped as one cluster.
//!
//! | module | what it holds |
//! |---|---|
//! | [`place`] | what a program is told: its own place and everybody's |
//! | [`template`] | the same in any shape: placeholders in arguments, variables and files |
//!
//! Invariant: nothing here knows registries, keys or the wire. Whoever launches has formed the
//! cluster before, and hands over what it became.

pub mod place;
pub mod template;

pub use place::{Place, Places};
