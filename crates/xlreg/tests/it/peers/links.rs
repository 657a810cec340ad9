//! Links that come about.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xlreg::peers::Target;

use super::support::{accept, link, node, sites, sites_at, talk};
use crate::support::{Running, name};

#[tokio::test]
async fn each_member_reaches_each_other_and_both_know_who_that_is() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 3).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 0)] {
        let peers = sites[from].peers.clone();
        let (mut near, mut far) = link(&peers, &mut sites[to]).await;
        for (end, rank) in [(&near, to), (&far, from)] {
            let peer = end.peer();
            assert_eq!((peer.rank(), peer.name()), (Some(rank), Some(node(rank).name())));
            assert_eq!(peer.sig_key, *node(rank).sig_key());
            assert!(peer.is_member());
        }
        talk(&mut near, &mut far).await;
    }
}

#[tokio::test]
async fn a_member_is_found_by_rank_name_and_id() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let id = sites[0].peers.roster().members[1].id;
    for target in [Target::from(1), Target::from(name("n1")), Target::from(id)] {
        let link = sites[0].peers.connect(target).await.unwrap();
        assert_eq!(link.peer().id(), Some(id));
        accept(&mut sites[1].listener).await;
    }
}

/// Over the old wire the same keys do, and the roster is the one of when it was asked for.
#[tokio::test]
async fn members_of_the_old_wire_have_links_too() {
    let server = Running::in_memory_old().await;
    let mut sites = sites_at(&server.registry, 2).await;
    assert!(!sites[0].peers.follows());
    let peers = sites[0].peers.clone();
    let (mut near, mut far) = link(&peers, &mut sites[1]).await;
    talk(&mut near, &mut far).await;
}

#[tokio::test]
async fn one_half_ends_and_the_other_goes_on() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let peers = sites[0].peers.clone();
    let (mut near, mut far) = link(&peers, &mut sites[1]).await;
    near.write_all(b"that is all").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "that is all");
    far.write_all(b"thank you").await.unwrap();
    far.shutdown().await.unwrap();
    heard.clear();
    near.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "thank you");
}

#[tokio::test]
async fn who_comes_back_resumes() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let peers = sites[0].peers.clone();
    for resumed in [false, true, true] {
        let (near, far) = link(&peers, &mut sites[1]).await;
        assert_eq!((near.is_resumed(), far.is_resumed()), (resumed, resumed));
        assert_eq!(far.peer().rank(), Some(0));
    }
    let full = peers.with_resumption(false);
    for _ in 0..2 {
        let (near, far) = link(&full, &mut sites[1]).await;
        assert!(!near.is_resumed() && !far.is_resumed());
    }
}
