//! Public keys as the lines that OpenSSH keeps in `authorized_keys`.
//!
//! `ssh-rsa <base64>`, then perhaps a comment. Inside the base64: three strings, each a big-endian
//! length of 4 bytes and as many bytes: `ssh-rsa`, the exponent, the modulus. The two numbers are
//! "mpints": big-endian, without needless zeros, and one zero in front if the top bit is set, since
//! they have a sign.
//!
//! Source: docs/protocol.md, section 5; RFC 4253, section 6.6; RFC 4251, section 5.

use data_encoding::BASE64;
use thiserror::Error;
use xlreg_core::PublicKey;

use super::pem::{self, Base64Error};
use crate::keys::{self, KeyError};

/// The only algorithm of this family.
const ALGORITHM: &str = "ssh-rsa";

/// Text that should have been a public key in OpenSSH's form and is not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SshKeyError {
    /// Not `ssh-rsa <base64>`.
    #[error("a key is `ssh-rsa`, one space, and base64 (that of an RSA key's .pub file)")]
    Form,
    /// The base64 is none.
    #[error(transparent)]
    Base64(#[from] Base64Error),
    /// The content ends too early or too late.
    #[error(
        "the key's content is not three strings with their lengths: {part} is cut off or too long"
    )]
    Length {
        /// Where that was seen.
        part: &'static str,
    },
    /// The content names another algorithm.
    #[error("the key's content is not that of an ssh-rsa key")]
    Algorithm,
    /// A number in another form than the only one there is.
    #[error("the key's {part} is not a positive number in its shortest form")]
    Number {
        /// Exponent or modulus.
        part: &'static str,
    },
    /// The numbers make no key that we take.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// `ssh-rsa <base64>`, without a comment or a line end.
#[must_use]
pub fn encode(key: &PublicKey) -> String {
    let (modulus, exponent) = keys::key_components(key);
    let mut blob = Vec::with_capacity(modulus.len() + 32);
    put_string(&mut blob, ALGORITHM.as_bytes());
    put_number(&mut blob, exponent);
    put_number(&mut blob, modulus);
    format!("{ALGORITHM} {}", BASE64.encode(&blob))
}

/// A key from `ssh-rsa <base64>`; a comment after it is taken and dropped.
///
/// # Errors
/// [`SshKeyError`]; only the one encoding that a key has is taken.
pub fn decode(text: &str) -> Result<PublicKey, SshKeyError> {
    let rest = text.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' '));
    let base64 = rest.and_then(|rest| rest.split(' ').next());
    let base64 = base64.filter(|base64| !base64.is_empty()).ok_or(SshKeyError::Form)?;
    let blob = pem::decode_base64(base64)?;
    let mut blob = blob.as_slice();
    if take_string(&mut blob, "the algorithm")? != ALGORITHM.as_bytes() {
        return Err(SshKeyError::Algorithm);
    }
    let exponent = take_number(&mut blob, "exponent")?;
    let modulus = take_number(&mut blob, "modulus")?;
    if !blob.is_empty() {
        return Err(SshKeyError::Length { part: "the end" });
    }
    Ok(keys::public_key_from_components(modulus, exponent)?)
}

fn take_string<'a>(blob: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], SshKeyError> {
    let cut = SshKeyError::Length { part };
    let (length, rest) = blob.split_first_chunk().ok_or(cut.clone())?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| cut.clone())?;
    let (string, rest) = rest.split_at_checked(length).ok_or(cut)?;
    *blob = rest;
    Ok(string)
}

fn put_string(blob: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("no part of a key has 4 GiB");
    blob.extend_from_slice(&length.to_be_bytes());
    blob.extend_from_slice(string);
}

fn take_number<'a>(blob: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], SshKeyError> {
    let string = take_string(blob, part)?;
    let (zero, number) = match string {
        [0, number @ ..] => (true, number),
        number => (false, number),
    };
    let shortest = number.first().is_some_and(|high| *high != 0) && zero == needs_zero(number);
    shortest.then_some(number).ok_or(SshKeyError::Number { part })
}

/// Appends a number that comes without leading zeros.
fn put_number(blob: &mut Vec<u8>, number: &[u8]) {
    if needs_zero(number) {
        put_string(blob, &[&[0], number].concat());
    } else {
        put_string(blob, number);
    }
}

/// Whether a number would look negative without a zero in front.
fn needs_zero(number: &[u8]) -> bool {
    number.first().is_some_and(|high| *high >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PrivateKey;

    fn line(parts: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for part in parts {
            put_string(&mut blob, part);
        }
        format!("ssh-rsa {}", BASE64.encode(&blob))
    }

    #[test]
    fn a_key_survives_with_or_without_a_comment() {
        let key = PrivateKey::generate().unwrap().public().clone();
        let text = encode(&key);
        assert!(text.starts_with("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ"), "{text}");
        assert_eq!(decode(&text), Ok(key.clone()));
        assert_eq!(decode(&format!("{text} somebody@some host")), Ok(key));
    }

    #[test]
    fn text_that_is_no_such_line_is_refused() {
        let text = encode(PrivateKey::generate().unwrap().public());
        for bad in [
            "",
            "ssh-rsa",
            "ssh-rsa ",
            "ssh-rsa  AAAA",
            "ssh-rsaAAAA",
            "ssh-rsa AAAA",
            &text[8..],
            &text[..text.len() - 4],
            &text.replacen("ssh-rsa", "ssh-dss", 1),
            &text.replacen(' ', "\t", 1),
            &text.replacen("AAAA", "AAA", 1),
            &format!("{text}="),
            &format!("{text}AAAA"),
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn content_in_any_but_the_one_form_is_refused() {
        let modulus = {
            let mut modulus = vec![0xC3; 257];
            modulus[0] = 0;
            modulus
        };
        let good: [&[u8]; 3] = [b"ssh-rsa", &[1, 0, 1], &modulus];
        assert!(decode(&line(&good)).is_ok());
        let negative = &modulus[1..];
        let padded = [&[0], modulus.as_slice()].concat();
        for bad in [
            vec![],
            good[..1].to_vec(),
            good[..2].to_vec(),
            vec![good[0], good[1], good[2], b""],
            vec![b"ssh-dss", good[1], good[2]],
            vec![b"", good[1], good[2]],
            vec![good[0], &[0, 1, 0, 1], good[2]],
            vec![good[0], &[0], good[2]],
            vec![good[0], b"", good[2]],
            vec![good[0], good[1], negative],
            vec![good[0], good[1], &padded],
            vec![good[0], good[1], b""],
            vec![good[0], good[2], good[1]],
            // Numbers that make no key.
            vec![good[0], &[2], good[2]],
            vec![good[0], good[1], &[0x7F; 64]],
        ] {
            assert!(decode(&line(&bad)).is_err(), "{bad:?}");
        }
        // A length that runs past the end, up to the largest there is.
        for length in [8u32, 1 << 20, u32::MAX] {
            let blob = [&length.to_be_bytes(), b"ssh-rsa".as_slice()].concat();
            let text = format!("ssh-rsa {}", BASE64.encode(&blob));
            assert_eq!(decode(&text), Err(SshKeyError::Length { part: "the algorithm" }));
        }
    }
}
