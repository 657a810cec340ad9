//! Signed rosters: what the vectors hold, what every change of one leads to, and what is said of
//! rosters that are signed and still not right.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use data_encoding::BASE64;
use proptest::prelude::*;
use xlreg_core::cluster::{EventKind, NewCluster};
use xlreg_core::limits::CLUSTER_SIZE_MAX;
use xlreg_core::{
    Cluster, ClusterId, EntrySignature, Fingerprint, Member, NodeId, PublicKey, Seat, Time,
};
use xlreg_proto::entry;
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::text::roster::{Expected, Finding, Ranked, Verdict};
use xlreg_proto::text::{FILE_BYTES_MAX, SignedRoster, TextError, pem};

const COMPLETE: &str = include_str!("../vectors/roster/complete.signed");
const PARTIAL: &str = include_str!("../vectors/roster/partial.signed");

/// When the vectors were signed: 2026-11-24T19:23:53Z.
const SIGNED: Time = Time::from_millis(1_795_548_233_000);

/// The keys of the vectors.
struct Keys {
    registry: PrivateKey,
    a_sig: PrivateKey,
    a_comms: PrivateKey,
    b_sig: PrivateKey,
    b_comms: PrivateKey,
    /// Of a member over the old wire, which may have smaller ones.
    c_sig: PublicKey,
    c_comms: PublicKey,
}

fn keys() -> &'static Keys {
    fn private(pem: &str) -> PrivateKey {
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        PrivateKey::from_pkcs1(&BASE64.decode(body.as_bytes()).unwrap()).unwrap()
    }
    fn public(text: &str) -> PublicKey {
        pem::decode_public(text).unwrap()
    }
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        registry: private(include_str!("../vectors/roster/keys/registry.pem")),
        a_sig: private(include_str!("../vectors/roster/keys/a-sig.pem")),
        a_comms: private(include_str!("../vectors/roster/keys/a-comms.pem")),
        b_sig: private(include_str!("../vectors/roster/keys/b-sig.pem")),
        b_comms: private(include_str!("../vectors/roster/keys/b-comms.pem")),
        c_sig: public(include_str!("../vectors/roster/keys/c-sig.pub")),
        c_comms: public(include_str!("../vectors/roster/keys/c-comms.pub")),
    })
}

fn registry() -> Member {
    let key = keys().registry.public();
    Member { attrs: 0, ..member("xlReg", 0xA0, key, key, &["registry.example.org:56789"]) }
}

fn registry_print() -> Fingerprint {
    keys().registry.public().fingerprint()
}

fn member(name: &str, id: u8, sig: &PublicKey, comms: &PublicKey, endpoints: &[&str]) -> Member {
    Member {
        id: NodeId::from_bytes([id; 20]),
        name: name.parse().unwrap(),
        attrs: 0,
        comms_key: comms.clone(),
        sig_key: sig.clone(),
        endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        entry_signature: None,
    }
}

fn signed(key: &PrivateKey, cluster: &ClusterId, member: Member) -> Member {
    let signature = entry::sign(key, &registry_print(), cluster, &member).unwrap();
    Member { entry_signature: Some(signature), ..member }
}

fn a() -> Member {
    let Keys { a_sig, a_comms, .. } = keys();
    member("a", 0xA1, a_sig.public(), a_comms.public(), &["10.0.0.7:4001", "a.example.org:80"])
}

fn b() -> Member {
    let Keys { b_sig, b_comms, .. } = keys();
    let b =
        member("b_2", 0xB2, b_sig.public(), b_comms.public(), &["[2001:db8::7]:4001", "b:65535"]);
    Member { attrs: 1, ..b }
}

fn cluster(name: &str, size: u32, endpoint_count: u32, attrs: u64, seats: Vec<Seat>) -> Cluster {
    let id = ClusterId::from_bytes([name.as_bytes()[0]; 20]);
    let new = NewCluster { attrs, ..NewCluster::open(name.parse().unwrap(), size, endpoint_count) };
    let mut cluster = Cluster::new(id, &new, None, Time::default());
    for (rank, seat) in seats.into_iter().enumerate() {
        cluster = cluster.with_seat(rank, seat, EventKind::Joined, Time::default());
    }
    cluster
}

/// Two of two, both signed.
fn complete() -> Cluster {
    let id = ClusterId::from_bytes([b'a'; 20]);
    let present = |key, member| Seat::Present(Arc::new(signed(key, &id, member)));
    let seats = vec![present(&keys().a_sig, a()), present(&keys().b_sig, b())];
    cluster("alpha", 2, 1, 0, seats)
}

/// Of four: one there, a free rank, one over the old wire, and one that has left.
fn partial() -> Cluster {
    let Keys { a_sig, b_sig, c_sig, c_comms, .. } = keys();
    let id = ClusterId::from_bytes([b'b'; 20]);
    let c = member("c", 0xC3, c_sig, c_comms, &["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"]);
    let seats = vec![
        Seat::Present(Arc::new(signed(a_sig, &id, a()))),
        Seat::Present(Arc::new(Member { attrs: u64::MAX, ..c.clone() })),
        Seat::Present(Arc::new(Member { attrs: u64::MAX, ..c })),
        Seat::Left(Arc::new(signed(b_sig, &id, b()))),
    ];
    let beta = cluster("beta", 4, 2, 1, seats);
    beta.with_seat(1, Seat::Free, EventKind::Expelled, Time::default())
}

fn sign(cluster: &Cluster) -> SignedRoster {
    SignedRoster::sign(&registry(), &keys().registry, cluster, SIGNED).unwrap()
}

/// The same roster, signed once more.
fn signed_again(mut roster: SignedRoster) -> SignedRoster {
    let text = roster.signed_text();
    roster.signature = keys().registry.sign_pkcs1(&[text.as_bytes()]).unwrap();
    roster
}

fn pinned() -> Expected {
    Expected { registry: Some(registry_print()), ..Expected::default() }
}

fn parse(text: &str) -> Result<SignedRoster, TextError> {
    SignedRoster::parse(text.as_bytes())
}

/// An error as a log would show it.
fn told(error: &TextError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

// ---------------------------------------------------------------------------------------------
// What the vectors hold.

/// Both signatures are the same each time they are made, so the files can be made again from the keys.
#[test]
fn the_vectors_are_what_these_keys_sign() {
    for (cluster, expected) in [(complete(), COMPLETE), (partial(), PARTIAL)] {
        let roster = sign(&cluster);
        assert_eq!(roster.to_text(), expected);
        assert_eq!(parse(expected), Ok(roster));
    }
}

#[test]
fn a_complete_roster_holds_pinned_or_not() {
    let roster = parse(COMPLETE).unwrap();
    for expected in [pinned(), Expected::default()] {
        assert_eq!(roster.verify(&expected), Verdict::default());
    }
    assert!(roster.is_complete());
    assert_eq!((roster.cluster.revision, roster.signed), (2, SIGNED));
    let about =
        roster.members.iter().map(|Ranked { rank, left, member }| (*rank, *left, member.id));
    let expected = [(0, false, a().id), (1, false, b().id)];
    assert_eq!(about.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_missing_or_unsigned_is_told_and_may_be_allowed() {
    let roster = parse(PARTIAL).unwrap();
    let unsigned = Finding::Unsigned { rank: 2, name: "c".parse().unwrap() };
    let incomplete = Finding::Incomplete { present: 2, size: 4 };
    let both = vec![unsigned, incomplete];
    assert_eq!(roster.verify(&pinned()), Verdict { faults: both.clone(), remarks: vec![] });
    let allowing = Expected { incomplete: true, unsigned: true, ..pinned() };
    let verdict = roster.verify(&allowing);
    assert!(verdict.is_good());
    assert_eq!(verdict.remarks, both);
    assert_eq!(roster.members.iter().map(|one| one.rank).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(roster.members[2].left && roster.members[1].member.attrs == u64::MAX);
}

#[test]
fn an_empty_cluster_has_a_roster_too() {
    let roster = sign(&cluster("gamma", 64, 2, 0, vec![]));
    assert_eq!(parse(&roster.to_text()), Ok(roster.clone()));
    assert_eq!(roster.verify(&pinned()).faults, [Finding::Incomplete { present: 0, size: 64 }]);
}

#[test]
fn the_largest_roster_is_read() {
    let Keys { registry: key, .. } = keys();
    let endpoints = ["a.example.org:65535"; 8];
    let seat = |n: u32| {
        let id = u8::try_from(n).unwrap();
        let name = format!("{}{n:02}", "n".repeat(126));
        let member = member(&name, id, key.public(), key.public(), &endpoints);
        Seat::Present(Arc::new(Member {
            entry_signature: EntrySignature::new(&[0xFF; 512]),
            ..member
        }))
    };
    let text = sign(&cluster("alpha", 64, 1, 0, (0..64).map(seat).collect())).to_text();
    assert!(text.len() < FILE_BYTES_MAX / 2, "{}", text.len());
    assert_eq!(parse(&text).unwrap().to_text(), text);
}

#[test]
fn times_are_cut_to_the_second_and_to_what_a_text_has_room_for() {
    let at = |millis| {
        let now = Time::from_millis(millis);
        let roster = SignedRoster::sign(&registry(), &keys().registry, &complete(), now).unwrap();
        let text = roster.to_text();
        assert_eq!(parse(&text), Ok(roster));
        text.lines().find_map(|line| line.strip_prefix("signed: ").map(str::to_owned)).unwrap()
    };
    assert_eq!(at(0), "1970-01-01T00:00:00Z");
    assert_eq!(at(SIGNED.as_millis() + 999), "2026-11-24T19:23:53Z");
    assert_eq!(at(u64::MAX), "9999-12-31T23:59:59Z");
}

// ---------------------------------------------------------------------------------------------
// What a change leads to.

/// Any byte replaced by any other: refused, and named by its line or as a finding.
fn assert_refused(original: &str, place: usize, byte: u8) {
    let mut bytes = original.as_bytes().to_vec();
    assert_ne!(bytes[place], byte);
    bytes[place] = byte;
    match SignedRoster::parse(&bytes) {
        Err(error) => assert!(error.line().is_some(), "{error}"),
        Ok(roster) => {
            // Also by whoever believes the key in the file.
            let faults = roster.verify(&pinned()).faults;
            assert!(faults.contains(&Finding::RegistrySignature), "byte {place}: {faults:?}");
            let other = roster.registry.sig_key != *keys().registry.public();
            let is_other = |finding: &Finding| matches!(finding, Finding::OtherRegistry { .. });
            assert_eq!(faults.iter().any(is_other), other);
        }
    }
}

#[test]
fn each_byte_counts() {
    for (place, byte) in COMPLETE.bytes().enumerate() {
        assert_refused(COMPLETE, place, byte ^ 1 << (place % 8));
        // What is most alike: another case, another digit.
        assert_refused(COMPLETE, place, byte ^ if byte.is_ascii_alphabetic() { 0x20 } else { 1 });
    }
}

#[test]
fn a_change_in_an_entry_is_laid_at_its_members_door() {
    let name = |text: &str| text.parse().unwrap();
    for (from, to, rank, member) in [
        ("10.0.0.7:4001", "10.0.0.8:4001", 0, "a"),
        ("name: b_2", "name: b_3", 1, "b_3"),
        ("endpoint: b:65535", "endpoint: b:65534", 1, "b_2"),
        ("attrs: 0x0000000000000001", "attrs: 0x0000000000000003", 1, "b_2"),
    ] {
        assert_eq!(COMPLETE.matches(from).count(), 1, "{from}");
        let verdict = parse(&COMPLETE.replace(from, to)).unwrap().verify(&pinned());
        let wrong = Finding::EntrySignature { rank, name: name(member) };
        assert_eq!(verdict.faults, [Finding::RegistrySignature, wrong], "{to}");
    }
    // What the registry alone says is not the members' affair, but for the cluster's ID.
    for (from, to) in [("revision: 2", "revision: 3"), ("name: alpha", "name: omega")] {
        let verdict = parse(&COMPLETE.replace(from, to)).unwrap().verify(&pinned());
        assert_eq!(verdict.faults, [Finding::RegistrySignature], "{to}");
    }
    let other = COMPLETE.replacen(&"61".repeat(20), &"62".repeat(20), 1);
    assert_eq!(parse(&other).unwrap().verify(&pinned()).faults.len(), 3);
}

/// A registry of somebody else's, or the right one gone wrong, can leave members out and set them in
/// other places, but not change what they say.
#[test]
fn whoever_signs_anew_cannot_sign_for_the_members() {
    let impostor = PrivateKey::generate().unwrap();
    let named = Member { sig_key: impostor.public().clone(), ..registry() };
    let forged = SignedRoster::sign(&named, &impostor, &complete(), SIGNED).unwrap();
    let entry = |rank, name: &str| Finding::EntrySignature { rank, name: name.parse().unwrap() };
    let (expected, got) = (registry_print(), impostor.public().fingerprint());
    let verdict = forged.verify(&pinned());
    assert_eq!(
        verdict.faults,
        [Finding::OtherRegistry { expected, got }, entry(0, "a"), entry(1, "b_2")]
    );
    assert_eq!(forged.verify(&Expected::default()).faults, [entry(0, "a"), entry(1, "b_2")]);

    // The right key in the file, and the impostor's signature below.
    let pretended = SignedRoster::sign(&registry(), &impostor, &complete(), SIGNED).unwrap();
    assert_eq!(pretended.verify(&pinned()).faults, [Finding::RegistrySignature]);

    // The right registry puts another comms key into a's entry.
    let mut roster = sign(&complete());
    roster.members[0].member.comms_key = impostor.public().clone();
    assert_eq!(signed_again(roster).verify(&pinned()).faults, [entry(0, "a")]);
    // Signatures that are right, each over another entry.
    let mut roster = sign(&complete());
    let first = roster.members[0].member.entry_signature.take();
    roster.members[0].member.entry_signature = roster.members[1].member.entry_signature.take();
    roster.members[1].member.entry_signature = first;
    let verdict = signed_again(roster).verify(&pinned());
    assert_eq!(verdict.faults, [entry(0, "a"), entry(1, "b_2")]);
}

#[test]
fn what_a_registry_should_never_have_signed_is_told_all_at_once() {
    let mut roster = sign(&complete());
    roster.cluster.endpoint_count = 2;
    roster.members.swap(0, 1);
    let mut third = roster.members[1].clone();
    third.member.endpoints.truncate(1);
    third.rank = 2;
    roster.members.push(third);
    let (name, id) = ("a".parse().unwrap(), a().id);
    let verdict = signed_again(roster).verify(&pinned());
    assert_eq!(
        verdict.faults,
        [
            Finding::EntrySignature { rank: 2, name: Clone::clone(&name) },
            Finding::TooFewEndpoints { rank: 2, name: Clone::clone(&name), got: 1, asked: 2 },
            Finding::RankRange { rank: 2, name: Clone::clone(&name), size: 2 },
            Finding::RankOrder { rank: 0, after: 1 },
            Finding::NameTwice { name, ranks: [0, 2] },
            Finding::IdTwice { id, ranks: [0, 2] },
        ]
    );
    let shared =
        [Finding::SharedSigKey { ranks: [0, 2] }, Finding::SharedCommsKey { ranks: [0, 2] }];
    assert_eq!(verdict.remarks, shared);
    let ranks: Vec<_> = verdict.faults.iter().map(Finding::rank).collect();
    assert_eq!(ranks, [Some(2), Some(2), Some(2), Some(0), None, None]);
    let texts: Vec<_> =
        verdict.faults.iter().chain(&verdict.remarks).map(ToString::to_string).collect();
    let kinds = verdict.faults.iter().chain(&verdict.remarks).map(Finding::kind);
    assert!(kinds.clone().all(|kind| kind.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())));
    insta::assert_snapshot!(texts.join("\n"), @r"
    member a (rank 2): its entry is not what its sig key signed
    member a (rank 2): 1 endpoint(s), where the cluster asks for 2
    member a: its rank is 2, and there are only ranks 0 to 1
    rank 0 stands after rank 1
    ranks 0 and 2 have the same name, a
    ranks 0 and 2 have the same ID, a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1
    ranks 0 and 2 have the same sig key: they are one node
    ranks 0 and 2 have the same comms key
    ");
}

#[test]
fn the_same_rank_twice_is_out_of_order() {
    let mut roster = sign(&complete());
    roster.members[1].rank = 0;
    let verdict = signed_again(roster).verify(&pinned());
    assert_eq!(verdict.faults, [Finding::RankOrder { rank: 0, after: 0 }]);
}

#[test]
fn an_old_roster_is_refused_only_if_its_age_matters() {
    let roster = parse(COMPLETE).unwrap();
    let minute = Duration::from_secs(60);
    let at = |now: Time, max| roster.verify(&Expected { age: Some((now, max)), ..pinned() }).faults;
    assert_eq!(at(SIGNED, minute), []);
    assert_eq!(at(SIGNED.after(minute), minute), []);
    let later = SIGNED.after(minute * 3);
    assert_eq!(at(later, minute), [Finding::TooOld { age: minute * 3, max: minute }]);
    // Clocks differ, within reason.
    let earlier = |by: Duration| Time::from_millis(SIGNED.as_millis() - by.as_millis() as u64);
    assert_eq!(at(earlier(minute), minute), []);
    assert_eq!(at(earlier(minute * 2), minute), [Finding::FromFuture { ahead: minute * 2 }]);
    assert_eq!(at(Time::from_millis(u64::MAX), minute).len(), 1);
}

// ---------------------------------------------------------------------------------------------
// Texts that have another form.

#[test]
fn there_is_one_text_and_no_other() {
    let hex = "61".repeat(20);
    let key_line = COMPLETE.lines().find(|line| line.contains("commsKey: ")).unwrap();
    let signature = COMPLETE.lines().last().unwrap();
    for other in [
        COMPLETE.replace('\n', "\r\n"),
        COMPLETE.replacen('\n', "\r\n", 1),
        format!("\u{feff}{COMPLETE}"),
        format!("\n{COMPLETE}"),
        format!("{COMPLETE}\n"),
        format!("{COMPLETE} "),
        COMPLETE.trim_end().to_owned(),
        COMPLETE.replace("    ", "\t"),
        COMPLETE.replacen("    name", "   name", 1),
        COMPLETE.replacen("    name", "    name ", 1),
        COMPLETE.replacen("name: ", "name:  ", 1),
        COMPLETE.replacen("xlReg\n", "xlReg \n", 1),
        COMPLETE.replacen("xlReg\n", "xlReg\u{a0}\n", 1),
        COMPLETE.replacen("registry {", "\u{3000}registry {", 1),
        COMPLETE.replacen("}\n", "}\n\n", 1),
        COMPLETE.replacen(&hex, &hex.replacen('6', "06", 1), 1),
        COMPLETE.replacen(&"a0".repeat(20), &"A0".repeat(20), 1),
        COMPLETE.replacen(key_line, &format!("{key_line} a comment"), 1),
        COMPLETE.replacen("53Z", "53.0Z", 1),
        COMPLETE.replacen("53Z", "53+00:00", 1),
        COMPLETE.replacen("T19:23", " 19:23", 1),
        COMPLETE.replacen("size: 2", "size: 02", 1),
        COMPLETE.replacen("complete: yes", "complete: no", 1),
        COMPLETE.replacen("complete: yes", "complete: true", 1),
        COMPLETE.replacen("state: present", "state: left", 1),
        COMPLETE.replacen("state: present", "state: gone", 1),
        COMPLETE.replacen("xlreg-roster 1", "xlreg-roster 2", 1),
        COMPLETE.replacen("0x0000000000000000", "0x0", 1),
        COMPLETE.replacen("endpointCount: 1", "endpointCount: 0", 1),
        COMPLETE.replacen(signature, "signature: ", 1),
        COMPLETE.replacen(signature, "signature: none", 1),
        COMPLETE.replacen(signature, &format!("{signature}AAAA"), 1),
        COMPLETE.replacen(signature, &format!("{signature}={signature}"), 1),
        COMPLETE.repeat(2),
        String::new(),
        "\n".to_owned(),
        "xlreg-roster 1".to_owned(),
    ] {
        match parse(&other) {
            Err(error) => assert!(error.line().is_some(), "{error}"),
            // One byte more, and still a signature, though a wrong one.
            Ok(roster) => assert!(!roster.verify(&pinned()).is_good(), "{other}"),
        }
    }
}

#[test]
fn every_line_is_needed_once_and_in_its_place() {
    for text in [COMPLETE, PARTIAL] {
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        for (index, line) in lines.iter().enumerate() {
            let edited = |edit: &dyn Fn(&mut Vec<&str>)| {
                let mut lines = lines.clone();
                edit(&mut lines);
                parse(&lines.concat())
            };
            let mut wrong = vec![
                edited(&|lines| lines.truncate(index)),
                edited(&|lines| lines.insert(index, "nonsense: 1\n")),
            ];
            // An endpoint more or fewer, or another order of them, is another roster.
            if line.contains("endpoint: ") {
                for other in [
                    edited(&|lines| drop(lines.drain(index..=index))),
                    edited(&|lines| lines.insert(index, line)),
                ] {
                    assert!(other.is_err() || !other.unwrap().verify(&pinned()).is_good());
                }
            } else {
                wrong.push(edited(&|lines| drop(lines.drain(index..=index))));
                wrong.push(edited(&|lines| lines.insert(index, line)));
            }
            for result in wrong {
                let error = result.unwrap_err();
                // Never blamed on a line before, but for what the lines after it decide.
                assert!(
                    error.line().unwrap() > index || told(&error).contains("complete"),
                    "{index}: {error}"
                );
            }
        }
    }
}

#[test]
fn sizes_are_capped() {
    let huge = vec![b'\n'; FILE_BYTES_MAX + 1];
    assert!(matches!(SignedRoster::parse(&huge), Err(TextError::TooLarge { .. })));
    let long = COMPLETE.replacen("name: xlReg", &format!("name: {}", "x".repeat(5000)), 1);
    assert!(matches!(parse(&long), Err(TextError::LineTooLong { line: 4, .. })));
    let (start, end) = (COMPLETE.find("    member {").unwrap(), COMPLETE.rfind("}\n").unwrap());
    let member = &COMPLETE[start..end];
    let many = COMPLETE.replacen(member, &member.repeat(CLUSTER_SIZE_MAX as usize), 1);
    assert!(matches!(parse(&many), Err(TextError::TooMany { max: 64, .. })));
    let endpoint = "            endpoint: 10.0.0.7:4001\n";
    let many = COMPLETE.replacen(endpoint, &endpoint.repeat(9), 1);
    assert!(matches!(parse(&many), Err(TextError::TooMany { max: 8, .. })));
}

#[test]
fn errors_say_where_and_what() {
    let show = |text: &str| told(&parse(text).unwrap_err());
    let key_line = COMPLETE.lines().find(|line| line.contains("commsKey: ")).unwrap();
    let not_text = SignedRoster::parse(b"xlreg-roster 1\nregistry {\n    id: \xff\xfe");
    insta::assert_snapshot!(
        [
            show(""),
            show("{}"),
            told(&not_text.unwrap_err()),
            show(&COMPLETE.replacen("xlreg-roster 1", "xlreg-roster 2", 1)),
            show(&COMPLETE.replacen(&"a0".repeat(20), "a0", 1)),
            show(&COMPLETE.replacen("size: 2", "size: 65", 1)),
            show(&COMPLETE.replacen("size: 2", "size: 3", 1)),
            show(&COMPLETE.replacen("complete: yes", "complete: maybe", 1)),
            show(&COMPLETE.replacen("53Z", "53", 1)),
            show(&COMPLETE.replacen("10.0.0.7:4001", "10.0.0.7", 1)),
            show(&COMPLETE.replacen(key_line, &format!("{key_line} a comment"), 1)),
            show(&COMPLETE.replacen("xlReg\n", "xlReg\r\n", 1)),
            show(COMPLETE.trim_end()),
            show(&format!("{COMPLETE}\n")),
            show(&COMPLETE[..COMPLETE.len() - 9]),
        ]
        .join("\n"),
        @r"
        signed roster, line 2: expected `xlreg-roster 1`, found the end of the text
        signed roster, line 1: expected `xlreg-roster 1`, found `{}`
        signed roster, line 3: expected text, found a byte 0xff
        signed roster, line 1: expected `xlreg-roster 1`, found `xlreg-roster 2`
        signed roster, line 3: id cannot be read: not an ID: 40 hex digits are expected, got 2
        signed roster, line 10: size cannot be read: expected a number from 2 to 64
        signed roster, line 14: expected `no\n` at column 15, found `yes\n`
        signed roster, line 14: expected `complete: yes` or `complete: no`, found `complete: maybe`
        signed roster, line 16: signed cannot be read: expected a time to the second, in UTC, such as 2026-11-24T19:23:53Z
        signed roster, line 27: endpoint cannot be read: an endpoint is HOST:PORT with a port from 1 to 65535, such as 127.0.0.1:4000 or [::1]:4000: there is no ':'
        signed roster, line 25: expected `\n` at column 399, found ` a comment\n`
        signed roster, line 4: expected `\n` at column 16, found `\r\n`
        signed roster, line 47: expected `\n` at column 356, found the end of the text
        signed roster, line 48: expected the end of the text at column 1, found `\n`
        signed roster, line 47: signature cannot be read: a signature has 256 to 512 bytes, got 252
        "
    );
}

// ---------------------------------------------------------------------------------------------
// Anything at all.

prop_compose! {
    fn any_ranked()(
        rank in 0..CLUSTER_SIZE_MAX,
        left in any::<bool>(),
        id in any::<[u8; 20]>(),
        name in "[A-Za-z_][A-Za-z0-9_]{0,127}",
        attrs in any::<u64>(),
        keys_of in 0usize..4,
        endpoints in prop::collection::vec((any::<std::net::Ipv6Addr>(), 1u16..), 1..=8),
        signature in prop::option::of(prop::collection::vec(any::<u8>(), 256..=512)),
    ) -> Ranked {
        let Keys { registry, a_sig, b_sig, c_sig, .. } = keys();
        let keys = [registry.public(), a_sig.public(), b_sig.public(), c_sig];
        let endpoints = endpoints.iter().map(|(host, port)| format!("[{host}]:{port}"));
        Ranked { rank, left, member: Member {
            id: NodeId::from_bytes(id),
            name: name.parse().unwrap(),
            attrs,
            comms_key: keys[keys_of].clone(),
            sig_key: keys[3 - keys_of].clone(),
            endpoints: endpoints.map(|text| text.parse().unwrap()).collect(),
            entry_signature: signature.and_then(|bytes| EntrySignature::new(&bytes)),
        } }
    }
}

prop_compose! {
    fn any_roster()(
        size in 2..=CLUSTER_SIZE_MAX,
        endpoint_count in 1u32..=2,
        attrs in any::<u64>(),
        revision in any::<u64>(),
        seconds in 0u64..=253_402_300_799,
        members in prop::collection::vec(any_ranked(), 0..6),
        signature in prop::collection::vec(any::<u8>(), 256..=512),
    ) -> SignedRoster {
        let mut roster = sign(&complete());
        let about = &mut roster.cluster;
        (about.size, about.endpoint_count) = (size, endpoint_count);
        (about.attrs, about.revision) = (attrs, revision);
        (roster.signed, roster.members) = (Time::from_millis(seconds * 1000), members);
        roster.signature = signature;
        roster
    }
}

/// Whatever is read has the very bytes that it is written with, and nothing about it can go wrong.
fn assert_harmless(bytes: &[u8]) {
    match SignedRoster::parse(bytes) {
        Ok(roster) => {
            assert_eq!(roster.to_text().as_bytes(), bytes);
            let expected = Expected { age: Some((SIGNED, Duration::ZERO)), ..pinned() };
            let verdict = roster.verify(&expected);
            for finding in verdict.faults.iter().chain(&verdict.remarks) {
                assert!(finding.to_string().len() < 500);
            }
        }
        Err(error) => assert!(told(&error).len() < 500, "{error}"),
    }
}

/// Lines of the vectors in any order, with rubbish in between.
fn any_lines() -> impl Strategy<Value = String> {
    let known: Vec<String> = PARTIAL.lines().map(str::to_owned).collect();
    let line = prop_oneof![6 => prop::sample::select(known), 1 => any::<String>()];
    prop::collection::vec(line, 0..60).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn rosters_survive_their_text(roster in any_roster()) {
        let text = roster.to_text();
        prop_assert_eq!(parse(&text), Ok(roster));
        assert_harmless(text.as_bytes());
    }

    #[test]
    fn no_bytes_at_all_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        assert_harmless(&bytes);
    }

    #[test]
    fn no_text_at_all_makes_the_parser_panic(text in any::<String>()) {
        assert_harmless(text.as_bytes());
    }

    #[test]
    fn no_mixture_of_lines_makes_the_parser_panic(text in any_lines()) {
        assert_harmless(text.as_bytes());
    }

    #[test]
    fn a_stretch_put_in_place_of_another_is_refused(
        at in any::<prop::sample::Index>(),
        gone in 0usize..80,
        put in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = COMPLETE.as_bytes().to_vec();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + gone);
        bytes.splice(at..end, put);
        assert_harmless(&bytes);
        if bytes != COMPLETE.as_bytes() && let Ok(roster) = SignedRoster::parse(&bytes) {
            prop_assert!(!roster.verify(&Expected::default()).is_good());
        }
    }

    #[test]
    fn any_byte_in_place_of_any_other_is_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let place = at.index(PARTIAL.len());
        if PARTIAL.as_bytes()[place] != byte {
            assert_refused(PARTIAL, place, byte);
        }
    }
}
