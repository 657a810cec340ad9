//! Tickets that say whose they are, so that nobody resumes who would not be let in anew.

use std::sync::Arc;

use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;
use xlreg_core::Fingerprint;

use super::judge::check_end;
use super::verify::Verdict;

/// Bytes of a fingerprint, and of the second in which the certificate ends.
const KEY_BYTES: usize = 32;
const END_BYTES: usize = 8;

/// The tickets of one connection: what is sealed in each begins with the client's key and the end of
/// its certificate. A ticket whose holder is not let in any more counts for nothing, which leads to a
/// full handshake, where it is refused with a reason.
#[derive(Debug)]
pub(super) struct Marked {
    sealer: Arc<dyn ProducesTickets>,
    verdict: Arc<Verdict>,
}

impl Marked {
    pub(super) fn new(sealer: Arc<dyn ProducesTickets>, verdict: Arc<Verdict>) -> Self {
        Self { sealer, verdict }
    }
}

impl ProducesTickets for Marked {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.sealer.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (key, not_after) = self.verdict.admitted()?;
        let marked = [key.as_bytes(), &not_after.to_be_bytes()[..], plain].concat();
        self.sealer.encrypt(&marked)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let marked = self.sealer.decrypt(cipher)?;
        let (key, rest) = marked.split_first_chunk::<KEY_BYTES>()?;
        let (not_after, plain) = rest.split_first_chunk::<END_BYTES>()?;
        let (key, not_after) = (Fingerprint::from_bytes(*key), u64::from_be_bytes(*not_after));
        check_end(not_after, UnixTime::now()).ok()?;
        self.verdict.admit(key, not_after).ok()?;
        Some(plain.to_vec())
    }
}
