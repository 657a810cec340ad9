//! A registry to talk to: create, join, wait, show.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio::try_join;
use tonic::{Request as Call, Response as Answer, Status};
use xlreg_api::fault::Fault;
use xlreg_api::{TokenSecret, convert, proof, v2};
use xlreg_core::cluster::NewCluster;
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Endpoint, Lifetime, NodeId, Policy, Refusal, Time, Version,
};
use xlreg_node::files;
use xlreg_proto::channel::Dialect;
use xlreg_proto::message::{Entry, Reply, Request};
use xlreg_proto::text::{Credentials, FILE_BYTES_MAX};
use xlreg_tls::Pin;

use crate::error::{Error, Problem, Reason, printable};
use crate::following::{Follower, read};
use crate::identity::Identity;
use crate::link::{Link, protocol};
use crate::lookup::{Asker, Lookup, absurd, introduce, unexpected};
use crate::membership::{Membership, Seen};
use crate::modern::{Client, Line};
use crate::roster::Roster;
use crate::secure::{Tickets, guest};
use crate::silence::{Listener, Silence};
use crate::wire::Wire;

/// A registry, known and pinned by its credentials. Holds no connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    credentials: Arc<Credentials>,
    wire: Wire,
    /// What resumes TLS sessions; clones share it.
    tickets: Arc<Tickets>,
    /// Who is told when it can't be heard.
    listener: Listener,
}

impl Registry {
    /// The registry whose credentials (`regCred.dat`) are in this file.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be read, [`Error::Text`] if it is not such a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = files::read_text(path, FILE_BYTES_MAX).map_err(|source| Error::File {
            doing: "reading the registry's credentials",
            path: path.to_owned(),
            source,
        })?;
        let credentials = Credentials::parse(&text)
            .map_err(|source| Error::Text { path: path.to_owned(), source })?;
        Ok(Self::new(credentials))
    }

    /// The registry with these credentials; their version tells which wire it is spoken to over.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self::with_tickets(credentials, Arc::default())
    }

    pub(crate) fn with_tickets(credentials: Credentials, tickets: Arc<Tickets>) -> Self {
        let wire = Wire::of(credentials.version);
        Self { credentials: Arc::new(credentials), wire, tickets, listener: Listener::default() }
    }

    /// The same registry, spoken to over the old wire in this dialect, whatever its credentials
    /// say.
    #[must_use]
    pub fn with_dialect(mut self, dialect: Dialect) -> Self {
        self.wire = dialect.into();
        self
    }

    /// The same registry, with somebody to be told of when it can't be heard any more: once each time, with
    /// the reason. [`Self::wait`], [`Membership::wait`] and [`Watch::next`](crate::Watch::next) try again
    /// and again then, which can take all the time that they have.
    #[must_use]
    pub fn with_listener(mut self, tell: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(tell);
        self
    }

    /// What is known of its silence by somebody who begins to listen to it.
    pub(crate) fn silence(&self) -> Silence {
        Silence::new(self.listener.clone())
    }

    /// What the registry is known by.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What it is spoken to over.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Connects and says goodbye, and returns the server's version. That it can answer proves that
    /// it holds the key of these credentials.
    ///
    /// # Errors
    /// One of the network's kinds.
    pub async fn greet(&self) -> Result<Version, Error> {
        let Some(dialect) = self.wire.dialect() else {
            return self.describe().await.map(|(version, _)| version);
        };
        let link = Link::open(&self.credentials, dialect).await?;
        let version = link.version;
        link.bye().await;
        Ok(version)
    }

    /// Asks the registry who it is. Over the old wire **only for servers of this project**: the
    /// originals define this question and never ask it, and one that has no handler for a message
    /// may end over it.
    ///
    /// # Errors
    /// Any of [`Error`]'s kinds that concern the network, or [`Error::Refused`].
    pub async fn describe(&self) -> Result<(Version, Entry), Error> {
        let Some(dialect) = self.wire.dialect() else { return self.describe_modern().await };
        let mut link = Link::open(&self.credentials, dialect).await?;
        let reply = link.ask(&Request::Credentials).await?;
        let Reply::Credentials { version, registry } = reply else {
            return Err(unexpected("RegCredRequest", &reply));
        };
        link.bye().await;
        Ok((version, registry))
    }

    async fn describe_modern(&self) -> Result<(Version, Entry), Error> {
        let bad = |fault| malformed("GetRegistry", &fault);
        // The question is nobody's in particular, so no identity need be told for it.
        let tls = self.tickets.of(self.pin(), guest().await?).await?;
        let line = Line::open(&self.credentials.endpoints, &tls).await?;
        let told = line.registry().await?;
        line.close().await;
        let entry = xlreg_core::Member {
            id: convert::bytes("id", &told.id).map_err(bad)?,
            name: convert::text("name", &told.name).map_err(bad)?,
            attrs: 0,
            comms_key: convert::key("comms_key", &told.comms_key).map_err(bad)?,
            sig_key: convert::key("sig_key", &told.sig_key).map_err(bad)?,
            endpoints: convert::endpoints(&told.endpoints).map_err(bad)?,
            entry_signature: None,
        };
        Ok((convert::text("version", &told.version).map_err(bad)?, Arc::new(entry)))
    }

    /// Registers `identity`, and returns the ID it is known by.
    ///
    /// # Errors
    /// [`Error::Refused`] if its ID belongs to other keys, or one of the network's kinds.
    pub async fn register(&self, identity: &Identity) -> Result<NodeId, Error> {
        match self.wire.dialect() {
            Some(dialect) => {
                let (link, id) = introduce(&self.credentials, dialect, identity, &[]).await?;
                link.bye().await;
                Ok(id)
            }
            None => {
                let line = self.line(identity).await?;
                let id = self.register_on(&line, identity).await?;
                line.close().await;
                Ok(id)
            }
        }
    }

    /// Registers `identity`, and defines a cluster that it owns. If there is one of that name
    /// already that is like it, returns that: compare its owner and lifetime.
    ///
    /// Over the old wire the cluster that has the name comes back whatever it is like, and a size
    /// or endpoint count out of range is brought to the nearest within:
    /// [`Error::unless_as_asked`] compares.
    ///
    /// # Errors
    /// [`Error::Differs`] if the name is taken by a cluster that is not like it (never over the old
    /// wire), [`Error::OldWire`] if that wire has no place for what is asked, [`Error::Refused`] if
    /// the registry will not, or one of the network's kinds.
    pub async fn create(&self, identity: &Identity, new: &NewCluster) -> Result<Cluster, Error> {
        match self.wire.dialect() {
            Some(dialect) => self.create_old(dialect, identity, new).await,
            None => self.create_modern(identity, new).await,
        }
    }

    async fn create_old(
        &self,
        dialect: Dialect,
        identity: &Identity,
        new: &NewCluster,
    ) -> Result<Cluster, Error> {
        if new.policy != Policy::Open {
            return Err(self.old_wire("policy for who may join"));
        }
        if new.lifetime != Lifetime::default() {
            return Err(self.old_wire("lifetimes of clusters"));
        }
        let (mut link, _) = introduce(&self.credentials, dialect, identity, &[]).await?;
        let request = Request::Create {
            name: new.name.clone(),
            attrs: new.attrs,
            size: new.size,
            endpoint_count: new.endpoint_count,
        };
        let reply = link.ask(&request).await?;
        let Reply::Created(info) = reply else {
            return Err(unexpected("Create", &reply));
        };
        link.bye().await;
        let made = NewCluster::open(new.name.clone(), info.size, info.endpoint_count);
        let made = NewCluster { attrs: info.attrs, ..made };
        Ok(Cluster::new(info.id, &made, None, Time::default()))
    }

    async fn create_modern(&self, identity: &Identity, new: &NewCluster) -> Result<Cluster, Error> {
        const NAME: &str = "CreateCluster";
        let (line, registration) = try_join!(self.line(identity), self.registration(identity))?;
        let call = async |mut client: Client, request| client.create_cluster(request).await;
        register(&line, identity, registration).await?;
        let answer = line.ask(NAME, call, convert::to_create(new)).await;
        let answer = answer.map_err(|error| match error {
            Error::Refused {
                reason: Reason::Known(Refusal::ClusterDiffers { size, endpoint_count }),
                ..
            } => Error::differs(new, size, endpoint_count),
            error => error,
        })?;
        line.close().await;
        read(answer.cluster.as_ref(), NAME)
    }

    /// Makes `identity` a member of a cluster, reached at `endpoints`. By the modern door it signs that
    /// entry.
    ///
    /// Joining again with the same name and keys gives the same rank.
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster is unknown or full or the name is another's, or one of
    /// the network's kinds.
    pub async fn join(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        endpoints: Vec<Endpoint>,
    ) -> Result<Membership, Error> {
        self.join_with(identity, cluster, endpoints, None).await
    }

    /// As [`Self::join`], with a token for clusters that ask for one.
    ///
    /// # Errors
    /// As [`Self::join`], [`Error::Refused`] also if the token is not good, and [`Error::OldWire`]
    /// if there is one: that wire could not keep it secret.
    pub async fn join_with(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        endpoints: Vec<Endpoint>,
        token: Option<&TokenSecret>,
    ) -> Result<Membership, Error> {
        self.join_known(identity, cluster, None, endpoints, token).await
    }

    /// The same of a cluster whose ID is known beside its name.
    pub(crate) async fn join_known(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        id: Option<ClusterId>,
        endpoints: Vec<Endpoint>,
        token: Option<&TokenSecret>,
    ) -> Result<Membership, Error> {
        let Some(dialect) = self.wire.dialect() else {
            let (registry, identity) = (self.clone(), identity.clone());
            let (key, token) = (cluster.clone(), token.cloned());
            let follower = Follower::join(registry, identity, key, id, endpoints, token).await?;
            return Ok(Membership(Seen::Modern(Box::new(follower))));
        };
        if token.is_some() {
            return Err(self.old_wire("tokens"));
        }
        let asker =
            Asker { endpoints: Some(endpoints), ..self.outsider(dialect, identity, cluster) };
        let (lookup, id) = Lookup::start(asker).await?;
        Ok(Membership(Seen::Old(Box::new(lookup), id)))
    }

    /// Who is in a cluster now, without joining it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is unknown, [`Error::MembersOnly`] from an original server, or one
    /// of the network's kinds.
    pub async fn show(&self, identity: &Identity, cluster: &ClusterKey) -> Result<Roster, Error> {
        let Some(dialect) = self.wire.dialect() else {
            let look = Follower::look(self.clone(), identity.clone(), cluster.clone());
            let follower = look.await?;
            let roster = Roster::from(follower.known());
            follower.close().await;
            return Ok(roster);
        };
        let (mut lookup, _) = Lookup::start(self.outsider(dialect, identity, cluster)).await?;
        lookup.fetch_present().await?;
        let roster = lookup.roster();
        lookup.close().await;
        Ok(roster)
    }

    /// Waits until a cluster is full, without joining it. If the registry goes away meanwhile,
    /// connects again and goes on waiting.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if it is not full in time, [`Error::Gone`] if it is deleted or expires
    /// meanwhile, else as [`Self::show`].
    pub async fn wait(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        at_most: Duration,
    ) -> Result<Roster, Error> {
        let began = Instant::now();
        let late = |request| {
            let endpoint = self.credentials.endpoints.first();
            let endpoint = endpoint.expect("credentials have at least one; their reader checks");
            Error::NoAnswer { endpoint: endpoint.clone(), request, waited: at_most }
        };
        let rest = || at_most.saturating_sub(began.elapsed());
        let Some(dialect) = self.wire.dialect() else {
            let look = Follower::look(self.clone(), identity.clone(), cluster.clone());
            let looked = timeout(at_most, look).await.map_err(|_| late("GetCluster"))?;
            let mut follower = looked?;
            let roster = follower.wait(rest()).await;
            let roster = roster.map_err(|error| error.since(began.into_std()))?;
            follower.close().await;
            return Ok(roster);
        };
        let start = Lookup::start(self.outsider(dialect, identity, cluster));
        let (mut lookup, _) = timeout(at_most, start).await.map_err(|_| late("Member"))??;
        let roster = lookup.wait(rest()).await.map_err(|error| error.since(began.into_std()))?;
        lookup.close().await;
        Ok(roster)
    }

    fn outsider(&self, dialect: Dialect, identity: &Identity, cluster: &ClusterKey) -> Asker {
        Asker {
            credentials: Arc::clone(&self.credentials),
            dialect,
            identity: identity.clone(),
            cluster: cluster.clone(),
            endpoints: None,
            listener: self.listener.clone(),
        }
    }

    fn pin(&self) -> Pin {
        Pin::from(&self.credentials.sig_key)
    }

    /// # Errors
    /// [`Error::OldWire`] over that.
    pub(crate) fn need_modern(&self, what: &'static str) -> Result<(), Error> {
        if self.wire == Wire::V2 { Ok(()) } else { Err(self.old_wire(what)) }
    }

    fn old_wire(&self, what: &'static str) -> Error {
        Error::OldWire { what, wire: self.wire }
    }

    /// A connection by the modern door.
    pub(crate) async fn line(&self, identity: &Identity) -> Result<Line, Error> {
        let tls = self.tickets.of(self.pin(), identity.sig_private()).await?;
        Line::open(&self.credentials.endpoints, &tls).await
    }

    /// One request on a connection of its own; `what` is what the old wire lacks.
    pub(crate) async fn once<Q, A, F>(
        &self,
        identity: &Identity,
        what: &'static str,
        name: &'static str,
        call: impl FnOnce(Client, Call<Q>) -> F,
        request: Q,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Answer<A>, Status>>,
    {
        self.need_modern(what)?;
        let line = self.line(identity).await?;
        let answer = line.ask(name, call, request).await?;
        line.close().await;
        Ok(answer)
    }

    /// Registers `identity`, which takes an RSA operation to prove that its comms key is its own.
    pub(crate) async fn register_on(
        &self,
        line: &Line,
        identity: &Identity,
    ) -> Result<NodeId, Error> {
        let registration = self.registration(identity).await?;
        register(line, identity, registration).await
    }

    /// What registers `identity`; signing it is what takes the RSA operation.
    pub(crate) async fn registration(
        &self,
        identity: &Identity,
    ) -> Result<v2::RegisterRequest, Error> {
        let (sig, comms) = (identity.sig_key().fingerprint(), identity.comms_key());
        let registry = self.credentials.sig_key.fingerprint();
        let statement = proof::comms_statement(&registry, &sig, &comms.fingerprint());
        Ok(v2::RegisterRequest {
            id: identity.id().map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
            comms_key: comms.der().to_vec(),
            comms_proof: identity.sign_by_comms(statement).await?,
        })
    }
}

/// Has a registry register `identity`. **What is asked on the same line after it need not wait**: the
/// registry answers that when it has registered.
pub(crate) async fn register(
    line: &Line,
    identity: &Identity,
    registration: v2::RegisterRequest,
) -> Result<NodeId, Error> {
    const NAME: &str = "Register";
    let call = async |mut client: Client, request| client.register(request).await;
    let answer = line.ask(NAME, call, registration).await?;
    let node = answer.node.ok_or_else(|| absurd(NAME, "there is no node in it"))?;
    let id: NodeId = convert::bytes("node.id", &node.id).map_err(|at| malformed(NAME, &at))?;
    let sig = identity.sig_key().fingerprint();
    if identity.id().is_some_and(|own| own != id) || node.sig_key_sha256 != sig.as_bytes() {
        return Err(absurd(NAME, "it is about another node"));
    }
    Ok(id)
}

/// That an answer has a field that can't be read.
pub(crate) fn malformed(request: &'static str, fault: &Fault) -> Error {
    protocol(request, Problem::Field(printable(&fault.message)))
}
