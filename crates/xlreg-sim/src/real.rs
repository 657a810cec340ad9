//! Histories of a real server, on real sockets of loopback: what several clients of both doors asked
//! of one cluster at once, when, and what they were told.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use xlreg::{ClusterKey, Error, Identity, NewCluster, Registry};
use xlreg_core::limits::Limits;
use xlreg_core::{Endpoint, Name, PublicKey, Version};
use xlreg_proto::channel::{Channel, Dialect};
use xlreg_proto::hello::{ClientHello, Secrets};
use xlreg_proto::keys::random;
use xlreg_proto::message::{Claim, Reply, Request};
use xlreg_server::config::{Config, Modern};
use xlreg_server::rates::Rate;
use xlreg_server::{Home, LocalServer};
use xlreg_store::LocalEngine;

use crate::chance::Chance;
use crate::cluster::{Answer, Asked, Cluster, Door};
use crate::keys::{self, NODES};
use crate::linear::{Call, Disorder, order};

/// Calls of one client, at most.
const CALLS_OF_CLIENT_MAX: u64 = 5;

/// One call in so many is given up before its answer.
const HASTY: u64 = 12;

/// In how many milliseconds at most.
const HASTE_MS: u64 = 8;

/// A server with its store in a directory, and the nodes that come to it.
pub struct Site {
    server: LocalServer,
    /// By the modern door.
    registry: Registry,
    comms_key: PublicKey,
    nodes: Vec<Node>,
    /// Each event has a moment of its own.
    moments: AtomicU64,
}

struct Node {
    identity: Identity,
    claim: Claim,
    endpoints: Vec<Endpoint>,
}

/// What was asked of one cluster, and answered.
#[derive(Clone, Debug)]
pub struct History {
    /// What its choices come from. How threads ran, it does not tell.
    pub seed: u64,
    /// By the moment at which they began.
    pub calls: Vec<Call<Asked, Answer>>,
}

impl Site {
    /// Starts a server that keeps its store in `dir`, on a free port. Must be called within a tokio
    /// runtime with time and sockets.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn start(dir: &Path) -> Result<Self, String> {
        let (sig, comms) = keys::registry_pair()?;
        let comms_key = comms.public().clone();
        let identity = xlreg_node::Identity::from_keys(name("registry")?, comms, sig);
        let home = Home::ephemeral(dir, identity).map_err(text)?;
        // A few keys make all clusters there are, and leave none.
        let limits = Limits {
            clusters_per_key_max: usize::MAX,
            memberships_per_key_max: usize::MAX,
            ..Limits::default()
        };
        let engine = LocalEngine::open(dir, home.id(), limits).map_err(text)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
        let plenty = Rate { per_second: 1_000_000, burst: 1_000_000 };
        let modern = Modern {
            handshakes: plenty,
            requests: plenty,
            address_requests: plenty,
            registrations: plenty,
            ..Modern::default()
        };
        let config = Config { modern, ..Config::default() };
        let server = LocalServer::start_on(listener, &home, Arc::new(engine), &config);
        let server = server.map_err(text)?;
        let registry = Registry::new(server.credentials().clone());
        let nodes = (0..NODES).map(Node::new).collect::<Result<_, _>>()?;
        Ok(Self { server, registry, comms_key, nodes, moments: AtomicU64::new(0) })
    }

    /// Lets some clients do what this seed makes them do, all with one cluster of their own.
    ///
    /// # Errors
    /// What went wrong, in words, if it was anything but a refusal.
    pub async fn record(self: &Arc<Self>, seed: u64) -> Result<History, String> {
        let mut chance = Chance::new(seed);
        let clients = 2 + chance.below(3) as usize;
        let cluster = name(&format!("h{seed}"))?;
        let begin = Arc::new(Barrier::new(clients));
        let mut running = JoinSet::new();
        for number in 0..clients {
            let (site, begin, cluster) = (Arc::clone(self), Arc::clone(&begin), cluster.clone());
            let mut chance = Chance::new(chance.next());
            running.spawn(async move {
                begin.wait().await;
                let mut calls = Vec::new();
                for turn in 0..=chance.below(CALLS_OF_CLIENT_MAX) {
                    let asked = choose(&mut chance, number, turn);
                    let haste = chance.one_in(HASTY).then(|| chance.millis(0, HASTE_MS));
                    calls.push(site.call(&cluster, number, asked, haste).await?);
                }
                Ok::<_, String>(calls)
            });
        }
        let mut calls = Vec::new();
        while let Some(ended) = running.join_next().await {
            calls.append(&mut ended.map_err(text)??);
        }
        calls.sort_by_key(|call| call.from);
        Ok(History { seed, calls })
    }

    /// Stops the server in good order.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn stop(self) -> Result<(), String> {
        let report = self.server.stop().await.map_err(text)?;
        report.failure.map_or(Ok(()), |failure| Err(failure.to_string()))
    }

    async fn call(
        &self,
        cluster: &Name,
        number: usize,
        asked: Asked,
        haste: Option<Duration>,
    ) -> Result<Call<Asked, Answer>, String> {
        let moment = || self.moments.fetch_add(1, Ordering::SeqCst);
        let from = moment();
        let asking = self.ask(cluster, number, asked);
        let answer = match haste {
            Some(haste) => timeout(haste, asking).await.ok(),
            None => Some(asking.await),
        };
        let answered = answer.transpose()?.map(|answer| (answer, moment()));
        Ok(Call { asked, from, answered })
    }

    async fn ask(&self, cluster: &Name, number: usize, asked: Asked) -> Result<Answer, String> {
        let node = self.nodes.get(number).ok_or("there are too few nodes")?;
        match asked {
            Asked::Create(Door::Modern, _)
            | Asked::Join(Door::Modern, _)
            | Asked::Show(Door::Modern)
            | Asked::Leave(_) => match self.ask_modern(cluster, node, asked).await {
                Ok(answer) => Ok(answer),
                Err(Error::Refused { reason, .. }) => Ok(Answer::Refused(reason.to_string())),
                Err(Error::Differs { size, .. }) => Ok(Answer::Differs(size)),
                Err(error) => Err(error.to_string()),
            },
            Asked::Create(Door::Old18, _)
            | Asked::Join(Door::Old18, _)
            | Asked::Show(Door::Old18) => self.ask_old(Dialect::V1_8, cluster, node, asked).await,
            Asked::Create(Door::Old19, _)
            | Asked::Join(Door::Old19, _)
            | Asked::Show(Door::Old19) => self.ask_old(Dialect::V1_9, cluster, node, asked).await,
        }
    }

    async fn ask_modern(&self, cluster: &Name, node: &Node, asked: Asked) -> Result<Answer, Error> {
        let key = ClusterKey::Name(cluster.clone());
        Ok(match asked {
            Asked::Create(_, size) => {
                let new = NewCluster::open(cluster.clone(), size, 1);
                Answer::Created(self.registry.create(&node.identity, &new).await?.size)
            }
            Asked::Join(..) => {
                let endpoints = node.endpoints.clone();
                self.registry.join(&node.identity, &key, endpoints).await?.close().await;
                Answer::Joined
            }
            Asked::Leave(_) => {
                self.registry.leave(&node.identity, &key).await?;
                Answer::Left
            }
            Asked::Show(_) => {
                let roster = self.registry.show(&node.identity, &key).await?;
                let there = roster.iter().map(|(rank, member)| (rank, number_of(&member.name)));
                Answer::Shown(roster.size, there.collect())
            }
        })
    }

    /// One request and its answer, on a connection of its own: the client library may put a roster
    /// together from several.
    async fn ask_old(
        &self,
        dialect: Dialect,
        cluster: &Name,
        node: &Node,
        asked: Asked,
    ) -> Result<Answer, String> {
        let key = Some(ClusterKey::Name(cluster.clone()));
        let request = match asked {
            Asked::Create(_, size) => {
                Request::Create { name: cluster.clone(), attrs: 0, size, endpoint_count: 1 }
            }
            Asked::Join(..) => Request::Join { cluster: key },
            Asked::Show(_) => Request::GetCluster { cluster: key, which: None },
            Asked::Leave(_) => return Err("the old wire has no way to leave".to_owned()),
        };
        let mut link = Link::open(&self.server, &self.comms_key, dialect).await?;
        match link.ask(&Request::Member(node.claim.clone())).await? {
            Reply::MemberOk { .. } => {}
            other => return Err(format!("{other:?} in answer to Member")),
        }
        Ok(match link.ask(&request).await? {
            Reply::Created(info) => Answer::Created(info.size),
            Reply::Joined(_) => Answer::Joined,
            Reply::Members { which, entries, about, .. } => {
                let ranks = (0..64).filter(|rank| which & (1 << rank) != 0);
                let there = ranks.zip(entries.iter().map(|entry| number_of(&entry.name)));
                Answer::Shown(about.map_or(0, |about| about.size), there.collect())
            }
            Reply::Error(text) => Answer::Refused(text),
            other => return Err(format!("{other:?} in answer to {request:?}")),
        })
    }
}

impl Node {
    fn new(number: usize) -> Result<Self, String> {
        let (sig, comms) = keys::node_pair(number)?;
        let own = name(&format!("m{number}"))?;
        let endpoints: Vec<Endpoint> = vec!["127.0.0.1:4000".parse().map_err(text)?];
        let comms_key = comms.public().clone();
        let claim = Claim::sign(None, own.clone(), 0, comms_key, &sig, endpoints.clone());
        let claim = claim.map_err(text)?;
        Ok(Self { identity: Identity::from_keys(own, comms, sig), claim, endpoints })
    }
}

/// A connection of the old wire.
struct Link {
    stream: TcpStream,
    channel: Channel,
}

impl Link {
    async fn open(server: &LocalServer, key: &PublicKey, dialect: Dialect) -> Result<Self, String> {
        let endpoint = server.credentials().endpoints.first().ok_or("no endpoint")?;
        let mut stream = TcpStream::connect(endpoint.as_str()).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let secrets = Secrets::from_random(random());
        let (hello, packet) =
            ClientHello::new(dialect, key, Version::CURRENT, secrets).map_err(text)?;
        stream.write_all(&packet).await.map_err(text)?;
        let mut reply = vec![0; hello.reply_bytes()];
        stream.read_exact(&mut reply).await.map_err(text)?;
        let (channel, _) = hello.finish(&reply).map_err(text)?;
        Ok(Self { stream, channel })
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, String> {
        let sealed = self.channel.sealer.seal(&request.encode(), random);
        self.stream.write_all(&sealed).await.map_err(text)?;
        let mut buffer = Vec::new();
        loop {
            if let Some(message) = self.channel.opener.next_message().map_err(text)? {
                return Reply::decode(message).map_err(text);
            }
            buffer.clear();
            if self.stream.read_buf(&mut buffer).await.map_err(text)? == 0 {
                return Err(format!("the server hung up on {request:?}"));
            }
            self.channel.opener.push(&buffer);
        }
    }
}

impl History {
    /// Whether there is an order in which all this can have happened.
    ///
    /// # Errors
    /// [`Disorder`] if there is none.
    pub fn check(&self) -> Result<(), Disorder> {
        order(&Cluster::default(), &self.calls).map(|_| ())
    }

    /// How many calls began before another one had been answered.
    #[must_use]
    pub fn overlapping(&self) -> usize {
        let ends = |call: &Call<_, _>| call.answered.as_ref().map_or(u64::MAX, |(_, at)| *at);
        let mut latest = None;
        let mut count = 0;
        for call in &self.calls {
            count += usize::from(latest.is_some_and(|end| end > call.from));
            latest = latest.max(Some(ends(call)));
        }
        count
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {}:", self.seed)?;
        for Call { asked, from, answered } in &self.calls {
            match answered {
                Some((answer, at)) => writeln!(f, "  {from:>8} to {at:>8}  {asked}: {answer:?}")?,
                None => writeln!(f, "  {from:>8} to      ...  {asked}: not waited for")?,
            }
        }
        Ok(())
    }
}

/// What a client asks next. Who is the first to make the cluster is left to the race.
fn choose(chance: &mut Chance, member: usize, turn: u64) -> Asked {
    let door = match chance.below(4) {
        0 => Door::Old18,
        1 => Door::Old19,
        _ => Door::Modern,
    };
    match chance.below(8) {
        0 => Asked::Create(door, 2 + chance.below(2) as u32),
        _ if turn == 0 && member < 2 => Asked::Create(door, 2 + chance.below(2) as u32),
        1..=3 => Asked::Join(door, member),
        4 | 5 => Asked::Leave(member),
        _ => Asked::Show(door),
    }
}

fn number_of(name: &Name) -> usize {
    name.as_str().trim_start_matches('m').parse().unwrap_or(usize::MAX)
}

fn name(text: &str) -> Result<Name, String> {
    keys::name(text)
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
