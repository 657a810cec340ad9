//! How a registry speaks: the xlReg wire in both of its dialects, and its text formats.
//!
//! From the bytes inwards:
//!
//! | module | what it does |
//! |---|---|
//! | [`keys`] | RSA keys: make, check, seal, open, sign, verify |
//! | [`entry`] | what a member signs of its entry in a cluster |
//! | [`hello`] | the RSA block and its answer, which agree on a session key |
//! | [`channel`] | seals and opens the messages that follow; knows **where a message ends** |
//! | [`wire`] | the protobuf messages, as generated |
//! | [`message`] | those messages as requests and replies in the registry's own types |
//! | [`session`] | the server's side of a conversation: which request may follow which |
//! | [`text`] | credentials, node files, member files, signed rosters |
//!
//! Invariant: nothing here does IO, reads a clock, draws a random number or waits; a session gets
//! bytes and randomness from its owner and gives back what to do. (Making a key is the one
//! exception: there, AWS-LC draws for itself.) Deadlines and sockets are `xlreg-server`'s and
//! `xlreg`'s business.

pub mod channel;
pub mod entry;
pub mod hello;
pub mod keys;
pub mod message;
pub mod session;
mod sha1_sign;
pub mod text;
pub mod wire;
