//! Bring small clusters into being.
//!
//! Machines that don't know each other yet meet at a registry, prove who they are with keys of
//! their own, and leave with the same complete [`Roster`]. A whole member is a few lines:
//!
//! ```no_run
//! use std::time::Duration;
//! use xlreg::{ClusterKey, Identity, Registry};
//!
//! # async fn member() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::open("regCred.dat")?;
//! let identity = Identity::load_or_create("my-node", "node_1".parse()?).await?;
//! let cluster = ClusterKey::Name("alpha".parse()?);
//! let mut membership = registry.join(&identity, &cluster, vec!["127.0.0.1:4001".parse()?]).await?;
//! let roster = membership.wait(Duration::from_secs(30)).await?;
//! for (rank, member) in roster.iter() {
//!     println!("{rank} {} {:?}", member.name, member.endpoints);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | a node's name, ID and keys, and the files they live in |
//! | [`registry`] | a registry to talk to: create, join, wait, show |
//! | [`membership`] | a member's place in a cluster |
//! | [`peers`] | links between members, and of a cluster's clients with them |
//! | [`following`] | a cluster as it changes |
//! | [`commands`] | what members and owners do: list, leave, move, expel, delete |
//! | [`tunnel`] | links for programs that know nothing of them |
//! | [`tokens`] | issuing, listing and revoking what lets nodes in |
//! | [`invitations`] | from a line of text to a registry, and back |
//! | [`rotation`] | putting other keys in the place of a node's |
//! | [`forming`] | a whole cluster at once, for launchers and tests |
//! | [`signing`] | members' own signatures, and the rosters that registries sign |
//! | [`roster`] | who is in a cluster, complete or not yet |
//! | [`kept`] | the roster that a member keeps, read back |
//! | [`portable`] | identity and roster for programs that know nothing of us |
//! | [`wire`] | what a registry is spoken to over |
//! | [`error`] | what can go wrong, sorted by what to do about it |
//! | `testing` | registries and clusters for tests; needs the feature of that name |
//! | `fuzzing` | with the feature of that name, for `fuzz/`: what reads files, without the files |
//! | `modern`, `answers` | one connection by the modern door, and what its errors mean |
//! | `secure` | TLS configurations, kept so that sessions resume |
//! | `link`, `lookup` | one connection over the old wire, and a roster over it |
//! | `pause`, `silence` | how long to leave a registry alone that went away, and who is told so |
//!
//! Invariant: [`Membership::wait`] and [`Registry::wait`] give the complete roster or an error that
//! names who is there, how many are missing and since when; never success with members missing. Key
//! generation runs off the async threads. A link with a peer comes about only with the holder of a key
//! that is in the roster at that moment.

#![forbid(unsafe_code)]

mod answers;
pub mod commands;
pub mod error;
pub mod following;
pub mod forming;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod invitations;
pub mod kept;
mod link;
mod lookup;
pub mod membership;
mod modern;
mod pause;
pub mod peers;
pub mod portable;
pub mod registry;
pub mod roster;
pub mod rotation;
mod secure;
pub mod signing;
mod silence;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tokens;
pub mod tunnel;
pub mod wire;

pub use commands::Listed;
pub use error::{Error, Incomplete, Reason};
pub use following::{News, Watch};
pub use forming::Seat;
pub use identity::Identity;
pub use kept::KeptError;
pub use membership::Membership;
pub use peers::{Peer, PeerError, PeerListener, PeerStream, Peers, Unreached};
pub use portable::Portable;
pub use registry::Registry;
pub use roster::Roster;
pub use rotation::NewKeys;
pub use tokens::{JoinToken, NewToken};
pub use wire::Wire;
pub use xlreg_api::v2::ErrorReason;
pub use xlreg_api::{Fault, Invitation, TokenSecret};
pub use xlreg_core::cluster::{Event, EventKind, Gone, NewCluster};
pub use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Endpoint, EntrySignature, Fingerprint, Lifetime, Member, Name,
    NodeId, Policy, PublicKey, TokenId, Version,
};
pub use xlreg_node::files::Durability;
pub use xlreg_proto::channel::Dialect;
pub use xlreg_proto::keys::PrivateKey;
pub use xlreg_proto::text::{Credentials, SignedRoster};
