//! A disk that fails: a library put before the system's, which lets a call on the registry's files
//! go wrong after so many that went well.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A way in which a disk fails.
pub(crate) struct Failure {
    pub(crate) name: &'static str,
    /// What the shim is told.
    kind: &'static str,
    /// Less than so many calls go well before it.
    pub(crate) calls: u64,
    /// What the server must say.
    pub(crate) says: &'static str,
}

/// Few calls to `fsync` come at start; a writing starts with some tens. So some of these come amid a
/// start, most amid a commit, and some amid a checkpoint.
pub(crate) const FAILURES: &[Failure] = &[
    Failure { name: "fsync fails once", kind: "fsync", calls: 200, says: "disk I/O error" },
    Failure { name: "a write fails", kind: "write-eio", calls: 800, says: "disk I/O error" },
    Failure {
        name: "a write is cut short",
        kind: "write-torn",
        calls: 800,
        says: "disk I/O error",
    },
    Failure { name: "the disk is full", kind: "write-enospc", calls: 800, says: "disk is full" },
];

/// The shim, built.
pub(crate) struct Shim(PathBuf);

/// A failure at a certain call.
pub(crate) struct Plan {
    shim: PathBuf,
    kind: &'static str,
    after: u64,
}

impl Shim {
    /// None if there is no C compiler.
    pub(crate) fn build(scratch: &Path) -> Option<Self> {
        let shim = scratch.join("disk.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/kills/disk.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([shim.as_os_str(), source.as_ref()])
            .status()
            .ok()?;
        assert!(built.success(), "the shim does not compile");
        Some(Self(shim))
    }

    pub(crate) fn plan(&self, failure: &Failure, after: u64) -> Plan {
        Plan { shim: self.0.clone(), kind: failure.kind, after }
    }
}

impl Plan {
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("LD_PRELOAD", self.shim.display().to_string()),
            ("XLREG_DISK_FAILS", self.kind.to_owned()),
            ("XLREG_DISK_AFTER", self.after.to_string()),
        ]
    }
}
