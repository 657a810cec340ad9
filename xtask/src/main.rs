//! Chores of this workspace: `cargo run -p xtask -- codegen` writes anew what is made from the
//! `.proto` files. The result is committed, so that users need no protobuf compiler; a test here
//! compares it with what the `.proto` files give.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("codegen") => {
            for product in generate()? {
                fs::write(root().join(product.path), product.contents)
                    .with_context(|| format!("writing {}", product.path))?;
            }
            Ok(())
        }
        _ => bail!("usage: cargo run -p xtask -- codegen"),
    }
}

/// A committed file that is made from a `.proto` file.
struct Product {
    /// Where it is kept, from the root of the workspace.
    path: &'static str,
    contents: Vec<u8>,
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All that is made from the `.proto` files.
fn generate() -> Result<Vec<Product>> {
    let mut products = vec![old_wire()?];
    products.extend(modern_door()?);
    Ok(products)
}

/// The Rust code of the old wire's messages, formatted.
fn old_wire() -> Result<Product> {
    let protos = root().join("crates/xlreg-proto/proto");
    let descriptors =
        protox::compile(["xlreg.proto"], [&protos]).context("compiling xlreg.proto")?;
    let out = tempfile::tempdir().context("making a scratch directory")?;
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("generating code from xlreg.proto")?;
    let code = fs::read(out.path().join("reg.rs")).context("reading the generated code")?;
    Ok(Product { path: "crates/xlreg-proto/src/wire/generated.rs", contents: code })
}

/// The Rust code of the modern door's messages, client and server, formatted; and the description
/// of the service that its reflection hands out, with what it imports and with all comments.
fn modern_door() -> Result<[Product; 2]> {
    let protos = root().join("crates/xlreg-api/proto");
    let descriptors = protox::compile(["xlreg/v2/registry.proto"], [&protos])
        .context("compiling registry.proto")?;
    let description = descriptors.encode_to_vec();
    let out = tempfile::tempdir().context("making a scratch directory")?;
    tonic_prost_build::configure()
        // No connecting by URL: tonic's own TLS can't pin a key, so callers bring a channel.
        .build_transport(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("generating code from registry.proto")?;
    let code = fs::read(out.path().join("xlreg.v2.rs")).context("reading the generated code")?;
    Ok([
        Product { path: "crates/xlreg-api/src/generated.rs", contents: code },
        Product { path: "crates/xlreg-api/src/descriptors.bin", contents: description },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_proto_files_give() {
        for product in generate().unwrap() {
            let committed = fs::read(root().join(product.path)).unwrap();
            let path = product.path;
            let fresh = committed == product.contents;
            assert!(fresh, "{path} is stale: run `cargo run -p xtask -- codegen`");
        }
    }
}
