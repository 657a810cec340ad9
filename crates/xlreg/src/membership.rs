//! A member's place in a cluster.

use std::time::Duration;

use xlreg_core::{ClusterId, ClusterKey, NodeId};

use crate::error::Error;
use crate::following::Follower;
use crate::lookup::Lookup;
use crate::peers::Peers;
use crate::roster::Roster;

/// A member's place in a cluster. Keeps a connection while it waits, until it is dropped.
pub struct Membership(pub(crate) Seen);

/// The cluster, as each wire lets us see it.
pub(crate) enum Seen {
    /// Over the old one; with the ID that we have there.
    Old(Box<Lookup>, NodeId),
    /// By the modern door.
    Modern(Box<Follower>),
}

impl Membership {
    /// The ID the registry knows us by.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match &self.0 {
            Seen::Old(_, id) => *id,
            Seen::Modern(follower) => {
                follower.joined_as().expect("a membership's follower has joined")
            }
        }
    }

    /// The cluster we are in.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        match &self.0 {
            Seen::Old(lookup, _) => lookup.id(),
            Seen::Modern(follower) => follower.known().id,
        }
    }

    /// Waits until the cluster is full. If the registry goes away meanwhile, connects again, joins
    /// again as the same member if it has forgotten us, and goes on waiting.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if it is not full in time, [`Error::Gone`] if it is deleted or expires
    /// meanwhile, [`Error::Refused`] if we are expelled.
    pub async fn wait(&mut self, at_most: Duration) -> Result<Roster, Error> {
        match &mut self.0 {
            Seen::Old(lookup, _) => lookup.wait(at_most).await,
            Seen::Modern(follower) => follower.wait(at_most).await,
        }
    }

    /// Who is there now.
    ///
    /// # Errors
    /// One of the network's kinds, or as [`Self::wait`].
    pub async fn roster(&mut self) -> Result<Roster, Error> {
        match &mut self.0 {
            Seen::Old(lookup, _) => {
                lookup.fetch_present().await?;
                Ok(lookup.roster())
            }
            Seen::Modern(follower) => follower.roster().await,
        }
    }

    /// The other members, to connect to and be connected to by. By the modern door the roster is
    /// followed from here on, over a connection of its own; over the old wire it is the one of now,
    /// until [`Peers::update`].
    ///
    /// # Errors
    /// As [`Peers::follow`], or as [`Self::roster`].
    pub async fn peers(&mut self) -> Result<Peers, Error> {
        match &mut self.0 {
            Seen::Old(lookup, _) => {
                lookup.fetch_present().await?;
                Peers::new(lookup.identity(), &lookup.roster()).await
            }
            Seen::Modern(follower) => {
                let cluster = ClusterKey::Id(follower.known().id);
                Peers::follow(follower.registry(), follower.identity(), &cluster).await
            }
        }
    }

    /// Ends the connection in good order. The membership itself stays.
    pub async fn close(self) {
        match self.0 {
            Seen::Old(lookup, _) => lookup.close().await,
            Seen::Modern(follower) => follower.close().await,
        }
    }
}
