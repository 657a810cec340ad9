//! Clusters that end by themselves, by a clock that only the tests move.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use xlreg_api::convert::{News as Told, to_duration};
use xlreg_api::v2::{self, ErrorReason};
use xlreg_core::Time;
use xlreg_core::cluster::Gone;
use xlreg_core::limits::Limits;
use xlreg_proto::message::Reply;
use xlreg_server::Config;
use xlreg_server::config::Modern;
use xlreg_store::{Clock, LocalEngine};

use crate::caller::{Caller, News, defined, refused};
use crate::frames::{Raw, call};
use crate::rigged::{Mood, Rigged};
use crate::support::{Client, REGISTRY, Running, get, join, patient, sig_key, soon};

const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(1);

/// How long owners may be away.
const GRACE: Duration = Duration::from_secs(10);

const WITH_OWNER: v2::Lifetime =
    v2::Lifetime { fill_within: None, ttl: None, idle_timeout: None, with_owner: true };

const CREATE_CLUSTER: &str = "/xlreg.v2.Registry/CreateCluster";

fn standing() -> Clock {
    Clock::standing(Time::from_millis(1_800_000_000_000))
}

fn config() -> Config {
    let modern = Modern { owner_grace: GRACE, ..Modern::default() };
    Config { modern, connections: patient(), ..Config::default() }
}

async fn serve() -> (Clock, Running) {
    let clock = standing();
    let engine = LocalEngine::in_memory_by(clock.clone(), Limits::default());
    (clock, Running::with(Arc::new(engine), config()).await)
}

async fn serve_in(dir: &Path, clock: &Clock) -> (Arc<LocalEngine>, Running) {
    let engine = LocalEngine::open_by(clock.clone(), dir, REGISTRY, Limits::default());
    let engine = Arc::new(engine.unwrap());
    let server = Running::with(Arc::clone(&engine) as _, config()).await;
    (engine, server)
}

/// A cluster of two with a life.
fn living(cluster: &str, lifetime: v2::Lifetime) -> v2::CreateClusterRequest {
    v2::CreateClusterRequest { lifetime: Some(lifetime), ..defined(cluster, 2) }
}

async fn expires(news: &mut News) {
    assert_eq!(news.next().await, Some(Told::Gone(Gone::Expired)));
    assert_eq!(news.next().await, None);
}

/// Asks until the answer is that there is no such cluster: what ends it goes on beside.
async fn vanishes(caller: &mut Caller, cluster: &str) {
    let gone = async {
        while caller.get(cluster).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
    refused(caller.get(cluster).await, ErrorReason::ClusterNotFound);
}

/// Moves the clock on until there is no such cluster any more: when its time begins to count, only
/// the server knows.
async fn ends_in_time(clock: &Clock, caller: &mut Caller, cluster: &str) {
    for _ in 0..100 {
        if caller.get(cluster).await.is_err() {
            return vanishes(caller, cluster).await;
        }
        clock.advance(HOUR / 4);
    }
    panic!("{cluster} lives on");
}

#[tokio::test]
async fn a_cluster_that_is_not_full_in_time_ends_and_one_that_was_goes_on() {
    let (clock, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut other = Caller::known(server.address, 1).await;
    let fill = v2::Lifetime { fill_within: Some(to_duration(HOUR)), ..v2::Lifetime::default() };
    for cluster in ["late", "early"] {
        assert!(owner.define(living(cluster, fill)).await.unwrap().fill_time.is_some());
        owner.join(cluster, "a").await.unwrap();
    }
    let mut late = other.watch("late", None).await.unwrap();
    late.snapshot().await;
    clock.advance(HOUR - MOMENT);
    other.join("early", "b").await.unwrap();
    assert_eq!(owner.get("early").await.unwrap().fill_time, None);
    assert_eq!(owner.list().await.unwrap(), ["early", "late"]);
    clock.advance(MOMENT);
    expires(&mut late).await;
    refused(other.join("late", "b").await, ErrorReason::ClusterNotFound);
    let mut old = Client::known(server.address, 101).await;
    let reply = old.ask(&get("late", u64::MAX)).await;
    assert_eq!(reply, Reply::Error("cannot find cluster with this name".to_owned()));
    assert_eq!(owner.list().await.unwrap(), ["early"]);
    // One that has been full once goes on, whoever leaves; and the name is free again.
    other.leave("early").await.unwrap();
    clock.advance(HOUR);
    assert!(!owner.get("early").await.unwrap().complete);
    assert_eq!(other.create("late", 5).await.unwrap().size, 5);
}

#[tokio::test]
async fn a_cluster_ends_when_its_time_is_over_whoever_is_in_it() {
    let (clock, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut other = Caller::known(server.address, 1).await;
    let brief = v2::Lifetime { ttl: Some(to_duration(HOUR)), ..v2::Lifetime::default() };
    owner.define(living("alpha", brief)).await.unwrap();
    owner.join("alpha", "a").await.unwrap();
    other.join("alpha", "b").await.unwrap();
    let mut news = other.watch("alpha", None).await.unwrap();
    assert!(news.snapshot().await.is_complete());
    clock.advance(HOUR - MOMENT);
    assert!(owner.get("alpha").await.unwrap().complete);
    clock.advance(MOMENT);
    expires(&mut news).await;
    refused(owner.get("alpha").await, ErrorReason::ClusterNotFound);
}

/// One that is watched is looked at again each time.
#[tokio::test]
async fn idle_times_of_less_than_a_second_are_refused() {
    let (_, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    for (millis, good) in [(999, false), (1000, true)] {
        let idle_timeout = Some(to_duration(Duration::from_millis(millis)));
        let idle = v2::Lifetime { idle_timeout, ..v2::Lifetime::default() };
        let defined = owner.define(living("brief", idle)).await;
        assert_eq!(defined.is_ok(), good, "{millis}");
        if !good {
            refused(defined, ErrorReason::InvalidField);
        }
    }
}

#[tokio::test]
async fn an_idle_cluster_ends_unless_it_is_watched_or_changes() {
    let (clock, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut other = Caller::known(server.address, 1).await;
    let idle = v2::Lifetime { idle_timeout: Some(to_duration(HOUR)), ..v2::Lifetime::default() };
    for cluster in ["watched", "left"] {
        owner.define(living(cluster, idle)).await.unwrap();
    }
    let mut news = owner.watch("watched", None).await.unwrap();
    news.snapshot().await;
    clock.advance(HOUR - MOMENT);
    owner.join("left", "a").await.unwrap();
    for _ in 0..3 {
        clock.advance(HOUR - MOMENT);
        other.get("watched").await.unwrap();
        other.get("left").await.unwrap();
        other.join("left", "b").await.unwrap();
        clock.advance(MOMENT);
        other.leave("left").await.unwrap();
    }
    clock.advance(HOUR - MOMENT);
    owner.get("left").await.unwrap();
    clock.advance(MOMENT);
    vanishes(&mut other, "left").await;
    other.get("watched").await.unwrap();
    // From the end of the watch on its time counts anew.
    drop(news);
    ends_in_time(&clock, &mut other, "watched").await;
}

#[tokio::test]
async fn a_cluster_ends_with_its_owners_last_connection_once_the_grace_is_over() {
    let (clock, server) = serve().await;
    let mut first = Caller::known(server.address, 0).await;
    let second = Caller::connect(server.address, 0).await;
    let mut other = Caller::known(server.address, 1).await;
    first.define(living("alpha", WITH_OWNER)).await.unwrap();
    other.define(living("beta", WITH_OWNER)).await.unwrap();
    let mut alpha = other.watch("alpha", None).await.unwrap();
    alpha.snapshot().await;
    // One connection of two goes: nothing ends, however long it takes.
    first.hang_up().await;
    clock.advance(HOUR);
    other.get("alpha").await.unwrap();
    // The other goes, and the owner comes back in time.
    second.hang_up().await;
    clock.advance(GRACE - MOMENT);
    let mut back = Caller::connect(server.address, 0).await;
    assert!(back.is_served().await);
    clock.advance(HOUR);
    other.get("alpha").await.unwrap();
    // It goes for good, and is not here when the grace is over.
    back.hang_up().await;
    clock.advance(GRACE - MOMENT);
    other.get("alpha").await.unwrap();
    clock.advance(MOMENT);
    expires(&mut alpha).await;
    other.get("beta").await.unwrap();
}

/// The owner may hang up before it has heard that there is a cluster.
#[tokio::test]
async fn a_cluster_whose_owner_hung_up_while_it_was_made_ends_too() {
    let clock = standing();
    let engine = Rigged::by(clock.clone(), Mood::Late);
    let server = Running::with(Arc::clone(&engine) as _, config()).await;
    engine.answer.notify_one();
    Caller::known(server.address, 0).await.hang_up().await;
    soon(engine.asked.notified()).await;
    let mut other = Caller::connect(server.address, 1).await;
    let mut owner = Raw::greeted(2, server.address, 0, &[]).await;
    owner.send(&call(1, CREATE_CLUSTER, &living("alpha", WITH_OWNER))).await.unwrap();
    soon(engine.asked.notified()).await;
    owner.hang_up().await;
    other.get("alpha").await.unwrap();
    engine.answer.notify_one();
    ends_in_time(&clock, &mut other, "alpha").await;
}

/// With the new key the owner has to come back, as with the old one.
#[tokio::test]
async fn a_cluster_whose_owner_rotated_its_keys_lives_with_the_new_ones() {
    let (clock, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut other = Caller::known(server.address, 1).await;
    owner.define(living("alpha", WITH_OWNER)).await.unwrap();
    owner.rotate(sig_key(2)).await.unwrap();
    let mut renewed = Caller::connect(server.address, 2).await;
    assert!(renewed.is_served().await);
    owner.hang_up().await;
    clock.advance(HOUR);
    other.get("alpha").await.unwrap();
    renewed.hang_up().await;
    clock.advance(GRACE);
    vanishes(&mut other, "alpha").await;
}

/// Over a restart, too: who owned such a cluster has the grace to come back.
#[tokio::test]
async fn a_cluster_whose_owner_does_not_come_back_after_a_restart_ends() {
    let dir = tempfile::tempdir().unwrap();
    let clock = standing();
    let (engine, server) = serve_in(dir.path(), &clock).await;
    for number in 0..2 {
        let mut owner = Caller::known(server.address, number).await;
        owner.define(living(&format!("of{number}"), WITH_OWNER)).await.unwrap();
    }
    server.stop().await;
    drop(engine);
    let (_engine, server) = serve_in(dir.path(), &clock).await;
    let mut other = Caller::known(server.address, 2).await;
    let mut back = Caller::connect(server.address, 1).await;
    assert!(back.is_served().await);
    clock.advance(GRACE - MOMENT);
    other.get("of0").await.unwrap();
    clock.advance(MOMENT);
    vanishes(&mut other, "of0").await;
    other.get("of1").await.unwrap();
    drop(back);
}

#[tokio::test]
async fn a_rank_that_was_left_waits_for_its_keys_unless_its_member_is_expelled() {
    let (_, server) = serve().await;
    let mut owner = Caller::known(server.address, 0).await;
    let mut a = Caller::known(server.address, 1).await;
    let mut b = Caller::known(server.address, 2).await;
    let mut c = Caller::known(server.address, 3).await;
    owner.create("alpha", 2).await.unwrap();
    assert_eq!((a.join("alpha", "a").await, b.join("alpha", "b").await), (Ok(0), Ok(1)));
    a.leave("alpha").await.unwrap();
    a.leave("alpha").await.unwrap();
    let told = owner.get("alpha").await.unwrap();
    assert_eq!((told.present, told.complete, told.members[0].left), (1, false, true));
    refused(c.join("alpha", "c").await, ErrorReason::ClusterFull);
    refused(c.join("alpha", "a").await, ErrorReason::MemberNameInUse);
    // The old wire's clients don't get it, either.
    let mut old = Client::known(server.address, 101).await;
    assert_eq!(old.ask(&join("alpha")).await, Reply::Error("cluster is full".to_owned()));
    assert_eq!(a.join("alpha", "a").await, Ok(0));

    owner.expel("alpha", 1).await.unwrap();
    assert_eq!(c.join("alpha", "c").await, Ok(0));
    refused(a.join("alpha", "a").await, ErrorReason::Expelled);
    refused(a.leave("alpha").await, ErrorReason::NotAMember);
}
