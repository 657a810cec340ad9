//! Members among themselves, and a cluster's clients with its members: who connects to a key takes
//! that key and no other, and who listens takes the keys that it is told to take *now*.
//!
//! What is shown is the certificate that [`member_certificate`](crate::member_certificate) makes,
//! or a node's own; what is taken is any certificate of a node's key, whoever signed it, as long as
//! its dates are right. docs/decisions/0029-what-peers-show-and-take.md says why.
//!
//! | module | what it holds |
//! |---|---|
//! | `judge` | a peer's certificate: its key and its dates |
//! | `verify` | both verifiers, and what a handshake has found out |
//! | `tickets` | tickets that say whose they are |
//!
//! Every refusal comes before the peer hears of success: in TLS 1.3 whoever connects is done before
//! the other side has seen its certificate, but tickets come only after that. So a ticket means that
//! we were let in, and a session is not resumed for whom a full handshake would refuse.

mod judge;
#[cfg(test)]
mod tests;
mod tickets;
mod verify;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, ServerName, UnixTime};
use xlreg_core::{Fingerprint, NodeId, PublicKey};
use xlreg_proto::keys::PrivateKey;

use crate::certificate::own_name;
use crate::crypto;
use crate::error::{PeerRefused, TlsError};
use tickets::Marked;
use verify::{MeantPeer, Newcomer};
pub use verify::{Verdict, server_name};

/// Servers whose tickets are remembered: as many members as a cluster has, and as many again for
/// keys that took the place of others.
const SERVERS: usize = 128;

/// Tickets for each connection, so that who comes back with two at once resumes with both.
const TICKETS: usize = 2;

/// What a peer's certificate comes to: its key, and the last second of its life.
#[cfg(feature = "fuzzing")]
pub(crate) fn judge_peer(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(PublicKey, u64), PeerRefused> {
    let judge::Judged { key, not_after } = judge::judge(certificate, &[], now)?;
    Ok((key, not_after))
}

/// Who is let in. It is asked in every handshake, full or resumed.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Whether the holder of this sig key is let in now. If we connect, `meant` is the key of the
    /// one that we want to reach, and nobody else will do.
    ///
    /// It is called where handshakes are computed, and may block there.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, key: &Fingerprint, meant: Option<&Fingerprint>) -> Result<(), PeerRefused>;
}

/// A node's TLS with its peers: what it shows, as server and as client, and tickets of both kinds.
pub struct PeerTls {
    shown: Arc<Shown>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<ClientSessionMemoryCache>,
    client: Arc<ClientConfig>,
}

impl PeerTls {
    /// The TLS of the node with this sig key, which shows `certificate`: one of that key. `members`
    /// says whom it connects to. No RSA operation; each full handshake is one.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if rustls refuses.
    pub fn new(
        key: &PrivateKey,
        certificate: CertificateDer<'static>,
        members: Arc<dyn Admission>,
    ) -> Result<Self, TlsError> {
        let pkcs1 = PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.pkcs1()));
        let certified = CertifiedKey::new(vec![certificate], any_supported_type(&pkcs1)?);
        let shown = Arc::new(Shown(RwLock::new(Arc::new(certified))));
        let sessions = Arc::new(ClientSessionMemoryCache::new(SERVERS));
        let client = client_config(&shown, &sessions, members)?;
        Ok(Self { shown, ticketer: Ticketer::new()?, sessions, client: Arc::new(client) })
    }

    /// Shows another certificate of the same key from now on.
    pub fn show(&self, certificate: CertificateDer<'static>) {
        let mut shown = self.shown.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = Arc::clone(&shown.key);
        *shown = Arc::new(CertifiedKey::new(vec![certificate], key));
    }

    /// What to make connections to peers with: to the holder of a sig key under [`server_name`].
    ///
    /// When the handshake is done, [`peer_key`] must be asked: a session that was resumed has not
    /// been checked otherwise.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// Forgets the tickets of the holder of this sig key, so that the next handshake is a full one.
    pub fn forget(&self, meant: &Fingerprint) {
        let name = server_name(meant);
        while self.sessions.take_tls13_ticket(&name).is_some() {}
    }

    /// What to answer one connection with, of someone who is taken if `admission` says so. The
    /// verdict tells why not. Of the client's application protocols the first of these is chosen, and
    /// the handshake fails if it offers only others.
    ///
    /// [`peer_key`] must be asked before anything is sent that follows the handshake's end: then
    /// nobody gets a ticket whose key went out of the roster in that very moment.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if rustls refuses.
    pub fn server(
        &self,
        admission: Arc<dyn Admission>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<(Arc<ServerConfig>, Arc<Verdict>), TlsError> {
        let verdict = Arc::new(Verdict::new(admission));
        let newcomer = Arc::new(Newcomer(Arc::clone(&verdict)));
        let mut config = ServerConfig::builder_with_provider(crypto::shared_provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(newcomer)
            .with_cert_resolver(Arc::clone(&self.shown) as _);
        config.alpn_protocols = protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(Marked::new(Arc::clone(&self.ticketer), Arc::clone(&verdict)));
        config.ignore_client_order = true;
        config.send_tls13_tickets = TICKETS;
        config.max_early_data_size = 0;
        Ok((Arc::new(config), verdict))
    }
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

/// The sig key of the peer, once the handshake is done, if it is let in as of now: also a session
/// that was resumed is checked by this. May block, as [`Admission::admit`] may.
///
/// # Errors
/// Why it is not let in after all.
pub fn peer_key(
    connection: &CommonState,
    admission: &dyn Admission,
    meant: Option<&Fingerprint>,
) -> Result<PublicKey, PeerRefused> {
    let shown = connection.peer_certificates().filter(|_| !connection.is_handshaking());
    let Some((certificate, others)) = shown.and_then(<[_]>::split_first) else {
        return Err(PeerRefused::Chain { got: 0 });
    };
    let judged = judge::judge(certificate, others, UnixTime::now())?;
    admission.admit(&judged.key.fingerprint(), meant)?;
    Ok(judged.key)
}

/// Whether the peer's certificate claims to be that of the node with this ID. That is a claim like any
/// other in it; it tells members apart that share a sig key.
#[must_use]
pub fn claims(connection: &CommonState, id: NodeId) -> bool {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let (Some(certificate), Ok(name)) = (certificate, ServerName::try_from(own_name(id))) else {
        return false;
    };
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

fn client_config(
    shown: &Arc<Shown>,
    sessions: &Arc<ClientSessionMemoryCache>,
    members: Arc<dyn Admission>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(crypto::shared_provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(MeantPeer(members)))
        .with_client_cert_resolver(Arc::clone(shown) as _);
    config.resumption = Resumption::store(Arc::clone(sessions) as _);
    // It would tell the network in clear who is meant, and a listener has only one key to show.
    config.enable_sni = false;
    Ok(config)
}

/// The certificate that is shown at present. The lock is held for the time it takes to clone or to
/// put an `Arc`.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl rustls::client::ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
