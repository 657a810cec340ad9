//! The secrets of join tokens, as the text that people hand around.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use aws_lc_rs::digest;
use data_encoding::{Encoding, Specification};
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a token's ID. Enough to tell the tokens of a registry apart; it keeps nothing secret.
pub const TOKEN_ID_BYTES: usize = 4;

/// Random bytes of a token's secret: no one guesses 128 bits.
pub const TOKEN_RANDOM_BYTES: usize = 16;

/// What a secret's text begins with, so that people, and scanners for leaked secrets, know it.
pub const TOKEN_PREFIX: &str = "xlt_";

/// Characters of a secret's text: the prefix, then 5 bits each. 160 bits leave none over.
pub const TOKEN_TEXT_BYTES: usize = TOKEN_PREFIX.len() + SECRET_BYTES * 8 / 5;

const SECRET_BYTES: usize = TOKEN_ID_BYTES + TOKEN_RANDOM_BYTES;

/// What a digest begins with, so that it is of use for nothing else.
const DIGEST_LABEL: &[u8] = b"xlreg.v2 join token\n";

/// Base32 of RFC 4648 in lower case and without padding. No other text reads as the same bytes.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut base32 = Specification::new();
    base32.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    base32.encoding().expect("32 different symbols make an encoding")
});

/// Text that should have been a join token's secret and is not.
///
/// Nothing of the text is in here: a secret with a typing error is still nearly the secret.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Something else altogether.
    #[error("a join token begins with {TOKEN_PREFIX:?}")]
    Prefix,
    /// Cut short, or with something added.
    #[error("a join token has {TOKEN_TEXT_BYTES} characters, got {got}")]
    Length {
        /// The bytes there were.
        got: usize,
    },
    /// Mistyped, or in capitals.
    #[error(
        "after {TOKEN_PREFIX:?}, a join token has only the letters a to z and the digits 2 to 7"
    )]
    Character,
}

/// What a machine shows to join a cluster that asks for a token: the token's ID and 16 random
/// bytes.
///
/// Its text is `xlt_` and 32 characters of base32, in lower case; one text for each secret. Its
/// memory is wiped when it is dropped. There is no `Display`, so it gets into no log by accident,
/// and no `==`, so nobody compares it in a time that tells: registries compare digests.
#[derive(Clone)]
pub struct TokenSecret {
    id: [u8; TOKEN_ID_BYTES],
    bytes: Zeroizing<[u8; SECRET_BYTES]>,
    text: Zeroizing<String>,
}

impl TokenSecret {
    /// Makes a secret of a token's ID and of bytes that must come from a cryptographic generator,
    /// such as `xlreg_proto::keys::random`.
    #[must_use]
    pub fn from_random(id: [u8; TOKEN_ID_BYTES], random: [u8; TOKEN_RANDOM_BYTES]) -> Self {
        let random = Zeroizing::new(random);
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        for (place, byte) in bytes.iter_mut().zip(id.iter().chain(random.iter())) {
            *place = *byte;
        }
        Self::from_bytes(bytes)
    }

    /// Reads a secret's text; nothing may stand around it.
    ///
    /// # Errors
    /// [`TokenError`], which holds nothing of the text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() != TOKEN_TEXT_BYTES {
            return Err(TokenError::Length { got: text.len() });
        }
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        BASE32
            .decode_mut(digits.as_bytes(), bytes.as_mut_slice())
            .map_err(|_| TokenError::Character)?;
        Ok(Self::from_bytes(bytes))
    }

    fn from_bytes(bytes: Zeroizing<[u8; SECRET_BYTES]>) -> Self {
        // With room from the start, so that it never moves and leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_TEXT_BYTES));
        text.push_str(TOKEN_PREFIX);
        BASE32.encode_append(bytes.as_slice(), &mut text);
        let id = *bytes.first_chunk().expect("a secret begins with the token's ID");
        Self { id, bytes, text }
    }

    /// The secret as text. Whoever has it can join.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The token's ID, which is not secret.
    #[must_use]
    pub fn id(&self) -> [u8; TOKEN_ID_BYTES] {
        self.id
    }

    /// What a registry keeps of the secret: the SHA-256 of `xlreg.v2 join token\n`, the ID and the
    /// random bytes. As these are 128 random bits, it needs neither salt nor a slow hash.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(DIGEST_LABEL);
        context.update(self.bytes.as_slice());
        context.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")
    }
}

impl FromStr for TokenSecret {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "xlt_32v353yaaebagbafaydqqcikbmga2dqp";

    /// Taken with another implementation of base32 and SHA-256.
    const DIGEST: &str = "e17b294a9f5332b7c5d317a5f102ed3b073bbef4eb5e97e853d337998af583f6";

    fn secret() -> TokenSecret {
        let random = std::array::from_fn(|index| index as u8);
        TokenSecret::from_random([0xDE, 0xAB, 0xBE, 0xEF], random)
    }

    #[test]
    fn a_secret_has_this_text_and_this_digest() {
        assert_eq!(secret().as_str(), TEXT);
        assert_eq!(secret().id(), [0xDE, 0xAB, 0xBE, 0xEF]);
        assert_eq!(HEXLOWER.encode(&secret().digest()), DIGEST);
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", secret()), "***");
    }

    #[test]
    fn near_misses_are_refused() {
        let digits = &TEXT[4..];
        for (bad, error) in [
            ("", TokenError::Prefix),
            (digits, TokenError::Prefix),
            (&format!(" {TEXT}"), TokenError::Prefix),
            (&TEXT.to_uppercase(), TokenError::Prefix),
            (&format!("XLT_{digits}"), TokenError::Prefix),
            ("xlt_", TokenError::Length { got: 4 }),
            (&TEXT[..35], TokenError::Length { got: 35 }),
            (&format!("{TEXT}\n"), TokenError::Length { got: 37 }),
            (&format!("{TEXT}===="), TokenError::Length { got: 40 }),
            (&format!("{TEXT}a"), TokenError::Length { got: 37 }),
            (&format!("xlt_{}", digits.to_uppercase()), TokenError::Character),
            (&format!("{}0", &TEXT[..35]), TokenError::Character),
            (&format!("{}l=", &TEXT[..34]), TokenError::Character),
            (&format!("{}é", &TEXT[..34]), TokenError::Character),
        ] {
            assert_eq!(TokenSecret::parse(bad).unwrap_err(), error, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_reads_back_and_no_other_text_does(
            id in any::<[u8; 4]>(),
            random in any::<[u8; 16]>(),
            at in 0..TOKEN_TEXT_BYTES,
            other in "[\\x00-\\x7f]",
        ) {
            let secret = TokenSecret::from_random(id, random);
            prop_assert_eq!(secret.as_str().len(), TOKEN_TEXT_BYTES);
            let again: TokenSecret = secret.as_str().parse().unwrap();
            prop_assert_eq!((again.id(), again.as_str()), (id, secret.as_str()));
            prop_assert_eq!(again.digest(), secret.digest());

            let mut changed = secret.as_str().to_owned();
            changed.replace_range(at..=at, &other);
            if let Ok(read) = TokenSecret::parse(&changed) {
                prop_assert_eq!(read.as_str(), &changed);
                prop_assert_eq!(read.digest() == secret.digest(), changed == secret.as_str());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|xlt_\\PC{0,40}") {
            if let Ok(secret) = TokenSecret::parse(&text) {
                prop_assert_eq!(secret.as_str(), text);
            }
        }
    }
}
