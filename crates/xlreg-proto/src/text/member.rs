//! `.xlattice/cluster.member.config`: a member's node, its cluster and the roster.

use data_encoding::HEXLOWER_PERMISSIVE;
use xlreg_core::limits::{CLUSTER_SIZE_MAX, MEMBER_ENDPOINTS_MAX};
use xlreg_core::{Endpoint, Member, Name};
use zeroize::Zeroizing;

use super::block::{Reader, Writer};
use super::error::{TextError, ValueError};
use super::id::FileId;
use super::node::{Base, ENDPOINTS_MAX, NodeFile, Peer, read_connectors, write_connectors};

/// Where a member keeps its file, below the root of its local file system.
pub const MEMBER_FILE: &str = ".xlattice/cluster.member.config";

/// A cluster as one of its members keeps it. **It holds that member's private keys.**
///
/// Older files say `clusterSize`, have `clusterAttrs` before `clusterID` and `epCount` after the
/// members, and in a member `attrs` before `endPoints`. They are read, and written as of today.
///
/// Source: docs/protocol.md, section 5.
#[derive(Debug)]
pub struct MemberFile {
    /// The member itself.
    pub node: NodeFile,
    /// The `ATTR_*` bits that the registry granted. The originals read no more than 63 bits.
    pub attrs: u64,
    /// The cluster's name.
    pub cluster_name: Name,
    /// The cluster's ID.
    pub cluster_id: FileId,
    /// The cluster's `CLUSTER_ATTR_*` bits. The originals read no more than 63 bits.
    pub cluster_attrs: u64,
    /// How many members the cluster is for: 1 to [`CLUSTER_SIZE_MAX`].
    pub cluster_max_size: u32,
    /// Endpoints that the cluster asks of each member: 1 to [`MEMBER_ENDPOINTS_MAX`].
    pub endpoint_count: u32,
    /// This member's rank, below `cluster_max_size`; 0 also if the originals didn't know it.
    pub self_index: u32,
    /// The members in order of rank, as far as they had come when the file was written: at most
    /// `cluster_max_size`. There is no gap in them, since a rank is a place.
    pub members: Vec<MemberInfo>,
}

/// An entry of the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who it is and where it is reached.
    pub peer: Peer,
    /// Its `ATTR_*` bits.
    pub attrs: u64,
}

impl MemberFile {
    /// Reads a member file. The caller wipes `text`; what is copied from it here is wiped.
    ///
    /// # Errors
    /// [`TextError`] with the line; also if a private key is not that of the public key above it.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut reader = Reader::private("member file", text)?;
        let member = Self::read(&mut reader)?;
        reader.end()?;
        Ok(member)
    }

    /// The text that the original library would write, to the byte: LF between lines, none at the
    /// end. It holds the private keys, and is wiped when it is dropped.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut writer = Writer::new("\n");
        self.write(&mut writer);
        writer.finish_unended()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("clusterMember")?;
        let node = NodeFile::read(r)?;
        let attrs = r.number("attrs", 0..=u64::MAX)?;
        let cluster_name = r.value("clusterName")?;
        let (cluster_id, cluster_attrs) = read_cluster_id_and_attrs(r)?;
        let old = r.at("clusterSize");
        let size_key = if old { "clusterSize" } else { "clusterMaxSize" };
        let cluster_max_size = r.number(size_key, 1..=CLUSTER_SIZE_MAX)?;
        let early_count = if old { None } else { Some(read_endpoint_count(r)?) };
        let self_index = r.number("selfIndex", 0..=cluster_max_size - 1)?;
        let members = r.block("members", 0..=cluster_max_size as usize, MemberInfo::read)?;
        let endpoint_count = early_count.map_or_else(|| read_endpoint_count(r), Ok)?;
        r.close()?;
        Ok(Self {
            node,
            attrs,
            cluster_name,
            cluster_id,
            cluster_attrs,
            cluster_max_size,
            endpoint_count,
            self_index,
            members,
        })
    }

    fn write(&self, w: &mut Writer) {
        w.open("clusterMember");
        self.node.write(w);
        w.value("attrs", self.attrs);
        w.value("clusterName", &self.cluster_name);
        w.value("clusterID", self.cluster_id);
        w.value("clusterAttrs", self.cluster_attrs);
        w.value("clusterMaxSize", self.cluster_max_size);
        w.value("epCount", self.endpoint_count);
        w.value("selfIndex", self.self_index);
        w.block("members", &self.members, |w, member| member.write(w));
        w.close();
    }
}

impl MemberInfo {
    /// The entry as the registry's rules know it; none if its ID is an old one.
    #[must_use]
    pub fn to_member(&self) -> Option<Member> {
        let peer = self.peer.clone();
        Some(Member {
            id: peer.id.node_id()?,
            name: peer.name,
            attrs: self.attrs,
            comms_key: peer.comms_key,
            sig_key: peer.sig_key,
            endpoints: peer.connectors,
            entry_signature: None,
        })
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, TextError> {
        r.open("memberInfo")?;
        let base = Base::read(r)?;
        let (connectors, attrs) = if r.at("attrs") {
            let attrs = r.parsed("attrs", parse_attrs)?;
            (read_old_endpoints(r)?, attrs)
        } else {
            (read_connectors(r)?, r.parsed("attrs", parse_attrs)?)
        };
        r.close()?;
        Ok(Self { peer: Peer::new(base, connectors), attrs })
    }

    fn write(&self, w: &mut Writer) {
        w.open("memberInfo");
        self.peer.base().write(w);
        write_connectors(w, &self.peer.connectors);
        write_attrs(w, self.attrs);
        w.close();
    }
}

impl From<&Member> for MemberInfo {
    fn from(member: &Member) -> Self {
        let peer = Peer {
            name: member.name.clone(),
            id: member.id.into(),
            comms_key: member.comms_key.clone(),
            sig_key: member.sig_key.clone(),
            overlays: Vec::new(),
            connectors: member.endpoints.clone(),
        };
        Self { peer, attrs: member.attrs }
    }
}

/// `clusterID` and `clusterAttrs`, which older files have the other way round.
fn read_cluster_id_and_attrs(r: &mut Reader<'_>) -> Result<(FileId, u64), TextError> {
    let attrs = |r: &mut Reader<'_>| r.number("clusterAttrs", 0..=u64::MAX);
    if r.at("clusterAttrs") {
        let attrs = attrs(r)?;
        Ok((r.value("clusterID")?, attrs))
    } else {
        Ok((r.value("clusterID")?, attrs(r)?))
    }
}

fn read_endpoint_count(r: &mut Reader<'_>) -> Result<u32, TextError> {
    r.number("epCount", 1..=MEMBER_ENDPOINTS_MAX as u32)
}

/// The endpoints of a member in older files: as the wire has them, with a name before or without.
fn read_old_endpoints(r: &mut Reader<'_>) -> Result<Vec<Endpoint>, TextError> {
    r.block("endPoints", 0..=ENDPOINTS_MAX, |r| {
        if r.at("TcpEndPoint") {
            return r.value("TcpEndPoint");
        }
        let text = r.expect(|| "`HOST:PORT`".into(), |line| line.contains(':').then_some(line))?;
        text.parse::<Endpoint>().map_err(|error| r.bad("endPoints", error))
    })
}

/// `attrs: 0x` and 16 hex digits.
pub(super) fn write_attrs(w: &mut Writer, attrs: u64) {
    w.value("attrs", format_args!("0x{attrs:016x}"));
}

/// `0x` and 16 hex digits.
pub(super) fn parse_attrs(text: &str) -> Result<u64, ValueError> {
    let bytes = text
        .strip_prefix("0x")
        .and_then(|digits| HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok())
        .and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(u64::from_be_bytes)
        .ok_or_else(|| ValueError::Number { expected: "0x and 16 hex digits".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attrs_of_a_member_are_sixteen_hex_digits() {
        assert_eq!(parse_attrs("0x0000000000000005"), Ok(5));
        assert_eq!(parse_attrs("0xFFFFFFFFFFFFFFFF"), Ok(u64::MAX));
        for bad in [
            "",
            "0x",
            "5",
            "0x5",
            "0x+000000000000005",
            "0000000000000005",
            "0X0000000000000005",
            "0x00000000000000005",
            "0x000000000000000g",
        ] {
            assert!(parse_attrs(bad).is_err(), "{bad}");
        }
    }
}
