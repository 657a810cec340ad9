//! Members who join, by both doors, and how long it takes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;
use xlreg::{ClusterKey, Credentials, Dialect, Identity, NewCluster, Registry};

/// Members at each door.
const MEMBERS: usize = 2;

/// Between two joins of one member.
const PAUSE: Duration = Duration::from_millis(25);

pub(crate) struct Honest {
    runtime: Runtime,
    doors: [Registry; 2],
    identities: Vec<Identity>,
}

/// How long joins took, by door, each sorted.
pub(crate) struct Joins([Vec<Duration>; 2]);

impl Honest {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        let runtime = Runtime::new().unwrap();
        let modern = Registry::new(credentials.clone());
        let doors = [modern.clone(), modern.with_dialect(Dialect::V1_9)];
        let make =
            |number| runtime.block_on(Identity::generate(format!("m{number}").parse().unwrap()));
        let identities = (0..2 * MEMBERS).map(|number| make(number).unwrap()).collect();
        Self { runtime, doors, identities }
    }

    /// Joins until the time is over. Each time it is a new cluster; only the join is timed.
    pub(crate) fn join_for(&self, span: Duration) -> Joins {
        let until = Instant::now() + span;
        let mut members = JoinSet::new();
        for (number, identity) in self.identities.iter().enumerate() {
            let (own, door) = (self.doors[0].clone(), self.doors[number % 2].clone());
            let identity = identity.clone();
            members.spawn_on(
                async move { (number % 2, join_until(&own, &door, &identity, until).await) },
                self.runtime.handle(),
            );
        }
        let mut joins = [Vec::new(), Vec::new()];
        for (door, mut took) in self.runtime.block_on(members.join_all()) {
            joins[door].append(&mut took);
        }
        joins.iter_mut().for_each(|joins| joins.sort());
        Joins(joins)
    }
}

async fn join_until(
    own: &Registry,
    door: &Registry,
    identity: &Identity,
    until: Instant,
) -> Vec<Duration> {
    let mut took = Vec::new();
    let name: Arc<str> = format!("of_{}", identity.name()).into();
    while Instant::now() < until {
        let new = NewCluster::open(name.parse().unwrap(), 2, 1);
        let key = ClusterKey::Name(new.name.clone());
        own.create(identity, &new).await.unwrap();
        let endpoints = vec!["127.0.0.1:4001".parse().unwrap()];
        let began = Instant::now();
        let membership = door.join(identity, &key, endpoints).await.unwrap();
        took.push(began.elapsed());
        membership.close().await;
        own.delete(identity, &key).await.unwrap();
        sleep(PAUSE).await;
    }
    took
}

impl Joins {
    pub(crate) fn tell(&self, label: &str, quiet: &Self) {
        for (door, name) in ["modern", "old"].into_iter().enumerate() {
            let (own, quiet) = (&self.0[door], &quiet.0[door]);
            let ms = |share| at(own, share).as_secs_f64() * 1e3;
            println!(
                "{label:<7} {name:<7} door: {:>5} joins, p50 {:>7.1} ms, p99 {:>7.1} ms, worst {:>7.1} ms; \
                 p99 is {:.1} times that of before",
                own.len(),
                ms(0.5),
                ms(0.99),
                ms(1.0),
                at(own, 0.99).as_secs_f64() / at(quiet, 0.99).as_secs_f64(),
            );
        }
    }
}

fn at(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
