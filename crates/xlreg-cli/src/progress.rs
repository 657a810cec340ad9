//! How far long work has come, on stderr, for somebody who watches it.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that goes away when it is dropped. Without a terminal, or on a dumb one, it is never seen;
/// it has no colours, whatever `NO_COLOR` says.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// A bar for what is being done, say `making keys`; seen once it is told how far that is.
    pub(crate) fn new(doing: &'static str) -> Self {
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos} of {len}, {eta} left")
            .expect("the template is a constant that is drawn in every use")
            .progress_chars("=> ");
        Self(ProgressBar::no_length().with_style(style).with_message(doing))
    }

    /// Shows that `done` of `total` are done. What was done when it is first told says nothing
    /// about how fast the rest will be.
    pub(crate) fn set(&self, done: usize, total: usize) {
        let first = self.0.length().is_none();
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
        if first {
            self.0.reset_eta();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar that several hold until one of them puts it away, since something is to be printed.
#[derive(Clone)]
pub(crate) struct SharedBar(Arc<Mutex<Option<Bar>>>);

impl SharedBar {
    pub(crate) fn new(doing: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Some(Bar::new(doing)))))
    }

    /// Shows that `done` of `total` are done, if it is still there.
    pub(crate) fn set(&self, done: usize, total: usize) {
        if let Some(bar) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            bar.set(done, total);
        }
    }

    pub(crate) fn put_away(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
