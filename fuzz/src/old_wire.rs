//! The old wire: hello, reply, where a message ends, messages, and a server's session.

use std::sync::{Arc, OnceLock};

use prost::Message as _;
use xlreg_core::cluster::NewCluster;
use xlreg_core::registry::{Registry, View as _, decide};
use xlreg_core::{ClusterId, Command, Fingerprint, NodeId, Outcome, Refusal, Time, Version};
use xlreg_proto::channel::{Channel, Dialect, MESSAGE_BYTES_MAX, Opener};
use xlreg_proto::hello::{ClientHello, Hello, Secrets};
use xlreg_proto::keys::{PrivateKey, SealingKey};
use xlreg_proto::message::{Claim, Reply, Request};
use xlreg_proto::session::{Identity, Session, Step};
use xlreg_proto::wire::{Tag, Token, XlRegMsg};

use crate::known;
use crate::parts::Parts;

/// The session keys of all inputs.
const KEY: [u8; 32] = [9; 32];
const IV: [u8; 16] = [3; 16];
const SALT: [u8; 8] = [5; 8];

/// Bytes that the server takes with one read, and as many of a message may be there beyond the most
/// that it may have.
const READ_BYTES: usize = 2 * 1024;

/// Bytes of a message that is too long, however it is read.
const TOO_MANY_BYTES: usize = MESSAGE_BYTES_MAX + READ_BYTES;

/// The registry's comms key.
fn key() -> &'static PrivateKey {
    let [_, key] = known::servers();
    key
}

fn sealing() -> &'static SealingKey {
    static SEALING: OnceLock<SealingKey> = OnceLock::new();
    SEALING.get_or_init(|| SealingKey::new(key().public()).expect("a key of 2048 bits"))
}

pub(crate) fn dialect(byte: u8) -> Dialect {
    if byte & 1 == 0 { Dialect::V1_8 } else { Dialect::V1_9 }
}

/// A client that says hello, and what it says: one block.
pub(crate) fn greeting(dialect: Dialect) -> (ClientHello, Vec<u8>) {
    ClientHello::new(dialect, key().public(), Version::CURRENT, secrets()).expect("sealed")
}

fn secrets() -> Secrets {
    Secrets::from_parts(IV, KEY, SALT)
}

/// A hello: a block as it is, or one that says what the input says, since a random one never opens.
/// Whoever said one that opens understands the answer. One RSA private operation.
pub fn hello(input: &[u8]) {
    let mut parts = Parts::new(input);
    let as_it_is = parts.byte() & 3 == 0;
    let said = parts.rest();
    let packet = if as_it_is { Ok(said.to_vec()) } else { sealing().seal(said) };
    let Ok(packet) = packet else { return };
    let Ok(hello) = Hello::open(key(), &packet) else { return };
    let (dialect, version) = (hello.dialect(), hello.version());
    let (reply, mut server) = hello.accept(Version::CURRENT, &secrets());
    if as_it_is {
        return;
    }
    let iv = if dialect == Dialect::V1_8 { said.first_chunk() } else { None };
    let mut said = Parts::new(said.get(iv.map_or(0, |iv| iv.len())..).unwrap_or_default());
    let key1 = std::array::from_fn(|_| said.byte());
    let salt1 = std::array::from_fn(|_| said.byte());
    let secrets = Secrets::from_parts(iv.copied().unwrap_or_default(), key1, salt1);
    let (client, _) = ClientHello::new(dialect, key().public(), version, secrets).expect("sealed");
    let (mut client, told) = client.finish(&reply).expect("the reply opens");
    assert_eq!(told, Version::CURRENT);
    let bye = Request::Bye.encode();
    server.opener.push(&client.sealer.seal(&bye, || IV));
    assert_eq!(server.opener.next_message(), Ok(Some(bye)));
}

/// What a client takes for the answer to its hello: anything, or something under its key.
pub fn reply(input: &[u8]) {
    let mut parts = Parts::new(input);
    let how = parts.byte();
    let (dialect, body) = (dialect(how), parts.rest());
    let reply = match how & 6 {
        0 => body.to_vec(),
        _ => {
            let sealed = known::encrypted(&KEY, IV, known::padded(body));
            if dialect == Dialect::V1_8 { sealed } else { [&IV, sealed.as_slice()].concat() }
        }
    };
    let (client, _) = greeting(dialect);
    let expected = client.reply_bytes();
    if client.finish(&reply).is_ok() {
        assert_eq!(reply.len(), expected);
    }
}

/// A client's ciphertext, made of what the input wants it to say.
pub(crate) struct Wire {
    dialect: Dialect,
    key: [u8; 32],
    chain: [u8; 16],
    /// Bytes that may be said again and again: one long message is enough for an input.
    repeatable: usize,
}

impl Wire {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, key: KEY, chain: IV, repeatable: TOO_MANY_BYTES }
    }

    /// The same after the reply to a hello with our secrets.
    pub(crate) fn agreed(dialect: Dialect, reply: &[u8]) -> Self {
        let (iv, body) = match dialect {
            Dialect::V1_8 => (IV, reply),
            Dialect::V1_9 => {
                let (iv, body) = reply.split_first_chunk().expect("an IV");
                (*iv, body)
            }
        };
        let said = known::decrypted(&KEY, iv, body.to_vec());
        let mut said = Parts::new(&said);
        let iv2 = |said: &mut Parts<'_>| std::array::from_fn(|_| said.byte());
        let chain = if dialect == Dialect::V1_8 { iv2(&mut said) } else { IV };
        let key = std::array::from_fn(|_| said.byte());
        Self { dialect, chain, key, repeatable: TOO_MANY_BYTES }
    }

    /// The next piece: a message's plaintext, which is padded; blocks that are not; blocks over and
    /// over, for what is longer than an input; the ciphertext itself; or one of our own messages.
    pub(crate) fn piece(&mut self, parts: &mut Parts<'_>) -> Vec<u8> {
        match parts.byte() {
            0x00..=0x7F => self.seal(known::padded(parts.piece())),
            0x80..=0x8F => self.seal(whole_blocks(parts.piece()).to_vec()),
            0x90..=0x9F => {
                let times = usize::from(parts.byte());
                let mut blocks = whole_blocks(parts.piece()).repeat(times);
                blocks.truncate(self.repeatable);
                self.repeatable -= blocks.len();
                self.seal(blocks)
            }
            0xA0..=0xBF => parts.piece().to_vec(),
            number => {
                let claims = claims();
                let claim = claims.get(usize::from(number & 0x1F) % claims.len());
                self.seal(known::padded(claim.map_or(&[], Vec::as_slice)))
            }
        }
    }

    fn seal(&mut self, blocks: Vec<u8>) -> Vec<u8> {
        let sealed = known::encrypted(&self.key, self.chain, blocks);
        match self.dialect {
            Dialect::V1_8 => {
                self.chain = sealed.last_chunk().copied().unwrap_or(self.chain);
                sealed
            }
            Dialect::V1_9 => [IV.as_slice(), &sealed].concat(),
        }
    }
}

fn whole_blocks(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - bytes.len() % 16]
}

/// Signed claims, since no mutation can sign one: of two keys, with and without an ID, and one that
/// somebody signed for another.
fn claims() -> &'static [Vec<u8>] {
    static CLAIMS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    CLAIMS.get_or_init(|| {
        let node = known::node();
        let claim = |name: &str, id: Option<u8>, key: &PrivateKey, ends: &[&str]| {
            let id = id.map(|id| NodeId::from_bytes([id; 20]));
            let ends = ends.iter().map(|end| end.parse().expect("an endpoint")).collect();
            let comms = node.comms_key.public().clone();
            Claim::sign(id, name.parse().expect("a name"), 0, comms, key, ends).expect("signed")
        };
        let bytes = |claim| Request::Member(claim).encode().encode_to_vec();
        let mut forged = Request::Member(claim("f", None, &node.sig_key, &["h:1"])).encode();
        if let Some(token) = &mut forged.member_specs {
            token.sig_key = Some(node.comms_key.public().der().to_vec());
        }
        vec![
            bytes(claim("a", None, &node.sig_key, &["127.0.0.1:4000"])),
            bytes(claim("b", Some(1), &node.sig_key, &["127.0.0.1:4000", "h:2"])),
            bytes(claim("c", Some(1), &node.comms_key, &["[::1]:1"])),
            bytes(claim("d", Some(2), &node.comms_key, &[])),
            forged.encode_to_vec(),
        ]
    })
}

/// What one end hears, piece by piece, and whether it gave up in the end.
fn hear<'a>(mut opener: Opener, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<XlRegMsg>, bool) {
    let mut heard = Vec::new();
    for piece in pieces {
        opener.push(piece);
        loop {
            match opener.next_message() {
                Ok(Some(message)) => heard.push(message),
                Ok(None) => break,
                Err(_) => return (heard, true),
            }
        }
    }
    (heard, false)
}

/// Cuts bytes into pieces of as many as `sizes` say, over and over.
pub(crate) fn cut<'a>(mut bytes: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(READ_BYTES, |size| 1 + usize::from(*size));
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Where messages end: the same wherever the stream is cut into pieces.
pub fn opener(input: &[u8]) {
    let mut parts = Parts::new(input);
    let dialect = dialect(parts.byte());
    let sizes = parts.piece();
    let mut wire = Wire::new(dialect);
    let mut bytes = Vec::new();
    while !parts.is_empty() {
        bytes.extend(wire.piece(&mut parts));
    }
    let opener = || Channel::new(dialect, &KEY, IV).opener;
    let large = hear(opener(), cut(&bytes, &[]));
    let small = hear(opener(), cut(&bytes, sizes));
    assert_eq!(large, small);
}

/// A message: what is understood of it is understood again when we write it.
pub fn message(input: &[u8]) {
    let Ok(message) = XlRegMsg::decode(input) else { return };
    understand(message);
}

/// A token, in each of the messages that have one.
pub fn token(input: &[u8]) {
    let Ok(token) = Token::decode(input) else { return };
    let message = |tag: Tag| XlRegMsg { op: Some(tag as i32), ..XlRegMsg::default() };
    let cluster = Some(vec![7; 20]);
    let (specs, version) = (Some(token.clone()), Some(1));
    understand(XlRegMsg { member_specs: specs.clone(), ..message(Tag::Member) });
    understand(XlRegMsg { member_specs: specs, version, ..message(Tag::RegCredReply) });
    let (which, tokens) = (Some(2), vec![token]);
    understand(XlRegMsg { cluster_id: cluster, which, tokens, ..message(Tag::ClusterMembers) });
}

fn understand(message: XlRegMsg) {
    match Request::decode(message.clone()) {
        Ok(request) => {
            assert_eq!(Request::decode(request.encode()).as_ref(), Ok(&request));
            if let Request::Member(claim) = request {
                let _proven = claim.prove();
            }
        }
        Err(error) => drop(error.to_string()),
    }
    match Reply::decode(message) {
        Ok(reply) => assert_eq!(Reply::decode(reply.encode()), Ok(reply)),
        Err(error) => drop(error.to_string()),
    }
}

/// A session after its hello, against a registry of its own. The client understands each answer,
/// and each fits into a message.
pub fn session(input: &[u8]) {
    let mut parts = Parts::new(input);
    let dialect = dialect(parts.byte());
    let sizes = parts.piece();
    let (mut wire, mut server) = (Wire::new(dialect), Channel::new(dialect, &KEY, IV));
    let mut client = Channel::new(dialect, &KEY, IV).opener;
    let mut world = World::default();
    let mut session = Some(Session::new(identity()));
    while !parts.is_empty() {
        let piece = wire.piece(&mut parts);
        for piece in cut(&piece, sizes) {
            server.opener.push(piece);
            loop {
                let message = match server.opener.next_message() {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(_) => return,
                };
                let Some(open) = session else { return };
                let fresh = world.fresh();
                let step = open.receive(message, || fresh);
                let Some((left, reply)) = world.settle(step, &server) else { return };
                let sealed = server.sealer.seal(&reply.encode(), || IV);
                assert!(sealed.len() <= MESSAGE_BYTES_MAX, "{reply:?}");
                client.push(&sealed);
                let heard = client.next_message().expect("short enough").expect("whole");
                assert_eq!(Reply::decode(heard), Ok(reply));
                session = left;
            }
        }
    }
}

fn identity() -> Arc<Identity> {
    static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
    Arc::clone(IDENTITY.get_or_init(|| Arc::new(known::identity())))
}

/// A registry that is gone with the input. There is a cluster in it, `alpha`.
struct World {
    registry: Registry,
    drawn: u8,
}

impl Default for World {
    fn default() -> Self {
        let mut world = Self { registry: Registry::default(), drawn: 0 };
        let new = NewCluster::open("alpha".parse().expect("a name"), 2, 1);
        let owner = Fingerprint::from_bytes([1; 32]);
        let fresh = ClusterId::from_bytes([1; 20]);
        let _created = world.run(&Command::Create { new, owner, fresh, strict: false });
        world
    }
}

impl World {
    /// Bytes that are as good as random: they never come twice.
    fn fresh(&mut self) -> [u8; 20] {
        self.drawn = self.drawn.wrapping_add(1);
        [self.drawn; 20]
    }

    fn run(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let decision = decide(command, Time::default(), &self.registry)?;
        decision.changes.iter().for_each(|change| self.registry.apply(change));
        Ok(decision.outcome)
    }

    /// Carries out a step until there is a reply; none if the session ends in silence.
    fn settle(&mut self, step: Step, server: &Channel) -> Option<(Option<Session>, Reply)> {
        match step {
            Step::Reply(session, reply) => Some((Some(session), reply)),
            Step::End(reply, end) => {
                drop(end.to_string());
                Some((None, reply))
            }
            Step::Silence(end) => {
                drop(end.to_string());
                None
            }
            Step::Apply(applying, command) => {
                let result = self.run(&command);
                self.settle(applying.applied(result), server)
            }
            Step::Show(showing) => {
                let found = self.registry.find(showing.cluster());
                if let Ok(cluster) = &found {
                    let _held = !showing.is_ready(cluster);
                }
                let found = found.as_deref().map_err(|refusal| *refusal);
                let plain_len = |sealed| server.sealer.plain_len_max(sealed);
                let step = showing.shown(found, plain_len(1448), plain_len(MESSAGE_BYTES_MAX));
                self.settle(step, server)
            }
        }
    }
}
