//! The bytes that nodes sign to show that they hold the keys they name.
//!
//! A statement is a label, which says what is being stated, and fingerprints in a fixed order. Each
//! has one length, so no statement can be read as another; and each names the registry, so none is
//! of use at another one. Signing and verifying them (RSASSA-PSS) is `xlreg_proto::keys`' business.
//!
//! The third is what a member signs of its entry. It stands in `xlreg_proto::entry`, since the signed
//! roster is verified there, and is signed by RSASSA-PKCS1-v1_5.
//!
//! Source: `proto/xlreg/v2/registry.proto`, `RegisterRequest`, `RotateKeysRequest` and
//! `JoinClusterRequest`.

use xlreg_core::Fingerprint;
pub use xlreg_proto::entry::statement as entry_statement;

const COMMS_LABEL: &[u8] = b"xlreg.v2 comms key\n";
const ROTATION_LABEL: &[u8] = b"xlreg.v2 rotate keys\n";

/// What stands in a statement where there is no comms key.
const NO_KEY: Fingerprint = Fingerprint::from_bytes([0; 32]);

/// What a comms key signs: that whoever holds it agrees to be known by the `sig` key, at this
/// registry.
///
/// All three are fingerprints of keys: the registry's sig key, the node's sig key (when keys are
/// rotated, the new one) and the comms key that signs. 115 bytes.
#[must_use]
pub fn comms_statement(registry: &Fingerprint, sig: &Fingerprint, comms: &Fingerprint) -> Vec<u8> {
    statement(COMMS_LABEL, &[registry, sig, comms])
}

/// What the present sig key signs, and the new one if there is one: that from now on the node is
/// known by these keys.
///
/// A sig key that stays stands as both `old_sig` and `new_sig`, a comms key that stays as
/// `new_comms`; that is `None` only for a node that never registered one. 149 bytes.
#[must_use]
pub fn rotation_statement(
    registry: &Fingerprint,
    old_sig: &Fingerprint,
    new_sig: &Fingerprint,
    new_comms: Option<&Fingerprint>,
) -> Vec<u8> {
    statement(ROTATION_LABEL, &[registry, old_sig, new_sig, new_comms.unwrap_or(&NO_KEY)])
}

fn statement(label: &[u8], fingerprints: &[&Fingerprint]) -> Vec<u8> {
    let mut bytes = label.to_vec();
    for fingerprint in fingerprints {
        bytes.extend_from_slice(fingerprint.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    const REGISTRY: Fingerprint = Fingerprint::from_bytes([0xA1; 32]);
    const OLD_SIG: Fingerprint = Fingerprint::from_bytes([0xB2; 32]);
    const NEW_SIG: Fingerprint = Fingerprint::from_bytes([0xC3; 32]);
    const COMMS: Fingerprint = Fingerprint::from_bytes([0xD4; 32]);

    /// The hex of fingerprints whose bytes are all the same.
    fn repeated(bytes: &[&str]) -> String {
        bytes.iter().map(|byte| byte.repeat(32)).collect()
    }

    #[test]
    fn a_comms_statement_has_these_bytes() {
        let label = "786c7265672e763220636f6d6d73206b65790a";
        let expected = format!("{label}{}", repeated(&["a1", "c3", "d4"]));
        let statement = comms_statement(&REGISTRY, &NEW_SIG, &COMMS);
        assert_eq!(HEXLOWER.encode(&statement), expected);
        assert_eq!(statement.len(), 115);
    }

    #[test]
    fn a_rotation_statement_has_these_bytes() {
        let label = "786c7265672e763220726f74617465206b6579730a";
        let expected = format!("{label}{}", repeated(&["a1", "b2", "c3", "d4"]));
        let statement = rotation_statement(&REGISTRY, &OLD_SIG, &NEW_SIG, Some(&COMMS));
        assert_eq!(HEXLOWER.encode(&statement), expected);
        assert_eq!(statement.len(), 149);
    }

    #[test]
    fn a_comms_key_that_never_was_is_zeros() {
        let label = "786c7265672e763220726f74617465206b6579730a";
        let expected = format!("{label}{}", repeated(&["a1", "b2", "c3", "00"]));
        let statement = rotation_statement(&REGISTRY, &OLD_SIG, &NEW_SIG, None);
        assert_eq!(HEXLOWER.encode(&statement), expected);
    }
}
