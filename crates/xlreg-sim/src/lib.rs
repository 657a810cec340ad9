//! A registry's server, store and members in a simulated world, one seed a run.
//!
//! | module | what it holds |
//! |---|---|
//! | `chance` | all chance of a run, from its seed |
//! | `executor` | which task goes on next, and tasks that die together |
//! | `world` | what all tasks of a run share: time, trace, truth, what goes wrong |
//! | `history` | what became durable, and every promise measured against it |
//! | `machine` | the server's machine: crashes, stops, starts |
//! | `network` | connections that are slow, break, stand still and end in silence |
//! | `old`, `modern`, `watcher` | members of both doors, and who follows a cluster |
//! | `keys` | keys that are the same in every run |
//! | `scenario` | what nodes do, what goes wrong, and what must come right in the end |
//! | [`real`] | not simulated: histories of a real server on sockets |
//! | [`cluster`] | what clients of a cluster are told if they come one at a time |
//! | [`linear`] | whether a history can have happened in some such order |
//!
//! The server's code under test is its own: connections of the old wire after their hello, the
//! service and the watches of the modern door, lifetimes, the engine and its writer, the rules, and
//! the rows of the store. Hellos, TLS, HTTP/2, SQLite's dealings with files, and the client library are
//! in no simulation; docs/reliability.md says what tests them.

#![forbid(unsafe_code)]

mod chance;
pub mod cluster;
mod executor;
mod history;
mod keys;
pub mod linear;
mod machine;
mod modern;
mod network;
mod old;
pub mod real;
mod scenario;
mod watcher;
mod world;

use tokio::runtime::Builder;

use crate::keys::Keys;
pub use crate::world::Tally;
use crate::world::World;
pub use xlreg_store::simulation::Flaw;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was not as promised, if anything.
    pub violation: Option<String>,
    /// A number that stands for all that happened: two runs of one seed have the same.
    pub hash: u64,
    /// All that happened, if it was to be kept.
    pub trace: Option<Vec<String>>,
    /// How often tasks were polled.
    pub polls: u64,
    /// How long the run lasted, in milliseconds of its own time.
    pub millis: u128,
    /// How much happened.
    pub tally: Tally,
}

/// Runs one seed, with a bug planted or none.
///
/// # Errors
/// What kept the run from beginning; no fault of what is tested.
pub fn run(seed: u64, flaw: Option<Flaw>, keep_trace: bool) -> Result<Outcome, String> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("cannot make a runtime: {error}"))?;
    runtime.block_on(async {
        let keys = Keys::get()?;
        let world = World::new(seed, keys.registry.entry.sig_key.fingerprint(), keep_trace);
        scenario::start(&world, keys, flaw)?;
        let over = || {
            world.tick();
            world.is_over()
        };
        let polls = executor::run(&world.tasks, world.fork(), over).await;
        if polls.is_none() {
            world.check(format_args!("executor"), Err("the run goes on for ever".to_owned()));
        }
        let millis = world.elapsed().as_millis();
        let (mut trace, hash) = world.told();
        let (violation, tally) = (trace.violation.take(), trace.tally);
        let (trace, polls) = (trace.lines.take(), polls.unwrap_or(0));
        Ok(Outcome { violation, hash, trace, polls, millis, tally })
    })
}
