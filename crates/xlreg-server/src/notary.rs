//! Signing rosters: an RSA private operation each, so one at a time, never on an async thread, and not
//! again for whoever asks next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use xlreg_core::{Cluster, ClusterId, Time};
use xlreg_proto::keys::{KeyError, PrivateKey};
use xlreg_proto::session::Identity;
use xlreg_proto::text::SignedRoster;
use xlreg_store::Clock;

/// How long a file is handed out again: it tells when it was signed, and who asks for a recent one
/// should get it.
const FRESH: Duration = Duration::from_secs(60);

/// Files that are kept, and bytes of all of them. One has some 90 KiB for 64 members with keys of
/// 2048 bits, and 300 KiB at most.
const FILES_MAX: usize = 256;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Signs rosters with the registry's sig key.
pub(crate) struct Notary {
    key: Arc<PrivateKey>,
    registry: Arc<Identity>,
    clock: Clock,
    /// Whoever holds the one permit may sign. All others wait, and find what was signed meanwhile.
    turn: Arc<Semaphore>,
    kept: Mutex<Kept>,
}

/// Why there is no signed roster.
#[derive(Debug, Error)]
pub(crate) enum NotaryError {
    /// Others had their turn first, for all the time there was.
    #[error("too many rosters are to be signed")]
    Busy,
    /// The key signs nothing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Signing broke off.
    #[error("signing a roster broke off")]
    Broke,
}

impl Notary {
    pub(crate) fn new(key: Arc<PrivateKey>, registry: Arc<Identity>, clock: Clock) -> Self {
        let (turn, kept) = (Arc::new(Semaphore::new(1)), Mutex::default());
        Self { key, registry, clock, turn, kept }
    }

    /// The signed roster of `cluster` as it is there, or as it is by now, waiting for a turn at most so
    /// long.
    pub(crate) async fn sign(
        self: &Arc<Self>,
        cluster: &Arc<Cluster>,
        at_most: Duration,
    ) -> Result<Arc<str>, NotaryError> {
        if let Some(file) = self.known(cluster) {
            return Ok(file);
        }
        let turn = timeout(at_most, Arc::clone(&self.turn).acquire_owned()).await;
        let turn = turn.map_err(|_| NotaryError::Busy)?.map_err(|_| NotaryError::Broke)?;
        if let Some(file) = self.known(cluster) {
            return Ok(file);
        }
        let (notary, cluster) = (Arc::clone(self), Arc::clone(cluster));
        let signing = spawn_blocking(move || {
            // Also if nobody waits for it any more, the next must not begin before.
            let _turn = turn;
            notary.sign_now(&cluster)
        });
        signing.await.map_err(|_| NotaryError::Broke)?
    }

    fn sign_now(&self, cluster: &Cluster) -> Result<Arc<str>, NotaryError> {
        let signed = self.clock.now();
        let roster = SignedRoster::sign(&self.registry.entry, &self.key, cluster, signed)?;
        let text: Arc<str> = roster.to_text().into();
        let (cluster, revision) = (cluster.id, cluster.revision);
        self.lock().put(File { cluster, revision, signed, text: Arc::clone(&text) });
        Ok(text)
    }

    fn known(&self, cluster: &Cluster) -> Option<Arc<str>> {
        self.lock().get(&cluster.id, cluster.revision, self.clock.now())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing under this lock panics, so a poisoned one holds sound files all the same.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that were signed lately, the latest last; one for each cluster.
#[derive(Debug, Default)]
struct Kept {
    files: VecDeque<File>,
    bytes: usize,
}

#[derive(Debug)]
struct File {
    cluster: ClusterId,
    revision: u64,
    signed: Time,
    text: Arc<str>,
}

impl Kept {
    /// A file of this revision or a later one, if it is still fresh.
    fn get(&self, cluster: &ClusterId, revision: u64, now: Time) -> Option<Arc<str>> {
        let file = self.files.iter().find(|file| file.cluster == *cluster)?;
        // By a clock that may have been set back.
        let fresh = now.since(file.signed) < FRESH && file.signed.since(now) < FRESH;
        (file.revision >= revision && fresh).then(|| Arc::clone(&file.text))
    }

    /// Keeps a file, in the place of that of the same cluster, and of the oldest ones if need be.
    fn put(&mut self, file: File) {
        let same = self.files.iter().position(|known| known.cluster == file.cluster);
        if let Some(known) = same.and_then(|place| self.files.remove(place)) {
            self.bytes -= known.text.len();
        }
        self.bytes += file.text.len();
        self.files.push_back(file);
        while self.files.len() > FILES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.files.pop_front() else { return };
            self.bytes -= oldest.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use xlreg_core::cluster::NewCluster;
    use xlreg_core::{Member, NodeId, Version};
    use xlreg_proto::text::roster::Expected;

    use super::*;

    const NOW: Time = Time::from_millis(1_800_000_000_000);

    fn file(number: u64, revision: u64, bytes: usize) -> File {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let text = "x".repeat(bytes).into();
        File { cluster: ClusterId::from_bytes(id), revision, signed: NOW, text }
    }

    fn notary(clock: &Clock) -> Arc<Notary> {
        let key = Arc::new(PrivateKey::generate().unwrap());
        let entry = Member {
            id: NodeId::from_bytes([7; 20]),
            name: "xlReg".parse().unwrap(),
            attrs: 0,
            comms_key: key.public().clone(),
            sig_key: key.public().clone(),
            endpoints: vec!["127.0.0.1:4000".parse().unwrap()],
            entry_signature: None,
        };
        let registry = Identity { version: Version::CURRENT, entry: Arc::new(entry) };
        Arc::new(Notary::new(key, Arc::new(registry), clock.clone()))
    }

    fn cluster(revision: u64) -> Arc<Cluster> {
        let new = NewCluster::open("alpha".parse().unwrap(), 2, 1);
        let cluster = Cluster::new(ClusterId::from_bytes([1; 20]), &new, None, NOW);
        Arc::new(Cluster { revision, ..cluster })
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest_of_each_cluster() {
        let mut kept = Kept::default();
        for number in 0..2 * FILES_MAX as u64 {
            kept.put(file(number, 1, 10));
            kept.put(file(number, 2, 11));
        }
        assert_eq!((kept.files.len(), kept.bytes), (FILES_MAX, FILES_MAX * 11));
        let latest = file(2 * FILES_MAX as u64 - 1, 0, 0).cluster;
        assert!(kept.get(&latest, 2, NOW).is_some() && kept.get(&latest, 1, NOW).is_some());
        assert_eq!(kept.get(&latest, 3, NOW), None);
        assert_eq!(kept.get(&file(0, 0, 0).cluster, 1, NOW), None, "pushed out");
        for number in 0..100 {
            kept.put(file(number, 1, BYTES_MAX / 10));
        }
        assert_eq!((kept.files.len(), kept.bytes), (10, BYTES_MAX / 10 * 10));
        kept.put(file(1, 1, BYTES_MAX + 1));
        assert_eq!((kept.files.len(), kept.bytes), (0, 0));
    }

    #[tokio::test]
    async fn a_file_is_signed_once_until_the_roster_changes_or_it_is_old() {
        let clock = Clock::standing(NOW);
        let notary = notary(&clock);
        let sign = async |revision| notary.sign(&cluster(revision), FRESH).await.unwrap();
        let first = sign(1).await;
        clock.advance(FRESH / 2);
        assert!(Arc::ptr_eq(&sign(1).await, &first));
        let second = sign(2).await;
        assert_ne!(second, first);
        // Who looked at the cluster before it changed gets what there is by now.
        assert!(Arc::ptr_eq(&sign(1).await, &second));
        clock.advance(FRESH);
        let third = sign(2).await;
        assert!(third.contains("signed: 2027-01-15T08:01:30Z"), "{third}");
        let expected = Expected { incomplete: true, ..Expected::default() };
        for text in [first, second, third] {
            let roster = SignedRoster::parse(text.as_bytes()).unwrap();
            assert!(roster.verify(&expected).is_good());
        }
    }

    /// However many ask at once, there is one operation, and one at a time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_asks_at_once_gets_the_same_file() {
        let notary = notary(&Clock::standing(NOW));
        let mut asking = JoinSet::new();
        for _ in 0..50 {
            let notary = Arc::clone(&notary);
            asking.spawn(async move { notary.sign(&cluster(1), FRESH).await.unwrap() });
        }
        let files = asking.join_all().await;
        assert!(files.iter().all(|file| Arc::ptr_eq(file, &files[0])));
        assert_eq!(notary.turn.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gets_no_turn_in_time_is_told_so() {
        let notary = notary(&Clock::standing(NOW));
        let turn = Arc::clone(&notary.turn).acquire_owned().await.unwrap();
        let refused = notary.sign(&cluster(1), Duration::from_secs(10)).await;
        assert!(matches!(refused, Err(NotaryError::Busy)), "{refused:?}");
        drop(turn);
        notary.sign(&cluster(1), Duration::from_secs(10)).await.unwrap();
    }
}
