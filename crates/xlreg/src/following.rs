//! Following a cluster by the modern door, over connections that come and go.

use std::fmt;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio::{join, try_join};
use tonic::Streaming;
use tracing::debug;
use xlreg_api::{TokenSecret, convert, v2};
use xlreg_core::cluster::{Event, EventKind, Gone};
use xlreg_core::{Cluster, ClusterId, ClusterKey, Endpoint, Member, NodeId, Refusal};

use crate::error::{Error, Incomplete, Reason};
use crate::identity::Identity;
use crate::lookup::absurd;
use crate::modern::{Client, Line};
use crate::pause::Pause;
use crate::registry::{Registry, malformed, register};
use crate::roster::Roster;
use crate::signing::cluster_id;
use crate::silence::Silence;

/// The longest that we let a registry keep us waiting when it asks to be left alone.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Something new about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The cluster as it is; what was known before is of no use any more.
    Snapshot(Box<Cluster>),
    /// One change.
    Change(Event),
    /// The cluster is gone; there is nothing more to come. How it ended is not known if that
    /// happened while the registry could not be reached.
    Gone(Option<Gone>),
}

/// A cluster that is being followed: made by [`Registry::watch`].
///
/// The first news is a snapshot. After it each change is told once and in order, also over
/// connections that break and registries that restart. Only if the registry does not remember all
/// that has happened while it could not be reached, another [`News::Snapshot`] stands for all that
/// was missed; registries remember the latest 128 changes, and none after a restart.
pub struct Watch {
    follower: Follower,
    begun: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { follower, .. } = self;
        f.debug_struct("Watch").field("cluster", &follower.known.name).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(follower: Follower) -> Self {
        Self { follower, begun: false }
    }

    /// Waits for the next news, however long that takes. While the registry can't be reached, tries
    /// again and again; [`Self::silence`] tells why.
    ///
    /// Cancelled, it loses nothing: what was on its way comes next time.
    ///
    /// # Errors
    /// [`Error::Gone`] after [`News::Gone`], or what will not pass by itself, such as
    /// [`Error::Refused`] to a key that was retired.
    pub async fn next(&mut self) -> Result<News, Error> {
        if !self.begun {
            self.begun = true;
            return Ok(News::Snapshot(Box::new(self.follower.known.clone())));
        }
        loop {
            if let Some(news) = self.follower.advance().await? {
                return Ok(news);
            }
        }
    }

    /// The cluster with all the news so far.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.follower.known
    }

    /// Its roster.
    #[must_use]
    pub fn roster(&self) -> Roster {
        Roster::from(&self.follower.known)
    }

    /// Why the registry can't be heard, if it can't.
    #[must_use]
    pub fn silence(&self) -> Option<&str> {
        self.follower.silence.why()
    }

    /// Ends the connection in good order.
    pub async fn close(self) {
        self.follower.close().await;
    }
}

/// As whom and with what we join.
pub(crate) struct Joining {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) token: Option<TokenSecret>,
    /// The ID that the registry knows us by.
    pub(crate) id: NodeId,
}

/// A cluster as of the last that we have heard.
pub(crate) struct Follower {
    registry: Registry,
    identity: Identity,
    /// How we were asked for it.
    key: ClusterKey,
    /// What we are in it; none if we only look.
    joining: Option<Joining>,
    known: Cluster,
    /// Whether what is known was told after the present wait began.
    fresh: bool,
    /// That it is gone, and how if we know.
    gone: Option<Option<Gone>>,
    line: Option<Line>,
    stream: Option<Streaming<v2::WatchClusterResponse>>,
    silence: Silence,
    pause: Pause,
    /// When to try again.
    retry: Option<Instant>,
}

impl Follower {
    /// Asks about the cluster once.
    pub(crate) async fn look(
        registry: Registry,
        identity: Identity,
        key: ClusterKey,
    ) -> Result<Self, Error> {
        let line = registry.line(&identity).await?;
        let known = get(&line, &key).await?;
        Ok(Self::new(registry, identity, key, None, line, known))
    }

    /// Registers and joins.
    pub(crate) async fn join(
        registry: Registry,
        identity: Identity,
        key: ClusterKey,
        cluster: Option<ClusterId>,
        endpoints: Vec<Endpoint>,
        token: Option<TokenSecret>,
    ) -> Result<Self, Error> {
        let wanted = cluster.map_or_else(|| key.clone(), ClusterKey::Id);
        let sign =
            async |id, cluster| registry.signed_entry(&identity, id, &cluster, &endpoints).await;
        // A node that brings its ID is known by that: it need not wait for an answer to sign.
        let sign_at_once = async {
            let (Some(id), ClusterKey::Id(cluster)) = (identity.id(), &wanted) else {
                return Ok(None);
            };
            sign(id, *cluster).await.map(Some)
        };
        let (line, registration, signed) =
            try_join!(registry.line(&identity), registry.registration(&identity), sign_at_once)?;
        let find = cluster_id(&line, &wanted, "JoinCluster");
        let registering = register(&line, &identity, registration);
        let (id, known) = if let Some(id) = identity.id() {
            let joining = async {
                let cluster = find.await?;
                let entry = match signed {
                    Some(entry) => entry,
                    None => sign(id, cluster).await?,
                };
                // The registration is to be asked for first.
                yield_now().await;
                join(&line, &cluster, entry, token.as_ref()).await
            };
            let (joined, registered) = join!(biased; joining, registering);
            (registered?, joined?)
        } else {
            let (cluster, id) = try_join!(biased; find, registering)?;
            let entry = sign(id, cluster).await?;
            (id, join(&line, &cluster, entry, token.as_ref()).await?)
        };
        let joining = Joining { endpoints, token, id };
        Ok(Self::new(registry, identity, key, Some(joining), line, known))
    }

    fn new(
        registry: Registry,
        identity: Identity,
        key: ClusterKey,
        joining: Option<Joining>,
        line: Line,
        known: Cluster,
    ) -> Self {
        let silence = registry.silence();
        Self {
            registry,
            identity,
            key,
            joining,
            known,
            fresh: true,
            gone: None,
            line: Some(line),
            stream: None,
            silence,
            pause: Pause::default(),
            retry: None,
        }
    }

    /// Where we ask.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// As whom we ask.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster as far as it is known.
    pub(crate) fn known(&self) -> &Cluster {
        &self.known
    }

    /// The ID that we have joined as.
    pub(crate) fn joined_as(&self) -> Option<NodeId> {
        self.joining.as_ref().map(|joining| joining.id)
    }

    /// Waits until all are there, or `at_most` has passed.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> Result<Roster, Error> {
        let began = Instant::now();
        self.silence.ends();
        let filled = timeout(at_most, self.fill()).await;
        // Nobody reads it before the next wait, and a registry drops those who don't read.
        self.stream = None;
        self.fresh = false;
        match filled {
            Ok(filled) => filled.map(|()| Roster::from(&self.known)),
            Err(_) => Err(self.incomplete(began.elapsed()).into()),
        }
    }

    async fn fill(&mut self) -> Result<(), Error> {
        while !(self.fresh && self.known.is_complete()) {
            if let Some(News::Gone(_)) = self.advance().await? {
                return Err(self.over());
            }
        }
        Ok(())
    }

    /// Who is there now. A connection that has broken since it was last used is made anew.
    pub(crate) async fn roster(&mut self) -> Result<Roster, Error> {
        let had = self.line.is_some();
        match self.fetch().await {
            Err(error) if had && error.is_transient() => self.fetch().await?,
            fetched => fetched?,
        };
        if self.gone.is_some() {
            return Err(self.over());
        }
        Ok(Roster::from(&self.known))
    }

    pub(crate) async fn close(mut self) {
        self.stream = None;
        if let Some(line) = self.line.take() {
            line.close().await;
        }
    }

    /// Waits for one thing to happen, and tells what is new by it, if anything is. What may pass
    /// only costs time. Cancelled, it loses nothing: what has come is kept before anyone waits.
    pub(crate) async fn advance(&mut self) -> Result<Option<News>, Error> {
        if let Some(at) = self.retry {
            sleep_until(at).await;
            self.retry = None;
        }
        match self.step().await {
            Err(error) if error.is_transient() => {
                debug!(%error, "reconnecting");
                self.silence.lasts(&error);
                self.hang_up();
                let asked = error.retry_after().unwrap_or_default().min(RETRY_MAX);
                self.retry = Some(Instant::now() + self.pause.next().max(asked));
                Ok(None)
            }
            stepped => stepped,
        }
    }

    async fn step(&mut self) -> Result<Option<News>, Error> {
        if self.gone.is_some() {
            return Err(self.over());
        }
        if !self.fresh {
            return self.fetch().await;
        }
        let (Some(line), Some(stream)) = (&self.line, &mut self.stream) else {
            return self.resume().await;
        };
        let told = line.next("WatchCluster", stream).await;
        match told.and_then(|told| told.ok_or_else(|| line.lost("WatchCluster"))) {
            Ok(told) => {
                self.pause = Pause::default();
                let news = self.take(&told)?;
                self.see_to_ourselves(news).await
            }
            Err(error) => {
                self.stream = None;
                Err(error)
            }
        }
    }

    /// Has the registry tell what comes after what is known.
    async fn resume(&mut self) -> Result<Option<News>, Error> {
        let request = v2::WatchClusterRequest {
            cluster: Some(convert::cluster_ref(&ClusterKey::Id(self.known.id))),
            after_revision: Some(self.known.revision),
        };
        let call = async |mut client: Client, request| client.watch_cluster(request).await;
        let asked = self.connected().await?.ask("WatchCluster", call, request).await;
        match asked {
            Ok(stream) => {
                self.stream = Some(stream);
                self.silence.ends();
                Ok(None)
            }
            Err(error) if error.is_unknown_cluster() => self.find_again().await,
            Err(error) => Err(error),
        }
    }

    /// Asks once what the cluster is like now.
    async fn fetch(&mut self) -> Result<Option<News>, Error> {
        let key = ClusterKey::Id(self.known.id);
        match get(self.connected().await?, &key).await {
            Ok(cluster) => {
                self.fresh = true;
                self.silence.ends();
                let news = self.replace(cluster)?;
                self.see_to_ourselves(news).await
            }
            Err(error) if error.is_unknown_cluster() => self.find_again().await,
            Err(error) => {
                self.hang_up();
                Err(error)
            }
        }
    }

    /// The registry does not know the cluster any more. It may have lost its memory, and the
    /// cluster have been made anew: then who is to be a member joins that.
    async fn find_again(&mut self) -> Result<Option<News>, Error> {
        match self.join_again().await {
            Ok(true) => Ok(Some(News::Snapshot(Box::new(self.known.clone())))),
            Err(error) if !error.is_unknown_cluster() => Err(error),
            Ok(false) | Err(_) => {
                self.gone = Some(None);
                Ok(Some(News::Gone(None)))
            }
        }
    }

    /// Joins as before, if we are to, and tells whether that is so.
    async fn join_again(&mut self) -> Result<bool, Error> {
        self.connected().await?;
        let (Some(line), Some(joining)) = (&self.line, &mut self.joining) else { return Ok(false) };
        let cluster = cluster_id(line, &self.key, "JoinCluster").await?;
        let (registry, identity) = (&self.registry, &self.identity);
        let attempt = async |id| {
            let entry = registry.signed_entry(identity, id, &cluster, &joining.endpoints).await?;
            join(line, &cluster, entry, joining.token.as_ref()).await
        };
        let joined = match attempt(joining.id).await {
            Err(error) if error.is_refusal(Refusal::NotRegistered) => {
                let id = registry.register_on(line, identity).await?;
                let joined = attempt(id).await;
                joining.id = id;
                joined
            }
            joined => joined,
        };
        // Whatever streams there are follow the cluster as it was before.
        self.stream = None;
        self.known = joined?;
        self.fresh = true;
        Ok(true)
    }

    /// Keeps our membership in sight: who was expelled hears of it, and who is unknown joins again.
    async fn see_to_ourselves(&mut self, news: Option<News>) -> Result<Option<News>, Error> {
        if self.joining.is_none() {
            return Ok(news);
        }
        let (name, key) = (self.identity.name(), self.identity.sig_key());
        match &news {
            Some(News::Change(event))
                if event.kind == EventKind::Expelled
                    && event.member.name == *name
                    && event.member.sig_key == *key =>
            {
                let reason = Reason::Known(Refusal::Expelled);
                Err(Error::Refused { request: "WatchCluster", reason })
            }
            // Looked for in what is known and not in the news, since a wait may have been cut short
            // between hearing that we are unknown and joining again.
            _ if !self.known.holders().any(|(_, at)| at.name == *name && at.sig_key == *key) => {
                self.join_again().await?;
                Ok(Some(News::Snapshot(Box::new(self.known.clone()))))
            }
            _ => Ok(news),
        }
    }

    /// Keeps what a registry tells of the cluster.
    fn take(&mut self, told: &v2::WatchClusterResponse) -> Result<Option<News>, Error> {
        let news = convert::news(told).map_err(|fault| malformed("WatchCluster", &fault))?;
        match news {
            Some(convert::News::Heartbeat) => Ok(None),
            // Something that later registries tell, and that has a revision as all have.
            None => {
                self.known.revision = self.known.revision.max(told.revision);
                Ok(None)
            }
            Some(convert::News::Snapshot(cluster)) => self.replace(*cluster),
            Some(convert::News::Gone(how)) => {
                self.gone = Some(Some(how));
                Ok(Some(News::Gone(Some(how))))
            }
            Some(convert::News::Change(event)) => {
                if event.revision <= self.known.revision {
                    return Ok(None);
                }
                if event.revision > self.known.revision + 1 {
                    return Err(absurd("WatchCluster", "it leaves out a change"));
                }
                self.known.follow(&event);
                Ok(Some(News::Change(event)))
            }
        }
    }

    fn replace(&mut self, cluster: Cluster) -> Result<Option<News>, Error> {
        if cluster.id != self.known.id {
            return Err(absurd("WatchCluster", "it is about another cluster"));
        }
        let new = cluster.revision != self.known.revision;
        self.known = cluster;
        Ok(new.then(|| News::Snapshot(Box::new(self.known.clone()))))
    }

    /// A connection, made if there is none.
    async fn connected(&mut self) -> Result<&Line, Error> {
        if self.line.is_none() {
            self.line = Some(self.registry.line(&self.identity).await?);
        }
        Ok(self.line.as_ref().expect("one has just been made if there was none"))
    }

    fn hang_up(&mut self) {
        self.stream = None;
        self.line = None;
    }

    fn over(&self) -> Error {
        Error::Gone { cluster: self.known.name.to_string(), how: self.gone.flatten() }
    }

    /// The error that says who has not come.
    fn incomplete(&self, waited: Duration) -> Incomplete {
        Incomplete {
            cluster: self.known.name.to_string(),
            size: self.known.size,
            joined: self.known.present().map(|(_, member)| member.name.clone()).collect(),
            waited,
            silence: self.silence.why().map(str::to_owned),
        }
    }
}

pub(crate) async fn get(line: &Line, key: &ClusterKey) -> Result<Cluster, Error> {
    let request = v2::GetClusterRequest { cluster: Some(convert::cluster_ref(key)) };
    let call = async |mut client: Client, request| client.get_cluster(request).await;
    let answer = line.ask("GetCluster", call, request).await?;
    read(answer.cluster.as_ref(), "GetCluster")
}

/// Joins by the cluster's ID, which the signature of our entry is over.
async fn join(
    line: &Line,
    cluster: &ClusterId,
    entry: Member,
    token: Option<&TokenSecret>,
) -> Result<Cluster, Error> {
    let request = v2::JoinClusterRequest {
        cluster: Some(convert::cluster_ref(&ClusterKey::Id(*cluster))),
        name: entry.name.to_string(),
        endpoints: entry.endpoints.iter().map(ToString::to_string).collect(),
        attributes: entry.attrs,
        node_id: entry.id.as_bytes().to_vec(),
        token: token.map_or_else(String::new, |token| token.as_str().to_owned()),
        entry_signature: entry
            .entry_signature
            .map_or_else(Vec::new, |signature| signature.as_bytes().to_vec()),
    };
    let call = async |mut client: Client, request| client.join_cluster(request).await;
    let answer = line.ask("JoinCluster", call, request).await?;
    read(answer.cluster.as_ref(), "JoinCluster")
}

/// Reads the cluster in an answer.
pub(crate) fn read(told: Option<&v2::Cluster>, request: &'static str) -> Result<Cluster, Error> {
    let told = told.ok_or_else(|| absurd(request, "there is no cluster in it"))?;
    convert::cluster(told).map_err(|fault| malformed(request, &fault))
}
