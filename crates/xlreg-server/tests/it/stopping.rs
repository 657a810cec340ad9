//! How a server ends: in good order, in time, and by itself when its store fails.

use std::time::Duration;

use tokio::net::TcpStream;
use xlreg_proto::channel::Dialect;
use xlreg_server::config::Connections;
use xlreg_store::StoreError;

use crate::rigged::{Mood, Rigged};
use crate::support::{Client, Running, create, get, member, names, patient, rest};

#[tokio::test]
async fn a_drain_answers_held_lookups_and_counts() {
    let engine = Rigged::new(Mood::Well);
    let server = Running::start(engine.clone(), patient()).await;
    Client::known(server.address, 1).await.bye().await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let idle = Client::connect(server.address, Dialect::V1_8).await;
    let mut waiter = Client::known(server.address, 2).await;
    waiter.ask(&create("alpha", 2)).await;
    waiter.send(&get("alpha", 0b11)).await;
    engine.asked.notified().await;
    server.stop.cancel();
    assert_eq!(names(&waiter.receive().await), [""; 0]);
    for stream in [waiter.stream, idle.stream, silent] {
        assert_eq!(rest(stream).await, []);
    }
    let address = server.address;
    let report = server.stop().await;
    assert_eq!((report.accepted, report.completed, report.turned_away), (4, 1, 0));
    assert_eq!(report.aborted, 0);
    assert!(report.failure.is_none());
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_session_that_does_not_end_is_aborted_when_the_drain_is_over() {
    let engine = Rigged::new(Mood::Stuck);
    let bounds = Connections { drain: Duration::from_millis(20), ..patient() };
    let server = Running::start(engine.clone(), bounds).await;
    let mut client = Client::connect(server.address, Dialect::V1_9).await;
    client.send(&member(1)).await;
    engine.asked.notified().await;
    let report = server.stop().await;
    assert_eq!((report.accepted, report.completed, report.aborted), (1, 0, 1));
    assert_eq!(rest(client.stream).await, [], "what was not decided is not answered");
}

/// Whatever became of the command, nobody may be told that it was carried out.
#[tokio::test]
async fn a_store_that_fails_stops_the_server_and_answers_nobody() {
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let server = Running::start(Rigged::new(Mood::Failing), patient()).await;
        let bystander = Client::connect(server.address, dialect).await;
        let mut client = Client::connect(server.address, dialect).await;
        client.send(&member(1)).await;
        assert_eq!(rest(client.stream).await, []);
        assert_eq!(rest(bystander.stream).await, []);
        let report = server.report.await.unwrap();
        assert!(matches!(report.failure.as_deref(), Some(StoreError::WriterGone)));
        assert_eq!((report.completed, report.aborted), (0, 0));
    }
}
