//! The simulation, in short: that what is promised holds in some hundred runs, that a seed is all
//! that a run depends on, and that known bugs would be found.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;

use xlreg_sim::{Flaw, Outcome, run};

/// Runs these seeds, on two threads.
fn run_all(seeds: std::ops::Range<u64>, flaw: Option<Flaw>) -> Vec<(u64, Outcome)> {
    let half = |rest| {
        let seeds = seeds.clone().filter(move |seed| seed % 2 == rest);
        move || seeds.map(|seed| (seed, run(seed, flaw, false).unwrap())).collect::<Vec<_>>()
    };
    let other = thread::spawn(half(1));
    let mut all = half(0)();
    all.extend(other.join().unwrap());
    all
}

#[test]
fn promises_hold_in_a_hundred_worlds() {
    let all = run_all(0..100, None);
    for (seed, outcome) in &all {
        if let Some(violation) = &outcome.violation {
            panic!("seed {seed}: {violation}; again: cargo run -p xlreg-sim -- 1 {seed} --trace");
        }
    }
    // That something has happened in them, of each kind.
    let sum = |count: fn(&Outcome) -> u64| all.iter().map(|(_, outcome)| count(outcome)).sum();
    let counts: [(&str, u64); 6] = [
        ("commits", sum(|outcome| outcome.tally.commits)),
        ("failed commits", sum(|outcome| outcome.tally.failed_commits)),
        ("ends of the server", sum(|outcome| outcome.tally.ends)),
        ("news of watches", sum(|outcome| outcome.tally.news)),
        ("rosters", sum(|outcome| outcome.tally.formed)),
        ("broken connections", sum(|outcome| outcome.tally.broken)),
    ];
    for (what, count) in counts {
        assert!(count >= 50, "{count} {what} in {} worlds", all.len());
    }
}

#[test]
fn a_seed_is_all_that_a_run_depends_on() {
    for seed in 1000..1005 {
        let [first, second] = [(); 2].map(|()| run(seed, None, true).unwrap());
        let lines = |outcome: &Outcome| outcome.trace.clone().unwrap();
        for (number, (one, other)) in lines(&first).iter().zip(&lines(&second)).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {number}");
        }
        assert_eq!(first, second);
        assert_ne!(first.hash, run(seed + 1, None, false).unwrap().hash);
    }
}

/// Within how many seeds, from 0 on, a planted bug shows, and as what.
fn found(flaw: Flaw, seeds: u64) -> String {
    let found = (0..seeds).find_map(|seed| run(seed, Some(flaw), false).unwrap().violation);
    found.unwrap_or_else(|| panic!("{flaw:?} is not found in {seeds} worlds"))
}

#[test]
fn deciding_a_batch_blindly_is_found() {
    let violation = found(Flaw::BlindBatches, 50);
    assert!(violation.contains("disk"), "{violation}");
}

#[test]
fn answering_before_the_commit_is_found() {
    let violation = found(Flaw::AnswersFirst, 50);
    assert!(violation.contains("told") || violation.contains("let in"), "{violation}");
}

#[test]
fn leaving_that_is_not_written_down_is_found() {
    let violation = found(Flaw::ForgetsLeaving, 50);
    assert!(violation.contains("another after a restart"), "{violation}");
}

#[test]
fn a_watch_that_skips_is_found() {
    let violation = found(Flaw::SkipsMissed, 50);
    assert!(violation.contains("a watch of"), "{violation}");
}
