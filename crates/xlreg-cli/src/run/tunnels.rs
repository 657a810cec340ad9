//! A tunnel beside each program: `xlreg tunnel`, started and watched over as the programs are.
//!
//! Each is a process of its own, so that all cores carry, and one that ends takes no other with it. They
//! are there before the first program starts, and go after the last has ended.

use std::ffi::OsString;
use std::future::pending;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use xlreg_launch::Places;
use xlreg_launch::output::{OUTPUT_QUEUE, Output, Stream};
use xlreg_launch::program::{Ports, Spawner, Spec};
use xlreg_launch::supervise::{Ended, Failure, Handle, OnExit, Policy, supervise};

use super::console::Console;
use super::form::{Formed, Member};
use super::plan::Plan;
use super::{dir, events};
use crate::exit::{Code, Ending};
use crate::output;
use crate::progress::SharedBar;

/// The tunnels of a run; none of a run without.
pub(super) struct Tunnels {
    running: Option<Running>,
    /// Whose they are, for messages.
    labels: Vec<String>,
}

struct Running {
    handle: Handle,
    supervisor: JoinHandle<Ended>,
    /// Tells what happens to them.
    telling: JoinHandle<()>,
}

impl Tunnels {
    /// Starts one for each member that has ports for it, and waits until all of them are open.
    pub(super) async fn start(
        plan: &Plan,
        formed: &mut Formed,
        run_dir: &Path,
        console: &Console,
    ) -> anyhow::Result<Self> {
        let labels = formed.members.iter().map(|member| format!("{}'s tunnel", member.name));
        let mut tunnels = Self { running: None, labels: labels.collect() };
        if !plan.tunnel {
            return Ok(tunnels);
        }
        let mark = dir::mark(run_dir).context("reading the run's number")?;
        let program = std::env::current_exe().context("finding this very program")?;
        let cluster = formed.cluster_id.clone();
        let specs = formed.members.iter_mut().map(|member| {
            let environment = environment(&mark);
            spec(member, &cluster, program.clone().into(), environment)
        });
        let specs = specs.collect::<anyhow::Result<_>>()?;
        let policy =
            Policy { on_exit: plan.on_exit, grace: plan.grace, linger: false, lasting: true };
        let spawner = Arc::new(Spawner::new().context("starting tunnels")?);
        let (send, output) = mpsc::channel(OUTPUT_QUEUE);
        let (tell, happening) = mpsc::unbounded_channel();
        let (handle, supervisor) = supervise(specs, spawner, policy, send, tell);
        let open = watch::Sender::new(vec![false; tunnels.labels.len()]);
        let mut opened = open.subscribe();
        tokio::spawn(listen(output, open, tunnels.labels.clone(), console.clone()));
        // The failure that stops all is told as the run's own.
        let teller = events::Teller {
            names: tunnels.labels.clone(),
            failures: plan.on_exit != OnExit::Stop,
            lasting: true,
            up: CancellationToken::new(),
            bar: SharedBar::new("tunnels up"),
        };
        let telling = tokio::spawn(teller.tell(happening, console.clone()));
        tunnels.running = Some(Running { handle, supervisor, telling });
        let all = async {
            let _teller_gone = opened.wait_for(|open| open.iter().all(|open| *open)).await;
        };
        tokio::select! {
            biased;
            failed = tunnels.failed() => return Err(failed),
            in_time = timeout(plan.timeout, all) => if in_time.is_err() {
                return Err(tunnels.late(plan, &opened.borrow()));
            },
        }
        Ok(tunnels)
    }

    /// For questions about them.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.running.as_ref().map(|running| running.handle.clone())
    }

    /// Returns when one has failed for good and the policy is not to ignore that; why.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        let Some(running) = &mut self.running else { return pending().await };
        let ended = (&mut running.supervisor).await;
        self.running = None;
        match ended {
            Ok(Ended::Failed { rank, failure }) => self.ending(rank, &failure).into(),
            _ => Ending::new(Code::Failed, "the tunnels have ended").into(),
        }
    }

    /// Ends them, if they have not ended yet. One that had failed before is an error.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(Running { handle, supervisor, telling }) = self.running.take() else {
            return Ok(());
        };
        handle.stop();
        let ended = supervisor.await.context("supervising the tunnels")?;
        telling.await.context("telling of the tunnels")?;
        match ended {
            Ended::Failed { rank, failure } => Err(self.ending(rank, &failure).into()),
            Ended::Done | Ended::Stopped => Ok(()),
        }
    }

    fn ending(&self, rank: usize, failure: &Failure) -> Ending {
        let label = self.labels.get(rank).map_or("a tunnel", String::as_str);
        let message = match failure {
            Failure::Start(error) => format!("cannot start {label}: {error}"),
            Failure::Exit(status) => format!("{label} has ended: {status}"),
        };
        Ending::new(Code::Failed, message)
    }

    fn late(&self, plan: &Plan, open: &[bool]) -> anyhow::Error {
        let late = self.labels.iter().zip(open).filter(|(_, open)| !**open);
        let late: Vec<_> = late.map(|(label, _)| label.as_str()).collect();
        let message = format!(
            "not open after {}: {}; allow more with --timeout",
            output::took(plan.timeout),
            late.join(", ")
        );
        Ending::new(Code::Incomplete, message).into()
    }
}

/// What tells a tunnel's process apart from its member's program, which must not take it along when it
/// ends; and nothing by which it would ask a registry.
fn environment(mark: &OsString) -> Vec<(OsString, Option<OsString>)> {
    let foreign = Places::FOREIGN.into_iter().chain(Places::variable_names());
    let mut environment: Vec<_> = foreign.map(|name| (name.into(), None)).collect();
    environment.push((dir::MARK.into(), Some(mark.clone())));
    environment
}

/// `xlreg tunnel` for a member. Its ports are held as long as it may be started again.
fn spec(
    member: &mut Member,
    cluster: &str,
    program: OsString,
    environment: Vec<(OsString, Option<OsString>)>,
) -> anyhow::Result<Spec> {
    let roster = member.true_roster_file();
    let name = member.name.clone();
    let tunnel = member.tunnel.as_mut().context("a member without a tunnel; this is a bug")?;
    let (outward, doors) = tunnel.take_ports()?;
    let mut arguments: Vec<OsString> =
        ["tunnel", cluster, "--output", "json"].map(Into::into).into();
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    add("--name", name.as_str().into());
    add("--identity", member.dir.clone().into());
    add("--roster", roster.into());
    add("--listen", outward.address().to_string().into());
    add("--program", tunnel.program.to_string().into());
    for (peer, door) in &doors {
        add("--door", format!("{peer}={}", door.address()).into());
    }
    let ports = doors.into_iter().map(|(_, door)| door).chain([outward]);
    let ports = Ports::Held(ports.collect());
    Ok(Spec { name, program, arguments, environment, marks: Vec::new(), ports })
}

/// Notes who is open, which is when it prints where its doors are, and passes its log on.
async fn listen(
    mut output: mpsc::Receiver<Output>,
    open: watch::Sender<Vec<bool>>,
    labels: Vec<String>,
    console: Console,
) {
    while let Some(Output { rank, stream, text }) = output.recv().await {
        if stream == Stream::Stdout {
            open.send_modify(|open| {
                open.iter_mut().skip(rank).take(1).for_each(|open| *open = true)
            });
            continue;
        }
        let label = labels.get(rank).map_or("a tunnel", String::as_str);
        for line in String::from_utf8_lossy(&text).lines() {
            console.note(format!("{label}: {line}")).await;
        }
    }
}
