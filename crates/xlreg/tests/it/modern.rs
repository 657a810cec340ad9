//! The modern door: what only it has, and what stands in the way of it.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use xlreg::{
    ClusterKey, Dialect, Error, Identity, Invitation, Lifetime, NewCluster, NewToken, NodeId,
    Policy, Reason, Registry, TokenSecret, Wire,
};
use xlreg_core::Refusal;
use xlreg_proto::keys::random;

use crate::support::{
    ENOUGH, Running, by_name, cluster, credentials, endpoint, home, identity, identity_of, key,
    name, names, new_key,
};

#[track_caller]
fn assert_refused<T>(result: Result<T, Error>, expected: Refusal) {
    match result.err().expect("a refusal") {
        Error::Refused { reason: Reason::Known(refusal), .. } => assert_eq!(refusal, expected),
        other => panic!("{other}, not {expected}"),
    }
}

/// A node with an ID and a key of its own.
async fn stranger(text: &str) -> Identity {
    identity_of(text, NodeId::from_bytes(random()), &new_key()).await
}

fn with_token(text: &str, size: u32) -> NewCluster {
    NewCluster { policy: Policy::Token, ..cluster(text, size) }
}

#[tokio::test]
async fn a_cluster_lives_from_its_creation_to_its_end() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    assert_eq!(registry.wire(), Wire::V2);
    assert_eq!(registry.greet().await.unwrap(), registry.credentials().version);
    let (owner, a, b) = (stranger("owner").await, stranger("a").await, stranger("b").await);
    let made = registry.create(&owner, &cluster("alpha", 2)).await.unwrap();
    assert_eq!(made.owner, Some(owner.sig_key().fingerprint()));
    assert_eq!(registry.create(&a, &cluster("alpha", 2)).await.unwrap().id, made.id);
    let differs = registry.create(&a, &cluster("alpha", 3)).await;
    assert!(matches!(differs, Err(Error::Differs { size: 2, .. })), "{differs:?}");

    let alpha = by_name("alpha");
    let mut in_a = registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let mut in_b = registry.join(&b, &ClusterKey::Id(made.id), vec![endpoint(2)]).await.unwrap();
    assert_eq!((in_b.id(), in_b.cluster()), (b.id().unwrap(), made.id));
    let roster = in_a.wait(ENOUGH).await.unwrap();
    assert_eq!(in_b.wait(ENOUGH).await.unwrap(), roster);
    assert_eq!(names(&roster), ["a", "b"]);
    let old = registry.clone().with_dialect(Dialect::V1_9);
    assert_eq!(old.show(&owner, &alpha).await.unwrap(), roster, "both wires tell the same");

    registry.update_endpoints(&b, &alpha, &[endpoint(7)]).await.unwrap();
    assert_eq!(in_a.wait(ENOUGH).await.unwrap().members[1].endpoints, [endpoint(7)]);
    registry.leave(&a, &alpha).await.unwrap();
    let gap = registry.show(&owner, &alpha).await.unwrap();
    assert_eq!((names(&gap), gap.is_complete()), (vec!["b"], false));
    assert_eq!(gap.rank(&b.id().unwrap()), Some(1), "a's rank is kept");
    assert_eq!((gap.member(0), gap.about().unwrap().left.len()), (None, 1));
    let json = gap.to_json();
    assert_eq!((&json["members"][0]["rank"], &json["left"][0]["rank"]), (&1.into(), &0.into()));
    assert_eq!((&json["policy"], &json["complete"]), (&"open".into(), &false.into()));
    assert!(gap.to_file_json().get("left").is_none());

    let mine = registry.list(&owner, true).await.unwrap();
    assert_eq!(mine.iter().map(|found| found.cluster.id).collect::<Vec<_>>(), [made.id]);
    assert_eq!(registry.list(&stranger("else").await, true).await.unwrap(), []);
    assert_refused(registry.delete(&a, &alpha).await, Refusal::NotOwner);
    let id = registry.member_id(&owner, &alpha, a.name()).await.unwrap();
    registry.expel(&owner, &alpha, &id).await.unwrap();
    assert_refused(registry.join(&a, &alpha, vec![endpoint(1)]).await, Refusal::Expelled);
    registry.delete(&owner, &alpha).await.unwrap();
    assert_refused(registry.show(&owner, &alpha).await, Refusal::UnknownClusterName);
    assert_eq!(registry.list(&owner, false).await.unwrap(), []);
}

#[tokio::test]
async fn refusals_read_as_they_do_over_the_old_wire() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (a, mine) = (identity("a").await, || vec![endpoint(1)]);
    assert_refused(registry.wait(&a, &by_name("no"), ENOUGH).await, Refusal::UnknownClusterName);
    server.people("full", 2, 2).await;
    let full = registry.join(&a, &by_name("full"), mine()).await;
    assert_refused(full, Refusal::ClusterFull { size: 2 });

    let alpha = by_name("alpha");
    registry.create(&a, &cluster("alpha", 5)).await.unwrap();
    registry.join(&a, &alpha, mine()).await.unwrap();
    let other = new_key();
    let namesake = identity_of("a", NodeId::from_bytes([7; 20]), &other).await;
    assert_refused(registry.join(&namesake, &alpha, mine()).await, Refusal::MemberNameInUse);
    let thief = identity_of("b", a.id().unwrap(), &other).await;
    assert_refused(registry.join(&thief, &alpha, mine()).await, Refusal::IdInUse);
    let renamed = a.clone().with_name(name("b"));
    assert_refused(registry.join(&renamed, &alpha, mine()).await, Refusal::MemberIdInUse);
    let none = registry.join(&identity("c").await, &alpha, vec![]).await;
    assert_refused(none, Refusal::NoEndpoint);
}

#[tokio::test]
async fn tokens_let_in_as_many_as_they_say() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let owner = stranger("owner").await;
    let (a, b, c) = (stranger("a").await, stranger("b").await, stranger("c").await);
    let alpha = by_name("alpha");
    registry.create(&owner, &with_token("alpha", 3)).await.unwrap();
    let new = NewToken { max_uses: 1, label: "for a".into(), ttl: Some(ENOUGH) };
    let (secret, token) = registry.create_token(&owner, &alpha, &new).await.unwrap();
    assert_eq!((token.max_uses, token.uses, token.label.as_str()), (1, 0, "for a"));
    assert_refused(registry.list_tokens(&a, &alpha).await, Refusal::NotOwner);

    let join = async |who: &Identity, secret: Option<&TokenSecret>| {
        registry.join_with(who, &alpha, vec![endpoint(1)], secret).await
    };
    assert_refused(join(&a, None).await, Refusal::TokenRequired);
    join(&a, Some(&secret)).await.unwrap();
    join(&a, None).await.unwrap();
    assert_refused(join(&b, Some(&secret)).await, Refusal::TokenSpent);
    let (second, info) = registry.create_token(&owner, &alpha, &NewToken::default()).await.unwrap();
    assert_eq!(info.max_uses, 3, "one for each member");
    join(&b, Some(&second)).await.unwrap();
    registry.revoke_token(&owner, &alpha, &info.id).await.unwrap();
    assert_refused(join(&c, Some(&second)).await, Refusal::TokenInvalid);
    let again = registry.revoke_token(&owner, &alpha, &info.id).await;
    assert_refused(again, Refusal::UnknownToken);
    let left = registry.list_tokens(&owner, &alpha).await.unwrap();
    assert_eq!(
        left.iter().map(|token| (token.id, token.uses)).collect::<Vec<_>>(),
        [(token.id, 1)]
    );
}

/// Whoever has the line of text needs nothing else.
#[tokio::test]
async fn an_invitation_is_all_that_it_takes() {
    let server = Running::in_memory().await;
    let (owner, a) = (stranger("owner").await, stranger("a").await);
    let alpha = by_name("alpha");
    server.registry.create(&owner, &with_token("alpha", 2)).await.unwrap();
    let (secret, _) =
        server.registry.create_token(&owner, &alpha, &NewToken::default()).await.unwrap();
    let text = server.registry.invitation(&alpha, Some(&secret)).unwrap().to_text();

    let invitation: Invitation = text.parse().unwrap();
    let registry = Registry::from_invitation(&invitation, &a).await.unwrap();
    assert_eq!(registry.credentials(), server.registry.credentials());
    let (cluster, token) = (invitation.cluster(), invitation.token());
    registry.join_with(&a, cluster, vec![endpoint(1)], token).await.unwrap();
    let root = registry.root_certificate(&a).await.unwrap();
    assert_eq!(root, server.registry.root_certificate(&owner).await.unwrap());

    // One to another registry's key is refused before anything is sent.
    let other = Invitation::new(
        invitation.endpoints().to_vec(),
        key().public().fingerprint(),
        alpha.clone(),
        None,
    );
    let error = Registry::from_invitation(&other.unwrap(), &a).await.unwrap_err();
    assert!(matches!(error, Error::WrongKey { .. }), "{error}");
}

#[tokio::test]
async fn another_registrys_key_is_named_with_what_to_do() {
    let server = Running::in_memory().await;
    let mut credentials = server.registry.credentials().clone();
    credentials.sig_key = key().public().clone();
    let error = Registry::new(credentials).register(&identity("a").await).await.unwrap_err();
    let (expected, got) = (key().public().fingerprint(), home().keys().sig.public().fingerprint());
    assert!(
        matches!(error, Error::WrongKey { expected: e, got: g, .. } if (e, g) == (expected, got)),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains(&expected.to_string()) && text.contains("get its credentials"), "{text}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn who_hangs_up_amid_the_handshake_may_be_busy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = Registry::new(credentials(listener.local_addr().unwrap()));
    let hang_up = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        drop(stream);
    };
    let (error, ()) = tokio::join!(registry.describe(), hang_up);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::HungUp { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn the_old_wire_says_what_it_lacks_before_anything_is_sent() {
    // Nobody listens there, so whatever connects fails otherwise.
    let nowhere = Registry::new(credentials("127.0.0.1:1".parse().unwrap()));
    let registry = nowhere.with_dialect(Dialect::V1_9);
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    let secret = TokenSecret::from_random(random(), random());
    let lifetime = Lifetime { ttl: Some(ENOUGH), ..Lifetime::default() };
    let short = NewCluster { lifetime, ..cluster("alpha", 2) };
    for error in [
        registry.create(&a, &with_token("alpha", 2)).await.err(),
        registry.create(&a, &short).await.err(),
        registry.join_with(&a, &alpha, vec![endpoint(1)], Some(&secret)).await.err(),
        registry.watch(&a, &alpha).await.err(),
        registry.list(&a, false).await.err(),
        registry.leave(&a, &alpha).await.err(),
        registry.delete(&a, &alpha).await.err(),
        registry.create_token(&a, &alpha, &NewToken::default()).await.err(),
        registry.rotate(&a, xlreg::NewKeys::default()).await.err(),
        registry.root_certificate(&a).await.err(),
    ] {
        let error = error.unwrap();
        assert!(matches!(error, Error::OldWire { wire: Wire::V1_9, .. }), "{error}");
    }
}

#[tokio::test]
async fn who_waits_hears_that_the_cluster_is_gone_or_that_it_was_expelled() {
    let server = Running::in_memory().await;
    let registry = &server.registry;
    let (owner, a) = (stranger("owner").await, stranger("a").await);
    let alpha = by_name("alpha");
    registry.create(&owner, &cluster("alpha", 2)).await.unwrap();
    let mut in_a = registry.join(&a, &alpha, vec![endpoint(1)]).await.unwrap();
    let me = in_a.id();
    let (waited, expelled) = tokio::join!(in_a.wait(ENOUGH), registry.expel(&owner, &alpha, &me));
    expelled.unwrap();
    assert_refused(waited, Refusal::Expelled);

    let b = stranger("b").await;
    let mut in_b = registry.join(&b, &alpha, vec![endpoint(2)]).await.unwrap();
    let (inside, outside, deleted) =
        tokio::join!(in_b.wait(ENOUGH), registry.wait(&owner, &alpha, ENOUGH), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            registry.delete(&owner, &alpha).await
        });
    deleted.unwrap();
    for waited in [inside, outside] {
        let error = waited.unwrap_err();
        assert!(error.to_string().contains("alpha is gone: it was deleted"), "{error}");
    }

    let lifetime =
        Lifetime { fill_within: Some(Duration::from_millis(300)), ..Lifetime::default() };
    let brief = NewCluster { lifetime, ..cluster("brief", 2) };
    registry.create(&owner, &brief).await.unwrap();
    let mut in_b = registry.join(&b, &by_name("brief"), vec![endpoint(2)]).await.unwrap();
    let error = in_b.wait(ENOUGH).await.unwrap_err();
    assert!(error.to_string().contains("brief is gone: it has expired"), "{error}");
}
