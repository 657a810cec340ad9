//! Members that are functions of the test's own process, each on a thread with a runtime of its
//! own: whatever a member spawns ends with it, and stands still with it.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::error::TestError;
use super::member::TestMember;
use super::slot::{MemberState, Slot};

/// What a member does, once for each start.
pub(super) type Serve = Arc<dyn Fn(TestMember) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

/// Those who run, by rank.
pub(super) struct Threads {
    serve: Serve,
    controls: Mutex<Vec<Option<Control>>>,
}

/// What a member's thread can be told.
struct Control {
    orders: mpsc::UnboundedSender<Order>,
    /// Dropped, it lets a paused thread go on.
    pause: Option<blocking::Sender<Infallible>>,
}

enum Order {
    /// Stand still, which the first tells, until the second is closed.
    Pause(oneshot::Sender<()>, blocking::Receiver<Infallible>),
    /// End.
    Kill,
}

impl Threads {
    pub(super) fn new(serve: Serve, size: usize) -> Self {
        Self { serve, controls: Mutex::new((0..size).map(|_| None).collect()) }
    }

    /// Starts the member of this rank, which must not run, with new listeners.
    pub(super) fn start(&self, rank: usize, slot: &Arc<Slot>) -> Result<(), TestError> {
        slot.listen()?;
        let (orders, obeyed) = mpsc::unbounded_channel();
        let (serve, own, member) = (Arc::clone(&self.serve), Arc::clone(slot), slot.member());
        slot.state.send_replace(MemberState::Running);
        let life = move || {
            let end = live(&serve, member, obeyed);
            own.member().close();
            own.state.send_replace(end);
        };
        // The thread prints what the test prints to, as the test's own thread starts it.
        let thread = thread::Builder::new().name(slot.name().to_string()).spawn(life);
        thread.map_err(|error| TestError::io("starting a member's thread", error))?;
        if let Some(control) = self.controls().get_mut(rank) {
            *control = Some(Control { orders, pause: None });
        }
        Ok(())
    }

    /// Has a member end, paused or not. It may take a moment.
    pub(super) fn kill(&self, rank: usize) {
        let control = self.controls().get_mut(rank).and_then(Option::take);
        // In this order, so that a paused one ends before it does anything else.
        let killed = control.as_ref().map(|control| control.orders.send(Order::Kill));
        drop((killed, control));
    }

    /// Has a member stand still; what is returned tells when it does, or ends without a word if the
    /// member has ended.
    pub(super) fn pause(&self, rank: usize) -> Option<oneshot::Receiver<()>> {
        let mut controls = self.controls();
        let control = controls.get_mut(rank)?.as_mut()?;
        let ((tell, is_still), (pause, until)) = (oneshot::channel(), blocking::channel());
        control.orders.send(Order::Pause(tell, until)).ok()?;
        control.pause = Some(pause);
        Some(is_still)
    }

    /// Lets a member go on.
    pub(super) fn resume(&self, rank: usize) {
        if let Some(Some(control)) = self.controls().get_mut(rank) {
            control.pause = None;
        }
    }

    fn controls(&self) -> MutexGuard<'_, Vec<Option<Control>>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member's life, from its start to its end.
fn live(
    serve: &Serve,
    member: TestMember,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> MemberState {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return MemberState::Failed(format!("it has no runtime: {error}")),
    };
    let life = async {
        tokio::select! {
            biased;
            () = obey(&mut orders) => MemberState::Killed,
            () = serve(member) => MemberState::Ended,
        }
    };
    let end = catch_unwind(AssertUnwindSafe(|| runtime.block_on(life)));
    // All that it has spawned ends here, but for threads that block.
    runtime.shutdown_background();
    end.unwrap_or_else(|panic| MemberState::Failed(format!("it panicked: {}", text(&*panic))))
}

/// Obeys until told to end.
async fn obey(orders: &mut mpsc::UnboundedReceiver<Order>) {
    while let Some(Order::Pause(tell, until)) = orders.recv().await {
        let _nobody_waits = tell.send(());
        // Blocks the one thread that all of the member's tasks and timers have.
        let _closed = until.recv();
    }
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref().copied()).unwrap_or("it does not say why")
}
