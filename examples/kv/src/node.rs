//! A member: answers requests, and coordinates those of clients.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::store::{Entry, Store, Version};
use crate::{Config, ask};

/// How long a member waits for another's answer. One that is paused takes connections and says
/// nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before asking again for what was missed, while there is no majority.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of the longest request.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// A member. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    config: Arc<Config>,
    store: Arc<Mutex<Store>>,
    /// Held while a `SET` is coordinated: two at once would give two values the same version.
    setting: Arc<tokio::sync::Mutex<()>>,
}

impl Node {
    /// A member with what it had kept in its directory.
    ///
    /// # Errors
    /// If that can't be read.
    pub fn open(config: Config) -> io::Result<Self> {
        let store = Arc::new(Mutex::new(Store::open(&config.dir)?));
        Ok(Self { config: Arc::new(config), store, setting: Arc::default() })
    }

    /// Answers requests, until the listener fails.
    ///
    /// # Errors
    /// What the network says.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            let node = self.clone();
            tokio::spawn(async move {
                // Whoever hung up does not want to know.
                let _hung_up = node.converse(stream).await;
            });
        }
    }

    /// Takes in what was missed while this member was away, for as long as it takes to find a
    /// majority. Its answers are right before as well, since a majority has a say in each; but what
    /// it has itself, it need not ask others for, and it can stand in for them when they are away.
    ///
    /// # Errors
    /// If what others have can't be understood or kept.
    pub async fn catch_up(&self) -> io::Result<()> {
        loop {
            if let Ok(dumps) = self.ask_majority("DUMP").await {
                for line in dumps.iter().flat_map(|dump| dump.lines()) {
                    self.put(line.parse()?).await?;
                }
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let (read, mut write) = stream.split();
        let mut request = String::new();
        BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut request).await?;
        let answered = self.answer(request.trim_end_matches(['\r', '\n'])).await;
        let answer = answered.unwrap_or_else(|error| format!("ERR {error}"));
        write.write_all(format!("{answer}\n").as_bytes()).await
    }

    async fn answer(&self, request: &str) -> io::Result<String> {
        let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
        match verb {
            "SET" => {
                let (key, value) = rest.split_once(' ').ok_or_else(|| unknown(request))?;
                self.set(key, value).await.map(|()| "OK".to_owned())
            }
            "GET" => Ok(match self.get(rest).await? {
                Some(entry) => format!("VALUE {}", entry.value),
                None => "NONE".to_owned(),
            }),
            "READ" => Ok(self.store().get(rest).map(Entry::to_string).unwrap_or_default()),
            "WRITE" => self.put(rest.parse()?).await.map(|()| "OK".to_owned()),
            "DUMP" => {
                let entries: Vec<_> = self.store().entries().map(Entry::to_string).collect();
                Ok(entries.join("\n"))
            }
            _ => Err(unknown(request)),
        }
    }

    /// Gives a key a new value: newer than what a majority knows, and then known to a majority.
    async fn set(&self, key: &str, value: &str) -> io::Result<()> {
        let _one_at_a_time = self.setting.lock().await;
        let known = self.read(key).await?;
        let newest = known.iter().flatten().map(|entry| entry.version.count).max();
        let version = Version { count: newest.unwrap_or(0) + 1, rank: self.config.rank };
        self.write(Entry { version, key: key.to_owned(), value: value.to_owned() }).await
    }

    /// The newest value that a majority knows of. If some don't have it yet, they get it before
    /// anybody hears of it: the next who asks may ask those only.
    async fn get(&self, key: &str) -> io::Result<Option<Entry>> {
        let known = self.read(key).await?;
        let newest = known.iter().flatten().max_by_key(|entry| entry.version).cloned();
        if let Some(newest) = &newest
            && known.iter().any(|entry| entry.as_ref() != Some(newest))
        {
            self.write(newest.clone()).await?;
        }
        Ok(newest)
    }

    /// What a majority has for a key, this member included.
    async fn read(&self, key: &str) -> io::Result<Vec<Option<Entry>>> {
        let answers = self.ask_majority(&format!("READ {key}")).await?;
        let parse = |answer: &String| (!answer.is_empty()).then(|| answer.parse()).transpose();
        let mut known = answers.iter().map(parse).collect::<io::Result<Vec<_>>>()?;
        known.push(self.store().get(key).cloned());
        Ok(known)
    }

    /// Has a majority keep an entry, this member first: after a crash amid this, it must not give
    /// the same version to another value.
    async fn write(&self, entry: Entry) -> io::Result<()> {
        self.put(entry.clone()).await?;
        self.ask_majority(&format!("WRITE {entry}")).await.map(drop)
    }

    /// Asks all others, and returns the first answers that make a majority together with this
    /// member. The rest are asked all the same, but not waited for.
    async fn ask_majority(&self, request: &str) -> io::Result<Vec<String>> {
        let Config { members, rank, .. } = &*self.config;
        let mut asking = JoinSet::new();
        for (_, address) in members.iter().enumerate().filter(|(peer, _)| peer != rank) {
            let (address, request) = (address.clone(), request.to_owned());
            asking.spawn(async move { timeout(PATIENCE, ask(&address, &request)).await });
        }
        let needed = members.len() / 2;
        let mut answers = Vec::new();
        while answers.len() < needed {
            match asking.join_next().await {
                Some(Ok(Ok(Ok(answer)))) if !answer.starts_with("ERR ") => answers.push(answer),
                Some(_) => {}
                None => {
                    let (here, all) = (answers.len() + 1, members.len());
                    return Err(io::Error::other(format!("{here} of {all} members answer")));
                }
            }
        }
        asking.detach_all();
        Ok(answers)
    }

    /// Takes an entry into this member's own copy.
    async fn put(&self, entry: Entry) -> io::Result<()> {
        let node = self.clone();
        // It waits for the disk.
        spawn_blocking(move || node.store().put(entry)).await?
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(request: &str) -> io::Error {
    io::Error::other(format!("{request:?} is no request; there are SET key value, and GET key"))
}
