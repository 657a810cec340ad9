//! Requests and replies: what the messages of the wire mean, in the registry's own types.
//!
//! Decoding happens once, here; past this line nothing is half-checked. Encoding writes what
//! deployed peers write, field for field. Source: docs/protocol.md, sections 3 and 4.

use std::sync::Arc;

use prost::Message as _;
use thiserror::Error;
use xlreg_core::limits::MEMBER_ENDPOINTS_MAX;
use xlreg_core::name::NameError;
use xlreg_core::{
    Cluster, ClusterId, ClusterKey, Endpoint, Fingerprint, Member, Name, NodeId, PublicKey,
    Refusal, Version,
};

use crate::keys::{self, BadSignature, KeyError, PrivateKey};
use crate::wire::{Tag, Token, XlRegMsg};

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who are you?
    Credentials,
    /// This is who I am.
    Member(Claim),
    /// Define a cluster.
    Create {
        /// Its name.
        name: Name,
        /// `CLUSTER_ATTR_*` bits.
        attrs: u64,
        /// How many members, before clamping.
        size: u32,
        /// Endpoints each must bring, before clamping.
        endpoint_count: u32,
    },
    /// Let me into a cluster; without a key, into this session's.
    Join {
        /// Which cluster.
        cluster: Option<ClusterKey>,
    },
    /// Who is in a cluster? Without a key, in this session's.
    GetCluster {
        /// Which cluster.
        cluster: Option<ClusterKey>,
        /// Whom of it, bit n for rank n; without it, all.
        which: Option<u64>,
    },
    /// That is all.
    Bye,
}

/// What a registry may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Who the registry is.
    Credentials {
        /// Its version.
        version: Version,
        /// Its own entry.
        registry: Entry,
    },
    /// You are known.
    MemberOk {
        /// By this ID.
        id: NodeId,
        /// With these attributes.
        attrs: u64,
    },
    /// The cluster exists.
    Created(ClusterInfo),
    /// You are in it.
    Joined(ClusterInfo),
    /// These are in it, of those you asked for.
    Members {
        /// Which cluster.
        cluster: ClusterId,
        /// Whose entries follow, bit n for rank n.
        which: u64,
        /// The entries, lowest rank first.
        entries: Vec<Entry>,
        /// What the originals leave out and their clients skip.
        about: Option<About>,
    },
    /// Farewell.
    Ack,
    /// No, and why; the connection closes after it.
    Error(String),
}

/// What Create and Join answer about a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its ID.
    pub id: ClusterId,
    /// How many members it is for.
    pub size: u32,
    /// `CLUSTER_ATTR_*` bits.
    pub attrs: u64,
    /// Endpoints each member must bring.
    pub endpoint_count: u32,
}

/// What our ClusterMembers says of the cluster beyond what the originals' does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub name: Name,
    /// How many members it is for.
    pub size: u32,
    /// `CLUSTER_ATTR_*` bits.
    pub attrs: u64,
    /// Endpoints each member must bring.
    pub endpoint_count: u32,
}

/// A node as a registry shows it: a [`Token`] with an ID, without a signature.
pub type Entry = Arc<Member>;

/// A node as it presents itself: signed, not yet proven.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a claim is worth nothing before it is proven"]
pub struct Claim {
    id: Option<NodeId>,
    name: Name,
    attrs: u64,
    comms_key: PublicKey,
    sig_key: PublicKey,
    endpoints: Vec<Endpoint>,
    signature: Vec<u8>,
}

/// A node that has proven to hold its sig key. Whether it may have the ID is the rules' business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    claim: Claim,
}

/// A message that is no request, or no reply, and why.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    /// There is no operation of this number.
    #[error("message tag out of range")]
    Tag {
        /// The number, or none if the field was missing.
        got: Option<i32>,
    },
    /// A message that the other side sends, or that nobody should.
    #[error("unexpected message type")]
    Direction {
        /// What it is.
        got: Tag,
    },
    /// Neither a cluster's name nor its ID.
    #[error("missing cluster name or ID")]
    NoCluster,
    /// A field is missing.
    #[error("missing field {field}")]
    Missing {
        /// The wire's name for it.
        field: &'static str,
    },
    /// A field is not what it should be.
    #[error("badly formed {field}")]
    Malformed {
        /// The wire's name for it.
        field: &'static str,
    },
    /// A name that is none.
    #[error("badly formed {field}: {source}")]
    Name {
        /// The wire's name for it.
        field: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
    /// A key that is none, or that nobody should use.
    #[error("unacceptable {field}: {source}")]
    Key {
        /// The wire's name for it.
        field: &'static str,
        /// What is wrong with it.
        source: KeyError,
    },
    /// More endpoints than anybody needs.
    #[error("too many endPoints: {got}, at most {MEMBER_ENDPOINTS_MAX} are kept")]
    Endpoints {
        /// How many there were.
        got: usize,
    },
    /// Bits in Which and entries do not match.
    #[error("Which names {named} members, but {got} Tokens follow")]
    Count {
        /// Bits set.
        named: u32,
        /// Entries there were.
        got: usize,
    },
}

impl Request {
    /// The wire's name of this kind of request.
    #[must_use]
    pub fn tag(&self) -> Tag {
        match self {
            Self::Credentials => Tag::RegCredRequest,
            Self::Member(_) => Tag::Member,
            Self::Create { .. } => Tag::Create,
            Self::Join { .. } => Tag::Join,
            Self::GetCluster { .. } => Tag::GetCluster,
            Self::Bye => Tag::Bye,
        }
    }

    /// The message that asks this.
    #[must_use]
    pub fn encode(&self) -> XlRegMsg {
        let mut msg = message(self.tag());
        match self {
            Self::Credentials | Self::Bye => {}
            Self::Member(claim) => msg.member_specs = Some(claim.encode()),
            Self::Create { name, attrs, size, endpoint_count } => {
                msg.cluster_name = Some(name.to_string());
                msg.cluster_max_size = Some(*size);
                msg.cluster_attrs = Some(*attrs);
                msg.end_point_count = Some(*endpoint_count);
            }
            Self::Join { cluster } => set_cluster(&mut msg, cluster.as_ref()),
            Self::GetCluster { cluster, which } => {
                set_cluster(&mut msg, cluster.as_ref());
                msg.which = *which;
            }
        }
        msg
    }

    /// What a message asks.
    ///
    /// # Errors
    /// [`MessageError`] if it is no request, or one with a field that is missing or malformed.
    pub fn decode(msg: XlRegMsg) -> Result<Self, MessageError> {
        Ok(match tag(&msg)? {
            Tag::RegCredRequest => Self::Credentials,
            Tag::Member => {
                let token = msg.member_specs.ok_or(missing("MemberSpecs"))?;
                Self::Member(Claim::decode(token)?)
            }
            Tag::Create => Self::Create {
                name: name("ClusterName", msg.cluster_name)?,
                attrs: msg.cluster_attrs.unwrap_or(0),
                size: msg.cluster_max_size.unwrap_or(0),
                endpoint_count: msg.end_point_count.unwrap_or(0),
            },
            Tag::Join => Self::Join { cluster: cluster_key(&msg)? },
            Tag::GetCluster => Self::GetCluster { cluster: cluster_key(&msg)?, which: msg.which },
            Tag::Bye => Self::Bye,
            got => return Err(MessageError::Direction { got }),
        })
    }
}

impl Reply {
    /// The wire's name of this kind of reply.
    #[must_use]
    pub fn tag(&self) -> Tag {
        match self {
            Self::Credentials { .. } => Tag::RegCredReply,
            Self::MemberOk { .. } => Tag::MemberOk,
            Self::Created(_) => Tag::CreateReply,
            Self::Joined(_) => Tag::JoinReply,
            Self::Members { .. } => Tag::ClusterMembers,
            Self::Ack => Tag::Ack,
            Self::Error(_) => Tag::Error,
        }
    }

    /// The message that answers this.
    #[must_use]
    pub fn encode(&self) -> XlRegMsg {
        let mut msg = message(self.tag());
        match self {
            Self::Ack => {}
            Self::Error(text) => msg.err_desc = Some(text.clone()),
            Self::Credentials { version, registry } => {
                msg.version = Some(u32::from_le_bytes(version.to_bytes()));
                msg.member_specs = Some(entry_token(registry));
            }
            Self::MemberOk { id, attrs } => {
                msg.member_id = Some(id.as_bytes().to_vec());
                msg.member_attrs = Some(*attrs);
            }
            Self::Created(info) | Self::Joined(info) => {
                msg.cluster_id = Some(info.id.as_bytes().to_vec());
                msg.cluster_max_size = Some(info.size);
                msg.cluster_attrs = Some(info.attrs);
                msg.end_point_count = Some(info.endpoint_count);
            }
            Self::Members { cluster, which, entries, about } => {
                msg.cluster_id = Some(cluster.as_bytes().to_vec());
                msg.which = Some(*which);
                msg.tokens = entries.iter().map(|entry| entry_token(entry)).collect();
                if let Some(about) = about {
                    msg.cluster_name = Some(about.name.to_string());
                    msg.cluster_max_size = Some(about.size);
                    msg.cluster_attrs = Some(about.attrs);
                    msg.end_point_count = Some(about.endpoint_count);
                }
            }
        }
        msg
    }

    /// What a message answers.
    ///
    /// # Errors
    /// [`MessageError`] if it is no reply, or one with a field that is missing or malformed.
    pub fn decode(msg: XlRegMsg) -> Result<Self, MessageError> {
        Ok(match tag(&msg)? {
            Tag::Ack => Self::Ack,
            Tag::Error => Self::Error(msg.err_desc.unwrap_or_default()),
            Tag::RegCredReply => Self::Credentials {
                version: Version::from_bytes(msg.version.ok_or(missing("Version"))?.to_le_bytes()),
                registry: entry(msg.member_specs.ok_or(missing("MemberSpecs"))?)?,
            },
            Tag::MemberOk => Self::MemberOk {
                id: id("MemberID", msg.member_id.as_deref())?,
                attrs: msg.member_attrs.unwrap_or(0),
            },
            Tag::CreateReply => Self::Created(cluster_info(&msg)?),
            Tag::JoinReply => Self::Joined(cluster_info(&msg)?),
            Tag::ClusterMembers => members(msg)?,
            got => return Err(MessageError::Direction { got }),
        })
    }

    /// Of `cluster`, the members named in `which`, lowest rank first, as many as `room` allows; a
    /// client asks for the rest again.
    #[must_use]
    pub fn members(cluster: &Cluster, which: u64, room: Room) -> Self {
        let about = About {
            name: cluster.name.clone(),
            size: cluster.size,
            attrs: cluster.attrs,
            endpoint_count: cluster.endpoint_count,
        };
        let empty = Self::Members {
            cluster: cluster.id,
            which: u64::MAX,
            entries: Vec::new(),
            about: Some(about.clone()),
        };
        let mut bytes = empty.encode().encoded_len();
        let mut entries = Vec::new();
        let mut sent = 0;
        for (rank, member) in cluster.present() {
            if which & (1 << rank) == 0 {
                continue;
            }
            // A token in a message: two bytes of tag, at most three of length, then itself.
            bytes += 5 + entry_token(member).encoded_len();
            if !room.allows(bytes, entries.len()) {
                break;
            }
            entries.push(Arc::clone(member));
            sent |= 1 << rank;
        }
        Self::Members { cluster: cluster.id, which: sent, entries, about: Some(about) }
    }
}

/// How much a ClusterMembers may hold. Sizes are bytes of plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What one segment of the path carries: a reply had better fit.
    pub segment: usize,
    /// What a peer can read at all.
    pub message: usize,
    /// Entries that must go along even if they do not fit one segment. At least one goes whatever
    /// its size, or a client would ask for ever.
    pub entries_min: usize,
}

impl Room {
    /// Whether one more entry may go along, with which there are `bytes`, after `entries` others.
    fn allows(&self, bytes: usize, entries: usize) -> bool {
        let wanted = bytes <= self.segment || entries < self.entries_min;
        entries == 0 || (wanted && bytes <= self.message)
    }
}

impl From<Refusal> for Reply {
    /// A refusal says the same to everybody: its own text is the wire's.
    fn from(refusal: Refusal) -> Self {
        Self::Error(refusal.to_string())
    }
}

impl From<&MessageError> for Reply {
    fn from(error: &MessageError) -> Self {
        Self::Error(error.to_string())
    }
}

impl Claim {
    /// Signs what a node says of itself.
    ///
    /// # Errors
    /// [`KeyError`] if the cryptographic library refuses to sign.
    pub fn sign(
        id: Option<NodeId>,
        name: Name,
        attrs: u64,
        comms_key: PublicKey,
        sig_key: &PrivateKey,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self, KeyError> {
        let public = sig_key.public().clone();
        let mut claim =
            Self { id, name, attrs, comms_key, sig_key: public, endpoints, signature: Vec::new() };
        claim.signature = claim.with_signed_parts(|parts| sig_key.sign(parts))?;
        Ok(claim)
    }

    /// Checks the signature: one RSA public operation.
    ///
    /// # Errors
    /// [`BadSignature`] if the sig key in the claim did not sign it.
    pub fn prove(self) -> Result<Proven, BadSignature> {
        self.with_signed_parts(|parts| keys::verify(&self.sig_key, parts, &self.signature))?;
        Ok(Proven { claim: self })
    }

    /// What is signed, in this order and without separators; the ID is not among it.
    fn with_signed_parts<T>(&self, use_parts: impl FnOnce(&[&[u8]]) -> T) -> T {
        let attrs = self.attrs.to_le_bytes();
        let mut parts: Vec<&[u8]> =
            vec![self.name.as_str().as_bytes(), &attrs, self.comms_key.der(), self.sig_key.der()];
        parts.extend(self.endpoints.iter().map(|endpoint| endpoint.as_str().as_bytes()));
        use_parts(&parts)
    }

    fn encode(&self) -> Token {
        Token {
            name: Some(self.name.to_string()),
            attrs: Some(self.attrs),
            id: self.id.map(|id| id.as_bytes().to_vec()),
            comms_key: Some(self.comms_key.der().to_vec()),
            sig_key: Some(self.sig_key.der().to_vec()),
            my_ends: self.endpoints.iter().map(ToString::to_string).collect(),
            dig_sig: Some(self.signature.clone()),
        }
    }

    fn decode(token: Token) -> Result<Self, MessageError> {
        Ok(Self {
            id: optional_id(token.id.as_deref())?,
            name: name("Name", token.name)?,
            attrs: token.attrs.unwrap_or(0),
            comms_key: key("CommsKey", token.comms_key.as_deref())?,
            sig_key: key("SigKey", token.sig_key.as_deref())?,
            endpoints: endpoints(&token.my_ends)?,
            signature: token.dig_sig.ok_or(missing("DigSig"))?,
        })
    }
}

impl Proven {
    /// The ID the node brought, if any.
    #[must_use]
    pub fn claimed_id(&self) -> Option<NodeId> {
        self.claim.id
    }

    /// The fingerprint of the key that it proved to hold.
    #[must_use]
    pub fn sig_key(&self) -> Fingerprint {
        self.claim.sig_key.fingerprint()
    }

    /// The node under the ID that the rules gave it.
    #[must_use]
    pub fn with_id(self, id: NodeId) -> Member {
        let Claim { name, attrs, comms_key, sig_key, endpoints, .. } = self.claim;
        Member { id, name, attrs, comms_key, sig_key, endpoints, entry_signature: None }
    }
}

impl ClusterInfo {
    /// What there is to say of `cluster`.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            id: cluster.id,
            size: cluster.size,
            attrs: cluster.attrs,
            endpoint_count: cluster.endpoint_count,
        }
    }
}

fn message(tag: Tag) -> XlRegMsg {
    XlRegMsg { op: Some(tag as i32), ..XlRegMsg::default() }
}

fn tag(msg: &XlRegMsg) -> Result<Tag, MessageError> {
    msg.op.and_then(|number| Tag::try_from(number).ok()).ok_or(MessageError::Tag { got: msg.op })
}

fn missing(field: &'static str) -> MessageError {
    MessageError::Missing { field }
}

fn name(field: &'static str, text: Option<String>) -> Result<Name, MessageError> {
    text.ok_or(missing(field))?.parse().map_err(|source| MessageError::Name { field, source })
}

fn id<'a, I: TryFrom<&'a [u8]>>(
    field: &'static str,
    bytes: Option<&'a [u8]>,
) -> Result<I, MessageError> {
    I::try_from(bytes.ok_or(missing(field))?).map_err(|_| MessageError::Malformed { field })
}

/// An absent ID and an empty one are the same to the originals.
fn optional_id<'a, I: TryFrom<&'a [u8]>>(
    bytes: Option<&'a [u8]>,
) -> Result<Option<I>, MessageError> {
    bytes.filter(|bytes| !bytes.is_empty()).map(|bytes| id("ID", Some(bytes))).transpose()
}

fn key(field: &'static str, der: Option<&[u8]>) -> Result<PublicKey, MessageError> {
    keys::public_key(der.ok_or(missing(field))?)
        .map_err(|source| MessageError::Key { field, source })
}

fn endpoints(texts: &[String]) -> Result<Vec<Endpoint>, MessageError> {
    if texts.len() > MEMBER_ENDPOINTS_MAX {
        return Err(MessageError::Endpoints { got: texts.len() });
    }
    let malformed = |_| MessageError::Malformed { field: "MyEnds" };
    texts.iter().map(|text| text.parse().map_err(malformed)).collect()
}

fn set_cluster(msg: &mut XlRegMsg, cluster: Option<&ClusterKey>) {
    match cluster {
        None => {}
        Some(ClusterKey::Id(id)) => msg.cluster_id = Some(id.as_bytes().to_vec()),
        Some(ClusterKey::Name(name)) => msg.cluster_name = Some(name.to_string()),
    }
}

/// The ID goes before the name, as with the originals; empty ones count as absent.
fn cluster_key(msg: &XlRegMsg) -> Result<Option<ClusterKey>, MessageError> {
    if let Some(id) = optional_id(msg.cluster_id.as_deref())? {
        return Ok(Some(ClusterKey::Id(id)));
    }
    let text = msg.cluster_name.clone().filter(|text| !text.is_empty());
    text.map(|text| name("ClusterName", Some(text)).map(ClusterKey::Name)).transpose()
}

fn cluster_info(msg: &XlRegMsg) -> Result<ClusterInfo, MessageError> {
    Ok(ClusterInfo {
        id: id("ClusterID", msg.cluster_id.as_deref())?,
        size: msg.cluster_max_size.ok_or(missing("ClusterMaxSize"))?,
        attrs: msg.cluster_attrs.unwrap_or(0),
        endpoint_count: msg.end_point_count.unwrap_or(1),
    })
}

fn members(msg: XlRegMsg) -> Result<Reply, MessageError> {
    let which = msg.which.unwrap_or(0);
    let about = match msg.cluster_name {
        // The originals never send it.
        None => None,
        Some(text) => Some(About {
            name: name("ClusterName", Some(text))?,
            size: msg.cluster_max_size.ok_or(missing("ClusterMaxSize"))?,
            attrs: msg.cluster_attrs.unwrap_or(0),
            endpoint_count: msg.end_point_count.unwrap_or(1),
        }),
    };
    if which.count_ones() as usize != msg.tokens.len() {
        return Err(MessageError::Count { named: which.count_ones(), got: msg.tokens.len() });
    }
    Ok(Reply::Members {
        cluster: id("ClusterID", msg.cluster_id.as_deref())?,
        which,
        entries: msg.tokens.into_iter().map(entry).collect::<Result<_, _>>()?,
        about,
    })
}

fn entry(token: Token) -> Result<Entry, MessageError> {
    Ok(Arc::new(Member {
        id: id("ID", token.id.as_deref())?,
        name: name("Name", token.name)?,
        attrs: token.attrs.unwrap_or(0),
        comms_key: key("CommsKey", token.comms_key.as_deref())?,
        sig_key: key("SigKey", token.sig_key.as_deref())?,
        endpoints: endpoints(&token.my_ends)?,
        entry_signature: None,
    }))
}

fn entry_token(member: &Member) -> Token {
    Token {
        name: Some(member.name.to_string()),
        attrs: Some(member.attrs),
        id: Some(member.id.as_bytes().to_vec()),
        comms_key: Some(member.comms_key.der().to_vec()),
        sig_key: Some(member.sig_key.der().to_vec()),
        my_ends: member.endpoints.iter().map(ToString::to_string).collect(),
        dig_sig: None,
    }
}
