//! A registry's server: it accepts connections, holds sessions on them, and ends in good order.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | every knob: its default, its unit, what it costs to turn it |
//! | [`home`] | the data directory: who this registry is, and its credentials |
//! | [`local`] | a registry within a program, for launchers and tests |
//! | [`server`] | the listener: accept within limits, serve, drain |
//! | `door` | which wire a client speaks, told by its first bytes |
//! | `connection` | one client of the old wire, from its hello to its end |
//! | `modern` | one client of the modern door: TLS, HTTP/2, who it is |
//! | `meter` | what a connection may send that is no request |
//! | `entrance` | its requests, counted until their answers have been taken |
//! | `service` | each call of `xlreg.v2.Registry`, as a command or a question |
//! | `watching` | following a cluster: what a watcher is told, and when it is given up |
//! | `notary` | signing rosters: one at a time, and no oftener than need be |
//! | `lifetimes` | ending clusters whose time is over |
//! | `surroundings` | chance and tasks, which a simulation brings itself |
//! | `simulation` | with the feature of that name, for `xlreg-sim`: serving without sockets |
//! | `fuzzing` | with the feature of that name, for `fuzz/`: the doors without listener and TLS |
//! | `rates`, `tally`, `usage` | how often, and how much at once; all of it for the modern door |
//! | [`pool`] | the threads that open hellos |
//! | `turns` | whose hello is opened next, and the bound on that work |
//!
//! Invariants: an answer to a command goes out only after the engine has answered it. Whatever
//! waits, waits under a deadline; whatever queues, queues up to a bound. No RSA private operation
//! runs on an async thread. What a request means is `xlreg-proto`'s business, what it leads to
//! `xlreg-core`'s, and what lasts `xlreg-store`'s.

#![forbid(unsafe_code)]

pub mod config;
mod connection;
mod door;
mod entrance;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshakes;
pub mod home;
mod lifetimes;
pub mod local;
mod meter;
mod modern;
mod notary;
pub mod pool;
pub mod rates;
pub mod server;
mod service;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod surroundings;
mod tally;
mod turns;
mod usage;
mod watching;

pub use config::Config;
pub use home::{Home, HomeError};
pub use local::{LocalServer, LocalServerError};
pub use server::{Keys, Report, Server, StartError};
