//! `xlreg cluster verify NAME`: who reaches whom, seen from a member.
//!
//! It shakes hands with every other member, as a program of this member would. Where another member's
//! program listens, that is all there is to know. Where another `verify` listens, the two tell each
//! other what they have found, so that each can print the whole matrix.

mod exchange;
mod matrix;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use xlreg::{
    ClusterKey, Identity, Name, NodeId, PeerError, PeerListener, PeerStream, Peers, Roster, Wire,
};

use crate::exit::{Code, Ending};
use crate::kept;
use crate::output::{self, Output};
use crate::patience::Pauses;
use crate::target::At;
use exchange::{PROTOCOL, talk};
use matrix::{Cell, Matrix, Row};

/// How long to wait for the last words of others when our own time is up.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The pauses between tries at one peer, each twice as long as the one before it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What to look at, and from where.
pub(crate) struct Live {
    pub(crate) cluster: ClusterKey,
    /// The member to look from; if not said, the identity's.
    pub(crate) name: Option<Name>,
    /// Its directory; if not said, where `xlreg join` keeps it.
    pub(crate) identity: Option<PathBuf>,
    /// How long to try, and to be there for the others.
    pub(crate) timeout: Duration,
    pub(crate) output: Output,
}

/// Looks, prints, and says by its code whether all was reached: 0, or 7.
pub(crate) async fn verify_cluster(args: &Live, at: At) -> anyhow::Result<Code> {
    let doing = || format!("verifying cluster {}", args.cluster);
    let identity = args.identity().await?;
    let peers = timeout(args.timeout, learn(at, &identity, &args.cluster));
    let peers = peers.await.unwrap_or_else(|_| Err(late(args.timeout))).with_context(doing)?;
    let roster = peers.roster();
    let rank = peers.rank().ok_or_else(|| no_member(&identity, &roster))?;
    let peers = peers.with_protocols(&[PROTOCOL]);
    let listener = listen(&peers, &roster, rank).await;
    let own = listener.is_some();
    let look = Look::new(peers, rank, &roster, Instant::now() + args.timeout);
    let matrix = look.all_around(listener).await;
    args.output.print(&matrix.to_json(&roster, rank, own), || matrix.to_text(&roster, rank))?;
    Ok(if roster.is_complete() && matrix.all_reached() { Code::Done } else { Code::Incomplete })
}

impl Live {
    async fn identity(&self) -> anyhow::Result<Identity> {
        let dir = match &self.identity {
            Some(dir) => dir.clone(),
            None => kept::member(&self.cluster, self.name.as_ref())?,
        };
        let identity = Identity::load(&dir).await?;
        Ok(match &self.name {
            Some(name) => identity.with_name(name.clone()),
            None => identity,
        })
    }
}

/// Over the old wire the roster is that of now; it can't be followed.
async fn learn(at: At, identity: &Identity, cluster: &ClusterKey) -> anyhow::Result<Peers> {
    let registry = at.registry(identity).await?;
    if registry.wire() == Wire::V2 {
        return Ok(Peers::follow(&registry, identity, cluster).await?);
    }
    let roster = registry.show(identity, cluster).await?;
    Ok(Peers::new(identity, &roster).await?)
}

fn late(waited: Duration) -> anyhow::Error {
    let message = format!("the registry has not answered within {waited:?}; look at its log");
    Ending::new(Code::Incomplete, message).into()
}

fn no_member(identity: &Identity, roster: &Roster) -> anyhow::Error {
    let message = format!(
        "this identity is no member {} of cluster {}: name that of a member with --identity, and its \
         --name if it has another there",
        identity.name(),
        roster.title()
    );
    Ending::new(Code::NotFound, message).into()
}

/// Listens where this member is reached, so that the others find somebody before its program starts.
/// If the program is there already, it is what they find.
async fn listen(peers: &Peers, roster: &Roster, rank: usize) -> Option<PeerListener> {
    let endpoint = roster.member(rank)?.endpoints.first()?.clone();
    match TcpListener::bind((endpoint.host(), endpoint.port())).await {
        Ok(listener) => Some(peers.listen(listener)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
        Err(error) => {
            output::note(&format!(
                "xlreg: cannot listen at {endpoint} ({error}), so others reach this member only if \
                 that leads to its program"
            ));
            None
        }
    }
}

/// One look around.
struct Look {
    peers: Peers,
    by: Instant,
    matrix: Matrix,
    /// Our own row, as we tell it to others.
    own: watch::Sender<Row>,
}

/// How a peer was found.
struct Found {
    rank: usize,
    cell: Cell,
    /// The link, if a `verify` is at its other end.
    link: Option<PeerStream>,
}

impl Look {
    fn new(peers: Peers, rank: usize, roster: &Roster, by: Instant) -> Self {
        let ranks: Vec<_> = roster.iter().map(|(rank, _)| rank).collect();
        Self { peers, by, matrix: Matrix::new(ranks), own: watch::Sender::new(Row::new(rank)) }
    }

    /// Shakes hands with everyone, and hears what they have found.
    async fn all_around(mut self, mut listener: Option<PeerListener>) -> Matrix {
        let rank = self.own.borrow().rank();
        let mut looking = JoinSet::new();
        for (other, member) in self.peers.roster().iter().filter(|(other, _)| *other != rank) {
            looking.spawn(look_at(self.peers.clone(), other, member.id, self.by));
        }
        let mut talks = JoinSet::new();
        self.own.send_modify(|own| own.done = looking.is_empty());
        while !looking.is_empty() || !talks.is_empty() {
            tokio::select! {
                Some(Ok(found)) = looking.join_next() => {
                    self.own.send_modify(|own| {
                        own.put(found.rank, found.cell);
                        own.done = looking.is_empty();
                    });
                    if let Some(link) = found.link {
                        talks.spawn(talk(link, self.own.subscribe()));
                    }
                }
                Some(Ok(told)) = talks.join_next() => {
                    if let Some(row) = told {
                        self.matrix.put(row);
                    }
                }
                Some(link) = accept(listener.as_mut()) => {
                    if link.protocol() == Some(PROTOCOL.as_bytes()) {
                        talks.spawn(talk(link, self.own.subscribe()));
                    }
                }
                () = sleep_until(self.by + LAST_WORDS) => break,
            }
        }
        self.matrix.put(self.own.borrow().clone());
        self.matrix
    }
}

/// The next link; none if nobody can come, or nobody more.
async fn accept(listener: Option<&mut PeerListener>) -> Option<PeerStream> {
    listener?.accept().await.ok()
}

/// Tries to reach a member until that works or the time is up.
async fn look_at(peers: Peers, rank: usize, id: NodeId, by: Instant) -> Found {
    let plain = peers.clone().with_protocols(&[]);
    let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
    loop {
        let began = Instant::now();
        // Other programs may know no such protocol, and object to it.
        let tried = match try_once(&peers, id, by).await {
            Some(Err(unreached)) if matches!(unreached.why, PeerError::OtherProtocol) => {
                try_once(&plain, id, by).await
            }
            tried => tried,
        };
        let cell = match tried {
            Some(Ok(link)) => {
                let cell = Cell::Reached { millis: began.elapsed().as_secs_f64() * 1e3 };
                let talks = link.protocol() == Some(PROTOCOL.as_bytes());
                return Found { rank, cell, link: talks.then_some(link) };
            }
            Some(Err(unreached)) => Cell::failed(unreached.endpoint.as_ref(), &unreached.why),
            None => Cell::failed(None, &"no answer until the time was up"),
        };
        let pause = pauses.next();
        if Instant::now() + pause >= by {
            return Found { rank, cell, link: None };
        }
        sleep(pause).await;
    }
}

async fn try_once(
    peers: &Peers,
    id: NodeId,
    by: Instant,
) -> Option<Result<PeerStream, xlreg::Unreached>> {
    tokio::time::timeout_at(by, peers.connect_once(id)).await.ok()
}
