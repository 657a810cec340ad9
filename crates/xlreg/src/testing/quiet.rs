//! When nobody listens at an address any more.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use xlreg_launch::port::Port;

/// The pause before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// How long to look. Beyond that, somebody listens who is none of ours, such as what a program has
/// started and put out of our reach.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits until nobody listens at these addresses, whose listeners have been closed.
///
/// That is so at once, unless another thread of this process is about to start a program: between
/// fork and exec, the new process has copies of all our sockets. A member that was killed just then
/// would still take connections for a few milliseconds.
pub(super) async fn quiet(addresses: &[SocketAddr]) {
    let all_quiet = async {
        while addresses.iter().any(|address| Port::is_listened_at(*address)) {
            sleep(PAUSE).await;
        }
    };
    let _loud = timeout(LONGEST, all_quiet).await;
}
