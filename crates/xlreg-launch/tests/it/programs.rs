//! What programs get, what happens when they fail, and that nothing of them stays.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xlreg_launch::output::{OUTPUT_QUEUE, Output};
use xlreg_launch::port::Port;
use xlreg_launch::program::{Ports, Spawner, Spec};
use xlreg_launch::supervise::{
    Ended, Event, Failure, Handle, OnExit, Order, OrderError, Policy, State, supervise,
};

/// Long enough for anything here on the slowest machine; nothing waits so long if all is well.
const LONG: Duration = Duration::from_secs(60);

struct World {
    handle: Handle,
    task: JoinHandle<Ended>,
    output: mpsc::Receiver<Output>,
    events: mpsc::UnboundedReceiver<Event>,
}

/// One member for each script; a script finds its rank in `$RANK`.
fn start(scripts: &[&str], policy: Policy) -> World {
    start_with(scripts.iter().map(|script| (*script, Ports::Free)).collect(), policy)
}

fn start_with(scripts: Vec<(&str, Ports)>, policy: Policy) -> World {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let specs = scripts.into_iter().enumerate().map(|(rank, (script, ports))| Spec {
        name: format!("member_{rank}").parse().unwrap(),
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![
            ("RANK".into(), Some(OsString::from(rank.to_string()))),
            ("MARK".into(), Some(mark.clone().into())),
        ],
        marks: vec![("MARK".into(), mark.clone().into()), ("RANK".into(), rank.to_string().into())],
        ports,
    });
    let spawner = Arc::new(Spawner::new().unwrap());
    let (send, output) = mpsc::channel(OUTPUT_QUEUE);
    let (tell, events) = mpsc::unbounded_channel();
    let (handle, task) = supervise(specs.collect(), spawner, policy, send, tell);
    World { handle, task, output, events }
}

fn policy(on_exit: OnExit) -> Policy {
    Policy { on_exit, grace: LONG, linger: false, lasting: false }
}

impl World {
    /// Waits for this line of that member.
    async fn line(&mut self, rank: usize, line: &str) {
        let wait = async {
            loop {
                let output = self.output.recv().await.expect("the output has ended");
                let text = String::from_utf8(output.text).unwrap();
                if output.rank == rank && text.lines().any(|other| other == line) {
                    return;
                }
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("no line {line:?}"));
    }

    /// Waits for an event that this picks something of.
    async fn event<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the events have ended");
                if let Some(picked) = pick(&event) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("no such event")
    }

    async fn ended(self) -> Ended {
        tokio::time::timeout(LONG, self.task).await.expect("it does not end").unwrap()
    }

    async fn state(&self, rank: usize) -> State {
        self.handle.status().await[rank].state
    }
}

fn is_alive(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok()
}

#[tokio::test]
async fn when_all_end_well_it_is_done() {
    let mut world = start(&["echo one; echo two >&2", "echo three"], policy(OnExit::Stop));
    let mut texts = Vec::new();
    while let Some(output) = world.output.recv().await {
        texts.push(String::from_utf8(output.text).unwrap());
    }
    texts.sort();
    assert_eq!(texts, ["one\n", "three\n", "two\n"]);
    assert!(matches!(world.ended().await, Ended::Done));
}

#[tokio::test]
async fn the_first_failure_stops_all_and_is_the_one_that_is_told() {
    let scripts = ["trap 'exit 9' TERM; echo up; sleep 600 & wait", "sleep 600", "read x; exit 3"];
    let world = start(&scripts, policy(OnExit::Stop));
    let Ended::Failed { rank, failure: Failure::Exit(status) } = world.ended().await else {
        panic!("no failure");
    };
    assert_eq!((rank, status.code()), (2, Some(3)));
}

#[tokio::test]
async fn a_program_that_is_not_there_stops_those_that_are() {
    let spawner = Arc::new(Spawner::new().unwrap());
    let spec = |program: &str| Spec {
        name: "m".parse().unwrap(),
        program: program.into(),
        arguments: vec!["600".into()],
        environment: vec![],
        marks: vec![],
        ports: Ports::Free,
    };
    let (send, _output) = mpsc::channel(1);
    let (tell, mut events) = mpsc::unbounded_channel();
    let specs = vec![spec("sleep"), spec("/no/such/program")];
    let (_handle, task) = supervise(specs, spawner, policy(OnExit::Stop), send, tell);
    let ended = task.await.unwrap();
    assert!(matches!(ended, Ended::Failed { rank: 1, failure: Failure::Start(_) }), "{ended:?}");
    let Some(Event::Started { pid, .. }) = events.recv().await else { panic!("not started") };
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn failures_may_be_ignored_but_are_told_at_the_end() {
    let mut world = start(&["exit 3", "read x; echo still here"], policy(OnExit::Ignore));
    world.line(1, "still here").await;
    assert!(matches!(world.ended().await, Ended::Failed { rank: 0, .. }));
}

/// Also with exit code 0, as a server that is only of use while it runs.
#[tokio::test]
async fn one_that_should_last_has_failed_however_it_ends() {
    let lasting = Policy { lasting: true, ..policy(OnExit::Stop) };
    let world = start(&["true", "exec sleep 600"], lasting);
    let Ended::Failed { rank: 0, failure: Failure::Exit(status) } = world.ended().await else {
        panic!("it is not said to have failed");
    };
    assert!(status.success());
    // Once all are asked to stop, none has failed by that.
    let world = start(&["exec sleep 600"], Policy { lasting: true, ..policy(OnExit::Stop) });
    world.handle.stop();
    assert!(matches!(world.ended().await, Ended::Stopped));
}

#[tokio::test]
async fn a_failing_program_is_started_again_so_often_and_no_more() {
    let on_exit = OnExit::Restart { times: Some(2) };
    let mut world = start(&["exit 3", "sleep 600"], policy(on_exit));
    for expected in 1..=2 {
        let time = world
            .event(|event| match event {
                Event::Restarting { rank: 0, time, .. } => Some(*time),
                _ => None,
            })
            .await;
        assert_eq!(time, expected);
    }
    assert!(matches!(world.ended().await, Ended::Failed { rank: 0, .. }));
}

/// The grandchild is in the program's process group, and must go with it.
#[tokio::test]
async fn what_a_program_leaves_behind_goes_with_it() {
    let mut world = start(&["sleep 600 & echo $!"], policy(OnExit::Stop));
    let output = world.output.recv().await.unwrap();
    let pid: i32 = String::from_utf8(output.text).unwrap().trim().parse().unwrap();
    assert!(matches!(world.ended().await, Ended::Done));
    until_gone(pid);
}

/// A daemon with the member's port would keep the next one from having it.
#[tokio::test]
async fn what_has_left_the_group_goes_before_the_program_is_started_again() {
    let script = "setsid sleep 600 & echo $!; sleep 600";
    let mut world = start(&[script, script], policy(OnExit::Stop));
    let mut daemons = [0; 2];
    for _ in 0..2 {
        let output = world.output.recv().await.unwrap();
        let text = String::from_utf8(output.text).unwrap();
        daemons[output.rank] = text.trim().parse().unwrap();
    }
    world.handle.order(1, Order::Restart).await.unwrap();
    until_gone(daemons[1]);
    assert!(is_alive(daemons[0]), "the other member's lives on");
    world.handle.stop();
    assert!(matches!(world.ended().await, Ended::Stopped));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemons[0]), nix::sys::signal::SIGKILL)
        .unwrap();
}

/// Until it was killed, if perhaps not reaped: its parent is whoever adopts orphans here.
fn until_gone(pid: i32) {
    let is_gone = || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.is_err() || state.is_ok_and(|stat| stat.contains(") Z ") || stat.contains(") X "))
    };
    let begun = std::time::Instant::now();
    while !is_gone() {
        assert!(begun.elapsed() < LONG, "it is still there");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn one_that_does_not_listen_is_killed_after_the_grace_and_named() {
    let script = "trap '' TERM; echo up; while :; do sleep 600; done";
    let short = Policy { grace: Duration::from_millis(20), ..policy(OnExit::Stop) };
    let mut world = start(&[script, "sleep 600"], short);
    world.line(0, "up").await;
    world.handle.stop();
    let late = world.event(|event| match event {
        Event::Killing { ranks } => Some(ranks.clone()),
        _ => None,
    });
    assert_eq!(late.await, [0]);
    assert!(matches!(world.ended().await, Ended::Stopped));
}

/// Somebody has stopped the terminal, or sits in a pager.
#[tokio::test]
async fn output_that_nobody_takes_keeps_no_program_from_being_stopped() {
    let mut world = start(&["yes", "echo up; sleep 600"], policy(OnExit::Stop));
    world.line(1, "up").await;
    // From here on nobody takes anything, and soon all queues and pipes are full.
    world.handle.stop();
    let World { task, output, .. } = world;
    let ended = tokio::time::timeout(LONG, task).await.expect("it does not end").unwrap();
    assert!(matches!(ended, Ended::Stopped));
    drop(output);
}

#[tokio::test]
async fn an_end_is_told_though_nobody_takes_the_output() {
    let script = "echo up; yes & sleep 0.2; exit 3";
    let mut world = start(&[script], policy(OnExit::Restart { times: None }));
    let failed = |event: &Event| matches!(event, Event::Ended { rank: 0, .. }).then_some(());
    world.event(failed).await;
    let pause = |event: &Event| matches!(event, Event::Restarting { .. }).then_some(());
    world.event(pause).await;
    // It starts again only when what it wrote has been taken, or that would pile up.
    assert_eq!(world.state(0).await, State::Starting);
    for _ in 0..2 {
        world.line(0, "up").await;
    }
    world.handle.stop();
    assert!(matches!(world.ended().await, Ended::Stopped));
}

/// Whoever asks meanwhile hears what is going on.
#[tokio::test]
async fn while_all_are_stopping_they_can_be_seen_but_not_ordered_about() {
    let script = "trap '' TERM; echo up; while :; do sleep 600; done";
    let mut world = start(&[script, "sleep 600"], policy(OnExit::Stop));
    world.line(0, "up").await;
    world.handle.stop();
    let ended = |event: &Event| matches!(event, Event::Ended { rank: 1, .. }).then_some(());
    world.event(ended).await;
    assert_eq!(world.state(0).await, State::Running);
    assert!(matches!(world.state(1).await, State::Ended { .. }));
    let refused = world.handle.order(1, Order::Restart).await;
    assert!(matches!(refused, Err(OrderError::Stopping)), "{refused:?}");
    world.handle.kill();
    assert!(matches!(world.ended().await, Ended::Stopped));
}

/// Those that somebody asked for don't count.
#[tokio::test]
async fn restarts_that_were_asked_for_use_up_no_others() {
    let script = "echo up; test -e $FLAG/go && exit 3; sleep 600";
    let dir = tempfile::tempdir().unwrap();
    let script = script.replace("$FLAG", dir.path().to_str().unwrap());
    let mut world = start(&[&script], policy(OnExit::Restart { times: Some(1) }));
    for _ in 0..2 {
        world.line(0, "up").await;
        world.handle.order(0, Order::Restart).await.unwrap();
    }
    std::fs::write(dir.path().join("go"), "").unwrap();
    world.handle.order(0, Order::Restart).await.unwrap();
    let again = |event: &Event| matches!(event, Event::Restarting { .. }).then_some(());
    world.event(again).await;
    assert!(matches!(world.ended().await, Ended::Failed { rank: 0, .. }));
}

#[tokio::test]
async fn killing_does_not_wait_for_the_grace() {
    let script = "trap '' TERM; echo up; while :; do sleep 600; done";
    let mut world = start(&[script], policy(OnExit::Stop));
    world.line(0, "up").await;
    world.handle.stop();
    world.handle.kill();
    assert!(matches!(world.ended().await, Ended::Stopped));
}

#[tokio::test]
async fn a_member_is_paused_resumed_killed_and_started_again() {
    let script = "echo up $RANK; sleep 600 & wait";
    let mut world = start(&[script, script], policy(OnExit::Stop));
    let handle = world.handle.clone();
    world.line(1, "up 1").await;
    handle.order(1, Order::Pause).await.unwrap();
    assert_eq!(world.state(1).await, State::Paused);
    handle.order(1, Order::Resume).await.unwrap();
    assert_eq!(world.state(1).await, State::Running);

    // A kill that was asked for is no failure, and the others live on.
    handle.order(1, Order::Kill).await.unwrap();
    let ended = world.event(|event| match event {
        Event::Ended { rank: 1, expected, .. } => Some(*expected),
        _ => None,
    });
    assert!(ended.await);
    assert_eq!(world.state(1).await, State::Ended { code: None, signal: Some(9) });
    assert_eq!(world.state(0).await, State::Running);
    let error = handle.order(1, Order::Pause).await.unwrap_err();
    assert!(matches!(error, OrderError::NotRunning { .. }), "{error}");
    assert!(matches!(handle.order(7, Order::Kill).await, Err(OrderError::NoMember(7))));

    handle.order(1, Order::Restart).await.unwrap();
    world.line(1, "up 1").await;
    // And one that runs, even paused.
    handle.order(1, Order::Pause).await.unwrap();
    handle.order(1, Order::Restart).await.unwrap();
    world.line(1, "up 1").await;
    assert_eq!(handle.status().await[1].restarts, 2);
    handle.stop();
    assert!(matches!(world.ended().await, Ended::Stopped));
}

/// The protocol of systemd: the sockets from 3 on, and the process ID that is the program's own.
#[tokio::test]
async fn sockets_are_passed_by_the_protocol_of_systemd() {
    let ports: Vec<_> =
        (0..2).map(|_| Port::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()).collect();
    let script = "test $LISTEN_PID = $$ && echo $LISTEN_FDS $LISTEN_FDNAMES $RANK; \
                  for fd in 3 4; do test -S /proc/self/fd/$fd && echo socket $fd; done; \
                  test -e /proc/self/fd/5 || echo no more";
    let mut world = start_with(vec![(script, Ports::Passed(ports))], policy(OnExit::Stop));
    let mut said = String::new();
    while let Some(output) = world.output.recv().await {
        said += std::str::from_utf8(&output.text).unwrap();
    }
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said, ["2 endpoint:endpoint1 0", "socket 3", "socket 4", "no more"]);
    assert!(matches!(world.ended().await, Ended::Done));
}

/// As when the launcher itself is killed: the programs must not survive it.
#[tokio::test]
async fn programs_die_with_the_thread_that_started_them() {
    let spawner = Arc::new(Spawner::new().unwrap());
    let spec = Spec {
        name: "m".parse().unwrap(),
        program: "sleep".into(),
        arguments: vec!["600".into()],
        environment: vec![],
        marks: vec![],
        ports: Ports::Free,
    };
    let program = spawner.start(&spec).await.unwrap();
    let pid = nix::unistd::Pid::from_raw(program.group().id());
    drop(spawner);
    let status = tokio::time::timeout(LONG, program.wait()).await.expect("it lives on").unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(status.signal(), Some(9), "{pid}");
}

#[tokio::test]
async fn one_that_was_killed_on_purpose_keeps_nobody_waiting_once_the_others_have_ended() {
    let mut world = start(&["echo up; exec sleep 600", "true"], policy(OnExit::Stop));
    world.line(0, "up").await;
    world.handle.order(0, Order::Kill).await.unwrap();
    assert!(matches!(world.ended().await, Ended::Done));

    // But where all were killed, whoever did it may start them again.
    let mut world = start(&["echo up; exec sleep 600"], policy(OnExit::Stop));
    world.line(0, "up").await;
    world.handle.order(0, Order::Kill).await.unwrap();
    let ended = world.event(|event| matches!(event, Event::Ended { .. }).then_some(()));
    ended.await;
    world.handle.order(0, Order::Restart).await.unwrap();
    world.line(0, "up").await;
    world.handle.stop();
    assert!(matches!(world.ended().await, Ended::Stopped));
}
