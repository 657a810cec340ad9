//! Runs seeds on all cores: `xlreg-sim [SEEDS [FIRST]] [--trace] [--flaw FLAW]`.

use std::io::{self, Write as _};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use xlreg_sim::{Flaw, Outcome, Tally, run};

const USAGE: &str = "\
usage: xlreg-sim [SEEDS [FIRST]] [--trace] [--flaw FLAW]

Runs SEEDS seeds (default 100) from FIRST on (default 0), until one of them shows that a promise is
broken; then it prints which, and how to run that seed again.

  --trace      print all that happens; for single seeds
  --flaw FLAW  plant a bug: blind-batches, answers-first, forgets-leaving or skips-missed
";

/// What to run.
struct Plan {
    seeds: u64,
    first: u64,
    trace: bool,
    flaw: Option<(String, Flaw)>,
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let done = match plan(std::env::args().skip(1)) {
        Ok(plan) => simulate(&plan, &mut out),
        Err(problem) => writeln!(io::stderr(), "{problem}\n\n{USAGE}").map(|()| ExitCode::from(2)),
    };
    // Whoever reads no more of the output has what they wanted.
    done.unwrap_or(ExitCode::FAILURE)
}

fn plan(arguments: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan { seeds: 100, first: 0, trace: false, flaw: None };
    let mut numbers = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--trace" => plan.trace = true,
            "--flaw" => {
                let name = arguments.next().ok_or("--flaw needs a name")?;
                plan.flaw = Some((name.clone(), flaw(&name)?));
            }
            number => {
                let problem = |error| format!("{number:?} is no number of seeds: {error}");
                numbers.push(number.parse().map_err(problem)?);
            }
        }
    }
    match numbers.as_slice() {
        [] => {}
        [seeds] => plan.seeds = *seeds,
        [seeds, first] => (plan.seeds, plan.first) = (*seeds, *first),
        _ => return Err("there are more than two numbers".to_owned()),
    }
    Ok(plan)
}

fn flaw(name: &str) -> Result<Flaw, String> {
    Ok(match name {
        "blind-batches" => Flaw::BlindBatches,
        "answers-first" => Flaw::AnswersFirst,
        "forgets-leaving" => Flaw::ForgetsLeaving,
        "skips-missed" => Flaw::SkipsMissed,
        _ => return Err(format!("there is no flaw {name:?}")),
    })
}

/// The lowest seed that has shown something, and what it came to.
type Found = Mutex<Option<(u64, Result<Outcome, String>)>>;

fn simulate(plan: &Plan, out: &mut impl io::Write) -> io::Result<ExitCode> {
    let began = Instant::now();
    let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (found, sums) = (Found::default(), Mutex::new((Tally::default(), 0, 0)));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= plan.seeds {
                return;
            }
            let seed = plan.first.wrapping_add(place);
            let came = run(seed, plan.flaw.as_ref().map(|(_, flaw)| *flaw), plan.trace);
            done.fetch_add(1, Ordering::Relaxed);
            if let Ok(outcome) = &came
                && let Ok(mut sums) = sums.lock()
            {
                sums.0 += outcome.tally;
                sums.1 += outcome.polls;
                sums.2 += outcome.millis;
            }
            let is_good = matches!(&came, Ok(Outcome { violation: None, .. }));
            if (!is_good || (plan.trace && plan.seeds == 1))
                && let Ok(mut found) = found.lock()
            {
                stop.store(true, Ordering::Relaxed);
                if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                    *found = Some((seed, came));
                }
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().unwrap_or_default();
    let (tally, polls, millis) = sums.into_inner().unwrap_or_default();
    let (seeds, seconds) = (done.into_inner(), began.elapsed().as_secs_f64());
    let mut code = ExitCode::SUCCESS;
    if let Some((seed, came)) = found {
        let outcome = match came {
            Ok(outcome) => outcome,
            Err(problem) => {
                writeln!(out, "seed {seed} could not be run: {problem}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        for line in outcome.trace.iter().flatten() {
            writeln!(out, "{line}")?;
        }
        if let Some(violation) = outcome.violation {
            code = ExitCode::FAILURE;
            let flaw = plan.flaw.as_ref();
            let flaw = flaw.map(|(name, _)| format!(" --flaw {name}")).unwrap_or_default();
            writeln!(out, "seed {seed}: {violation}")?;
            writeln!(out, "again, step by step: xlreg-sim 1 {seed} --trace{flaw}")?;
        }
    }
    let Tally { commits, failed_commits, ends, answers, news, formed, broken } = tally;
    writeln!(
        out,
        "{seeds} seeds in {seconds:.1} s: {} s of simulated time, {polls} polls, {commits} commits, \
         {failed_commits} failed ones, {ends} ends of the server, {broken} broken connections, \
         {answers} checks, {news} news of watches, {formed} rosters waited for",
        millis / 1000
    )?;
    Ok(code)
}
