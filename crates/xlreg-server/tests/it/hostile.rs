//! Clients that send anything but what they should.

use std::net::Ipv4Addr;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use xlreg_proto::channel::Dialect;
use xlreg_proto::keys::random;
use xlreg_proto::message::{Reply, Request};
use xlreg_server::config::Connections;
use xlreg_server::rates::Rate;

use crate::support::{Client, Running, member, patient, rest, soon};

#[tokio::test]
async fn three_hundred_garbage_connections_disturb_nobody_and_leave_nothing_behind() {
    const MAX: usize = 8;
    let server = Running::in_memory(Connections { max_per_address: MAX, ..patient() }).await;
    let mut honest = Client::known(server.address, 0).await;
    for round in 0..300 {
        let garbage: Vec<u8> = match round % 6 {
            0 => vec![],
            1 => random::<1>().into(),
            2 => random::<255>().into(),
            3 => random::<256>().into(),
            4 => random::<257>().into(),
            _ => random::<20_000>().into(),
        };
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may have had enough before all of it is written.
        let _reset = stream.write_all(&garbage).await;
        let _reset = stream.shutdown().await;
        assert_eq!(rest(stream).await, [], "{} bytes were answered", garbage.len());
        if round % 50 == 0 {
            let reply = honest.ask(&Request::Credentials).await;
            assert!(matches!(reply, Reply::Credentials { .. }));
        }
    }
    // All of this address's places are free again, except that of the honest one.
    let mut others = Vec::new();
    for number in 1..MAX {
        others.push(Client::known(server.address, number as u8).await);
    }
    let one_too_many = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(rest(one_too_many).await, []);
    for client in others {
        client.bye().await;
    }
    honest.bye().await;
    let report = server.stop().await;
    assert_eq!((report.completed, report.turned_away, report.aborted), (MAX as u64, 1, 0));
}

/// Hellos that are all in order, since the registry's key is known to everybody; nothing comes after.
#[tokio::test]
async fn a_flood_of_hellos_is_shed_before_it_costs_rsa_and_others_do_not_wait_for_it() {
    const FLOOD: usize = 200;
    const BURST: u32 = 5;
    let unproven_hellos = Rate { per_second: 1, burst: BURST };
    let server = Running::in_memory(Connections { unproven_hellos, ..patient() }).await;
    let began = Instant::now();
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(Client::knock(server.address, Dialect::V1_9).await);
    }
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    for number in 0..2 * BURST {
        let (stream, hello) = Client::knock_from(elsewhere, server.address, Dialect::V1_8).await;
        let mut honest = soon(Client::answered(stream, hello)).await;
        assert!(matches!(honest.ask(&member(number as u8)).await, Reply::MemberOk { .. }));
    }
    drop(flood);
    let report = server.stop().await;
    let paid_off = began.elapsed().as_secs() + 1;
    assert!(report.opened <= u64::from(3 * BURST) + paid_off, "{} were opened", report.opened);
}

/// Else these would take two minutes.
#[tokio::test]
async fn who_proves_who_it_is_may_come_as_often_as_it_likes() {
    let unproven_hellos = Rate { per_second: 1, burst: 2 };
    let server = Running::in_memory(Connections { unproven_hellos, ..patient() }).await;
    soon(async {
        for number in 0..120 {
            Client::known(server.address, number).await;
        }
    })
    .await;
    assert_eq!(server.stop().await.opened, 120);
}
