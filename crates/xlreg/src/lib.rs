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
//! for (rank, member) in roster.members.iter().enumerate() {
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
//! | [`forming`] | a whole cluster at once, for launchers and tests |
//! | [`roster`] | who is in a cluster, complete or not yet |
//! | [`error`] | what can go wrong, sorted by what to do about it |
//! | `testing` | registries and clusters for tests; needs the feature of that name |
//! | `link` | one connection, in either dialect |
//!
//! Invariant: [`Membership::wait`] and [`Registry::wait`] give the complete roster or an error that
//! names who is there, how many are missing and since when; never success with members missing. Key
//! generation runs off the async threads. Connections between members are not here yet.

#![forbid(unsafe_code)]

pub mod error;
pub mod forming;
pub mod identity;
mod link;
pub mod registry;
pub mod roster;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{Error, Incomplete, Reason};
pub use forming::Seat;
pub use identity::Identity;
pub use registry::{Membership, NewCluster, Registry};
pub use roster::Roster;
pub use xlreg_core::{ClusterId, ClusterKey, Endpoint, Member, Name, NodeId, PublicKey, Version};
pub use xlreg_node::files::Durability;
pub use xlreg_proto::channel::Dialect;
pub use xlreg_proto::keys::PrivateKey;
pub use xlreg_proto::text::Credentials;
