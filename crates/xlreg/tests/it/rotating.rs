//! Keys that take the place of others, also when that is cut off in between.

use std::path::Path;
use std::sync::Arc;

use tokio::time::timeout;
use xlreg::{Error, EventKind, Identity, NewKeys, News, PrivateKey, Reason};
use xlreg_core::Refusal;
use xlreg_node::rotation::NEXT_FILE;
use xlreg_proto::text::FileId;

use crate::support::{
    ENOUGH, Running, by_name, cluster, endpoint, identity, identity_in, name, new_key,
};

fn both() -> NewKeys {
    NewKeys { sig: Some(new_key()), comms: Some(new_key()) }
}

fn one(key: &Arc<PrivateKey>) -> NewKeys {
    NewKeys { sig: None, comms: Some(Arc::clone(key)) }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to.join(".xlattice")).unwrap();
    for entry in std::fs::read_dir(from.join(".xlattice")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(".xlattice").join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_rotated_node_keeps_its_rank_and_everyone_hears_of_its_keys() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (looker, alpha) = (identity("looker").await, by_name("alpha"));
    let dir = tempfile::tempdir().unwrap();
    let old = Identity::create(dir.path(), name("a")).await.unwrap();
    registry.create(&looker, &cluster("alpha", 2)).await.unwrap();
    registry.join(&old, &alpha, vec![endpoint(1)]).await.unwrap();
    let mut watch = registry.watch(&looker, &alpha).await.unwrap();
    watch.next().await.unwrap();

    let next = registry.rotate(&old, both()).await.unwrap();
    assert_eq!(next.id(), old.id());
    let loaded = Identity::load(dir.path()).await.unwrap();
    assert_eq!((loaded.sig_key(), loaded.comms_key()), (next.sig_key(), next.comms_key()));
    assert!(!dir.path().join(NEXT_FILE).exists());
    let News::Change(event) = timeout(ENOUGH, watch.next()).await.unwrap().unwrap() else {
        panic!("a change");
    };
    assert_eq!((event.kind, event.rank), (EventKind::Rotated, 0));
    assert_eq!(event.member.sig_key, *next.sig_key());

    let retired = registry.show(&old, &alpha).await.unwrap_err();
    let expected = Reason::Known(Refusal::KeyRetired);
    assert!(matches!(&retired, Error::Refused { reason, .. } if *reason == expected), "{retired}");
    let again = registry.join(&loaded, &alpha, vec![endpoint(1)]).await.unwrap();
    assert_eq!(Some(again.id()), old.id());

    // The comms key alone, twice the same: the second changes nothing.
    let comms = new_key();
    let third = registry.rotate(&loaded, one(&comms)).await.unwrap();
    assert_eq!((third.sig_key(), third.comms_key()), (loaded.sig_key(), comms.public()));
    assert_eq!(registry.rotate(&loaded, one(&comms)).await.unwrap().comms_key(), comms.public());
}

/// Cut off before the registry heard of it, or after: the next attempt ends it with the same keys.
#[tokio::test]
async fn a_rotation_that_was_cut_off_is_finished_by_the_next() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    for keys in [both(), one(&new_key())] {
        let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = Identity::create(dir.path(), name("a")).await.unwrap();
        registry.register(&old).await.unwrap();
        let staged = xlreg_node::Identity::from(old.clone()).stage(&keys).unwrap();
        copy(dir.path(), crashed.path());

        let next = registry.rotate(&old, both()).await.unwrap();
        assert_eq!(next.sig_key(), staged.sig_key().public(), "the keys that were there");
        assert_eq!(next.comms_key(), staged.comms_key().public());

        let old = Identity::load(crashed.path()).await.unwrap();
        let finished = registry.rotate(&old, both()).await.unwrap();
        assert_eq!(finished.sig_key(), next.sig_key());
        let loaded = Identity::load(crashed.path()).await.unwrap();
        assert_eq!(loaded.comms_key(), next.comms_key());
        assert!(!crashed.path().join(NEXT_FILE).exists());
        assert_eq!(registry.register(&loaded).await.unwrap(), old.id().unwrap());
    }
}

/// Of an identity without an ID, the keys alone tell whose rotation it was.
#[tokio::test]
async fn anothers_rotation_is_not_taken_for_ones_own() {
    let server = Running::in_memory().await;
    let (registry, looker) = (&server.registry, identity("looker").await);
    let dir = tempfile::tempdir().unwrap();
    let old = identity_in(dir.path(), "a", FileId::Old([7; 32]), &new_key()).await;
    assert_eq!(old.id(), None);
    let id = registry.register(&old).await.unwrap();
    let (others, own) = (both(), both());
    let prints = [&others, &own].map(|keys| keys.sig.as_ref().unwrap().public().fingerprint());
    registry.rotate(&old, others.clone()).await.unwrap();
    registry.rotate(&old, others).await.unwrap();

    let error = registry.rotate(&old, own).await.unwrap_err();
    let expected = Reason::Known(Refusal::KeyRetired);
    assert!(matches!(&error, Error::Refused { reason, .. } if *reason == expected), "{error}");
    assert_eq!(registry.ids_of(&looker, &prints[0]).await.unwrap(), [id]);
    assert_eq!(registry.ids_of(&looker, &prints[1]).await.unwrap(), [], "no node was made of them");
}

#[tokio::test]
async fn keys_that_are_refused_are_not_kept() {
    let server = Running::in_memory().await;
    let (registry, taken) = (&server.registry, identity("taken").await);
    registry.register(&taken).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = Identity::create(dir.path(), name("a")).await.unwrap();
    let keys = NewKeys { sig: Some(Arc::clone(crate::support::key())), comms: None };
    let error = registry.rotate(&old, keys).await.unwrap_err();
    let expected = Reason::Known(Refusal::KeyInUse);
    assert!(matches!(&error, Error::Refused { reason, .. } if *reason == expected), "{error}");
    assert!(!dir.path().join(NEXT_FILE).exists());
    registry.rotate(&old, both()).await.unwrap();
}
