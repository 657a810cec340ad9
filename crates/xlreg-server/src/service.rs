//! `xlreg.v2.Registry`: each call translated into a command or a question, and back.
//!
//! Nothing is decided here but who asks: the key that the handshake proved.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, error, info};
use xlreg_api::convert::{self, Detail};
use xlreg_api::fault::{ENTRY_SIGNATURE, Fault};
use xlreg_api::secret::TokenSecret;
use xlreg_api::v2::registry_server::Registry;
use xlreg_api::{proof, v2};
use xlreg_core::admission::{Label, TokenDigest, TokenProof};
use xlreg_core::limits::LABEL_BYTES_MAX;
use xlreg_core::registry::{Actor, NewToken, Outcome, Who};
use xlreg_core::{
    Admission, Cluster, ClusterId, ClusterKey, Command, EntrySignature, Fingerprint, Member, Name,
    NodeId, PublicKey, TokenId,
};
use xlreg_proto::entry;
use xlreg_proto::keys::{key_bits, verify_pss};
use xlreg_store::ApplyError;
use xlreg_store::engine::{Listing, Node};

use crate::config::Listed;
use crate::entrance::{Places, limited};
use crate::modern::{Peer, Shared};
use crate::notary::NotaryError;
use crate::watching;

/// Clusters in a page, unless the caller asks for fewer or more, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// How long a token lasts unless its owner says so, and at most.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
const TOKEN_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// An event for the operator if he is told of it, and else for who debugs: a macro, since the level must
/// be known where the event is.
macro_rules! told {
    ($told:expr, $($event:tt)+) => {
        if $told { info!($($event)+) } else { debug!($($event)+) }
    };
}

/// Calls whose refusals the operator is told of: who comes in, and as whom.
const TOLD: [&str; 3] = ["CreateCluster", "JoinCluster", "RotateKeys"];

/// The service; one for all connections.
#[derive(Clone)]
pub(crate) struct Api {
    shared: Arc<Shared>,
}

/// Who asks, and what the registry knows of it.
struct Caller {
    peer: Arc<Peer>,
    /// None where requests are not counted: in simulations.
    places: Option<Arc<Places>>,
    key: Fingerprint,
    node: Node,
    admin: bool,
}

impl Caller {
    fn actor(&self) -> Actor {
        Actor { sig_key: self.key, admin: self.admin }
    }

    fn who(&self, name: &str) -> Result<Who, Fault> {
        Ok(Who { sig_key: self.key, name: convert::optional_name("name", name)? })
    }

    /// What it may see of a cluster.
    fn sees(&self, cluster: &Cluster) -> Detail {
        Detail { members: true, keys: self.actor().commands(cluster) }
    }
}

impl Api {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Does what `call` asks, and answers it.
    async fn answer<'a, Q, A, F>(
        &'a self,
        call: &'static str,
        request: Request<Q>,
        method: impl FnOnce(&'a Self, Request<Q>) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Fault>>,
    {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let answer = method(self, request).await;
        if let (Err(fault), Some(peer)) = (&answer, peer) {
            self.tell(call, &peer, fault);
        }
        Ok(Response::new(answer?))
    }

    /// Tells the operator of a refusal, in words of ours alone: what the client has sent may be a
    /// secret, or anything.
    fn tell(&self, call: &'static str, peer: &Peer, fault: &Fault) {
        let (key, address, reason) = (peer.print(), peer.address, fault.name());
        let field = fault.metadata.get("field");
        let told = TOLD.contains(&call)
            && fault.code() != Code::Unavailable
            && self.shared.usage.failures_told.check(&peer.site).is_ok();
        told!(told, call, reason, field, %key, peer = %address, "refused");
    }

    /// Tells the operator what somebody has done with a cluster.
    fn log(&self, caller: &Caller, what: &str, cluster: &Cluster) {
        let Cluster { name, id, .. } = cluster;
        let (key, peer) = (caller.key, caller.peer.address);
        told!(self.is_told(caller), cluster = %name, %id, %key, %peer, "{what}");
    }

    /// Whether the operator is told of one more change from where somebody is.
    fn is_told(&self, caller: &Caller) -> bool {
        self.shared.usage.changes_told.check(&caller.peer.site).is_ok()
    }

    async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Fault> {
        // Every request comes in by the entrance, which knows whose it is.
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let peer = peer.ok_or_else(|| Fault::field("connection", "unknown"))?;
        let places = request.extensions().get::<Arc<Places>>().cloned();
        let key = peer.print();
        let node = self.in_time(self.shared.engine.node(&key)).await?;
        if node.retired {
            return Err(xlreg_core::Refusal::KeyRetired.into());
        }
        let admin = self.shared.access.admins.contains(&key);
        Ok(Caller { peer, places, key, node, admin })
    }

    async fn apply(&self, command: Command) -> Result<Outcome, Fault> {
        self.in_time(self.shared.engine.apply(command)).await
    }

    /// The same for commands after which a cluster may have to go with its owner. What follows from
    /// them is done also if the caller hangs up before it is answered; the request is under way for
    /// as long as that takes, or a store that is slow would have more and more of them to do.
    async fn apply_and_tether(&self, by: &Caller, command: Command) -> Result<Outcome, Fault> {
        let Shared { engine, presence, around, .. } = &*self.shared;
        let (engine, presence) = (Arc::clone(engine), presence.clone());
        let (by, places) = (by.key, by.places.clone());
        let (told, applied) = oneshot::channel();
        around.spawn(async move {
            let applied = engine.apply(command).await;
            if let Ok(outcome) = &applied {
                presence.note(by, outcome);
            }
            drop(places);
            // Whoever asked may have hung up.
            let _told = told.send(applied);
        });
        // Only a runtime that comes to its end drops a task.
        self.in_time(async { applied.await.unwrap_or(Err(ApplyError::Closed)) }).await
    }

    async fn find(&self, key: &ClusterKey) -> Result<Arc<Cluster>, Fault> {
        self.in_time(self.shared.engine.find(key)).await
    }

    /// What the engine answers, if it does so in time. What it does goes on in any case.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, ApplyError>>,
    ) -> Result<T, Fault> {
        let late = || {
            let message = "the registry's store has not answered; ask again later";
            Fault::new(v2::ErrorReason::StoreFailed, message)
        };
        match timeout(self.shared.bounds.request, answer).await {
            Ok(answered) => answered.map_err(fault),
            Err(_) => Err(late()),
        }
    }

    /// The cluster that a command is about. If it has changed, the operator is told `what` was done.
    async fn change(
        &self,
        caller: &Caller,
        what: &str,
        command: Command,
    ) -> Result<Arc<Cluster>, Fault> {
        match self.apply(command).await? {
            Outcome::Changed(cluster) | Outcome::Ended(cluster) => {
                self.log(caller, what, &cluster);
                Ok(cluster)
            }
            Outcome::Unchanged(cluster) => Ok(cluster),
            _ => Err(unexpected()),
        }
    }

    fn registry_print(&self) -> Fingerprint {
        self.shared.identity.entry.sig_key.fingerprint()
    }

    /// Counts a registration, or what takes as much room for ever.
    fn check_registrations(&self, caller: &Caller) -> Result<(), Fault> {
        let checked = self.shared.usage.registration_rates.check(&caller.peer.site);
        checked.map_err(|wait| limited("registrations", wait))
    }

    /// Checks that whoever holds `comms` agrees to be known by `sig`.
    fn check_comms(
        &self,
        sig: &Fingerprint,
        comms: &PublicKey,
        signature: &[u8],
    ) -> Result<(), Fault> {
        let statement = proof::comms_statement(&self.registry_print(), sig, &comms.fingerprint());
        check("comms_proof", comms, &statement, signature)
    }

    /// Checks a member's signature over its entry.
    fn check_entry(&self, cluster: &Cluster, member: &Member) -> Result<(), Fault> {
        let checked = entry::verify(&self.registry_print(), &cluster.id, member);
        checked.map_err(|_| Fault::bad_proof(ENTRY_SIGNATURE))
    }

    async fn do_register(
        &self,
        request: Request<v2::RegisterRequest>,
    ) -> Result<v2::RegisterResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let claimed: Option<NodeId> = convert::optional_bytes("id", &request.id)?;
        // One that is bound to an ID of the caller's was looked at when it was bound.
        let bound = caller.node.comms_keys.values().find(|key| key.der() == request.comms_key);
        let comms = match bound {
            Some(key) => key.clone(),
            None => modern_key("comms_key", &request.comms_key)?,
        };
        let known = |id: &NodeId| caller.node.comms_keys.get(id) == Some(&comms);
        let id = match claimed.or(caller.node.ids.last().copied()) {
            // It has been proven before, so it need not be again.
            Some(id) if known(&id) => id,
            _ => {
                let new = claimed.is_none_or(|id| !caller.node.ids.contains(&id));
                if new {
                    self.check_registrations(&caller)?;
                }
                self.check_comms(&caller.key, &comms, &request.comms_proof)?;
                let command = Command::Register {
                    claimed,
                    fresh: NodeId::from_bytes(self.shared.around.random()),
                    sig_key: caller.key,
                    comms_key: Some(comms.clone()),
                };
                let Outcome::Registered(id) = self.apply(command).await? else {
                    return Err(unexpected());
                };
                if new {
                    debug!(%id, key = %caller.key, peer = %caller.peer.address, "registered");
                }
                id
            }
        };
        let node = convert::to_node(id, &caller.key, Some(&comms));
        Ok(v2::RegisterResponse { node: Some(node) })
    }

    async fn do_node(
        &self,
        request: Request<v2::GetNodeRequest>,
    ) -> Result<v2::GetNodeResponse, Fault> {
        self.caller(&request).await?;
        let key: Fingerprint = convert::bytes("sig_key_sha256", &request.get_ref().sig_key_sha256)?;
        let node = self.in_time(self.shared.engine.node(&key)).await?;
        let ids = node.ids.iter().filter(|_| !node.retired);
        let told = |id: &NodeId| convert::to_node(*id, &key, node.comms_keys.get(id));
        Ok(v2::GetNodeResponse { nodes: ids.map(told).collect() })
    }

    async fn do_rotate(
        &self,
        request: Request<v2::RotateKeysRequest>,
    ) -> Result<v2::RotateKeysResponse, Fault> {
        let caller = self.caller(&request).await?;
        let first = *caller.node.ids.first().ok_or(xlreg_core::Refusal::NotRegistered)?;
        let request = request.into_inner();
        let given = |field, der: &[u8]| {
            if der.is_empty() { Ok(None) } else { modern_key(field, der).map(Some) }
        };
        let new_sig = given("new_sig_key", &request.new_sig_key)?;
        let new_comms = given("new_comms_key", &request.new_comms_key)?;
        if new_sig.is_none() && new_comms.is_none() {
            return Err(Fault::field("new_sig_key", "neither this nor new_comms_key is set"));
        }
        let sig = new_sig.as_ref().map_or(caller.key, PublicKey::fingerprint);
        let present = caller.node.ids.last().and_then(|id| caller.node.comms_keys.get(id));
        let comms = new_comms.as_ref().or(present).map(PublicKey::fingerprint);
        let registry = self.registry_print();
        let statement = proof::rotation_statement(&registry, &caller.key, &sig, comms.as_ref());
        check("old_signature", &caller.peer.key, &statement, &request.old_signature)?;
        if let Some(key) = &new_sig {
            check("new_signature", key, &statement, &request.new_signature)?;
        }
        if let Some(key) = &new_comms {
            self.check_comms(&sig, key, &request.comms_proof)?;
        }
        self.shared
            .usage
            .rotation_rates
            .check(&first)
            .map_err(|wait| limited("rotations", wait))?;
        self.check_registrations(&caller)?;
        let command = Command::Rotate { old: caller.key, sig_key: new_sig, comms_key: new_comms };
        let Outcome::Rotated { ids, sig_key } = self.apply_and_tether(&caller, command).await?
        else {
            return Err(unexpected());
        };
        let node = self.in_time(self.shared.engine.node(&sig_key)).await?;
        if sig_key != caller.key || node.comms_keys != caller.node.comms_keys {
            let (told, peer) = (self.is_told(&caller), caller.peer.address);
            told!(told, old = %caller.key, new = %sig_key, %peer, "keys rotated");
        }
        let told = |id: &NodeId| convert::to_node(*id, &sig_key, node.comms_keys.get(id));
        Ok(v2::RotateKeysResponse { nodes: ids.iter().map(told).collect() })
    }

    async fn do_create(
        &self,
        request: Request<v2::CreateClusterRequest>,
    ) -> Result<v2::CreateClusterResponse, Fault> {
        let caller = self.caller(&request).await?;
        if caller.node.ids.is_empty() {
            return Err(xlreg_core::Refusal::NotRegistered.into());
        }
        let new = convert::new_cluster(request.get_ref())?;
        let command = Command::Create {
            new,
            owner: caller.key,
            fresh: ClusterId::from_bytes(self.shared.around.random()),
            strict: true,
        };
        let Outcome::Created { cluster, new } = self.apply_and_tether(&caller, command).await?
        else {
            return Err(unexpected());
        };
        if new {
            self.log(&caller, "created", &cluster);
        }
        let told = convert::to_cluster(&cluster, caller.sees(&cluster));
        Ok(v2::CreateClusterResponse { cluster: Some(told), created: new })
    }

    async fn do_join(
        &self,
        request: Request<v2::JoinClusterRequest>,
    ) -> Result<v2::JoinClusterResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let key = convert::cluster_key(request.cluster.as_ref())?;
        let wanted: Option<NodeId> = convert::optional_bytes("node_id", &request.node_id)?;
        let known = |id: &NodeId| Some((*id, caller.node.comms_keys.get(id)?.clone()));
        let registered = match wanted {
            Some(id) => caller.node.ids.iter().find(|own| **own == id).and_then(known),
            None => caller.node.ids.iter().rev().find_map(known),
        };
        let (id, comms_key) = registered.ok_or(xlreg_core::Refusal::NotRegistered)?;
        let member = Arc::new(Member {
            id,
            name: convert::text("name", &request.name)?,
            attrs: request.attributes,
            comms_key,
            sig_key: caller.peer.key.clone(),
            endpoints: convert::endpoints(&request.endpoints)?,
            entry_signature: entry_signature(&request.entry_signature)?,
        });
        let cluster = match member.entry_signature {
            Some(_) => {
                let cluster = self.find(&key).await?;
                // Whoever comes back as it was has signed that before.
                let known = cluster.present().any(|(_, entry)| *entry == member);
                if !known {
                    self.check_entry(&cluster, &member)?;
                }
                // It is over the ID, and by its name there may be another soon.
                ClusterKey::Id(cluster.id)
            }
            None => key,
        };
        let admission = admission(&request.token)?;
        let command = Command::Join { cluster, member: Arc::clone(&member), admission };
        let Outcome::Joined { cluster, rank, changed } = self.apply(command).await? else {
            return Err(unexpected());
        };
        if changed {
            let (Member { id, name, .. }, peer) = (&*member, caller.peer.address);
            let told = self.is_told(&caller);
            told!(told, cluster = %cluster.name, rank, %name, %id, %peer, "joined");
        }
        let told = convert::to_cluster(&cluster, caller.sees(&cluster));
        let rank = u32::try_from(rank).unwrap_or(u32::MAX);
        Ok(v2::JoinClusterResponse { rank, cluster: Some(told) })
    }

    async fn do_move(
        &self,
        request: Request<v2::UpdateEndpointsRequest>,
    ) -> Result<v2::UpdateEndpointsResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let key = convert::cluster_key(request.cluster.as_ref())?;
        let endpoints = convert::endpoints(&request.endpoints)?;
        let signature = entry_signature(&request.entry_signature)?;
        let who = caller.who(&request.name)?;
        let (cluster, signed) = match signature {
            None => (key, None),
            Some(_) => {
                let cluster = self.find(&key).await?;
                let (_, entry) = cluster.entry_of(&who)?;
                let moved = Member {
                    endpoints: endpoints.clone(),
                    entry_signature: signature,
                    ..Member::clone(entry)
                };
                self.check_entry(&cluster, &moved)?;
                (ClusterKey::Id(cluster.id), Some(Arc::new(moved)))
            }
        };
        let command = Command::Move { cluster, who, endpoints, signed };
        let cluster = self.change(&caller, "moved", command).await?;
        Ok(v2::UpdateEndpointsResponse { revision: cluster.revision })
    }

    async fn do_sign(
        &self,
        request: Request<v2::GetSignedRosterRequest>,
    ) -> Result<v2::GetSignedRosterResponse, Fault> {
        self.caller(&request).await?;
        let key = convert::cluster_key(request.get_ref().cluster.as_ref())?;
        let cluster = self.find(&key).await?;
        let at_most = self.shared.bounds.request;
        let file =
            self.shared.notary.sign(&cluster, at_most).await.map_err(|error| match error {
                NotaryError::Busy => limited("rosters to sign", at_most),
                NotaryError::Key(_) | NotaryError::Broke => {
                    error!(%error, cluster = %cluster.name, "a roster could not be signed");
                    unexpected()
                }
            })?;
        Ok(v2::GetSignedRosterResponse { file: file.as_bytes().to_vec() })
    }

    async fn do_list(
        &self,
        request: Request<v2::ListClustersRequest>,
    ) -> Result<v2::ListClustersResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let max = match request.page_size as usize {
            0 => PAGE,
            asked @ 1..=PAGE_MAX => asked,
            asked => {
                let problem = format!("{asked}; at most {PAGE_MAX}");
                return Err(Fault::field("page_size", problem));
            }
        };
        let after: Option<Name> = convert::optional_name("page_token", &request.page_token)?;
        let own = request.mine || (self.shared.access.listing == Listed::Own && !caller.admin);
        // One more tells whether there is another page.
        let listing = Listing { of: own.then_some(caller.key), after, max: max + 1 };
        let mut clusters = self.in_time(self.shared.engine.list(&listing)).await?;
        let more = clusters.len() > max;
        clusters.truncate(max);
        let last = clusters.last().filter(|_| more);
        let next_page_token = last.map_or_else(String::new, |last| last.name.to_string());
        // With 256 keys for each of a thousand clusters, no client would take the answer.
        let brief = Detail { members: false, keys: false };
        let clusters = clusters.iter().map(|cluster| convert::to_cluster(cluster, brief)).collect();
        Ok(v2::ListClustersResponse { clusters, next_page_token })
    }

    async fn do_watch(
        &self,
        request: Request<v2::WatchClusterRequest>,
    ) -> Result<watching::News, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let key = convert::cluster_key(request.cluster.as_ref())?;
        let cluster = self.find(&key).await?;
        let max = self.shared.bounds.watches_per_key_max;
        let place = self
            .shared
            .usage
            .watches
            .take(caller.key, max)
            .ok_or(xlreg_core::Refusal::Quota { what: "clusters that it watches", max })?;
        // There is no bound on these but the connection's on streams.
        let following = caller.peer.following.take((), usize::MAX);
        let Some(receiver) = self.shared.engine.watch(&cluster.id) else {
            return Err(xlreg_core::Refusal::unknown(&key).into());
        };
        let watch = watching::Watch {
            shared: Arc::clone(&self.shared),
            cut: caller.peer.cut.clone(),
            actor: caller.actor(),
            // Another cluster may have the name by now, with revisions of its own.
            after: request.after_revision.filter(|_| matches!(key, ClusterKey::Id(_))),
            receiver,
            _places: (place, following),
        };
        Ok(watch.start())
    }

    async fn do_issue(
        &self,
        request: Request<v2::CreateTokenRequest>,
    ) -> Result<v2::CreateTokenResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let ttl = convert::duration("ttl", request.ttl.as_ref())?.unwrap_or(TOKEN_TTL);
        if !(Duration::from_secs(1)..=TOKEN_TTL_MAX).contains(&ttl) {
            return Err(Fault::field("ttl", "from one second to 366 days"));
        }
        if request.max_uses > xlreg_core::limits::TOKEN_USES_MAX {
            return Err(Fault::field("max_uses", "at most 1000"));
        }
        let label = Label::new(&request.label).ok_or_else(|| {
            let problem = format!("at most {LABEL_BYTES_MAX} bytes, without control characters");
            Fault::field("label", problem)
        })?;
        let around = &self.shared.around;
        let secret = TokenSecret::from_random(around.random(), around.random());
        let token = NewToken {
            id: TokenId::from_bytes(secret.id()),
            digest: TokenDigest::from_bytes(secret.digest()),
            label,
            ttl,
            uses: request.max_uses,
        };
        let cluster = convert::cluster_key(request.cluster.as_ref())?;
        let command = Command::IssueToken { cluster, by: caller.actor(), token };
        let Outcome::Issued { token, .. } = self.apply(command).await? else {
            return Err(unexpected());
        };
        told!(self.is_told(&caller), token = %token.id, key = %caller.key, "token issued");
        let secret = secret.as_str().to_owned();
        Ok(v2::CreateTokenResponse { token: Some(convert::to_token(&token)), secret })
    }

    async fn do_tokens(
        &self,
        request: Request<v2::ListTokensRequest>,
    ) -> Result<v2::ListTokensResponse, Fault> {
        let caller = self.caller(&request).await?;
        let key = convert::cluster_key(request.get_ref().cluster.as_ref())?;
        let cluster = self.find(&key).await?;
        if !caller.actor().commands(&cluster) {
            return Err(xlreg_core::Refusal::NotOwner.into());
        }
        let tokens = cluster.tokens.iter().map(|token| convert::to_token(token)).collect();
        Ok(v2::ListTokensResponse { tokens })
    }

    async fn do_describe(
        &self,
        request: Request<v2::GetRegistryRequest>,
    ) -> Result<v2::GetRegistryResponse, Fault> {
        self.caller(&request).await?;
        let Shared { identity, tls, legacy, engine, .. } = &*self.shared;
        let entry = &identity.entry;
        Ok(v2::GetRegistryResponse {
            id: entry.id.as_bytes().to_vec(),
            name: entry.name.to_string(),
            version: identity.version.to_string(),
            sig_key: entry.sig_key.der().to_vec(),
            comms_key: entry.comms_key.der().to_vec(),
            endpoints: entry.endpoints.iter().map(ToString::to_string).collect(),
            root_certificate: tls.root().der().to_vec(),
            legacy_wire: *legacy,
            time: Some(convert::to_timestamp(engine.clock().now())),
        })
    }

    async fn do_get(
        &self,
        request: Request<v2::GetClusterRequest>,
    ) -> Result<v2::GetClusterResponse, Fault> {
        let caller = self.caller(&request).await?;
        let key = convert::cluster_key(request.get_ref().cluster.as_ref())?;
        let cluster = self.find(&key).await?;
        let told = convert::to_cluster(&cluster, caller.sees(&cluster));
        Ok(v2::GetClusterResponse { cluster: Some(told) })
    }

    async fn do_leave(
        &self,
        request: Request<v2::LeaveRequest>,
    ) -> Result<v2::LeaveResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let cluster = convert::cluster_key(request.cluster.as_ref())?;
        let command = Command::Leave { cluster, who: caller.who(&request.name)? };
        let cluster = self.change(&caller, "left", command).await?;
        Ok(v2::LeaveResponse { revision: cluster.revision })
    }

    async fn do_expel(
        &self,
        request: Request<v2::ExpelMemberRequest>,
    ) -> Result<v2::ExpelMemberResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.get_ref();
        let cluster = convert::cluster_key(request.cluster.as_ref())?;
        let member = convert::bytes("member_id", &request.member_id)?;
        let command = Command::Expel { cluster, by: caller.actor(), member };
        let cluster = self.change(&caller, "member expelled", command).await?;
        Ok(v2::ExpelMemberResponse { revision: cluster.revision })
    }

    async fn do_delete(
        &self,
        request: Request<v2::DeleteClusterRequest>,
    ) -> Result<v2::DeleteClusterResponse, Fault> {
        let caller = self.caller(&request).await?;
        let cluster = convert::cluster_key(request.get_ref().cluster.as_ref())?;
        let command = Command::Delete { cluster, by: caller.actor() };
        self.change(&caller, "deleted", command).await?;
        Ok(v2::DeleteClusterResponse {})
    }

    async fn do_revoke(
        &self,
        request: Request<v2::RevokeTokenRequest>,
    ) -> Result<v2::RevokeTokenResponse, Fault> {
        let caller = self.caller(&request).await?;
        let request = request.get_ref();
        let cluster = convert::cluster_key(request.cluster.as_ref())?;
        let token = TokenId::parse(&request.token_id)
            .ok_or_else(|| Fault::field("token_id", "8 lower-case hex digits"))?;
        let command = Command::RevokeToken { cluster, by: caller.actor(), token };
        self.change(&caller, "token revoked", command).await?;
        Ok(v2::RevokeTokenResponse {})
    }
}

/// What the .proto file says of each call is done by the methods of [`Api`]; here their faults
/// become statuses.
#[tonic::async_trait]
impl Registry for Api {
    type WatchClusterStream =
        Pin<Box<dyn Stream<Item = Result<v2::WatchClusterResponse, Status>> + Send>>;

    async fn get_registry(
        &self,
        request: Request<v2::GetRegistryRequest>,
    ) -> Result<Response<v2::GetRegistryResponse>, Status> {
        self.answer("GetRegistry", request, Self::do_describe).await
    }

    async fn register(
        &self,
        request: Request<v2::RegisterRequest>,
    ) -> Result<Response<v2::RegisterResponse>, Status> {
        self.answer("Register", request, Self::do_register).await
    }

    async fn get_node(
        &self,
        request: Request<v2::GetNodeRequest>,
    ) -> Result<Response<v2::GetNodeResponse>, Status> {
        self.answer("GetNode", request, Self::do_node).await
    }

    async fn rotate_keys(
        &self,
        request: Request<v2::RotateKeysRequest>,
    ) -> Result<Response<v2::RotateKeysResponse>, Status> {
        self.answer("RotateKeys", request, Self::do_rotate).await
    }

    async fn create_cluster(
        &self,
        request: Request<v2::CreateClusterRequest>,
    ) -> Result<Response<v2::CreateClusterResponse>, Status> {
        self.answer("CreateCluster", request, Self::do_create).await
    }

    async fn join_cluster(
        &self,
        request: Request<v2::JoinClusterRequest>,
    ) -> Result<Response<v2::JoinClusterResponse>, Status> {
        self.answer("JoinCluster", request, Self::do_join).await
    }

    async fn get_cluster(
        &self,
        request: Request<v2::GetClusterRequest>,
    ) -> Result<Response<v2::GetClusterResponse>, Status> {
        self.answer("GetCluster", request, Self::do_get).await
    }

    async fn get_signed_roster(
        &self,
        request: Request<v2::GetSignedRosterRequest>,
    ) -> Result<Response<v2::GetSignedRosterResponse>, Status> {
        self.answer("GetSignedRoster", request, Self::do_sign).await
    }

    async fn list_clusters(
        &self,
        request: Request<v2::ListClustersRequest>,
    ) -> Result<Response<v2::ListClustersResponse>, Status> {
        self.answer("ListClusters", request, Self::do_list).await
    }

    async fn watch_cluster(
        &self,
        request: Request<v2::WatchClusterRequest>,
    ) -> Result<Response<Self::WatchClusterStream>, Status> {
        let watch = self.answer("WatchCluster", request, Self::do_watch).await?;
        Ok(watch.map(|news| Box::pin(news) as Self::WatchClusterStream))
    }

    async fn update_endpoints(
        &self,
        request: Request<v2::UpdateEndpointsRequest>,
    ) -> Result<Response<v2::UpdateEndpointsResponse>, Status> {
        self.answer("UpdateEndpoints", request, Self::do_move).await
    }

    async fn leave(
        &self,
        request: Request<v2::LeaveRequest>,
    ) -> Result<Response<v2::LeaveResponse>, Status> {
        self.answer("Leave", request, Self::do_leave).await
    }

    async fn expel_member(
        &self,
        request: Request<v2::ExpelMemberRequest>,
    ) -> Result<Response<v2::ExpelMemberResponse>, Status> {
        self.answer("ExpelMember", request, Self::do_expel).await
    }

    async fn delete_cluster(
        &self,
        request: Request<v2::DeleteClusterRequest>,
    ) -> Result<Response<v2::DeleteClusterResponse>, Status> {
        self.answer("DeleteCluster", request, Self::do_delete).await
    }

    async fn create_token(
        &self,
        request: Request<v2::CreateTokenRequest>,
    ) -> Result<Response<v2::CreateTokenResponse>, Status> {
        self.answer("CreateToken", request, Self::do_issue).await
    }

    async fn list_tokens(
        &self,
        request: Request<v2::ListTokensRequest>,
    ) -> Result<Response<v2::ListTokensResponse>, Status> {
        self.answer("ListTokens", request, Self::do_tokens).await
    }

    async fn revoke_token(
        &self,
        request: Request<v2::RevokeTokenRequest>,
    ) -> Result<Response<v2::RevokeTokenResponse>, Status> {
        self.answer("RevokeToken", request, Self::do_revoke).await
    }
}

/// What a member brings to be let in. Text that is no secret at all says more about whoever typed it
/// than that it is no token of this cluster's.
fn admission(token: &str) -> Result<Admission, Fault> {
    if token.is_empty() {
        return Ok(Admission::Key);
    }
    let secret = TokenSecret::parse(token).map_err(|error| Fault::field("token", error))?;
    let (id, digest) = (TokenId::from_bytes(secret.id()), secret.digest());
    Ok(Admission::Token(TokenProof { id, digest: TokenDigest::from_bytes(digest) }))
}

fn entry_signature(given: &[u8]) -> Result<Option<EntrySignature>, Fault> {
    convert::entry_signature(ENTRY_SIGNATURE, given)
}

/// A key that can sign for this door: the old wire takes smaller ones.
fn modern_key(field: &str, der: &[u8]) -> Result<PublicKey, Fault> {
    let key = convert::key(field, der)?;
    let (bits, min) = (key_bits(&key), xlreg_proto::keys::PSS_KEY_BITS_MIN);
    if bits < min {
        return Err(Fault::field(field, format!("an RSA key of {bits} bits; at least {min}")));
    }
    Ok(key)
}

fn check(field: &str, key: &PublicKey, statement: &[u8], signature: &[u8]) -> Result<(), Fault> {
    verify_pss(key, &[statement], signature).map_err(|_| Fault::bad_proof(field))
}

fn fault(error: ApplyError) -> Fault {
    match error {
        ApplyError::Refused(refusal) => refusal.into(),
        ApplyError::Closed => Fault::new(v2::ErrorReason::ShuttingDown, error.to_string()),
        ApplyError::Failed(_) => Fault::new(v2::ErrorReason::StoreFailed, error.to_string()),
    }
}

/// `decide()` answers in kind, so nobody gets to see this.
fn unexpected() -> Fault {
    error!("an outcome of another kind; this is a bug, please report it");
    Fault::new(v2::ErrorReason::Unspecified, "the registry has a bug; its log says more")
}
