//! The protobuf messages of the old wire, generated from `proto/xlreg.proto`.
//!
//! Nothing outside this crate keeps or logs them; [`crate::message`] turns them into requests and
//! replies.

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the fields are described in docs/protocol.md"
)]
#[rustfmt::skip]
mod generated;

pub use generated::XlRegMsg;
pub use generated::xl_reg_msg::{Tag, Token};
