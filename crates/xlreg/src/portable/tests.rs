use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::OnceLock;

use xlreg_core::{ClusterId, Endpoint, NodeId};
use xlreg_proto::text::{NodeFile, sshkey};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An identity, the same for all tests: keys take their time.
fn me() -> Identity {
    static ME: OnceLock<Identity> = OnceLock::new();
    let make = || {
        let key = || PrivateKey::generate().unwrap();
        Identity::from_keys(name("me"), key(), key())
    };
    ME.get_or_init(make).clone()
}

fn other_key() -> Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(|| Arc::new(PrivateKey::generate().unwrap())))
}

fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A roster of `me`, called as this, at rank 1 and of another at rank 0.
fn roster(my_name: &str, my_endpoints: &[&str]) -> Roster {
    let other = Member {
        id: NodeId::from_bytes([1; 20]),
        name: name("other"),
        attrs: 0,
        comms_key: other_key().public().clone(),
        sig_key: other_key().public().clone(),
        endpoints: endpoints(&["ssh.example:22", "[2001:DB8::0:1]:4000", "x.XLREG:1"]),
        entry_signature: None,
    };
    let mine = Member {
        id: me().id().unwrap(),
        name: name(my_name),
        attrs: 0,
        comms_key: me().comms_key().clone(),
        sig_key: me().sig_key().clone(),
        endpoints: endpoints(my_endpoints),
        entry_signature: None,
    };
    Roster {
        name: Some(name("alpha")),
        id: ClusterId::from_bytes([7; 20]),
        size: 2,
        attrs: 0,
        endpoint_count: 1,
        members: vec![Arc::new(other), Arc::new(mine)],
        ranks: vec![0, 1],
        about: None,
    }
}

fn portable() -> Portable {
    Portable::new(&me(), &roster("me", &["127.0.0.1:4001"])).unwrap()
}

fn text(path: &'static str, content: &str) -> File {
    File::public(path, content.to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_member_is_found_by_its_key_whatever_it_is_called() {
    assert_eq!(portable().rank(), 1);
    let renamed = Portable::new(&me(), &roster("called_so_here", &["127.0.0.1:1"])).unwrap();
    assert_eq!(renamed.member().name, name("called_so_here"));
    let mut without = roster("me", &["127.0.0.1:1"]);
    without.members.truncate(1);
    without.ranks.truncate(1);
    let error = Portable::new(&me(), &without).unwrap_err().to_string();
    assert!(error.starts_with("me is not a member of cluster alpha: none of its members (other)"));
}

#[tokio::test]
async fn the_json_has_everything_but_the_private_key() {
    let portable = portable();
    let tls = portable.tls(VALID).await.unwrap();
    let file = portable.json(&tls, Path::new("/etc/m"));
    assert!(!file.private);
    let json: Value = serde_json::from_str(&file.content).unwrap();
    assert_eq!(json["member"]["rank"], 1);
    assert_eq!(json["certificate"], tls.certificate_pem());
    assert_eq!(json["roster_ca"], tls.roster_ca.to_pem());
    assert_eq!(json["key_file"], "/etc/m/key.pem");
    assert_eq!(json["members"], portable.roster().to_file_json()["members"]);
    assert!(json["valid_until"].as_str().unwrap().ends_with('Z'));
    assert!(!file.content.contains("PRIVATE"));
    // Nor does anything print it.
    assert!(!format!("{:?}", portable.ssh()).contains("BEGIN"));
}

/// A bundle has an anchor for each member, oneself among them, and a root.
#[tokio::test]
async fn tls_files_are_three_and_only_the_key_is_private() {
    let tls = portable().tls(VALID).await.unwrap();
    assert_eq!(tls.roster_ca.to_pem().matches("-----BEGIN CERTIFICATE-----\n").count(), 3);
    assert_eq!(tls.certificate_pem().matches("-----END CERTIFICATE-----\n").count(), 1);
    assert!(tls.client().is_ok());
    assert!(tls.key_pem().starts_with("-----BEGIN PRIVATE KEY-----\nMII"));
    let private: Vec<_> = tls.files().iter().map(|file| (file.path, file.private)).collect();
    assert_eq!(private, [("cert.pem", false), ("key.pem", true), ("roster-ca.pem", false)]);
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_an_error_that_names_it() {
    let portable = Portable::new(&me(), &roster("me", &["node.0x1:4001"])).unwrap();
    let error = portable.tls(VALID).await.unwrap_err().to_string();
    assert!(error.contains("\"node.0x1\" is neither a DNS name nor an IP address"), "{error}");
    assert_eq!(portable.ssh().len(), 4, "SSH asks for no certificate");
}

#[test]
fn ssh_lines_are_as_openssh_writes_them() {
    let files = portable().ssh();
    let [hosts, authorized, key, public] = files.as_slice() else { panic!("four files") };
    let mine = format!("{} me\n", sshkey::encode(me().sig_key()));
    let others = format!("{} other\n", sshkey::encode(other_key().public()));
    let expected = format!(
        "ssh.example,[2001:db8::1]:4000,{}.xlreg {others}[127.0.0.1]:4001,{}.xlreg {mine}",
        NodeId::from_bytes([1; 20]),
        me().id().unwrap(),
    );
    assert_eq!(*hosts.content, expected);
    assert_eq!(*authorized.content, format!("{others}{mine}"));
    assert_eq!(*public.content, mine);
    assert!(key.private && key.content.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
    assert_eq!(files.iter().filter(|file| file.private).count(), 1);
}

#[tokio::test]
async fn the_original_librarys_files_read_back() {
    let files = portable().xlattice(Path::new("/var/lib/m"), None).await.unwrap();
    let [node, member] = files.as_slice() else { panic!("two files") };
    assert!(node.private && member.private);
    let node = NodeFile::parse(&node.content).unwrap();
    assert_eq!((node.lfs.as_str(), node.id.node_id()), ("/var/lib/m", me().id()));
    assert_eq!(node.endpoints, endpoints(&["127.0.0.1:4001"]));
    let member = MemberFile::parse(&member.content).unwrap();
    assert_eq!((member.self_index, member.members.len()), (1, 2));
    assert_eq!(member.node.sig_key.public(), me().sig_key());

    let mut nameless = roster("me", &["127.0.0.1:4001"]);
    nameless.name = None;
    let portable = Portable::new(&me(), &nameless).unwrap();
    let error = portable.xlattice(Path::new("."), None).await.unwrap_err();
    assert!(matches!(error, PortableError::NoName { .. }), "{error}");
}

/// What the identity's own file says of the cluster and of its registry is kept.
#[tokio::test]
async fn the_original_librarys_files_are_the_same_without_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let mut roster = roster("me", &["127.0.0.1:4001"]);
    roster.attrs = 1;
    let key = || other_key().public().clone();
    let registry = Credentials {
        name: name("xlReg"),
        id: NodeId::from_bytes([9; 20]).into(),
        comms_key: key(),
        sig_key: key(),
        endpoints: endpoints(&["127.0.0.1:1"]),
        version: xlreg_core::Version::CURRENT,
    };
    let identity = me().keep(dir.path(), Default::default()).await.unwrap();
    identity.keep_roster(dir.path(), &roster, &registry).await.unwrap();
    let contents = async |roster: &Roster, registry: Option<&Credentials>| {
        let portable = Portable::new(&identity, roster).unwrap();
        let files = portable.xlattice(dir.path(), registry).await.unwrap();
        files.into_iter().map(|file| file.content).collect::<Vec<_>>()
    };
    let kept = Roster::kept(dir.path()).await.unwrap();
    assert_eq!(contents(&kept, None).await, contents(&roster, Some(&registry)).await);
}

#[tokio::test]
async fn files_of_ours_are_replaced_and_are_as_private_as_they_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/one");
    let secret = |text: &str| File::private(".xlattice/node.config", text.to_owned().into());
    write(&dir, vec![text("cert.pem", "one"), secret("a")]).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join(".xlattice/node.config")), 0o600);
    assert_eq!(mode(&dir.join("cert.pem")), 0o644);
    // Another form beside it, and then the first again.
    write(&dir, vec![text("known_hosts", "h")]).await.unwrap();
    write(&dir, vec![text("cert.pem", "two"), secret("b")]).await.unwrap();
    assert_eq!(fs::read_to_string(dir.join("cert.pem")).unwrap(), "two");
    assert_eq!(fs::read_to_string(dir.join("known_hosts")).unwrap(), "h");
}

/// Whether writing cert.pem is refused for its sake, with nothing written at all.
async fn is_foreign(dir: &Path) -> bool {
    let written = write(dir, vec![text("a", "new"), text("cert.pem", "ours")]).await;
    let foreign = matches!(
        &written,
        Err(WriteError::Foreign { path }) if *path == dir.join("cert.pem")
    );
    assert!(foreign || written.is_ok(), "{written:?}");
    assert_eq!(foreign, !dir.join("a").exists());
    foreign
}

#[tokio::test]
async fn files_of_others_stay_and_nothing_is_written_then() {
    let new = || tempfile::tempdir().unwrap();
    let somebodys = new();
    fs::write(somebodys.path().join("cert.pem"), "somebody's").unwrap();
    assert!(is_foreign(somebodys.path()).await);
    assert_eq!(fs::read(somebodys.path().join("cert.pem")).unwrap(), b"somebody's");

    // Ours, and then changed; a damaged list makes nobody's files ours.
    for damage in ["cert.pem", ".xlreg-export.json"] {
        let dir = new();
        write(dir.path(), vec![text("cert.pem", "before")]).await.unwrap();
        fs::write(dir.path().join(damage), "changed").unwrap();
        assert!(is_foreign(dir.path()).await, "{damage}");
    }

    // What is behind a link is not ours to replace, nor what is no file.
    let linked = new();
    fs::write(linked.path().join("theirs"), "ours").unwrap();
    symlink(linked.path().join("theirs"), linked.path().join("cert.pem")).unwrap();
    assert!(is_foreign(linked.path()).await);
    let dir = new();
    fs::create_dir(dir.path().join("cert.pem")).unwrap();
    assert!(is_foreign(dir.path()).await);

    // The very same content may be anybody's.
    let same = new();
    fs::write(same.path().join("cert.pem"), "ours").unwrap();
    assert!(!is_foreign(same.path()).await);
}

/// The list is written before the files, so whoever was cut off in between can go on.
#[tokio::test]
async fn a_write_that_was_cut_off_is_done_again() {
    // A name that there is no room behind for what its draft is called.
    const LONG: &str = concat!(
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345"
    );
    let dir = tempfile::tempdir().unwrap();
    let read = || fs::read_to_string(dir.path().join("cert.pem")).unwrap();
    write(dir.path(), vec![text("cert.pem", "one")]).await.unwrap();
    let both = vec![text("cert.pem", "two"), text(LONG, "")];
    let error = write(dir.path(), both).await.unwrap_err();
    assert!(matches!(error, WriteError::File { doing: "writing", .. }), "{error}");
    assert_eq!(read(), "two");
    write(dir.path(), vec![text("cert.pem", "three")]).await.unwrap();
    assert_eq!(read(), "three");
}

#[tokio::test]
async fn a_place_that_can_not_be_written_is_named() {
    let error = write(Path::new("/proc/nobody"), vec![text("a", "")]).await.unwrap_err();
    assert!(error.to_string().starts_with("making /proc/nobody: "), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = write(file.path(), vec![text("a", "")]).await.unwrap_err();
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}
