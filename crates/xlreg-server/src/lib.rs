//! A registry's server: it accepts connections, holds sessions on them, and ends in good order.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | every knob: its default, its unit, what it costs to turn it |
//! | [`home`] | the data directory: who this registry is, and its credentials |
//! | [`local`] | a registry within a program, for launchers and tests |
//! | [`server`] | the listener: accept within limits, serve, drain |
//! | `connection` | one client from its hello to its end |
//! | [`pool`] | the threads that open hellos, and the bound on that work |
//!
//! Invariants: an answer to a command goes out only after the engine has answered it. Whatever
//! waits, waits under a deadline; whatever queues, queues up to a bound. No RSA private operation
//! runs on an async thread. What a request means is `xlreg-proto`'s business, what it leads to
//! `xlreg-core`'s, and what lasts `xlreg-store`'s; TLS and gRPC are not here yet.

#![forbid(unsafe_code)]

pub mod config;
mod connection;
pub mod home;
pub mod local;
pub mod pool;
pub mod server;

pub use config::Config;
pub use home::{Home, HomeError};
pub use local::{LocalServer, LocalServerError};
pub use server::{Report, Server};
