//! What a cluster registry *is*: its words and its rules, as plain data and pure functions.
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | node and cluster IDs, key fingerprints |
//! | [`name`] | the names of nodes and clusters |
//! | [`endpoint`] | `host:port` addresses |
//! | [`version`] | versions of registries and protocols |
//! | [`key`] | public keys, as far as the rules care about them |
//! | [`member`] | what a node says of itself |
//! | [`time`] | points in time |
//! | [`admission`] | who may join a cluster, and how long it lives |
//! | [`cluster`] | a cluster and its roster |
//! | [`limits`] | every cap, with its unit and its reason |
//! | [`registry`] | the rules: commands in, outcomes and changes out |
//!
//! Invariant: nothing here does IO, reads a clock, draws a random number or waits. Whoever calls
//! brings those, so each rule can be tested by calling a function. How bytes become these types is
//! `xlreg-proto`'s business, where they are kept is `xlreg-store`'s.

#![forbid(unsafe_code)]

pub mod admission;
pub mod cluster;
pub mod endpoint;
pub mod id;
pub mod key;
pub mod limits;
pub mod member;
pub mod name;
pub mod registry;
pub mod time;
pub mod version;

pub use admission::{Admission, Lifetime, Policy, Token, TokenId};
pub use cluster::{Cluster, ClusterKey, Seat};
pub use endpoint::Endpoint;
pub use id::{ClusterId, Fingerprint, NodeId};
pub use key::PublicKey;
pub use member::{EntrySignature, Member};
pub use name::Name;
pub use registry::{Change, Command, Decision, Outcome, Refusal, Registry, View};
pub use time::Time;
pub use version::Version;
