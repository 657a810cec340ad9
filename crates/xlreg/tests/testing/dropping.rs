//! Nothing stays, however a test ends.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use xlreg::testing::TestCluster;

use crate::support::{echo, nobody_listens};

/// What should be gone.
#[derive(Debug, Default)]
struct Traces {
    addresses: Vec<SocketAddr>,
    dirs: Vec<PathBuf>,
    pids: Vec<i32>,
}

impl Traces {
    fn of(cluster: &TestCluster) -> Self {
        let mut traces = Self::default();
        for member in cluster.members() {
            traces.addresses.push(member.address(0));
            traces.dirs.push(member.dir().to_owned());
            traces.dirs.push(member.dir().parent().unwrap().to_owned());
            let output = cluster.output(member.rank());
            traces
                .pids
                .extend(output.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
        let registry = cluster.registry().credentials().endpoints[0].to_string();
        traces.addresses.push(registry.parse().unwrap());
        traces
    }

    fn assert_there(&self) {
        assert!(self.dirs.iter().all(|dir| dir.exists()), "{self:?}");
        assert!(self.pids.iter().all(|pid| is_alive(*pid)), "{self:?}");
    }

    fn assert_gone(&self) {
        for address in &self.addresses {
            assert!(nobody_listens(*address), "{address} {self:?}");
        }
        for dir in &self.dirs {
            assert!(!dir.exists(), "{} {self:?}", dir.display());
        }
        for pid in &self.pids {
            assert!(!is_alive(*pid), "{pid} {self:?}");
        }
    }
}

/// Whether the process runs; one that was killed and that nobody has asked for yet does not.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn functions() -> TestCluster {
    let cluster = TestCluster::builder().serve(echo).start().await.unwrap();
    cluster.pause(1).await.unwrap();
    cluster
}

/// Shells that don't listen to SIGTERM, each with a child.
async fn programs() -> TestCluster {
    let script = "trap '' TERM; sleep 600 & echo $$ $!; echo up; while :; do sleep 600; done";
    let builder = TestCluster::builder().command("sh").args(["-c", script]).ready("line:up");
    let cluster = builder.start().await.unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.pause(1).await.unwrap();
    cluster
}

/// Runs a test that panics with a cluster at hand, and returns what should be gone by then.
fn panic_with<Starting: Future<Output = TestCluster>>(
    runtime: Runtime,
    start: impl Fn() -> Starting + Send + 'static,
) -> Traces {
    let (send, traces) = mpsc::channel();
    let test = thread::spawn(move || {
        runtime.block_on(async {
            let cluster = start().await;
            let traces = Traces::of(&cluster);
            traces.assert_there();
            send.send(traces).unwrap();
            // As a failed assertion, but without its noise.
            resume_unwind(Box::new("the test has failed"));
        });
    });
    assert!(test.join().is_err());
    traces.recv().unwrap()
}

#[test]
fn nothing_stays_when_a_test_panics() {
    for make in [current_thread, multi_thread] {
        let traces = panic_with(make(), functions);
        assert_eq!(traces.addresses.len(), 4);
        traces.assert_gone();
        let traces = panic_with(make(), programs);
        assert_eq!(traces.pids.len(), 6);
        traces.assert_gone();
    }
}

/// A cluster may outlive the runtime it was started in, and be dropped outside any.
#[test]
fn nothing_stays_when_the_runtime_ends_first() {
    for make in [current_thread, multi_thread] {
        let runtime = make();
        let clusters = runtime.block_on(async { (functions().await, programs().await) });
        drop(runtime);
        let traces = [Traces::of(&clusters.0), Traces::of(&clusters.1)];
        for traces in &traces {
            traces.assert_there();
        }
        drop(clusters);
        for traces in traces {
            traces.assert_gone();
        }
    }
}

#[tokio::test]
async fn nothing_stays_of_one_that_is_stopped() {
    let cluster = functions().await;
    let traces = Traces::of(&cluster);
    cluster.stop().await.unwrap();
    traces.assert_gone();
    // These would take all of the grace.
    let cluster = programs().await;
    let traces = Traces::of(&cluster);
    for rank in 0..3 {
        cluster.kill(rank).await.unwrap();
    }
    cluster.stop().await.unwrap();
    traces.assert_gone();
}
