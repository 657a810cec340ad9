//! No more of anything than was agreed: connections, connections of one address, members.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use xlreg_proto::channel::Dialect;
use xlreg_proto::message::{Reply, Request};
use xlreg_server::config::Connections;

use crate::support::{Client, Running, create, get, join, member, names, patient, rest};

/// The lookup that is held meanwhile is the clock: it gives the server time to do wrong.
#[tokio::test]
async fn beyond_the_most_connections_others_wait_in_the_backlog_and_are_then_served() {
    let hold = Duration::from_millis(100);
    let server = Running::in_memory(Connections { max: 2, hold, ..patient() }).await;
    let mut first = Client::known(server.address, 1).await;
    let second = Client::known(server.address, 2).await;
    let mut queue = Vec::new();
    for _ in 0..3 {
        queue.push(Client::knock(server.address, Dialect::V1_9).await);
    }
    first.ask(&create("alpha", 2)).await;
    assert_eq!(names(&first.ask(&get("alpha", 1)).await), [""; 0]);
    for (stream, _) in &queue {
        assert!(stream.try_read(&mut [0]).is_err(), "served, though there was no room");
    }
    first.bye().await;
    second.bye().await;
    for (mut stream, hello) in queue {
        let mut reply = vec![0; hello.reply_bytes()];
        stream.read_exact(&mut reply).await.unwrap();
        hello.finish(&reply).unwrap();
    }
    let report = server.stop().await;
    assert_eq!((report.accepted, report.turned_away), (5, 0));
}

#[tokio::test]
async fn beyond_the_most_of_one_address_others_are_turned_away_until_there_is_room() {
    let server = Running::in_memory(Connections { max_per_address: 2, ..patient() }).await;
    let first = Client::known(server.address, 1).await;
    let mut second = Client::known(server.address, 2).await;
    for _ in 0..5 {
        let stream = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(rest(stream).await, []);
    }
    assert!(matches!(second.ask(&Request::Credentials).await, Reply::Credentials { .. }));
    first.bye().await;
    Client::known(server.address, 3).await.bye().await;
    let report = server.stop().await;
    assert_eq!((report.accepted, report.turned_away, report.completed), (8, 5, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sixty_four_who_race_for_three_places_three_win() {
    const PLACES: usize = 3;
    let server = Running::in_memory(patient()).await;
    let mut maker = Client::known(server.address, 0).await;
    maker.ask(&create("alpha", PLACES as u32)).await;
    let mut racers = JoinSet::new();
    for number in 1..=64 {
        let dialect = if number % 2 == 0 { Dialect::V1_8 } else { Dialect::V1_9 };
        racers.spawn(async move {
            let mut racer = Client::connect(server.address, dialect).await;
            racer.ask(&member(number)).await;
            (number, racer.ask(&join("alpha")).await)
        });
    }
    let (mut winners, mut losers) = (Vec::new(), 0);
    while let Some(raced) = racers.join_next().await {
        match raced.unwrap() {
            (number, Reply::Joined(_)) => winners.push(format!("m{number}")),
            (_, Reply::Error(text)) => {
                assert_eq!(text, "cluster is full");
                losers += 1;
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!((winners.len(), losers), (PLACES, 64 - PLACES));
    let roster = maker.ask(&get("alpha", u64::MAX)).await;
    let mut roster = names(&roster);
    roster.sort_unstable();
    winners.sort_unstable();
    assert_eq!(roster, winners);
}
