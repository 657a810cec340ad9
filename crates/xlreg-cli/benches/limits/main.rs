//! How far one registry goes, drawn as curves beside what limits them: `just limits`, which is
//! `cargo bench -p xlreg-cli --bench limits`.
//!
//! | part | curve | what limits it |
//! |---|---|---|
//! | `sessions` | sessions a second, by how many clients at a time, over each door | the RSA operations that both sides of a session need, on all cores |
//! | `joins` | joins a second that are on disk, by how many at a time | one flush of the disk for each |
//! | `watchers` | from a change to the last of its watchers, by their number | one message after the other over loopback |
//! | `stored` | start-up, memory and disk, by what is stored | reading the file |
//!
//! An argument picks the parts whose names contain it. Each prints a table, and draws `DIR/PART.svg`;
//! `--figures DIR` is `docs/figures` if left out. docs/performance.md shows them, and says where they
//! bend and why.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench prints what it measures, and stops at the first thing that fails"
)]

mod chart;
#[path = "../common/joining.rs"]
mod joining;
#[path = "../common/server.rs"]
mod server;
mod sessions;
mod stored;
mod watchers;
#[path = "../common/watching.rs"]
mod watching;

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Runtime;

/// One part: measures, prints, and says what to draw.
type Part = fn() -> chart::Chart;

fn main() {
    let mut figures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/figures"));
    let mut picked = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--figures" => figures = arguments.next().expect("--figures DIR").into(),
            // cargo passes it.
            "--bench" => {}
            _ => picked.push(argument),
        }
    }
    std::fs::create_dir_all(&figures).unwrap();
    let parts: [(&str, Part); 4] = [
        ("sessions", sessions::sessions),
        ("joins", stored::joins),
        ("watchers", watchers::watchers),
        ("stored", stored::stored),
    ];
    for (name, part) in parts {
        if picked.is_empty() || picked.iter().any(|wanted| name.contains(wanted.as_str())) {
            println!("== {name}");
            let path = figures.join(format!("{name}.svg"));
            part().draw(&path);
            println!("drawn in {}", path.display());
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// The median and the 99th percentile, in milliseconds.
fn percentiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    (at(0.5), at(0.99))
}
