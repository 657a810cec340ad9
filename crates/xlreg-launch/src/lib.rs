//! How N copies of a program are started, watched and stopped as one cluster.
//!
//! | module | what it holds |
//! |---|---|
//! | [`port`] | ports that are taken before anyone learns them, and stay so |
//! | [`loopback`] | loopback addresses of a cluster's own |
//! | [`place`] | what a program is told: its own place and everybody's |
//! | [`template`] | the same in any shape: placeholders in arguments, variables and files |
//! | [`descriptors`] | how many files may be open |
//! | [`program`] | one member's program, started |
//! | [`output`] | what programs write, line by line |
//! | [`supervise`] | programs that run, fail, are paused, killed and started again |
//! | [`marked`] | what is left of them wherever it went |
//! | `exec` | what must happen between fork and exec |
//! | [`ready`] | when a program counts as ready |
//!
//! Invariant: nothing here knows registries, keys or the wire. Whoever launches has formed the
//! cluster before, and hands over what it became.

pub mod descriptors;
mod exec;
#[cfg(target_os = "linux")]
pub mod loopback;
pub mod marked;
pub mod output;
pub mod place;
pub mod port;
pub mod program;
pub mod ready;
pub mod supervise;
pub mod template;

pub use place::{Place, Places, TlsFiles};
pub use ready::{Check, Readiness, ReadinessError};
pub use template::{Offer, Template, TemplateError, Values};
