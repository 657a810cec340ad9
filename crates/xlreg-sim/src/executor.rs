//! The executor: one thread, and the seed picks which of the tasks that could go on goes on.
//!
//! It runs within a tokio runtime whose time is paused, so that tokio's timers, channels and streams
//! work as they do in production; but no task is tokio's. A group of tasks can be killed between any
//! two polls: what a process was doing when its power failed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::oneshot;

use crate::chance::Chance;

/// Polls after which a run can only be going in circles.
const POLLS_MAX: u64 = 5_000_000;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tasks that live and die together. Group 0 is the world, which does not die.
pub(crate) type Group = u64;

/// The group of all that is not the server's.
pub(crate) const WORLD: Group = 0;

/// The way to the executor for its tasks.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Shared>);

#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    ready: Mutex<BTreeSet<u64>>,
    /// Wakes the executor itself.
    root: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct Orders {
    new: Vec<(Group, Task)>,
    killed: Vec<Group>,
    /// Which group dies after so many more polls, and who hears of it.
    doomed: Option<(u64, Group, oneshot::Sender<()>)>,
}

struct Bell {
    task: u64,
    shared: Arc<Shared>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        lock(&self.shared.ready).insert(self.task);
        if let Some(root) = lock(&self.shared.root).take() {
            root.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    pub(crate) fn spawn(&self, group: Group, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(group, Box::pin(task));
    }

    pub(crate) fn spawn_boxed(&self, group: Group, task: Task) {
        lock(&self.0.orders).new.push((group, task));
    }

    /// Ends all tasks of a group before anything else is polled.
    pub(crate) fn kill(&self, group: Group) {
        lock(&self.0.orders).killed.push(group);
    }

    /// Does so after `polls` more polls of any tasks, and tells when it is done.
    pub(crate) fn kill_after(&self, polls: u64, group: Group) -> oneshot::Receiver<()> {
        let (done, heard) = oneshot::channel();
        lock(&self.0.orders).doomed = Some((polls, group, done));
        heard
    }
}

/// Runs tasks until `is_over` says so. It is asked before each poll, and may look at everything.
/// Returns how many polls that took, or none if there was no end of them.
pub(crate) async fn run(
    tasks: &Tasks,
    mut chance: Chance,
    mut is_over: impl FnMut() -> bool,
) -> Option<u64> {
    let mut executor = Executor { shared: Arc::clone(&tasks.0), tasks: BTreeMap::new(), next: 0 };
    let mut polls = 0;
    poll_fn(|context| {
        *lock(&executor.shared.root) = Some(context.waker().clone());
        loop {
            executor.obey();
            if is_over() {
                return Poll::Ready(Some(polls));
            }
            if polls >= POLLS_MAX {
                return Poll::Ready(None);
            }
            let Some(task) = executor.pick(&mut chance) else { return Poll::Pending };
            polls += 1;
            executor.poll(task);
            executor.count_down();
        }
    })
    .await
}

struct Executor {
    shared: Arc<Shared>,
    tasks: BTreeMap<u64, (Group, Task)>,
    next: u64,
}

impl Executor {
    /// Takes new tasks in and lets killed ones go.
    fn obey(&mut self) {
        loop {
            let mut orders = lock(&self.shared.orders);
            let (new, killed) =
                (std::mem::take(&mut orders.new), std::mem::take(&mut orders.killed));
            drop(orders);
            if new.is_empty() && killed.is_empty() {
                return;
            }
            for (group, task) in new {
                self.next += 1;
                // Each poll has tokio's whole budget, so that none ends early by tokio's choice.
                self.tasks.insert(self.next, (group, Box::pin(tokio::task::unconstrained(task))));
                lock(&self.shared.ready).insert(self.next);
            }
            self.tasks.retain(|_, (group, _)| !killed.contains(group));
        }
    }

    fn pick(&mut self, chance: &mut Chance) -> Option<u64> {
        let mut ready = lock(&self.shared.ready);
        ready.retain(|task| self.tasks.contains_key(task));
        let place = chance.below(ready.len() as u64);
        let task = ready.iter().nth(usize::try_from(place).ok()?).copied()?;
        ready.remove(&task);
        Some(task)
    }

    fn poll(&mut self, task: u64) {
        let bell = Waker::from(Arc::new(Bell { task, shared: Arc::clone(&self.shared) }));
        let Some((_, future)) = self.tasks.get_mut(&task) else { return };
        if future.as_mut().poll(&mut Context::from_waker(&bell)).is_ready() {
            self.tasks.remove(&task);
        }
    }

    fn count_down(&mut self) {
        let mut orders = lock(&self.shared.orders);
        match orders.doomed.take() {
            Some((0, group, done)) => {
                orders.killed.push(group);
                // Whoever waited may be gone.
                let _heard = done.send(());
            }
            Some((polls, group, done)) => orders.doomed = Some((polls - 1, group, done)),
            None => {}
        }
    }
}
