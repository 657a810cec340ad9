//! Clusters work in tests of every kind, and many at once.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::task::JoinSet;
use xlreg::testing::TestCluster;

use crate::support::{answers, echo};

async fn live() {
    let cluster = TestCluster::builder().serve(echo).ready("tcp").start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.pause(0).await.unwrap();
    cluster.kill(1).await.unwrap();
    cluster.restart(1).await.unwrap();
    cluster.resume(0).await.unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn on_one_thread() {
    live().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_many() {
    live().await;
}

/// The test's clock stands still; the cluster's goes on.
#[tokio::test(start_paused = true)]
async fn with_a_clock_that_stands_still() {
    live().await;
}

/// On no tokio at all.
#[test]
fn on_another_runtime() {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut life = pin!(live());
    while life.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
        thread::park();
    }
}

#[tokio::test]
async fn many_at_once_do_not_meet() {
    let mut clusters = JoinSet::new();
    for _ in 0..8 {
        clusters.spawn(async {
            let cluster = TestCluster::builder().size(5).serve(echo).start().await.unwrap();
            for member in cluster.members() {
                assert!(answers(member.address(0)).await);
            }
            cluster
        });
    }
    let all = clusters.join_all().await;
    let ids: std::collections::HashSet<_> =
        all.iter().flat_map(TestCluster::members).map(|member| member.id()).collect();
    assert_eq!(ids.len(), 40);
}
