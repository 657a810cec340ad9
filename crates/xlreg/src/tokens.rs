//! Tokens: what lets nodes into a cluster that asks for one.

use std::time::Duration;

pub use xlreg_api::secret::TOKEN_PREFIX;
use xlreg_api::{TokenSecret, convert, v2};
use xlreg_core::admission::Label;
use xlreg_core::limits::CLUSTER_TOKENS_MAX;
use xlreg_core::{ClusterKey, Time, TokenId};

use crate::error::Error;
use crate::identity::Identity;
use crate::lookup::absurd;
use crate::modern::Client;
use crate::registry::Registry;

/// A token to issue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewToken {
    /// How long it can be redeemed: a second to 366 days; a day unless it is said.
    pub ttl: Option<Duration>,
    /// How many may join with it: up to 1000; 0 for as many as the cluster has members.
    pub max_uses: u32,
    /// For people to know it by; at most 64 bytes.
    pub label: String,
}

/// What is known of a token besides its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What it is listed and revoked by.
    pub id: TokenId,
    /// For people to know it by.
    pub label: Label,
    /// When it was issued.
    pub created: Time,
    /// From when on it is of no use.
    pub expires: Time,
    /// How many may join with it.
    pub max_uses: u32,
    /// How many have.
    pub uses: u32,
}

impl Registry {
    /// Issues a token for a cluster. The secret is told here and never again. For the cluster's
    /// owner and administrators.
    ///
    /// Repeated after an error it may issue a second one: see [`Self::list_tokens`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the cluster is another's, there is none, or it has too many tokens,
    /// [`Error::OldWire`], or one of the network's kinds.
    pub async fn create_token(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        new: &NewToken,
    ) -> Result<(TokenSecret, JoinToken), Error> {
        const NAME: &str = "CreateToken";
        let request = v2::CreateTokenRequest {
            cluster: Some(convert::cluster_ref(cluster)),
            ttl: new.ttl.map(convert::to_duration),
            max_uses: new.max_uses,
            label: new.label.clone(),
        };
        let call = async |mut client: Client, request| client.create_token(request).await;
        let answer = self.once(identity, "tokens", NAME, call, request).await?;
        let secret = TokenSecret::parse(&answer.secret);
        let secret = secret.map_err(|_| absurd(NAME, "its secret is none"))?;
        let token = answer.token.ok_or_else(|| absurd(NAME, "there is no token in it"))?;
        let token = read(NAME, &token)?;
        if *token.id.as_bytes() != secret.id() {
            return Err(absurd(NAME, "its secret is another token's"));
        }
        Ok((secret, token))
    }

    /// The tokens of a cluster, expired and spent ones too, oldest first. For its owner and
    /// administrators.
    ///
    /// # Errors
    /// As [`Self::create_token`].
    pub async fn list_tokens(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
    ) -> Result<Vec<JoinToken>, Error> {
        const NAME: &str = "ListTokens";
        let request = v2::ListTokensRequest { cluster: Some(convert::cluster_ref(cluster)) };
        let call = async |mut client: Client, request| client.list_tokens(request).await;
        let answer = self.once(identity, "tokens", NAME, call, request).await?;
        if answer.tokens.len() > CLUSTER_TOKENS_MAX {
            return Err(absurd(NAME, "there are more tokens than a cluster can have"));
        }
        answer.tokens.iter().map(|token| read(NAME, token)).collect()
    }

    /// Makes a token useless. Members that joined with it stay. For the cluster's owner and
    /// administrators.
    ///
    /// # Errors
    /// As [`Self::create_token`], and [`Error::Refused`] if there is no such token.
    pub async fn revoke_token(
        &self,
        identity: &Identity,
        cluster: &ClusterKey,
        token: &TokenId,
    ) -> Result<(), Error> {
        let request = v2::RevokeTokenRequest {
            cluster: Some(convert::cluster_ref(cluster)),
            token_id: token.to_string(),
        };
        let call = async |mut client: Client, request| client.revoke_token(request).await;
        self.once(identity, "tokens", "RevokeToken", call, request).await?;
        Ok(())
    }
}

fn read(request: &'static str, told: &v2::JoinToken) -> Result<JoinToken, Error> {
    let id = TokenId::parse(&told.id).ok_or_else(|| absurd(request, "a token's ID is none"))?;
    let label =
        Label::new(&told.label).ok_or_else(|| absurd(request, "a token's label is none"))?;
    let time = |at: &Option<_>| at.as_ref().map(convert::time).unwrap_or_default();
    Ok(JoinToken {
        id,
        label,
        created: time(&told.create_time),
        expires: time(&told.expire_time),
        max_uses: told.max_uses,
        uses: told.uses,
    })
}
