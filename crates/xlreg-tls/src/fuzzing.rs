//! What judges strangers' certificates, without the handshake around it: for fuzz targets.

use rustls_pki_types::{CertificateDer, UnixTime};
use xlreg_core::PublicKey;

use crate::client::{Pin, check_chain};
use crate::error::{ClientRefused, PeerRefused, ServerRefused};
use crate::peer;
use crate::server::node_key;

/// The key that a client with this certificate is known by, if it is let in.
///
/// # Errors
/// [`ClientRefused`] if it is not.
pub fn client_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, ClientRefused> {
    node_key(certificate)
}

/// Whether a server that shows this leaf and this root is taken for the one that is pinned.
///
/// # Errors
/// [`ServerRefused`] if it is not.
pub fn judge_server(
    pin: Pin,
    root: &CertificateDer<'_>,
    leaf: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), ServerRefused> {
    check_chain(pin, root, leaf, now)
}

/// The key that a peer with this certificate is known by, and the last second of the certificate's
/// life, if it is taken now.
///
/// # Errors
/// [`PeerRefused`] if it is not.
pub fn judge_peer(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(PublicKey, u64), PeerRefused> {
    peer::judge_peer(certificate, now)
}
