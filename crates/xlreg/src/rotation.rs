//! Putting other keys in the place of a node's.

use tokio::task::spawn_blocking;
use xlreg_api::{proof, v2};
use xlreg_core::Refusal;
use xlreg_node::IdentityError;
pub use xlreg_node::NewKeys;

use crate::error::Error;
use crate::identity::Identity;
use crate::modern::Client;
use crate::registry::Registry;

impl Registry {
    /// Puts other keys in the place of `identity`'s. Its ID, its ranks and its clusters stay, and
    /// the members of each hear of the new keys. The old sig key is of no use at this registry from
    /// then on. Then it signs its entries in these clusters anew, as [`Self::sign_entries`] does; if
    /// that fails, it is logged, and can be called again. Returns the node with its new keys.
    ///
    /// Of an identity that is kept on disk the new keys are there, in `.xlattice/node.config.next`,
    /// before the registry hears of them, and take the old ones' place after its answer. If this
    /// was cut off between the two, **the next call finishes with the keys that it finds there**
    /// and leaves `keys` aside: look at what comes back. After a transient error, call it again.
    ///
    /// Other registries that know this identity know it by its old keys: rotate at each, with the
    /// same keys, before the old ones are gone.
    ///
    /// # Errors
    /// [`Error::Refused`] if the new sig key is known already, [`Error::OldWire`],
    /// [`Error::Identity`] if a file can't be written, or one of the network's kinds.
    pub async fn rotate(&self, identity: &Identity, keys: NewKeys) -> Result<Identity, Error> {
        self.need_modern("rotation of keys")?;
        let inner = xlreg_node::Identity::from(identity.clone());
        let (next, resumed) = blocking(move || match inner.staged()? {
            Some(staged) => Ok((staged, true)),
            None => Ok((inner.stage(&keys)?, false)),
        })
        .await?;
        let next = Identity::from(next);
        match self.tell_rotation(identity, &next).await {
            Ok(()) => {}
            Err(error) => {
                // Refused, the keys are nobody's; after anything else they may be in use.
                if !resumed && matches!(error, Error::Refused { .. }) && !error.is_transient() {
                    let inner = xlreg_node::Identity::from(identity.clone());
                    blocking(move || inner.discard()).await?;
                }
                return Err(error);
            }
        }
        let inner = xlreg_node::Identity::from(next.clone());
        blocking(move || inner.promote()).await?;
        self.try_sign_entries(&next).await;
        Ok(next)
    }

    /// Has the registry know `next` in the place of `old`, unless it does already.
    async fn tell_rotation(&self, old: &Identity, next: &Identity) -> Result<(), Error> {
        match self.ask_rotation(old, next).await {
            // So answers a registry that has heard it before: then it knows the new keys. Or somebody
            // else has rotated the old ones, and it doesn't.
            Err(error)
                if error.is_refusal(Refusal::KeyRetired)
                    || error.is_refusal(Refusal::CommsKeyDiffers) =>
            {
                match self.is_known(next).await {
                    Ok(true) => Ok(()),
                    Err(other) if other.is_transient() => Err(other),
                    Ok(false) | Err(_) => Err(error),
                }
            }
            answered => answered,
        }
    }

    /// Whether the registry knows a node by both of its keys, without making it known.
    async fn is_known(&self, node: &Identity) -> Result<bool, Error> {
        let ids = self.ids_of(node, &node.sig_key().fingerprint()).await?;
        let known = node.id().map_or(!ids.is_empty(), |id| ids.contains(&id));
        if known {
            // So this registers nothing, and only says whether the comms key is the one that it has.
            self.register(node).await?;
        }
        Ok(known)
    }

    async fn ask_rotation(&self, old: &Identity, next: &Identity) -> Result<(), Error> {
        let (old_sig, new_sig) = (old.sig_key().fingerprint(), next.sig_key().fingerprint());
        let (old_comms, new_comms) =
            (old.comms_key().fingerprint(), next.comms_key().fingerprint());
        let registry = self.credentials().sig_key.fingerprint();
        let statement = proof::rotation_statement(&registry, &old_sig, &new_sig, Some(&new_comms));
        let mut request = v2::RotateKeysRequest {
            old_signature: old.sign_by_sig(statement.clone()).await?,
            ..v2::RotateKeysRequest::default()
        };
        if new_sig != old_sig {
            request.new_sig_key = next.sig_key().der().to_vec();
            request.new_signature = next.sign_by_sig(statement).await?;
        }
        if new_comms != old_comms {
            let proof = proof::comms_statement(&registry, &new_sig, &new_comms);
            request.new_comms_key = next.comms_key().der().to_vec();
            request.comms_proof = next.sign_by_comms(proof).await?;
        }
        let line = self.line(old).await?;
        // The statement is about the comms key that the registry has, so it must have one.
        self.register_on(&line, old).await?;
        let call = async |mut client: Client, request| client.rotate_keys(request).await;
        line.ask("RotateKeys", call, request).await?;
        line.close().await;
        Ok(())
    }
}

/// Reads and writes files off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IdentityError> + Send + 'static,
) -> Result<T, Error> {
    Ok(spawn_blocking(work).await.expect("writing files does not panic")?)
}
