//! Texts: what is read is read again from what we write of it, and no error breaks while it is told.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use xlreg_core::{ClusterId, Fingerprint, NodeId, Time};
use xlreg_launch::place::TlsFiles;
use xlreg_launch::{Offer, Place, Places, Readiness, Template, Values};
use xlreg_proto::keys::{self, PrivateKey};
use xlreg_proto::text::roster::Expected;
use xlreg_proto::text::{Credentials, MemberFile, NodeFile, SignedRoster, pem, sshkey};

use xlreg_server::Config;
use xlreg_server::config::File;

use crate::parts::Parts;

/// Credentials of a registry.
pub fn credentials(text: &str) {
    match Credentials::parse(text) {
        Ok(read) => assert_eq!(Credentials::parse(&read.to_text()), Ok(read)),
        Err(error) => drop(error.to_string()),
    }
}

/// A node's file. Reading one to its end costs several RSA operations.
pub fn node_file(text: &str) {
    match NodeFile::parse(text) {
        Ok(read) => {
            let written = read.to_text();
            let again = NodeFile::parse(&written).expect("our own text is read");
            assert_eq!(*again.to_text(), *written);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A member's file. The same.
pub fn member_file(text: &str) {
    match MemberFile::parse(text) {
        Ok(read) => {
            let written = read.to_text();
            let again = MemberFile::parse(&written).expect("our own text is read");
            assert_eq!(*again.to_text(), *written);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A signed roster: read, it is the same bytes again, and what is wrong with it can be told.
pub fn roster(input: &[u8]) {
    let roster = match SignedRoster::parse(input) {
        Ok(roster) => roster,
        Err(error) => return drop(error.to_string()),
    };
    assert_eq!(roster.to_text().as_bytes(), input);
    let strict = Expected {
        registry: Some(Fingerprint::from_bytes([1; 32])),
        age: Some((Time::from_millis(1_795_548_233_000), Duration::from_secs(60))),
        ..Expected::default()
    };
    let lenient = Expected { incomplete: true, unsigned: true, ..Expected::default() };
    assert!(!roster.verify(&strict).is_good());
    let found = roster.verify(&lenient);
    for finding in found.faults.iter().chain(&found.remarks) {
        drop(finding.to_string());
    }
}

/// The roster that a member keeps.
pub fn kept_roster(text: &str) {
    let Ok(roster) = xlreg::fuzzing::kept_roster(text) else { return };
    let written = roster.to_file_json().to_string();
    let again = xlreg::fuzzing::kept_roster(&written).expect("our own text is read");
    assert_eq!(again.to_file_json().to_string(), written);
    assert!(again.is_complete() == (roster.members.len() == roster.size as usize));
}

/// A public key: as DER, as PEM, as OpenSSH has it.
pub fn public_key(input: &[u8]) {
    let mut parts = Parts::new(input);
    let form = parts.byte() % 3;
    let key = match form {
        0 => keys::public_key(parts.rest()).map_err(|error| error.to_string()),
        form => {
            let Ok(text) = str::from_utf8(parts.rest()) else { return };
            if form == 1 {
                pem::decode_public(text).map_err(|error| error.to_string())
            } else {
                sshkey::decode(text).map_err(|error| error.to_string())
            }
        }
    };
    let Ok(key) = key else { return };
    assert_eq!(keys::public_key(key.der()).as_ref(), Ok(&key));
    assert_eq!(pem::decode_public(&pem::encode_public(&key)).as_ref(), Ok(&key));
    assert_eq!(sshkey::decode(&sshkey::encode(&key)).as_ref(), Ok(&key));
    assert!((keys::KEY_BITS_MIN..=keys::KEY_BITS_MAX).contains(&keys::key_bits(&key)));
}

/// A private key. One that is taken signs, which costs an RSA operation.
pub fn private_key(input: &[u8]) {
    match PrivateKey::from_pkcs1(input) {
        Ok(key) => {
            let signature = key.sign(&[b"statement"]).expect("a key that was taken signs");
            assert_eq!(keys::verify(key.public(), &[b"statement"], &signature), Ok(()));
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A template, filled in for each member and for a program alone. Text without a brace stays.
pub fn template(input: &[u8]) {
    let mut parts = Parts::new(input);
    let what = parts.byte();
    let (roster, tls) = (what & 4 == 0, what & 8 != 0);
    let offer = Offer { endpoints: usize::from(what & 3), roster, tls };
    let Ok(text) = str::from_utf8(parts.rest()) else { return };
    let template = match Template::parse(text, &offer) {
        Ok(template) => template,
        Err(error) => return drop(error.to_string()),
    };
    let (places, roster_file) = (places(), Path::new("/run/roster.json"));
    let filled = (0..4).map(|rank| Values::Member { places, rank, roster_file });
    let name = &places.members[0].name;
    let alone = Values::Alone { name, cluster: "alpha", size: 3, dir: Path::new("/run") };
    for values in filled.chain([alone]) {
        let filled = template.fill_with(&values);
        assert!(text.contains('{') || filled == text, "{text:?} became {filled:?}");
    }
}

/// What is to show that a program is ready; then a line that the program prints.
pub fn readiness(input: &[u8]) {
    let mut parts = Parts::new(input);
    let what = parts.byte();
    let offer = Offer { endpoints: 2, roster: what & 1 == 0, tls: what & 2 != 0 };
    let (Ok(text), line) = (str::from_utf8(parts.piece()), parts.rest()) else { return };
    let readiness = match Readiness::parse(text, &offer) {
        Ok(readiness) => readiness,
        Err(error) => return drop(error.to_string()),
    };
    let (places, roster_file) = (places(), Path::new("/run/roster.json"));
    let values = Values::Member { places, rank: 1, roster_file };
    match readiness.check(&values, Vec::new(), None) {
        Ok(check) => {
            let told = check.sees_line(line);
            assert!(!told || text.starts_with("line:"), "{text:?} saw {line:?}");
            drop(check.trouble());
        }
        Err(error) => drop(error.to_string()),
    }
}

fn places() -> &'static Places {
    static PLACES: OnceLock<Places> = OnceLock::new();
    PLACES.get_or_init(|| {
        let place = |number: u8| Place {
            name: format!("member_{number}").parse().expect("a name"),
            id: NodeId::from_bytes([number; 20]),
            endpoints: vec![
                "127.0.0.1:4000".parse().expect("an endpoint"),
                "[::1]:4001".parse().expect("an endpoint"),
            ],
            dir: format!("/run/{number}").into(),
            tls: Some(TlsFiles {
                cert: "/run/cert.pem".into(),
                key: "/run/key.pem".into(),
                roster_ca: "/run/roster-ca.pem".into(),
            }),
        };
        Places {
            cluster: "alpha".into(),
            cluster_id: ClusterId::from_bytes([7; 20]),
            size: 3,
            members: (0..3).map(place).collect(),
        }
    })
}

/// A server's configuration.
pub fn config(text: &str) {
    match toml::from_str::<File>(text) {
        Ok(file) => drop(Config::from_file(&file).map_err(|error| error.to_string())),
        Err(error) => drop(error.to_string()),
    }
}
