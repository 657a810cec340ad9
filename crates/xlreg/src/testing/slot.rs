//! A member's state and output, as it changes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use xlreg_core::Name;
use xlreg_launch::Check;

use super::error::TestError;
use super::member::TestMember;
use super::quiet::quiet;

/// How much of a program's output is kept for tests to look at: the last of it, once before and
/// once after it was last started.
const WRITTEN_BYTES_MAX: usize = 256 * 1024;

/// How much of it is quoted in an error.
const LAST_BYTES_MAX: usize = 1024;

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberState {
    /// It is about to start.
    Starting,
    /// It runs, or is for the test to drive.
    Running,
    /// It was paused.
    Paused,
    /// It was killed.
    Killed,
    /// It ended by itself, and well: its function returned, its program's exit code was 0.
    Ended,
    /// It ended by itself, and badly; how.
    Failed(String),
}

impl MemberState {
    /// Whether it neither runs nor will by itself.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Killed | Self::Ended | Self::Failed(_))
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("is about to start"),
            Self::Running => f.write_str("runs"),
            Self::Paused => f.write_str("is paused"),
            Self::Killed => f.write_str("was killed"),
            Self::Ended => f.write_str("has ended"),
            Self::Failed(how) => write!(f, "failed: {how}"),
        }
    }
}

/// What a program has written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Before it was last started.
    pub(super) before: String,
    /// Since then.
    pub(super) now: String,
}

impl Written {
    /// The last of it, at most `bytes` bytes, from before and after its last start.
    pub(super) fn end(&self, bytes: usize) -> String {
        let mut all = format!("{}{}", self.before, self.now);
        shorten(&mut all, bytes);
        all
    }
}

/// A member's place in its cluster's record.
pub(super) struct Slot {
    name: Name,
    member: Mutex<TestMember>,
    check: Mutex<Option<Arc<Check>>>,
    pub(super) state: watch::Sender<MemberState>,
    pub(super) written: watch::Sender<Written>,
    /// Whoever kills or starts it: one after another.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Slot {
    pub(super) fn new(member: TestMember, check: Option<Check>) -> Self {
        Self {
            name: member.name().clone(),
            member: Mutex::new(member),
            check: Mutex::new(check.map(Arc::new)),
            state: watch::Sender::new(MemberState::Starting),
            written: watch::Sender::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn member(&self) -> TestMember {
        self.member.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the member new listeners.
    pub(super) fn listen(&self) -> Result<(), TestError> {
        let listening = self.member().listen()?;
        *self.member.lock().unwrap_or_else(PoisonError::into_inner) = listening;
        Ok(())
    }

    pub(super) fn check(&self) -> Option<Arc<Check>> {
        self.check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets that the member was ready, and moves what it has written to what it wrote before.
    pub(super) fn begin_anew(&self, check: Option<Check>) {
        *self.check.lock().unwrap_or_else(PoisonError::into_inner) = check.map(Arc::new);
        self.written.send_modify(|written| {
            let now = std::mem::take(&mut written.now);
            written.before.push_str(&now);
            shorten(&mut written.before, WRITTEN_BYTES_MAX);
        });
        self.state.send_replace(MemberState::Starting);
    }

    /// Takes in what its program has written.
    pub(super) fn write(&self, text: &[u8]) {
        if let Some(check) = self.check() {
            // The first line that says so is enough, and a check keeps that.
            let _is_ready =
                text.split_inclusive(|byte| *byte == b'\n').any(|line| check.sees_line(line));
        }
        self.written.send_modify(|written| {
            written.now.push_str(&String::from_utf8_lossy(text));
            shorten(&mut written.now, WRITTEN_BYTES_MAX);
        });
    }

    /// Waits until its state is one that `wanted` picks.
    pub(super) async fn wait_for(&self, wanted: impl Fn(&MemberState) -> bool) -> MemberState {
        let mut states = self.state.subscribe();
        // An error would mean that the sender is gone, which is ours.
        states
            .wait_for(|state| wanted(state))
            .await
            .map_or(MemberState::Ended, |state| state.clone())
    }

    /// Waits until it is over, and nobody listens at its addresses.
    pub(super) async fn end(&self) {
        self.wait_for(MemberState::is_over).await;
        quiet(self.member().addresses()).await;
    }

    pub(super) fn state(&self) -> MemberState {
        self.state.borrow().clone()
    }

    /// Puts its state from one to another, if it has not changed meanwhile.
    pub(super) fn change(&self, from: &MemberState, to: MemberState) {
        self.state.send_if_modified(|state| {
            let is_so = state == from;
            if is_so {
                *state = to;
            }
            is_so
        });
    }

    /// Waits until its program has written `text` since it was last started, or has ended; whether
    /// it has.
    pub(super) async fn writes(&self, text: &str) -> bool {
        let mut written = self.written.subscribe();
        let has_it = |written: &Written| written.now.contains(text);
        tokio::select! {
            biased;
            found = written.wait_for(has_it) => return found.is_ok(),
            _end = self.wait_for(MemberState::is_over) => {}
        }
        // Word of its end comes after all that it has written.
        has_it(&self.written.borrow())
    }

    /// The end of what its program has written, for messages.
    pub(super) fn last_lines(&self) -> String {
        self.written.borrow().end(LAST_BYTES_MAX)
    }

    /// Its name and what it does, for messages.
    pub(super) fn told(&self) -> String {
        format!("{} {}", self.name, self.state())
    }
}

/// Cuts a text down to its last `bytes` bytes, or a little less, to cut no character in two.
fn shorten(text: &mut String, bytes: usize) {
    let mut excess = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(excess) {
        excess += 1;
    }
    text.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_texts_the_end_is_kept() {
        let mut text = "short".to_owned();
        shorten(&mut text, 5);
        assert_eq!(text, "short");
        shorten(&mut text, 3);
        assert_eq!(text, "ort");
        for (bytes, expected) in [(6, "ääx"), (5, "ääx"), (4, "äx"), (1, "x"), (0, "")] {
            let mut text = "äääx".to_owned();
            shorten(&mut text, bytes);
            assert_eq!(text, expected);
        }
    }
}
