use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use xlreg::testing::{TestCluster, TestError, TestMember};

/// A member of your system: here, one that tells everyone who connects which rank it has.
async fn serve(member: TestMember) {
    let listener = member.take_listener(0).unwrap();
    while let Ok((mut caller, _)) = listener.accept().await {
        caller.write_u64(member.rank() as u64).await.unwrap();
    }
}

#[tokio::test]
async fn a_killed_member_comes_back() -> Result<(), TestError> {
    let cluster = TestCluster::builder().size(5).serve(serve).start().await?;
    let three = cluster.member(3).address(0);

    cluster.kill(3).await?;
    assert!(TcpStream::connect(three).await.is_err(), "nobody listens there any more");

    cluster.restart(3).await?;
    let rank = TcpStream::connect(three).await.unwrap().read_u64().await.unwrap();
    assert_eq!(rank, 3);
    cluster.stop().await
}
