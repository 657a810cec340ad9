//! Clients that send anything but what they should.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use xlreg_proto::keys::random;
use xlreg_proto::message::{Reply, Request};
use xlreg_server::config::Connections;

use crate::support::{Client, Running, patient, rest};

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
