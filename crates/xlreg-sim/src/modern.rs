//! A member of the modern door: real requests to the server's own service.

use std::collections::BTreeMap;
use std::time::Duration;

use xlreg_api::convert;
use xlreg_api::fault::Fault;
use xlreg_api::v2::registry_server::Registry as _;
use xlreg_api::v2::{self, ErrorReason};
use xlreg_core::admission::Lifetime;
use xlreg_core::cluster::NewCluster;
use xlreg_core::{Cluster, ClusterId, ClusterKey, Name, NodeId, Policy};

use crate::history::Floor;
use crate::keys::{Who, endpoint, name};
use crate::network::{Host, NoAnswer};

/// Asks by one method, notes what comes of it, and keeps the answer.
macro_rules! ask {
    ($member:expr, $method:ident, $message:expr) => {{
        let message = $message;
        $member.note(stringify!($method), &"...");
        let run = |guest: std::sync::Arc<xlreg_server::simulation::Guest>| async move {
            Ok(guest.api().$method(guest.ask(message)).await?.into_inner())
        };
        let answer = $member.host.call(run).await;
        $member.answered(stringify!($method), answer)
    }};
}

/// A member.
pub(crate) struct Member {
    pub(crate) host: Host,
    name: Name,
    id: Option<NodeId>,
}

/// What came of a request that was not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Not {
    /// Nobody knows.
    Lost,
    /// It was refused, and is known not to have happened.
    Refused(ErrorReason),
}

/// What is refused for no fault of the request: it may have happened all the same.
fn is_uncertain(reason: ErrorReason) -> bool {
    matches!(reason, ErrorReason::StoreFailed | ErrorReason::ShuttingDown)
}

impl Member {
    pub(crate) fn new(host: Host) -> Result<Self, String> {
        let name = name(&format!("node{}", host.number))?;
        Ok(Self { host, name, id: None })
    }

    pub(crate) fn note(&self, what: &str, came: &dyn std::fmt::Debug) {
        let number = self.host.number;
        self.host.world.note(format_args!("node{number}: {what}: {came:?}"));
    }

    pub(crate) fn check(&self, checked: Result<(), String>) {
        self.host.world.check(format_args!("node{}", self.host.number), checked);
    }

    pub(crate) fn answered<T>(&self, what: &str, answer: Result<T, NoAnswer>) -> Result<T, Not> {
        let not = match answer {
            Ok(answer) => {
                self.note(what, &"granted");
                return Ok(answer);
            }
            Err(NoAnswer::Lost) => Not::Lost,
            Err(NoAnswer::Status(status)) => match Fault::read(&status) {
                Some(fault) if !is_uncertain(fault.reason) => {
                    if fault.reason == ErrorReason::KeyRetired {
                        self.host.world.rotated(self.host.number);
                    }
                    Not::Refused(fault.reason)
                }
                _ => Not::Lost,
            },
        };
        self.note(what, &not);
        Err(not)
    }

    /// Checks a cluster that was shown whole.
    pub(crate) fn shown(
        &self,
        told: Option<&v2::Cluster>,
        floors: &BTreeMap<ClusterId, Floor>,
    ) -> Option<Cluster> {
        let read = told.ok_or("there is no cluster".to_owned());
        let read = read.and_then(|told| convert::cluster(told).map_err(|fault| fault.to_string()));
        match read {
            Ok(cluster) => {
                let floor = floors.get(&cluster.id).copied().unwrap_or(Floor::NONE);
                let told = self.host.world.history().told_cluster(&cluster, floor);
                self.check(told);
                Some(cluster)
            }
            Err(wrong) => {
                self.check(Err(wrong));
                None
            }
        }
    }

    pub(crate) async fn register(&mut self) -> Option<NodeId> {
        if let Some(id) = self.id {
            return Some(id);
        }
        let node = self.host.keys.node(self.host.world.who(self.host.number)).ok()?;
        let request = v2::RegisterRequest {
            id: Vec::new(),
            comms_key: node.comms_key.der().to_vec(),
            comms_proof: node.comms_proof.clone(),
        };
        let answer = ask!(self, register, request).ok()?;
        let id = convert::bytes("id", &answer.node?.id).ok()?;
        let told = self.host.world.history().told_id(&id, &node.sig_key.fingerprint());
        self.check(told);
        self.id = Some(id);
        Some(id)
    }

    /// Creates a cluster that stays, or one that comes to an end in some way.
    pub(crate) async fn create(&mut self, cluster: u64, size: u32, stays: bool) -> Option<Cluster> {
        let world = &self.host.world;
        let soon = |limit: u64| Some(Duration::from_millis(200 + world.below(limit)));
        let lifetime = match if stays { 0 } else { world.below(8) } {
            1 => Lifetime { ttl: soon(15_000), ..Lifetime::default() },
            2 => Lifetime { idle: soon(5_000), ..Lifetime::default() },
            3 => Lifetime { fill_within: soon(9_000), ..Lifetime::default() },
            4 => Lifetime { with_owner: true, ..Lifetime::default() },
            _ => Lifetime::default(),
        };
        let name = name(&format!("cluster{cluster}")).ok()?;
        let policy = if !stays && world.one_in(4) { Policy::Token } else { Policy::Open };
        let new = NewCluster { lifetime, policy, ..NewCluster::open(name, size, 1) };
        let floors = self.host.world.history().floors();
        let answer = ask!(self, create_cluster, convert::to_create(&new)).ok()?;
        let made = self.shown(answer.cluster.as_ref(), &floors)?;
        if made.policy == Policy::Token {
            self.issue(cluster).await;
        }
        Some(made)
    }

    /// Issues a token and hands it out.
    async fn issue(&mut self, cluster: u64) {
        let request = v2::CreateTokenRequest {
            cluster: reference(cluster),
            max_uses: u32::try_from(self.host.world.below(4)).unwrap_or(0),
            ..v2::CreateTokenRequest::default()
        };
        if let Ok(answer) = ask!(self, create_token, request) {
            self.host.world.hand_out(cluster, answer.secret);
        }
    }

    /// Lets the second key take the first one's place; at most once in a run.
    pub(crate) async fn rotate(&mut self) -> Option<()> {
        let who = self.host.world.who(self.host.number);
        if who.rotated {
            return None;
        }
        self.register().await?;
        let after = Who { rotated: true, ..who };
        let rotation = self.host.keys.rotation(who.number).ok()?;
        let request = v2::RotateKeysRequest {
            new_sig_key: self.host.keys.node(after).ok()?.sig_key.der().to_vec(),
            old_signature: rotation.by_old.clone(),
            new_signature: rotation.by_new.clone(),
            ..v2::RotateKeysRequest::default()
        };
        let answer = ask!(self, rotate_keys, request).ok()?;
        self.host.world.rotated(who.number);
        let key = self.host.keys.node(after).ok()?.sig_key.fingerprint();
        for node in answer.nodes {
            let id = convert::bytes("id", &node.id).map_err(|fault| fault.to_string());
            let told = id.and_then(|id| self.host.world.history().told_id(&id, &key));
            self.check(told);
        }
        Some(())
    }

    pub(crate) async fn join(&mut self, cluster: u64) -> Option<Cluster> {
        let id = self.register().await?;
        let stamp = self.host.world.stamp();
        let request = v2::JoinClusterRequest {
            cluster: reference(cluster),
            name: self.name.to_string(),
            endpoints: vec![format!("10.0.0.1:{stamp}")],
            attributes: 0,
            node_id: id.as_bytes().to_vec(),
            entry_signature: Vec::new(),
            token: if self.host.world.one_in(4) {
                String::new()
            } else {
                self.host.world.token(cluster)
            },
        };
        let floors = self.host.world.history().floors();
        match ask!(self, join_cluster, request) {
            Ok(answer) => {
                let cluster = self.shown(answer.cluster.as_ref(), &floors)?;
                let joined = self.host.world.history().told_joined(&cluster.id, stamp);
                self.check(joined);
                let seat = cluster.seats.get(answer.rank as usize);
                let own = seat.and_then(xlreg_core::Seat::present);
                let mine = own.is_some_and(|own| own.name == self.name);
                self.check(mine.then_some(()).ok_or_else(|| "this is not my rank".to_owned()));
                Some(cluster)
            }
            Err(Not::Refused(reason)) => {
                let told = self.host.world.history().told_refused(stamp);
                self.check(told);
                self.missed(cluster, Not::Refused(reason), &floors);
                if reason == ErrorReason::ClusterFull {
                    let name = name(&format!("cluster{cluster}")).ok()?;
                    let full = self.host.world.history().told_full(&name, &floors);
                    self.check(full);
                }
                None
            }
            Err(Not::Lost) => None,
        }
    }

    pub(crate) async fn get(&mut self, cluster: u64) -> Option<Cluster> {
        let floors = self.host.world.history().floors();
        let request = v2::GetClusterRequest { cluster: reference(cluster) };
        match ask!(self, get_cluster, request) {
            Ok(answer) => self.shown(answer.cluster.as_ref(), &floors),
            Err(not) => {
                self.missed(cluster, not, &floors);
                None
            }
        }
    }

    /// Checks that what was not found is not there.
    fn missed(&self, cluster: u64, not: Not, floors: &BTreeMap<ClusterId, Floor>) {
        if not == Not::Refused(ErrorReason::ClusterNotFound) {
            let name = name(&format!("cluster{cluster}"));
            let missed =
                name.and_then(|name| self.host.world.history().told_no_name(&name, floors));
            self.check(missed);
        }
    }

    /// Looks a cluster up, and does something to it.
    pub(crate) async fn change(&mut self, cluster: u64) -> Option<()> {
        let known = self.get(cluster).await?;
        let key = Some(convert::cluster_ref(&ClusterKey::Id(known.id)));
        let floor = self.host.world.history().floor(&known.id);
        let name = self.name.to_string();
        match self.host.world.below(10) {
            0..4 => {
                let request = v2::LeaveRequest { cluster: key, name };
                let revision = ask!(self, leave, request).ok()?.revision;
                let left = self.host.world.history().told_left(&known.id, revision, &self.name);
                self.check(left);
                self.changed(&known.id, revision, floor);
            }
            4..7 => {
                let stamp = self.host.world.stamp();
                let endpoints = vec![format!("10.0.0.1:{stamp}")];
                let entry_signature = self.sign_moved(&known, stamp).unwrap_or_default();
                let request =
                    v2::UpdateEndpointsRequest { cluster: key, name, endpoints, entry_signature };
                match ask!(self, update_endpoints, request) {
                    Ok(answer) => {
                        let moved = self.host.world.history().told_joined(&known.id, stamp);
                        self.check(moved);
                        self.changed(&known.id, answer.revision, floor);
                    }
                    Err(Not::Refused(_)) => {
                        let told = self.host.world.history().told_refused(stamp);
                        self.check(told);
                    }
                    Err(Not::Lost) => {}
                }
            }
            7..9 => {
                let holders: Vec<_> = known.holders().map(|(_, member)| member.id).collect();
                let place = usize::try_from(self.host.world.below(holders.len() as u64)).ok()?;
                let member_id = holders.get(place)?.as_bytes().to_vec();
                let request = v2::ExpelMemberRequest { cluster: key, member_id };
                let revision = ask!(self, expel_member, request).ok()?.revision;
                self.changed(&known.id, revision, floor);
            }
            _ => {
                ask!(self, delete_cluster, v2::DeleteClusterRequest { cluster: key }).ok()?;
                let told = self.host.world.history().told_gone(&known.id);
                self.check(told);
            }
        }
        Some(())
    }

    /// Its signature over what its entry will be, as some members give it.
    fn sign_moved(&self, known: &Cluster, stamp: u16) -> Option<Vec<u8>> {
        let (_, own) = known.holders().find(|(_, holder)| holder.name == self.name)?;
        if !self.host.world.one_in(2) {
            return None;
        }
        let node = self.host.keys.node(self.host.world.who(self.host.number)).ok()?;
        let sig_key = node.sig_key.clone();
        let endpoints = vec![endpoint(stamp).ok()?];
        let entry = xlreg_core::Member { sig_key, endpoints, ..xlreg_core::Member::clone(own) };
        node.sign(&self.host.keys.registry, &known.id, &entry).ok()
    }

    fn changed(&self, id: &ClusterId, revision: u64, floor: Floor) {
        let told = self.host.world.history().told_revision(id, revision, floor);
        self.check(told);
    }
}

pub(crate) fn reference(cluster: u64) -> Option<v2::ClusterRef> {
    let name = name(&format!("cluster{cluster}")).ok()?;
    Some(convert::cluster_ref(&ClusterKey::Name(name)))
}
