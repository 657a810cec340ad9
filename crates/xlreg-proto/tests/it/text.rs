//! The text formats against files that the originals wrote, and against everything that can go
//! wrong with such a file.

use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use xlreg_core::limits::CLUSTER_SIZE_MAX;
use xlreg_core::{Endpoint, Member, Name, NodeId, PublicKey, Version};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::{
    Credentials, FILE_BYTES_MAX, FileId, LINE_BYTES_MAX, MemberFile, MemberInfo, NodeFile, Peer,
    TextError, ValueError, pem, sshkey,
};

const CREDENTIALS_1_8_4: &str = include_str!("../vectors/regcred/1.8.4.dat");
const CREDENTIALS_1_9_24: &str = include_str!("../vectors/regcred/1.9.24.dat");
const CREDENTIALS_SEED: &str = include_str!("../vectors/regcred/seed-1.8.2.dat");
const NODE: &str = include_str!("../vectors/xlattice/node.config");
const MEMBER: &str = include_str!("../vectors/xlattice/cluster.member.config");

/// One of the formats: what a text is after reading and writing.
type Rewrite = fn(&str) -> Result<String, TextError>;

fn credentials(text: &str) -> Result<String, TextError> {
    Credentials::parse(text).map(|credentials| credentials.to_text())
}

fn node(text: &str) -> Result<String, TextError> {
    NodeFile::parse(text).map(|node| node.to_text().to_string())
}

fn member(text: &str) -> Result<String, TextError> {
    MemberFile::parse(text).map(|member| member.to_text().to_string())
}

/// Every vector that is read back to the byte, with its format.
const EXACT: [(&str, Rewrite); 4] = [
    (CREDENTIALS_1_8_4, credentials),
    (CREDENTIALS_1_9_24, credentials),
    (NODE, node),
    (MEMBER, member),
];

/// Three keys for all tests: making one takes a while.
fn keys() -> &'static [PrivateKey; 3] {
    static KEYS: OnceLock<[PrivateKey; 3]> = OnceLock::new();
    KEYS.get_or_init(|| std::array::from_fn(|_| PrivateKey::generate().unwrap()))
}

fn public(index: usize) -> PublicKey {
    keys()[index].public().clone()
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap()
}

/// An error as a log would show it: itself and its sources.
fn chain(error: &TextError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        write!(text, ": {source}").unwrap();
        next = source.source();
    }
    text
}

// ---------------------------------------------------------------------------------------------
// What the originals wrote.

#[test]
fn files_of_the_originals_come_out_as_they_went_in() {
    for (text, rewrite) in EXACT {
        assert_eq!(rewrite(text).unwrap(), text);
    }
    // The seed's has LF throughout; the server would have written CRLF.
    assert_eq!(credentials(CREDENTIALS_SEED).unwrap().replace('\r', ""), CREDENTIALS_SEED);
}

#[test]
fn credentials_have_the_values_they_show() {
    for (text, id, address, version) in [
        (
            CREDENTIALS_SEED,
            "9cf517be9bcaaeb794a7530dd34ae873651c41b4",
            "54.186.197.123:56789",
            [1, 8, 2, 0],
        ),
        (
            CREDENTIALS_1_8_4,
            "3d3c91c83c7a9253771c03d89c405d336abe16e9",
            "127.0.0.1:45997",
            [1, 8, 4, 0],
        ),
        (
            CREDENTIALS_1_9_24,
            "b03ebef52228588bd58cc781022a903fdd543345",
            "127.0.0.1:45999",
            [1, 9, 24, 0],
        ),
    ] {
        let read: Credentials = text.parse().unwrap();
        assert_eq!(read.name.as_str(), "xlReg");
        assert_eq!(read.id.to_string(), id);
        assert_eq!(read.endpoints, [endpoint(address)]);
        assert_eq!(read.version, Version::from_bytes(version));
        assert_ne!(read.comms_key, read.sig_key);
        assert_eq!(read.to_string(), read.to_text());
    }
}

#[test]
fn a_node_file_has_the_values_it_shows() {
    let read = NodeFile::parse(NODE).unwrap();
    assert_eq!(read.name.as_str(), "gomember20386_0");
    assert_eq!(read.id.to_string(), "d5ea9ab83f1b870a128ccf3a0221e894e400188e");
    assert_eq!(read.lfs.as_str(), "members/m0");
    assert_eq!(read.overlays.len(), 1);
    assert_eq!(read.overlays[0].as_str(), "localhost, ip, 127.0.0.0/8, 1.000000");
    assert_eq!(read.endpoints, [endpoint("127.0.0.1:44247"), endpoint("127.0.0.1:35933")]);
    // The same registry, once with ssh-rsa lines and once with PEM frames.
    let registry = Credentials::parse(CREDENTIALS_1_9_24).unwrap();
    assert_eq!(read.peers, [Peer::from(&registry)]);
}

#[test]
fn a_member_file_has_the_values_it_shows() {
    let read = MemberFile::parse(MEMBER).unwrap();
    assert_eq!(*read.node.to_text(), NODE);
    assert_eq!((read.attrs, read.cluster_attrs), (0, 0));
    assert_eq!(read.cluster_name.as_str(), "delta");
    assert_eq!(read.cluster_id.to_string(), "7b441732db1d18a550915c5673da17be22cb0558");
    assert_eq!((read.cluster_max_size, read.endpoint_count, read.self_index), (2, 2, 0));
    let me = read.members[0].to_member().unwrap();
    assert_eq!(me.name, read.node.name);
    assert_eq!(me.comms_key, *read.node.comms_key.public());
    assert_eq!(me.sig_key, *read.node.sig_key.public());
    assert_eq!(me.endpoints, read.node.endpoints);
    assert_eq!(MemberInfo::from(&me), read.members[0]);
    assert_eq!(read.members[1].peer.name.as_str(), "gomember20386_1");
    assert_eq!(read.members.len(), 2);
}

#[test]
fn line_ends_blank_lines_and_indentation_mean_nothing() {
    for (text, rewrite) in EXACT {
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        for (before, after) in
            [("", "\n"), ("", "\r\n"), ("\t", "\n"), ("  \t ", " \t\r\n"), ("\r\n\n \n", "\n\n")]
        {
            let other: String = lines.iter().map(|line| [before, line, after].concat()).collect();
            assert_eq!(rewrite(&other).as_deref(), Ok(text));
            assert_eq!(rewrite(other.trim_end()).as_deref(), Ok(text));
        }
    }
}

#[test]
fn ids_of_32_bytes_and_comments_after_keys_are_read() {
    let long = "5a".repeat(32);
    let text = CREDENTIALS_SEED
        .replace("9cf517be9bcaaeb794a7530dd34ae873651c41b4", &long)
        .replace("\n\n", " someone@somewhere else\n\n");
    let read = Credentials::parse(&text).unwrap();
    assert_eq!(read.id, FileId::Old([0x5A; 32]));
    assert_eq!(read.id.node_id(), None);
    assert_eq!(read.sig_key, Credentials::parse(CREDENTIALS_SEED).unwrap().sig_key);
}

/// Members as files from before 2015 have them; made from today's, since none was captured.
fn old_member_file() -> String {
    let text = MEMBER
        .replace("    clusterID: 7b441732db1d18a550915c5673da17be22cb0558\n", "")
        .replace(
            "    clusterAttrs: 0\n",
            "    clusterAttrs: 0\n    clusterID: 7b441732db1d18a550915c5673da17be22cb0558\n",
        )
        .replace("clusterMaxSize", "clusterSize")
        .replace("    epCount: 2\n", "")
        .replace("ckPriv", "commsKey")
        .replace("skPriv", "sigKey");
    let attrs = "            attrs: 0x0000000000000000\n";
    let (head, members) = text.split_once("members {").unwrap();
    let members = members
        .replace(attrs, "")
        .replace("            connectors {\n", &format!("{attrs}            endPoints {{\n"))
        .replace("TcpConnector: ", "");
    let members = members.strip_suffix('}').unwrap();
    format!("{head}members {{{members}    epCount: 2\n}}")
}

#[test]
fn older_member_files_are_read_and_written_as_of_today() {
    let old = old_member_file();
    assert_eq!(member(&old).as_deref(), Ok(MEMBER));
    // Before 2015-06, public keys were ssh-rsa lines there too.
    let mut old = old;
    while let Some(start) = old.find("-----BEGIN PUBLIC KEY-----") {
        let last = "-----END PUBLIC KEY-----\n";
        let end = start + old[start..].find(last).unwrap() + last.len();
        let key = pem::decode_public(&old[start..end]).unwrap();
        old.replace_range(start..end, &(sshkey::encode(&key) + "\n"));
    }
    assert_eq!(member(&old).as_deref(), Ok(MEMBER));
    assert!(member(&old.replace("    epCount: 2\n", "")).is_err());
    assert!(member(&old.replace("clusterSize", "clusterMaxSize")).is_err());
}

// ---------------------------------------------------------------------------------------------
// What we write.

/// A node of our own, with everything a file can hold at its fullest or emptiest.
fn our_node(full: bool) -> NodeFile {
    let [comms, sig, _] = keys();
    let again = |key: &PrivateKey| Arc::new(PrivateKey::from_pkcs1(key.pkcs1()).unwrap());
    let registry = Peer::from(&Credentials::parse(CREDENTIALS_SEED).unwrap());
    NodeFile {
        name: "_".parse().unwrap(),
        id: if full { FileId::Old([0xFF; 32]) } else { FileId::Current([0; 20]) },
        overlays: vec!["wide, ip, 0.0.0.0/0, 1.0".parse().unwrap(); if full { 64 } else { 0 }],
        lfs: "/var/lib/xlreg data".parse().unwrap(),
        comms_key: again(comms),
        sig_key: again(sig),
        endpoints: vec![endpoint("[::1]:65535"); if full { 8 } else { 0 }],
        peers: vec![registry; if full { 256 } else { 0 }],
    }
}

fn our_member(members: usize) -> MemberFile {
    let member = Member {
        id: NodeId::from_bytes([7; 20]),
        name: "n".repeat(128).parse().unwrap(),
        attrs: u64::MAX,
        comms_key: public(0),
        sig_key: public(1),
        endpoints: vec![endpoint("a.example.org:1"); 8],
        entry_signature: None,
    };
    MemberFile {
        node: our_node(false),
        attrs: u64::MAX,
        cluster_name: "c".parse().unwrap(),
        cluster_id: FileId::Current([1; 20]),
        cluster_attrs: 3,
        cluster_max_size: CLUSTER_SIZE_MAX,
        endpoint_count: 1,
        self_index: CLUSTER_SIZE_MAX - 1,
        members: vec![MemberInfo::from(&member); members],
    }
}

#[test]
fn what_we_write_we_read() {
    for full in [false, true] {
        let text = our_node(full).to_text();
        assert_eq!(node(&text).as_deref(), Ok(text.as_str()));
    }
    // None there yet, some, all.
    for members in [0, 1, 63, 64] {
        let text = our_member(members).to_text();
        assert_eq!(member(&text).as_deref(), Ok(text.as_str()));
    }
}

#[test]
fn debug_output_holds_no_private_key() {
    let shown = format!("{:?}", our_member(1));
    assert_eq!(shown.matches("PrivateKey(***").count(), 2);
    assert!(!shown.contains("BEGIN"));
}

// ---------------------------------------------------------------------------------------------
// What can be wrong with a file.

/// The lines of a file, each with its line end.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// Lines of which a file may have more or fewer: the entries of lists.
fn is_entry(line: &str) -> bool {
    ["TcpEndPoint: ", "TcpConnector: ", "overlay: "].iter().any(|key| line.trim().starts_with(key))
}

/// Whether a line is part of a key's base64: whatever is not blank and holds nothing else.
fn is_body(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
}

/// Checks that nothing of a private key of the vectors is in an error, in any of its forms.
fn assert_no_secret(error: &TextError) {
    static SECRETS: OnceLock<Vec<&str>> = OnceLock::new();
    let secrets = SECRETS.get_or_init(|| {
        let frames = NODE.split("-----BEGIN -----").skip(1);
        frames.flat_map(|frame| frame.lines().take_while(|line| !line.contains("END"))).collect()
    });
    assert!(secrets.len() > 50);
    let shown = format!("{} {error:?}", chain(error));
    for secret in secrets.iter().filter(|line| line.len() > 12) {
        assert!(!shown.contains(&secret[..12]), "{shown}");
    }
}

#[test]
fn a_missing_line_is_an_error() {
    for (text, rewrite) in EXACT {
        let all = lines(text);
        // A blank line means nothing. In node and member files an endpoint, connector or overlay
        // fewer is just that; credentials have one endpoint and need it.
        let has_lists = text.contains("node {");
        for (index, line) in all.iter().enumerate() {
            let may_be_missing = line.trim().is_empty() || (has_lists && is_entry(line));
            let mut fewer = all.clone();
            fewer.remove(index);
            match rewrite(&fewer.concat()) {
                Ok(_) => assert!(may_be_missing, "{line}"),
                Err(error) => {
                    assert!(!may_be_missing, "{line}: {error}");
                    // Never blamed on a line before the gap.
                    assert!(error.line().unwrap() > index, "line {}: {error}", index + 1);
                    assert_no_secret(&error);
                }
            }
        }
    }
}

#[test]
fn a_doubled_line_is_an_error() {
    for (text, rewrite) in EXACT {
        let all = lines(text);
        for (index, line) in all.iter().enumerate() {
            let mut more = all.clone();
            // The last line may have no line end of its own.
            more.insert(index, line);
            if !line.ends_with('\n') {
                more.insert(index + 1, "\n");
            }
            match rewrite(&more.concat()) {
                // Another blank line means nothing; another entry is a longer list.
                Ok(_) => assert!(line.trim().is_empty() || is_entry(line), "{line}"),
                Err(error) => {
                    assert!(!line.trim().is_empty() && !is_entry(line), "{line}: {error}");
                    assert_no_secret(&error);
                }
            }
        }
    }
}

#[test]
fn swapped_lines_are_an_error_or_mean_the_same() {
    for (text, rewrite) in EXACT {
        let trimmed: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // From here on, keys are other nodes': nothing in the file could tell that the middle of
        // one is not as it was.
        let others = trimmed.iter().position(|line| *line == "peers {").unwrap_or(trimmed.len());
        for index in 1..trimmed.len() {
            let mut swapped = trimmed.clone();
            swapped.swap(index - 1, index);
            match rewrite(&swapped.join("\n")) {
                Ok(again) if again == text => {}
                Ok(_) => {
                    let pair = &trimmed[index - 1..=index];
                    let is_order_of_a_list = pair.iter().all(|line| is_entry(line));
                    let is_another_s_key = index > others && pair.iter().all(|line| is_body(line));
                    assert!(is_order_of_a_list || is_another_s_key, "{pair:?}");
                }
                Err(error) => assert_no_secret(&error),
            }
        }
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    for (text, rewrite) in EXACT {
        let whole = text.trim_end().len();
        // Node and member files are sampled: each attempt checks private keys.
        let step = if text.len() < 2000 { 1 } else { 53 };
        for end in (0..whole).step_by(step) {
            let error = rewrite(&text[..end]).unwrap_err();
            assert_no_secret(&error);
        }
        assert!(rewrite(&text[..whole]).is_ok());
    }
}

#[test]
fn a_damaged_byte_does_no_harm() {
    for (text, rewrite) in EXACT {
        let step = if text.len() < 2000 { 1 } else { 61 };
        for (position, mask) in (0..text.len())
            .step_by(step)
            .zip([0x01, 0x20, 0x40, 0x04, 0x80, 0x10].into_iter().cycle())
        {
            let mut bytes = text.as_bytes().to_vec();
            bytes[position] ^= mask;
            let Ok(damaged) = String::from_utf8(bytes) else {
                continue;
            };
            match rewrite(&damaged) {
                Ok(again) => assert_eq!(rewrite(&again).as_ref(), Ok(&again)),
                Err(error) => assert_no_secret(&error),
            }
        }
    }
}

#[test]
fn what_does_not_belong_there_is_an_error() {
    let base = CREDENTIALS_SEED;
    let block = "    EndPoints {\n         TcpEndPoint: 54.186.197.123:56789\n    }\n";
    assert!(base.contains(block));
    for (why, bad) in [
        ("nothing", String::new()),
        ("blank lines", "\n \r\n\t\n".into()),
        ("text after the end", base.to_string() + "x"),
        ("another one after the end", base.repeat(2)),
        ("a byte order mark", format!("\u{feff}{base}")),
        ("two blocks of endpoints", base.replace(block, &block.repeat(2))),
        ("no endpoint", base.replace("         TcpEndPoint: 54.186.197.123:56789\n", "")),
        ("an unknown field", base.replace("    Version", "    Colour: red\n    Version")),
        ("another case", base.replace("Name:", "name:")),
        ("no space after a colon", base.replace("Name: ", "Name:")),
        ("no value", base.replace("Name: xlReg", "Name: ")),
        ("two fields in one line", base.replace("xlReg\n", "xlReg Version: 1.0\n")),
        ("a brace on its own line", base.replace("regCred {", "regCred\n{")),
        ("all in one line", base.replace('\n', " ")),
        ("a line end of old", base.replace('\n', "\r")),
        ("another kind of endpoint", base.replace("TcpEndPoint", "UdpEndPoint")),
        ("an endpoint without a port", base.replace(":56789", "")),
        ("a port out of range", base.replace(":56789", ":65536")),
        ("a name with a space", base.replace("xlReg", "xl Reg")),
        ("a name with a control character", base.replace("xlReg", "xl\u{1b}Reg")),
        ("a version with a letter", base.replace("1.8.2", "1.8.x")),
        ("a short ID", base.replace("ID: 9c", "ID: ")),
        ("an ID that is not hex", base.replace("ID: 9c", "ID: 9x")),
        ("another algorithm", base.replacen("ssh-rsa", "ssh-ed25519", 1)),
        ("a damaged key", base.replacen("AAAAB3", "AAAAB4", 1)),
        ("a node file", NODE.into()),
        (
            "nine endpoints",
            base.replace(
                block,
                &block.replace("    }\n", &("TcpEndPoint: 1.2.3.4:5\n".repeat(8) + "}\n")),
            ),
        ),
    ] {
        assert!(Credentials::parse(&bad).is_err(), "{why}");
    }
    for (why, bad) in [
        ("credentials", CREDENTIALS_SEED.to_string()),
        ("the keys of another", NODE.replace("ckPriv", "skPriv")),
        ("no path", NODE.replace("lfs: members/m0", "lfs: ")),
        ("a path that breaks out", NODE.replace("members/m0", "members/m0: }")),
        (
            "a label on a private key",
            NODE.replace("-----BEGIN -----", "-----BEGIN RSA PRIVATE KEY-----"),
        ),
        (
            "a public key where a private one belongs",
            NODE.replace("ckPriv: -----BEGIN -----", "ckPriv: -----BEGIN PUBLIC KEY-----"),
        ),
        ("a member file", MEMBER.into()),
    ] {
        assert!(NodeFile::parse(&bad).is_err(), "{why}");
    }
    for (why, bad) in [
        ("a node file", NODE.to_string()),
        ("no such rank", MEMBER.replace("selfIndex: 0", "selfIndex: 2")),
        ("fewer places than members", MEMBER.replace("clusterMaxSize: 2", "clusterMaxSize: 1")),
        ("no place at all", MEMBER.replace("clusterMaxSize: 2", "clusterMaxSize: 0")),
        ("too many places", MEMBER.replace("clusterMaxSize: 2", "clusterMaxSize: 65")),
        ("no endpoints asked for", MEMBER.replace("epCount: 2", "epCount: 0")),
        ("absurdly many", MEMBER.replace("epCount: 2", "epCount: 4294967297")),
        ("negative attributes", MEMBER.replace("    attrs: 0\n", "    attrs: -1\n")),
        ("attributes of the wrong length", MEMBER.replace("0x0000", "0x")),
        ("attributes that are not hex", MEMBER.replace("0x0", "0xg")),
        ("attributes in decimal", MEMBER.replace("attrs: 0x0000000000000000", "attrs: 0")),
    ] {
        assert!(MemberFile::parse(&bad).is_err(), "{why}");
    }
}

#[test]
fn a_private_key_must_belong_to_the_public_key() {
    let text = our_node(false).to_text();
    let own = pem::encode_public(&public(0));
    let other = pem::encode_public(&public(2));
    let error = NodeFile::parse(&text.replacen(&own, &other, 1)).unwrap_err();
    assert!(
        matches!(error, TextError::Value { field: "ckPriv", source: ValueError::KeyPair, .. }),
        "{error:?}"
    );
}

#[test]
fn lists_have_an_end() {
    let entry = lines(NODE).into_iter().skip_while(|line| line.trim() != "peer {");
    let peer: String = entry.take(lines(NODE).len()).collect();
    let peer = &peer[..peer.rfind("    }\n}").unwrap()];
    let many = |count| NODE.replace(peer, &peer.repeat(count));
    assert_eq!(NodeFile::parse(&many(3)).unwrap().peers.len(), 3);
    for (bad, what) in [
        (many(257), "peers"),
        (
            NODE.replace("TcpEndPoint: 127.0.0.1:35933\n", &"TcpEndPoint: a:1\n".repeat(8)),
            "endPoints",
        ),
        (
            NODE.replace("TcpConnector: 127.0.0.1:45999\n", &"TcpConnector: a:1\n".repeat(9)),
            "connectors",
        ),
        (
            NODE.replacen(
                "overlays {\n",
                &("overlays {\n".to_string() + &"overlay: x\n".repeat(64)),
                1,
            ),
            "overlays",
        ),
    ] {
        let error = NodeFile::parse(&bad).unwrap_err();
        assert!(matches!(error, TextError::TooMany { block, .. } if block == what), "{error}");
    }
}

#[test]
fn oversized_text_is_refused_before_it_is_looked_at() {
    let huge = [CREDENTIALS_SEED, &" ".repeat(FILE_BYTES_MAX)].concat();
    for parse in [credentials, node, member] {
        assert!(matches!(parse(&huge), Err(TextError::TooLarge { .. })));
        // Much in little: one line, many lines, blank lines, never-ending lists.
        let one_line = "a".repeat(LINE_BYTES_MAX + 1);
        assert!(matches!(parse(&one_line), Err(TextError::LineTooLong { line: 1, .. })));
        for piece in ["a\n", "\n", "{\n", "}\n", "regCred {\n", "node {\n"] {
            assert!(parse(&piece.repeat(FILE_BYTES_MAX / piece.len())).is_err());
        }
    }
}

#[test]
fn errors_say_what_where_and_why() {
    let show = |error: Result<String, TextError>| chain(&error.unwrap_err());
    insta::assert_snapshot!(
        [
            show(credentials("")),
            show(credentials(NODE)),
            show(credentials(&CREDENTIALS_SEED.replace("    Version: 1.8.2\n", ""))),
            show(credentials(&CREDENTIALS_SEED.replace("1.8.2\n}", "1.8.2\n"))),
            show(credentials(&CREDENTIALS_SEED.replace("xlReg", "xl\u{7}Reg"))),
            show(credentials(&CREDENTIALS_SEED.replace("ID: 9c", "ID: "))),
            show(credentials(&CREDENTIALS_SEED.replace(":56789", ""))),
            show(credentials(&CREDENTIALS_SEED.replacen("AAAAB3NzaC1", "AAAAB3NzaC", 1))),
            show(credentials(&CREDENTIALS_SEED.replacen("AAAAB3", "AAAAB4", 1))),
            show(credentials(&CREDENTIALS_SEED.repeat(2))),
            show(credentials(&"\n".repeat(FILE_BYTES_MAX + 1))),
            show(node(&NODE.replace("    lfs: members/m0\n", ""))),
            show(node(&NODE.replace("    ckPriv: -----BEGIN -----\n", ""))),
            show(node(&NODE.replacen("MIIE", "MIIF", 1))),
            show(member(&MEMBER.replace("selfIndex: 0", "selfIndex: 2"))),
        ]
        .join("\n"),
        @r"
        credentials, line 2: expected `regCred {`, found the end of the text
        credentials, line 1: expected `regCred {`, found `node {`
        credentials, line 11: expected `Version: ...`, found `}`
        credentials, line 14: expected `}`, found the end of the text
        credentials, line 2: Name cannot be read: a name is a letter or '_', then letters, digits and '_'; got '\u{7}' at position 2
        credentials, line 3: ID cannot be read: an ID is 40 hex digits, or 64 in files from before 2014-11; got 38 hex digits
        credentials, line 9: TcpEndPoint cannot be read: an endpoint is HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:4000 or [::1]:4000: there is no ':'
        credentials, line 4: CommsPubKey cannot be read: not base64: its length is not a multiple of 4
        credentials, line 4: CommsPubKey cannot be read: the key's content is not that of an ssh-rsa key
        credentials, line 13: expected nothing more, found `regCred {`
        credentials: 1048577 bytes, at most 1048576 are read; is this the right file?
        node file, line 27: expected `lfs: ...`, found `ckPriv: ...`
        node file, line 28: expected `ckPriv: -----BEGIN -----`, found a line of 64 bytes that may be part of a private key
        node file, line 54: ckPriv cannot be read: not an RSA key in the form expected (DER RSAPrivateKey, at least 2048 bits)
        member file, line 127: selfIndex cannot be read: expected a number from 0 to 1
        "
    );
}

// ---------------------------------------------------------------------------------------------
// Anything at all.

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,20}){0,3}",
    ];
    (host, 1u16..).prop_map(|(host, port)| endpoint(&format!("{host}:{port}")))
}

prop_compose! {
    fn any_credentials()(
        name in "[A-Za-z_][A-Za-z0-9_]{0,127}",
        id in prop_oneof![
            any::<[u8; 20]>().prop_map(FileId::Current),
            any::<[u8; 32]>().prop_map(FileId::Old),
        ],
        comms in 0usize..3,
        sig in 0usize..3,
        endpoints in prop::collection::vec(any_endpoint(), 1..=8),
        version in any::<[u8; 4]>(),
    ) -> Credentials {
        Credentials {
            name: name.parse::<Name>().unwrap(),
            id,
            comms_key: public(comms),
            sig_key: public(sig),
            endpoints,
            version: Version::from_bytes(version),
        }
    }
}

/// Lines of the formats in any order, with rubbish in between: it gets further than mere rubbish.
fn any_lines() -> impl Strategy<Value = String> {
    let known: Vec<String> = [CREDENTIALS_SEED, MEMBER, &old_member_file()]
        .iter()
        .flat_map(|text| text.lines().map(str::to_owned))
        .collect();
    let line = prop_oneof![6 => prop::sample::select(known), 1 => any::<String>()];
    prop::collection::vec(line, 0..40).prop_map(|lines| lines.join("\n"))
}

fn assert_harmless(text: &str) {
    for parse in [credentials, node, member] {
        if let Err(error) = parse(text) {
            assert!(chain(&error).len() < 500, "{error}");
        }
    }
    let _ = sshkey::decode(text);
    let _ = pem::decode_public(text);
}

proptest! {
    #[test]
    fn credentials_survive_their_text(credentials in any_credentials()) {
        let text = credentials.to_text();
        prop_assert_eq!(Credentials::parse(&text), Ok(credentials.clone()));
        prop_assert_eq!(Credentials::parse(&text.replace("\r\n", "\n")), Ok(credentials));
    }

    #[test]
    fn no_text_at_all_makes_a_parser_panic(text in any::<String>()) {
        assert_harmless(&text);
    }

    #[test]
    fn no_mixture_of_lines_makes_a_parser_panic(text in any_lines()) {
        assert_harmless(&text);
    }

    #[test]
    fn no_insertion_makes_a_parser_panic(at in any::<prop::sample::Index>(), text in "\\PC{0,8}|[\\x00-\\x20]{1,4}") {
        let mut damaged = CREDENTIALS_1_9_24.to_string();
        damaged.insert_str(at.index(damaged.len()), &text);
        assert_harmless(&damaged);
    }
}
