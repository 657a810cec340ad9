//! A run: nodes that do what nodes do, a world in which things go wrong, and a calm at its end in
//! which all must come right.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use xlreg_store::simulation::{Fate, Flaw};

use crate::executor::WORLD;
use crate::keys::{Keys, NODES};
use crate::machine::Machine;
use crate::modern::Member;
use crate::network::Host;
use crate::old::{self, Plan};
use crate::watcher::{self, Progress};
use crate::world::World;

/// Clusters that nodes quarrel over.
const CLUSTERS: u64 = 3;

/// How long it may take in a calm world until a cluster forms and watchers know all.
const CALM: Duration = Duration::from_secs(60);

/// The cluster that must form in the end.
const LAST: u64 = 99;

/// Sets a run up. It ends by itself.
pub(crate) fn start(
    world: &Arc<World>,
    keys: &'static Keys,
    flaw: Option<Flaw>,
) -> Result<(), String> {
    let machine = Machine::new(world, keys, flaw)?;
    machine.start()?;
    let nodes = 3 + usize::try_from(world.below(NODES as u64 - 2)).unwrap_or(0);
    let host = |number| Host::new(world, &machine, keys, number);
    for number in 0..nodes {
        world.tasks.spawn(WORLD, live(Member::new(host(number))?, host(number)));
    }
    let mut watchers = Vec::new();
    for number in 0..1 + world.below(3) {
        let progress = Progress::default();
        let node = usize::try_from(number).unwrap_or(0);
        let watching =
            watcher::watch(Member::new(host(node))?, number % CLUSTERS, progress.clone());
        world.tasks.spawn(WORLD, watching);
        watchers.push(progress);
    }
    for _ in 0..2 {
        world.tasks.spawn(WORLD, trouble(Arc::clone(world), machine.clone(), nodes));
    }
    let (world_, machine_) = (Arc::clone(world), machine.clone());
    let members = (0..nodes).map(|number| Ok((Member::new(host(number))?, host(number))));
    let members = members.collect::<Result<Vec<_>, String>>()?;
    world.tasks.spawn(WORLD, tend(world_, machine_, members, watchers));
    Ok(())
}

/// What a node does while things go wrong.
async fn live(mut member: Member, host: Host) {
    let world = Arc::clone(&host.world);
    while !world.is_calm() {
        let cluster = world.below(CLUSTERS);
        let size = 2 + u32::try_from(world.below(3)).unwrap_or(0);
        match world.below(13) {
            12 => {
                let _rotated = member.rotate().await;
            }
            0..4 => {
                let create = world.one_in(2).then_some(size);
                let lookups = 1 + u32::try_from(world.below(6)).unwrap_or(0);
                let _came = old::visit(&host, Plan { cluster, create, lookups }).await;
            }
            4 | 5 => drop(member.create(cluster, size, false).await),
            6..9 => drop(member.join(cluster).await),
            9 => drop(member.get(cluster).await),
            10 => {
                let _changed = member.change(cluster).await;
            }
            _ => member.host.hang_up(),
        }
        world.pause(0, 400).await;
    }
}

/// What goes wrong.
async fn trouble(world: Arc<World>, machine: Machine, nodes: usize) {
    loop {
        world.pause(50, 2500 * world.mildness().min(4)).await;
        if world.is_calm() {
            return;
        }
        let node = usize::try_from(world.below(nodes as u64)).unwrap_or(0);
        match world.below(12) {
            0 | 1 => machine.crash().await,
            2..5 => machine.crash_after(world.below(400)).await,
            5 => machine.stop().await,
            6 => {
                let fate = if world.one_in(2) { Fate::Torn(0) } else { Fate::KeptAndDenied };
                world.note(format_args!("disk: from now on every commit is {fate:?}"));
                world.settle_disk(Some(fate));
                world.pause(100, 4000).await;
                world.settle_disk(None);
            }
            7..9 => {
                world.note(format_args!("network: node{node} is cut off"));
                world.cut_off(node, true);
                world.pause(10, 8000).await;
                world.note(format_args!("network: node{node} is back"));
                world.cut_off(node, false);
            }
            9 => {
                for node in 0..nodes {
                    world.cut_off(node, true);
                }
                world.pause(10, 3000).await;
                for node in 0..nodes {
                    world.cut_off(node, false);
                }
            }
            _ => {
                let limit = if world.one_in(4) { 3_600_000 } else { 5_000 };
                let by = i64::try_from(world.below(2 * limit)).unwrap_or(0);
                let by = by - i64::try_from(limit).unwrap_or(0);
                world.note(format_args!("clock: {by} ms"));
                world.jump(by);
            }
        }
    }
}

/// Waits until there has been enough trouble, and then sees that all comes right.
async fn tend(
    world: Arc<World>,
    machine: Machine,
    members: Vec<(Member, Host)>,
    watchers: Vec<Progress>,
) {
    let storm = world.millis(4000, 16_000);
    let until = world.elapsed() + storm;
    while world.elapsed() < until {
        sleep(Duration::from_millis(50)).await;
    }
    world.note(format_args!("calm"));
    world.calm();
    let size = u32::try_from(members.len()).unwrap_or(2);
    let formed: Vec<_> =
        members.into_iter().map(|(member, host)| Box::pin(form(member, host, size))).collect();
    let all = async {
        let mut tasks = Vec::new();
        for forming in formed {
            let (done, heard) = tokio::sync::oneshot::channel();
            world.tasks.spawn(WORLD, async move {
                forming.await;
                let _heard = done.send(());
            });
            tasks.push(heard);
        }
        for task in tasks {
            let _done = task.await;
        }
    };
    let came = timeout(CALM, all).await;
    world.check(
        format_args!("calm"),
        came.map_err(|_| format!("no cluster has formed in {CALM:?}, though nothing goes wrong")),
    );
    let caught_up = async {
        while world.history().is_overdue(world.clock.now())
            || !watchers.iter().all(|progress| watcher::is_up_to_date(&world, progress))
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let came = timeout(CALM, caught_up).await;
    world.check(
        format_args!("calm"),
        came.map_err(|_| {
            "a watcher does not hear of a change, or a cluster does not end".to_owned()
        }),
    );
    machine.stop().await;
    world.end();
}

/// Comes into the last cluster, and waits for all others.
async fn form(mut member: Member, host: Host, size: u32) {
    let world = Arc::clone(&host.world);
    let by_old_wire = world.one_in(2);
    loop {
        let came = if by_old_wire {
            let plan = Plan { cluster: LAST, create: Some(size), lookups: 32 };
            old::visit(&host, plan).await == Some(true)
        } else {
            let _created = member.create(LAST, size, true).await;
            let _joined = member.join(LAST).await;
            member.get(LAST).await.is_some_and(|cluster| cluster.is_complete())
        };
        if came {
            return;
        }
        world.pause(10, 300).await;
    }
}
