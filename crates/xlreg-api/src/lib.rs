//! How the modern door speaks: the gRPC service `xlreg.v2.Registry`, what is signed for it, and
//! the texts by which machines are let in.
//!
//! | module | what it holds |
//! |---|---|
//! | [`convert`] | from messages to the registry's own types, and back |
//! | [`fault`] | why a request is refused: a status with a reason for programs |
//! | [`invitation`] | all that a machine needs to join a cluster, in one line of text |
//! | [`proof`] | the bytes that nodes sign to show that they hold their keys |
//! | [`secret`] | the secrets of join tokens, as text |
//! | [`v2`] | the messages, the client and the server, as generated |
//!
//! The service is described, call by call and field by field, in `proto/xlreg/v2/registry.proto`;
//! [`FILE_DESCRIPTOR_SET`] is that description for programs.
//!
//! Invariant: nothing here does IO, reads a clock, draws a random number or waits. Sockets and TLS
//! are `xlreg-server`'s and `xlreg`'s business, signing is `xlreg_proto::keys`', and what a request
//! does is decided by the rules in `xlreg-core`.

#![forbid(unsafe_code)]

pub mod convert;
pub mod fault;
pub mod invitation;
pub mod proof;
pub mod secret;

pub use fault::Fault;
pub use invitation::Invitation;
pub use secret::TokenSecret;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; what needs a comment has one in registry.proto"
)]
#[path = "generated.rs"]
#[rustfmt::skip]
pub mod v2;

/// The service, its messages and all that they import, with comments, as an encoded
/// `google.protobuf.FileDescriptorSet`: what a server's reflection answers with.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_description_is_whole_and_commented() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let names: Vec<_> = set.file.iter().map(|file| file.name()).collect();
        let imports = ["google/protobuf/duration.proto", "google/protobuf/timestamp.proto"];
        assert!(imports.iter().all(|import| names.contains(import)), "{names:?}");

        let api = set.file.iter().find(|file| file.package() == "xlreg.v2").unwrap();
        assert_eq!(api.service[0].name(), "Registry");
        let locations = &api.source_code_info.as_ref().unwrap().location;
        let comments = |text: &str| locations.iter().any(|l| l.leading_comments().contains(text));
        assert!(comments("Makes the caller a member."));
    }

    #[test]
    fn client_and_server_are_named_as_the_service_is() {
        let name = <v2::registry_server::RegistryServer<()> as tonic::server::NamedService>::NAME;
        assert_eq!(name, "xlreg.v2.Registry");
    }
}
