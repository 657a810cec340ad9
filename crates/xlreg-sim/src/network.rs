//! Connections that are slow, break, stand still and end in silence.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{
    AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xlreg_proto::channel::{Channel, Dialect};
use xlreg_server::simulation::Guest;

use crate::executor::WORLD;
use crate::keys::{Keys, Who};
use crate::machine::Machine;
use crate::world::World;

/// Bytes under way in a pipe: few, so that writers wait.
const PIPE_BYTES: usize = 2048;

/// How long a connection may be cut off before it is given up.
const PATIENCE: Duration = Duration::from_secs(6);

/// A node, and its way to the registry.
pub(crate) struct Host {
    pub(crate) world: Arc<World>,
    pub(crate) machine: Machine,
    pub(crate) keys: &'static Keys,
    /// Which of the nodes there are keys for.
    pub(crate) number: usize,
    /// Its connection by the modern door, and to which process.
    guest: Option<((u64, Who), Arc<Guest>)>,
}

/// Why there is no answer by the modern door.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The connection broke, or there was none; nobody knows what became of the request.
    Lost,
    /// The server's answer is an error.
    Status(Status),
}

impl Host {
    pub(crate) fn new(
        world: &Arc<World>,
        machine: &Machine,
        keys: &'static Keys,
        number: usize,
    ) -> Self {
        let (world, machine) = (Arc::clone(world), machine.clone());
        Self { world, machine, keys, number, guest: None }
    }

    /// Waits while the node is cut off; for too long, and the connection is lost.
    async fn pass(&self) -> Option<()> {
        self.world.pause(0, 8).await;
        pass(&self.world, self.number).await
    }

    /// A connection of the old wire, with hellos exchanged.
    pub(crate) async fn connect(&self) -> Option<(DuplexStream, Channel)> {
        self.pass().await?;
        let process = self.machine.running()?;
        let dialect = if self.world.one_in(2) { Dialect::V1_8 } else { Dialect::V1_9 };
        let channel = || Channel::new(dialect, &[7; 32], [9; 16]);
        let (client, near) = duplex(PIPE_BYTES);
        let (far, server) = duplex(PIPE_BYTES);
        let broken = CancellationToken::new();
        let (near_read, near_write) = split(near);
        let (far_read, far_write) = split(far);
        for (from, to) in [(near_read, far_write), (far_read, near_write)] {
            let (world, broken, number) = (Arc::clone(&self.world), broken.clone(), self.number);
            self.world.tasks.spawn(WORLD, relay(world, number, from, to, broken));
        }
        self.world.tasks.spawn(process.group, process.site.serve(server, channel()));
        Some((client, channel()))
    }

    /// A call by the modern door, on the connection there is or a new one.
    pub(crate) async fn call<T, Run, Answer>(&mut self, run: Run) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        Run: FnOnce(Arc<Guest>) -> Answer,
        Answer: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let called = self.try_call(run).await;
        if matches!(called, Err(NoAnswer::Lost)) {
            self.guest = None;
            self.world.count(|tally| tally.broken += 1);
        }
        called
    }

    async fn try_call<T, Run, Answer>(&mut self, run: Run) -> Result<T, NoAnswer>
    where
        T: Send + 'static,
        Run: FnOnce(Arc<Guest>) -> Answer,
        Answer: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let lost = || NoAnswer::Lost;
        self.pass().await.ok_or_else(lost)?;
        if self.world.misfortune(40) {
            return Err(NoAnswer::Lost);
        }
        let process = self.machine.running().ok_or_else(lost)?;
        let end = (process.group, self.world.who(self.number));
        let guest = match &self.guest {
            Some((known, guest)) if *known == end => Arc::clone(guest),
            _ => {
                let key = self.keys.node(end.1).map_err(|_| lost())?.sig_key.clone();
                Arc::new(process.site.enter(key).ok_or_else(lost)?)
            }
        };
        self.guest = Some((end, Arc::clone(&guest)));
        let (mut told, answer) = oneshot::channel();
        let asked = run(guest);
        self.world.tasks.spawn(process.group, async move {
            let answer = tokio::select! {
                biased;
                // As HTTP/2 drops what nobody waits for any more.
                () = told.closed() => return,
                answer = asked => answer,
            };
            // Whoever asked may have gone.
            let _told = told.send(answer);
        });
        drop(process);
        let patience = if self.world.misfortune(25) {
            self.world.millis(0, 40)
        } else {
            Duration::from_secs(12)
        };
        let answer = timeout(patience, answer).await;
        self.pass().await.ok_or_else(lost)?;
        if self.world.misfortune(40) {
            return Err(NoAnswer::Lost);
        }
        match answer {
            Ok(Ok(answer)) => answer.map_err(NoAnswer::Status),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Lost),
        }
    }

    /// Closes the connection by the modern door.
    pub(crate) fn hang_up(&mut self) {
        self.guest = None;
    }
}

/// Waits while a node is cut off, but not for ever.
pub(crate) async fn pass(world: &World, number: usize) -> Option<()> {
    let mut waited = Duration::ZERO;
    while world.is_cut_off(number) {
        let step = Duration::from_millis(25);
        sleep(step).await;
        waited += step;
        if waited >= PATIENCE {
            return None;
        }
    }
    Some(())
}

/// Carries bytes one way, in pieces of any size, in order, and late.
async fn relay(
    world: Arc<World>,
    number: usize,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    broken: CancellationToken,
) {
    let carry = async {
        loop {
            let most = if world.one_in(4) { 1 + world.below(64) } else { PIPE_BYTES as u64 };
            let mut piece = vec![0; usize::try_from(most).unwrap_or(1)];
            let read = from.read(&mut piece).await.unwrap_or(0);
            if read == 0 {
                // A machine without power says nothing any more; one that closes says so.
                if world.misfortune(4) {
                    std::future::pending::<()>().await;
                }
                return;
            }
            world.pause(0, 8).await;
            if world.misfortune(150) || pass(&world, number).await.is_none() {
                world.count(|tally| tally.broken += 1);
                broken.cancel();
                return;
            }
            if to.write_all(piece.get(..read).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = broken.cancelled() => {}
        () = carry => {}
    }
    // The other direction goes on; its reader hears that nothing more comes.
    let _closed = to.shutdown().await;
}
