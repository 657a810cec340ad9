//! Following a cluster: what a watcher is told, and when it is given up.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xlreg_api::convert::{self, Detail};
use xlreg_api::fault::Fault;
use xlreg_api::v2;
use xlreg_core::registry::Actor;
use xlreg_core::{Cluster, Command, Fingerprint, Refusal};
#[cfg(feature = "simulation")]
use xlreg_store::simulation::Flaw;

use crate::modern::Shared;
use crate::tally::Place;

/// Answers under way to one watcher. What else has changed waits as a revision, not as messages:
/// nothing is kept for a watcher that the cluster itself does not have.
const AHEAD: usize = 1;

/// What a watcher is told.
pub(crate) type News = Pin<Box<dyn Stream<Item = Result<v2::WatchClusterResponse, Status>> + Send>>;

/// In a box, since a channel has room for dozens from the start, and there are thousands of them.
type Told = Box<Result<v2::WatchClusterResponse, Status>>;

/// A watcher about to be served.
pub(crate) struct Watch {
    pub(crate) shared: Arc<Shared>,
    /// Cuts the watcher's connection off.
    pub(crate) cut: CancellationToken,
    pub(crate) actor: Actor,
    /// The last revision it has seen.
    pub(crate) after: Option<u64>,
    pub(crate) receiver: watch::Receiver<Arc<Cluster>>,
    /// Among the streams of its key, and of its connection.
    pub(crate) _places: (Place<Fingerprint>, Option<Place<()>>),
}

/// That there is no more to tell.
type Flow = ControlFlow<()>;

impl Watch {
    /// Begins to tell.
    pub(crate) fn start(self) -> News {
        let (told, news) = mpsc::channel(AHEAD);
        let around = self.shared.around.clone();
        around.spawn(self.run(told));
        Box::pin(ReceiverStream::new(news).map(|told: Told| *told))
    }

    async fn run(mut self, told: mpsc::Sender<Told>) {
        let _over = self.tell_all(&told).await;
        let cluster = Arc::clone(&self.receiver.borrow());
        if cluster.life.idle.is_some() {
            // It has been watched until now. An engine that is closing ends nothing any more.
            let _touched = self.shared.engine.apply(Command::Touch { cluster: cluster.id }).await;
        }
    }

    async fn tell_all(&mut self, told: &mpsc::Sender<Told>) -> Flow {
        loop {
            let cluster = Arc::clone(&self.receiver.borrow_and_update());
            self.catch_up(&cluster, told).await?;
            // That it was is the last that it hears, as a change of the cluster if it is in there.
            if self.is_retired().await {
                self.tell(Err(Fault::from(Refusal::KeyRetired).into()), told).await?;
                return ControlFlow::Break(());
            }
            if let Some(how) = cluster.gone {
                self.tell(Ok(convert::to_gone(cluster.revision, how)), told).await?;
                return ControlFlow::Break(());
            }
            tokio::select! {
                biased;
                () = told.closed() => return ControlFlow::Break(()),
                changed = self.receiver.changed() => if changed.is_err() {
                    return self.stop(told).await;
                },
                () = self.shared.stop.cancelled() => return self.stop(told).await,
                () = sleep(self.shared.bounds.heartbeat) => {
                    self.tell(Ok(convert::to_heartbeat(&cluster)), told).await?;
                }
            }
        }
    }

    /// Whether another key has taken the place of the watcher's since it began.
    async fn is_retired(&self) -> bool {
        let node = self.shared.engine.node(&self.actor.sig_key).await;
        // An engine that is closing ends the watch by itself.
        node.is_ok_and(|node| node.retired)
    }

    /// Tells of all that has changed since the last revision seen.
    async fn catch_up(&mut self, cluster: &Arc<Cluster>, told: &mpsc::Sender<Told>) -> Flow {
        match self.after.and_then(|after| cluster.events_after(after)) {
            Some(events) => {
                #[cfg(feature = "simulation")]
                let events = if self.shared.flaw == Some(Flaw::SkipsMissed) {
                    events.get(events.len().saturating_sub(1)..).unwrap_or_default()
                } else {
                    events
                };
                for event in events {
                    self.tell(Ok(convert::to_change(event)), told).await?;
                }
            }
            None => {
                let detail = Detail { members: true, keys: self.actor.commands(cluster) };
                self.tell(Ok(convert::to_snapshot(cluster, detail)), told).await?;
            }
        }
        self.after = Some(cluster.revision);
        ControlFlow::Continue(())
    }

    async fn stop(&self, told: &mpsc::Sender<Told>) -> Flow {
        let message = "the registry is stopping; watch again later, after the last revision seen";
        let fault = Fault::new(v2::ErrorReason::ShuttingDown, message);
        self.tell(Err(fault.into()), told).await?;
        ControlFlow::Break(())
    }

    /// Tells one thing. Whoever takes nothing in for too long loses the connection: its stream can't
    /// be told even that it is over.
    async fn tell(
        &self,
        news: Result<v2::WatchClusterResponse, Status>,
        told: &mpsc::Sender<Told>,
    ) -> Flow {
        match timeout(self.shared.bounds.stall, told.send(Box::new(news))).await {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_gone)) => ControlFlow::Break(()),
            Err(_) => {
                self.cut.cancel();
                ControlFlow::Break(())
            }
        }
    }
}
