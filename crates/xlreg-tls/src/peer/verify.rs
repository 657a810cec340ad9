//! Both sides' verifiers, and what a handshake has found out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use xlreg_core::Fingerprint;

use super::Admission;
use super::judge::judge;
use crate::crypto;
use crate::error::PeerRefused;

/// The domain of the names below. It exists in no DNS, and they are never sent.
const DOMAIN: &str = ".xlreg";

/// The name under which rustls knows the holder of a sig key: its fingerprint, in two labels, since
/// one takes only 63 characters. It is not sent. Tickets are kept under it, so they go with the key.
#[must_use]
pub fn server_name(key: &Fingerprint) -> ServerName<'static> {
    let digits = key.to_string();
    let (left, right) = digits.split_at(digits.len() / 2);
    let name = DnsName::try_from(format!("{left}.{right}{DOMAIN}"));
    ServerName::DnsName(name.expect("hex digits and dots make a DNS name"))
}

/// The key that a name of [`server_name`]'s stands for.
fn named_key(name: &ServerName<'_>) -> Option<Fingerprint> {
    let ServerName::DnsName(name) = name else { return None };
    name.as_ref().strip_suffix(DOMAIN)?.replace('.', "").parse().ok()
}

/// What has been found out about a client in its handshake.
#[derive(Debug)]
pub struct Verdict {
    admission: Arc<dyn Admission>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// The key that was let in, and the last second of its certificate.
    admitted: Option<(Fingerprint, u64)>,
    refused: Option<PeerRefused>,
}

impl Verdict {
    pub(super) fn new(admission: Arc<dyn Admission>) -> Self {
        Self { admission, found: Mutex::default() }
    }

    /// Why the client's certificate was not taken, if that is how the handshake failed.
    #[must_use]
    pub fn refused(&self) -> Option<PeerRefused> {
        self.lock().refused.clone()
    }

    /// Who decides.
    #[must_use]
    pub fn admission(&self) -> &dyn Admission {
        &*self.admission
    }

    pub(super) fn admitted(&self) -> Option<(Fingerprint, u64)> {
        self.lock().admitted
    }

    /// Asks whether this key is let in, and remembers if it is.
    pub(super) fn admit(&self, key: Fingerprint, not_after: u64) -> Result<(), PeerRefused> {
        // Asked without the lock, since it may take its time.
        self.admission.admit(&key, None)?;
        self.lock().admitted = Some((key, not_after));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Judges one client.
#[derive(Debug)]
pub(super) struct Newcomer(pub(super) Arc<Verdict>);

impl ClientCertVerifier for Newcomer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let judged = judge(end_entity, intermediates, now)
            .and_then(|judged| self.0.admit(judged.key.fingerprint(), judged.not_after));
        judged.map(|()| ClientCertVerified::assertion()).map_err(|refused| {
            let alert = alert(&refused);
            self.0.lock().refused = Some(refused);
            alert.into()
        })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &crypto::NODE_SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::NODE_SCHEMES.supported_schemes()
    }
}

/// The error whose alert tells the client as much as an alert can. The text stays with us, in the
/// verdict.
fn alert(refused: &PeerRefused) -> CertificateError {
    match refused {
        PeerRefused::Chain { .. }
        | PeerRefused::Size { .. }
        | PeerRefused::Malformed(_)
        | PeerRefused::Dates => CertificateError::BadEncoding,
        PeerRefused::Key(_) => CertificateError::InvalidPurpose,
        PeerRefused::Expired { .. } => CertificateError::Expired,
        PeerRefused::NotYet { .. } => CertificateError::NotValidYet,
        PeerRefused::Stranger { .. } | PeerRefused::Swapped { .. } => {
            CertificateError::UnknownIssuer
        }
        PeerRefused::Former { .. } => CertificateError::Revoked,
        PeerRefused::NotAllowed { .. }
        | PeerRefused::NotRegistered { .. }
        | PeerRefused::Unsure { .. } => CertificateError::ApplicationVerificationFailure,
    }
}

/// Takes the holder of the key that a connection's server name stands for.
#[derive(Debug)]
pub(super) struct MeantPeer(pub(super) Arc<dyn Admission>);

impl ServerCertVerifier for MeantPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let meant = named_key(name).ok_or(CertificateError::ApplicationVerificationFailure)?;
        let judged = judge(end_entity, intermediates, now)?;
        self.0.admit(&judged.key.fingerprint(), Some(&meant))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &crypto::NODE_SCHEMES)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::NODE_SCHEMES.supported_schemes()
    }
}
