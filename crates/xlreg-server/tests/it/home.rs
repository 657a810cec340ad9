//! The data directory: made once, the same registry ever after.

use std::path::Path;

use xlreg_core::Version;
use xlreg_node::Identity;
use xlreg_proto::text::Credentials;
use xlreg_server::{Home, HomeError};

use crate::support::name;

fn open(dir: &Path, asked: Option<&str>) -> Result<Home, HomeError> {
    Home::open(dir, asked.map(name).as_ref(), || name("xlReg"))
}

fn write_credentials(home: &Home, port: u16) -> Credentials {
    let listen = ([127, 0, 0, 1], port).into();
    let credentials = home.credentials(listen, None, Version::CURRENT).unwrap();
    let path = home.write_credentials(&credentials).unwrap();
    let read = Credentials::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(read, credentials);
    read
}

#[test]
fn the_first_opening_makes_a_registry_and_later_ones_find_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/with/its/parents");
    let first = write_credentials(&open(&dir, Some("corner_shop")).unwrap(), 7000);
    assert_eq!(first.name, name("corner_shop"));
    for asked in [None, Some("corner_shop")] {
        let again = write_credentials(&open(&dir, asked).unwrap(), 7001);
        assert_eq!(again.endpoints[0].port(), 7001, "where it listens now");
        assert_eq!(Credentials { endpoints: first.endpoints.clone(), ..again }, first);
    }
    let error = open(&dir, Some("other")).unwrap_err();
    assert!(matches!(error, HomeError::Name { .. }));
    let text = error.to_string();
    assert!(text.contains("corner_shop") && text.contains("other"), "{text}");
}

#[test]
fn a_name_not_given_is_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = write_credentials(&open(dir.path(), None).unwrap(), 7000);
    assert_eq!(credentials.name, name("xlReg"));
}

#[test]
fn an_ephemeral_registry_keeps_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::generate(name("brief")).unwrap();
    write_credentials(&Home::ephemeral(dir.path(), identity).unwrap(), 7000);
    let kept: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

#[test]
fn a_damaged_identity_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".xlattice/node.config");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    for damage in ["", "node {\n", "\u{0}", "node {\n    name: xlReg\n}\n"] {
        std::fs::write(&path, damage).unwrap();
        let error = open(dir.path(), None).unwrap_err();
        assert!(error.to_string().contains("node.config"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
    }
}

/// Only the credentials are for others to read.
#[cfg(unix)]
#[test]
fn what_is_kept_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    use xlreg_core::limits::Limits;
    use xlreg_store::LocalEngine;

    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("registry");
    let home = open(&dir, None).unwrap();
    write_credentials(&home, 7000);
    let _engine = LocalEngine::open(&dir, home.id(), Limits::default()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(".xlattice")), 0o700);
    assert_eq!(mode(&dir.join(".xlattice/node.config")), 0o600);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("regCred.dat") {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files.push(path);
        }
    }
    assert!(files.len() >= 2, "a database and a lock at least: {files:?}");
}
