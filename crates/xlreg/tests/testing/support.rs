//! Members that answer, and what asks them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use xlreg::testing::TestMember;

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
