//! What clients have of the modern door: how much at once, and how fast they may have more.

use std::net::IpAddr;
use std::sync::Arc;

use xlreg_core::{Fingerprint, NodeId};

use crate::config::Modern;
use crate::handshakes::Handshakes;
use crate::rates::{Rate, Rates};
use crate::tally::Tally;

/// Refusals, and connections that came to nothing, that the operator is told of, for one address. The
/// rest is for `debug`, or whoever is refused could fill the log as fast as he may ask.
const FAILURES: Rate = Rate { per_second: 1, burst: 50 };

/// Changes that the operator is told of, for one address: all that are made in earnest, and not all of
/// somebody who moves to and fro.
const CHANGES: Rate = Rate { per_second: 10, burst: 10_000 };

/// The counts and rates of one server.
pub(crate) struct Usage {
    pub(crate) handshakes: Handshakes,
    pub(crate) handshake_rates: Rates<IpAddr>,
    pub(crate) request_rates: Rates<Fingerprint>,
    /// Requests of each address, by both doors together.
    pub(crate) address_rates: Arc<Rates<IpAddr>>,
    /// New IDs for each address, by both doors together.
    pub(crate) registration_rates: Arc<Rates<IpAddr>>,
    /// Of each node, by the first of its IDs: it stays through every rotation.
    pub(crate) rotation_rates: Rates<NodeId>,
    /// What the operator is told of those who fail, and of those who change something.
    pub(crate) failures_told: Rates<IpAddr>,
    pub(crate) changes_told: Rates<IpAddr>,
    /// Requests whose answers have not been taken yet, of each key.
    pub(crate) requests: Tally<Fingerprint>,
    /// The same of each address, and in all.
    pub(crate) requests_of: Tally<Option<IpAddr>>,
    /// Streams that follow a cluster, of each key.
    pub(crate) watches: Tally<Fingerprint>,
    /// The same of each address, and in all.
    pub(crate) watches_of: Tally<Option<IpAddr>>,
    /// Bytes of news that watchers have not taken in yet, of each address and in all.
    pub(crate) unread_of: Tally<Option<IpAddr>>,
    /// Streams of health checks and reflection, of each key.
    pub(crate) endless: Tally<Fingerprint>,
    /// The same of each address, and in all.
    pub(crate) endless_of: Tally<Option<IpAddr>>,
}

impl Usage {
    /// Nothing so far.
    pub(crate) fn new(bounds: &Modern) -> Self {
        Self {
            handshakes: Handshakes::default(),
            handshake_rates: Rates::new(bounds.handshakes),
            request_rates: Rates::new(bounds.requests),
            address_rates: Arc::new(Rates::new(bounds.address_requests)),
            registration_rates: Arc::new(Rates::new(bounds.registrations)),
            rotation_rates: Rates::slow(bounds.rotations),
            failures_told: Rates::new(FAILURES),
            changes_told: Rates::new(CHANGES),
            requests: Tally::default(),
            requests_of: Tally::default(),
            watches: Tally::default(),
            watches_of: Tally::default(),
            unread_of: Tally::default(),
            endless: Tally::default(),
            endless_of: Tally::default(),
        }
    }
}
