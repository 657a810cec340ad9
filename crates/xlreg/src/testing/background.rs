//! The runtime for what must outlive any test's own.
//!
//! A test's runtime may have one thread, which the test itself blocks; its clock may stand still;
//! and when the test panics it is gone before everything is cleaned up. So registries and programs
//! live on a runtime that all tests of a process share, and that ends with the process.

use std::io;
use std::panic::resume_unwind;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use super::error::TestError;

/// Runs `future` in the background, and waits for it. Works within any runtime or none; if the
/// caller is dropped, so is the future.
pub(super) async fn run<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T, TestError> {
    let task = AbortOnDropHandle::new(runtime()?.spawn(future));
    // It is not aborted while we wait, so all that can have gone wrong is a panic.
    Ok(task.await.unwrap_or_else(|error| resume_unwind(error.into_panic())))
}

/// Runs what blocks in the background, and waits for it.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TestError> {
    let panicked = |error: tokio::task::JoinError| resume_unwind(error.into_panic());
    run(async move { spawn_blocking(work).await.unwrap_or_else(panicked) }).await
}

/// Runs `future` in the background and blocks until it is done, but no longer than `at_most`: for
/// those who are being dropped.
pub(super) fn finish(future: impl Future<Output = ()> + Send + 'static, at_most: Duration) {
    let Ok(runtime) = runtime() else { return };
    let (done, is_done) = mpsc::channel();
    runtime.spawn(async move {
        future.await;
        let _too_late = done.send(());
    });
    let _hanging = is_done.recv_timeout(at_most);
}

fn runtime() -> Result<&'static Runtime, TestError> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    // Two threads: all that takes long happens elsewhere.
    let make = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("xlreg-testing").enable_all().build()
    };
    let made = RUNTIME.get_or_init(make);
    made.as_ref().map_err(|error| TestError::io("starting a runtime", error.kind().into()))
}
