//! Registries and clusters for tests: made in a moment, on free ports, and gone with the test.
//!
//! A [`TestRegistry`] is a registry within the test's process. A [`TestCluster`] is a whole cluster
//! that has formed at one: every member has its own identity, ports, directory and the complete
//! roster, all made the way real clusters make them. What its members *are* is up to the test:
//!
//! - **functions** of the test's own process, [`Builder::serve`];
//! - **programs**, started as `xlreg run` starts them, [`Builder::command`];
//! - **nothing**: the test takes each member's listeners and drives it by itself.
//!
//! ```
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! use tokio::net::TcpStream;
//! use xlreg::testing::{TestCluster, TestMember};
//!
//! /// Tells everyone who asks which rank it has.
//! async fn tell_rank(member: TestMember) {
//!     let listener = member.take_listener(0).unwrap();
//!     while let Ok((mut caller, _)) = listener.accept().await {
//!         caller.write_u64(member.rank() as u64).await.unwrap();
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = TestCluster::builder().size(3).serve(tell_rank).start().await?;
//! assert_eq!(cluster.roster().members.len(), 3);
//!
//! cluster.kill(2).await?;
//! let two = cluster.member(2).address(0);
//! assert!(TcpStream::connect(two).await.is_err(), "nobody listens there any more");
//!
//! cluster.restart(2).await?;
//! let rank = TcpStream::connect(two).await?.read_u64().await?;
//! assert_eq!(rank, 2, "the same member is back");
//! cluster.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What kill and pause mean
//! A member that is a function has a thread and a runtime of its own, so it comes as near to a
//! process as a function can. *Killed*, it ends together with all tasks that it has spawned, and
//! its sockets are closed when [`TestCluster::kill`] returns. *Paused*, it stands still with all of
//! them, its timers included, while the kernel goes on taking connections and bytes for it. What
//! can't be ended or paused are threads: code that blocks, and `spawn_blocking`. A member that is a
//! program is sent `SIGKILL`, `SIGSTOP` and `SIGCONT`, with all of its process group.
//!
//! Either way nobody listens at a killed member's address, and nobody else gets it: the port is
//! kept. *Restarted*, a member has the identity, rank, address and directory it had before.
//!
//! # Afterwards
//! Dropping a cluster ends its members and removes its directories before the drop returns, in a
//! test that panics as well, where it also prints what the programs have written. It waits for no
//! runtime of the test's, so it works in any kind. Of a test process that is itself killed, the
//! kernel takes the programs along (on Linux), and only directories below the temporary one remain.
//!
//! # Speed, and keys
//! A member needs two RSA keys, which take a tenth of a second each, and all else takes
//! milliseconds. So tests don't make keys: all clusters use the same *test keys*, the member of
//! rank 2 in one cluster those of the member of rank 2 in any other. They are made when they are
//! first needed and kept in memory, and in a directory where other processes of the same build find
//! them: `xlreg-test-keys` in Cargo's target directory, or where `XLREG_TEST_KEYS` says. That is
//! what makes the difference under `cargo nextest`, where each test is a process. (The pool that
//! `xlreg run` takes keys from is no help here: it hands each key out once, and a few test runs
//! would have emptied it.)
//!
//! IDs, ports and clusters are always new. But since two clusters' members of one rank have the
//! same keys, each could pass for the other: for a test of just that, see [`Builder::fresh_keys`].
//! Test keys protect nothing; never use them for anything else.
//!
//! | module | what it holds |
//! |---|---|
//! | `registry` | a registry within the test |
//! | `builder` | what a cluster is to be, and forming it |
//! | `cluster` | a cluster, and what can be done to its members |
//! | `member` | one member, as the test and the member itself see it |
//! | `slot` | a member's state and output, as it changes |
//! | `threads` | members that are functions |
//! | `programs` | members that are programs |
//! | `keys` | keys that all tests share |
//! | `quiet` | when nobody listens at an address any more |
//! | `background` | the runtime for what must outlive any test's own |
//! | `error` | what can go wrong |

mod background;
mod builder;
mod cluster;
mod error;
mod keys;
mod member;
mod programs;
mod quiet;
mod registry;
mod slot;
mod threads;

pub use builder::Builder;
pub use cluster::TestCluster;
pub use error::TestError;
pub use member::TestMember;
pub use registry::TestRegistry;
pub use slot::MemberState;
