//! Registries that break the protocol: each gets its error, and none a panic or a wait for ever.

use std::future::pending;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use xlreg::error::Problem;
use xlreg::{ClusterId, Dialect, Error, Member, NodeId, Reason, Registry, Version};
use xlreg_proto::channel::MESSAGE_BYTES_MAX;
use xlreg_proto::message::{About, ClusterInfo, Entry, Reply, Request};
use xlreg_proto::wire::XlRegMsg;

use crate::fake::{answering, forgetful, scripted, unopened};
use crate::support::{ENOUGH, by_name, cluster, endpoint, identity, key, name};

const CLUSTER: ClusterId = ClusterId::from_bytes([3; 20]);

fn known() -> XlRegMsg {
    Reply::MemberOk { id: NodeId::from_bytes([1; 20]), attrs: 0 }.encode()
}

fn joined(size: u32) -> XlRegMsg {
    Reply::Joined(ClusterInfo { id: CLUSTER, size, attrs: 0, endpoint_count: 1 }).encode()
}

fn entry(rank: u8) -> Entry {
    Arc::new(Member {
        id: NodeId::from_bytes([rank; 20]),
        name: name(&format!("m{rank}")),
        attrs: 0,
        comms_key: key().public().clone(),
        sig_key: key().public().clone(),
        endpoints: vec![endpoint(4000)],
        entry_signature: None,
    })
}

/// As our servers answer, for a cluster of `size`.
fn members(which: u64, size: u32) -> XlRegMsg {
    let about = About { name: name("alpha"), size, attrs: 0, endpoint_count: 1 };
    let entries = (0..64).filter(|rank| which & (1 << rank) != 0).map(entry).collect();
    Reply::Members { cluster: CLUSTER, which, entries, about: Some(about) }.encode()
}

fn bare(op: i32) -> XlRegMsg {
    XlRegMsg { op: Some(op), ..XlRegMsg::default() }
}

async fn register(registry: &Registry) -> Error {
    registry.register(&identity("a").await).await.unwrap_err()
}

/// Joins a cluster and waits for it.
async fn meet(registry: &Registry) -> Result<xlreg::Roster, Error> {
    let mine = vec![endpoint(4001)];
    let me = identity("a").await;
    registry.join(&me, &by_name("alpha"), mine).await?.wait(ENOUGH).await
}

#[track_caller]
fn assert_absurd(error: &Error, what: &str) {
    assert!(
        matches!(error, Error::Protocol { problem: Problem::Absurd(_), .. }),
        "{what}: {error}"
    );
}

#[tokio::test]
async fn an_answer_to_the_hello_that_does_not_open_is_not_the_registrys() {
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        for answer in [vec![0; 80], vec![0xFF; 64 + 16], vec![7; 20_000]] {
            let registry = unopened(|mut stream, _| async move {
                let _gone = stream.write_all(&answer).await;
            });
            let error = register(&registry.await.with_dialect(dialect)).await;
            assert!(matches!(error, Error::NotTheRegistry { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn an_answer_to_the_hello_that_breaks_off_is_no_answer() {
    for bytes in [0, 1, 63] {
        let registry = unopened(move |mut stream, _| async move {
            stream.write_all(&vec![7; bytes]).await.unwrap();
        });
        let error = register(&registry.await).await;
        assert!(matches!(error, Error::HungUp { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_lost() {
    let whole = answering(vec![known()]).await;
    whole.register(&identity("a").await).await.unwrap();
    for dialect in [Dialect::V1_8, Dialect::V1_9] {
        for bytes in [0, 1, 16, 17, 31] {
            let registry = scripted(move |mut fake| async move {
                fake.hear().await;
                let sealed = fake.seal(&known());
                fake.send(&sealed[..bytes]).await;
            });
            let error = register(&registry.await.with_dialect(dialect)).await;
            assert!(matches!(error, Error::Lost { request: "Member", .. }), "{error}");
        }
    }
}

/// A message must end within a bound: by its bytes at once, and by the clock at the latest.
#[tokio::test]
async fn a_reply_that_never_becomes_a_message_is_given_up() {
    for extra in [MESSAGE_BYTES_MAX, 0] {
        let registry = scripted(move |mut fake| async move {
            fake.hear().await;
            // The head of a message with a long text, and then not the rest of it.
            let mut sealed = fake.seal(&Reply::Error("n".repeat(100_000)).encode());
            sealed.truncate(48);
            sealed.resize(48 + extra, 7);
            fake.send(&sealed).await;
            if extra == 0 {
                // Nothing else goes on, so the client's deadline is the next thing to come.
                tokio::time::pause();
            }
            pending().await
        });
        let error = register(&registry.await).await;
        if extra == 0 {
            assert!(matches!(error, Error::NoAnswer { request: "Member", .. }), "{error}");
        } else {
            assert!(matches!(error, Error::Protocol { problem: Problem::TooLong, .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let registry = unopened(|stream, _| async move {
        tokio::time::pause();
        pending::<()>().await;
        drop(stream);
    });
    let error = register(&registry.await).await;
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn a_wait_is_over_in_time_though_the_registry_is_silent() {
    let registry = unopened(|stream, _| async move {
        tokio::time::pause();
        pending::<()>().await;
        drop(stream);
    });
    let (registry, a) = (registry.await, identity("a").await);
    let at_most = std::time::Duration::from_secs(3);
    let began = tokio::time::Instant::now();
    let error = registry.wait(&a, &by_name("alpha"), at_most).await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    assert!(began.elapsed() < at_most * 2);
}

#[tokio::test]
async fn an_answer_of_another_kind_breaks_the_protocol() {
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    let mine = || vec![endpoint(4001)];
    for wrong in [Reply::Ack.encode(), members(0, 2)] {
        let answers = [vec![wrong.clone()], vec![known(), wrong.clone()]];
        let [at_once, later] = answers.map(answering);
        let error = at_once.await.describe().await.unwrap_err();
        assert!(matches!(error, Error::Protocol { request: "RegCredRequest", .. }), "{error}");
        let error = later.await.create(&a, &cluster("alpha", 2)).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { request: "Create", .. }), "{error}");
        let registry = answering(vec![wrong.clone()]).await;
        let error = registry.register(&a).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { request: "Member", .. }), "{error}");
        let registry = answering(vec![known(), wrong]).await;
        let error = registry.join(&a, &alpha, mine()).await.err().unwrap();
        assert!(matches!(error, Error::Protocol { request: "Join", .. }), "{error}");
    }
    let error = meet(&answering(vec![known(), joined(2), known()]).await).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Protocol {
                request: "GetCluster",
                problem: Problem::Unexpected { got: "MemberOK" }
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_reply_at_all_breaks_the_protocol() {
    let mut no_id = known();
    no_id.member_id = None;
    let mut short_id = known();
    short_id.member_id = Some(vec![1; 19]);
    for wrong in [XlRegMsg::default(), bare(0), bare(99), Request::Bye.encode(), no_id, short_id] {
        let error = register(&answering(vec![wrong.clone()]).await).await;
        assert!(
            matches!(error, Error::Protocol { request: "Member", problem: Problem::Message(_) }),
            "{wrong:?}: {error}"
        );
    }
}

#[tokio::test]
async fn members_who_do_not_fit_their_cluster_break_the_protocol() {
    let mut bad_count = members(0b1, 2);
    bad_count.which = Some(0b11);
    let mut bad_key = members(0b1, 2);
    bad_key.tokens[0].sig_key = Some(vec![0x30; 20]);
    for wrong in [bad_count, bad_key] {
        let error = meet(&answering(vec![known(), joined(2), wrong]).await).await.unwrap_err();
        let malformed = matches!(error, Error::Protocol { problem: Problem::Message(_), .. });
        assert!(malformed, "{error}");
    }
    let mut another = members(0b11, 2);
    another.cluster_id = Some(vec![9; 20]);
    for (what, wrong) in [
        ("a third of two", members(0b111, 2)),
        ("a rank beyond the size", members(0b100, 2)),
        ("a cluster for nobody", members(0, 0)),
        ("a cluster for too many", members(0b11, 65)),
        ("a cluster that has grown", members(0b11, 3)),
        ("another cluster", another),
    ] {
        let error = meet(&answering(vec![known(), joined(2), wrong]).await).await.unwrap_err();
        assert_absurd(&error, what);
    }
    for size in [0, 65, u32::MAX] {
        let error = meet(&answering(vec![known(), joined(size)]).await).await.unwrap_err();
        assert_absurd(&error, "a size that no cluster has");
    }
}

/// Whoever came first may have come back elsewhere, so they are fetched again; they must be there.
#[tokio::test]
async fn members_who_vanish_break_the_protocol() {
    let answers = vec![known(), joined(2), members(0b01, 2), members(0b10, 2), members(0, 2)];
    let error = meet(&answering(answers).await).await.unwrap_err();
    assert_absurd(&error, "members who vanish");
    let answers = vec![known(), joined(2), members(0b01, 2), members(0b10, 2), members(0b01, 2)];
    let roster = meet(&answering(answers).await).await.unwrap();
    assert!(roster.is_complete());
}

#[tokio::test]
async fn a_registrys_own_words_are_passed_on_without_their_control_characters() {
    for (words, expected) in [
        ("go away", "go away"),
        ("\u{1b}[31mred\n", "\\u{1b}[31mred\\n"),
        ("", "it does not say why"),
    ] {
        let error = register(&answering(vec![Reply::Error(words.to_owned()).encode()]).await).await;
        let Error::Refused { request: "Member", reason: Reason::Other(_) } = &error else {
            panic!("{error}");
        };
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

/// Once it has been told the cluster's ID, it asks by that, over later connections too.
#[tokio::test]
async fn who_only_looks_goes_on_waiting_when_the_registry_hangs_up() {
    let sessions = vec![
        vec![known(), members(0, 3)],
        vec![known(), members(0b001, 3), members(0b010, 3)],
        vec![known(), members(0b100, 3), members(0b011, 3)],
    ];
    let count = sessions.len();
    let (registry, mut heard) = forgetful(sessions).await;
    let waited = registry.wait(&identity("looker").await, &by_name("alpha"), ENOUGH).await;
    assert_eq!(waited.unwrap().members.len(), 3);
    for session in 0..count {
        let asked = heard.recv().await.unwrap();
        let id = (session > 0).then(|| CLUSTER.as_bytes().to_vec());
        assert_eq!(asked.cluster_id, id);
        assert_eq!(asked.cluster_name.is_some(), session == 0);
    }
}

/// An original server shows clusters to their members only, and tells neither name nor size.
#[tokio::test]
async fn an_original_server_that_shows_nothing_to_outsiders_is_named_as_such() {
    let refusal = || Reply::Error("invalid msg type for current state".to_owned()).encode();
    let (a, alpha) = (identity("a").await, by_name("alpha"));
    let error = answering(vec![known(), refusal()]).await.show(&a, &alpha).await.unwrap_err();
    assert!(matches!(error, Error::MembersOnly { version: Version::CURRENT }), "{error}");
    let bare_members = |which| {
        let mut reply = members(which, 2);
        (reply.cluster_name, reply.cluster_max_size) = (None, None);
        reply
    };
    let answers = vec![known(), joined(2), bare_members(0b01), bare_members(0b10), bare_members(1)];
    let roster = meet(&answering(answers).await).await.unwrap();
    assert_eq!((roster.name, roster.members.len()), (Some(name("alpha")), 2));
}
