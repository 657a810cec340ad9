//! A cluster's roster over the old wire: asked for again and again, until it is whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;
use xlreg_core::limits::CLUSTER_SIZE_MAX;
use xlreg_core::{ClusterId, ClusterKey, Endpoint, Name, NodeId};
use xlreg_proto::channel::Dialect;
use xlreg_proto::message::{About, ClusterInfo, Entry, Reply, Request};
use xlreg_proto::text::Credentials;

use crate::error::{Error, Incomplete, Problem};
use crate::identity::Identity;
use crate::link::{Link, protocol};
use crate::pause::Pause;
use crate::roster::Roster;
use crate::silence::{Listener, Silence};

/// How long to leave a registry alone between two lookups that found nothing new: what deployed
/// clients do. Our servers hold a lookup longer than that, so with them there is no pause.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// Who asks about which cluster: enough to start over with another connection.
pub(crate) struct Asker {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) dialect: Dialect,
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterKey,
    /// Where we are reached, if we join; none if we only look.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    /// Who is told when the registry can't be heard.
    pub(crate) listener: Listener,
}

/// A cluster's roster, as far as we have it.
pub(crate) struct Lookup {
    asker: Asker,
    link: Option<Link>,
    cluster: Known,
    members: BTreeMap<usize, Entry>,
    silence: Silence,
}

/// What we know of the cluster itself.
#[derive(Default)]
struct Known {
    /// Its ID, once told or if it is asked for by that.
    id: Option<ClusterId>,
    name: Option<Name>,
    /// How many members it is for, once told.
    size: Option<u32>,
    attrs: u64,
    endpoint_count: u32,
}

impl Lookup {
    /// The cluster's ID; there must have been an answer, or it is asked for by that.
    pub(crate) fn id(&self) -> ClusterId {
        self.cluster.id()
    }

    /// As whom we ask.
    pub(crate) fn identity(&self) -> &Identity {
        &self.asker.identity
    }

    /// Connects, and joins if we are to.
    pub(crate) async fn start(asker: Asker) -> Result<(Self, NodeId), Error> {
        let (link, joined, id) = asker.connect().await?;
        let mut cluster = Known { endpoint_count: 1, ..Known::default() };
        match &asker.cluster {
            ClusterKey::Id(id) => cluster.id = Some(*id),
            ClusterKey::Name(name) => cluster.name = Some(name.clone()),
        }
        let silence = Silence::new(asker.listener.clone());
        let mut lookup = Self { asker, link: None, cluster, members: BTreeMap::new(), silence };
        lookup.resume(link, joined)?;
        Ok((lookup, id))
    }

    /// Goes on over a new connection, on which we may have joined.
    fn resume(&mut self, link: Link, joined: Option<ClusterInfo>) -> Result<(), Error> {
        if let Some(info) = joined {
            if self.cluster.id != Some(info.id) {
                // A registry that has lost its memory may have another cluster of this name.
                self.members.clear();
                self.cluster.size = None;
            }
            self.cluster.id = Some(info.id);
            self.cluster.resize("Join", info.size)?;
            self.cluster.attrs = info.attrs;
            self.cluster.endpoint_count = info.endpoint_count;
        }
        self.link = Some(link);
        self.silence.ends();
        Ok(())
    }

    /// Fetches until all are there and their entries are of one time, or `at_most` has passed.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> Result<Roster, Error> {
        let began = Instant::now();
        self.silence.ends();
        match timeout(at_most, self.fill()).await {
            Ok(filled) => filled.map(|()| self.roster()),
            Err(_) => {
                // The request under way has no answer any more; its connection is of no use.
                self.link = None;
                Err(self.incomplete(began.elapsed()).into())
            }
        }
    }

    /// The wait itself.
    async fn fill(&mut self) -> Result<(), Error> {
        let mut pause = Pause::default();
        loop {
            match self.advance().await {
                Ok(true) => return Ok(()),
                Ok(false) => pause = Pause::default(),
                Err(error) if error.is_transient() => {
                    debug!(%error, "reconnecting");
                    self.silence.lasts(&error);
                    self.link = None;
                    sleep(pause.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once for whoever is missing, and tells whether nobody is any more. Whoever came early
    /// may have come back since with other endpoints, so what did not come with the last answer is
    /// fetched once more then.
    async fn advance(&mut self) -> Result<bool, Error> {
        let (asked, before) = (Instant::now(), self.members.len());
        let fresh = self.fetch(self.missing()).await?;
        if self.missing() == Some(0) {
            self.refresh(self.all() & !fresh).await?;
            return Ok(true);
        }
        if self.members.len() == before {
            sleep_until(asked + POLL_PAUSE).await;
        }
        Ok(false)
    }

    /// Fetches everyone who is there now, as many answers as that takes. Asks each time for somebody
    /// who is there, too, lest the registry hold its answer until there is news.
    pub(crate) async fn fetch_present(&mut self) -> Result<(), Error> {
        self.members.clear();
        let mut fresh = self.fetch(None).await?;
        while fresh != 0 && self.missing().is_some_and(|missing| missing != 0) {
            let before = self.members.len();
            let there = self.members.keys().next().map_or(0, |rank| 1 << rank);
            fresh = self.fetch(self.missing().map(|missing| missing | there)).await?;
            if self.members.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// Fetches these members again, as many answers as that takes.
    async fn refresh(&mut self, mut stale: u64) -> Result<(), Error> {
        while stale != 0 {
            let fresh = self.fetch(Some(stale)).await?;
            if fresh & stale == 0 {
                return Err(absurd("GetCluster", "members that were there are not any more"));
            }
            stale &= !fresh;
        }
        Ok(())
    }

    /// One request for the members in `which`, or all there are; returns those that came.
    async fn fetch(&mut self, which: Option<u64>) -> Result<u64, Error> {
        if self.link.is_none() {
            let (link, joined, _) = self.asker.connect().await?;
            self.resume(link, joined)?;
        }
        // Taken, so that a request without an answer leaves no connection behind.
        let mut link = self.link.take().expect("one has been opened");
        // Original servers take no name here; and once the ID is known it is the surer key.
        let cluster = self.cluster.id.map_or_else(|| self.asker.cluster.clone(), ClusterKey::Id);
        let which = which.or_else(|| self.asker.endpoints.is_some().then(|| self.all()));
        let request = Request::GetCluster { cluster: Some(cluster), which };
        let reply = link.ask(&request).await.map_err(|error| self.explain(&link, error))?;
        let Reply::Members { cluster, which, entries, about } = reply else {
            return Err(unexpected("GetCluster", &reply));
        };
        self.link = Some(link);
        self.take(cluster, which, entries, about)
    }

    /// Keeps what an answer says.
    fn take(
        &mut self,
        cluster: ClusterId,
        which: u64,
        entries: Vec<Entry>,
        about: Option<About>,
    ) -> Result<u64, Error> {
        if *self.cluster.id.get_or_insert(cluster) != cluster {
            return Err(absurd("GetCluster", "it is about another cluster"));
        }
        if let Some(about) = about {
            self.cluster.resize("GetCluster", about.size)?;
            self.cluster.name = Some(about.name);
            self.cluster.attrs = about.attrs;
            self.cluster.endpoint_count = about.endpoint_count;
        }
        if which & !self.all() != 0 {
            return Err(absurd("GetCluster", "there are more members than the cluster is for"));
        }
        let ranks = (0..64usize).filter(|rank| which & (1 << rank) != 0);
        self.members.extend(ranks.zip(entries));
        Ok(which)
    }

    /// An original server refuses to show a cluster to those who have not joined it.
    fn explain(&self, link: &Link, error: Error) -> Error {
        let looks_only = self.asker.endpoints.is_none();
        match error {
            Error::Refused { reason: crate::Reason::Other(text), .. }
                if looks_only && text == "invalid msg type for current state" =>
            {
                Error::MembersOnly { version: link.version }
            }
            error => error,
        }
    }

    /// Bits of all the ranks there can be.
    fn all(&self) -> u64 {
        let size = self.cluster.size.unwrap_or(CLUSTER_SIZE_MAX).min(CLUSTER_SIZE_MAX);
        u64::MAX.checked_shr(CLUSTER_SIZE_MAX - size).unwrap_or(0)
    }

    /// Bits of the ranks we have no entry for; none if we don't know how many there are to be.
    fn missing(&self) -> Option<u64> {
        self.cluster.size?;
        let have = self.members.keys().fold(0, |have, rank| have | 1 << rank);
        Some(self.all() & !have)
    }

    /// What the answers so far come to; there must have been one. A rank may have nobody who is there
    /// though later ones have: its member has left, or was expelled.
    pub(crate) fn roster(&self) -> Roster {
        let members: Vec<_> = self.members.values().cloned().collect();
        Roster {
            name: self.cluster.name.clone(),
            id: self.cluster.id(),
            size: self.cluster.size.unwrap_or(members.len() as u32),
            attrs: self.cluster.attrs,
            endpoint_count: self.cluster.endpoint_count,
            ranks: self.members.keys().copied().collect(),
            members,
            about: None,
        }
    }

    /// The error that says who has not come.
    fn incomplete(&self, waited: Duration) -> Incomplete {
        let joined: Vec<_> = self.members.values().map(|member| member.name.clone()).collect();
        Incomplete {
            cluster: self
                .cluster
                .name
                .as_ref()
                .map_or_else(|| self.asker.cluster.to_string(), ToString::to_string),
            size: self.cluster.size.unwrap_or(joined.len() as u32),
            joined,
            waited,
            silence: self.silence.why().map(str::to_owned),
        }
    }

    pub(crate) async fn close(self) {
        if let Some(link) = self.link {
            link.bye().await;
        }
    }
}

impl Known {
    fn id(&self) -> ClusterId {
        self.id.expect("whoever answers about a cluster tells its ID")
    }

    /// Takes the cluster's size as an answer to `request` tells it.
    fn resize(&mut self, request: &'static str, size: u32) -> Result<(), Error> {
        if !(1..=CLUSTER_SIZE_MAX).contains(&size) {
            return Err(absurd(request, "no cluster has such a size"));
        }
        if *self.size.get_or_insert(size) != size {
            return Err(absurd(request, "the cluster's size has changed"));
        }
        Ok(())
    }
}

impl Asker {
    /// A connection on which the cluster may be asked about, and, if we are to join it, what that
    /// told of it.
    async fn connect(&self) -> Result<(Link, Option<ClusterInfo>, NodeId), Error> {
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        let (mut link, id) =
            introduce(&self.credentials, self.dialect, &self.identity, endpoints).await?;
        if self.endpoints.is_none() {
            return Ok((link, None, id));
        }
        let reply = link.ask(&Request::Join { cluster: Some(self.cluster.clone()) }).await?;
        match reply {
            Reply::Joined(info) => Ok((link, Some(info), id)),
            reply => Err(unexpected("Join", &reply)),
        }
    }
}

/// Connects, and proves who we are.
pub(crate) async fn introduce(
    credentials: &Credentials,
    dialect: Dialect,
    identity: &Identity,
    endpoints: &[Endpoint],
) -> Result<(Link, NodeId), Error> {
    let claim = identity.claim(endpoints.to_vec()).await?;
    let mut link = Link::open(credentials, dialect).await?;
    let reply = link.ask(&Request::Member(claim)).await?;
    match reply {
        Reply::MemberOk { id, .. } => Ok((link, id)),
        reply => Err(unexpected("Member", &reply)),
    }
}

pub(crate) fn unexpected(request: &'static str, reply: &Reply) -> Error {
    protocol(request, Problem::Unexpected { got: reply.tag().as_str_name() })
}

pub(crate) fn absurd(request: &'static str, what: &'static str) -> Error {
    protocol(request, Problem::Absurd(what))
}
