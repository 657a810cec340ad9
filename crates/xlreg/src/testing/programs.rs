//! Members that are programs, started and watched as `xlreg run` does it.

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use xlreg_launch::output::{OUTPUT_QUEUE, Output};
use xlreg_launch::program::{Ports, Spawner, Spec};
use xlreg_launch::ready::Variable;
use xlreg_launch::supervise::{
    Ended, Event, Failure, Handle, OnExit, Order, OrderError, Policy, supervise,
};
use xlreg_launch::{Offer, Place, Places, Template};

use super::error::TestError;
use super::slot::{MemberState, Slot};

/// Between asking programs to stop and killing them.
const GRACE: Duration = Duration::from_secs(5);

/// What to start for each member.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) program: OsString,
    pub(super) arguments: Vec<Template>,
    pub(super) variables: Vec<(String, Template)>,
}

/// Running programs.
pub(super) struct Programs {
    handle: Handle,
    /// The path or name of what each is.
    program: String,
    /// Aborted, it kills them.
    supervisor: Mutex<Option<AbortOnDropHandle<Ended>>>,
}

impl Command {
    /// What to start for the member at `rank`.
    pub(super) fn spec(&self, places: &Places, rank: usize, roster_file: &Path) -> Option<Spec> {
        let Place { name, dir, .. } = places.members.get(rank)?;
        let fill = |template: &Template| OsString::from(template.fill(places, rank, roster_file));
        Some(Spec {
            name: name.clone(),
            program: self.program.clone(),
            arguments: self.arguments.iter().map(fill).collect(),
            environment: self.environment(places, rank, roster_file),
            // Each member has a directory of its own, below one that the test has made.
            marks: vec![("XLREG_DIR".into(), dir.clone().into_os_string())],
            // The cluster holds them, also while the program does not run.
            ports: Ports::Free,
        })
    }

    /// What its environment has that ours hasn't: the test's own variables last.
    pub(super) fn environment(
        &self,
        places: &Places,
        rank: usize,
        roster_file: &Path,
    ) -> Vec<Variable> {
        let mut all = environment(places, rank, roster_file);
        let own = self.variables.iter().map(|(name, template)| {
            (name.into(), Some(template.fill(places, rank, roster_file).into()))
        });
        all.extend(own);
        all
    }
}

/// The `XLREG_*` variables of the member at `rank`.
pub(super) fn environment(places: &Places, rank: usize, roster_file: &Path) -> Vec<Variable> {
    let foreign = Places::FOREIGN.map(|name| (name.into(), None));
    let own = places.variables(rank, roster_file).unwrap_or_default();
    let own = own.into_iter().map(|(name, value)| (name.into(), value.map(Into::into)));
    foreign.into_iter().chain(own).collect()
}

/// Parses what may have placeholders.
pub(super) fn template(text: &str, offer: &Offer) -> Result<Template, TestError> {
    Template::parse(text, offer)
        .map_err(|reason| TestError::Template { text: text.to_owned(), reason })
}

impl Programs {
    /// Starts them all. Must be called within the background's runtime, where they live.
    pub(super) async fn start(specs: Vec<Spec>, slots: Vec<Arc<Slot>>) -> Result<Self, TestError> {
        let spawner = Spawner::new();
        let spawner = spawner.map_err(|error| TestError::io("starting programs", error))?;
        let program = specs.first().map(|spec| spec.program.to_string_lossy().into_owned());
        let program = program.unwrap_or_default();
        let policy = Policy { on_exit: OnExit::Ignore, grace: GRACE, linger: true, lasting: false };
        let (send, output) = mpsc::channel(OUTPUT_QUEUE);
        let (tell, events) = mpsc::unbounded_channel();
        let (handle, task) = supervise(specs, Arc::new(spawner), policy, send, tell);
        let mut supervisor = AbortOnDropHandle::new(task);
        tokio::spawn(collect(output, events, slots.clone()));
        tokio::select! {
            biased;
            ended = &mut supervisor => Err(not_started(ended.ok(), &slots, program)),
            () = all_started(&slots) => {
                Ok(Self { handle, program, supervisor: Mutex::new(Some(supervisor)) })
            }
        }
    }

    /// Pauses, resumes or kills one, or starts one that does not run.
    pub(super) async fn order(
        &self,
        rank: usize,
        order: Order,
        slot: &Slot,
    ) -> Result<(), TestError> {
        let name = slot.name().clone();
        self.handle.order(rank, order).await.map_err(|error| match error {
            OrderError::Start { source, .. } => {
                let (program, reason) = (self.program.clone(), source.to_string());
                TestError::Start { name, program, reason }
            }
            _ => TestError::NotRunning { name, state: slot.state() },
        })
    }

    /// The work of ending them all: at once, or after a grace in which they can end by themselves.
    /// Done when all have ended.
    pub(super) fn end(&self, at_once: bool) -> impl Future<Output = ()> + Send + 'static + use<> {
        match at_once {
            true => self.handle.kill(),
            false => self.handle.stop(),
        }
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Some(supervisor) = supervisor {
                let _over = supervisor.await;
            }
        }
    }
}

async fn all_started(slots: &[Arc<Slot>]) {
    for slot in slots {
        slot.wait_for(|state| *state != MemberState::Starting).await;
    }
}

/// That not all could be started, which ended the supervision before it began.
fn not_started(ended: Option<Ended>, slots: &[Arc<Slot>], program: String) -> TestError {
    if let Some(Ended::Failed { rank, failure: Failure::Start(source) }) = &ended
        && let Some(slot) = slots.get(*rank)
    {
        let (name, reason) = (slot.name().clone(), source.to_string());
        return TestError::Start { name, program, reason };
    }
    TestError::io("starting programs", std::io::Error::other(format!("{ended:?}")))
}

/// Notes what programs write, and how they are.
async fn collect(
    mut output: mpsc::Receiver<Output>,
    mut events: mpsc::UnboundedReceiver<Event>,
    slots: Vec<Arc<Slot>>,
) {
    loop {
        tokio::select! {
            biased;
            Some(output) = output.recv() => write(&slots, &output),
            event = events.recv() => {
                // All that a program has written was sent before word of its end. So whoever hears
                // of the end has all of it.
                while let Ok(output) = output.try_recv() {
                    write(&slots, &output);
                }
                match event {
                    Some(event) => note(&slots, &event),
                    None => return,
                }
            }
        }
    }
}

fn write(slots: &[Arc<Slot>], output: &Output) {
    if let Some(slot) = slots.get(output.rank) {
        slot.write(&output.text);
    }
}

fn note(slots: &[Arc<Slot>], event: &Event) {
    let (rank, state) = match event {
        Event::Started { rank, .. } => (rank, MemberState::Running),
        Event::Ended { rank, expected: true, .. } => (rank, MemberState::Killed),
        Event::Ended { rank, status, .. } if status.success() => (rank, MemberState::Ended),
        Event::Ended { rank, status, .. } => (rank, MemberState::Failed(status.to_string())),
        _ => return,
    };
    if let Some(slot) = slots.get(*rank) {
        slot.state.send_replace(state);
    }
}
