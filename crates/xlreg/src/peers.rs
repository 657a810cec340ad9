//! Members among themselves: links that only the roster's keys open.
//!
//! A joined member has a listener and a connector. Both ends of a link speak TLS 1.3, prove their sig
//! keys, and take exactly the roster as it is at that moment; a link knows who is at its other end.
//!
//! ```no_run
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpListener;
//! # use std::time::Duration;
//! # async fn member(mut membership: xlreg::Membership) -> Result<(), Box<dyn std::error::Error>> {
//! // … joined, and the roster waited for.
//! let peers = membership.peers().await?;
//! let mut listener = peers.listen(TcpListener::bind("127.0.0.1:4001").await?);
//! tokio::spawn(async move {
//!     while let Ok(mut link) = listener.accept().await {
//!         println!("{} has come", link.peer());
//!         tokio::spawn(async move { link.write_all(b"welcome").await });
//!     }
//! });
//! let mut link = peers.connect(0).await?;
//! let mut said = String::new();
//! link.read_to_string(&mut said).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `connecting` | the side that comes: tries, and why they fail |
//! | `listener` | the side that is come to |
//! | `clients` | which clients of the cluster are taken there |
//! | `handshake` | a handshake from its first byte until both know whether it has succeeded |
//! | `stream` | a link, and who is at its other end |
//! | `known` | the roster as it is known now, and the keys that have gone out of it |
//! | `follow` | that roster kept current |
//! | `error` | why peers don't reach each other |
//!
//! docs/peers.md tells what is checked and what is not.

mod clients;
mod connecting;
mod error;
mod follow;
mod handshake;
mod known;
mod listener;
mod stream;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::{debug, warn};
use xlreg_core::{ClusterKey, Member, Name, NodeId};
use xlreg_proto::keys::PrivateKey;
use xlreg_tls::{Admission, NodeCertificate, PeerTls, TlsError, member_certificate};

use crate::error::Error;
use crate::identity::Identity;
use crate::registry::Registry;
use crate::roster::Roster;
pub use clients::Clients;
use clients::Guests;
pub use error::{PeerError, TurnedAway, Unreached};
use follow::{Ended, Follow};
use known::Known;
pub use listener::PeerListener;
pub use stream::{Peer, PeerStream};
pub use xlreg_tls::{Departure, PeerRefused};

/// How long [`Peers::connect`] tries.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How long the certificates are valid that we show. Peers of this library look at the key and at
/// these dates; stock programs at the names in it, too.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How old a certificate gets before another takes its place.
const CERTIFICATE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whom to connect to: by rank, name or ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The member that holds this rank.
    Rank(usize),
    /// The member of this name.
    Name(Name),
    /// The member with this ID.
    Id(NodeId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl From<usize> for Target {
    fn from(rank: usize) -> Self {
        Self::Rank(rank)
    }
}

impl From<Name> for Target {
    fn from(name: Name) -> Self {
        Self::Name(name)
    }
}

impl From<&Name> for Target {
    fn from(name: &Name) -> Self {
        Self::Name(name.clone())
    }
}

impl From<NodeId> for Target {
    fn from(id: NodeId) -> Self {
        Self::Id(id)
    }
}

impl From<&NodeId> for Target {
    fn from(id: &NodeId) -> Self {
        Self::Id(*id)
    }
}

/// A cluster's members, to connect to and be connected to by. Cheap to clone; clones share all but
/// what the methods `with_…` set.
///
/// For members, and for clients of a cluster, who connect to its members and listen for nobody.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    protocols: Arc<[Vec<u8>]>,
    resumption: bool,
}

struct Shared {
    known: Arc<Known>,
    identity: watch::Sender<Identity>,
    own: RwLock<Arc<Own>>,
    /// Held while a certificate is made, so that one does it.
    renewing: tokio::sync::Mutex<()>,
    ended: Arc<Ended>,
    follow: Option<Task<()>>,
}

/// What we show at present.
struct Own {
    tls: Arc<PeerTls>,
    shown: Mutex<Shown>,
}

/// What a certificate was made of, and when it is the right one.
#[derive(Clone)]
struct Shown {
    /// Our entry in the roster; none of a client.
    member: Option<Arc<Member>>,
    good: Range<SystemTime>,
}

/// A task that ends with this.
#[derive(Debug)]
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Peers {
    /// The members in this roster, for the node `identity`, which is one of them or not. The roster
    /// stays as it is until [`Self::update`]. An RSA operation, off the async threads.
    ///
    /// # Errors
    /// [`Error::Tls`] if the keys are not fit for TLS: below 2048 bits.
    pub async fn new(identity: &Identity, roster: &Roster) -> Result<Self, Error> {
        let known = Arc::new(Known::new(roster));
        let own = Own::new(identity, &known).await?;
        Ok(Self::assemble(identity, known, own, |_, _| None))
    }

    /// The members of a cluster, followed through the registry for as long as this or a clone of it
    /// or a listener exists: members that come, rejoin at other endpoints, or rotate their keys are
    /// known at once, and those that leave or are expelled are so no more. Links that are open stay.
    ///
    /// While the registry can't be reached, and after the cluster is gone, the last roster that is
    /// known stays in force.
    ///
    /// # Errors
    /// As [`Registry::watch`] and [`Self::new`].
    pub async fn follow(
        registry: &Registry,
        identity: &Identity,
        cluster: &ClusterKey,
    ) -> Result<Self, Error> {
        let first = registry.watch(identity, cluster).await?;
        let roster = first.roster();
        let known = Arc::new(Known::new(&roster));
        let own = Own::new(identity, &known).await?;
        Ok(Self::assemble(identity, Arc::clone(&known), own, |identities, ended| {
            let (registry, cluster) = (registry.clone(), ClusterKey::Id(roster.id));
            let follow = Follow { registry, cluster, known, ended };
            Some(Task(tokio::spawn(follow.run(first, identities))))
        }))
    }

    fn assemble(
        identity: &Identity,
        known: Arc<Known>,
        own: Own,
        follow: impl FnOnce(watch::Receiver<Identity>, Arc<Ended>) -> Option<Task<()>>,
    ) -> Self {
        let (identity, receiver) = watch::channel(identity.clone());
        let ended = Arc::default();
        let follow = follow(receiver, Arc::clone(&ended));
        let own = RwLock::new(Arc::new(own));
        let renewing = tokio::sync::Mutex::default();
        let shared = Shared { known, identity, own, renewing, ended, follow };
        Self { shared: Arc::new(shared), protocols: Arc::new([]), resumption: true }
    }

    /// The same, offering these application protocols (ALPN) in links made and accepted with what comes
    /// back; the first of a listener's that the other side offers is chosen, and the link fails if it
    /// offers only others. [`PeerStream::protocol`] tells which it is.
    #[must_use]
    pub fn with_protocols(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The same, making each link by a full handshake, or not: by default it goes on from an earlier one
    /// with the same peer if it can, which saves both sides an RSA operation. Either way each link has
    /// session keys of its own, from a new key exchange.
    #[must_use]
    pub fn with_resumption(mut self, on: bool) -> Self {
        self.resumption = on;
        self
    }

    /// Accepts links with members, and nobody else. The listener is bound to the member's first
    /// endpoint, or to where that leads. To be called within a tokio runtime, as it spawns a task.
    #[must_use]
    pub fn listen(&self, listener: tokio::net::TcpListener) -> PeerListener {
        PeerListener::start(listener, self.clone(), Arc::clone(&self.shared.known) as _)
    }

    /// Accepts links with members and with those clients of the cluster. The listener is bound to the
    /// member's second endpoint, or to the first in a cluster of one endpoint a member.
    ///
    /// Members are taken as such here, too; [`Peer::is_member`] tells who is one.
    #[must_use]
    pub fn listen_for_clients(
        &self,
        listener: tokio::net::TcpListener,
        clients: Clients,
    ) -> PeerListener {
        let identity = self.shared.identity.subscribe();
        let guests = Guests::new(Arc::clone(&self.shared.known), clients, identity);
        PeerListener::start(listener, self.clone(), Arc::new(guests))
    }

    /// Makes a link with a member, trying for 10 s. At its first endpoint if we are a member; if we
    /// are a client of the cluster, at its second, or at the first where there is no second.
    ///
    /// There is a link only when the other side has shown that it takes us: by a ticket, or by the first
    /// it says. From a listener of another make that does neither, 3 s without an objection are taken
    /// for consent. Tries follow each other
    /// after pauses that grow from 50 ms to 2 s, and at once when the roster changes, since that may
    /// bring the endpoint or key that was missing.
    ///
    /// # Errors
    /// [`Unreached`], which tells whom, where, how often and why. At once if no such member is in a
    /// roster that nobody keeps current.
    pub async fn connect(&self, to: impl Into<Target>) -> Result<PeerStream, Unreached> {
        self.reach(&to.into(), CONNECT_WITHIN, u32::MAX).await
    }

    /// As [`Self::connect`], trying for as long as this.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_within(
        &self,
        to: impl Into<Target>,
        at_most: Duration,
    ) -> Result<PeerStream, Unreached> {
        self.reach(&to.into(), at_most, u32::MAX).await
    }

    /// As [`Self::connect`], but tries once and no more: for those who look whether a peer can be
    /// reached.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_once(&self, to: impl Into<Target>) -> Result<PeerStream, Unreached> {
        self.reach(&to.into(), CONNECT_WITHIN, 1).await
    }

    /// The roster that decides now.
    #[must_use]
    pub fn roster(&self) -> Arc<Roster> {
        self.shared.known.roster()
    }

    /// The roster, and each that takes its place.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Roster>> {
        self.shared.known.watch()
    }

    /// Goes by this roster from now on: for those who learn it in another way than from a registry's
    /// modern door. A roster that is followed is overwritten by the next news.
    pub fn update(&self, roster: &Roster) {
        self.shared.known.update(roster);
    }

    /// Goes on as the same node with other keys, after [`Registry::rotate`]: shows the new key, and
    /// follows the roster with it. Links that are open stay; tickets count for nothing any more.
    ///
    /// # Errors
    /// As [`Self::new`]; then all stays as it was.
    pub async fn rekey(&self, identity: &Identity) -> Result<(), Error> {
        let own = Arc::new(Own::new(identity, &self.shared.known).await?);
        *self.shared.own.write().unwrap_or_else(PoisonError::into_inner) = own;
        self.shared.identity.send_replace(identity.clone());
        Ok(())
    }

    /// As whom we connect and listen.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity.borrow().clone()
    }

    /// Our rank; none if we are no member, but a client of the cluster.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        let identity = self.identity();
        self.roster().rank_of_key(identity.sig_key(), identity.name())
    }

    /// Whether the roster is kept current. If it once was and is no more, [`Self::stale`] tells why.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.shared.follow.is_some() && self.stale().is_none()
    }

    /// Why the roster is followed no more, if it once was: the cluster is gone, or our key was retired
    /// and [`Self::rekey`] has not been called.
    #[must_use]
    pub fn stale(&self) -> Option<String> {
        self.shared.ended.get()
    }

    fn is_member(&self) -> bool {
        let key = self.identity().sig_key().fingerprint();
        self.shared.known.admit(&key, None).is_ok()
    }

    fn known(&self) -> &Arc<Known> {
        &self.shared.known
    }

    fn resumes(&self) -> bool {
        self.resumption
    }

    fn protocols(&self) -> Vec<Vec<u8>> {
        self.protocols.to_vec()
    }

    /// What to shake hands with, and show a certificate that is right as of now.
    async fn tls(&self) -> Result<Arc<PeerTls>, TlsError> {
        let own = || Arc::clone(&self.shared.own.read().unwrap_or_else(PoisonError::into_inner));
        let (identity, current) = (self.identity(), own());
        if current.is_right(&identity, &self.shared.known) {
            return Ok(Arc::clone(&current.tls));
        }
        // Whoever is second goes on with the one there is, which is still valid.
        if let Ok(_only) = self.shared.renewing.try_lock() {
            current.renew(&identity, &self.shared.known).await?;
        }
        Ok(Arc::clone(&own().tls))
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("cluster", &self.roster().title()).finish_non_exhaustive()
    }
}

impl Own {
    async fn new(identity: &Identity, known: &Arc<Known>) -> Result<Self, TlsError> {
        let (certificate, shown) = certify(identity, known).await?;
        let tls = PeerTls::new(identity.sig_private(), certificate, Arc::clone(known) as _)?;
        Ok(Self { tls: Arc::new(tls), shown: Mutex::new(shown) })
    }

    fn is_right(&self, identity: &Identity, known: &Known) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.good.contains(&SystemTime::now()) && shown.member == entry(identity, known)
    }

    async fn renew(&self, identity: &Identity, known: &Arc<Known>) -> Result<(), TlsError> {
        let (certificate, shown) = certify(identity, known).await?;
        debug!(member = shown.member.is_some(), "shows another certificate");
        self.tls.show(certificate);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }
}

/// Our entry in the roster.
fn entry(identity: &Identity, known: &Known) -> Option<Arc<Member>> {
    let roster = known.roster();
    let rank = roster.rank_of_key(identity.sig_key(), identity.name())?;
    roster.member(rank).cloned()
}

/// Makes the certificate to show, off the async threads: a member's names its endpoints, so that stock
/// programs can check it as well.
async fn certify(
    identity: &Identity,
    known: &Known,
) -> Result<(CertificateDer<'static>, Shown), TlsError> {
    let (member, key) = (entry(identity, known), Arc::clone(identity.sig_private()));
    let now = SystemTime::now();
    let good = now..now + CERTIFICATE_AGE_MAX;
    let shown = Shown { member: member.clone(), good };
    let certificate = spawn_blocking(move || match member {
        Some(member) => for_member(&key, &member, now),
        None => for_node(&key),
    });
    let certificate = certificate.await.expect("making a certificate does not panic")?;
    Ok((certificate, shown))
}

fn for_member(
    key: &PrivateKey,
    member: &Member,
    now: SystemTime,
) -> Result<CertificateDer<'static>, TlsError> {
    match member_certificate(key, member, now, CERTIFICATE_LIFE) {
        Err(TlsError::Host { host }) => {
            warn!(
                host,
                "no certificate can name this host, so ours names none: stock TLS programs will not take it"
            );
            for_node(key)
        }
        made => made,
    }
}

fn for_node(key: &PrivateKey) -> Result<CertificateDer<'static>, TlsError> {
    Ok(NodeCertificate::new(key, &[""; 0])?.der().clone())
}
