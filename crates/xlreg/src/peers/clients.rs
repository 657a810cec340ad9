//! Which clients of a cluster its members take.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use xlreg_core::Fingerprint;
use xlreg_tls::{Admission, PeerRefused};

use super::known::Known;
use crate::error::printable;
use crate::identity::Identity;
use crate::registry::Registry;

/// How long a registry has to say whether it knows a client, amid that client's handshake.
pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);

/// How long its answers hold: a node that registers, or whose key is retired, is known as that no
/// later.
const KNOWN_FOR: Duration = Duration::from_secs(30);
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// Answers that are kept.
const ANSWERS_MAX: usize = 1024;

/// Which clients are let in besides the members, who always are.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Whoever has a node's key, whatever that is: the link tells which.
    Anyone,
    /// The holders of these sig keys.
    Keys(BTreeSet<Fingerprint>),
    /// Nodes that are registered at this registry, with keys that are not retired. Amid a handshake it
    /// is asked, by its modern door; it has 2 s, and that it knows a key is good for 30 s. While it
    /// can't be reached, clients that it has not been asked about are refused.
    Registered(Registry),
}

/// Members, and the clients that a policy lets in.
pub(super) struct Guests {
    known: Arc<Known>,
    clients: Clients,
    /// As whom the registry is asked.
    identity: watch::Receiver<Identity>,
    runtime: Handle,
    answers: Mutex<HashMap<Fingerprint, Answer>>,
}

/// Whether a key is registered, as of some time.
#[derive(Clone, Copy)]
struct Answer {
    registered: bool,
    at: Instant,
}

impl Answer {
    fn holds(&self) -> bool {
        self.at.elapsed() < if self.registered { KNOWN_FOR } else { UNKNOWN_FOR }
    }
}

impl Guests {
    /// To be called within a runtime, on which the registry is asked.
    pub(super) fn new(
        known: Arc<Known>,
        clients: Clients,
        identity: watch::Receiver<Identity>,
    ) -> Self {
        let (runtime, answers) = (Handle::current(), Mutex::default());
        Self { known, clients, identity, runtime, answers }
    }

    /// Asks the registry, unless it has just said.
    fn check_registered(&self, registry: &Registry, key: &Fingerprint) -> Result<(), PeerRefused> {
        let fresh = self.lock().get(key).copied().filter(Answer::holds);
        let registered = match fresh {
            Some(answer) => answer.registered,
            None => {
                let registered = self.ask(registry, key)?;
                self.keep(*key, registered);
                registered
            }
        };
        if registered { Ok(()) } else { Err(PeerRefused::NotRegistered { key: *key }) }
    }

    /// Waits for the answer on this thread, which is one that may block.
    fn ask(&self, registry: &Registry, key: &Fingerprint) -> Result<bool, PeerRefused> {
        let (teller, told) = mpsc::sync_channel(1);
        let (registry, identity, key) = (registry.clone(), self.identity.borrow().clone(), *key);
        let asking = self.runtime.spawn(async move {
            // Nobody waits for it any more if that fails.
            let _late = teller.send(registry.ids_of(&identity, &key).await);
        });
        let unsure = |problem: String| PeerRefused::Unsure { key, problem };
        match told.recv_timeout(LOOKUP_DEADLINE) {
            Ok(Ok(ids)) => Ok(!ids.is_empty()),
            Ok(Err(error)) => Err(unsure(printable(&error.to_string()))),
            Err(_) => {
                asking.abort();
                let seconds = LOOKUP_DEADLINE.as_secs();
                Err(unsure(format!("the registry has not answered within {seconds} s")))
            }
        }
    }

    fn keep(&self, key: Fingerprint, registered: bool) {
        let mut answers = self.lock();
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, answer| answer.holds());
        }
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(key, Answer { registered, at: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Answer>> {
        // Nothing under this lock panics.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").field("clients", &self.clients).finish_non_exhaustive()
    }
}

impl Admission for Guests {
    fn admit(&self, key: &Fingerprint, meant: Option<&Fingerprint>) -> Result<(), PeerRefused> {
        if self.known.admit(key, meant).is_ok() {
            return Ok(());
        }
        match &self.clients {
            Clients::Anyone => Ok(()),
            Clients::Keys(keys) if keys.contains(key) => Ok(()),
            Clients::Keys(_) => Err(PeerRefused::NotAllowed { key: *key }),
            Clients::Registered(registry) => self.check_registered(registry, key),
        }
    }
}
