//! How the registry remembers: it runs the rules of `xlreg-core` on a state that outlives the process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`clock`] | what time it is; tests move it on by hand |
//! | [`engine`] | [`Engine`], the seam: what servers and sessions need of whatever keeps the registry |
//! | [`local`] | [`LocalEngine`], the registry on one machine, in memory or durable |
//! | `shared` | the committed state, and whether the engine still serves |
//! | `watchers` | who follows which cluster |
//! | `writer` | the one thread that decides in batches and commits each at once |
//! | `ledger` | what the writer keeps changes in: the journal, or a simulated disk |
//! | `journal` | the SQLite file: opening it safely, writing changes, checkpoints |
//! | `load` | from a file to the state in memory, believing nothing |
//! | `rows` | one row to and from domain types, with its checksum |
//! | `schema` | tables and migrations |
//! | `folder` | the directory: who may see it, and who has it open |
//! | [`mod@check`] | looking a file over, and copying it, while a server may have it open |
//! | `snapshot` | reading a file from beside, changing nothing |
//! | [`error`] | what can go wrong with a store, and what to do then |
//! | `simulation` | with the feature of that name, for `xlreg-sim`: a disk that fails on purpose |
//!
//! # The seam
//! A session turns a request into a [`Command`](xlreg_core::Command), and [`Engine::apply`] answers
//! it once the answer will stay true. What happens in between is the engine's own affair, as long
//! as each command is decided by [`decide`](xlreg_core::registry::decide) against a
//! [`View`](xlreg_core::View) that no other write can come between.
//!
//! [`LocalEngine`] has that by having one writer. An engine over etcd, which is not here yet, would
//! have it by comparing:
//! - Each [`Change`](xlreg_core::Change) is a record or two: `node/ID`, `key/FINGERPRINT` with its
//!   latest ID, `cluster/ID` with the roster, `name/NAME` with the cluster's ID.
//! - Its `View` is what it fetched for this command, or a local copy fed by a watch, and it notes
//!   the mod revision of every record the rules looked at (0 for one that isn't there).
//! - It sends the change as one `Txn` that compares those mod revisions. If the comparison fails,
//!   somebody was faster: fetch, decide again, retry. Commands carry their own random IDs, so
//!   deciding twice is harmless.
//! - [`Engine::watch`] is fed by etcd's watch on `cluster/ID`, resumed by revision, and
//!   [`Engine::find`] is a linearizable read.
//!
//! Neither the rules nor the sessions would change, and any number of servers could stand in front.
//!
//! # Deliberately absent
//! Rules (`xlreg-core`), wire formats and cryptography (`xlreg-proto`: fingerprints of keys are
//! stored beside them, never computed here), the registry's own keys, sockets and logging. An
//! engine ends no cluster by itself when its time has come: it tells which is next, and whoever
//! serves asks it to.

pub mod check;
pub mod clock;
pub mod engine;
pub mod error;
mod folder;
mod journal;
mod ledger;
mod load;
pub mod local;
mod rows;
mod schema;
mod shared;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod snapshot;
mod watchers;
mod writer;

pub use check::{check, copy};
pub use clock::Clock;
pub use engine::{Answer, ApplyError, Engine};
pub use error::StoreError;
pub use folder::{Folder, LOCK};
pub use journal::FILES;
pub use local::LocalEngine;
