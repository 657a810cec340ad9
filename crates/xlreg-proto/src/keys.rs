//! RSA keys: making them, checking strangers' ones, and what the wire and its certificates do with
//! them.
//!
//! | who | does | with |
//! |---|---|---|
//! | client | seals a hello (OAEP, SHA-1) | the registry's comms key |
//! | registry | opens it: **the** expensive step of a session | its own comms key |
//! | client, registry | sign and verify (PKCS #1 v1.5, SHA-1) | the client's sig key |
//! | client, registry | sign and verify (PSS, SHA-256): everything newer than that wire | a sig key |
//! | client, registry | sign certificates, entries and rosters (PKCS #1 v1.5, SHA-256) | their own sig key |
//!
//! SHA-1 is the old wire's choice, not ours; SECURITY.md says what follows from it.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeyPair, KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaEncoding, UnparsedPublicKey,
};
use aws_lc_rs::{digest, rand};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::asn1::{AnyRef, BitStringRef, OctetStringRef, UintRef};
use pkcs8::der::{Decode, Encode};
use pkcs8::spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};
use thiserror::Error;
use xlreg_core::{Fingerprint, PublicKey};
use zeroize::Zeroizing;

use crate::sha1_sign;

/// Bits of the keys this project makes.
pub const KEY_BITS: usize = 2048;

/// Bits of the smallest key a stranger may bring: what deployed nodes may still hold.
pub const KEY_BITS_MIN: usize = 1024;

/// Bits of the largest key a stranger may bring: verifying with it costs some four times what 2048
/// bits do, still a fraction of opening a hello, and so needs no place in the pool for that.
pub const KEY_BITS_MAX: usize = 4096;

/// Bits of the smallest key that can open and seal hellos: AWS-LC's own floor for encryption.
pub const COMMS_KEY_BITS_MIN: usize = 2048;

/// Bytes of a public exponent: all real keys have 65537 or less, and each bit more is work.
const EXPONENT_BYTES_MAX: usize = 3;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Bytes or text that should have been an RSA key and are not, or not one we take.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not the structure expected.
    #[error("not an RSA key in the form expected ({form})")]
    Malformed {
        /// The name of that form.
        form: &'static str,
    },
    /// Too small to be safe or too large to be affordable.
    #[error("an RSA key of {bits} bits; from {min} to {KEY_BITS_MAX} are taken")]
    Size {
        /// Bits of its modulus.
        bits: usize,
        /// The least there may be.
        min: usize,
    },
    /// Well formed, and yet no RSA key could be like this.
    #[error("an RSA key that cannot work: {reason}")]
    Impossible {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The cryptographic library could not make a key.
    #[error("the cryptographic library failed to make an RSA key")]
    Generate,
}

/// A signature that its alleged key did not make.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the digital signature does not verify")]
pub struct BadSignature;

/// A hello that does not open, for whatever reason; one reason on purpose, so it is no oracle.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the block does not open")]
pub struct OpenError;

/// Random bytes from the operating system's generator, by way of AWS-LC.
///
/// For the owners of sessions; sessions themselves never draw.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("AWS-LC aborts rather than report that there is no randomness");
    bytes
}

/// Checks a DER SubjectPublicKeyInfo and takes its fingerprint.
///
/// Only the canonical encoding is taken, so one key has one fingerprint.
///
/// # Errors
/// [`KeyError`] if it is not an RSA key of [`KEY_BITS_MIN`] to [`KEY_BITS_MAX`] bits.
pub fn public_key(spki: &[u8]) -> Result<PublicKey, KeyError> {
    let (modulus, exponent) = components(spki)?;
    let bits = modulus_bits(modulus);
    if !(KEY_BITS_MIN..=KEY_BITS_MAX).contains(&bits) {
        return Err(KeyError::Size { bits, min: KEY_BITS_MIN });
    }
    if modulus.last().is_none_or(|low| low & 1 == 0) {
        return Err(KeyError::Impossible { reason: "an even modulus" });
    }
    let odd = exponent.last().is_some_and(|low| low & 1 == 1);
    if !odd || exponent == [1] || exponent.len() > EXPONENT_BYTES_MAX {
        return Err(KeyError::Impossible { reason: "a public exponent that is even, 1 or huge" });
    }
    if encode_spki(modulus, exponent)? != spki {
        return Err(KeyError::Malformed { form: "canonical DER SubjectPublicKeyInfo" });
    }
    let digest = digest::digest(&digest::SHA256, spki);
    let fingerprint = Fingerprint::try_from(digest.as_ref()).expect("a SHA-256 has 32 bytes");
    Ok(PublicKey::from_checked(spki, fingerprint))
}

/// A public key from its two numbers, big-endian.
pub(crate) fn public_key_from_components(
    modulus: &[u8],
    exponent: &[u8],
) -> Result<PublicKey, KeyError> {
    public_key(&encode_spki(modulus, exponent)?)
}

/// Modulus and exponent of a checked key, big-endian without leading zeros.
pub(crate) fn key_components(key: &PublicKey) -> (&[u8], &[u8]) {
    components(key.der()).expect("a PublicKey holds DER that was checked when it was made")
}

/// Bits of a checked key's modulus.
#[must_use]
pub fn key_bits(key: &PublicKey) -> usize {
    modulus_bits(key_components(key).0)
}

/// A checked key as PKCS #1 DER (RSAPublicKey): the bit string inside its SubjectPublicKeyInfo.
#[must_use]
pub fn key_pkcs1(key: &PublicKey) -> &[u8] {
    pkcs1_of(key.der()).expect("a PublicKey holds DER that was checked when it was made")
}

fn components(spki: &[u8]) -> Result<(&[u8], &[u8]), KeyError> {
    let key = pkcs1::RsaPublicKey::<UintRef<'_>>::from_der(pkcs1_of(spki)?)
        .map_err(|_| KeyError::Malformed { form: "DER SubjectPublicKeyInfo" })?;
    Ok((key.modulus.as_bytes(), key.public_exponent.as_bytes()))
}

fn pkcs1_of(spki: &[u8]) -> Result<&[u8], KeyError> {
    let malformed = KeyError::Malformed { form: "DER SubjectPublicKeyInfo" };
    let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(|_| malformed)?;
    if info.algorithm.oid != RSA_ENCRYPTION {
        return Err(malformed);
    }
    info.subject_public_key.as_bytes().ok_or(malformed)
}

fn encode_spki(modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, KeyError> {
    let encode = || -> pkcs8::der::Result<Vec<u8>> {
        let key = pkcs1::RsaPublicKey {
            modulus: UintRef::new(modulus)?,
            public_exponent: UintRef::new(exponent)?,
        };
        let bits = key.to_der()?;
        SubjectPublicKeyInfoRef {
            algorithm: AlgorithmIdentifierRef {
                oid: RSA_ENCRYPTION,
                parameters: Some(AnyRef::NULL),
            },
            subject_public_key: BitStringRef::from_bytes(&bits)?,
        }
        .to_der()
    };
    encode().map_err(|_| KeyError::Malformed { form: "modulus and exponent" })
}

fn modulus_bits(modulus: &[u8]) -> usize {
    let high = modulus.first().copied().unwrap_or(0);
    modulus.len() * 8 - high.leading_zeros() as usize
}

/// Checks that `key` made `signature` over the SHA-1 of `parts`, one after another.
///
/// About 17 microseconds with 2048 bits, a fifteenth of what opening a hello costs.
///
/// # Errors
/// [`BadSignature`] if it did not.
pub fn verify(key: &PublicKey, parts: &[&[u8]], signature: &[u8]) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, key.der())
        .verify(&parts.concat(), signature)
        .map_err(|_| BadSignature)
}

/// Bits of the smallest key whose SHA-256 signatures count: nothing that uses them is old enough to
/// meet smaller ones.
pub const PSS_KEY_BITS_MIN: usize = 2048;

/// Checks that `key` made `signature`, RSASSA-PSS with SHA-256 and a salt of 32 bytes, over `parts`,
/// one after another.
///
/// # Errors
/// [`BadSignature`] if it did not, or if it has fewer than [`PSS_KEY_BITS_MIN`] bits.
pub fn verify_pss(key: &PublicKey, parts: &[&[u8]], signature: &[u8]) -> Result<(), BadSignature> {
    if key_bits(key) < PSS_KEY_BITS_MIN {
        return Err(BadSignature);
    }
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.der())
        .verify(&parts.concat(), signature)
        .map_err(|_| BadSignature)
}

/// Checks that `key` made `signature`, PKCS #1 v1.5 with SHA-256, over `parts`, one after another.
/// There is one such signature and no other.
///
/// # Errors
/// [`BadSignature`] if it did not, or if it has fewer than [`PSS_KEY_BITS_MIN`] bits.
pub fn verify_pkcs1(
    key: &PublicKey,
    parts: &[&[u8]],
    signature: &[u8],
) -> Result<(), BadSignature> {
    if key_bits(key) < PSS_KEY_BITS_MIN {
        return Err(BadSignature);
    }
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.der())
        .verify(&parts.concat(), signature)
        .map_err(|_| BadSignature)
}

/// A public key made ready to seal hellos.
pub struct SealingKey(OaepPublicEncryptingKey);

impl SealingKey {
    /// Prepares a registry's comms key.
    ///
    /// # Errors
    /// [`KeyError::Size`] below [`COMMS_KEY_BITS_MIN`].
    pub fn new(key: &PublicKey) -> Result<Self, KeyError> {
        let bits = key_bits(key);
        if bits < COMMS_KEY_BITS_MIN {
            return Err(KeyError::Size { bits, min: COMMS_KEY_BITS_MIN });
        }
        let refused = KeyError::Impossible { reason: "the cryptographic library refuses it" };
        let key = PublicEncryptingKey::from_der(key.der()).map_err(|_| refused)?;
        OaepPublicEncryptingKey::new(key).map(Self).map_err(|_| refused)
    }

    /// Seals `plaintext`, at most 214 bytes for a key of 2048 bits, into one block.
    ///
    /// # Errors
    /// [`KeyError`] if it does not fit.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut block = vec![0; self.0.ciphertext_size()];
        self.0
            .encrypt(&OAEP_SHA1_MGF1SHA1, plaintext, &mut block, None)
            .map_err(|_| KeyError::Impossible { reason: "the plaintext does not fit" })?;
        Ok(block)
    }
}

/// An RSA private key of our own: 2048 to 4096 bits. Its memory is wiped when it is dropped.
pub struct PrivateKey {
    opening: OaepPrivateDecryptingKey,
    signing: KeyPair,
    pkcs1: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl PrivateKey {
    /// Makes a key of [`KEY_BITS`] bits. Takes tens to hundreds of milliseconds of one core.
    ///
    /// # Errors
    /// [`KeyError::Generate`] if the cryptographic library fails.
    pub fn generate() -> Result<Self, KeyError> {
        let signing = KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
        Self::assemble(signing, KeyError::Generate)
    }

    /// Reads the PKCS #1 DER that node files hold.
    ///
    /// # Errors
    /// [`KeyError`] if it is not a consistent RSA private key of at least
    /// [`COMMS_KEY_BITS_MIN`] bits, or not in the one form that DER has for it.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed { form: "DER RSAPrivateKey, at least 2048 bits" };
        let signing = KeyPair::from_der(der).map_err(|_| malformed)?;
        let key = Self::assemble(signing, malformed)?;
        // The library overlooks what comes after the key, and later refuses to sign with the whole.
        if *key.pkcs1 == *der { Ok(key) } else { Err(malformed) }
    }

    /// The parts of a key; `failed` if the cryptographic library does not give them.
    fn assemble(signing: KeyPair, failed: KeyError) -> Result<Self, KeyError> {
        let pkcs8: Pkcs8V1Der<'_> = signing.as_der().map_err(|_| failed)?;
        let info = PrivateKeyInfoRef::from_der(pkcs8.as_ref()).map_err(|_| failed)?;
        let pkcs1 = Zeroizing::new(info.private_key.as_bytes().to_vec());
        let key = PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).map_err(|_| failed)?;
        let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| failed)?;
        let public = public_key(spki.as_ref())?;
        let opening = OaepPrivateDecryptingKey::new(key).map_err(|_| failed)?;
        Ok(Self { opening, signing, pkcs1, public })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key as PKCS #1 DER, as node files hold it.
    #[must_use]
    pub fn pkcs1(&self) -> &[u8] {
        &self.pkcs1
    }

    /// The key as PKCS #8 DER, as programs of our time take it.
    #[must_use]
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let encode = || {
            let algorithm =
                AlgorithmIdentifierRef { oid: RSA_ENCRYPTION, parameters: Some(AnyRef::NULL) };
            PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(&self.pkcs1)?).to_der()
        };
        Zeroizing::new(encode().expect("a key of some KiB fits into any DER"))
    }

    /// Bytes in a block that [`Self::open`] takes: as many as the modulus has.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.opening.key_size_bytes()
    }

    /// Opens a block that was sealed for this key. **One RSA private operation**: never call it on
    /// an async thread.
    ///
    /// # Errors
    /// [`OpenError`], whatever was wrong.
    pub fn open(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut plaintext = Zeroizing::new(vec![0; self.opening.min_output_size()]);
        let length = self
            .opening
            .decrypt(&OAEP_SHA1_MGF1SHA1, block, &mut plaintext, None)
            .map_err(|_| OpenError)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }

    /// Signs the SHA-1 of `parts`, one after another. Also one RSA private operation.
    ///
    /// # Errors
    /// [`KeyError::Impossible`] if the cryptographic library refuses.
    pub fn sign(&self, parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        for part in parts {
            context.update(part);
        }
        sha1_sign::sign(&self.pkcs1, context.finish().as_ref())
            .ok_or(KeyError::Impossible { reason: "the cryptographic library refuses to sign" })
    }

    /// Signs `parts`, one after another: RSASSA-PSS with SHA-256 and a salt of 32 bytes, so never
    /// twice the same. One RSA private operation.
    ///
    /// # Errors
    /// [`KeyError::Impossible`] if the cryptographic library refuses.
    pub fn sign_pss(&self, parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        self.sign_sha256(&RSA_PSS_SHA256, parts)
    }

    /// Signs `parts`, one after another: PKCS #1 v1.5 with SHA-256, always the same for the same
    /// parts. For what is to be the same whenever it is made: certificates, entries, rosters. One RSA
    /// private operation.
    ///
    /// # Errors
    /// [`KeyError::Impossible`] if the cryptographic library refuses.
    pub fn sign_pkcs1(&self, parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        self.sign_sha256(&RSA_PKCS1_SHA256, parts)
    }

    fn sign_sha256(
        &self,
        padding: &'static dyn RsaEncoding,
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, KeyError> {
        let mut signature = vec![0; self.signing.public_modulus_len()];
        self.signing
            .sign(padding, &rand::SystemRandom::new(), &parts.concat(), &mut signature)
            .map_err(|_| KeyError::Impossible {
                reason: "the cryptographic library refuses to sign",
            })?;
        Ok(signature)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(***, public: {})", self.public.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_seals_opens_and_survives_its_der() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pkcs1(key.pkcs1()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key_bits(key.public()), KEY_BITS);
        // AWS-LC's own encoding, which is the only one there is.
        let pkcs8: Pkcs8V1Der<'_> = key.signing.as_der().unwrap();
        assert_eq!(again.pkcs8().as_slice(), pkcs8.as_ref());

        let signature = key.sign(&[b"one", b"two"]).unwrap();
        assert_eq!(again.sign(&[b"onetwo"]).unwrap(), signature);
        assert_eq!(verify(key.public(), &[b"onetwo"], &signature), Ok(()));
        assert_eq!(verify(key.public(), &[b"onetwO"], &signature), Err(BadSignature));
        assert_eq!(verify(key.public(), &[b"onetwo"], b""), Err(BadSignature));

        let block = SealingKey::new(key.public()).unwrap().seal(b"hello").unwrap();
        assert_eq!(block.len(), again.block_bytes());
        assert_eq!(again.open(&block).unwrap().as_slice(), b"hello");
        assert!(again.open(&block[1..]).is_err());
        assert!(again.open(&[0; 256]).is_err());
    }

    /// Found by fuzzing: such a key was taken, and then could not sign.
    #[test]
    fn a_private_key_with_something_after_it_is_refused() {
        let key = PrivateKey::generate().unwrap();
        for after in [&[0][..], &[0xFF; 95], key.pkcs1()] {
            let der = [key.pkcs1(), after].concat();
            let error = PrivateKey::from_pkcs1(&der).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn a_pss_signature_counts_for_its_key_and_message_only() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pkcs1(key.pkcs1()).unwrap();
        let signature = again.sign_pss(&[b"one", b"two"]).unwrap();
        assert_ne!(key.sign_pss(&[b"onetwo"]).unwrap(), signature);
        assert_eq!(verify_pss(key.public(), &[b"on", b"etwo"], &signature), Ok(()));
        assert_eq!(verify_pss(key.public(), &[b"onetwO"], &signature), Err(BadSignature));
        assert_eq!(verify_pss(key.public(), &[b"onetwo"], &signature[1..]), Err(BadSignature));
        assert_eq!(verify_pss(key.public(), &[b"onetwo"], b""), Err(BadSignature));
        let other = public_key(&spki(2048, 1, &[1, 0, 1])).unwrap();
        assert_eq!(verify_pss(&other, &[b"onetwo"], &signature), Err(BadSignature));

        // The other paddings are other signatures.
        let certificate = key.sign_pkcs1(&[b"onetwo"]).unwrap();
        for signature in [certificate, key.sign(&[b"onetwo"]).unwrap()] {
            assert_eq!(verify_pss(key.public(), &[b"onetwo"], &signature), Err(BadSignature));
        }
        assert_eq!(verify(key.public(), &[b"onetwo"], &signature), Err(BadSignature));
    }

    #[test]
    fn a_pkcs1_signature_is_one_for_its_key_and_message_only() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pkcs1(key.pkcs1()).unwrap();
        let signature = again.sign_pkcs1(&[b"one", b"two"]).unwrap();
        assert_eq!(key.sign_pkcs1(&[b"onetwo"]).unwrap(), signature);
        let check =
            |message: &[u8], signature: &[u8]| verify_pkcs1(key.public(), &[message], signature);
        assert_eq!(verify_pkcs1(key.public(), &[b"on", b"etwo"], &signature), Ok(()));
        assert_eq!(check(b"onetwO", &signature), Err(BadSignature));
        for bad in [&signature[1..], &signature[..255], b""] {
            assert_eq!(check(b"onetwo", bad), Err(BadSignature));
        }
        let longer = [&[0], signature.as_slice()].concat();
        assert_eq!(check(b"onetwo", &longer), Err(BadSignature));
        let other = public_key(&spki(2048, 1, &[1, 0, 1])).unwrap();
        assert_eq!(verify_pkcs1(&other, &[b"onetwo"], &signature), Err(BadSignature));
        for other in [key.sign_pss(&[b"onetwo"]).unwrap(), key.sign(&[b"onetwo"]).unwrap()] {
            assert_eq!(check(b"onetwo", &other), Err(BadSignature));
        }
    }

    /// A signature that is right, by a key that is too small to count: made with OpenSSL 3
    /// (`openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32`).
    #[test]
    fn a_small_keys_pss_signature_does_not_count() {
        let decode = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        let key = public_key(&decode(SMALL_KEY)).unwrap();
        assert_eq!(key_bits(&key), 1024);
        let signature = decode(SMALL_SIGNATURE);
        assert_eq!(verify_pss(&key, &[b"onetwo"], &signature), Err(BadSignature));
    }

    const SMALL_KEY: &str = concat!(
        "30819f300d06092a864886f70d010101050003818d0030818902818100b1c74ad0c1c44c0b80fdcc",
        "262b5c84caf5e7cfdff7826b056004aca19deb4f60ff0f098f1f4f2633e3542afd87fe74918c20fe",
        "b0caab2d32d5f2e3dc452ea79732a8b3e054d884ade223aa08d86501364e674101c535cd8ecc41f4",
        "040a28e970d97546ee1aa5ce79a129e6ff59a97bdb8cd6ad2a66012ada11225e4282894655020301",
        "0001",
    );
    const SMALL_SIGNATURE: &str = concat!(
        "5a0fe6581c1aa019b3d7d01976bdd2dff1af92ccb46540f102538e2905aa457e7453923b1119c6a6",
        "f274a6239f454cbe776b0036b1d146e3f059ff72d8aad1167897d1f9d11f13b270a6098e887afe83",
        "ea26d5cb10f81523a57f0d6520e4205c303bb286a7a26367428b08d290aafefd23f2840927e5e44c",
        "b85475a810d57fe0",
    );

    #[test]
    fn a_public_key_gives_the_pkcs1_inside_it() {
        let key = public_key(&spki(2048, 1, &[1, 0, 1])).unwrap();
        assert!(key.der().ends_with(key_pkcs1(&key)));
        assert_eq!(key_pkcs1(&key).len(), 270);
    }

    #[test]
    fn a_private_key_prints_no_secret() {
        let key = PrivateKey::generate().unwrap();
        assert!(format!("{key:?}").starts_with("PrivateKey(***"));
    }

    /// An SPKI with the given numbers, whether they make sense or not.
    fn spki(bits: usize, low_byte: u8, exponent: &[u8]) -> Vec<u8> {
        let mut modulus = vec![0xC3; bits / 8];
        *modulus.last_mut().unwrap() = low_byte;
        encode_spki(&modulus, exponent).unwrap()
    }

    #[test]
    fn only_keys_that_could_work_are_taken() {
        let f4 = [1, 0, 1];
        assert!(public_key(&spki(1024, 1, &f4)).is_ok());
        assert!(public_key(&spki(4096, 1, &f4)).is_ok());
        let sizes = [(512, KEY_BITS_MIN), (1016, KEY_BITS_MIN), (4104, KEY_BITS_MIN)];
        for (bits, min) in sizes {
            assert_eq!(public_key(&spki(bits, 1, &f4)), Err(KeyError::Size { bits, min }));
        }
        for impossible in [
            spki(2048, 2, &f4),
            spki(2048, 1, &[1]),
            spki(2048, 1, &[2]),
            spki(2048, 1, &[0xFF; 4]),
        ] {
            assert!(matches!(public_key(&impossible), Err(KeyError::Impossible { .. })));
        }
    }

    #[test]
    fn other_encodings_and_rubbish_are_refused() {
        let good = spki(2048, 1, &[1, 0, 1]);
        assert!(public_key(&[]).is_err());
        assert!(public_key(&good[..good.len() - 1]).is_err());
        assert!(public_key(&[good.as_slice(), &[0]].concat()).is_err());
        for position in 0..24 {
            let mut bad = good.clone();
            bad[position] ^= 0x01;
            assert!(public_key(&bad).is_err(), "byte {position}");
        }
    }
}
