//! Writes the seeds: `seeds DIRECTORY` makes one directory in it for each target.

use std::path::PathBuf;
use std::{env, fs, io};

// What the instrumented code calls is in there.
use libfuzzer_sys as _;
use xlreg_fuzz::seeds;

fn main() -> io::Result<()> {
    let Some(to) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    for seeds in seeds::all() {
        let dir = to.join(seeds.target);
        fs::create_dir_all(&dir)?;
        for (number, input) in seeds.inputs.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number:02}")), input)?;
        }
    }
    Ok(())
}
