//! A cluster's roster as one file, signed by its registry and, entry by entry, by its members.
//!
//! ```text
//! xlreg-roster 1
//! registry {
//!     id: 53f0c7...
//!     name: xlReg
//!     sigKey: ssh-rsa AAAA...
//! }
//! cluster {
//!     id: 8e4398...
//!     name: alpha
//!     size: 3
//!     endpointCount: 1
//!     attrs: 0x0000000000000000
//!     revision: 2
//!     complete: no
//! }
//! signed: 2026-11-24T19:23:53Z
//! members {
//!     member {
//!         rank: 0
//!         state: present
//!         id: 043f47...
//!         name: a
//!         attrs: 0x0000000000000000
//!         sigKey: ssh-rsa AAAA...
//!         commsKey: ssh-rsa AAAA...
//!         endpoints {
//!             endpoint: 10.0.0.7:4001
//!         }
//!         entrySignature: mF8k...
//!     }
//! }
//! signature: Qx2t...
//! ```
//!
//! The registry's signature is over every byte before the last line, so there is exactly one text for
//! each content: ASCII, LF after each line, four spaces for each brace, lower-case hex, base64 with its
//! padding. Reading takes that text and no other.
//!
//! That a text can be read says nothing of whether it is true: [`verify`] does.
//!
//! Source: docs/roster.md.

use std::time::SystemTime;

use data_encoding::BASE64;
use xlreg_core::limits::{
    CLUSTER_ENDPOINTS_MAX, CLUSTER_SIZE_MAX, CLUSTER_SIZE_MIN, MEMBER_ENDPOINTS_MAX,
    SIGNATURE_BYTES_MAX, SIGNATURE_BYTES_MIN,
};
use xlreg_core::{Cluster, ClusterId, EntrySignature, Member, Name, NodeId, PublicKey, Seat, Time};

use super::block::{FILE_BYTES_MAX, Reader, Writer};
use super::error::{TextError, ValueError};
use super::{member, pem, sshkey};
use crate::keys::{KeyError, PrivateKey};

pub mod verify;

pub use verify::{Expected, Finding, Verdict};

const WHAT: &str = "signed roster";

/// The first line: the format and its version.
const OPENING: &str = "xlreg-roster 1";

/// What stands for the signature of a member that has made none.
const UNSIGNED: &str = "none";

/// The last second that the text of a time has room for, in milliseconds: 9999-12-31 23:59:59.
const TIME_MAX: Time = Time::from_millis(253_402_300_799_000);

/// A roster as its registry signed it. What it says is worth nothing before [`SignedRoster::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a signed roster is worth nothing before it is verified"]
pub struct SignedRoster {
    /// The registry that signed it.
    pub registry: Issuer,
    /// The cluster.
    pub cluster: About,
    /// When it was signed, to the second. A registry may hand out what it signed a minute ago.
    pub signed: Time,
    /// Whoever holds a rank, there or not, as the file has them: at most [`CLUSTER_SIZE_MAX`].
    pub members: Vec<Ranked>,
    /// The registry's signature over all of this: RSASSA-PKCS1-v1_5 with SHA-256.
    pub signature: Vec<u8>,
}

/// A registry as it names itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its own ID.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// The key that it signs with.
    pub sig_key: PublicKey,
}

/// A cluster, without its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The ID that the registry issued.
    pub id: ClusterId,
    /// Its name.
    pub name: Name,
    /// How many members it is for: [`CLUSTER_SIZE_MIN`] to [`CLUSTER_SIZE_MAX`].
    pub size: u32,
    /// Endpoints it asks of each member: 1 to [`CLUSTER_ENDPOINTS_MAX`].
    pub endpoint_count: u32,
    /// `CLUSTER_ATTR_*` bits.
    pub attrs: u64,
    /// Rises by one with each change of the roster.
    pub revision: u64,
}

/// A member and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The rank: below [`CLUSTER_SIZE_MAX`].
    pub rank: u32,
    /// Whether it has left, and its rank is kept for it.
    pub left: bool,
    /// The entry, with the member's own signature if it made one.
    pub member: Member,
}

impl SignedRoster {
    /// Signs the roster of `cluster` at the time `now`, as the registry `registry` with its sig key
    /// `key`. One RSA private operation: never call it on an async thread.
    ///
    /// # Errors
    /// [`KeyError::Impossible`] if the cryptographic library refuses.
    pub fn sign(
        registry: &Member,
        key: &PrivateKey,
        cluster: &Cluster,
        now: Time,
    ) -> Result<Self, KeyError> {
        let mut roster = Self::unsigned(registry, cluster, now);
        roster.signature = key.sign_pkcs1(&[roster.signed_text().as_bytes()])?;
        Ok(roster)
    }

    fn unsigned(registry: &Member, cluster: &Cluster, now: Time) -> Self {
        let ranked = |(rank, seat): (u32, &Seat)| {
            let member = Member::clone(seat.holder()?);
            Some(Ranked { rank, left: seat.present().is_none(), member })
        };
        Self {
            registry: Issuer {
                id: registry.id,
                name: registry.name.clone(),
                sig_key: registry.sig_key.clone(),
            },
            cluster: About {
                id: cluster.id,
                name: cluster.name.clone(),
                size: cluster.size,
                endpoint_count: cluster.endpoint_count,
                attrs: cluster.attrs,
                revision: cluster.revision,
            },
            signed: whole_second(now),
            members: (0..).zip(&cluster.seats).filter_map(ranked).collect(),
            signature: Vec::new(),
        }
    }

    /// Reads a signed roster: the bytes of [`Self::to_text`], and no others.
    ///
    /// # Errors
    /// [`TextError`] with the first line that is not as it must be.
    pub fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        let (got, max) = (bytes.len(), FILE_BYTES_MAX);
        if got > max {
            return Err(TextError::TooLarge { what: WHAT, got, max });
        }
        let text = str::from_utf8(bytes).map_err(|error| not_text(bytes, error.valid_up_to()))?;
        let mut reader = Reader::new(WHAT, text)?;
        let roster = Self::read(&mut reader)?;
        reader.end()?;
        // The reader cares for content. What it lets pass beside that shows in its own text.
        match difference(&roster.to_text(), text) {
            None => Ok(roster),
            Some(error) => Err(error),
        }
    }

    /// The file, signature and all.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}signature: {}\n", self.signed_text(), BASE64.encode(&self.signature))
    }

    /// What the registry signs: every line but the last.
    #[must_use]
    pub fn signed_text(&self) -> String {
        let mut writer = Writer::new("\n");
        self.write(&mut writer);
        std::mem::take(&mut *writer.finish())
    }

    /// How many members are there, without those that have left.
    #[must_use]
    pub fn present(&self) -> usize {
        self.members.iter().filter(|member| !member.left).count()
    }

    /// Whether as many are there as the cluster is for.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.present() >= self.cluster.size as usize
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.exactly(OPENING)?;
        let registry = Issuer::read(r)?;
        let cluster = About::read(r)?;
        let signed = r.parsed("signed", parse_time)?;
        let members = r.block("members", 0..=CLUSTER_SIZE_MAX as usize, Ranked::read)?;
        let signature = r.parsed("signature", parse_signature)?;
        Ok(Self { registry, cluster, signed, members, signature })
    }

    fn write(&self, w: &mut Writer) {
        w.push(OPENING);
        w.push("\n");
        self.registry.write(w);
        self.cluster.write(w, self.is_complete());
        w.value("signed", time_text(self.signed));
        w.block("members", &self.members, |w, member| member.write(w));
    }
}

impl Issuer {
    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("registry")?;
        let id = r.value("id")?;
        let name = r.value("name")?;
        let sig_key = r.parsed("sigKey", sshkey::decode)?;
        r.close()?;
        Ok(Self { id, name, sig_key })
    }

    fn write(&self, w: &mut Writer) {
        w.open("registry");
        w.value("id", self.id);
        w.value("name", &self.name);
        w.value("sigKey", sshkey::encode(&self.sig_key));
        w.close();
    }
}

impl About {
    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("cluster")?;
        let about = Self {
            id: r.value("id")?,
            name: r.value("name")?,
            size: r.number("size", CLUSTER_SIZE_MIN..=CLUSTER_SIZE_MAX)?,
            endpoint_count: r.number("endpointCount", 1..=CLUSTER_ENDPOINTS_MAX)?,
            attrs: r.parsed("attrs", member::parse_attrs)?,
            revision: r.number("revision", 0..=u64::MAX)?,
        };
        // Whichever it is: if the members say otherwise, it is not our text.
        one_of(r, "complete", ["yes", "no"])?;
        r.close()?;
        Ok(about)
    }

    fn write(&self, w: &mut Writer, complete: bool) {
        w.open("cluster");
        w.value("id", self.id);
        w.value("name", &self.name);
        w.value("size", self.size);
        w.value("endpointCount", self.endpoint_count);
        member::write_attrs(w, self.attrs);
        w.value("revision", self.revision);
        w.value("complete", if complete { "yes" } else { "no" });
        w.close();
    }
}

impl Ranked {
    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("member")?;
        let rank = r.number("rank", 0..=CLUSTER_SIZE_MAX - 1)?;
        let left = one_of(r, "state", ["present", "left"])? == "left";
        let member = Member {
            id: r.value("id")?,
            name: r.value("name")?,
            attrs: r.parsed("attrs", member::parse_attrs)?,
            sig_key: r.parsed("sigKey", sshkey::decode)?,
            comms_key: r.parsed("commsKey", sshkey::decode)?,
            endpoints: r.block("endpoints", 1..=MEMBER_ENDPOINTS_MAX, |r| r.value("endpoint"))?,
            entry_signature: r.parsed("entrySignature", parse_entry_signature)?,
        };
        r.close()?;
        Ok(Self { rank, left, member })
    }

    fn write(&self, w: &mut Writer) {
        let Member { id, name, attrs, comms_key, sig_key, endpoints, entry_signature } =
            &self.member;
        w.open("member");
        w.value("rank", self.rank);
        w.value("state", if self.left { "left" } else { "present" });
        w.value("id", id);
        w.value("name", name);
        member::write_attrs(w, *attrs);
        w.value("sigKey", sshkey::encode(sig_key));
        w.value("commsKey", sshkey::encode(comms_key));
        w.block("endpoints", endpoints, |w, endpoint| w.value("endpoint", endpoint));
        match entry_signature {
            Some(signature) => w.value("entrySignature", BASE64.encode(signature.as_bytes())),
            None => w.value("entrySignature", UNSIGNED),
        }
        w.close();
    }
}

/// `key: word`, for one of two words.
fn one_of<'a>(
    r: &mut Reader<'a>,
    key: &'static str,
    words: [&'static str; 2],
) -> Result<&'a str, TextError> {
    let [one, other] = words;
    r.expect(
        || format!("`{key}: {one}` or `{key}: {other}`"),
        |line| line.strip_prefix(key)?.strip_prefix(": ").filter(|word| words.contains(word)),
    )
}

fn whole_second(time: Time) -> Time {
    let millis = time.min(TIME_MAX).as_millis();
    Time::from_millis(millis - millis % 1000)
}

fn time_text(time: Time) -> String {
    humantime::format_rfc3339_seconds(SystemTime::from(whole_second(time))).to_string()
}

fn parse_time(text: &str) -> Result<Time, ValueError> {
    humantime::parse_rfc3339(text).map(Time::from).map_err(|_| ValueError::Time)
}

fn parse_signature(text: &str) -> Result<Vec<u8>, ValueError> {
    let bytes = pem::decode_base64(text)?.to_vec();
    match bytes.len() {
        SIGNATURE_BYTES_MIN..=SIGNATURE_BYTES_MAX => Ok(bytes),
        got => Err(ValueError::Signature { got }),
    }
}

fn parse_entry_signature(text: &str) -> Result<Option<EntrySignature>, ValueError> {
    if text == UNSIGNED {
        return Ok(None);
    }
    Ok(EntrySignature::new(&parse_signature(text)?))
}

/// That the byte at `place` is part of no text.
fn not_text(bytes: &[u8], place: usize) -> TextError {
    let (before, rest) = bytes.split_at_checked(place).unwrap_or((bytes, &[]));
    TextError::Unexpected {
        what: WHAT,
        line: line_after(before),
        expected: "text".to_owned(),
        found: rest.first().map_or_else(String::new, |byte| format!("a byte 0x{byte:02x}")),
    }
}

/// The line, from 1, that comes after so much of a text.
fn line_after(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Where `text` is not the one that has its content, if it is not.
fn difference(expected: &str, text: &str) -> Option<TextError> {
    if expected == text {
        return None;
    }
    let same = expected.bytes().zip(text.bytes()).take_while(|(one, other)| one == other).count();
    let same = (0..=same).rfind(|at| text.is_char_boundary(*at))?;
    let (before, found) = text.split_at_checked(same)?;
    let wanted = expected.get(same..)?;
    let column = 1 + before.len() - before.rfind('\n').map_or(0, |end| end + 1);
    Some(TextError::Unexpected {
        what: WHAT,
        line: line_after(before.as_bytes()),
        expected: format!("{} at column {column}", snippet(wanted)),
        found: snippet(found),
    })
}

/// The beginning of a text up to its next line end, with that, as an error may show it.
fn snippet(text: &str) -> String {
    const CHARS_MAX: usize = 24;
    if text.is_empty() {
        return "the end of the text".to_owned();
    }
    let line = text.split_inclusive('\n').next().unwrap_or(text);
    let short: String = line.chars().take(CHARS_MAX).collect();
    let cut = if short.len() < line.len() { "..." } else { "" };
    format!("`{}`{cut}", short.escape_debug())
}
