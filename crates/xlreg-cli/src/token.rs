//! `xlreg token`: secrets that let others into a cluster.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use xlreg::{JoinToken, NewToken, Policy, TokenId};

use crate::connect::duration;
use crate::exit::Code;
use crate::invite::Handing;
use crate::output::{self, Output};
use crate::target::{Found, Which};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Issue a token, and print the line that joins with it; its secret is shown only this once
    Create(CreateArgs),
    /// List a cluster's tokens: how often each was used, and until when it is good
    List(ListArgs),
    /// Make a token useless; members that joined with it stay
    Revoke(RevokeArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:
  xlreg token create alpha --registry regCred.dat
  xlreg token create alpha --token-uses 1 --token-ttl 10m --invitation-file bob.txt")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    terms: Terms,
    /// What to know it by in the list: at most 64 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    #[command(flatten)]
    handing: Handing,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

/// How long and how often a token is good.
#[derive(Args, Clone, Copy)]
pub(crate) struct Terms {
    /// How long the token can be used: 1s to 366 days [default: 1day]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) token_ttl: Option<Duration>,
    /// How many members may join with the token [default: as many as the cluster is for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) token_uses: Option<u32>,
}

impl Terms {
    /// What to issue.
    pub(crate) fn token(self, label: &str) -> NewToken {
        let max_uses = self.token_uses.unwrap_or(0);
        NewToken { ttl: self.token_ttl, max_uses, label: label.to_owned() }
    }

    /// Whether anything is said.
    pub(crate) fn are_given(self) -> bool {
        self.token_ttl.is_some() || self.token_uses.is_some()
    }
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    which: Which,
    /// The token's ID, as the list shows it: 8 hex digits
    #[arg(value_parser = token_id, value_name = "TOKEN")]
    token: TokenId,
    #[command(flatten)]
    output: Output,
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
    let Found { registry, identity, cluster } = args.which.find().await?;
    args.handing.check()?;
    let doing = || format!("issuing a token for cluster {cluster}");
    let issued = registry.create_token(&identity, &cluster, &args.terms.token(&args.label)).await;
    let (secret, token) = issued.with_context(doing)?;
    let shown = registry.show(&identity, &cluster).await.with_context(doing)?;
    let handed = args.handing.hand_over(&registry.invitation(&cluster, Some(&secret))?)?;
    let told = (!handed.is_file()).then(|| secret.as_str());
    let json = json!({ "cluster": cluster.to_string(), "secret": told });
    let json = output::merged([to_json(&token), json, handed.to_json()]);
    args.output.print(&json, || match told {
        Some(secret) => format!("{}\nits secret is {secret}", title(&token)),
        None => title(&token),
    })?;
    handed.say(shown.endpoint_count, args.output);
    let policy = shown.about().map(|about| &about.policy);
    if args.output.is_human() && policy.is_some_and(|policy| *policy != Policy::Token) {
        output::note("nobody needs it: this cluster was not made with --policy token");
    }
    Ok(Code::Done)
}

/// A new token in a line.
pub(crate) fn title(token: &JoinToken) -> String {
    let members = if token.max_uses == 1 { "member" } else { "members" };
    let until = output::moment(token.expires);
    format!("token {} for {} {members}, until {until}", token.id, token.max_uses)
}

async fn list(args: &ListArgs) -> anyhow::Result<Code> {
    let Found { registry, identity, cluster } = args.which.find().await?;
    let tokens = registry.list_tokens(&identity, &cluster).await;
    let tokens = tokens.with_context(|| format!("listing the tokens of cluster {cluster}"))?;
    let json = Value::Array(tokens.iter().map(to_json).collect());
    args.output.print(&json, || {
        if tokens.is_empty() {
            return format!("cluster {cluster} has no tokens");
        }
        let rows = tokens.iter().map(|token| {
            vec![
                token.id.to_string(),
                format!("{} of {}", token.uses, token.max_uses),
                output::moment(token.expires),
                state(token).to_owned(),
                token.label.as_str().to_owned(),
            ]
        });
        output::table(&["TOKEN", "USED", "EXPIRES", "STATE", "LABEL"], rows)
    })?;
    Ok(Code::Done)
}

async fn revoke(args: &RevokeArgs) -> anyhow::Result<Code> {
    let Found { registry, identity, cluster } = args.which.find().await?;
    let revoked = registry.revoke_token(&identity, &cluster, &args.token).await;
    revoked.with_context(|| format!("revoking token {} of cluster {cluster}", args.token))?;
    let json = json!({ "cluster": cluster.to_string(), "token": args.token.to_string() });
    args.output.print(&json, || format!("token {} is of no use any more", args.token))?;
    Ok(Code::Done)
}

/// Whether it still lets anybody in, by this machine's clock.
fn state(token: &JoinToken) -> &'static str {
    if token.uses >= token.max_uses {
        "used up"
    } else if SystemTime::now() >= SystemTime::from(token.expires) {
        "expired"
    } else {
        "good"
    }
}

fn to_json(token: &JoinToken) -> Value {
    json!({
        "token": token.id.to_string(),
        "label": token.label.as_str(),
        "created": output::moment(token.created),
        "expires": output::moment(token.expires),
        "state": state(token),
        "uses": token.uses,
        "max_uses": token.max_uses,
    })
}
