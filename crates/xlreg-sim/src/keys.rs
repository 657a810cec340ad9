//! Keys that are the same in every run, and what they have signed.
//!
//! They are for nothing but simulations: their private halves are public.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use xlreg_api::proof::comms_statement;
use xlreg_core::{Endpoint, Member, Name, NodeId, PublicKey, Version};
use xlreg_proto::keys::{KeyError, PrivateKey};
use xlreg_proto::message::Claim;
use xlreg_proto::session::Identity;
use xlreg_tls::ServerTls;

/// Nodes that there are keys for.
pub(crate) const NODES: usize = 6;

const DER: [&[u8]; 2 * (NODES + 1)] = [
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
];

/// A node's two keys, and that they belong together.
pub(crate) struct Node {
    sig: PrivateKey,
    pub(crate) sig_key: PublicKey,
    pub(crate) comms_key: PublicKey,
    pub(crate) comms_proof: Vec<u8>,
}

/// What all runs of this process share.
pub(crate) struct Keys {
    pub(crate) registry: Arc<Identity>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) nodes: Vec<Node>,
    claims: Mutex<BTreeMap<(usize, u16), Claim>>,
}

impl Keys {
    /// Loads the keys, and signs what can be signed beforehand, once a process.
    pub(crate) fn get() -> Result<&'static Self, String> {
        static KEYS: OnceLock<Result<Keys, String>> = OnceLock::new();
        KEYS.get_or_init(Self::make).as_ref().map_err(Clone::clone)
    }

    fn make() -> Result<Self, String> {
        let key = |der: &&[u8]| PrivateKey::from_pkcs1(der).map_err(text);
        let keys: Vec<_> = DER.iter().map(key).collect::<Result<_, _>>()?;
        let mut pairs = Vec::new();
        let mut keys = keys.into_iter();
        while let (Some(sig), Some(comms)) = (keys.next(), keys.next()) {
            pairs.push((sig, comms));
        }
        let mut pairs = pairs.into_iter();
        let (sig, comms) = pairs.next().ok_or("there are no keys")?;
        let print = sig.public().fingerprint();
        let entry = Arc::new(Member {
            id: NodeId::from_bytes([0xEE; 20]),
            name: name("registry")?,
            attrs: 0,
            comms_key: comms.public().clone(),
            sig_key: sig.public().clone(),
            endpoints: vec![endpoint(1)?],
        });
        let tls = ServerTls::new(Arc::new(sig), entry.id, Vec::new(), SystemTime::now());
        let node = |(sig, comms): (PrivateKey, PrivateKey)| {
            let (sig_key, comms_key) = (sig.public().clone(), comms.public().clone());
            let statement =
                comms_statement(&print, &sig_key.fingerprint(), &comms_key.fingerprint());
            let comms_proof = comms.sign_pss(&[&statement]).map_err(text)?;
            Ok::<_, String>(Node { sig, sig_key, comms_key, comms_proof })
        };
        Ok(Self {
            registry: Arc::new(Identity { version: Version::CURRENT, entry }),
            tls: Arc::new(tls.map_err(|error| error.to_string())?),
            nodes: pairs.map(node).collect::<Result<_, _>>()?,
            claims: Mutex::default(),
        })
    }

    pub(crate) fn node(&self, number: usize) -> Result<&Node, String> {
        self.nodes.get(number).ok_or_else(|| format!("there are no keys for node {number}"))
    }

    /// What a node says of itself over the old wire. A signature is made once, whatever run asks.
    pub(crate) fn claim(&self, number: usize, port: u16) -> Result<Claim, String> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = claims.get(&(number, port)) {
            return Ok(known.clone());
        }
        let node = self.node(number)?;
        let (own, ends) = (name(&format!("node{number}"))?, vec![endpoint(port)?]);
        let claim = Claim::sign(None, own, 0, node.comms_key.clone(), &node.sig, ends);
        let claim = claim.map_err(text)?;
        claims.insert((number, port), claim.clone());
        Ok(claim)
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
