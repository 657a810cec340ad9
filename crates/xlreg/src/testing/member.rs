//! One member, as the test and the member itself see it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use xlreg_core::{Endpoint, Member, Name, NodeId};
use xlreg_launch::port::Port;

use super::error::TestError;
use crate::identity::Identity;
use crate::portable::Tls;
use crate::roster::Roster;

/// A member of a [`TestCluster`](super::TestCluster). Cheap to clone; clones share its listeners.
#[derive(Clone, Debug)]
pub struct TestMember {
    seat: Arc<Seat>,
    /// Those that nobody has taken.
    listeners: Arc<Mutex<Vec<Option<std::net::TcpListener>>>>,
}

/// What a member has as long as its cluster lives, whatever happens to it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) rank: usize,
    pub(super) identity: Identity,
    pub(super) roster: Arc<Roster>,
    pub(super) dir: PathBuf,
    pub(super) roster_file: PathBuf,
    pub(super) tls: Option<Tls>,
    pub(super) addresses: Vec<SocketAddr>,
    /// Keep its ports from others while nobody listens on them.
    pub(super) _ports: Vec<Port>,
}

impl TestMember {
    /// The member in this seat, without listeners.
    pub(super) fn new(seat: Arc<Seat>) -> Self {
        Self { seat, listeners: Arc::default() }
    }

    /// The same member, started anew: with listeners that nobody has taken.
    pub(super) fn listen(&self) -> Result<Self, TestError> {
        let bind = |address: &SocketAddr| std::net::TcpListener::bind(address).map(Some);
        let listeners = self.seat.addresses.iter().map(bind).collect::<Result<_, _>>();
        let listeners =
            listeners.map_err(|error| TestError::io("listening for a member", error))?;
        let seat = Arc::clone(&self.seat);
        Ok(Self { seat, listeners: Arc::new(Mutex::new(listeners)) })
    }

    /// Closes the listeners that nobody has taken.
    pub(super) fn close(&self) {
        self.listeners().clear();
    }

    /// Its rank, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.seat.rank
    }

    /// Its name: `member_` and its rank.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.seat.identity.name()
    }

    /// Its ID.
    ///
    /// # Panics
    /// Never: test identities have IDs.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.seat.identity.id().expect("identities that are made today have an ID")
    }

    /// Its identity, which is kept in its directory too.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.seat.identity
    }

    /// The complete roster, the same for all.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.seat.roster
    }

    /// All other members, with their ranks.
    pub fn peers(&self) -> impl Iterator<Item = (usize, &Member)> {
        let all = self.seat.roster.members.iter().map(|member| &**member).enumerate();
        all.filter(|(rank, _)| *rank != self.seat.rank)
    }

    /// Where it is reached: first by the other members, second by clients, if there is a second.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        let me = self.seat.roster.members.get(self.seat.rank);
        me.map_or(&[], |member| &member.endpoints)
    }

    /// The address of the endpoint with this number, from 0.
    ///
    /// # Panics
    /// If it has no endpoint of this number: see [`Builder::endpoints`](super::Builder::endpoints).
    #[must_use]
    #[track_caller]
    pub fn address(&self, number: usize) -> SocketAddr {
        *self.seat.addresses.get(number).expect("members have endpoints 0 to `endpoints` - 1")
    }

    /// The addresses of all its endpoints.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.seat.addresses
    }

    /// Its own directory, absolute: for its data, beside its identity and `roster.json`. It stays
    /// when the member is killed and started again, and goes with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.seat.dir
    }

    /// The roster as a file, in JSON.
    #[must_use]
    pub fn roster_file(&self) -> &Path {
        &self.seat.roster_file
    }

    /// What it needs for TLS with the others, if the builder was asked for that. Its program has the
    /// same in files.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.seat.tls.as_ref()
    }

    /// Takes the listener of the endpoint with this number, from 0. It has been listening since
    /// the member was started, so no connection was refused meanwhile. Each start of a member has
    /// new ones; members that are programs have none, as they listen by themselves.
    ///
    /// # Errors
    /// [`TestError::NoListener`] if it was taken before, [`TestError::Io`] outside a tokio runtime.
    pub fn take_listener(&self, number: usize) -> Result<tokio::net::TcpListener, TestError> {
        let failed = |error| TestError::io("handing a listener to tokio", error);
        // It would panic.
        Handle::try_current().map_err(|error| failed(std::io::Error::other(error)))?;
        let listener = self.take_std_listener(number)?;
        listener.set_nonblocking(true).map_err(failed)?;
        tokio::net::TcpListener::from_std(listener).map_err(failed)
    }

    /// As [`Self::take_listener`], for those who are not on tokio; it blocks.
    ///
    /// # Errors
    /// [`TestError::NoListener`] if it was taken before.
    pub fn take_std_listener(&self, number: usize) -> Result<std::net::TcpListener, TestError> {
        let taken = self.listeners().get_mut(number).and_then(Option::take);
        taken.ok_or_else(|| TestError::NoListener { name: self.name().clone(), number })
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Option<std::net::TcpListener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
