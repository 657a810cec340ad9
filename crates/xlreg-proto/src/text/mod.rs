//! The text formats: XLattice's credentials, node files and member files, and signed rosters, read and
//! written.
//!
//! | module | what it holds |
//! |---|---|
//! | [`credentials`] | `regCred.dat`: how a registry is known and pinned |
//! | [`node`] | `.xlattice/node.config`: a node's identity, with its private keys |
//! | [`member`] | `.xlattice/cluster.member.config`: that, and the roster of its cluster |
//! | [`roster`] | a cluster's roster, signed by its registry and its members; and what is wrong with it |
//! | [`sshkey`] | public keys as `ssh-rsa` lines |
//! | [`pem`] | keys in PEM frames |
//! | [`id`] | IDs as files hold them, of 20 or 32 bytes |
//! | [`error`] | what can be wrong with a text |
//! | `block` | lines, braces and caps: what all of them share |
//!
//! Reading XLattice's takes what the originals wrote in any of their versions, with LF or CRLF, blank lines and
//! any indentation, and nothing else: fields have one order, and none may be missing, twice or
//! unknown. Writing gives the originals' bytes. In each module the two stand side by side, line for
//! line, so that they can be compared. A signed roster is read in one form only, since its bytes count.
//!
//! Text that holds private keys is wiped when it is dropped, and no error quotes it.
//!
//! Source: docs/protocol.md, section 5; docs/roster.md.

mod block;
pub mod credentials;
pub mod error;
pub mod id;
pub mod member;
pub mod node;
pub mod pem;
pub mod roster;
pub mod sshkey;

pub use block::{FILE_BYTES_MAX, LINE_BYTES_MAX};
pub use credentials::Credentials;
pub use error::{TextError, ValueError};
pub use id::FileId;
pub use member::{MemberFile, MemberInfo};
pub use node::{NodeFile, OneLine, Peer};
pub use roster::SignedRoster;
