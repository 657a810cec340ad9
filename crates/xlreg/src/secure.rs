//! TLS configurations, kept so that who comes back to a registry is known again at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use xlreg_core::Fingerprint;
use xlreg_node::IdentityError;
use xlreg_proto::keys::{KeyError, PrivateKey};
use xlreg_tls::{ClientTls, Pin};

use crate::error::Error;

/// Identities whose tickets are kept: as many as a cluster has members, for those who form one.
const KEPT_MAX: usize = 64;

/// The TLS configurations of the identities that have spoken to one registry, latest last.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<Vec<(Fingerprint, ClientTls)>>);

impl Tickets {
    /// The configuration of the identity with this sig key: an RSA operation if it is new.
    pub(crate) async fn of(&self, pin: Pin, key: &Arc<PrivateKey>) -> Result<ClientTls, Error> {
        let print = key.public().fingerprint();
        if let Some(tls) = self.known(&print) {
            return Ok(tls);
        }
        let key = Arc::clone(key);
        let tls = spawn_blocking(move || ClientTls::new(pin, &key)).await;
        let tls = tls.expect("making a certificate does not panic")?;
        // Another may have been quicker: the tickets it got meanwhile are worth keeping.
        if let Some(tls) = self.known(&print) {
            return Ok(tls);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push((print, tls.clone()));
        Ok(tls)
    }

    fn known(&self, print: &Fingerprint) -> Option<ClientTls> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == print)?;
        let entry = kept.remove(place);
        let tls = entry.1.clone();
        kept.push(entry);
        Some(tls)
    }
}

/// A key for questions that are nobody's: made once a process, never kept, known to no one.
pub(crate) async fn guest() -> Result<&'static Arc<PrivateKey>, Error> {
    static GUEST: OnceCell<Arc<PrivateKey>> = OnceCell::const_new();
    let make = || async {
        let key = spawn_blocking(PrivateKey::generate).await;
        key.expect("making a key does not panic").map(Arc::new)
    };
    let name = || "guest".parse().expect("a word is a name");
    let failed = |source: KeyError| IdentityError::Key { name: name(), source };
    Ok(GUEST.get_or_try_init(make).await.map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_are_kept_as_a_cluster_has_members_and_the_latest_stay() {
        let key = guest().await.unwrap();
        let pin = Pin::from(key.public());
        let tickets = Tickets::default();
        let first = tickets.of(pin, key).await.unwrap();
        let again = tickets.of(pin, key).await.unwrap();
        assert!(Arc::ptr_eq(&first.config(), &again.config()), "the tickets are the same");
        for number in 0..2 * KEPT_MAX as u8 {
            let mut kept = tickets.0.lock().unwrap();
            if kept.len() >= KEPT_MAX {
                kept.remove(0);
            }
            kept.push((Fingerprint::from_bytes([number; 32]), first.clone()));
        }
        assert!(tickets.known(&key.public().fingerprint()).is_none());
        assert!(tickets.of(pin, key).await.is_ok());
        assert_eq!(tickets.0.lock().unwrap().len(), KEPT_MAX);
    }
}
