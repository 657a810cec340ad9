//! Pinned TLS 1.3: certificates made of nodes' own keys, and who is let in by them.
//!
//! A key is an identity here, and a certificate is only the form in which TLS carries it. A registry
//! is its own root, made of its sig key; it issues itself short-lived leaves, so that no handshake
//! costs it an RSA signature. Whoever connects pins that sig key and shows a certificate signed by
//! its own, so the handshake proves to both sides who the other is. docs/decisions/0021-tls.md says
//! why it is like this.
//!
//! | module | what it holds |
//! |---|---|
//! | [`certificate`] | the certificates: a registry's root and leaves, a node's own |
//! | [`member`] | members' certificates for stock programs, and bundles that trust just a roster |
//! | [`peer`] | members among themselves: what they show, and whom they take |
//! | [`server`] | the side that listens: its configuration, its renewal, which clients it takes |
//! | [`client`] | the side that connects: the pin, and why a server is refused |
//! | [`gathered`] | a stream below TLS that sends small writes together |
//! | [`error`] | all the ways in which it fails |
//! | `fuzzing` | the judges without the handshake; with the feature of that name only |
//!
//! Deliberately absent: sockets and handshakes (hand the configurations to tokio-rustls), files (the
//! keys come from outside and everything else is made of them), and the clock, as far as we need
//! one: whoever renews a leaf says what time it is. Only rustls itself asks the system for the time,
//! to judge a certificate's dates and a ticket's age. Nor is there any choice: TLS 1.3, AWS-LC, and
//! never the process-wide default of rustls, which a program may have set to something else.

pub mod certificate;
pub mod client;
pub mod error;
pub mod gathered;
pub mod member;
pub mod peer;
pub mod server;

mod crypto;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod testing;

pub use certificate::{Leaf, NodeCertificate, Root, is_own_domain};
pub use client::{ClientTls, Pin, presented_root};
pub use error::{
    ClientRefused, Departure, PeerRefused, ServerRefused, TlsError, WrongKey, client_refused,
    peer_refused, server_refused, wrong_key,
};
pub use gathered::{Awaited, Awaiting, Gathered};
pub use member::{member_certificate, roster_bundle, stock_client};
pub use peer::{Admission, PeerTls, Verdict};
pub use server::{ServerTls, peer_key};

/// The one application protocol that is spoken inside: HTTP/2, and on it gRPC.
pub const ALPN: &[u8] = b"h2";
