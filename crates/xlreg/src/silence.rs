//! A registry that can't be heard, and who is told so.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;

type Tell = dyn Fn(&Error) + Send + Sync;

/// Who is told when a registry falls silent; nobody, unless somebody asked for it.
#[derive(Clone, Default)]
pub(crate) struct Listener(Option<Arc<Tell>>);

impl Listener {
    pub(crate) fn new(tell: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.0.is_some()).finish()
    }
}

/// Why a registry can't be heard, while it can't.
#[derive(Debug)]
pub(crate) struct Silence {
    why: Option<String>,
    listener: Listener,
}

impl Silence {
    /// None so far.
    pub(crate) fn new(listener: Listener) -> Self {
        Self { why: None, listener }
    }

    /// It lasts for this reason now; it is told when it begins, and no more until it has ended.
    pub(crate) fn lasts(&mut self, error: &Error) {
        if self.why.replace(error.to_string()).is_none()
            && let Some(tell) = &self.listener.0
        {
            tell(error);
        }
    }

    /// The registry is heard, or was not listened to for a while.
    pub(crate) fn ends(&mut self) {
        self.why = None;
    }

    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }
}
