//! What a member signs of its entry in a cluster: who it is and where it is reached, in its own hand.
//!
//! A registry says who is in a cluster, and could say anything. What a member has signed itself, the
//! registry can leave out, but not change, nor show as another cluster's.
//!
//! ```text
//! "xlreg.v2 member entry\n"                22 B
//! fingerprint of the registry's sig key     32 B
//! ID of the cluster                         20 B
//! ID of the member                          20 B
//! name                                      length 2 B, then as many
//! attributes                                 8 B
//! fingerprint of the member's sig key       32 B
//! fingerprint of its comms key              32 B
//! number of its endpoints                    2 B
//! each endpoint                             length 2 B, then as many
//! ```
//!
//! Numbers are big-endian, texts are as they stand in the roster. Every part has a fixed length or says
//! it, so no two entries have the same bytes, and the label keeps them apart from all else that a sig key
//! signs. There is no rank in it: a member does not know it before it has joined.
//!
//! The signature is RSASSA-PKCS1-v1_5 with SHA-256, by the member's sig key: the same each time, so that
//! joining again with the same words changes nothing.
//!
//! Source: `JoinClusterRequest` in xlreg-api's `registry.proto`; docs/roster.md.

use thiserror::Error;
use xlreg_core::{ClusterId, EntrySignature, Fingerprint, Member};

use crate::keys::{self, KeyError, PrivateKey};

const LABEL: &[u8] = b"xlreg.v2 member entry\n";

/// Why an entry is not its member's own word.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum EntryError {
    /// There is no signature.
    #[error("the entry is not signed")]
    Unsigned,
    /// There is one, which is not the member's over this entry.
    #[error("the signature is not that of this entry by its sig key")]
    Wrong,
}

/// The bytes that `member` signs to be known so in `cluster`, at the registry whose sig key has this
/// fingerprint. At most 2,394 of a member that registries take.
#[must_use]
pub fn statement(registry: &Fingerprint, cluster: &ClusterId, member: &Member) -> Vec<u8> {
    let Member { id, name, attrs, comms_key, sig_key, endpoints, entry_signature: _ } = member;
    let mut bytes = LABEL.to_vec();
    bytes.extend_from_slice(registry.as_bytes());
    bytes.extend_from_slice(cluster.as_bytes());
    bytes.extend_from_slice(id.as_bytes());
    put_text(&mut bytes, name.as_str());
    bytes.extend_from_slice(&attrs.to_be_bytes());
    bytes.extend_from_slice(sig_key.fingerprint().as_bytes());
    bytes.extend_from_slice(comms_key.fingerprint().as_bytes());
    bytes.extend_from_slice(&length(endpoints.len()).to_be_bytes());
    for endpoint in endpoints {
        put_text(&mut bytes, endpoint.as_str());
    }
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&length(text.len()).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Names and endpoints are shorter than that, and no registry takes as many endpoints; should there be
/// more, they still stand there to the last.
fn length(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// The signature of a member over its entry, by its sig key `key`. One RSA private operation.
///
/// # Errors
/// [`KeyError::Impossible`] if the cryptographic library refuses.
pub fn sign(
    key: &PrivateKey,
    registry: &Fingerprint,
    cluster: &ClusterId,
    member: &Member,
) -> Result<EntrySignature, KeyError> {
    let signature = key.sign_pkcs1(&[&statement(registry, cluster, member)])?;
    let too_long = KeyError::Impossible { reason: "its signatures are too long" };
    EntrySignature::new(&signature).ok_or(too_long)
}

/// Checks a member's signature over its entry.
///
/// # Errors
/// [`EntryError`] if it has none, or one that is not right. Keys below
/// [`keys::PSS_KEY_BITS_MIN`] bits sign nothing.
pub fn verify(
    registry: &Fingerprint,
    cluster: &ClusterId,
    member: &Member,
) -> Result<(), EntryError> {
    let signature = member.entry_signature.as_ref().ok_or(EntryError::Unsigned)?;
    let statement = statement(registry, cluster, member);
    keys::verify_pkcs1(&member.sig_key, &[&statement], signature.as_bytes())
        .map_err(|_| EntryError::Wrong)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use xlreg_core::limits::{ENDPOINT_BYTES_MAX, MEMBER_ENDPOINTS_MAX, NAME_BYTES_MAX};
    use xlreg_core::{Endpoint, NodeId, PublicKey};

    use super::*;

    const REGISTRY: Fingerprint = Fingerprint::from_bytes([0xA1; 32]);
    const CLUSTER: ClusterId = ClusterId::from_bytes([0xB2; 20]);

    fn member() -> Member {
        let key = |fill| PublicKey::from_checked(&[], Fingerprint::from_bytes([fill; 32]));
        Member {
            id: NodeId::from_bytes([0xC3; 20]),
            name: "ab".parse().unwrap(),
            attrs: 0x0102_0304_0506_0708,
            comms_key: key(0xE5),
            sig_key: key(0xD4),
            endpoints: vec!["h:1".parse().unwrap(), "[::1]:22".parse().unwrap()],
            entry_signature: None,
        }
    }

    /// The worked example of docs/roster.md.
    #[test]
    fn a_statement_has_these_bytes() {
        let expected = [
            "786c7265672e7632206d656d62657220656e7472790a",
            &"a1".repeat(32),
            &"b2".repeat(20),
            &"c3".repeat(20),
            "00026162",
            "0102030405060708",
            &"d4".repeat(32),
            &"e5".repeat(32),
            "0002",
            "0003683a31",
            "00085b3a3a315d3a3232",
        ];
        let statement = statement(&REGISTRY, &CLUSTER, &member());
        assert_eq!(HEXLOWER.encode(&statement), expected.concat());
    }

    #[test]
    fn the_longest_statement_is_as_long_as_it_is_said_to_be() {
        let label = "a".repeat(63);
        let endpoint = format!("{label}.{label}.{label}.{}:65535", &label[1..]);
        assert_eq!(endpoint.len(), ENDPOINT_BYTES_MAX);
        let endpoints = vec![endpoint.parse().unwrap(); MEMBER_ENDPOINTS_MAX];
        let name = "n".repeat(NAME_BYTES_MAX).parse().unwrap();
        let longest = Member { name, endpoints, ..member() };
        assert_eq!(statement(&REGISTRY, &CLUSTER, &longest).len(), 2_394);
    }

    /// Whatever is different, the signature does not hold for it.
    #[test]
    fn a_signature_is_over_all_of_the_entry_and_where_it_stands() {
        let key = PrivateKey::generate().unwrap();
        let other = PrivateKey::generate().unwrap();
        let plain = Member { sig_key: key.public().clone(), ..member() };
        let signature = sign(&key, &REGISTRY, &CLUSTER, &plain).unwrap();
        assert_eq!(sign(&key, &REGISTRY, &CLUSTER, &plain).unwrap(), signature);
        let signed = Member { entry_signature: Some(signature), ..plain.clone() };
        assert_eq!(verify(&REGISTRY, &CLUSTER, &signed), Ok(()));
        assert_eq!(verify(&REGISTRY, &CLUSTER, &plain), Err(EntryError::Unsigned));

        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let [first, second] = [endpoint("h:1"), endpoint("[::1]:22")];
        for wrong in [
            Member { id: NodeId::from_bytes([0xC4; 20]), ..signed.clone() },
            Member { name: "aB".parse().unwrap(), ..signed.clone() },
            Member { attrs: 0, ..signed.clone() },
            Member { comms_key: key.public().clone(), ..signed.clone() },
            Member { sig_key: other.public().clone(), ..signed.clone() },
            Member { endpoints: vec![], ..signed.clone() },
            Member { endpoints: vec![first.clone()], ..signed.clone() },
            Member { endpoints: vec![second.clone(), first.clone()], ..signed.clone() },
            Member { endpoints: vec![first.clone(), second, first], ..signed.clone() },
            Member { entry_signature: EntrySignature::new(&[7; 256]), ..signed.clone() },
        ] {
            assert_eq!(verify(&REGISTRY, &CLUSTER, &wrong), Err(EntryError::Wrong), "{wrong:?}");
        }
        let elsewhere = Fingerprint::from_bytes([0; 32]);
        assert_eq!(verify(&elsewhere, &CLUSTER, &signed), Err(EntryError::Wrong));
        let other_cluster = ClusterId::from_bytes([0; 20]);
        assert_eq!(verify(&REGISTRY, &other_cluster, &signed), Err(EntryError::Wrong));
    }
}
