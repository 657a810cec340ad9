//! Linearizability, in short: that what clients of a real server are told can have happened in some
//! order, and that it would be seen if it could not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use xlreg_sim::cluster::{Answer, Asked, Cluster, Door};
use xlreg_sim::linear::{Call, Disorder, order};
use xlreg_sim::real::{History, Site};

/// Three hundred, four at once.
fn histories() -> Vec<History> {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let recorded = runtime.block_on(async {
        let site = Arc::new(Site::start(dir.path()).await.unwrap());
        let mut quarters = tokio::task::JoinSet::new();
        for quarter in 0..4 {
            let site = Arc::clone(&site);
            quarters.spawn(async move {
                let mut recorded = Vec::new();
                for seed in (quarter..300).step_by(4) {
                    recorded.push(site.record(seed).await.unwrap());
                }
                recorded
            });
        }
        quarters.join_all().await.concat()
    });
    drop(runtime);
    recorded
}

#[test]
fn what_clients_of_a_real_server_are_told_has_an_order_and_stale_answers_would_have_none() {
    let histories = histories();
    for history in &histories {
        let checked = history.check();
        assert_eq!(checked, Ok(()), "{history}");
    }
    let overlapping: usize = histories.iter().map(History::overlapping).sum();
    assert!(overlapping > 300, "only {overlapping} calls were under way at once");
    // A server that answers who asks again what it said at first.
    let refused = histories.iter().filter(|history| stale(history).check().is_err()).count();
    assert!(refused > 30, "only {refused} of {} are refused with stale answers", histories.len());
}

/// The same history, had everybody been shown what the first was.
fn stale(history: &History) -> History {
    let mut history = history.clone();
    let mut first = None;
    for call in &mut history.calls {
        if let (Asked::Show(_), Some((answer @ Answer::Shown(..), _))) =
            (call.asked, &mut call.answered)
        {
            *answer = first.get_or_insert_with(|| answer.clone()).clone();
        }
    }
    history
}

fn call(asked: Asked, from: u64, answer: Answer, at: u64) -> Call<Asked, Answer> {
    Call { asked, from, answered: Some((answer, at)) }
}

/// A cluster of two, made and joined by member 0.
fn before() -> Vec<Call<Asked, Answer>> {
    vec![
        call(Asked::Create(Door::Modern, 2), 0, Answer::Created(2), 1),
        call(Asked::Join(Door::Old18, 0), 2, Answer::Joined, 3),
    ]
}

#[test]
fn whatever_is_broken_is_refused() {
    let show = |there: &[(usize, usize)], from, at| {
        call(Asked::Show(Door::Modern), from, Answer::Shown(2, there.to_vec()), at)
    };
    let join = |who, from, at| call(Asked::Join(Door::Old19, who), from, Answer::Joined, at);
    let refused =
        |asked, from, text: &str, at| call(asked, from, Answer::Refused(text.to_owned()), at);
    let cases = [
        ("an acknowledged join is not there", vec![show(&[], 4, 5)]),
        ("three are in two places", vec![join(1, 4, 9), join(2, 5, 8)]),
        ("a rank has moved", vec![join(1, 4, 9), show(&[(0, 1), (1, 0)], 10, 11)]),
        ("one rank for two", vec![join(1, 4, 9), show(&[(0, 0), (0, 1)], 10, 11)]),
        (
            "full, with a place that is free",
            vec![refused(Asked::Join(Door::Modern, 1), 4, "cluster is full", 5)],
        ),
        (
            "two who look see two orders",
            vec![join(1, 4, 20), show(&[(0, 0), (1, 1)], 5, 6), show(&[(0, 0)], 7, 8)],
        ),
        (
            "who has left is there",
            vec![call(Asked::Leave(0), 4, Answer::Left, 5), show(&[(0, 0)], 6, 7)],
        ),
        (
            "it is not found any more",
            vec![refused(Asked::Show(Door::Old18), 4, "cannot find cluster with this name", 5)],
        ),
        ("another size", vec![call(Asked::Create(Door::Old18, 3), 4, Answer::Created(3), 5)]),
    ];
    assert!(order(&Cluster::default(), &before()).is_ok());
    for (what, then) in cases {
        let calls = [before(), then].concat();
        assert_eq!(order(&Cluster::default(), &calls), Err(Disorder::Impossible), "{what}");
    }
}
