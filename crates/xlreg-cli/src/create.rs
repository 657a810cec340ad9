//! `xlreg cluster create`: define a cluster, and say how others join it.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::json;
use xlreg::{
    Cluster, ClusterKey, Error, Fingerprint, Identity, Lifetime, Name, NewCluster, Policy,
    Registry, Wire,
};
use xlreg_core::admission::Life;

use crate::connect::{AsWhom, Connect, cluster_key, duration, shell_word};
use crate::exit::{Code, Ending};
use crate::invite::Handing;
use crate::output::{self, Output};
use crate::token::{self, Terms};

#[derive(Args)]
#[command(after_help = "Examples:
  xlreg cluster create alpha --size 3 --registry /var/lib/xlreg/regCred.dat
  xlreg cluster create beta --size 5 --policy token --ttl 1h --registry regCred.dat")]
pub(crate) struct CreateArgs {
    /// Its name: a letter or '_', then letters, digits and '_'
    #[arg(value_parser = new_name)]
    name: Name,
    /// How many members it is for: 2 to 64
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(2..=64))]
    size: u32,
    /// How many endpoints each member must bring: 2 if others than members connect to it
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=2))]
    endpoints: u32,
    /// Who may join: anybody who reaches the registry, who has a token, or the holders of the keys
    /// that --allow names
    #[arg(long, value_enum, default_value = "open")]
    policy: PolicyFlag,
    /// A sig key that may join: the sig_key_sha256 that `xlreg id show` tells; repeat it for each
    #[arg(long, value_name = "SHA256", required_if_eq("policy", "keys"))]
    allow: Vec<Fingerprint>,
    #[command(flatten)]
    lifetime: LifetimeArgs,
    #[command(flatten)]
    token: Terms,
    #[command(flatten)]
    handing: Handing,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    who: AsWhom,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PolicyFlag {
    Open,
    Token,
    Keys,
}

/// How long the cluster lives [default: until it is deleted].
#[derive(Args, Clone, Copy)]
struct LifetimeArgs {
    /// It must be full within this time, or it is deleted
    #[arg(long, value_name = "TIME", value_parser = duration)]
    fill_within: Option<Duration>,
    /// It is deleted after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// It is deleted when nothing has changed in it and nobody has watched it for this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
}

/// A name that nobody could take for an ID.
fn new_name(text: &str) -> Result<Name, String> {
    match cluster_key(text)? {
        ClusterKey::Name(name) => Ok(name),
        ClusterKey::Id(_) => Err("40 hex digits are taken for a cluster's ID".to_owned()),
    }
}

impl CreateArgs {
    /// What the flags ask for.
    fn cluster(&self) -> anyhow::Result<NewCluster> {
        let policy = match self.policy {
            PolicyFlag::Open => Policy::Open,
            PolicyFlag::Token => Policy::Token,
            PolicyFlag::Keys => Policy::Keys(self.allow.iter().copied().collect()),
        };
        if self.policy != PolicyFlag::Keys && !self.allow.is_empty() {
            return Err(Ending::new(Code::Usage, "--allow goes with --policy keys").into());
        }
        // Who says how long a token lasts does not want a cluster that is open.
        if self.policy != PolicyFlag::Token && self.token.are_given() {
            let message = "--token-ttl and --token-uses go with --policy token";
            return Err(Ending::new(Code::Usage, message).into());
        }
        let LifetimeArgs { fill_within, ttl, idle } = self.lifetime;
        let lifetime = Lifetime { fill_within, ttl, idle, with_owner: false };
        let plain = NewCluster::open(self.name.clone(), self.size, self.endpoints);
        Ok(NewCluster { policy, lifetime, ..plain })
    }
}

pub(crate) async fn create(args: &CreateArgs) -> anyhow::Result<Code> {
    let new = args.cluster()?;
    args.handing.check()?;
    let registry = args.connect.registry()?;
    let identity = args.who.identity().await?;
    let doing = || format!("creating cluster {}", new.name);
    let made = registry.create(&identity, &new).await.with_context(doing)?;
    Error::unless_as_asked(&new, &made)?;
    unless_anothers(&new, &made, identity.sig_key().fingerprint())?;
    if registry.wire() == Wire::V2 {
        hand_out(args, &registry, &identity, &new, &made).await.with_context(doing)?;
    } else {
        args.output.print(&output::summary(&made), || title(&made))?;
        if args.output.is_human() {
            let endpoints = " --endpoint HOST:PORT".repeat(made.endpoint_count as usize);
            let credentials = shell_word(&args.connect.path());
            output::note(&format!(
                "next, for each member: xlreg join {} --registry {credentials}{endpoints}",
                new.name
            ));
        }
    }
    Ok(Code::Done)
}

/// Tells of the cluster, and invites to it. A token goes along, so that one line is all that other
/// machines need.
async fn hand_out(
    args: &CreateArgs,
    registry: &Registry,
    identity: &Identity,
    new: &NewCluster,
    made: &Cluster,
) -> anyhow::Result<()> {
    if args.output.is_human()
        && let Some(remark) = remark(new, made, identity.sig_key().fingerprint())
    {
        output::note(&remark);
    }
    let key = ClusterKey::Name(new.name.clone());
    let token = match new.policy {
        Policy::Token => Some(registry.create_token(identity, &key, &args.token.token("")).await?),
        Policy::Open | Policy::Keys(_) => None,
    };
    let (secret, token) = token.unzip();
    let invitation = registry.invitation(&key, secret.as_ref())?;
    let handed = args.handing.hand_over(&invitation)?;
    let json = json!({ "token": token.as_ref().map(|token| token.id.to_string()) });
    let json = output::merged([output::summary(made), json, handed.to_json()]);
    args.output.print(&json, || {
        let token = token.as_ref().map(|token| format!("\n{}", token::title(token)));
        format!("{}{}", title(made), token.unwrap_or_default())
    })?;
    handed.say(made.endpoint_count, args.output);
    Ok(())
}

fn title(made: &Cluster) -> String {
    let Cluster { name, id, size, .. } = made;
    let lifetime = output::lifetime(&made.life).map(|lifetime| format!(", {lifetime}"));
    format!("cluster {name} ({id}) for {size} members{}", lifetime.unwrap_or_default())
}

/// Who may join a cluster is its owner's to say. One of somebody else's that was there already is not
/// what was asked for, unless anybody may join either.
fn unless_anothers(new: &NewCluster, made: &Cluster, me: Fingerprint) -> Result<(), Ending> {
    match made.owner.filter(|owner| *owner != me && new.policy != Policy::Open) {
        Some(owner) => Err(Ending::new(
            Code::Conflict,
            format!(
                "cluster {} was there already, and is another's: the holder of sig key sha256 {owner} says \
                 who may join it; take another name",
                new.name
            ),
        )),
        None => Ok(()),
    }
}

/// What a user should know of a cluster that was there already, if it is not as it was asked for.
fn remark(new: &NewCluster, made: &Cluster, me: Fingerprint) -> Option<String> {
    if let Some(owner) = made.owner.filter(|owner| *owner != me) {
        return Some(format!(
            "cluster {} was there already, and is another's: the holder of sig key sha256 {owner} \
             can delete it, you can't",
            new.name
        ));
    }
    if let (Policy::Keys(asked), Policy::Keys(kept)) = (&new.policy, &made.policy)
        && asked != kept
    {
        return Some(format!(
            "cluster {} was there already, and the keys that may join it stay as they were; delete it \
             first to name others",
            new.name
        ));
    }
    let mut asked = Life::new(&new.lifetime, made.life.created);
    // Once it has been full, that is over.
    asked.fill_by = asked.fill_by.and(made.life.fill_by);
    (asked != made.life).then(|| {
        format!("cluster {} was there already, and its lifetime stays as it was", new.name)
    })
}

#[cfg(test)]
mod tests {
    use xlreg_core::{ClusterId, Time};

    use super::*;

    /// It might let in anybody, whatever was asked for.
    #[test]
    fn a_cluster_of_anothers_that_not_everybody_may_join_is_refused() {
        let (me, other) = (Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]));
        let open = NewCluster::open("alpha".parse().unwrap(), 3, 1);
        for policy in [Policy::Open, Policy::Token, Policy::Keys([me].into())] {
            let new = NewCluster { policy: policy.clone(), ..open.clone() };
            let made = |owner| {
                Cluster::new(ClusterId::from_bytes([0; 20]), &new, Some(owner), Time::default())
            };
            assert!(unless_anothers(&new, &made(me), me).is_ok());
            let anothers = unless_anothers(&new, &made(other), me);
            assert_eq!(anothers.is_ok(), policy == Policy::Open);
        }
    }

    /// A cluster that was there already need not be what was asked for.
    #[test]
    fn what_is_not_as_it_was_asked_for_is_said() {
        let me = Fingerprint::from_bytes([1; 32]);
        let mut new = NewCluster::open("alpha".parse().unwrap(), 3, 1);
        let made = |new: &NewCluster, owner| {
            let created = Time::from_millis(1_000_000);
            Cluster::new(ClusterId::from_bytes([0; 20]), new, Some(owner), created)
        };
        assert_eq!(remark(&new, &made(&new, me), me), None);
        let other = Fingerprint::from_bytes([2; 32]);
        assert!(remark(&new, &made(&new, other), me).unwrap().contains("another's"));

        let listed = NewCluster { policy: Policy::Keys([me].into()), ..new.clone() };
        assert_eq!(remark(&listed, &made(&listed, me), me), None);
        let others = NewCluster { policy: Policy::Keys([other].into()), ..new.clone() };
        assert!(remark(&listed, &made(&others, me), me).unwrap().contains("stay as they were"));

        let lasting = made(&new, me);
        new.lifetime.ttl = Some(Duration::from_secs(60));
        new.lifetime.fill_within = Some(Duration::from_secs(10));
        let mut brief = made(&new, me);
        assert_eq!(remark(&new, &brief, me), None);
        brief.life.fill_by = None;
        assert_eq!(remark(&new, &brief, me), None, "it has been full meanwhile");
        assert!(remark(&new, &lasting, me).unwrap().contains("lifetime stays"));
    }
}
