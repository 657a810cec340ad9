//! The side that comes: tries, and why they fail.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConnection, Connection};
use tracing::debug;
use xlreg_core::{Endpoint, Member, PublicKey};
use xlreg_tls::{Admission as _, PeerTls, peer};

use super::error::{PeerError, Unreached};
use super::handshake::{Failed, Handshake, wire};
use super::listener::HANDSHAKE_DEADLINE;
use super::stream::{Peer, PeerStream};
use super::{Peers, Target};
use crate::pause::{PAUSE_MIN, Pause};

/// How long a TCP connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A member, and where it is reached from here.
#[derive(PartialEq, Eq)]
struct Place {
    rank: usize,
    member: Arc<Member>,
    endpoint: Endpoint,
}

impl Peers {
    /// Tries until there is a link, `at_most` has passed, or there have been so many tries.
    pub(super) async fn reach(
        &self,
        target: &Target,
        at_most: Duration,
        tries_max: u32,
    ) -> Result<PeerStream, Unreached> {
        let began = Instant::now();
        let by = began + at_most;
        let mut changes = self.watch();
        let mut pause = Pause::default();
        let mut tries = 0_u32;
        loop {
            changes.mark_unchanged();
            let place = self.place(target);
            tries += 1;
            let tried = match &place {
                Some(place) => self.try_once(place, by).await,
                None => Err(PeerError::Absent),
            };
            let why = match tried {
                Ok(link) => return Ok(link),
                Err(why) => why,
            };
            let next = Instant::now() + pause.next();
            let hopeless = place.is_none() && !self.follows();
            if next >= by || hopeless || tries >= tries_max {
                let who = self.describe(target, place.as_ref());
                let endpoint = place.map(|place| place.endpoint);
                return Err(Unreached { who, endpoint, tries, waited: began.elapsed(), why });
            }
            debug!(%target, %why, tries, "not reached; trying again");
            // Another endpoint, or another key: that may be what was missing. What becomes of others
            // is not, and whoever moves to and fro is not knocked at each time.
            let soonest = Instant::now() + PAUSE_MIN;
            let moved = async {
                while changes.changed().await.is_ok() {
                    if self.place(target) != place {
                        return sleep_until(soonest).await;
                    }
                }
                sleep_until(next).await;
            };
            // It is late enough then, in any case.
            let _moved = timeout_at(next, moved).await;
        }
    }

    /// Whom to reach, and where: members at the first endpoint if we are one of them, at the second,
    /// if there is one, if we are a client.
    fn place(&self, target: &Target) -> Option<Place> {
        let (rank, member) = self.known().find(target)?;
        let second = member.endpoints.get(1).filter(|_| !self.is_member());
        let endpoint = second.or(member.endpoints.first())?.clone();
        Some(Place { rank, member, endpoint })
    }

    fn describe(&self, target: &Target, place: Option<&Place>) -> String {
        match place {
            Some(Place { rank, member, .. }) => format!("{} (rank {rank})", member.name),
            None => format!("{target} of cluster {}", self.roster().title()),
        }
    }

    async fn try_once(&self, place: &Place, by: Instant) -> Result<PeerStream, PeerError> {
        let tls = self.tls().await?;
        if !self.resumes() {
            tls.forget(&place.member.sig_key.fingerprint());
        }
        let mut stream = dial(&place.endpoint, by).await?;
        let address = stream.peer_addr().map_err(PeerError::Unreachable)?;
        let began = Instant::now();
        let shaking = self.shake(&tls, place, &mut stream);
        let shaken = timeout_at(by.min(began + HANDSHAKE_DEADLINE), shaking).await;
        let shaken = shaken.unwrap_or_else(|_| Err(PeerError::Stalled(began.elapsed()).into()));
        let (connection, sig_key) = shaken.map_err(|failed| {
            if failed.resumed {
                tls.forget(&place.member.sig_key.fingerprint());
            }
            failed.why
        })?;
        let Connection::Client(connection) = connection else {
            return Err(PeerError::HungUp(io::ErrorKind::InvalidData.into()));
        };
        let name = peer::server_name(&sig_key.fingerprint());
        let connect = TlsConnector::from(tls.client()).connect_with(name, wire(stream), |own| {
            *own = connection;
        });
        let stream = connect.await.map_err(PeerError::HungUp)?;
        let member = Some((place.rank, Arc::clone(&place.member)));
        Ok(PeerStream::new(stream.into(), Peer { sig_key, address, member }))
    }

    async fn shake(
        &self,
        tls: &PeerTls,
        place: &Place,
        stream: &mut TcpStream,
    ) -> Result<(Connection, PublicKey), Failed> {
        let meant = place.member.sig_key.fingerprint();
        let name = peer::server_name(&meant);
        let connection = ClientConnection::new_with_alpn(tls.client(), name, self.protocols());
        let connection = connection.map_err(PeerError::of)?;
        let known = Arc::clone(self.known());
        // Asked before it costs a handshake, as the roster may have changed since we looked.
        known.admit(&meant, Some(&meant)).map_err(PeerError::Refused)?;
        let check =
            move |connection: &Connection| peer::peer_key(connection, &*known, Some(&meant));
        Handshake::new(connection, check).shake(stream).await
    }
}

async fn dial(endpoint: &Endpoint, by: Instant) -> Result<TcpStream, PeerError> {
    let by = by.min(Instant::now() + CONNECT_DEADLINE);
    let connecting = TcpStream::connect((endpoint.host(), endpoint.port()));
    let stream = timeout_at(by, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
        .flatten()
        .map_err(PeerError::Unreachable)?;
    stream.set_nodelay(true).map_err(PeerError::Unreachable)?;
    Ok(stream)
}
