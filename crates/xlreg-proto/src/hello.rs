//! The hello and its reply, which agree on a session key.
//!
//! The client seals a fresh key under the registry's comms key; the registry answers with the key
//! of the session, encrypted under the client's. That answer is all the proof of identity the
//! registry ever gives. Source: docs/protocol.md, section 2.

use std::fmt;

use thiserror::Error;
use xlreg_core::{PublicKey, Version};
use zeroize::{Zeroize, Zeroizing};

use crate::channel::{BLOCK_BYTES, Channel, Dialect, KEY_BYTES, open_once, seal_once};
use crate::keys::{KeyError, OpenError, PrivateKey, SealingKey};

const SALT_BYTES: usize = 8;
const VERSION_BYTES: usize = 4;

/// Plaintext of a hello: key 32 B, salt 8 B, version 4 B; 1.8 puts an IV of 16 B before them.
const HELLO_1_9_BYTES: usize = KEY_BYTES + SALT_BYTES + VERSION_BYTES;
const HELLO_1_8_BYTES: usize = BLOCK_BYTES + HELLO_1_9_BYTES;

/// A hello that does not open, or opens to something that is none. One reason on purpose: a peer
/// learns nothing from which it was.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the hello does not open")]
pub struct HelloError;

impl From<OpenError> for HelloError {
    fn from(_: OpenError) -> Self {
        Self
    }
}

/// A reply to our hello that does not open: whoever sent it does not hold the registry's key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "the reply to the hello does not open: the server does not hold the comms key of these credentials, or speaks another dialect"
)]
pub struct ReplyError;

/// What one side contributes to a session: random bytes that its owner drew for this use alone.
pub struct Secrets {
    iv: [u8; BLOCK_BYTES],
    key: [u8; KEY_BYTES],
    salt: [u8; SALT_BYTES],
}

impl Secrets {
    /// Bytes of randomness that one side needs.
    pub const BYTES: usize = BLOCK_BYTES + KEY_BYTES + SALT_BYTES;

    /// Divides fresh random bytes into an IV, a key and a salt, in this order.
    #[must_use]
    pub fn from_random(mut bytes: [u8; Self::BYTES]) -> Self {
        let mut reader = Fields(&bytes);
        let secrets = Self { iv: reader.array(), key: reader.array(), salt: reader.array() };
        bytes.zeroize();
        secrets
    }

    /// The same from their parts, as a recorded session gives them.
    #[must_use]
    pub fn from_parts(iv: [u8; BLOCK_BYTES], key: [u8; KEY_BYTES], salt: [u8; SALT_BYTES]) -> Self {
        Self { iv, key, salt }
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.iv.zeroize();
        self.key.zeroize();
        self.salt.zeroize();
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(***)")
    }
}

/// A client that has said hello and waits for the answer.
#[derive(Debug)]
#[must_use = "the session starts when the reply has been opened"]
pub struct ClientHello {
    dialect: Dialect,
    secrets: Secrets,
}

impl ClientHello {
    /// Proposes a session to the registry that holds `comms_key`; the packet goes out first.
    ///
    /// # Errors
    /// [`KeyError`] if nothing can be sealed under that key.
    pub fn new(
        dialect: Dialect,
        comms_key: &PublicKey,
        version: Version,
        secrets: Secrets,
    ) -> Result<(Self, Vec<u8>), KeyError> {
        let mut plaintext = Zeroizing::new(Vec::with_capacity(HELLO_1_8_BYTES));
        if dialect == Dialect::V1_8 {
            plaintext.extend_from_slice(&secrets.iv);
        }
        plaintext.extend_from_slice(&secrets.key);
        plaintext.extend_from_slice(&secrets.salt);
        plaintext.extend_from_slice(&version.to_bytes());
        let packet = SealingKey::new(comms_key)?.seal(&plaintext)?;
        Ok((Self { dialect, secrets }, packet))
    }

    /// Bytes of the reply, exactly.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        match self.dialect {
            // IV, key, two salts, version: 68 B, padded.
            Dialect::V1_8 => 80,
            // An IV in clear, then key, salt, version: 44 B, padded.
            Dialect::V1_9 => BLOCK_BYTES + 48,
        }
    }

    /// Opens the reply: the stream to talk over, and the registry's version.
    ///
    /// # Errors
    /// [`ReplyError`] if the registry's answer is none.
    pub fn finish(self, reply: &[u8]) -> Result<(Channel, Version), ReplyError> {
        let (iv, body) = match self.dialect {
            Dialect::V1_8 => (self.secrets.iv, reply),
            Dialect::V1_9 => {
                let (iv, body) = reply.split_first_chunk().ok_or(ReplyError)?;
                (*iv, body)
            }
        };
        let plaintext = open_once(&self.secrets.key, iv, body).ok_or(ReplyError)?;
        match self.dialect {
            Dialect::V1_8 if plaintext.len() == 68 => {
                let mut fields = Fields(&plaintext);
                let iv2 = fields.array();
                let key2 = Zeroizing::new(fields.array());
                let _salt2: [u8; SALT_BYTES] = fields.array();
                let echoed: [u8; SALT_BYTES] = fields.array();
                let version = Version::from_bytes(fields.array());
                if echoed != self.secrets.salt {
                    return Err(ReplyError);
                }
                Ok((Channel::new(self.dialect, &key2, iv2), version))
            }
            Dialect::V1_9 if plaintext.len() == HELLO_1_9_BYTES => {
                let mut fields = Fields(&plaintext);
                let key2 = Zeroizing::new(fields.array());
                let _salt2: [u8; SALT_BYTES] = fields.array();
                let version = Version::from_bytes(fields.array());
                Ok((Channel::new(self.dialect, &key2, [0; BLOCK_BYTES]), version))
            }
            _ => Err(ReplyError),
        }
    }
}

/// A client's hello, opened: the one-shot session it proposes.
#[derive(Debug)]
#[must_use = "the session starts when the hello has been answered"]
pub struct Hello {
    dialect: Dialect,
    secrets: Secrets,
    version: Version,
}

impl Hello {
    /// Opens a hello; the length of its plaintext tells the dialect.
    ///
    /// `packet` is one RSA block, [`PrivateKey::block_bytes`] long. **One RSA private operation**:
    /// never call it on an async thread.
    ///
    /// # Errors
    /// [`HelloError`], whatever was wrong.
    pub fn open(key: &PrivateKey, packet: &[u8]) -> Result<Self, HelloError> {
        let plaintext = key.open(packet)?;
        let mut fields = Fields(&plaintext);
        let (dialect, iv) = match plaintext.len() {
            HELLO_1_8_BYTES => (Dialect::V1_8, fields.array()),
            HELLO_1_9_BYTES => (Dialect::V1_9, [0; BLOCK_BYTES]),
            _ => return Err(HelloError),
        };
        let secrets = Secrets { iv, key: fields.array(), salt: fields.array() };
        Ok(Self { dialect, secrets, version: Version::from_bytes(fields.array()) })
    }

    /// The generation of the wire the client speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The version the client proposes. Like the originals, we answer with our own regardless.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Answers with a session key: the packet to send, then the stream to talk over.
    #[must_use]
    pub fn accept(self, version: Version, ours: &Secrets) -> (Vec<u8>, Channel) {
        let mut plaintext = Zeroizing::new(Vec::with_capacity(80));
        if self.dialect == Dialect::V1_8 {
            plaintext.extend_from_slice(&ours.iv);
        }
        plaintext.extend_from_slice(&ours.key);
        plaintext.extend_from_slice(&ours.salt);
        if self.dialect == Dialect::V1_8 {
            plaintext.extend_from_slice(&self.secrets.salt);
        }
        plaintext.extend_from_slice(&version.to_bytes());
        let channel = Channel::new(self.dialect, &ours.key, ours.iv);
        let packet = match self.dialect {
            Dialect::V1_8 => seal_once(&self.secrets.key, self.secrets.iv, &plaintext),
            Dialect::V1_9 => {
                let sealed = seal_once(&self.secrets.key, ours.iv, &plaintext);
                [ours.iv.as_slice(), &sealed].concat()
            }
        };
        (packet, channel)
    }
}

/// Takes fixed-size fields off the front of a plaintext whose length has been checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) =
            self.0.split_first_chunk().expect("the caller has checked the plaintext's length");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::random;

    #[test]
    fn both_ends_agree_in_both_dialects() {
        let key = PrivateKey::generate().unwrap();
        for dialect in [Dialect::V1_8, Dialect::V1_9] {
            let secrets = Secrets::from_random(random());
            let (client, packet) =
                ClientHello::new(dialect, key.public(), Version::from_bytes([0; 4]), secrets)
                    .unwrap();
            let hello = Hello::open(&key, &packet).unwrap();
            assert_eq!(hello.dialect(), dialect);
            let (reply, mut server) =
                hello.accept(Version::CURRENT, &Secrets::from_random(random()));
            assert_eq!(reply.len(), client.reply_bytes());
            let (mut client, version) = client.finish(&reply).unwrap();
            assert_eq!(version, Version::CURRENT);
            let message = crate::wire::XlRegMsg { op: Some(11), ..Default::default() };
            for _ in 0..3 {
                server.opener.push(&client.sealer.seal(&message, random));
                assert_eq!(server.opener.next_message(), Ok(Some(message.clone())));
                client.opener.push(&server.sealer.seal(&message, random));
                assert_eq!(client.opener.next_message(), Ok(Some(message.clone())));
            }
        }
    }

    #[test]
    fn plaintexts_of_any_other_length_are_one_and_the_same_error() {
        let key = PrivateKey::generate().unwrap();
        let sealing = SealingKey::new(key.public()).unwrap();
        for length in (0..100).filter(|length| ![HELLO_1_8_BYTES, HELLO_1_9_BYTES].contains(length))
        {
            let packet = sealing.seal(&vec![7; length]).unwrap();
            assert_eq!(Hello::open(&key, &packet).unwrap_err(), HelloError);
        }
        assert_eq!(Hello::open(&key, &[7; 256]).unwrap_err(), HelloError);
        assert_eq!(Hello::open(&key, b"").unwrap_err(), HelloError);
    }

    #[test]
    fn a_reply_that_is_not_the_registrys_is_refused() {
        let key = PrivateKey::generate().unwrap();
        for dialect in [Dialect::V1_8, Dialect::V1_9] {
            for reply in [vec![], vec![0; 15], vec![0; 64], vec![0; 80], vec![0; 81]] {
                let secrets = Secrets::from_random(random());
                let (client, _) =
                    ClientHello::new(dialect, key.public(), Version::CURRENT, secrets).unwrap();
                assert_eq!(client.finish(&reply).unwrap_err(), ReplyError);
            }
        }
    }
}
