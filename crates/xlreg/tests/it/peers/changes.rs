//! Rosters that change under links that are open.

use std::time::Duration;

use tokio::time::timeout;
use xlreg::peers::{Departure, PeerRefused};
use xlreg::{NewKeys, PeerError, Peers};

use super::support::{accept, link, node, port, refusal, sites, talk};
use crate::support::{ENOUGH, Running, by_name, new_key};

/// Waits until the roster that decides for `peers` is like this.
async fn until(peers: &Peers, is: impl Fn(&xlreg::Roster) -> bool) {
    let mut roster = peers.watch();
    timeout(ENOUGH, roster.wait_for(|roster| is(roster))).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_rejoins_elsewhere_is_reached_there_and_open_links_stay() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let near = sites[0].peers.clone();
    let (mut one, mut other) = link(&near, &mut sites[1]).await;

    let (listener, endpoint) = port().await;
    let moved = vec![endpoint.clone()];
    server.registry.join(&node(1), &by_name("alpha"), moved.clone()).await.unwrap();
    until(&near, |roster| roster.members[1].endpoints == moved).await;
    let mut listener = sites[1].peers.listen(listener);
    let (again, far) = tokio::join!(near.connect(1), accept(&mut listener));
    assert_eq!(again.unwrap().peer().address.to_string(), endpoint.to_string());
    assert_eq!(far.peer().rank(), Some(0));
    talk(&mut one, &mut other).await;
}

/// Nobody listens where the member is said to be, until it rejoins.
#[tokio::test]
async fn a_try_that_fails_is_made_again_where_the_member_is_by_then() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let far = sites.remove(1);
    drop(far.listener);
    let near = sites[0].peers.clone();
    let connecting = tokio::spawn(async move { near.connect_within(1, ENOUGH).await });
    let (listener, endpoint) = port().await;
    server.registry.join(&node(1), &by_name("alpha"), vec![endpoint]).await.unwrap();
    let mut listener = far.peers.listen(listener);
    accept(&mut listener).await;
    assert_eq!(connecting.await.unwrap().unwrap().peer().rank(), Some(1));
}

/// Or a member could have all others knock at whatever address it names, as fast as it moves.
#[tokio::test]
async fn a_member_that_moves_to_and_fro_is_not_knocked_at_each_time() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    drop(sites.remove(1));
    let near = sites[0].peers.clone();
    let within = Duration::from_secs(1);
    let connecting = tokio::spawn(async move { near.connect_within(1, within).await });
    let mut moves = 0;
    while !connecting.is_finished() {
        let (_, endpoint) = port().await;
        server.registry.join(&node(1), &by_name("alpha"), vec![endpoint]).await.unwrap();
        moves += 1;
    }
    let unreached = connecting.await.unwrap().unwrap_err();
    // One each fifty milliseconds.
    assert!(unreached.tries <= 21, "{} tries, {moves} moves", unreached.tries);
}

#[tokio::test]
async fn a_member_that_rotates_its_keys_is_followed_and_its_old_key_refused() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let near = sites[0].peers.clone();
    let (mut one, mut other) = link(&near, &mut sites[1]).await;

    let keys = NewKeys { sig: Some(new_key()), comms: None };
    let next = server.registry.rotate(&node(1), keys).await.unwrap();
    until(&near, |roster| roster.members[1].sig_key == *next.sig_key()).await;
    // Before it says so itself, it shows the key that is retired.
    let mut refusals = sites[1].listener.refusals();
    let unreached = near.connect_once(1).await.unwrap_err();
    let PeerError::Refused(PeerRefused::Former { name, how, .. }) = &unreached.why else {
        panic!("{unreached}");
    };
    assert_eq!((name, *how), (node(1).name(), Departure::Retired));
    assert!(matches!(&*refusal(&mut refusals).await.why, PeerError::NotTaken { .. }));

    sites[1].peers.rekey(&next).await.unwrap();
    let (mut fresh, mut far) = link(&near, &mut sites[1]).await;
    assert_eq!(fresh.peer().sig_key, *next.sig_key());
    assert!(!fresh.is_resumed());
    // And it connects with the new one, too.
    let far_peers = sites[1].peers.clone();
    let (back, _) = link(&far_peers, &mut sites[0]).await;
    assert_eq!(back.peer().rank(), Some(0));
    talk(&mut one, &mut other).await;
    talk(&mut fresh, &mut far).await;

    // It goes on hearing of changes by its new key.
    let (_, endpoint) = port().await;
    let moved = vec![endpoint];
    server.registry.join(&node(0), &by_name("alpha"), moved.clone()).await.unwrap();
    until(&far_peers, |roster| roster.members[0].endpoints == moved).await;
    assert_eq!(far_peers.stale(), None);
}

#[tokio::test]
async fn who_comes_with_a_key_that_is_retired_is_refused_by_name() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let far = sites.remove(1);
    let keys = NewKeys { sig: Some(new_key()), comms: None };
    let next = server.registry.rotate(&node(1), keys).await.unwrap();
    until(&sites[0].peers, |roster| roster.members[1].sig_key == *next.sig_key()).await;
    let mut refusals = sites[0].listener.refusals();
    far.peers.connect_once(0).await.unwrap_err();
    let refused = refusal(&mut refusals).await;
    let key = node(1).sig_key().fingerprint();
    assert_eq!(refused.key(), Some(key));
    let says = format!("we refuse it: its key, sha256 {key}, is in the roster no more: n1 has");
    assert!(refused.why.to_string().starts_with(&says), "{}", refused.why);
}

fn node_id(peers: &Peers, rank: usize) -> xlreg::NodeId {
    peers.roster().member(rank).unwrap().id
}

#[tokio::test]
async fn who_has_left_or_was_expelled_is_refused_by_name_until_it_is_back() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 3).await;
    let registry = &server.registry;
    let keep = sites[0].peers.clone();
    let (mut one, mut other) = link(&keep, &mut sites[1]).await;
    let id = node_id(&keep, 2);
    let gone = Peers::new(&node(2), &sites[2].peers.roster()).await.unwrap();
    // So that there are tickets, which must not help.
    link(&gone, &mut sites[0]).await;

    registry.leave(&node(2), &by_name("alpha")).await.unwrap();
    until(&keep, |roster| roster.members.len() == 2).await;
    assert_eq!(reason(&gone, &mut sites[0]).await, "n2 has left the cluster");
    let unreached = keep.connect_once(2).await.unwrap_err();
    assert!(matches!(unreached.why, PeerError::Absent), "{unreached}");

    let (_, endpoint) = port().await;
    registry.join(&node(2), &by_name("alpha"), vec![endpoint]).await.unwrap();
    until(&keep, |roster| roster.members.len() == 3).await;
    link(&gone, &mut sites[0]).await;

    registry.expel(&node(0), &by_name("alpha"), &id).await.unwrap();
    until(&keep, |roster| roster.members.len() == 2).await;
    assert_eq!(reason(&gone, &mut sites[0]).await, "n2 was expelled from the cluster");
    // It hears of it, too.
    let expelled = sites[2].peers.clone();
    until(&expelled, |roster| roster.members.len() == 2).await;
    assert_eq!(expelled.rank(), None);
    talk(&mut one, &mut other).await;
}

/// The end of the reason for which `to` refuses `from`.
async fn reason(from: &Peers, to: &mut super::support::Site) -> String {
    let mut refusals = to.listener.refusals();
    let unreached = from.connect_once(0).await.unwrap_err();
    assert!(matches!(unreached.why, PeerError::NotTaken { .. }), "{unreached}");
    let why = refusal(&mut refusals).await.why.to_string();
    why.rsplit(": ").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_cluster_that_is_gone_leaves_its_last_roster_in_force() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    server.registry.delete(&node(0), &by_name("alpha")).await.unwrap();
    let near = sites[0].peers.clone();
    let stale = async {
        while near.stale().is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(ENOUGH, stale).await.unwrap();
    assert!(near.stale().unwrap().contains("it was deleted"), "{:?}", near.stale());
    let (mut one, mut other) = link(&near, &mut sites[1]).await;
    talk(&mut one, &mut other).await;
}

#[tokio::test]
async fn a_roster_that_nobody_follows_changes_by_hand() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let whole = sites[0].peers.roster();
    let fixed = Peers::new(&node(0), &whole).await.unwrap();
    assert!(!fixed.follows());
    let mut part = (*whole).clone();
    server.registry.leave(&node(1), &by_name("alpha")).await.unwrap();
    let shrunk = server.registry.show(&node(0), &by_name("alpha")).await.unwrap();
    part.clone_from(&shrunk);
    fixed.update(&part);
    // Nobody will bring the missing member, so there is nothing to wait for.
    let unreached = fixed.connect_within(1, ENOUGH).await.unwrap_err();
    assert_eq!(
        unreached.to_string().split(" in ").next().unwrap(),
        "cannot reach rank 1 of cluster alpha: 1 try"
    );
    fixed.update(&whole);
    assert_eq!(fixed.connect(1).await.unwrap().peer().rank(), Some(1));
}
