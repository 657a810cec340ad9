//! Who may come in, and who may do what, over the wire.

use std::sync::Arc;
use std::time::Duration;

use xlreg_api::v2::ErrorReason;
use xlreg_api::{Fault, TokenSecret, v2};
use xlreg_core::Time;
use xlreg_core::limits::Limits;
use xlreg_proto::channel::Dialect;
use xlreg_proto::keys::random;
use xlreg_proto::message::Reply;
use xlreg_server::Config;
use xlreg_server::config::{Access, Listed};
use xlreg_store::{Clock, LocalEngine};

use crate::caller::{Asked, Caller, asked, defined, joining, refused};
use crate::support::{Client, Running, claim, join, key, patient, sig_key, soon};

const HOUR: Duration = Duration::from_secs(3600);

/// A registry whose time stands still until it is moved on.
async fn serve(access: Access) -> (Clock, Running) {
    let clock = Clock::standing(Time::from_millis(1_800_000_000_000));
    let engine = LocalEngine::in_memory_by(clock.clone(), Limits::default());
    let config = Config { access, connections: patient(), ..Config::default() };
    (clock, Running::with(Arc::new(engine), config).await)
}

/// A cluster whose members must be of this kind.
fn kind(cluster: &str, kind: v2::join_policy::Kind) -> v2::CreateClusterRequest {
    v2::CreateClusterRequest {
        policy: Some(v2::JoinPolicy { kind: Some(kind) }),
        ..defined(cluster, 3)
    }
}

pub(crate) fn with_token(cluster: &str) -> v2::CreateClusterRequest {
    kind(cluster, v2::join_policy::Kind::Token(v2::join_policy::Token {}))
}

fn with_keys(cluster: &str, numbers: &[usize]) -> v2::CreateClusterRequest {
    let print = |number: &usize| sig_key(*number).public().fingerprint().as_bytes().to_vec();
    let sig_key_sha256 = numbers.iter().map(print).collect();
    kind(cluster, v2::join_policy::Kind::Keys(v2::join_policy::Keys { sig_key_sha256 }))
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says_until_its_time_is_over() {
    let (clock, server) = serve(Access::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.define(with_token("alpha")).await.unwrap();
    let issued = owner.token("alpha", 2, HOUR).await.unwrap();
    let mut a = Caller::known(server.address, 1).await;
    let mut b = Caller::known(server.address, 2).await;
    let mut c = Caller::known(server.address, 3).await;

    assert_eq!(a.join_with("alpha", "a", &issued.secret).await, Ok(0));
    // The same keys again are the same join; as the same name with it or without, and late.
    for secret in [&*issued.secret, ""] {
        assert_eq!(a.join_with("alpha", "a", secret).await, Ok(0));
    }
    assert_eq!(owner.tokens("alpha").await.unwrap()[0].uses, 1);
    assert!(clock.advance(HOUR - Duration::from_millis(1)));
    assert_eq!(b.join_with("alpha", "b", &issued.secret).await, Ok(1));
    let spent = c.join_with("alpha", "c", &issued.secret).await;
    refused(spent, ErrorReason::TokenSpent);

    let issued = owner.token("alpha", 1, HOUR).await.unwrap();
    assert!(clock.advance(HOUR));
    refused(c.join_with("alpha", "c", &issued.secret).await, ErrorReason::TokenExpired);
    assert_eq!(a.join_with("alpha", "a", "").await, Ok(0), "who is in comes back without one");
    a.leave("alpha").await.unwrap();
    assert_eq!(a.join_with("alpha", "a", "").await, Ok(0), "and after leaving, too");
}

#[tokio::test]
async fn a_secret_that_is_wrong_revoked_or_anothers_is_no_token() {
    let (_, server) = serve(Access::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    for cluster in ["alpha", "beta"] {
        owner.define(with_token(cluster)).await.unwrap();
    }
    let issued = owner.token("alpha", 3, HOUR).await.unwrap();
    let others = owner.token("beta", 3, HOUR).await.unwrap();
    let id = TokenSecret::parse(&issued.secret).unwrap().id();
    let guessed = TokenSecret::from_random(id, random());
    let mut a = Caller::known(server.address, 1).await;
    refused(a.join("alpha", "a").await, ErrorReason::TokenRequired);
    refused(a.join_with("alpha", "a", "xlt_nonsense").await, ErrorReason::InvalidField);
    for secret in [guessed.as_str(), &others.secret] {
        refused(a.join_with("alpha", "a", secret).await, ErrorReason::TokenInvalid);
    }
    let token = issued.token.unwrap().id;
    owner.revoke("alpha", &token).await.unwrap();
    refused(a.join_with("alpha", "a", &issued.secret).await, ErrorReason::TokenInvalid);
    refused(owner.revoke("alpha", &token).await, ErrorReason::TokenNotFound);
    assert_eq!(owner.tokens("alpha").await.unwrap(), []);
    assert_eq!(owner.get("alpha").await.unwrap().members, []);
}

#[tokio::test]
async fn only_keys_of_the_list_come_in_and_only_the_owner_sees_the_list() {
    let (_, server) = serve(Access::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.define(with_keys("alpha", &[1, 2])).await.unwrap();
    let mut listed = Caller::known(server.address, 1).await;
    refused(owner.join("alpha", "o").await, ErrorReason::KeyNotAllowed);
    assert_eq!(listed.join("alpha", "a").await, Ok(0));
    let keys = |cluster: &v2::Cluster| match cluster.policy.as_ref().unwrap().kind.as_ref() {
        Some(v2::join_policy::Kind::Keys(keys)) => keys.sig_key_sha256.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys(&owner.get("alpha").await.unwrap()), 2);
    assert_eq!(keys(&listed.get("alpha").await.unwrap()), 0);
    // A page of clusters would be too large with all their lists.
    let page = asked(owner.grpc.list_clusters(v2::ListClustersRequest::default())).await.unwrap();
    assert_eq!(keys(&page.clusters[0]), 0);
}

/// So a cluster has an owner that is known, and that the rate of registrations has counted.
#[tokio::test]
async fn nobody_creates_or_joins_a_cluster_unless_it_has_registered() {
    let (_, server) = serve(Access::default()).await;
    let mut stranger = Caller::connect(server.address, 0).await;
    refused(stranger.create("alpha", 2).await, ErrorReason::NotRegistered);
    refused(stranger.get("alpha").await, ErrorReason::ClusterNotFound);
    refused(stranger.join("alpha", "a").await, ErrorReason::NotRegistered);
    stranger.register(&[]).await.unwrap();
    stranger.create("alpha", 2).await.unwrap();
    assert_eq!(stranger.join("alpha", "a").await, Ok(0));
}

/// Members of the old wire come into open clusters only, but see the rosters of all.
#[tokio::test]
async fn clients_of_the_old_wire_come_into_open_clusters_only() {
    let (_, server) = serve(Access::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.create("open", 3).await.unwrap();
    owner.define(with_token("token")).await.unwrap();
    // Not even a key of the list.
    owner.define(with_keys("keys", &[1])).await.unwrap();
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        for (cluster, comes_in) in [("open", true), ("token", false), ("keys", false)] {
            let mut client = Client::connect(server.address, dialect).await;
            let reply = client.ask(&claim(70, sig_key(1))).await;
            assert!(matches!(reply, Reply::MemberOk { .. }), "{reply:?}");
            match client.ask(&join(cluster)).await {
                Reply::Joined(_) => assert!(comes_in, "{cluster}"),
                Reply::Error(text) => {
                    assert_eq!(text, "cluster does not take members over this wire");
                    assert!(!comes_in, "{cluster}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_id_serves_only_the_key_that_registered_it_over_either_door() {
    let (_, server) = serve(Access::default()).await;
    let mut owner = Caller::known(server.address, 0).await;
    owner.create("alpha", 3).await.unwrap();
    owner.join("alpha", "a").await.unwrap();
    // An ID of the old wire's, and one of the modern door's: 60 and 0.
    let mut old = Client::connect(server.address, Dialect::V1_9).await;
    assert!(matches!(old.ask(&claim(60, key())).await, Reply::MemberOk { .. }));

    let mut thief = Caller::known(server.address, 1).await;
    for stolen in [0, 60] {
        refused(thief.register(&[stolen; 20]).await, ErrorReason::IdInUse);
        let node_id = vec![stolen; 20];
        let request = v2::JoinClusterRequest { node_id, ..joining("alpha", "b") };
        let joined = asked(thief.grpc.join_cluster(request)).await;
        refused(joined, ErrorReason::NotRegistered);
        for dialect in [Dialect::V1_8, Dialect::V1_9] {
            let mut old = Client::connect(server.address, dialect).await;
            let reply = old.ask(&claim(stolen, sig_key(1))).await;
            assert_eq!(reply, Reply::Error("ID already in use".to_owned()));
        }
    }
    // Nor does the name serve another key.
    refused(thief.join("alpha", "a").await, ErrorReason::MemberNameInUse);
    assert_eq!(thief.join("alpha", "b").await, Ok(1));
}

/// Over a new connection, over one that is open, in a watch that goes on, and by a session of the old wire amid its course.
#[tokio::test]
async fn a_retired_key_is_refused_everywhere() {
    let (_, server) = serve(Access::default()).await;
    let mut caller = Caller::known(server.address, 0).await;
    caller.create("alpha", 3).await.unwrap();
    caller.join("alpha", "a").await.unwrap();
    let mut watch = caller.watch("alpha", None).await.unwrap();
    watch.snapshot().await;
    let mut sessions = Vec::new();
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let mut session = Client::connect(server.address, dialect).await;
        assert!(matches!(session.ask(&claim(0, sig_key(0))).await, Reply::MemberOk { .. }));
        sessions.push(session);
    }
    caller.rotate(sig_key(1)).await.unwrap();

    assert_eq!(watch.change().await.1, "a");
    let ended = soon(watch.0.message()).await.unwrap_err();
    assert_eq!(Fault::read(&ended).unwrap().reason, ErrorReason::KeyRetired);
    let retired = "this key was retired: another has taken its place";
    for mut session in sessions {
        assert_eq!(session.ask(&join("alpha")).await, Reply::Error(retired.to_owned()));
    }
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        for id in [0, 77] {
            let mut session = Client::connect(server.address, dialect).await;
            let reply = session.ask(&claim(id, sig_key(0))).await;
            assert_eq!(reply, Reply::Error(retired.to_owned()));
        }
    }
    for old in [&mut caller, &mut Caller::connect(server.address, 0).await] {
        for asked in everything(old).await {
            refused(asked, ErrorReason::KeyRetired);
        }
    }
    let mut new = Caller::connect(server.address, 1).await;
    assert_eq!(new.join("alpha", "a").await, Ok(0), "ID, rank and cluster are the new key's");
    new.delete("alpha").await.unwrap();
}

/// Each call, of which nothing but the refusal counts.
async fn everything(caller: &mut Caller) -> Vec<Asked<()>> {
    vec![
        caller.register(&[]).await.map(drop),
        caller.create("beta", 2).await.map(drop),
        caller.join("alpha", "a").await.map(drop),
        caller.get("alpha").await.map(drop),
        caller.watch("alpha", None).await.map(drop),
        caller.list().await.map(drop),
        caller.leave("alpha").await.map(drop),
        caller.relocate("alpha").await.map(drop),
        caller.expel("alpha", 0).await.map(drop),
        caller.delete("alpha").await,
        caller.token("alpha", 1, HOUR).await.map(drop),
        caller.tokens("alpha").await.map(drop),
        caller.revoke("alpha", "00000000").await,
        caller.rotate(sig_key(2)).await.map(drop),
        caller.describe().await.map(drop),
    ]
}

#[tokio::test]
async fn owner_and_administrators_command_a_cluster_and_nobody_else_does() {
    let admins = [sig_key(1).public().fingerprint()].into();
    let (_, server) = serve(Access { admins, ..Access::default() }).await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut admin = Caller::known(server.address, 1).await;
    let mut member = Caller::known(server.address, 2).await;
    let mut stranger = Caller::connect(server.address, 3).await;
    for (cluster, commander) in [("alpha", &mut owner), ("beta", &mut admin)] {
        // Both of them the owner's.
        Caller::connect(server.address, 0).await.define(with_token(cluster)).await.unwrap();
        let issued = commander.token(cluster, 3, HOUR).await.unwrap();
        member.join_with(cluster, "m", &issued.secret).await.unwrap();
        for other in [&mut member, &mut stranger] {
            for asked in [
                other.expel(cluster, 2).await.map(drop),
                other.delete(cluster).await,
                other.token(cluster, 1, HOUR).await.map(drop),
                other.tokens(cluster).await.map(drop),
                other.revoke(cluster, "00000000").await,
            ] {
                refused(asked, ErrorReason::NotOwner);
            }
        }
        let token = &commander.tokens(cluster).await.unwrap()[0];
        assert_eq!(token.uses, 1);
        commander.revoke(cluster, &token.id).await.unwrap();
        commander.expel(cluster, 2).await.unwrap();
        let issued = commander.token(cluster, 3, HOUR).await.unwrap();
        let back = member.join_with(cluster, "m", &issued.secret).await;
        refused(back, ErrorReason::Expelled);
        commander.delete(cluster).await.unwrap();
    }
}

/// A list is of one's own; but whoever knows a cluster's name may ask for it, as its clients do.
#[tokio::test]
async fn a_registry_may_list_to_each_what_is_its_own() {
    for (listing, lists) in [(Listed::All, ["ab", "ab", "ab"]), (Listed::Own, ["a", "ab", "ab"])] {
        let admins = [sig_key(2).public().fingerprint()].into();
        let (_, server) = serve(Access { listing, admins, ..Access::default() }).await;
        let mut a = Caller::known(server.address, 0).await;
        let mut b = Caller::known(server.address, 1).await;
        let mut admin = Caller::known(server.address, 2).await;
        a.create("a", 2).await.unwrap();
        b.create("b", 2).await.unwrap();
        // A member of the one, the owner of the other.
        b.join("a", "b").await.unwrap();
        for (caller, list) in [&mut a, &mut b, &mut admin].into_iter().zip(lists) {
            assert_eq!(caller.list().await.unwrap().concat(), list);
        }
        a.get("b").await.unwrap();
        a.watch("b", None).await.unwrap().snapshot().await;
    }
}
