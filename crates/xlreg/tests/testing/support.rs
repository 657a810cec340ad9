//! Members that answer, and what asks them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use xlreg::testing::TestMember;

/// Long enough for anything that works.
pub(crate) const ENOUGH: Duration = Duration::from_secs(60);

/// Sends back each byte that comes, from a task of its own for each connection.
pub(crate) async fn echo(member: TestMember) {
    echo_on(member.take_listener(0).unwrap()).await;
}

pub(crate) async fn echo_on(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
            }
        });
    }
}

/// Whether somebody answers there.
pub(crate) async fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    stream.write_u8(7).await.is_ok() && stream.read_u8().await.is_ok_and(|byte| byte == 7)
}

/// Whether somebody listens there, answering or not.
pub(crate) fn listens(address: SocketAddr) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

/// Waits until nobody listens there. Of a port that is free again, that may take a while: another
/// test can have it by now.
pub(crate) fn nobody_listens(address: SocketAddr) -> bool {
    let began = Instant::now();
    while listens(address) {
        if began.elapsed() > ENOUGH {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
