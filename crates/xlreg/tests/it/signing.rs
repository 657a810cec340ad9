//! What members sign of themselves, what registries sign of them, and what becomes of both.

use std::sync::Arc;

use tokio::time::timeout;
use xlreg::signing::{Expected, Finding};
use xlreg::{
    ClusterKey, Dialect, EntrySignature, Error, EventKind, Identity, Member, NewKeys, News, Reason,
    Registry, SignedRoster,
};
use xlreg_core::{Admission, Command, Refusal};

use crate::support::{ENOUGH, Running, by_name, cluster, endpoint, home, identity, name, new_key};

/// All that there is to ask of a roster, for whoever knows the registry.
fn strict() -> Expected {
    let registry = Some(home().keys().sig.public().fingerprint());
    Expected { registry, ..Expected::default() }
}

async fn roster(registry: &Registry, who: &Identity, cluster: &ClusterKey) -> SignedRoster {
    registry.signed_roster(who, cluster).await.unwrap()
}

fn unsigned(rank: u32, text: &str) -> Finding {
    Finding::Unsigned { rank, name: name(text) }
}

#[tokio::test]
async fn whoever_joins_by_the_modern_door_signs_its_entry() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, b, alpha) = (identity("a").await, identity("b").await, by_name("alpha"));
    let made = registry.create(&a, &cluster("alpha", 2)).await.unwrap();
    registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let half = roster(registry, &b, &alpha).await;
    assert_eq!(half.verify(&strict()).faults, [Finding::Incomplete { present: 1, size: 2 }]);
    registry.join(&b, &ClusterKey::Id(made.id), vec![endpoint(2), endpoint(3)]).await.unwrap();
    let full = roster(registry, &b, &ClusterKey::Id(made.id)).await;
    assert_eq!(full.verify(&strict()).faults, []);
    assert_eq!((full.cluster.id, full.cluster.revision), (made.id, 2));
    assert_eq!(full.registry.name, name("xlReg"));
    let names: Vec<_> = full.members.iter().map(|one| one.member.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    // To join once more is to say the same, and nobody hears of it.
    registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    assert_eq!(roster(registry, &a, &alpha).await, full, "the same revision, signed once");

    // Who moves signs that, and who leaves and returns has signed it.
    registry.update_endpoints(&a, &alpha, &[endpoint(7)]).await.unwrap();
    registry.leave(&a, &alpha).await.unwrap();
    let left = roster(registry, &a, &alpha).await;
    assert_eq!(left.verify(&strict()).faults, [Finding::Incomplete { present: 1, size: 2 }]);
    assert!(left.members[0].left);
    assert_eq!(left.members[0].member.endpoints, [endpoint(7)]);
    registry.join(&a, &alpha, vec![endpoint(7)]).await.unwrap();
    let back = roster(registry, &a, &alpha).await;
    assert!(back.verify(&strict()).is_good() && back.cluster.revision == 5);
    assert_eq!(back.members[0].member.entry_signature, left.members[0].member.entry_signature);
}

/// Rosters and news carry the signatures, so that whoever follows a cluster has them, too.
#[tokio::test]
async fn rosters_and_news_carry_signatures_and_are_equal_without_them() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    registry.create(&a, &cluster("alpha", 2)).await.unwrap();
    let mut watch = registry.watch(&a, &alpha).await.unwrap();
    watch.next().await.unwrap();
    registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let News::Change(event) = timeout(ENOUGH, watch.next()).await.unwrap().unwrap() else {
        panic!("a change");
    };
    let signed = roster(registry, &a, &alpha).await.members[0].member.clone();
    assert!(signed.entry_signature.is_some());
    assert_eq!((event.kind, &*event.member), (EventKind::Joined, &signed));
    let shown = registry.show(&a, &alpha).await.unwrap();
    assert_eq!(*shown.members[0], signed);
    let old = registry.clone().with_dialect(Dialect::V1_9).show(&a, &alpha).await.unwrap();
    assert_eq!(old.members[0].entry_signature, None);
    assert_eq!(old, shown);
}

/// The old wire has no place for a signature; who comes that way can sign later.
#[tokio::test]
async fn members_over_the_old_wire_have_signed_nothing_until_they_do() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let old = registry.clone().with_dialect(Dialect::V1_9);
    let (a, b, alpha) = (identity("a").await, identity("b").await, by_name("alpha"));
    registry.create(&a, &cluster("alpha", 2)).await.unwrap();
    old.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    registry.join(&b, &alpha, vec![endpoint(2)]).await.unwrap();
    let before = roster(registry, &b, &alpha).await;
    assert_eq!(before.verify(&strict()).faults, [unsigned(0, "a")]);
    assert!(before.verify(&Expected { unsigned: true, ..strict() }).is_good());

    assert_eq!(registry.sign_entries(&a).await.unwrap(), 1);
    assert!(roster(registry, &b, &alpha).await.verify(&strict()).is_good());
    assert_eq!(registry.sign_entries(&a).await.unwrap(), 0);
    // The very same over the old wire leaves it, another endpoint doesn't.
    old.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    assert!(roster(registry, &b, &alpha).await.verify(&strict()).is_good());
    old.join(&a, &alpha, vec![endpoint(9)]).await.unwrap();
    let after = roster(registry, &b, &alpha).await;
    assert_eq!(after.verify(&strict()).faults, [unsigned(0, "a")]);

    let refused = old.signed_roster(&b, &alpha).await;
    assert!(matches!(refused, Err(Error::OldWire { .. })), "{refused:?}");
    assert!(matches!(old.sign_entries(&b).await, Err(Error::OldWire { .. })));
}

#[tokio::test]
async fn new_keys_sign_again_in_every_cluster_that_the_member_is_in() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, b) = (Identity::generate(name("a")).await.unwrap(), identity("b").await);
    for text in ["alpha", "beta", "gamma"] {
        registry.create(&b, &cluster(text, 2)).await.unwrap();
        registry.join(&a, &by_name(text), vec![endpoint(1)]).await.unwrap();
        registry.join(&b, &by_name(text), vec![endpoint(2)]).await.unwrap();
    }
    registry.leave(&a, &by_name("gamma")).await.unwrap();
    let old = roster(registry, &b, &by_name("alpha")).await;
    let keys = NewKeys { sig: Some(new_key()), comms: Some(new_key()) };
    let next = registry.rotate(&a, keys).await.unwrap();
    for text in ["alpha", "beta"] {
        let new = roster(registry, &b, &by_name(text)).await;
        assert!(new.verify(&strict()).is_good());
        assert_eq!(new.members[0].member.sig_key, *next.sig_key());
        assert_eq!(new.cluster.revision, 4, "rotated, and signed");
    }
    // Whoever has left signs when it comes back.
    let faults = roster(registry, &b, &by_name("gamma")).await.verify(&strict()).faults;
    assert_eq!(faults, [unsigned(0, "a"), Finding::Incomplete { present: 1, size: 2 }]);
    registry.join(&next, &by_name("gamma"), vec![endpoint(1)]).await.unwrap();
    assert!(roster(registry, &b, &by_name("gamma")).await.verify(&strict()).is_good());
    // A roster is as good as it was, of its time.
    assert!(old.verify(&strict()).is_good());

    let keys = NewKeys { sig: None, comms: Some(new_key()) };
    registry.rotate(&next, keys).await.unwrap();
    assert!(roster(registry, &b, &by_name("alpha")).await.verify(&strict()).is_good());
}

/// A registry that shows what nobody has signed is caught by whoever asks it.
#[tokio::test]
async fn a_roster_that_does_not_hold_is_not_handed_on() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    let made = registry.create(&a, &cluster("alpha", 2)).await.unwrap();
    registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let shown = registry.show(&a, &alpha).await.unwrap();
    let lie = Member { endpoints: vec![endpoint(666)], ..Member::clone(&shown.members[0]) };
    let command = Command::Join {
        cluster: ClusterKey::Id(made.id),
        member: Arc::new(lie.clone()),
        admission: Admission::Key,
    };
    server.engine.apply(command).await.unwrap();
    let refused = registry.signed_roster(&a, &alpha).await.unwrap_err().to_string();
    assert!(refused.contains("member a (rank 0): its entry is not what its sig key"), "{refused}");
    let unknown = registry.signed_roster(&a, &by_name("omega")).await.unwrap_err();
    let expected = Reason::Known(Refusal::UnknownClusterName);
    assert!(matches!(&unknown, Error::Refused { reason, .. } if *reason == expected), "{unknown}");

    // Nor does anybody sign for a comms key that is not its own.
    let other = Member {
        comms_key: new_key().public().clone(),
        entry_signature: EntrySignature::new(&[7; 256]),
        ..lie
    };
    let b = identity("b").await;
    let theirs = Member { id: b.id().unwrap(), name: name("b"), ..other };
    server
        .engine
        .apply(Command::Join {
            cluster: ClusterKey::Id(made.id),
            member: Arc::new(theirs),
            admission: Admission::Key,
        })
        .await
        .unwrap();
    let refused = registry.update_endpoints(&b, &alpha, &[endpoint(5)]).await.unwrap_err();
    assert!(refused.to_string().contains("comms key that is not ours"), "{refused}");
    let stranger = registry.update_endpoints(&identity("c").await, &alpha, &[endpoint(5)]).await;
    let expected = Reason::Known(Refusal::NotAMember);
    let stranger = stranger.unwrap_err();
    assert!(
        matches!(&stranger, Error::Refused { reason, .. } if *reason == expected),
        "{stranger}"
    );
}

#[tokio::test]
async fn a_signed_roster_is_kept_and_one_of_old_goes() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let dir = tempfile::tempdir().unwrap();
    let me = Identity::create(dir.path(), name("me")).await.unwrap();
    registry.create(&me, &cluster("alpha", 2)).await.unwrap();
    let signed = roster(registry, &me, &by_name("alpha")).await;
    let path = me.keep_signed_roster(dir.path(), Some(&signed)).await.unwrap();
    assert_eq!(path, dir.path().join("roster.signed"));
    assert_eq!(SignedRoster::parse(&std::fs::read(&path).unwrap()), Ok(signed));
    for _ in 0..2 {
        me.keep_signed_roster(dir.path(), None).await.unwrap();
        assert!(!path.exists());
    }
    let nowhere = path.join("nowhere");
    std::fs::write(&path, "in the way").unwrap();
    assert!(matches!(me.keep_signed_roster(&nowhere, None).await, Err(Error::Identity(_))));
}
