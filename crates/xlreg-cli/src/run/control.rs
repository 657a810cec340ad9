//! How a run is asked and told from outside: one line of JSON each way, over a socket in its
//! directory, which only its user may enter.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use xlreg_launch::supervise::{Handle, Order, OrderError, State};

use crate::exit::{Code, Ending};

/// The log of a detached run, in its directory or in that of the kept cluster.
pub(crate) const LOG_FILE: &str = "run.log";

/// The part of a log that was cut off last, for who wants all of it.
pub(crate) fn older(log: &Path) -> PathBuf {
    log.with_extension("log.1")
}

/// The socket, in the run's directory.
const SOCKET_FILE: &str = "control.sock";

/// The longest request.
const REQUEST_BYTES_MAX: u64 = 4 * 1024;

/// The longest answer: 64 members, some 300 bytes each.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// How long whoever connects may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Askers at a time; more wait in the backlog.
const ASKERS_MAX: usize = 16;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do", deny_unknown_fields)]
pub(crate) enum Request {
    /// How is everybody?
    Status,
    /// Stop all, and clean up.
    Down,
    /// Something is to be done with one member.
    Member { member: String, order: Wanted },
}

/// What is to be done with a member.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    Pause,
    Resume,
    Kill,
    Restart,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(crate) enum Answer {
    Done,
    /// There are no members yet.
    Starting,
    /// There is no such member.
    NoMember {
        why: String,
    },
    Failed {
        why: String,
    },
    Status(Run),
}

/// A run, as it tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) cluster: String,
    pub(crate) cluster_id: String,
    /// The launcher's process ID.
    pub(crate) pid: u32,
    pub(crate) detached: bool,
    /// When it began, in seconds since 1970.
    pub(crate) since: u64,
    /// Where its log is, if it keeps one.
    pub(crate) log: Option<PathBuf>,
    pub(crate) members: Vec<Member>,
}

/// A member, as its run tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) rank: usize,
    pub(crate) name: String,
    /// `starting`, `running`, `paused`, or `ended`.
    pub(crate) state: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) pid: Option<i32>,
    pub(crate) restarts: u32,
    pub(crate) endpoints: Vec<String>,
    /// What carries its first endpoint, if something does.
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) dir: PathBuf,
}

/// A member's tunnel, as its run tells of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tunnel {
    /// Where the member's program listens, on loopback.
    pub(crate) program: String,
    /// As a member's.
    pub(crate) state: String,
    pub(crate) pid: Option<i32>,
    pub(crate) restarts: u32,
}

impl Run {
    /// Now, as a start.
    pub(crate) fn now() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }
}

/// Answers whoever asks, until it is dropped.
pub(crate) struct Control {
    /// What does not change, and what does, once programs are started.
    launched: OnceLock<Launched>,
    /// Cancelled when somebody asks to stop.
    down: CancellationToken,
}

/// A run whose programs are started.
struct Launched {
    run: Run,
    programs: Handle,
    tunnels: Option<Handle>,
}

impl Control {
    pub(crate) fn new(down: CancellationToken) -> Self {
        Self { launched: OnceLock::new(), down }
    }

    /// From now on there are members to ask for.
    pub(crate) fn launched(&self, run: Run, programs: Handle, tunnels: Option<Handle>) {
        let _only_once = self.launched.set(Launched { run, programs, tunnels });
    }

    /// Opens the socket in the run's directory.
    pub(crate) fn listen(dir: &Path) -> anyhow::Result<UnixListener> {
        let path = dir.join(SOCKET_FILE);
        UnixListener::bind(&path).with_context(|| {
            format!(
                "opening the socket {}; if its path is too long, set XLREG_RUN_DIR to a shorter one",
                path.display()
            )
        })
    }

    pub(crate) async fn serve(self: Arc<Self>, listener: UnixListener) {
        let askers = Arc::new(Semaphore::new(ASKERS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&askers).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, perhaps: others will close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let control = Arc::clone(&self);
            tokio::spawn(async move {
                let _permit = permit;
                let _asker_gone = control.answer(stream).await;
            });
        }
    }

    async fn answer(&self, stream: tokio::net::UnixStream) -> anyhow::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        let mut limited = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
        timeout(PATIENCE, limited.read_line(&mut line)).await??;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self.carry_out(request).await,
            Err(error) => Answer::Failed { why: format!("not a request: {error}") },
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        timeout(PATIENCE, write.write_all(text.as_bytes())).await??;
        Ok(())
    }

    async fn carry_out(&self, request: Request) -> Answer {
        match request {
            Request::Status => match self.launched.get() {
                Some(launched) => Answer::Status(launched.status().await),
                None => Answer::Starting,
            },
            Request::Down => {
                self.down.cancel();
                Answer::Done
            }
            Request::Member { member, order } => match self.order(&member, order).await {
                Ok(()) => Answer::Done,
                Err(refused) => refused,
            },
        }
    }

    async fn order(&self, member: &str, wanted: Wanted) -> Result<(), Answer> {
        let Some(Launched { run, programs, .. }) = self.launched.get() else {
            let why = "the cluster is still being formed; try again in a moment".to_owned();
            return Err(Answer::Failed { why });
        };
        let by_name = run.members.iter().position(|other| other.name == member);
        let rank = by_name.or_else(|| member.parse().ok());
        let unknown = || Answer::NoMember { why: no_member(run, member) };
        let order = match wanted {
            Wanted::Pause => Order::Pause,
            Wanted::Resume => Order::Resume,
            Wanted::Kill => Order::Kill,
            Wanted::Restart => Order::Restart,
        };
        match programs.order(rank.ok_or_else(unknown)?, order).await {
            Err(OrderError::NoMember(_)) => Err(unknown()),
            done => done.map_err(|error| Answer::Failed { why: error.to_string() }),
        }
    }
}

/// Why nothing can be done with a member that a run hasn't got.
pub(crate) fn no_member(run: &Run, member: &str) -> String {
    let names: Vec<_> = run.members.iter().map(|member| member.name.as_str()).collect();
    format!("cluster {} has no member {member}; it has {}", run.cluster, names.join(", "))
}

impl Launched {
    /// The run, with how its members are now.
    async fn status(&self) -> Run {
        let mut run = self.run.clone();
        // All is over, but for what nobody has read yet; who still runs says so himself.
        run.members.iter_mut().for_each(|member| member.state = "ended".to_owned());
        for (member, status) in run.members.iter_mut().zip(self.programs.status().await) {
            (member.exit_code, member.signal) = match status.state {
                State::Ended { code, signal } => (code, signal),
                _ => (None, None),
            };
            member.state = word(status.state);
            member.pid = status.pid;
            member.restarts = status.restarts;
        }
        let Some(tunnels) = &self.tunnels else { return run };
        let tunnels = tunnels.status().await;
        for (nth, member) in run.members.iter_mut().enumerate() {
            let Some(tunnel) = &mut member.tunnel else { continue };
            let status = tunnels.get(nth);
            tunnel.state = status.map_or_else(|| "ended".to_owned(), |status| word(status.state));
            tunnel.pid = status.and_then(|status| status.pid);
            tunnel.restarts = status.map_or(0, |status| status.restarts);
        }
        run
    }
}

fn word(state: State) -> String {
    let word = match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Paused => "paused",
        State::Ended { .. } => "ended",
    };
    word.to_owned()
}

/// Asks the run in this directory.
pub(crate) fn ask(dir: &Path, request: &Request, at_most: Duration) -> anyhow::Result<Answer> {
    let began = Instant::now();
    let doing = || format!("asking the run in {}", dir.display());
    let mut stream = UnixStream::connect(dir.join(SOCKET_FILE)).with_context(doing)?;
    stream.set_read_timeout(Some(at_most.max(Duration::from_millis(1))))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).with_context(doing)?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line);
    if read.is_err() && began.elapsed() >= at_most {
        let message = format!("{}: no answer within {at_most:?}", doing());
        return Err(Ending::new(Code::Incomplete, message).into());
    }
    if read.with_context(doing)? == 0 {
        let message = format!("{}: it has just ended", doing());
        return Err(Ending::new(Code::Failed, message).into());
    }
    let answer = serde_json::from_str(&line).with_context(doing)?;
    match answer {
        Answer::NoMember { why } => Err(Ending::new(Code::NotFound, why).into()),
        Answer::Failed { why } => Err(Ending::new(Code::Failed, why).into()),
        answer => Ok(answer),
    }
}
