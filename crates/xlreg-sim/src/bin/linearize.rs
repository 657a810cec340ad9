//! Records histories of a real server, and checks that each can have happened in some order:
//! `linearize [HISTORIES [FIRST]]`.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;
use xlreg_sim::real::{History, Site};

const USAGE: &str = "\
usage: linearize [HISTORIES [FIRST]]

Records HISTORIES histories (default 1000), with the choices of seed FIRST (default 0) and those after
it, and checks each; the first that can't have happened in any order is printed, and ends it.
";

/// Histories recorded at once, each about a cluster of its own.
const AT_ONCE: u64 = 8;

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let (histories, first) = match numbers.as_deref() {
        Ok([]) => (1000, 0),
        Ok([histories]) => (*histories, 0),
        Ok([histories, first]) => (*histories, *first),
        _ => {
            let _told = writeln!(io::stderr(), "{USAGE}");
            return ExitCode::from(2);
        }
    };
    match linearize(histories, first) {
        Ok(told) => {
            let _told = writeln!(io::stdout(), "{told}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _told = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

/// What there was in histories that have an order.
#[derive(Default)]
struct Seen {
    calls: usize,
    overlapping: usize,
    unanswered: usize,
    refused: HashMap<String, usize>,
}

fn linearize(histories: u64, first: u64) -> Result<String, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let site = Arc::new(Site::start(dir.path()).await?);
        let began = Instant::now();
        let mut seen = Seen::default();
        let mut recording = JoinSet::new();
        let mut seeds = first..first.saturating_add(histories);
        loop {
            while recording.len() < AT_ONCE as usize
                && let Some(seed) = seeds.next()
            {
                let site = Arc::clone(&site);
                recording.spawn(async move { site.record(seed).await });
            }
            let Some(recorded) = recording.join_next().await else { break };
            let history = recorded.map_err(|error| error.to_string())??;
            history.check().map_err(|disorder| format!("{history}{disorder}"))?;
            seen.add(&history);
        }
        let took = began.elapsed().as_secs_f64();
        if let Some(site) = Arc::into_inner(site) {
            site.stop().await?;
        }
        Ok(seen.tell(histories, took))
    })
}

impl Seen {
    fn add(&mut self, history: &History) {
        self.calls += history.calls.len();
        self.overlapping += history.overlapping();
        for call in &history.calls {
            match &call.answered {
                None => self.unanswered += 1,
                Some((xlreg_sim::cluster::Answer::Refused(text), _)) => {
                    *self.refused.entry(text.clone()).or_default() += 1;
                }
                Some(_) => {}
            }
        }
    }

    fn tell(&self, histories: u64, took: f64) -> String {
        let Self { calls, overlapping, unanswered, refused } = self;
        let mut refused: Vec<_> = refused.iter().collect();
        refused.sort();
        let refused: Vec<_> =
            refused.iter().map(|(text, count)| format!("{count} {text:?}")).collect();
        format!(
            "{histories} histories in {took:.1} s, each of which can have happened in some order: \
             {calls} calls, {overlapping} of them begun before others were answered, {unanswered} not \
             waited for; refused: {}",
            refused.join(", ")
        )
    }
}
