//! A registry that comes, goes away and comes back.

use xlreg::testing::TestRegistry;
use xlreg::{ClusterKey, Endpoint, Error, Identity, NewCluster, Registry};

use crate::support::{ENOUGH, listens, nobody_listens};

fn alpha(size: u32) -> NewCluster {
    NewCluster::open("alpha".parse().unwrap(), size, 1)
}

fn endpoint(port: u16) -> Vec<Endpoint> {
    vec![format!("127.0.0.1:{port}").parse().unwrap()]
}

/// Members as their programs would be, who know no more than the credentials' file.
#[tokio::test]
async fn members_meet_at_it() {
    let here = TestRegistry::start().await.unwrap();
    let there = TestRegistry::start().await.unwrap();
    let a = Identity::generate("a".parse().unwrap()).await.unwrap();
    let b = Identity::generate("b".parse().unwrap()).await.unwrap();
    let registry = Registry::open(here.credentials_file()).unwrap();
    registry.create(&a, &alpha(2)).await.unwrap();
    let key = ClusterKey::Name("alpha".parse().unwrap());
    let mut one = registry.join(&a, &key, endpoint(4001)).await.unwrap();

    // Gone for a while, it forgets nothing, and is where it was.
    here.stop().await.unwrap();
    here.stop().await.unwrap();
    let error = registry.describe().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(!listens(here.address()));
    here.restart().await.unwrap();
    let mut other = here.registry().join(&b, &key, endpoint(4002)).await.unwrap();
    let roster = other.wait(ENOUGH).await.unwrap();
    assert_eq!(one.wait(ENOUGH).await.unwrap(), roster);
    here.restart().await.unwrap();
    assert_eq!(here.registry().show(&b, &key).await.unwrap(), roster);

    let unknown = there.registry().show(&b, &key).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused { .. }), "{unknown}");
}

#[tokio::test]
async fn dropped_it_is_gone() {
    let registry = TestRegistry::start().await.unwrap();
    let (address, file) = (registry.address(), registry.credentials_file().to_owned());
    assert!(listens(address) && file.exists());
    drop(registry);
    assert!(nobody_listens(address) && !file.exists());
}
