//! Both doors lead to one registry, however many come through them at once.

use std::sync::Arc;

use tokio::task::JoinSet;
use xlreg_api::v2;
use xlreg_api::v2::ErrorReason;
use xlreg_core::Seat;
use xlreg_core::limits::Limits;
use xlreg_proto::channel::Dialect;
use xlreg_proto::message::Reply;
use xlreg_store::LocalEngine;

use crate::caller::{Asked, Caller, asked, defined, joining, refused};
use crate::support::{
    Client, REGISTRY, Running, claim, create, get, join, key, member, names, patient, sig_key,
};

/// Modern clients share a few keys, since keys take their time; their IDs and names differ.
const KEYS: usize = 8;

/// Number `number` of either door joins; its rank, or none if the cluster is full.
async fn race(server: std::net::SocketAddr, number: u8) -> bool {
    let name = format!("m{number}");
    if number.is_multiple_of(2) {
        let mut racer = Caller::connect(server, usize::from(number) / 2 % KEYS).await;
        racer.register(&[number; 20]).await.unwrap();
        let joined: Asked<u32> = racer.join_as(number, "alpha", &name).await;
        return match joined {
            Ok(_) => true,
            full => {
                refused(full, ErrorReason::ClusterFull);
                false
            }
        };
    }
    let dialect = if number % 4 == 1 { Dialect::V1_8 } else { Dialect::V1_9 };
    let mut racer = Client::connect(server, dialect).await;
    racer.ask(&member(number)).await;
    match racer.ask(&join("alpha")).await {
        Reply::Joined(_) => true,
        Reply::Error(text) => {
            assert_eq!(text, "cluster is full");
            false
        }
        other => panic!("{other:?}"),
    }
}

/// The names of a cluster's members by rank, as each door tells them.
async fn rosters(server: &Running, cluster: &str) -> [Vec<String>; 2] {
    let mut modern = Caller::connect(server.address, 0).await;
    let told = modern.get(cluster).await.unwrap();
    let modern = told.members.into_iter().filter(|m| !m.left).map(|m| m.name).collect();
    let mut old = Client::known(server.address, 250).await;
    let reply = old.ask(&get(cluster, u64::MAX)).await;
    let old = names(&reply).into_iter().map(str::to_owned).collect();
    [modern, old]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_four_who_race_for_three_places_through_both_doors_three_win() {
    let server = Running::in_memory(patient()).await;
    let mut maker = Caller::known(server.address, 9).await;
    maker.create("alpha", 3).await.unwrap();
    let mut racers = JoinSet::new();
    for number in 100..164 {
        let address = server.address;
        racers.spawn(async move { race(address, number).await.then(|| format!("m{number}")) });
    }
    let mut winners: Vec<_> = racers.join_all().await.into_iter().flatten().collect();
    let [modern, old] = rosters(&server, "alpha").await;
    assert_eq!(modern, old);
    winners.sort_unstable();
    let mut roster = modern;
    roster.sort_unstable();
    assert_eq!((roster.len(), roster), (3, winners));
}

/// On a store that takes its time, so that a call that did not wait would be answered before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_comes_after_a_registration_on_its_connection_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = LocalEngine::open(dir.path(), REGISTRY, Limits::default()).unwrap();
    let server = Running::start(Arc::new(engine), patient()).await;
    for number in 0..KEYS {
        let mut caller = Caller::connect(server.address, number).await;
        let (mut second, mut third) = (caller.grpc.clone(), caller.grpc.clone());
        let (id, name) = ([number as u8 + 1; 20], format!("alpha{number}"));
        let (registered, created, joined) = tokio::join!(
            biased;
            caller.register(&id),
            asked(second.create_cluster(defined(&name, 2))),
            // Refused for want of the cluster, not of a registration.
            asked(third.join_cluster(v2::JoinClusterRequest {
                node_id: id.to_vec(),
                ..joining("beta", "a")
            })),
        );
        assert_eq!((registered.unwrap().id, created.unwrap().created), (id.to_vec(), true));
        refused(joined, ErrorReason::ClusterNotFound);
    }
    // A registration that is refused lets them go on, too.
    let mut caller = Caller::connect(server.address, KEYS).await;
    let mut second = caller.grpc.clone();
    let (registered, created) = tokio::join!(
        biased;
        caller.register(&[1; 20]),
        asked(second.create_cluster(defined("beta", 2))),
    );
    refused(registered, ErrorReason::IdInUse);
    refused(created, ErrorReason::NotRegistered);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_creates_the_same_cluster_through_both_doors_gets_the_same_one() {
    let server = Running::in_memory(patient()).await;
    for round in 0..8 {
        let cluster = format!("alpha{round}");
        let mut modern = Caller::known(server.address, 0).await;
        let mut old = Client::known(server.address, 101).await;
        let asked = create(&cluster, 3);
        let (made, found) = tokio::join!(modern.create(&cluster, 3), old.ask(&asked));
        let made = made.unwrap();
        let Reply::Created(found) = found else { panic!("{found:?}") };
        assert_eq!((found.id.as_bytes().to_vec(), found.size), (made.id, made.size));
        let owners = [sig_key(0), key()].map(|key| key.public().fingerprint().as_bytes().to_vec());
        assert!(owners.contains(&made.owner_sha256));
    }
}

/// Two come and go through the modern door, two come back again and again through the old one, and
/// whoever watches can follow all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_through_both_doors_keep_their_ranks() {
    const ROUNDS: usize = 12;
    let server = Running::in_memory(patient()).await;
    let address = server.address;
    let mut owner = Caller::known(address, 0).await;
    owner.create("alpha", 4).await.unwrap();
    let mut news = owner.watch("alpha", None).await.unwrap();
    let mut followed = news.snapshot().await;
    let mut members = JoinSet::new();
    for number in 1..=2 {
        members.spawn(async move {
            let mut caller = Caller::known(address, number).await;
            let name = format!("m{number}");
            let rank = caller.join("alpha", &name).await.unwrap();
            for _ in 0..ROUNDS {
                caller.leave("alpha").await.unwrap();
                assert_eq!(caller.join("alpha", &name).await, Ok(rank));
            }
        });
    }
    for number in 103..=104 {
        members.spawn(async move {
            for _ in 0..ROUNDS {
                let mut client = Client::connect(address, Dialect::V1_9).await;
                client.ask(&claim(number, key())).await;
                assert!(matches!(client.ask(&join("alpha")).await, Reply::Joined(_)));
                client.bye().await;
            }
        });
    }
    members.join_all().await;
    // Four came, and two went and returned.
    let last = (4 + 2 * 2 * ROUNDS) as u64;
    while followed.revision < last {
        match news.next().await.unwrap() {
            xlreg_api::convert::News::Change(event) => followed.follow(&event),
            other => panic!("{other:?}"),
        }
    }
    let followed: Vec<_> = followed.seats.iter().filter_map(Seat::present).collect();
    let followed: Vec<_> = followed.iter().map(|member| member.name.to_string()).collect();
    let [modern, old] = rosters(&server, "alpha").await;
    assert_eq!((&modern, &old), (&followed, &followed));
    assert_eq!(modern.len(), 4);
}
