//! Making keys is slow, so most pools here hold many copies of one key under different names: what
//! counts is how many files were handed out.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::*;

/// Tell a test's own child process which pool to use, and what to do; nobody else sets them.
const CHILD_POOL: &str = "XLREG_TEST_POOL";
const CHILD_DOES: &str = "XLREG_TEST_DOES";

fn any_key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate().unwrap())
}

fn key_file(pool: &KeyPool, name: &str) -> PathBuf {
    pool.dir().join(format!("{name}{KEY_SUFFIX}"))
}

/// A pool of so many files, all of one key.
fn pool_of(files: usize) -> (TempDir, KeyPool) {
    let dir = tempfile::tempdir().unwrap();
    let pool = KeyPool::open(dir.path().join("data/key-pool")).unwrap();
    for number in 0..files {
        let path = key_file(&pool, &number.to_string());
        files::replace_with(&path, any_key().pkcs1(), Mode::Private, Durability::Fleeting).unwrap();
    }
    (dir, pool)
}

fn fill(pool: &KeyPool, target: usize) -> usize {
    pool.fill(target, || false, |_, _| {}).unwrap()
}

/// All that is in the directory, drafts too.
fn entries(pool: &KeyPool) -> usize {
    fs::read_dir(pool.dir()).unwrap().count()
}

#[test]
fn what_is_filled_in_comes_out_once() {
    let (_dir, pool) = pool_of(0);
    let heard = Mutex::new(Vec::new());
    let made = pool.fill(3, || false, |there, target| lock(&heard).push((there, target))).unwrap();
    assert_eq!(*lock(&heard), [(0, 3), (1, 3), (2, 3), (3, 3)]);
    assert_eq!((made, pool.count().unwrap(), entries(&pool)), (3, 3, 3));
    assert_eq!(fill(&pool, 2), 0);
    let contents = pool.contents().unwrap();
    assert!(contents.keys == 3 && (3 * 1100..3 * 1300).contains(&contents.bytes), "{contents:?}");

    let first = pool.take(2).unwrap();
    let rest = pool.take(2).unwrap();
    assert_eq!((first.len(), rest.len(), entries(&pool)), (2, 1, 0));
    let keys = first.iter().chain(&rest);
    let different: HashSet<_> = keys.clone().map(|key| key.public().fingerprint()).collect();
    assert_eq!(different.len(), 3);
    assert!(keys.clone().all(|key| key.sign(&[b"it works"]).is_ok()));
    assert!(pool.take(1).unwrap().is_empty());
}

#[test]
fn each_key_is_handed_out_once_to_threads_that_take_at_once() {
    let (_dir, pool) = pool_of(100);
    let take = |_| {
        // A handle of its own, as another process has.
        let pool = KeyPool::open(pool.dir()).unwrap();
        let takes = std::iter::repeat_with(move || pool.take(3).unwrap().len());
        takes.take_while(|taken| *taken > 0).sum::<usize>()
    };
    let taken: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|id| scope.spawn(move || take(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((taken, entries(&pool)), (100, 0));
}

#[test]
fn clearing_and_taking_at_once_share_the_keys() {
    let (_dir, pool) = pool_of(60);
    let (cleared, taken) = thread::scope(|scope| {
        let taker = scope.spawn(|| pool.take(60).unwrap().len());
        (pool.clear().unwrap(), taker.join().unwrap())
    });
    assert_eq!((cleared + taken, entries(&pool)), (60, 0));
}

#[test]
fn what_is_no_key_is_removed_and_skipped() {
    let (_dir, pool) = pool_of(2);
    let key = any_key().pkcs1();
    let bad: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"this is no key"),
        ("half", &key[..key.len() / 2]),
        ("long", &[key, &[0; KEY_FILE_BYTES_MAX]].concat()),
        ("damaged", &[&key[..600], &[key[600] ^ 1], &key[601..]].concat()),
    ];
    for (name, content) in bad {
        files::replace(&key_file(&pool, name), content, Mode::Private).unwrap();
    }
    assert_eq!(pool.count().unwrap(), 7);
    assert_eq!(pool.take(7).unwrap().len(), 2);
    assert_eq!(entries(&pool), 0);
}

#[test]
fn what_is_not_the_pools_stays_as_it_is() {
    let (_dir, pool) = pool_of(1);
    fs::write(pool.dir().join("README"), "hands off").unwrap();
    fs::create_dir(key_file(&pool, "directory")).unwrap();
    fs::write(pool.dir().join(".0.der.draft"), "a filler is at work").unwrap();
    assert_eq!(pool.count().unwrap(), 1);
    assert_eq!(KeyPool::open(pool.dir()).unwrap().clear().unwrap(), 1);
    assert_eq!(entries(&pool), 3);
}

#[test]
fn drafts_of_the_killed_are_removed_when_the_pool_is_opened() {
    let (_dir, pool) = pool_of(1);
    let draft = File::create(pool.dir().join(".0.der.draft")).unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    draft.set_modified(long_ago).unwrap();
    let pool = KeyPool::open(pool.dir()).unwrap();
    assert_eq!((entries(&pool), pool.count().unwrap()), (1, 1));
}

#[cfg(unix)]
#[test]
fn what_others_may_read_is_never_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, pool) = pool_of(3);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fill(&pool, 4);
    assert_eq!(mode(pool.dir()), 0o700);
    assert!(pool.files().unwrap().iter().all(|path| mode(path) == 0o600));

    set(&key_file(&pool, "0"), 0o640);
    set(&key_file(&pool, "1"), 0o604);
    assert_eq!(pool.take(4).unwrap().len(), 2);
    assert_eq!(entries(&pool), 0);

    set(pool.dir(), 0o755);
    let refused = KeyPool::open(pool.dir()).unwrap_err().to_string();
    assert!(refused.contains("755") && refused.contains("chmod 700"), "{refused}");
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [file.clone(), file.join("below")] {
        let error = KeyPool::open(&place).unwrap_err().to_string();
        assert!(error.contains(&place.display().to_string()), "{error}");
    }
    let (_dir, pool) = pool_of(1);
    fs::remove_dir_all(pool.dir()).unwrap();
    assert!(matches!(pool.take(1), Err(PoolError::File { .. })));
    assert!(matches!(pool.fill(1, || false, |_, _| {}), Err(PoolError::File { .. })));
    assert!(matches!(pool.count(), Err(PoolError::File { .. })));
}

#[test]
fn fillers_at_once_overshoot_by_a_key_a_thread_at_most() {
    let (_dir, pool) = pool_of(8);
    let made: usize = thread::scope(|scope| {
        let fillers: Vec<_> = (0..3).map(|_| scope.spawn(|| fill(&pool, 10))).collect();
        fillers.into_iter().map(|filler| filler.join().unwrap()).sum()
    });
    let count = pool.count().unwrap();
    assert_eq!(count, 8 + made);
    assert!((10..10 + 3 * cores()).contains(&count), "{count}");
}

#[test]
fn a_pool_is_never_filled_beyond_its_bound() {
    let (_dir, pool) = pool_of(KEYS_MAX);
    assert_eq!(fill(&pool, usize::MAX), 0);
    let bounds = [(0, 0), (0, 6), (0, 130), (200, 6), (5000, 6)].map(|(b, n)| refill_target(b, n));
    assert_eq!(bounds, [32, 32, 130, 200, 1024]);
}

#[test]
fn filling_stops_when_told_and_keeps_what_was_made() {
    let (_dir, pool) = pool_of(0);
    let stop = AtomicBool::new(false);
    let stop_after_one = |there, _| stop.store(there > 0, Ordering::Relaxed);
    let made = pool.fill(100, || stop.load(Ordering::Relaxed), stop_after_one).unwrap();
    assert!((1..=cores()).contains(&made), "{made}");
    assert_eq!(pool.count().unwrap(), made);
    assert_eq!(pool.fill(100, || true, |_, _| {}).unwrap(), 0);
}

#[test]
fn keys_come_from_the_pool_first_and_the_rest_are_new() {
    let (_dir, pool) = pool_of(2);
    let heard = Mutex::new(Vec::new());
    let progress = |done, n| lock(&heard).push((done, n));
    let made = crate::make_keys(3, Some(&pool), || false, progress).unwrap();
    assert_eq!((made.keys.len(), made.pooled, pool.count().unwrap()), (3, 2, 0));
    assert_eq!(*lock(&heard), [(2, 3), (3, 3)]);
    // A pool that has gone is no reason to have no keys.
    fs::remove_dir_all(pool.dir()).unwrap();
    let made = crate::make_keys(1, Some(&pool), || false, |_, _| {}).unwrap();
    assert_eq!((made.keys.len(), made.pooled), (1, 0));
}

#[test]
fn a_refill_ends_when_the_pool_is_full_or_its_handle_is_gone() {
    let (_dir, pool) = pool_of(1);
    assert_eq!(pool.refill_in_background(2).unwrap().join().unwrap(), 1);
    assert_eq!(pool.count().unwrap(), 2);
    let mut refill = pool.refill_in_background(KEYS_MAX).unwrap();
    let thread = refill.thread.take().unwrap();
    drop(refill);
    assert!(thread.join().unwrap().unwrap() <= 1);
}

#[cfg(target_os = "linux")]
#[test]
fn giving_way_is_for_that_thread_alone() {
    let priority = || rustix::process::getpriority_process(None).unwrap();
    let before = priority();
    let lowered = thread::spawn(move || {
        give_way();
        priority()
    });
    assert_eq!((lowered.join().unwrap(), priority()), (19, before));
}

/// What the child processes of the tests below do; by itself it does nothing.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(CHILD_POOL) else { return };
    let pool = KeyPool::open(dir).unwrap();
    match std::env::var(CHILD_DOES).unwrap().as_str() {
        "take" => while take_one(&pool) > 0 {},
        "fill" => {
            pool.fill(KEYS_MAX, || false, |there, _| println!("child: {there}")).unwrap();
        }
        _ => {
            let _refill = pool.refill_in_background(KEYS_MAX).unwrap();
            // So that the thread is surely at work, in the midst of a key.
            while pool.count().unwrap() == 0 {
                thread::yield_now();
            }
            std::process::exit(0);
        }
    }
}

fn take_one(pool: &KeyPool) -> usize {
    let taken = pool.take(1).unwrap().len();
    println!("child: {taken}");
    taken
}

/// A process of its own: it fills the pool, or takes key by key until it is empty, or starts to
/// refill it and ends.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(pool: &KeyPool, does: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pool::tests::child_process", "--nocapture"])
            .env(CHILD_POOL, pool.dir())
            .env(CHILD_DOES, does)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The number it says next, if it says any more.
    fn next(&mut self) -> Option<usize> {
        let mut said = self.lines.by_ref().map(Result::unwrap);
        // The test harness has not ended its own line yet when the child says its first.
        said.find_map(|line| Some(line.split_once("child: ")?.1.parse().unwrap()))
    }

    /// Kills it (-9), and adds up what it has said and not been heard of.
    fn kill(mut self) -> usize {
        self.child.kill().unwrap();
        self.finish()
    }

    fn finish(mut self) -> usize {
        let said = std::iter::from_fn(|| self.next()).sum();
        self.child.wait().unwrap();
        said
    }
}

#[test]
fn each_key_is_handed_out_once_to_processes_that_take_at_once() {
    let (_dir, pool) = pool_of(60);
    let takers: Vec<_> = (0..4).map(|_| Process::start(&pool, "take")).collect();
    let taken: usize = takers.into_iter().map(Process::finish).sum();
    assert_eq!((taken, entries(&pool)), (60, 0));
}

#[test]
fn a_taker_that_is_killed_costs_at_most_the_key_it_had_in_hand() {
    let (_dir, pool) = pool_of(200);
    let mut taker = Process::start(&pool, "take");
    let first = taker.next().unwrap();
    let taken = first + taker.kill();
    let rest = pool.take(200).unwrap().len();
    assert!((199..=200).contains(&(taken + rest)), "{taken} and {rest}");
    assert_eq!(entries(&pool), 0);
}

#[test]
fn a_filler_that_is_killed_leaves_whole_keys_only() {
    let (_dir, pool) = pool_of(0);
    let mut filler = Process::start(&pool, "fill");
    let first = std::iter::from_fn(|| filler.next()).find(|there| *there > 0);
    filler.kill();
    assert!(first.is_some());
    let count = pool.count().unwrap();
    assert!(count > 0);
    let pool = KeyPool::open(pool.dir()).unwrap();
    assert_eq!(pool.take(count).unwrap().len(), count);
    assert_eq!(fill(&pool, 1), 1);
}

/// Were the end to wait for the pool to be full, it would take minutes and leave many keys.
#[test]
fn a_process_that_refills_may_end_at_once() {
    let (_dir, pool) = pool_of(0);
    Process::start(&pool, "refill").finish();
    assert!((1..=3).contains(&pool.count().unwrap()));
}
