//! A command, as a question.

use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};

use super::Variable;
use crate::program::{Group, KillOnDrop};

/// The bytes at the end of stderr in which its last line is looked for.
const STDERR_BYTES_MAX: usize = 1024;

/// Runs `command` by `sh -c`. Good is only an exit with 0.
///
/// Dropped, it kills the command and all that it has started; so it does when the command ends.
pub(super) async fn run(command: &str, env: &[Variable]) -> Result<(), String> {
    let mut child = start(command, env).map_err(|error| format!("cannot start sh: {error}"))?;
    let stderr = child.stderr.take();
    let group = Group::led_by(&child).map(KillOnDrop);
    let ended = async {
        let status = child.wait().await;
        // Whatever is left of the group would keep stderr open.
        drop(group);
        status
    };
    let (status, last_line) = tokio::join!(ended, last_line(stderr));
    match status.map_err(|error| format!("cannot wait for sh: {error}"))? {
        status if status.success() => Ok(()),
        status if last_line.is_empty() => Err(status.to_string()),
        status => Err(format!("{status}: {last_line}")),
    }
}

fn start(command: &str, env: &[Variable]) -> std::io::Result<Child> {
    let mut shell = Command::new("sh");
    for (name, value) in env {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// The last line of `stderr` that isn't blank, as far as it is within [`STDERR_BYTES_MAX`].
async fn last_line(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut tail = Vec::with_capacity(2 * STDERR_BYTES_MAX);
    // An error ends it as its end does: what was said until then is said.
    while let Ok(1..) = stderr.read_buf(&mut tail).await {
        tail.drain(..tail.len().saturating_sub(STDERR_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(&tail);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    // It becomes part of a message of one line, on somebody's terminal.
    last.trim().replace(char::is_control, " ")
}
