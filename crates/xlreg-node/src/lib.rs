//! Who a node is: its name, its ID, its two RSA keys, and the files they live in.
//!
//! Members have an [`Identity`], and so has the registry itself.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | a node's identity: make it, keep it, prove it |
//! | [`keygen`] | many keys at once, on all cores, with progress and a way to stop |
//! | [`pool`] | keys made ahead of need, for clusters that are thrown away |
//! | [`rotation`] | new keys beside the present ones, until they take their place |
//! | [`files`] | writing files so that they are whole, and private if they must be |
//!
//! Invariant: everything here blocks, on the disk or on making keys (tens to hundreds of
//! milliseconds each); async callers move it off their threads. There are no sockets here.

#![forbid(unsafe_code)]

pub mod files;
pub mod identity;
pub mod keygen;
pub mod pool;
pub mod rotation;

pub use identity::{Identity, IdentityError};
pub use keygen::{Made, MakeError, make_keys};
pub use pool::{KeyPool, PoolError};
pub use rotation::NewKeys;
