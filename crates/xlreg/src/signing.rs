//! Members' own signatures over their entries, and the rosters that registries sign.
//!
//! Whoever joins by the modern door signs its entry with it, and whoever moves signs it again; the
//! signatures are the same each time, so nothing changes by it when nothing has.
//!
//! Whoever gets a signed roster checks it with [`SignedRoster::parse`] and [`SignedRoster::verify`],
//! which ask nobody:
//!
//! ```no_run
//! use xlreg::signing::Expected;
//! use xlreg::{Registry, SignedRoster};
//!
//! # fn check() -> Result<(), Box<dyn std::error::Error>> {
//! let roster = SignedRoster::parse(&std::fs::read("alpha.signed")?)?;
//! let pinned = Registry::open("regCred.dat")?.credentials().sig_key.fingerprint();
//! let verdict = roster.verify(&Expected { registry: Some(pinned), ..Expected::default() });
//! for fault in &verdict.faults {
//!     eprintln!("{fault}");
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use tracing::{debug, warn};
use xlreg_api::{convert, v2};
use xlreg_core::registry::Who;
use xlreg_core::{Cluster, ClusterId, ClusterKey, Endpoint, EntrySignature, Member, NodeId};
pub use xlreg_proto::text::TextError;
pub use xlreg_proto::text::roster::{Expected, Finding, Ranked, SignedRoster, Verdict};

use crate::error::{Error, Problem, Reason};
use crate::following::get;
use crate::identity::Identity;
use crate::link::protocol;
use crate::lookup::absurd;
use crate::modern::{Client, Line};
use crate::registry::{Registry, malformed};

impl Registry {
    /// A cluster's roster as one file that anybody can check, signed by the registry and by the
    /// members; [`SignedRoster::to_text`] is the file. Nobody has to be a member for it.
    ///
    /// It is by this registry, and what is signed in it holds; whether all are there and have signed
    /// is for the caller to see. It may be a minute old, but is never older than the latest change.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such cluster, [`Error::Protocol`] if the file is not what it
    /// must be, [`Error::OldWire`], or one of the network's kinds.
    pub async fn signed_roster(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
    ) -> Result<SignedRoster, Error> {
        const NAME: &str = "GetSignedRoster";
        let request = v2::GetSignedRosterRequest { cluster: Some(convert::cluster_ref(cluster)) };
        let call = async |mut client: Client, request| client.get_signed_roster(request).await;
        let answer = self.once(identity, "signed rosters", NAME, call, request).await?;
        let roster = SignedRoster::parse(&answer.file)
            .map_err(|error| protocol(NAME, Problem::SignedRoster(error)))?;
        let is_meant = match cluster {
            ClusterKey::Id(id) => roster.cluster.id == *id,
            ClusterKey::Name(name) => roster.cluster.name == *name,
        };
        if !is_meant {
            return Err(absurd(NAME, "it is about another cluster"));
        }
        let registry = Some(self.credentials().sig_key.fingerprint());
        let expected = Expected { registry, incomplete: true, unsigned: true, age: None };
        match roster.verify(&expected).faults.into_iter().next() {
            Some(fault) => Err(protocol(NAME, Problem::Finding(fault))),
            None => Ok(roster),
        }
    }

    /// Signs the entries of `identity` in all clusters that it is a member of, where it has not yet:
    /// it may have joined over the old wire, or its keys may be new. Returns how many that were.
    ///
    /// Members that have left sign when they come back. Only entries with the comms key of
    /// `identity` are signed: a node with several IDs may have others.
    ///
    /// # Errors
    /// [`Error::OldWire`], or one of the network's kinds; then some may be signed and some not, and
    /// it can be called again.
    pub async fn sign_entries(&self, identity: &Identity) -> Result<usize, Error> {
        let mut signed = 0;
        let clusters = self.list(identity, true).await?;
        if clusters.is_empty() {
            return Ok(signed);
        }
        let line = self.line(identity).await?;
        for listed in clusters {
            match self.sign_entries_in(&line, identity, &listed.cluster.id).await {
                Ok(more) => signed += more,
                // It has ended meanwhile, or we have left it.
                Err(error) if error.is_unknown_cluster() => {}
                Err(error) if error.is_refusal(xlreg_core::Refusal::NotAMember) => {}
                Err(error) => return Err(error),
            }
        }
        line.close().await;
        Ok(signed)
    }

    async fn sign_entries_in(
        &self,
        line: &Line,
        identity: &Identity,
        cluster: &ClusterId,
    ) -> Result<usize, Error> {
        let known = get(line, &ClusterKey::Id(*cluster)).await?;
        let unsigned = known.present().filter(|(_, entry)| {
            entry.entry_signature.is_none()
                && entry.sig_key == *identity.sig_key()
                && entry.comms_key == *identity.comms_key()
        });
        let mut signed = 0;
        for (_, entry) in unsigned {
            self.announce(line, identity, &known.id, entry, &entry.endpoints).await?;
            signed += 1;
        }
        Ok(signed)
    }

    /// As [`Self::sign_entries`], for those who have done what they were asked to do already.
    pub(crate) async fn try_sign_entries(&self, identity: &Identity) {
        match self.sign_entries(identity).await {
            Ok(signed) => debug!(signed, "entries signed with the new keys"),
            Err(error) => warn!(
                %error,
                "entries in rosters stay unsigned until their members join again"
            ),
        }
    }

    /// Tells the cluster that our member is reached at `endpoints`, and signs that.
    pub(crate) async fn relocate(
        &self,
        line: &Line,
        identity: &Identity,
        cluster: &ClusterKey,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let known = get(line, cluster).await?;
        let entry = own_entry(&known, identity)?;
        self.announce(line, identity, &known.id, entry, endpoints).await
    }

    async fn announce(
        &self,
        line: &Line,
        identity: &Identity,
        cluster: &ClusterId,
        entry: &Member,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let entry = Member { endpoints: endpoints.to_vec(), ..entry.clone() };
        let signature = self.sign_entry(identity, cluster, &entry).await?;
        let request = v2::UpdateEndpointsRequest {
            cluster: Some(convert::cluster_ref(&ClusterKey::Id(*cluster))),
            name: entry.name.to_string(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            entry_signature: signature.as_bytes().to_vec(),
        };
        let call = async |mut client: Client, request| client.update_endpoints(request).await;
        line.ask("UpdateEndpoints", call, request).await?;
        Ok(())
    }

    /// Our entry in a cluster that we are about to join, signed.
    pub(crate) async fn signed_entry(
        &self,
        identity: &Identity,
        id: NodeId,
        cluster: &ClusterId,
        endpoints: &[Endpoint],
    ) -> Result<Member, Error> {
        let entry = Member {
            id,
            name: identity.name().clone(),
            attrs: 0,
            comms_key: identity.comms_key().clone(),
            sig_key: identity.sig_key().clone(),
            endpoints: endpoints.to_vec(),
            entry_signature: None,
        };
        let signature = self.sign_entry(identity, cluster, &entry).await?;
        Ok(Member { entry_signature: Some(signature), ..entry })
    }

    /// Signs an entry of ours: an RSA private operation, off the async threads.
    async fn sign_entry(
        &self,
        identity: &Identity,
        cluster: &ClusterId,
        entry: &Member,
    ) -> Result<EntrySignature, Error> {
        identity.sign_entry(self.credentials().sig_key.fingerprint(), *cluster, entry.clone()).await
    }
}

/// Our entry in a cluster, as the registry tells it. What it says of our keys must be so: we are about
/// to sign it.
fn own_entry<'a>(known: &'a Cluster, identity: &Identity) -> Result<&'a Arc<Member>, Error> {
    let (sig_key, name) = (identity.sig_key().fingerprint(), Some(identity.name().clone()));
    let found = known.entry_of(&Who { sig_key, name });
    let (_, entry) = found.map_err(|refusal| Error::Refused {
        request: "UpdateEndpoints",
        reason: Reason::Known(refusal),
    })?;
    if entry.comms_key != *identity.comms_key() {
        return Err(absurd("GetCluster", "it shows us with a comms key that is not ours"));
    }
    Ok(entry)
}

/// The ID of the cluster that is meant, asked for if need be.
pub(crate) async fn cluster_id(
    line: &Line,
    key: &ClusterKey,
    request: &'static str,
) -> Result<ClusterId, Error> {
    if let ClusterKey::Id(id) = key {
        return Ok(*id);
    }
    let call = async |mut client: Client, request| client.get_cluster(request).await;
    let asked = v2::GetClusterRequest { cluster: Some(convert::cluster_ref(key)) };
    let answer = line.ask(request, call, asked).await?;
    let told = answer.cluster.ok_or_else(|| absurd(request, "there is no cluster in it"))?;
    convert::bytes("cluster.id", &told.id).map_err(|fault| malformed(request, &fault))
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "clippy does not know a module for tests by such a condition"
    )]

    use xlreg_api::v2::ErrorReason;
    use xlreg_core::cluster::NewCluster;
    use xlreg_proto::entry;
    use xlreg_proto::keys::PrivateKey;

    use super::*;
    use crate::testing::TestRegistry;

    /// A member of `alpha`, on a line of its own, with the wrong signatures to try.
    struct Forger {
        registry: Registry,
        line: Line,
        cluster: ClusterId,
        /// Its entry as it would be, unsigned.
        entry: Member,
        sig: Arc<PrivateKey>,
    }

    impl Forger {
        async fn new(host: &TestRegistry) -> Self {
            let identity = Identity::generate("a".parse().unwrap()).await.unwrap();
            let registry = host.registry().clone();
            let new = NewCluster::open("alpha".parse().unwrap(), 2, 1);
            let cluster = registry.create(&identity, &new).await.unwrap().id;
            let line = registry.line(&identity).await.unwrap();
            let id = registry.register_on(&line, &identity).await.unwrap();
            let entry = Member {
                id,
                name: identity.name().clone(),
                attrs: 0,
                comms_key: identity.comms_key().clone(),
                sig_key: identity.sig_key().clone(),
                endpoints: vec!["127.0.0.1:1".parse().unwrap()],
                entry_signature: None,
            };
            let sig = Arc::clone(identity.sig_private());
            Self { registry, line, cluster, entry, sig }
        }

        fn sign(&self, entry: &Member) -> Vec<u8> {
            let registry = self.registry.credentials().sig_key.fingerprint();
            let signature = entry::sign(&self.sig, &registry, &self.cluster, entry).unwrap();
            signature.as_bytes().to_vec()
        }

        /// Signatures that are not this entry's, and why they are refused.
        fn wrong(&self) -> Vec<(Vec<u8>, ErrorReason)> {
            let right = self.sign(&self.entry);
            let registry = self.registry.credentials().sig_key.fingerprint();
            let statement = entry::statement(&registry, &self.cluster, &self.entry);
            let elsewhere = ClusterId::from_bytes([9; 20]);
            let mut damaged = right.clone();
            damaged[100] ^= 1;
            let other = |edit: &dyn Fn(&mut Member)| {
                let mut entry = self.entry.clone();
                edit(&mut entry);
                self.sign(&entry)
            };
            let signed_by = |key: &PrivateKey, cluster| {
                entry::sign(key, &registry, cluster, &self.entry).unwrap().as_bytes().to_vec()
            };
            let bad = [
                damaged,
                vec![0; 256],
                vec![0xFF; 512],
                self.sig.sign_pss(&[&statement]).unwrap(),
                self.sig.sign_pkcs1(&[b"xlreg.v2 member entry"]).unwrap(),
                signed_by(&PrivateKey::generate().unwrap(), &self.cluster),
                signed_by(&self.sig, &elsewhere),
                other(&|entry| entry.attrs = 1),
                other(&|entry| entry.name = "b".parse().unwrap()),
                other(&|entry| entry.endpoints.clear()),
                other(&|entry| entry.endpoints.push("127.0.0.1:1".parse().unwrap())),
                other(&|entry| entry.comms_key = entry.sig_key.clone()),
            ];
            let short = [vec![1], right[1..].to_vec(), [&right[..], &[0; 257]].concat()];
            let bad = bad.map(|signature| (signature, ErrorReason::BadProof));
            let short = short.map(|signature| (signature, ErrorReason::InvalidField));
            bad.into_iter().chain(short).collect()
        }

        async fn join(&self, entry_signature: Vec<u8>) -> Result<(), Error> {
            let request = v2::JoinClusterRequest {
                cluster: Some(convert::cluster_ref(&ClusterKey::Name("alpha".parse().unwrap()))),
                name: "a".to_owned(),
                endpoints: vec!["127.0.0.1:1".to_owned()],
                entry_signature,
                ..v2::JoinClusterRequest::default()
            };
            let call = async |mut client: Client, request| client.join_cluster(request).await;
            self.line.ask("JoinCluster", call, request).await.map(drop)
        }

        async fn relocate(&self, entry_signature: Vec<u8>) -> Result<(), Error> {
            let request = v2::UpdateEndpointsRequest {
                cluster: Some(convert::cluster_ref(&ClusterKey::Id(self.cluster))),
                name: "a".to_owned(),
                endpoints: vec!["127.0.0.1:1".to_owned()],
                entry_signature,
            };
            let call = async |mut client: Client, request| client.update_endpoints(request).await;
            self.line.ask("UpdateEndpoints", call, request).await.map(drop)
        }

        async fn known(&self) -> Cluster {
            get(&self.line, &ClusterKey::Id(self.cluster)).await.unwrap()
        }
    }

    #[track_caller]
    fn assert_refused(result: Result<(), Error>, expected: ErrorReason) {
        match result {
            Err(Error::Refused { reason: Reason::Fault(fault), .. }) => {
                assert_eq!(fault.reason, expected, "{fault}");
                assert_eq!(fault.metadata["field"], "entry_signature");
            }
            other => panic!("{other:?}, not {expected:?}"),
        }
    }

    /// And nothing has changed by it.
    #[tokio::test]
    async fn a_signature_that_is_not_this_entrys_is_refused_when_joining() {
        let host = TestRegistry::start().await.unwrap();
        let forger = Forger::new(&host).await;
        for (signature, reason) in forger.wrong() {
            assert_refused(forger.join(signature).await, reason);
        }
        assert_eq!(forger.known().await.revision, 0);
        forger.join(forger.sign(&forger.entry)).await.unwrap();
        forger.join(Vec::new()).await.unwrap();
        assert_eq!(forger.known().await.revision, 1);
    }

    #[tokio::test]
    async fn a_signature_that_is_not_this_entrys_is_refused_when_moving() {
        let host = TestRegistry::start().await.unwrap();
        let forger = Forger::new(&host).await;
        let right = forger.sign(&forger.entry);
        let stranger = forger.relocate(right.clone()).await.unwrap_err();
        assert!(stranger.is_refusal(xlreg_core::Refusal::NotAMember), "{stranger}");
        forger.join(Vec::new()).await.unwrap();
        for (signature, reason) in forger.wrong() {
            assert_refused(forger.relocate(signature).await, reason);
        }
        assert_eq!(forger.known().await.revision, 1);
        forger.relocate(right.clone()).await.unwrap();
        forger.relocate(Vec::new()).await.unwrap();
        let known = forger.known().await;
        assert_eq!(known.revision, 2);
        let (_, member) = known.member(&forger.entry.id).unwrap();
        assert_eq!(member.entry_signature.as_ref().unwrap().as_bytes(), right);
    }
}
