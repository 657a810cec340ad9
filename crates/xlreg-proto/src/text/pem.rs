//! Keys in PEM frames, as node files hold them and as tools exchange them.
//!
//! Public keys are DER SubjectPublicKeyInfo under the label `PUBLIC KEY`. Private keys are PKCS #1
//! DER under **no label at all**, `-----BEGIN -----`: so the originals write them, and they look for
//! that very line when they read. Bodies have 64 columns, are not indented, and a blank line follows.
//!
//! Frames stand inside other lines, `key: -----BEGIN ...`, and an error in one names the file's line;
//! so the reader of lines reads them too, rather than a crate that wants a PEM file.
//!
//! Source: docs/protocol.md, section 5.

use data_encoding::BASE64;
use thiserror::Error;
use xlreg_core::PublicKey;
use zeroize::Zeroizing;

use super::block::{Reader, Writer};
use super::error::TextError;
use crate::keys::{self, PrivateKey};

/// The label of public keys.
const PUBLIC: &str = "PUBLIC KEY";

/// The label that the originals give private keys: none.
const PRIVATE: &str = "";

/// Characters in each line of a body but the last.
const COLUMNS: usize = 64;

/// Bytes that fill such a line.
const LINE_BYTES: usize = COLUMNS / 4 * 3;

/// Lines of a body: a private key of 8192 bits has 99.
const BODY_LINES_MAX: usize = 128;

/// Text that should have been base64 and is not. It is not quoted: it may be part of a key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not base64: {reason}")]
pub struct Base64Error {
    reason: &'static str,
}

/// A public key as PEM, ending with a line end.
#[must_use]
pub fn encode_public(key: &PublicKey) -> String {
    std::mem::take(&mut *encode(PUBLIC, key.der()))
}

/// Any DER as PEM, ending with a line end: what tools take under this label, which is theirs to
/// choose. It is wiped when it is dropped.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut writer = Writer::new("\n");
    write_frame(&mut writer, label, der);
    writer.finish()
}

/// A public key from PEM, with nothing but blank lines around it.
///
/// # Errors
/// [`TextError`] if it is not a frame labelled `PUBLIC KEY` with a key that
/// [`keys::public_key`] takes.
pub fn decode_public(text: &str) -> Result<PublicKey, TextError> {
    let mut reader = Reader::new("public key", text)?;
    reader.exactly(&begin(PUBLIC))?;
    let der = read_body(&mut reader, PUBLIC, "PUBLIC KEY")?;
    let key = keys::public_key(&der).map_err(|error| reader.bad("PUBLIC KEY", error))?;
    reader.end()?;
    Ok(key)
}

/// `key: -----BEGIN PUBLIC KEY-----` and its frame.
pub(super) fn read_public(
    reader: &mut Reader<'_>,
    key: &'static str,
) -> Result<PublicKey, TextError> {
    reader.exactly(&format!("{key}: {}", begin(PUBLIC)))?;
    let der = read_body(reader, PUBLIC, key)?;
    keys::public_key(&der).map_err(|error| reader.bad(key, error))
}

/// The like of [`read_public`].
pub(super) fn write_public(writer: &mut Writer, key: &str, public: &PublicKey) {
    write_key(writer, key, PUBLIC, public.der());
}

/// `key: -----BEGIN -----` and its frame.
pub(super) fn read_private(
    reader: &mut Reader<'_>,
    key: &'static str,
) -> Result<PrivateKey, TextError> {
    reader.exactly(&format!("{key}: {}", begin(PRIVATE)))?;
    let der = read_body(reader, PRIVATE, key)?;
    PrivateKey::from_pkcs1(&der).map_err(|error| reader.bad(key, error))
}

/// The like of [`read_private`].
pub(super) fn write_private(writer: &mut Writer, key: &str, private: &PrivateKey) {
    write_key(writer, key, PRIVATE, private.pkcs1());
}

fn begin(label: &str) -> String {
    format!("-----BEGIN {label}-----")
}

fn end(label: &str) -> String {
    format!("-----END {label}-----")
}

/// The rest of a frame, after its first line.
fn read_body(
    reader: &mut Reader<'_>,
    label: &str,
    field: &'static str,
) -> Result<Zeroizing<Vec<u8>>, TextError> {
    let last = end(label);
    // All the room it may take, because memory that it outgrew would not be wiped.
    let mut body = Zeroizing::new(String::with_capacity(BODY_LINES_MAX * COLUMNS));
    while !reader.at_line(&last) {
        let full_so_far = body.len().is_multiple_of(COLUMNS);
        let line = reader.expect(
            || format!("base64 in lines of {COLUMNS} characters, or `{last}`"),
            |line| (full_so_far && line.len() <= COLUMNS && is_base64(line)).then_some(line),
        )?;
        if body.len() == BODY_LINES_MAX * COLUMNS {
            return Err(reader.too_many(field, BODY_LINES_MAX));
        }
        body.push_str(line);
    }
    reader.exactly(&last)?;
    decode_base64(&body).map_err(|error| reader.bad(field, error))
}

/// `key: ` and a frame, and the blank line that the originals leave after it.
fn write_key(writer: &mut Writer, key: &str, label: &str, der: &[u8]) {
    writer.indent();
    writer.push(key);
    writer.push(": ");
    write_frame(writer, label, der);
    writer.push("\n");
}

fn write_frame(writer: &mut Writer, label: &str, der: &[u8]) {
    writer.push(&begin(label));
    writer.push("\n");
    for chunk in der.chunks(LINE_BYTES) {
        writer.push(&Zeroizing::new(BASE64.encode(chunk)));
        writer.push("\n");
    }
    writer.push(&end(label));
    writer.push("\n");
}

fn is_base64(line: &str) -> bool {
    line.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

/// Decodes base64, taking just the text that encoding would give.
///
/// # Errors
/// [`Base64Error`] for any other: wrong alphabet, length, padding, or bits after the end.
pub(super) fn decode_base64(text: &str) -> Result<Zeroizing<Vec<u8>>, Base64Error> {
    let fail = |reason| Base64Error { reason };
    // data-encoding decodes "QQ==QQ==" as two texts in one.
    if text.trim_end_matches('=').contains('=') {
        return Err(fail("padding before the end"));
    }
    let room =
        BASE64.decode_len(text.len()).map_err(|_| fail("its length is not a multiple of 4"))?;
    let mut bytes = Zeroizing::new(vec![0; room]);
    let length = BASE64
        .decode_mut(text.as_bytes(), &mut bytes)
        .map_err(|_| fail("a wrong character, wrong padding or bits left over"))?;
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_one_form_for_each_content() {
        for (text, bytes) in [("", ""), ("QQ==", "A"), ("QUI=", "AB"), ("QUJD", "ABC")] {
            assert_eq!(decode_base64(text).unwrap().as_slice(), bytes.as_bytes());
        }
        for bad in [
            "Q", "QQ", "QQ=", "QQ===", "QR==", "QUJ=", "=", "====", "QQ==QQ==", "QUI=QUJD", "Q===",
            "QU D", "QU-D", "QU_D", "QUJD\n", "QUé",
        ] {
            assert!(decode_base64(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_public_key_survives_its_frame() {
        let key = PrivateKey::generate().unwrap().public().clone();
        let text = encode_public(&key);
        assert_eq!(decode_public(&text), Ok(key.clone()));
        assert_eq!(decode_public(&format!("\r\n {}\n", text.replace('\n', "\r\n\t"))), Ok(key));
    }

    #[test]
    fn a_frame_with_anything_out_of_place_is_refused() {
        let text = encode_public(PrivateKey::generate().unwrap().public());
        let lines: Vec<_> = text.lines().collect();
        for index in 0..lines.len() {
            let mut missing = lines.clone();
            missing.remove(index);
            assert!(decode_public(&missing.join("\n")).is_err(), "line {index} missing");
            let mut doubled = lines.clone();
            doubled.insert(index, lines[index]);
            assert!(decode_public(&doubled.join("\n")).is_err(), "line {index} doubled");
        }
        for bad in [
            text.replace("PUBLIC KEY", "RSA PUBLIC KEY"),
            text.replace("PUBLIC KEY", ""),
            text.replacen("-----BEGIN", "----BEGIN", 1),
            text.clone() + "x",
            text.clone() + &text,
            // Other columns than 64.
            format!("{}\n{}\n{}\n", lines[0], lines[1..lines.len() - 1].concat(), end(PUBLIC)),
            format!("{}\n{}{}\n", begin(PUBLIC), "QUJD\n".repeat(4), end(PUBLIC)),
            // A body that never ends, and one that is longer than any key.
            format!("{}\n{}", begin(PUBLIC), ("A".repeat(64) + "\n").repeat(10)),
            format!("{}\n{}", begin(PUBLIC), ("A".repeat(64) + "\n").repeat(10_000)),
        ] {
            assert!(decode_public(&bad).is_err(), "{bad}");
        }
    }
}
