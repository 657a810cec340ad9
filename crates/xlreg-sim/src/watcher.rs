//! A watcher by the modern door: it follows a cluster over connections that come and go.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::Status;
use xlreg_api::convert::{self, News};
use xlreg_api::v2::registry_server::Registry as _;
use xlreg_api::v2::{self, ErrorReason};
use xlreg_core::{ClusterId, ClusterKey};
use xlreg_server::simulation::Guest;

use crate::modern::{Member, Not};
use crate::network::pass;
use crate::world::World;

/// What a watcher follows, and how far it has come. Shared with whoever wants to know.
pub(crate) type Progress = Arc<Mutex<Option<(ClusterId, u64)>>>;

/// Follows a cluster of this number, whichever has the name at the time, and then the next.
pub(crate) async fn watch(mut member: Member, cluster: u64, progress: Progress) {
    loop {
        member.host.world.pause(5, 300).await;
        let known = *progress.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = match known {
            None => begin(&mut member, cluster, &progress).await,
            Some((id, revision)) => follow(&mut member, id, Some(revision), &progress).await,
        };
        if followed.is_none() && member.host.world.one_in(3) {
            member.host.hang_up();
        }
    }
}

async fn begin(member: &mut Member, cluster: u64, progress: &Progress) -> Option<()> {
    let found = member.get(cluster).await?;
    if member.host.world.one_in(2) {
        // From what has been shown already.
        set(progress, Some((found.id, found.revision)));
        return Some(());
    }
    follow(member, found.id, None, progress).await
}

fn set(progress: &Progress, to: Option<(ClusterId, u64)>) {
    *progress.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

/// Takes what one stream tells.
async fn follow(
    member: &mut Member,
    id: ClusterId,
    mut known: Option<u64>,
    progress: &Progress,
) -> Option<()> {
    let floor = member.host.world.history().floor(&id);
    let request = v2::WatchClusterRequest {
        cluster: Some(convert::cluster_ref(&ClusterKey::Id(id))),
        after_revision: known,
    };
    let mut stream = match open(member, request).await {
        Ok(stream) => stream,
        Err(Not::Refused(ErrorReason::ClusterNotFound)) => {
            let told = member.host.world.history().told_unknown(&id);
            member.check(told);
            set(progress, None);
            return None;
        }
        Err(_) => return None,
    };
    loop {
        // A watcher that is busy with something else, as some are.
        if member.host.world.misfortune(4) {
            member.host.world.pause(0, 2500).await;
        }
        let told = stream.recv().await?.ok()?;
        member.host.world.count(|tally| tally.news += 1);
        let news = match convert::news(&told) {
            Ok(news) => news?,
            Err(fault) => {
                member.check(Err(fault.to_string()));
                return None;
            }
        };
        match news {
            News::Heartbeat => {}
            News::Snapshot(cluster) => {
                member.note("watch", &("snapshot", cluster.revision));
                let told = member.host.world.history().told_snapshot(known, &cluster, floor);
                member.check(told);
                known = Some(cluster.revision);
            }
            News::Change(event) => {
                member.note("watch", &(event.kind, event.revision, event.rank));
                // It began with a snapshot, or with what it knew.
                let before = known.unwrap_or(u64::MAX - 1);
                let told = member.host.world.history().told_change(&id, before, &event);
                member.check(told);
                known = Some(event.revision);
            }
            News::Gone(how) => {
                member.note("watch", &how);
                let told = member.host.world.history().told_gone(&id);
                member.check(told);
                set(progress, None);
                return Some(());
            }
        }
        set(progress, known.map(|known| (id, known)));
    }
}

type Told = Result<v2::WatchClusterResponse, Status>;

/// A stream of news, which passes through the network as all else.
async fn open(
    member: &mut Member,
    request: v2::WatchClusterRequest,
) -> Result<mpsc::Receiver<Told>, Not> {
    let (news, stream) = mpsc::channel(1);
    let (world, number) = (Arc::clone(&member.host.world), member.host.number);
    let (tasks, group) = (world.tasks.clone(), member.host.machine.running());
    let group = group.ok_or(Not::Lost)?.group;
    member.note("watch", &request.after_revision);
    let run = move |guest: Arc<Guest>| async move {
        let mut told = guest.api().watch_cluster(guest.ask(request)).await?.into_inner();
        // The stream lives with the process that it comes from.
        tasks.spawn(group, async move {
            loop {
                let next = tokio::select! {
                    biased;
                    () = guest.cut() => None,
                    () = news.closed() => None,
                    next = told.next() => next,
                };
                let Some(next) = next else { return };
                world.pause(0, 8).await;
                let broken = world.misfortune(60) || pass(&world, number).await.is_none();
                if broken || news.send(next).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    };
    let answer = member.host.call(run).await;
    member.answered("watch", answer).map(|()| stream)
}

/// Whether a watcher has come to the end of what there is to be told.
pub(crate) fn is_up_to_date(world: &World, progress: &Progress) -> bool {
    let known = *progress.lock().unwrap_or_else(PoisonError::into_inner);
    known.is_none_or(|(id, revision)| world.history().head(&id).is_none_or(|head| head == revision))
}
