//! Chores of this workspace: `cargo run -p xtask -- codegen` writes the Rust code of the
//! `.proto` files anew. The result is committed, so that users need no protobuf compiler; a test
//! here compares it with what the `.proto` files give.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("codegen") => {
            fs::write(committed(), generate()?).context("writing the generated code")
        }
        _ => bail!("usage: cargo run -p xtask -- codegen"),
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where the generated code of the old wire is kept.
fn committed() -> PathBuf {
    root().join("crates/xlreg-proto/src/wire/generated.rs")
}

/// The Rust code of `xlreg.proto`, formatted.
fn generate() -> Result<String> {
    let protos = root().join("crates/xlreg-proto/proto");
    let descriptors =
        protox::compile(["xlreg.proto"], [&protos]).context("compiling xlreg.proto")?;
    let out = tempfile::tempdir().context("making a scratch directory")?;
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("generating code from xlreg.proto")?;
    fs::read_to_string(out.path().join("reg.rs")).context("reading the generated code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_proto_files_give() {
        let committed = fs::read_to_string(committed()).unwrap();
        assert!(committed == generate().unwrap(), "stale: run `cargo run -p xtask -- codegen`");
    }
}
