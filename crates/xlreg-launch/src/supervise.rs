//! Programs that run, fail, are paused, killed and started again, until all of them are over.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use xlreg_core::Name;

use crate::marked;
use crate::output::{self, Output, Stream};
use crate::program::{Group, KillOnDrop, Program, Spawner, Spec};

/// The pause before a program is started again, doubled each time up to the longest.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A program that has run so long before it failed has not failed at its start; the pause is short
/// again.
const SETTLED: Duration = Duration::from_secs(30);

/// How long to wait for processes that were killed. The kernel needs an instant, but one that hangs
/// in a broken file system may never go.
const KILLED: Duration = Duration::from_secs(5);

/// How long word of a program's end waits for its last lines, so that they come before it. The lines
/// themselves may wait for longer: whoever reads them may be slow, or not read at all.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Orders on their way to the supervisor.
const ORDER_QUEUE: usize = 16;

/// What to do when a program fails: ends with another exit code than 0, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// Stop all others.
    Stop,
    /// Let the others run.
    Ignore,
    /// Start it again, so often at most for each member; then stop all.
    Restart {
        /// How often; none for as often as it fails.
        times: Option<u32>,
    },
}

/// What happens, as it happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A program runs.
    Started {
        /// The member.
        rank: usize,
        /// Its process ID, which is that of its process group too.
        pid: i32,
    },
    /// A program has ended.
    Ended {
        /// The member.
        rank: usize,
        /// Its process ID, which may be another's by now.
        pid: i32,
        /// How.
        status: ExitStatus,
        /// Whether that was asked for.
        expected: bool,
    },
    /// A program that failed is started again after a pause.
    Restarting {
        /// The member.
        rank: usize,
        /// How often it will have been started again then.
        time: u32,
        /// The pause.
        after: Duration,
    },
    /// Not all programs stopped when asked to.
    Killing {
        /// Those that did not.
        ranks: Vec<usize>,
    },
}

/// How it all ended.
#[derive(Debug)]
pub enum Ended {
    /// All programs ended with exit code 0.
    Done,
    /// It was asked for.
    Stopped,
    /// The first program that failed for good.
    Failed {
        /// The member.
        rank: usize,
        /// How.
        failure: Failure,
    },
}

/// How a program failed.
#[derive(Debug)]
pub enum Failure {
    /// It could not be started.
    Start(io::Error),
    /// It ended with another exit code than 0, or by a signal.
    Exit(ExitStatus),
}

/// A program's state, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It will be started in an instant, or after a pause.
    Starting,
    /// It runs.
    Running,
    /// It was paused.
    Paused,
    /// It has ended, and nobody starts it again by himself.
    Ended {
        /// Its exit code, if it had one.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
}

/// A member, as it is told.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: Name,
    /// Its program's state.
    pub state: State,
    /// Its program's process ID, if it runs.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
}

/// What can be asked of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop it where it is (`SIGSTOP`).
    Pause,
    /// Let it go on (`SIGCONT`).
    Resume,
    /// Kill it (`SIGKILL`), as a crash would; it stays so until it is started again.
    Kill,
    /// End it if it runs, and start it again: the same identity, rank and ports.
    Restart,
}

/// An order that can't be carried out.
#[derive(Debug, Error)]
pub enum OrderError {
    /// Nobody has that rank.
    #[error("there is no member with rank {0}")]
    NoMember(usize),
    /// There is nothing to pause, resume or kill.
    #[error("{name} does not run: it {state}; start it with restart")]
    NotRunning {
        /// The member.
        name: Name,
        /// What it does instead.
        state: State,
    },
    /// Somebody else has it ended and started again just now.
    #[error("{name} is being restarted already")]
    Restarting {
        /// The member.
        name: Name,
    },
    /// It could not be started again.
    #[error("cannot start {name}: {source}")]
    Start {
        /// The member.
        name: Name,
        /// Why.
        source: io::Error,
    },
    /// All is over, or about to be.
    #[error("the cluster is stopping")]
    Stopping,
}

/// Running programs, from outside. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    stop: CancellationToken,
    kill: CancellationToken,
}

#[derive(Debug)]
enum Ask {
    Order(usize, Order, oneshot::Sender<Result<(), OrderError>>),
    Status(oneshot::Sender<Vec<Status>>),
}

/// How to supervise.
#[derive(Debug)]
pub struct Policy {
    /// What to do when a program fails.
    pub on_exit: OnExit,
    /// Between asking programs to stop and killing them.
    pub grace: Duration,
    /// Whether to go on when all programs have ended, since members may be started again.
    pub linger: bool,
    /// Whether a program that ends by itself has failed even with exit code 0, as it is of use only
    /// while it runs.
    pub lasting: bool,
}

/// Starts all programs and watches over them. What they write goes to `output`, what happens to
/// them to `events`; whoever receives neither keeps nobody waiting.
///
/// Dropping the returned task's handle changes nothing; aborting it kills the programs.
#[must_use = "without the task nobody knows when it is over"]
pub fn supervise(
    specs: Vec<Spec>,
    spawner: Arc<Spawner>,
    policy: Policy,
    output: mpsc::Sender<Output>,
    events: mpsc::UnboundedSender<Event>,
) -> (Handle, JoinHandle<Ended>) {
    let (asks, asked) = mpsc::channel(ORDER_QUEUE);
    let handle = Handle { asks, stop: CancellationToken::new(), kill: CancellationToken::new() };
    let members = specs.into_iter().map(Member::new).collect();
    let supervisor = Supervisor {
        members,
        spawner,
        policy,
        output,
        events,
        news: JoinSet::new(),
        stop: handle.stop.clone(),
        kill: handle.kill.clone(),
        failed: None,
    };
    let task = tokio::spawn(supervisor.run(asked));
    (handle, task)
}

impl Handle {
    /// Has one member's program paused, resumed, killed or started again.
    ///
    /// # Errors
    /// [`OrderError`] if that can't be.
    pub async fn order(&self, rank: usize, order: Order) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.asks.send(Ask::Order(rank, order, answer)).await;
        sent.map_err(|_| OrderError::Stopping)?;
        answered.await.unwrap_or(Err(OrderError::Stopping))
    }

    /// How all members are, by rank; empty when all is over.
    pub async fn status(&self) -> Vec<Status> {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Status(answer)).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }

    /// Asks all programs to stop (`SIGTERM`), and kills those that have not within the grace.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Kills all programs at once.
    pub fn kill(&self) {
        self.kill.cancel();
        self.stop.cancel();
    }
}

/// A member's program and what is known of it.
struct Member {
    spec: Spec,
    state: State,
    group: Option<Group>,
    /// Cancelled when the group's leader has ended, and its number may become another's.
    over: CancellationToken,
    /// Some of what its last program wrote is still on its way.
    draining: bool,
    started: Instant,
    restarts: u32,
    /// Those restarts that nobody asked for.
    retries: u32,
    pause: Duration,
    /// When to start it again by ourselves.
    due: Option<Instant>,
    /// When to kill it, as it has been asked to stop.
    kill_at: Option<Instant>,
    /// Its end was asked for: it is no failure.
    expected: bool,
    /// Whoever asked for a restart and waits for it.
    restart: Option<oneshot::Sender<Result<(), OrderError>>>,
}

impl Member {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            state: State::Starting,
            group: None,
            over: CancellationToken::new(),
            draining: false,
            started: Instant::now(),
            restarts: 0,
            retries: 0,
            pause: RESTART_PAUSE_MIN,
            due: None,
            kill_at: None,
            expected: false,
            restart: None,
        }
    }

    /// When something is to be done with it, whatever happens.
    fn next_timer(&self) -> Option<Instant> {
        self.due.filter(|_| !self.draining).into_iter().chain(self.kill_at).min()
    }

    /// Sends a signal to its program, if that runs, and to what it has started.
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group.filter(|_| !self.over.is_cancelled()) {
            group.signal(signal);
        }
    }

    /// Asks its program to end.
    fn terminate(&self) {
        self.signal(Signal::SIGTERM);
        // One that is paused could not act on it.
        self.signal(Signal::SIGCONT);
    }

    fn status(&self) -> Status {
        Status {
            name: self.spec.name.clone(),
            state: self.state,
            pid: self.group.map(Group::id),
            restarts: self.restarts,
        }
    }
}

/// What a task says that watches over a program.
enum News {
    /// The program has ended.
    Ended(usize, ExitStatus),
    /// All that it wrote has been taken.
    Drained(usize),
}

struct Supervisor {
    members: Vec<Member>,
    spawner: Arc<Spawner>,
    policy: Policy,
    output: mpsc::Sender<Output>,
    events: mpsc::UnboundedSender<Event>,
    /// Two tasks a running program: one ends with it, the other when all it wrote has been taken.
    news: JoinSet<News>,
    stop: CancellationToken,
    kill: CancellationToken,
    /// The first failure that was not wanted.
    failed: Option<(usize, Failure)>,
}

impl Supervisor {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) -> Ended {
        let started = self.start_all().await;
        if started {
            self.watch(&mut asked).await;
        }
        let stopped = self.stop.is_cancelled();
        self.stop_all(&mut asked).await;
        // Of one that could not be killed, nothing more is read either.
        self.members.iter().for_each(|member| member.over.cancel());
        match self.failed.take() {
            // What failed while all were asked to stop did so because of that.
            Some((rank, failure)) => Ended::Failed { rank, failure },
            None if stopped => Ended::Stopped,
            None => Ended::Done,
        }
    }

    /// Whether all could be started.
    async fn start_all(&mut self) -> bool {
        for (rank, member) in self.members.iter().enumerate() {
            // Before the first starts, who may want to talk to all others at once.
            if let Err(error) = member.spec.ports.listen() {
                self.failed = Some((rank, Failure::Start(error)));
                return false;
            }
        }
        for rank in 0..self.members.len() {
            if let Err(error) = self.start(rank).await {
                self.failed = Some((rank, Failure::Start(error)));
                return false;
            }
        }
        true
    }

    /// Until the policy, the caller or the last program ends it.
    async fn watch(&mut self, asked: &mut mpsc::Receiver<Ask>) {
        while !self.is_over() {
            let due = self.members.iter().filter_map(Member::next_timer).min();
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(news) = self.news.join_next() => match news {
                    Ok(News::Ended(rank, status)) if !self.ended(rank, status).await => return,
                    Ok(News::Drained(rank)) => self.drained(rank).await,
                    _ => {}
                },
                Some(ask) = asked.recv() => self.carry_out(ask).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.kill_late();
                    if !self.start_due().await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether no program runs and none will. If all of them were killed because somebody asked for
    /// that, he may want to see them start again.
    fn is_over(&self) -> bool {
        let linger = self.policy.linger || self.members.iter().all(|member| member.expected);
        !linger && self.news.is_empty() && self.members.iter().all(|member| member.due.is_none())
    }

    async fn start(&mut self, rank: usize) -> io::Result<()> {
        let Some(member) = self.members.get_mut(rank) else { return Ok(()) };
        member.due = None;
        member.expected = false;
        let Program { mut child, group } = self.spawner.start(&member.spec).await?;
        member.state = State::Running;
        member.group = Some(group);
        member.started = Instant::now();
        let _nobody_listens = self.events.send(Event::Started { rank, pid: group.id() });
        let over = CancellationToken::new();
        member.over = over.clone();
        member.draining = true;
        let drained = CancellationToken::new();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (output, ended, all_taken) = (self.output.clone(), over.clone(), drained.clone());
        // Goes on after us: whoever reads what a program wrote may take his time.
        let pumping = tokio::spawn(async move {
            let _however_it_ends = all_taken.drop_guard();
            tokio::join!(
                pump(out, rank, Stream::Stdout, output.clone(), ended.clone()),
                pump(err, rank, Stream::Stderr, output, ended),
            );
        });
        self.news.spawn(async move {
            let _panicked = pumping.await;
            News::Drained(rank)
        });
        let (marks, stop) = (member.spec.marks.clone(), self.stop.clone());
        self.news.spawn(async move {
            // What the program leaves running goes with it: at once, as long as the number of its
            // group is surely still its own.
            let group = KillOnDrop(group);
            let status = child.wait().await;
            drop(group);
            // And what has left the group. When all are stopped, all that is left is killed at once.
            if !stop.is_cancelled() {
                let _killed = spawn_blocking(move || marked::kill(&marks)).await;
            }
            over.cancel();
            let _not_read_yet = timeout(LAST_LINES, drained.cancelled()).await;
            // That waiting fails is not known to happen; what ends unseen has not ended well.
            News::Ended(rank, status.unwrap_or_else(|_| ExitStatus::from_raw(1 << 8)))
        });
        Ok(())
    }

    /// Notes a program's end; whether to go on.
    async fn ended(&mut self, rank: usize, status: ExitStatus) -> bool {
        let Some(member) = self.members.get_mut(rank) else { return true };
        let pid = member.group.take().map_or(0, Group::id);
        member.kill_at = None;
        member.state = ended_state(status);
        let expected = member.expected;
        let _nobody_listens = self.events.send(Event::Ended { rank, pid, status, expected });
        if member.restart.is_some() {
            if !member.draining {
                self.restarted(rank).await;
            }
            return true;
        }
        if expected || (status.success() && !self.policy.lasting) {
            return true;
        }
        match self.policy.on_exit {
            OnExit::Restart { times } if times.is_none_or(|times| member.retries < times) => {
                member.restarts += 1;
                member.retries += 1;
                if member.started.elapsed() > SETTLED {
                    member.pause = RESTART_PAUSE_MIN;
                }
                let after = member.pause;
                member.pause = (after * 2).min(RESTART_PAUSE_MAX);
                member.due = Some(Instant::now() + after);
                member.state = State::Starting;
                let time = member.restarts;
                let _nobody_listens = self.events.send(Event::Restarting { rank, time, after });
                true
            }
            on_exit => {
                self.failed.get_or_insert((rank, Failure::Exit(status)));
                on_exit == OnExit::Ignore
            }
        }
    }

    /// Notes that all of a program's output has been taken.
    async fn drained(&mut self, rank: usize) {
        let Some(member) = self.members.get_mut(rank) else { return };
        member.draining = false;
        if member.restart.is_some() && member.group.is_none() {
            self.restarted(rank).await;
        }
    }

    /// Kills those that were asked to stop and have not.
    fn kill_late(&mut self) {
        let now = Instant::now();
        for member in &mut self.members {
            if member.kill_at.take_if(|at| *at <= now).is_some() {
                member.signal(Signal::SIGKILL);
            }
        }
    }

    /// Starts those whose pause is over, and whose last output is taken, so that what waits for a
    /// slow reader does not pile up; whether to go on.
    async fn start_due(&mut self) -> bool {
        let now = Instant::now();
        for rank in 0..self.members.len() {
            let due = self.members.get(rank).filter(|member| !member.draining);
            let due = due.and_then(|member| member.due);
            if due.is_some_and(|due| due <= now)
                && let Err(error) = self.start(rank).await
            {
                self.failed.get_or_insert((rank, Failure::Start(error)));
                return false;
            }
        }
        true
    }

    async fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                let all = self.members.iter().map(Member::status).collect();
                let _caller_gone = answer.send(all);
            }
            Ask::Order(rank, Order::Restart, answer) => self.restart(rank, answer).await,
            Ask::Order(rank, order, answer) => {
                let _caller_gone = answer.send(self.signal(rank, order));
            }
        }
    }

    fn signal(&mut self, rank: usize, order: Order) -> Result<(), OrderError> {
        let member = self.members.get_mut(rank).ok_or(OrderError::NoMember(rank))?;
        if member.group.is_none() {
            let name = member.spec.name.clone();
            return Err(OrderError::NotRunning { name, state: member.state });
        }
        match order {
            Order::Pause => {
                member.signal(Signal::SIGSTOP);
                member.state = State::Paused;
            }
            Order::Resume => {
                member.signal(Signal::SIGCONT);
                member.state = State::Running;
            }
            Order::Kill | Order::Restart => {
                member.expected = true;
                member.signal(Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Starts a member again; ends it first if it runs, and comes back here when it has ended.
    async fn restart(&mut self, rank: usize, answer: oneshot::Sender<Result<(), OrderError>>) {
        let Some(member) = self.members.get_mut(rank) else {
            let _caller_gone = answer.send(Err(OrderError::NoMember(rank)));
            return;
        };
        if member.restart.is_some() {
            let name = member.spec.name.clone();
            let _caller_gone = answer.send(Err(OrderError::Restarting { name }));
            return;
        }
        member.restart = Some(answer);
        if member.group.is_some() {
            member.expected = true;
            member.terminate();
            member.kill_at = Some(Instant::now() + self.policy.grace);
        } else if !member.draining {
            self.restarted(rank).await;
        }
    }

    /// Starts a member that has ended, as somebody has asked for, and tells him.
    async fn restarted(&mut self, rank: usize) {
        let Some(member) = self.members.get_mut(rank) else { return };
        let Some(answer) = member.restart.take() else { return };
        member.restarts += 1;
        let name = member.spec.name.clone();
        let started = self.start(rank).await;
        let _caller_gone =
            answer.send(started.map_err(|source| OrderError::Start { name, source }));
    }

    /// Asks, waits, kills. Meanwhile tells how all are, and takes no more orders.
    async fn stop_all(&mut self, asked: &mut mpsc::Receiver<Ask>) {
        self.members.iter().for_each(Member::terminate);
        let kill = self.kill.clone();
        let mut killed = false;
        let mut patience = Instant::now() + self.policy.grace;
        while self.members.iter().any(|member| member.group.is_some()) {
            tokio::select! {
                Some(news) = self.news.join_next() => {
                    if let Ok(News::Ended(rank, status)) = news {
                        self.stopped(rank, status);
                    }
                }
                Some(ask) = asked.recv() => match ask {
                    Ask::Order(_, _, answer) => {
                        let _caller_gone = answer.send(Err(OrderError::Stopping));
                    }
                    status @ Ask::Status(_) => self.carry_out(status).await,
                },
                () = kill.cancelled(), if !killed => {
                    (killed, patience) = (true, self.kill_all());
                }
                () = sleep_until(patience) => {
                    if killed {
                        return;
                    }
                    let running = |(rank, member): (usize, &Member)| member.group.map(|_| rank);
                    let ranks = self.members.iter().enumerate().filter_map(running).collect();
                    let _nobody_listens = self.events.send(Event::Killing { ranks });
                    (killed, patience) = (true, self.kill_all());
                }
            }
        }
    }

    /// Returns until when to wait for their end.
    fn kill_all(&self) -> Instant {
        self.members.iter().for_each(|member| member.signal(Signal::SIGKILL));
        Instant::now() + KILLED
    }

    fn stopped(&mut self, rank: usize, status: ExitStatus) {
        let Some(member) = self.members.get_mut(rank) else { return };
        let pid = member.group.take().map_or(0, Group::id);
        member.state = ended_state(status);
        let ended = Event::Ended { rank, pid, status, expected: true };
        let _nobody_listens = self.events.send(ended);
    }
}

/// Hands a program's pipe to [`output::pump`], if it has one.
async fn pump(
    pipe: Option<impl tokio::io::AsyncRead + Unpin>,
    rank: usize,
    stream: Stream,
    output: mpsc::Sender<Output>,
    ended: CancellationToken,
) {
    if let Some(pipe) = pipe {
        output::pump(pipe, rank, stream, output, ended).await;
    }
}

fn ended_state(status: ExitStatus) -> State {
    State::Ended { code: status.code(), signal: status.signal() }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("is about to start"),
            Self::Running => f.write_str("runs"),
            Self::Paused => f.write_str("is paused"),
            Self::Ended { code: Some(code), .. } => write!(f, "ended with exit code {code}"),
            Self::Ended { signal: Some(signal), .. } => write!(f, "was ended by signal {signal}"),
            Self::Ended { .. } => f.write_str("ended"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "cannot be started: {error}"),
            Self::Exit(status) => write!(f, "failed: {status}"),
        }
    }
}
