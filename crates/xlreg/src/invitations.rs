//! Invitations: from a line of text to a registry, and back.

use std::sync::Arc;

use xlreg_api::{Invitation, TokenSecret, convert, v2};
use xlreg_core::{ClusterKey, Endpoint, Version};
use xlreg_proto::text::credentials::CREDENTIALS_ENDPOINTS_MAX;
use xlreg_proto::text::{Credentials, FileId};
use xlreg_tls::Pin;

use crate::error::Error;
use crate::identity::Identity;
use crate::lookup::absurd;
use crate::modern::Line;
use crate::registry::{Registry, malformed};
use crate::secure::Tickets;

impl Registry {
    /// The registry that an invitation is to: connects to it, makes sure that it holds the key in
    /// the invitation, and asks it for the rest of its credentials.
    ///
    /// # Errors
    /// [`Error::WrongKey`] if another answers there, or one of the network's kinds.
    pub async fn from_invitation(
        invitation: &Invitation,
        identity: &Identity,
    ) -> Result<Self, Error> {
        let tickets = Tickets::default();
        let pin = Pin::from(invitation.sig_key());
        let tls = tickets.of(pin, identity.sig_private()).await?;
        let line = Line::open(invitation.endpoints(), &tls).await?;
        let told = line.registry().await?;
        line.close().await;
        let credentials = read(&told, invitation)?;
        Ok(Self::with_tickets(credentials, Arc::new(tickets)))
    }

    /// An invitation to a cluster of this registry. With a token in it, its text is as secret as
    /// the token is.
    ///
    /// # Errors
    /// [`Error::Invitation`] if the cluster's name would be read as an ID.
    pub fn invitation(
        &self,
        cluster: &ClusterKey,
        token: Option<&TokenSecret>,
    ) -> Result<Invitation, Error> {
        let credentials = self.credentials();
        Ok(Invitation::new(
            credentials.endpoints.clone(),
            credentials.sig_key.fingerprint(),
            cluster.clone(),
            token.cloned(),
        )?)
    }

    /// The registry's root certificate, DER, made sure of in a handshake: whoever trusts this one,
    /// and no other, can reach the registry with stock tools.
    ///
    /// # Errors
    /// [`Error::OldWire`], or one of the network's kinds.
    pub async fn root_certificate(&self, identity: &Identity) -> Result<Vec<u8>, Error> {
        self.need_modern("certificates")?;
        let line = self.line(identity).await?;
        let root = line.root().map(<[u8]>::to_vec);
        line.close().await;
        root.ok_or_else(|| absurd("the TLS handshake", "there is no root certificate in it"))
    }
}

/// Makes credentials of what a registry says of itself. The addresses of the invitation stand
/// first: they have just worked.
fn read(told: &v2::GetRegistryResponse, invitation: &Invitation) -> Result<Credentials, Error> {
    const NAME: &str = "GetRegistry";
    let bad = |fault| malformed(NAME, &fault);
    let sig_key = convert::key("sig_key", &told.sig_key).map_err(bad)?;
    if sig_key.fingerprint() != invitation.sig_key() {
        return Err(absurd(NAME, "it tells another sig key than it holds"));
    }
    let id = convert::bytes::<xlreg_core::NodeId>("id", &told.id).map_err(bad)?;
    let version: Version = convert::text("version", &told.version).map_err(bad)?;
    let mut endpoints = invitation.endpoints().to_vec();
    for endpoint in told.endpoints.iter().take(CREDENTIALS_ENDPOINTS_MAX) {
        let endpoint: Endpoint = convert::text("endpoints", endpoint).map_err(bad)?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints.truncate(CREDENTIALS_ENDPOINTS_MAX);
    Ok(Credentials {
        name: convert::text("name", &told.name).map_err(bad)?,
        id: FileId::from(id),
        comms_key: convert::key("comms_key", &told.comms_key).map_err(bad)?,
        sig_key,
        endpoints,
        // It has just spoken this door's language.
        version: version.max(Version::FIRST_OF_2),
    })
}
