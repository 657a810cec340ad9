//! Keys, texts and sessions that targets and seeds share: those of the captured vectors.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use data_encoding::HEXLOWER;
use serde_json::Value;
use xlreg_core::{Member, NodeId, Version};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::session::Identity;
use xlreg_proto::text::NodeFile;

macro_rules! vector {
    ($path:literal) => {
        include_str!(concat!("../../crates/xlreg-proto/tests/vectors/", $path))
    };
}

/// Credentials as the original servers wrote them.
pub const CREDENTIALS: [&str; 3] = [
    vector!("regcred/1.8.4.dat"),
    vector!("regcred/1.9.24.dat"),
    vector!("regcred/seed-1.8.2.dat"),
];

/// A node's file.
pub const NODE_FILE: &str = vector!("xlattice/node.config");

/// A member's file.
pub const MEMBER_FILE: &str = vector!("xlattice/cluster.member.config");

/// Signed rosters: a complete one, and one with gaps.
pub const ROSTERS: [&str; 2] =
    [vector!("roster/complete.signed"), vector!("roster/partial.signed")];

/// The captured sessions of each dialect, 1.8 first.
#[must_use]
pub fn sessions() -> [Value; 2] {
    [vector!("session-1.8.json"), vector!("session-1.9.json")]
        .map(|text| serde_json::from_str(text).expect("the vectors are JSON"))
}

/// Bytes that a vector has as hex.
#[must_use]
pub fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap_or_default().as_bytes()).expect("the vectors have hex")
}

/// The comms keys of the captured servers, 1.8 first.
pub fn servers() -> &'static [Arc<PrivateKey>; 2] {
    static KEYS: OnceLock<[Arc<PrivateKey>; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        sessions().map(|session| {
            let der = bytes(&session["server_comms_private_key_pkcs1_der"]);
            Arc::new(PrivateKey::from_pkcs1(&der).expect("the vectors' keys are keys"))
        })
    })
}

/// What a registry with the captured servers' keys says of itself: signs with the first, and opens
/// hellos with the second.
#[must_use]
pub fn identity() -> Identity {
    let [sig, comms] = servers();
    let entry = Arc::new(Member {
        id: NodeId::from_bytes([250; 20]),
        name: "xlReg".parse().expect("a name"),
        attrs: 0,
        comms_key: comms.public().clone(),
        sig_key: sig.public().clone(),
        endpoints: vec!["127.0.0.1:56789".parse().expect("an endpoint")],
        entry_signature: None,
    });
    Identity { version: Version::CURRENT, entry }
}

/// The captured node.
pub fn node() -> &'static NodeFile {
    static NODE: OnceLock<NodeFile> = OnceLock::new();
    NODE.get_or_init(|| NodeFile::parse(NODE_FILE).expect("the vectors' node is one"))
}

/// Pads as the wire does, unless the padding is already there; always gives whole blocks.
#[must_use]
pub fn padded(plaintext: &[u8]) -> Vec<u8> {
    let padding = 16 - plaintext.len() % 16;
    let mut blocks = plaintext.to_vec();
    blocks.resize(plaintext.len() + padding, padding as u8);
    blocks
}

/// Encrypts whole blocks, AES-256-CBC.
#[must_use]
pub fn encrypted(key: &[u8; 32], iv: [u8; 16], mut blocks: Vec<u8>) -> Vec<u8> {
    let key = UnboundCipherKey::new(&AES_256, key).expect("32 bytes");
    let key = EncryptingKey::cbc(key).expect("AES-256 has CBC");
    key.less_safe_encrypt(&mut blocks, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .expect("whole blocks");
    blocks
}

/// Undoes [`encrypted`].
#[must_use]
pub fn decrypted(key: &[u8; 32], iv: [u8; 16], mut blocks: Vec<u8>) -> Vec<u8> {
    let key = UnboundCipherKey::new(&AES_256, key).expect("32 bytes");
    let key = DecryptingKey::cbc(key).expect("AES-256 has CBC");
    key.decrypt(&mut blocks, DecryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .expect("whole blocks");
    blocks
}
