//! A peer's certificate, judged: whose key it holds, and until when.

use pkcs8::der::asn1::{GeneralizedTime, UtcTime};
use pkcs8::der::{self, Decode, Reader, SliceReader, Tag};
use rustls_pki_types::{CertificateDer, UnixTime};
use xlreg_core::PublicKey;

use crate::error::PeerRefused;
use crate::server::node_key;

/// Certificates that a peer may show. The first counts; stock programs send whatever chain they were
/// given behind it.
const CERTIFICATES_MAX: usize = 8;

/// What counts in a certificate.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) key: PublicKey,
    /// The last second of its life, since 1970.
    pub(super) not_after: u64,
}

/// Reads the key, and checks that it is one of a node's and that the certificate is valid `now`.
///
/// Who signed it does not matter: whoever holds the key could sign any other, and that the peer holds
/// it is what the handshake proves. Its dates do, since stock programs go by them: a certificate that
/// is of no use there is of none here.
pub(super) fn judge(
    certificate: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Judged, PeerRefused> {
    if others.len() >= CERTIFICATES_MAX {
        return Err(PeerRefused::Chain { got: 1 + others.len() });
    }
    let key = node_key(certificate)?;
    let (not_before, not_after) = dates(certificate).map_err(|_| PeerRefused::Dates)?;
    check_end(not_after, now)?;
    if let Some(seconds) = not_before.checked_sub(now.as_secs()).filter(|wait| *wait > 0) {
        return Err(PeerRefused::NotYet { seconds });
    }
    Ok(Judged { key, not_after })
}

/// Checks that a certificate that is valid up to this second still is.
pub(super) fn check_end(not_after: u64, now: UnixTime) -> Result<(), PeerRefused> {
    match now.as_secs().checked_sub(not_after) {
        Some(seconds @ 1..) => Err(PeerRefused::Expired { seconds }),
        _ => Ok(()),
    }
}

/// The first and the last second of a certificate's life, since 1970: RFC 5280, section 4.1.2.5.
fn dates(certificate: &CertificateDer<'_>) -> der::Result<(u64, u64)> {
    let mut reader = SliceReader::new(certificate)?;
    let body = reader.sequence(|certificate| {
        let body = certificate.tlv_bytes()?;
        skip(certificate)?;
        Ok::<_, der::Error>(body)
    })?;
    SliceReader::new(body)?.sequence(|body| {
        // version, which all that got here have, serialNumber, signature, issuer
        for _ in 0..4 {
            body.tlv_bytes()?;
        }
        let dates = body.sequence(|dates| Ok::<_, der::Error>((time(dates)?, time(dates)?)))?;
        skip(body)?;
        Ok(dates)
    })
}

fn skip<'a>(reader: &mut impl Reader<'a>) -> der::Result<()> {
    reader.read_slice(reader.remaining_len()).map(|_| ())
}

fn time<'a>(reader: &mut impl Reader<'a>) -> der::Result<u64> {
    let since = match Tag::peek(reader)? {
        Tag::UtcTime => UtcTime::decode(reader)?.to_unix_duration(),
        _ => GeneralizedTime::decode(reader)?.to_unix_duration(),
    };
    Ok(since.as_secs())
}
