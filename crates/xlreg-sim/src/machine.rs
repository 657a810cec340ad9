//! The server's machine: a disk that stays, and one server process after another over it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use xlreg_core::limits::Limits;
use xlreg_server::config::{Connections, Modern};
use xlreg_server::rates::{Rate, SlowRate};
use xlreg_server::simulation::{Parts, Site};
use xlreg_store::simulation::{Disk, Flaw};
use xlreg_store::{Engine, LocalEngine};

use crate::executor::{Group, WORLD};
use crate::keys::Keys;
use crate::world::World;

/// How long a server that stops lets sessions come to their ends.
const DRAIN_MILLIS: u64 = 500;

/// The machine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Machine(Arc<Inner>);

struct Inner {
    world: Arc<World>,
    keys: &'static Keys,
    disk: Disk,
    flaw: Option<Flaw>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many processes there have been.
    processes: Group,
    running: Option<Arc<Process>>,
}

/// One server process.
pub(crate) struct Process {
    pub(crate) group: Group,
    pub(crate) site: Site,
    engine: Arc<LocalEngine>,
}

impl Machine {
    pub(crate) fn new(
        world: &Arc<World>,
        keys: &'static Keys,
        flaw: Option<Flaw>,
    ) -> Result<Self, String> {
        let disk = Disk::new(&keys.registry.entry.id).map_err(|error| error.to_string())?;
        let (world, state) = (Arc::clone(world), Mutex::default());
        Ok(Self(Arc::new(Inner { world, keys, disk, flaw, state })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that serves, if there is one.
    pub(crate) fn running(&self) -> Option<Arc<Process>> {
        self.state().running.clone()
    }

    /// Starts a process, unless there is one. What it finds on the disk must be what was kept.
    pub(crate) fn start(&self) -> Result<(), String> {
        let Inner { world, disk, flaw, .. } = &*self.0;
        if self.running().is_some() {
            return Ok(());
        }
        let found =
            disk.load(Limits::default(), &world.clock).map_err(|error| error.to_string())?;
        let compared = world.history().compare(&found);
        world.check(format_args!("start"), compared);
        let weather = Arc::clone(world);
        let (engine, writer) = disk
            .mount(world.clock.clone(), Limits::default(), weather, *flaw)
            .map_err(|error| error.to_string())?;
        let mut state = self.state();
        state.processes += 1;
        let group = state.processes;
        world.note(format_args!("machine: process {group} starts"));
        let engine = Arc::new(engine);
        let site = self.site(&engine, group);
        world.tasks.spawn(group, writer);
        world.tasks.spawn(group, site.lifetimes());
        let process = Arc::new(Process { group, site, engine });
        state.running = Some(Arc::clone(&process));
        drop(state);
        world.tasks.spawn(WORLD, self.clone().see_to(process));
        Ok(())
    }

    fn site(&self, engine: &Arc<LocalEngine>, group: Group) -> Site {
        let Inner { world, keys, flaw, .. } = &*self.0;
        let unlimited = Rate { per_second: u32::MAX, burst: u32::MAX };
        let (filler, spawner) = (Arc::clone(world), world.tasks.clone());
        Site::new(Parts {
            engine: Arc::clone(engine) as Arc<dyn Engine>,
            identity: Arc::clone(&keys.registry),
            tls: Arc::clone(&keys.tls),
            key: Arc::clone(&keys.registry_key),
            connections: Connections { session: Duration::from_secs(20), ..Connections::default() },
            modern: Modern {
                handshakes: unlimited,
                requests: unlimited,
                address_requests: unlimited,
                registrations: unlimited,
                rotations: SlowRate { per_minute: u32::MAX, burst: u32::MAX },
                heartbeat: Duration::from_secs(4),
                owner_grace: Duration::from_secs(2),
                ..Modern::default()
            },
            fill: Arc::new(move |bytes| filler.fill(bytes)),
            spawn: Arc::new(move |task| spawner.spawn_boxed(group, task)),
            flaw: *flaw,
        })
    }

    /// Does what a server does when its store fails: it stops, and whoever runs it starts it again.
    async fn see_to(self, process: Arc<Process>) {
        let error = process.engine.failure().await;
        if self.is_running(&process) {
            self.0.world.note(format_args!("machine: the store failed: {error}"));
            process.site.stop();
            self.0.world.pause(0, DRAIN_MILLIS).await;
            self.end(&process, "gives up");
            self.start_later().await;
        }
    }

    fn is_running(&self, process: &Process) -> bool {
        self.running().is_some_and(|running| running.group == process.group)
    }

    /// The power fails: nothing of the process is polled any more.
    pub(crate) async fn crash(&self) {
        if let Some(process) = self.running() {
            self.end(&process, "crashes");
            self.start_later().await;
        }
    }

    /// The same after so many more polls, wherever the process is by then.
    pub(crate) async fn crash_after(&self, polls: u64) {
        if let Some(process) = self.running() {
            let killed = self.0.world.tasks.kill_after(polls, process.group);
            // Should the world end first, nobody tells us.
            if killed.await.is_ok() {
                self.end(&process, "crashes amid its work");
                self.start_later().await;
            }
        }
    }

    /// An operator stops the server, and starts it again.
    pub(crate) async fn stop(&self) {
        let Some(process) = self.running() else { return };
        process.site.stop();
        self.0.world.pause(0, DRAIN_MILLIS).await;
        let closed = timeout(Duration::from_secs(5), process.engine.close()).await;
        if matches!(closed, Ok(Ok(()))) {
            let compared = self.load();
            self.0.world.check(format_args!("stop"), compared);
        }
        self.end(&process, "stops");
        self.start_later().await;
    }

    /// What is on the disk is what was kept, now that nothing is under way.
    fn load(&self) -> Result<(), String> {
        let Inner { world, disk, .. } = &*self.0;
        let found =
            disk.load(Limits::default(), &world.clock).map_err(|error| error.to_string())?;
        world.history().compare(&found)
    }

    fn end(&self, process: &Process, how: &str) {
        let mut state = self.state();
        if state.running.as_ref().is_some_and(|running| running.group == process.group) {
            state.running = None;
            drop(state);
            self.0.world.note(format_args!("machine: process {} {how}", process.group));
            self.0.world.count(|tally| tally.ends += 1);
            self.0.world.tasks.kill(process.group);
        }
    }

    async fn start_later(&self) {
        self.0.world.pause(1, 1500).await;
        let started = self.start();
        self.0.world.check(format_args!("start"), started);
    }
}
