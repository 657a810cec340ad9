//! Keys that are the same in every run, and what they have signed.
//!
//! They are for nothing but simulations: their private halves are public.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use xlreg_api::proof::{comms_statement, rotation_statement};
use xlreg_core::{ClusterId, Endpoint, Fingerprint, Member, Name, NodeId, PublicKey, Version};
use xlreg_proto::keys::{KeyError, PrivateKey};
use xlreg_proto::message::Claim;
use xlreg_proto::session::Identity;
use xlreg_tls::ServerTls;

/// Nodes that there are keys for.
pub(crate) const NODES: usize = 6;

/// The registry's sig and comms keys, those of each node, and the sig keys that nodes rotate to.
const DER: [&[u8]; 2 + 3 * NODES] = [
    include_bytes!("../keys/00.der"),
    include_bytes!("../keys/01.der"),
    include_bytes!("../keys/02.der"),
    include_bytes!("../keys/03.der"),
    include_bytes!("../keys/04.der"),
    include_bytes!("../keys/05.der"),
    include_bytes!("../keys/06.der"),
    include_bytes!("../keys/07.der"),
    include_bytes!("../keys/08.der"),
    include_bytes!("../keys/09.der"),
    include_bytes!("../keys/10.der"),
    include_bytes!("../keys/11.der"),
    include_bytes!("../keys/12.der"),
    include_bytes!("../keys/13.der"),
    include_bytes!("../keys/14.der"),
    include_bytes!("../keys/15.der"),
    include_bytes!("../keys/16.der"),
    include_bytes!("../keys/17.der"),
    include_bytes!("../keys/18.der"),
    include_bytes!("../keys/19.der"),
];

/// A node's two keys, and that they belong together.
pub(crate) struct Node {
    sig: Arc<PrivateKey>,
    pub(crate) sig_key: PublicKey,
    pub(crate) comms_key: PublicKey,
    pub(crate) comms_proof: Vec<u8>,
}

/// That a node's second sig key takes the place of its first, signed by both.
pub(crate) struct Rotation {
    pub(crate) by_old: Vec<u8>,
    pub(crate) by_new: Vec<u8>,
}

/// A node as it is before, or after, its rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    pub(crate) number: usize,
    pub(crate) rotated: bool,
}

/// What all runs of this process share.
pub(crate) struct Keys {
    pub(crate) registry_key: Arc<PrivateKey>,
    pub(crate) registry: Arc<Identity>,
    pub(crate) tls: Arc<ServerTls>,
    /// Each node before and after.
    nodes: Vec<[Node; 2]>,
    rotations: Vec<Rotation>,
    claims: Mutex<BTreeMap<(Who, u16), Claim>>,
}

/// The registry's sig and comms keys.
pub(crate) fn registry_pair() -> Result<(PrivateKey, PrivateKey), String> {
    Ok((load(0)?, load(1)?))
}

/// A node's.
pub(crate) fn node_pair(number: usize) -> Result<(PrivateKey, PrivateKey), String> {
    Ok((load(2 + 2 * number)?, load(3 + 2 * number)?))
}

fn load(place: usize) -> Result<PrivateKey, String> {
    let der = DER.get(place).ok_or("there are too few keys")?;
    PrivateKey::from_pkcs1(der).map_err(text)
}

impl Keys {
    /// Loads the keys, and signs what can be signed beforehand, once a process.
    pub(crate) fn get() -> Result<&'static Self, String> {
        static KEYS: OnceLock<Result<Keys, String>> = OnceLock::new();
        KEYS.get_or_init(Self::make).as_ref().map_err(Clone::clone)
    }

    fn make() -> Result<Self, String> {
        let key = |der: &&[u8]| PrivateKey::from_pkcs1(der).map_err(text);
        let mut keys =
            DER.iter().map(key).collect::<Result<Vec<_>, _>>()?.into_iter().map(Arc::new);
        let mut next = || keys.next().ok_or_else(|| "there are too few keys".to_owned());
        let (sig, comms) = (next()?, next()?);
        let entry = Arc::new(Member {
            id: NodeId::from_bytes([0xEE; 20]),
            name: name("registry")?,
            attrs: 0,
            comms_key: comms.public().clone(),
            sig_key: sig.public().clone(),
            endpoints: vec![endpoint(1)?],
            entry_signature: None,
        });
        let tls = ServerTls::new(Arc::clone(&sig), entry.id, Vec::new(), SystemTime::now());
        let print = entry.sig_key.fingerprint();
        let mut pairs = Vec::new();
        for _ in 0..NODES {
            pairs.push((next()?, next()?));
        }
        let (mut nodes, mut rotations) = (Vec::new(), Vec::new());
        for (old, comms) in pairs {
            let new = next()?;
            rotations.push(Rotation::sign(&print, &old, &new, &comms)?);
            nodes.push([Node::new(&print, old, &comms)?, Node::new(&print, new, &comms)?]);
        }
        Ok(Self {
            registry_key: sig,
            registry: Arc::new(Identity { version: Version::CURRENT, entry }),
            tls: Arc::new(tls.map_err(|error| error.to_string())?),
            nodes,
            rotations,
            claims: Mutex::default(),
        })
    }

    pub(crate) fn node(&self, who: Who) -> Result<&Node, String> {
        let node = self.nodes.get(who.number).and_then(|both| both.get(usize::from(who.rotated)));
        node.ok_or_else(|| format!("there are no keys for {who:?}"))
    }

    pub(crate) fn rotation(&self, number: usize) -> Result<&Rotation, String> {
        self.rotations.get(number).ok_or_else(|| format!("there are no keys for node {number}"))
    }

    /// What a node says of itself over the old wire. A signature is made once, whatever run asks.
    pub(crate) fn claim(&self, who: Who, port: u16) -> Result<Claim, String> {
        let claims = || self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = claims().get(&(who, port)) {
            return Ok(known.clone());
        }
        let node = self.node(who)?;
        let (own, ends) = (name(&format!("node{}", who.number))?, vec![endpoint(port)?]);
        let claim = Claim::sign(None, own, 0, node.comms_key.clone(), &node.sig, ends);
        let claim = claim.map_err(text)?;
        claims().insert((who, port), claim.clone());
        Ok(claim)
    }
}

impl Node {
    /// Signs its entry in a cluster.
    pub(crate) fn sign(
        &self,
        registry: &Identity,
        cluster: &ClusterId,
        entry: &Member,
    ) -> Result<Vec<u8>, String> {
        let registry = registry.entry.sig_key.fingerprint();
        let signature = xlreg_proto::entry::sign(&self.sig, &registry, cluster, entry);
        signature.map(|signature| signature.as_bytes().to_vec()).map_err(text)
    }

    fn new(
        registry: &Fingerprint,
        sig: Arc<PrivateKey>,
        comms: &PrivateKey,
    ) -> Result<Self, String> {
        let (sig_key, comms_key) = (sig.public().clone(), comms.public().clone());
        let statement = comms_statement(registry, &sig_key.fingerprint(), &comms_key.fingerprint());
        let comms_proof = comms.sign_pss(&[&statement]).map_err(text)?;
        Ok(Self { sig, sig_key, comms_key, comms_proof })
    }
}

impl Rotation {
    fn sign(
        registry: &Fingerprint,
        old: &PrivateKey,
        new: &PrivateKey,
        comms: &PrivateKey,
    ) -> Result<Self, String> {
        let [old_print, new_print, comms] = [old, new, comms].map(|key| key.public().fingerprint());
        let statement = rotation_statement(registry, &old_print, &new_print, Some(&comms));
        let sign = |key: &PrivateKey| key.sign_pss(&[&statement]).map_err(text);
        Ok(Self { by_old: sign(old)?, by_new: sign(new)? })
    }
}

fn text(error: KeyError) -> String {
    error.to_string()
}

pub(crate) fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

/// An endpoint that tells which command brought it: no two commands of a run bring the same.
pub(crate) fn endpoint(stamp: u16) -> Result<Endpoint, String> {
    format!("10.0.0.1:{stamp}").parse().map_err(|error| format!("{stamp}: {error}"))
}
