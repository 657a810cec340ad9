//! Rosters that take several answers, and lookups that must not be held.

use std::sync::Arc;

use socket2::SockRef;
use tokio::net::TcpListener;
use xlreg::Dialect;
use xlreg_core::Command;
use xlreg_core::limits::Limits;
use xlreg_core::registry::Who;
use xlreg_store::LocalEngine;

use crate::support::{ENOUGH, Running, by_name, endpoint, identity, key, patient};

#[tokio::test]
async fn sixty_four_members_are_shown_in_order_though_an_answer_holds_some_twenty() {
    let server = Running::in_memory().await;
    server.people("large", 64, 64).await;
    let looker = identity("looker").await;
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        let registry = server.registry.clone().with_dialect(dialect);
        let shown = registry.show(&looker, &by_name("large")).await.unwrap();
        assert!(shown.is_complete());
        for (rank, member) in shown.members.iter().enumerate() {
            assert_eq!(member.name.as_str(), format!("m{rank}"));
        }
        assert_eq!(registry.wait(&looker, &by_name("large"), ENOUGH).await.unwrap(), shown);
    }
}

/// Lookups are held for ten minutes here, so one that is held does not come back.
#[tokio::test]
async fn what_is_there_now_is_shown_at_once() {
    let server = Running::in_memory().await;
    let looker = identity("looker").await;
    for count in [0, 1, 5, 40, 63] {
        let title = format!("with_{count}");
        server.people(&title, 64, count).await;
        let shown = server.registry.show(&looker, &by_name(&title)).await.unwrap();
        assert_eq!((shown.size, shown.members.len()), (64, count));
    }
}

/// Two members fit into a segment of Ethernet's size, so this takes dozens of answers.
#[tokio::test]
async fn what_is_there_now_is_shown_at_once_on_a_path_of_small_segments() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SockRef::from(&listener).set_tcp_mss(1448).unwrap();
    let engine = Arc::new(LocalEngine::in_memory(Limits::default()));
    let server = Running::start(listener, engine, patient());
    let looker = identity("looker").await;
    for count in [2, 17, 40, 64] {
        let title = format!("with_{count}");
        server.people(&title, 64, count).await;
        let shown = server.registry.show(&looker, &by_name(&title)).await.unwrap();
        assert_eq!(shown.members.len(), count);
    }
}

#[tokio::test]
async fn a_member_may_ask_for_the_roster_as_often_as_it_likes() {
    let server = Running::in_memory().await;
    server.people("alpha", 3, 1).await;
    let me = identity("me").await;
    let mut membership =
        server.registry.join(&me, &by_name("alpha"), vec![endpoint(4001)]).await.unwrap();
    for _ in 0..40 {
        assert_eq!(membership.roster().await.unwrap().members.len(), 2);
    }
}

/// Found by `just kills`: the roster ended where somebody had left.
#[tokio::test]
async fn the_old_wire_shows_those_who_came_after_one_who_left() {
    let server = Running::in_memory().await;
    let looker = identity("looker").await;
    for (size, left) in [(3, vec![0]), (3, vec![1]), (4, vec![0, 2]), (64, vec![0, 30])] {
        let title = format!("with_{size}_but_{}", left.len());
        let count = if size == 64 { 60 } else { size as usize };
        server.people(&title, size, count).await;
        for rank in &left {
            let name = Some(format!("m{rank}").parse().unwrap());
            let who = Who { sig_key: key().public().fingerprint(), name };
            let leave = Command::Leave { cluster: by_name(&title), who };
            server.engine.apply(leave).await.unwrap();
        }
        let expected: Vec<_> = (0..count).filter(|rank| !left.contains(rank)).collect();
        for dialect in [Dialect::V1_8, Dialect::V1_9] {
            let registry = server.registry.clone().with_dialect(dialect);
            let shown = registry.show(&looker, &by_name(&title)).await.unwrap();
            let ranks: Vec<_> = shown.iter().map(|(rank, _)| rank).collect();
            assert_eq!(ranks, expected, "{title}");
            assert!(shown.iter().all(|(rank, member)| member.name.as_str() == format!("m{rank}")));
            assert!(!shown.is_complete());
        }
    }
}
