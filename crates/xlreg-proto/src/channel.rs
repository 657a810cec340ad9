//! The encrypted stream after the hello: AES-256-CBC, PKCS #7, and no frames.
//!
//! In dialect 1.8 each direction is one CBC chain over the whole session; in 1.9 every message
//! starts with a random IV of its own. Source: docs/protocol.md, section 2.
//!
//! # Where a message ends
//!
//! Nothing on the wire says where. A message has arrived when a whole number of blocks decrypts,
//! unpads and parses. That is unambiguous for every encoder that writes fields in the order of
//! their numbers, as all known ones do: a prefix of a message that also unpadded and parsed would
//! end on a field's boundary, and what would count as its padding, bytes of value 1 to 16, would
//! have to start the next field. The only field tag in that range is 8, the message's first.
//!
//! So there is no such thing as a bad message here, only one that has not ended yet. Whoever
//! waits must bound how long. Nothing tells a wrong key from wrong padding from a wrong parse from
//! a slow peer, which is as it should be on a wire without a MAC.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_256, AES_CBC_IV_LEN, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::wire::XlRegMsg;

/// Bytes in a block of AES, in an IV, and in the most padding there can be.
pub const BLOCK_BYTES: usize = AES_CBC_IV_LEN;

/// Bytes in an AES-256 key.
pub const KEY_BYTES: usize = 32;

/// Bytes of a message on the wire: deployed peers take one read of 16 KiB as a message.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Times that bytes which end like a message may fail to decode before we cease to try.
const DECODE_FAILURES_MAX: u32 = 4;

/// The two generations of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Servers up to 1.8: one CBC chain a direction.
    V1_8,
    /// Servers since 1.9: an IV for each message.
    V1_9,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V1_8 => "1.8",
            Self::V1_9 => "1.9",
        })
    }
}

/// A peer has sent [`MESSAGE_BYTES_MAX`] bytes, and they are no message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("more than {MESSAGE_BYTES_MAX} bytes and no message among them")]
pub struct TooLong;

/// Both directions of an encrypted stream.
pub struct Channel {
    /// What we say.
    pub sealer: Sealer,
    /// What we hear.
    pub opener: Opener,
}

impl Channel {
    /// A stream keyed with what the hello and its reply agreed on.
    #[must_use]
    pub fn new(dialect: Dialect, key: &[u8; KEY_BYTES], iv: [u8; BLOCK_BYTES]) -> Self {
        Self { sealer: Sealer::new(dialect, key, iv), opener: Opener::new(dialect, key, iv) }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({}, ***)", self.sealer.dialect)
    }
}

/// Turns messages into what goes over the wire.
pub struct Sealer {
    dialect: Dialect,
    key: EncryptingKey,
    /// The last block sent; in 1.8 the next message continues from it.
    chain: [u8; BLOCK_BYTES],
}

impl Sealer {
    fn new(dialect: Dialect, key: &[u8; KEY_BYTES], chain: [u8; BLOCK_BYTES]) -> Self {
        let key = EncryptingKey::cbc(aes_key(key)).expect("AES-256 has a CBC mode");
        Self { dialect, key, chain }
    }

    /// Seals one message. `fresh_iv` draws random bytes never used before; 1.8 needs none.
    #[must_use]
    pub fn seal(
        &mut self,
        message: &XlRegMsg,
        fresh_iv: impl FnOnce() -> [u8; BLOCK_BYTES],
    ) -> Vec<u8> {
        let plaintext = Zeroizing::new(message.encode_to_vec());
        let mut sealed = Vec::with_capacity(self.sealed_len(plaintext.len()));
        let iv = match self.dialect {
            Dialect::V1_8 => self.chain,
            Dialect::V1_9 => {
                let iv = fresh_iv();
                sealed.extend_from_slice(&iv);
                iv
            }
        };
        let start = sealed.len();
        pad_into(&mut sealed, &plaintext);
        let body = sealed.get_mut(start..).unwrap_or_default();
        encrypt(&self.key, iv, body);
        self.chain = last_block(body).unwrap_or(iv);
        sealed
    }

    /// Bytes that a message of `plaintext` bytes takes on the wire.
    #[must_use]
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        let iv = if self.dialect == Dialect::V1_9 { BLOCK_BYTES } else { 0 };
        iv + padded_len(plaintext)
    }

    /// Bytes of plaintext that fit into `sealed` bytes on the wire.
    #[must_use]
    pub fn plain_len_max(&self, sealed: usize) -> usize {
        let whole = sealed.saturating_sub(self.sealed_len(0) - BLOCK_BYTES);
        (whole - whole % BLOCK_BYTES).saturating_sub(1)
    }
}

/// Collects what comes over the wire until it is a message.
pub struct Opener {
    dialect: Dialect,
    key: DecryptingKey,
    /// What the first block still to decrypt is chained to; none while 1.9 waits for an IV.
    chain: Option<[u8; BLOCK_BYTES]>,
    /// Ciphertext of the message under way: first the blocks that `plain` shows, then the rest.
    sealed: Vec<u8>,
    /// The whole blocks of `sealed`, decrypted.
    plain: Zeroizing<Vec<u8>>,
    /// How many bytes of `plain` are known not to be a whole message.
    scanned: usize,
    /// How many of them are whole fields, one after another.
    fields: usize,
    /// How often what looked like a message did not decode.
    failures: u32,
}

impl Opener {
    fn new(dialect: Dialect, key: &[u8; KEY_BYTES], iv: [u8; BLOCK_BYTES]) -> Self {
        let chain = (dialect == Dialect::V1_8).then_some(iv);
        Self {
            dialect,
            key: DecryptingKey::cbc(aes_key(key)).expect("AES-256 has a CBC mode"),
            chain,
            sealed: Vec::new(),
            plain: Zeroizing::new(Vec::new()),
            scanned: 0,
            fields: 0,
            failures: 0,
        }
    }

    /// Takes bytes as they arrived, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) {
        self.sealed.extend_from_slice(bytes);
    }

    /// Whether bytes have arrived that are not part of a message already returned.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial_bytes() > 0
    }

    /// How many such bytes there are.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        let iv = self.dialect == Dialect::V1_9 && self.chain.is_some();
        self.sealed.len() + if iv { BLOCK_BYTES } else { 0 }
    }

    /// The next message, if it has arrived whole.
    ///
    /// # Errors
    /// [`TooLong`] once there are more bytes than a message may have; the stream is lost then.
    pub fn next_message(&mut self) -> Result<Option<XlRegMsg>, TooLong> {
        let Some(chain) = self.chain.or_else(|| self.take_iv()) else {
            return Ok(None);
        };
        self.decrypt_whole_blocks(chain);
        // What ends beyond the most is too long, also if it came in one piece with what is not.
        let end = self.plain.len().min(MESSAGE_BYTES_MAX);
        while self.scanned + BLOCK_BYTES <= end {
            self.scanned += BLOCK_BYTES;
            if let Some(message) = self.message_so_far() {
                self.finish_message();
                return Ok(Some(message));
            }
        }
        if self.sealed.len() > MESSAGE_BYTES_MAX { Err(TooLong) } else { Ok(None) }
    }

    /// The message that the first `scanned` bytes are, if they are one.
    ///
    /// Most blocks fail the padding at once, and the next most do not end where a field does, which
    /// costs each field one look. Only then is decoding worth its price; and since no honest
    /// message fails it, a hostile one may try but a few times.
    fn message_so_far(&mut self) -> Option<XlRegMsg> {
        let end = unpad(self.plain.get(..self.scanned)?)?.len();
        while self.fields < end {
            self.fields += field_len(self.plain.get(self.fields..end)?)?;
        }
        if self.failures >= DECODE_FAILURES_MAX {
            return None;
        }
        let message = XlRegMsg::decode(self.plain.get(..end)?).ok();
        self.failures += u32::from(message.is_none());
        message
    }

    /// In 1.9, the first block of a message is its IV.
    fn take_iv(&mut self) -> Option<[u8; BLOCK_BYTES]> {
        self.chain = self.sealed.first_chunk().copied();
        if self.chain.is_some() {
            self.sealed.drain(..BLOCK_BYTES);
        }
        self.chain
    }

    /// Brings `plain` up to date with the whole blocks of `sealed`.
    fn decrypt_whole_blocks(&mut self, chain: [u8; BLOCK_BYTES]) {
        let done = self.plain.len();
        let whole = self.sealed.len() - self.sealed.len() % BLOCK_BYTES;
        let iv = self.sealed.get(..done).and_then(last_block).unwrap_or(chain);
        if let Some(new) = self.sealed.get(done..whole).filter(|new| !new.is_empty()) {
            self.plain.extend_from_slice(new);
            decrypt(&self.key, iv, self.plain.get_mut(done..).unwrap_or_default());
        }
    }

    /// Drops the message that ends at `scanned`, and starts on what came after it.
    fn finish_message(&mut self) {
        let last = self.sealed.get(..self.scanned).and_then(last_block);
        self.chain = if self.dialect == Dialect::V1_8 { last } else { None };
        self.sealed.drain(..self.scanned);
        (self.scanned, self.fields, self.failures) = (0, 0, 0);
        self.plain = Zeroizing::new(Vec::new());
        if self.sealed.is_empty() {
            // An idle connection must not keep the room that its largest message took.
            self.sealed = Vec::new();
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}, {} B waiting, ***)", self.dialect, self.sealed.len())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, ***)", self.dialect)
    }
}

fn aes_key(key: &[u8; KEY_BYTES]) -> UnboundCipherKey {
    UnboundCipherKey::new(&AES_256, key).expect("AES-256 takes a key of 32 bytes")
}

fn last_block(bytes: &[u8]) -> Option<[u8; BLOCK_BYTES]> {
    bytes.last_chunk().copied()
}

/// Bytes that `len` bytes have after padding: the next multiple of a block, never `len` itself.
fn padded_len(len: usize) -> usize {
    len - len % BLOCK_BYTES + BLOCK_BYTES
}

fn pad_into(out: &mut Vec<u8>, plaintext: &[u8]) {
    let padding = BLOCK_BYTES - plaintext.len() % BLOCK_BYTES;
    out.extend_from_slice(plaintext);
    out.resize(out.len() + padding, padding as u8);
}

/// Bytes of the field that `bytes` start with; none if it does not end in them. Groups, which no
/// peer sends, never do: their end would have to be searched for.
fn field_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let (tag, wire_type) = decode_key(&mut rest).ok()?;
    if matches!(wire_type, WireType::StartGroup | WireType::EndGroup) {
        return None;
    }
    skip_field(wire_type, tag, &mut rest, DecodeContext::default()).ok()?;
    Some(bytes.len() - rest.len())
}

/// Pads and encrypts under a key that is used once, as the hello's reply is.
pub(crate) fn seal_once(key: &[u8; KEY_BYTES], iv: [u8; BLOCK_BYTES], plaintext: &[u8]) -> Vec<u8> {
    let key = EncryptingKey::cbc(aes_key(key)).expect("AES-256 has a CBC mode");
    let mut sealed = Vec::with_capacity(padded_len(plaintext.len()));
    pad_into(&mut sealed, plaintext);
    encrypt(&key, iv, &mut sealed);
    sealed
}

/// Undoes [`seal_once`]; `None` if length or padding is wrong.
pub(crate) fn open_once(
    key: &[u8; KEY_BYTES],
    iv: [u8; BLOCK_BYTES],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    if sealed.is_empty() || !sealed.len().is_multiple_of(BLOCK_BYTES) {
        return None;
    }
    let key = DecryptingKey::cbc(aes_key(key)).expect("AES-256 has a CBC mode");
    let mut plain = Zeroizing::new(sealed.to_vec());
    decrypt(&key, iv, &mut plain);
    let length = unpad(&plain)?.len();
    plain.truncate(length);
    Some(plain)
}

/// Encrypts whole blocks in place.
fn encrypt(key: &EncryptingKey, iv: [u8; BLOCK_BYTES], blocks: &mut [u8]) {
    key.less_safe_encrypt(blocks, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .expect("CBC encrypts any number of whole blocks");
}

/// Decrypts whole blocks in place.
fn decrypt(key: &DecryptingKey, iv: [u8; BLOCK_BYTES], blocks: &mut [u8]) {
    key.decrypt(blocks, DecryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .expect("CBC decrypts any number of whole blocks");
}

/// What stands before PKCS #7 padding, or `None` if there is no valid padding.
///
/// Looks at all of the last block whatever it holds: how long it takes tells nothing of the
/// plaintext.
fn unpad(blocks: &[u8]) -> Option<&[u8]> {
    let last: &[u8; BLOCK_BYTES] = blocks.last_chunk()?;
    let count = u32::from(*last.last()?);
    // All ones or all zeros, without a branch: 1 <= count <= 16.
    let mut bad = count.wrapping_sub(1) >> 31 | (BLOCK_BYTES as u32).wrapping_sub(count) >> 31;
    for (from_end, byte) in (1..).zip(last.iter().rev()) {
        let is_padding = (count.wrapping_sub(from_end) >> 31).wrapping_sub(1);
        bad |= is_padding & (u32::from(*byte) ^ count);
    }
    if bad == 0 { blocks.get(..blocks.len() - count as usize) } else { None }
}

#[cfg(test)]
mod tests;
