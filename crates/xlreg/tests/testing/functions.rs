//! Members that are functions: killed, paused, started again, and ending by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use xlreg::testing::{MemberState, TestCluster, TestError};

use crate::support::{answers, echo, listens};

/// A task that a member has spawned has a connection of its own. If it outlived the member, the
/// killed would go on answering.
#[tokio::test]
async fn a_killed_member_is_silent_on_old_connections_too() {
    let cluster = TestCluster::builder().serve(echo).start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    let address = cluster.member(1).address(0);
    let mut old = TcpStream::connect(address).await.unwrap();
    old.write_u8(1).await.unwrap();
    assert_eq!(old.read_u8().await.unwrap(), 1);

    cluster.kill(1).await.unwrap();
    assert_eq!(cluster.state(1), MemberState::Killed);
    assert!(!listens(address));
    let _perhaps_refused = old.write_u8(2).await;
    assert!(old.read_u8().await.is_err());
    assert!(answers(cluster.member(0).address(0)).await, "the others live on");
    let again = cluster.kill(1).await.unwrap_err();
    assert!(matches!(again, TestError::NotRunning { .. }), "{again}");
    cluster.wait_ready().await.unwrap();

    cluster.restart(1).await.unwrap();
    assert_eq!(cluster.member(1).address(0), address);
    assert!(answers(address).await);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_member_is_who_it_was_and_has_what_it_had() {
    let serve = |member: xlreg::testing::TestMember| async move {
        let path = member.dir().join("starts");
        let starts = std::fs::read(&path).unwrap_or_default().len();
        std::fs::write(&path, vec![0; starts + 1]).unwrap();
        let listener = member.take_listener(0).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let id = member.id().to_string();
            stream.write_all(format!("{starts} {} {id}", member.rank()).as_bytes()).await.unwrap();
        }
    };
    let cluster = TestCluster::builder().serve(serve).start().await.unwrap();
    let id = cluster.member(2).id();
    for starts in 0..3 {
        let mut stream = TcpStream::connect(cluster.member(2).address(0)).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, format!("{starts} 2 {id}"));
        // Running or not.
        if starts == 1 {
            cluster.kill(2).await.unwrap();
        }
        cluster.restart(2).await.unwrap();
    }
}

/// Whatever a paused member is asked, it answers only when it is resumed; so it saw then what
/// happened before. Its timers stand still as well.
#[tokio::test]
async fn a_paused_member_does_nothing() {
    let resumed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&resumed);
    let serve = move |member: xlreg::testing::TestMember| {
        let seen = Arc::clone(&seen);
        async move {
            let listener = member.take_listener(0).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    while stream.read_u8().await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        stream.write_u8(seen.load(Ordering::SeqCst).into()).await.unwrap();
                    }
                });
            }
        }
    };
    let cluster = TestCluster::builder().serve(serve).start().await.unwrap();
    let connect = |rank: usize| TcpStream::connect(cluster.member(rank).address(0));
    let (mut old, mut running) = (connect(0).await.unwrap(), connect(1).await.unwrap());
    for stream in [&mut old, &mut running] {
        stream.write_u8(1).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 0);
    }
    cluster.pause(0).await.unwrap();
    cluster.pause(0).await.unwrap();
    assert_eq!(cluster.state(0), MemberState::Paused);
    let mut new = connect(0).await.unwrap();
    for stream in [&mut old, &mut new] {
        stream.write_u8(1).await.unwrap();
    }
    // Time enough for one that is not paused.
    for _ in 0..20 {
        running.write_u8(1).await.unwrap();
        assert_eq!(running.read_u8().await.unwrap(), 0);
    }
    resumed.store(true, Ordering::SeqCst);
    cluster.resume(0).await.unwrap();
    assert_eq!(cluster.state(0), MemberState::Running);
    for stream in [&mut old, &mut new] {
        assert_eq!(stream.read_u8().await.unwrap(), 1, "it answered while it was paused");
    }
    cluster.resume(0).await.unwrap();

    // Killed while it is paused, it does not wake up before.
    cluster.pause(0).await.unwrap();
    old.write_u8(1).await.unwrap();
    cluster.kill(0).await.unwrap();
    assert!(old.read_u8().await.is_err());
    cluster.pause(1).await.unwrap();
    cluster.restart(1).await.unwrap();
    assert_eq!(cluster.state(1), MemberState::Running);
    cluster.pause(2).await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_member_that_panics_is_named() {
    let serve = |member: xlreg::testing::TestMember| async move {
        assert_ne!(member.rank(), 1, "not me");
        std::future::pending::<()>().await;
    };
    let cluster = TestCluster::builder().serve(serve).start().await.unwrap();
    let ended = cluster.wait_ended();
    let ended = tokio::time::timeout(Duration::from_millis(1), ended).await;
    assert!(ended.is_err(), "two go on");
    while !cluster.state(1).is_over() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(cluster.state(1), MemberState::Failed(how) if how.contains("not me")));
    let error = cluster.wait_ready().await.unwrap_err();
    assert!(error.to_string().contains("member_1 failed: it panicked"), "{error}");
    let error = cluster.pause(1).await.unwrap_err();
    assert!(matches!(error, TestError::NotRunning { .. }), "{error}");
    let error = cluster.stop().await.unwrap_err();
    assert!(matches!(&error, TestError::Failed(names) if names.len() == 1), "{error}");
}

/// Members that do their work and are done.
#[tokio::test]
async fn members_may_end_by_themselves() {
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let serve = move |member: xlreg::testing::TestMember| {
        count.fetch_add(member.rank() + 1, Ordering::SeqCst);
        std::future::ready(())
    };
    let cluster = TestCluster::builder().size(5).serve(serve).start().await.unwrap();
    cluster.wait_ended().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 15);
    assert_eq!(cluster.state(4), MemberState::Ended);
    cluster.stop().await.unwrap();

    let forever = |_| std::future::pending::<()>();
    let short = TestCluster::builder().size(2).timeout(Duration::from_secs(2)).serve(forever);
    let cluster = short.start().await.unwrap();
    let error = cluster.wait_ended().await.unwrap_err();
    assert!(error.to_string().ends_with("member_0, member_1"), "{error}");
}

#[tokio::test]
async fn a_function_may_be_checked_for_readiness() {
    let cluster = TestCluster::builder().serve(echo).ready("tcp").start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    let cluster = TestCluster::builder().serve(echo).ready("cmd:test {rank} = 0");
    let cluster = cluster.timeout(Duration::from_secs(2)).start().await.unwrap();
    let error = cluster.wait_ready().await.unwrap_err();
    let TestError::NotReady { late, .. } = &error else { panic!("{error}") };
    assert_eq!(late.len(), 2);
    assert!(late[0].starts_with("member_1 runs: `test 1 = 0`"), "{error}");
}
