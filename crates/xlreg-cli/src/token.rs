//! `xlreg token`: secrets that let others into a cluster.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use xlreg::{ClusterKey, JoinToken, NewToken, TokenId};

use crate::connect::{AsWhom, Connect, cluster_key, duration};
use crate::exit::Code;
use crate::invite::{self, Handing};
use crate::output::{self, Output};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Issue a token, and print the line that joins with it; its secret is shown only this once
    Create(CreateArgs),
    /// List a cluster's tokens: how often each was used, and until when it is good
    List(ListArgs),
    /// Make a token useless; members that joined with it stay
    Revoke(RevokeArgs),
}

/// Which cluster, at which registry, as whom.
#[derive(Args)]
pub(crate) struct About {
    /// The cluster's name or ID
    #[arg(value_parser = cluster_key, value_name = "CLUSTER")]
    cluster: ClusterKey,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    about: About,
    #[command(flatten)]
    terms: Terms,
    /// What to know it by in the list: at most 64 bytes
    #[arg(long, default_value = "")]
    label: String,
    #[command(flatten)]
    handing: Handing,
}

/// How long and how often a token is good.
#[derive(Args, Clone, Copy)]
pub(crate) struct Terms {
    /// How long the token can be used: 1s to 366 days
    #[arg(long, value_name = "TIME", default_value = "1day", value_parser = duration)]
    pub(crate) token_ttl: Duration,
    /// How many members may join with the token [default: as many as the cluster is for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) token_uses: Option<u32>,
}

impl Terms {
    /// What to issue.
    pub(crate) fn token(self, label: &str) -> NewToken {
        let max_uses = self.token_uses.unwrap_or(0);
        NewToken { ttl: Some(self.token_ttl), max_uses, label: label.to_owned() }
    }
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    about: About,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    about: About,
    /// The token's ID, as the list shows it: 8 hex digits
    #[arg(value_parser = token_id, value_name = "TOKEN")]
    token: TokenId,
}

pub(crate) fn main(command: &Command) -> anyhow::Result<Code> {
    match command {
        Command::Create(args) => crate::block_on(create(args)),
        Command::List(args) => crate::block_on(list(args)),
        Command::Revoke(args) => crate::block_on(revoke(args)),
    }
}

fn token_id(text: &str) -> Result<TokenId, String> {
    TokenId::parse(text).ok_or_else(|| "a token's ID is 8 lower-case hex digits".to_owned())
}

async fn create(args: &CreateArgs) -> anyhow::Result<Code> {
    let CreateArgs { about, terms, label, handing } = args;
    let registry = about.connect.registry()?;
    let identity = about.who.identity().await?;
    let doing = || format!("issuing a token for cluster {}", about.cluster);
    let (secret, token) = registry
        .create_token(&identity, &about.cluster, &terms.token(label))
        .await
        .with_context(doing)?;
    let shown = registry.show(&identity, &about.cluster).await.with_context(doing)?;
    let invitation = registry.invitation(&about.cluster, Some(&secret))?;
    let mut json = to_json(&token);
    json["cluster"] = json!(about.cluster.to_string());
    json["secret"] = json!(secret.as_str());
    json["invitation"] = json!(invitation.to_text().as_str());
    about.output.print(&json, || {
        format!("token {} for {} uses; secret {}", token.id, token.max_uses, secret.as_str())
    })?;
    invite::hand_over(&invitation, shown.endpoint_count, handing, about.output)?;
    Ok(Code::Done)
}

async fn list(args: &ListArgs) -> anyhow::Result<Code> {
    let About { cluster, connect, who, output } = &args.about;
    let registry = connect.registry()?;
    let identity = who.identity().await?;
    let tokens = registry
        .list_tokens(&identity, cluster)
        .await
        .with_context(|| format!("listing the tokens of cluster {cluster}"))?;
    let json = Value::Array(tokens.iter().map(to_json).collect());
    output.print(&json, || {
        if tokens.is_empty() {
            return format!("cluster {cluster} has no tokens");
        }
        let rows = tokens.iter().map(|token| {
            vec![
                token.id.to_string(),
                format!("{} of {}", token.uses, token.max_uses),
                output::moment(token.expires),
                token.label.as_str().to_owned(),
            ]
        });
        output::table(&["TOKEN", "USED", "EXPIRES", "LABEL"], rows)
    })?;
    Ok(Code::Done)
}

async fn revoke(args: &RevokeArgs) -> anyhow::Result<Code> {
    let About { cluster, connect, who, output } = &args.about;
    let registry = connect.registry()?;
    let identity = who.identity().await?;
    registry
        .revoke_token(&identity, cluster, &args.token)
        .await
        .with_context(|| format!("revoking token {} of cluster {cluster}", args.token))?;
    let json = json!({ "cluster": cluster.to_string(), "token": args.token.to_string() });
    output.print(&json, || format!("token {} is of no use any more", args.token))?;
    Ok(Code::Done)
}

fn to_json(token: &JoinToken) -> Value {
    json!({
        "token": token.id.to_string(),
        "label": token.label.as_str(),
        "created": output::moment(token.created),
        "expires": output::moment(token.expires),
        "uses": token.uses,
        "max_uses": token.max_uses,
    })
}
