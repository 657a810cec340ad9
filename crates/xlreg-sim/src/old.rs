//! A member of the old wire: real messages, sealed and signed, to the server's own connection.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;
use xlreg_core::{ClusterId, ClusterKey, Refusal};
use xlreg_proto::channel::Channel;
use xlreg_proto::keys::random;
use xlreg_proto::message::{Reply, Request};

use crate::history::Floor;
use crate::keys::name;
use crate::network::Host;

/// How long a member waits for an answer.
const PATIENCE: Duration = Duration::from_secs(9);

/// One connection.
struct Session<'h> {
    host: &'h Host,
    stream: DuplexStream,
    channel: Channel,
}

/// What a member intends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The cluster's name, as a number.
    pub(crate) cluster: u64,
    /// Whether it creates it first, and for how many.
    pub(crate) create: Option<u32>,
    /// Lookups at most.
    pub(crate) lookups: u32,
}

/// Registers, joins, and waits for the roster. Returns whether it came; none if it was in vain.
pub(crate) async fn visit(host: &Host, plan: Plan) -> Option<bool> {
    let (stream, channel) = host.connect().await?;
    Session { host, stream, channel }.run(plan).await
}

impl Session<'_> {
    async fn run(mut self, plan: Plan) -> Option<bool> {
        let host = self.host;
        let stamp = host.world.signed_stamp(host.number);
        let who = host.world.who(host.number);
        let claim = host.keys.claim(who, stamp).ok()?;
        let key = host.keys.node(who).ok()?.sig_key.fingerprint();
        match self.ask(&Request::Member(claim)).await? {
            Reply::MemberOk { id, .. } => {
                let told = host.world.history().told_id(&id, &key);
                self.check(told);
            }
            Reply::Error(text) if text == Refusal::KeyRetired.to_string() => {
                host.world.rotated(host.number);
                return None;
            }
            _ => return None,
        }
        let cluster = name(&format!("cluster{}", plan.cluster)).ok()?;
        if let Some(size) = plan.create {
            let request =
                Request::Create { name: cluster.clone(), attrs: 0, size, endpoint_count: 1 };
            if let Reply::Created(info) = self.ask(&request).await? {
                let (id, size, none) = (&info.id, Some(info.size), BTreeMap::new());
                let told = host.world.history().told_members(id, size, &none, Floor::NONE);
                self.check(told);
            }
        }
        let floors = host.world.history().floors();
        let reply =
            self.ask(&Request::Join { cluster: Some(ClusterKey::Name(cluster.clone())) }).await?;
        let (id, size) = match reply {
            Reply::Joined(info) => {
                let told = host.world.history().told_joined(&info.id, stamp);
                self.check(told);
                (info.id, info.size)
            }
            Reply::Error(text) => {
                let told = host.world.history().told_refused(stamp);
                self.check(told);
                if text == (Refusal::ClusterFull { size: 0 }).to_string() {
                    let full = host.world.history().told_full(&cluster, &floors);
                    self.check(full);
                }
                if text == Refusal::UnknownClusterName.to_string() {
                    let missed = host.world.history().told_no_name(&cluster, &floors);
                    self.check(missed);
                }
                return None;
            }
            _ => return None,
        };
        self.wait(&id, size, plan.lookups).await
    }

    /// Asks for whoever is missing, until nobody is.
    async fn wait(&mut self, id: &ClusterId, size: u32, lookups: u32) -> Option<bool> {
        let mut have = 0;
        let all = u64::MAX >> 64_u32.saturating_sub(size);
        for _ in 0..lookups {
            let floor = self.host.world.history().floor(id);
            let cluster = Some(ClusterKey::Id(*id));
            let which = if self.host.world.one_in(4) { None } else { Some(all & !have) };
            match self.ask(&Request::GetCluster { cluster, which }).await? {
                Reply::Members { cluster, which, entries, about } => {
                    let ranks = (0..64).filter(|rank| which & (1 << rank) != 0);
                    let members: BTreeMap<_, _> = ranks.zip(entries).collect();
                    let size = about.map(|about| about.size);
                    let told =
                        self.host.world.history().told_members(&cluster, size, &members, floor);
                    self.check(told);
                    have |= which;
                }
                Reply::Error(_) => {
                    let told = self.host.world.history().told_unknown(id);
                    self.check(told);
                    return None;
                }
                _ => return None,
            }
            if have == all {
                self.host.world.count(|tally| tally.formed += 1);
                let _bye = self.ask(&Request::Bye).await;
                return Some(true);
            }
        }
        Some(false)
    }

    fn check(&self, checked: Result<(), String>) {
        self.host.world.check(format_args!("node{} (old)", self.host.number), checked);
    }

    /// Asks, and waits for the answer; none if there is none.
    async fn ask(&mut self, request: &Request) -> Option<Reply> {
        let Self { host, stream, channel } = self;
        let (world, number, asked) = (&host.world, host.number, request.tag().as_str_name());
        world.note(format_args!("node{number} (old): {asked}"));
        let sealed = channel.sealer.seal(&request.encode(), random);
        let exchange = async {
            stream.write_all(&sealed).await.ok()?;
            loop {
                if let Some(message) = channel.opener.next_message().ok()? {
                    return Reply::decode(message).ok();
                }
                let mut piece = Vec::new();
                if stream.read_buf(&mut piece).await.ok()? == 0 {
                    return None;
                }
                channel.opener.push(&piece);
            }
        };
        let reply = timeout(PATIENCE, exchange).await.ok().flatten();
        match &reply {
            Some(Reply::Error(text)) => {
                world.note(format_args!("node{number} (old): {asked}: refused: {text}"));
            }
            Some(reply) => {
                let got = reply.tag().as_str_name();
                world.note(format_args!("node{number} (old): {asked}: {got}"));
            }
            None => world.note(format_args!("node{number} (old): {asked}: no answer")),
        }
        reply
    }
}
