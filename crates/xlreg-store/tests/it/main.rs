//! The engines as their users see them: rules that survive, crashes, damage, races, followers.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may end at the first surprise"
)]

mod checking;
mod crash;
mod damage;
mod opening;
mod race;
mod reopen;
mod support;
mod upgrade;
mod watching;
