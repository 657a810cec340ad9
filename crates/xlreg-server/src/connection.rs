//! One client, from its hello to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use xlreg_core::{Cluster, Command, Member, Outcome, Refusal};
use xlreg_proto::channel::{BLOCK_BYTES, Channel, Dialect, MESSAGE_BYTES_MAX, TooLong};
use xlreg_proto::hello::{Hello, HelloError, Secrets};
use xlreg_proto::keys::random;
use xlreg_proto::message::Reply;
use xlreg_proto::session::{End, Identity, Session, Showing, Step};
use xlreg_proto::wire::XlRegMsg;
use xlreg_store::{ApplyError, Engine};

use crate::config::Connections;
use crate::pool::Pool;
use crate::rates::Rates;
use crate::surroundings::Surroundings;

/// Bytes read at once. Requests of deployed clients fit; larger ones take several reads.
const READ_BYTES: usize = 2 * 1024;

/// Bytes of a message that are heard, whatever becomes of it: the longest there may be, an IV, and
/// enough to show that it is longer. The rest stays unread, since a close looks different by that.
const HEARD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 2 * BLOCK_BYTES;

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) pool: Pool,
    pub(crate) identity: Arc<Identity>,
    /// Bytes in a hello: one block of the registry's comms key.
    pub(crate) hello_bytes: usize,
    pub(crate) bounds: Connections,
    /// Asks sessions to end at their next safe point.
    pub(crate) stop: CancellationToken,
    pub(crate) around: Surroundings,
    /// Requests of each address, by both doors together.
    pub(crate) request_rates: Arc<Rates<IpAddr>>,
    /// New IDs for each address, likewise.
    pub(crate) registration_rates: Arc<Rates<IpAddr>>,
}

/// What a session did, for the log.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) dialect: Option<Dialect>,
    /// Who it is, once proven.
    pub(crate) member: Option<Arc<Member>>,
    /// Requests answered.
    pub(crate) requests: u32,
    /// What it created or joined, and with which rank.
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) rank: Option<usize>,
}

/// Why a connection closed.
#[derive(Debug, Error)]
pub(crate) enum Closed {
    /// The session came to its end: by Bye, or by an error that the client was told.
    #[error("{0}")]
    Ended(End),
    /// The client hung up.
    #[error("the client hung up")]
    HungUp,
    /// The client hung up amid a message, or its network failed.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// The client took too long.
    #[error("no {waited_for} in {} ms", allowed.as_millis())]
    Late {
        /// What it took too long for.
        waited_for: &'static str,
        /// How long it had.
        allowed: Duration,
    },
    /// The hello does not open, or something came with it.
    #[error("{0}")]
    Hello(#[from] HelloError),
    /// What came is no message.
    #[error("{0}")]
    TooLong(#[from] TooLong),
    /// The client speaks the old wire, and it is not served.
    #[error("the old wire is not served here")]
    Shut,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// The store failed; nothing may be answered.
    #[error("{0}")]
    Store(ApplyError),
}

/// What carries a session: TCP, or memory in tests.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The most that one segment of the path carries, if known.
    fn segment_bytes(&self) -> Option<usize> {
        None
    }

    /// Only one more answer will be written, and then the stream closed: both may travel together.
    fn expect_close(&self) {}
}

impl Transport for TcpStream {
    fn segment_bytes(&self) -> Option<usize> {
        SockRef::from(self).tcp_mss().ok().and_then(|bytes| usize::try_from(bytes).ok())
    }

    fn expect_close(&self) {
        // A corked answer leaves with the FIN, which saves the packet and one wake-up on each
        // side. Without it, both leave one after the other: no harm done.
        #[cfg(target_os = "linux")]
        let _separately = SockRef::from(self).set_tcp_cork(true);
    }
}

#[cfg(any(test, feature = "simulation", feature = "fuzzing"))]
impl Transport for tokio::io::DuplexStream {}

/// A client's connection.
pub(crate) struct Connection<S> {
    stream: S,
    /// What has been read of its hello already.
    start: Vec<u8>,
    shared: Arc<Shared>,
    /// What counts as its client's address.
    from: IpAddr,
    accepted: Instant,
    /// When the session as a whole must be over.
    end: Instant,
    story: Story,
}

impl<S: Transport> Connection<S> {
    /// A connection that was accepted then, and whose first bytes are `start`.
    pub(crate) fn new(
        stream: S,
        start: Vec<u8>,
        shared: Arc<Shared>,
        from: IpAddr,
        accepted: Instant,
    ) -> Self {
        let end = accepted + shared.bounds.session;
        Self { stream, start, shared, from, accepted, end, story: Story::default() }
    }

    /// Serves the client until one of us has had enough.
    pub(crate) async fn run(mut self) -> (Story, Closed) {
        let Err(closed) = self.converse().await;
        (self.story, closed)
    }

    /// The same for a client with which hellos have been exchanged.
    #[cfg(feature = "simulation")]
    pub(crate) async fn run_session(mut self, channel: Channel) -> (Story, Closed) {
        let Err(closed) = self.hold_session(channel).await;
        (self.story, closed)
    }

    async fn converse(&mut self) -> Result<std::convert::Infallible, Closed> {
        let hello = self.shared.bounds.hello;
        let by = Deadline { at: self.accepted + hello, waited_for: "hello", allowed: hello };
        let packet = self.read_hello(&by).await?;
        let by = Deadline { waited_for: "turn to open the hello", ..by };
        let hello = match self.open_hello(packet, &by).await? {
            Ok(hello) => hello,
            Err(error) => {
                let _over = self.hear_out(&mut Heard { bytes: 0, by }).await;
                return Err(error.into());
            }
        };
        self.story.dialect = Some(hello.dialect());
        let secrets = Secrets::from_random(random());
        let (reply, channel) = hello.accept(self.shared.identity.version, &secrets);
        self.write(&reply).await?;
        self.hold_session(channel).await
    }

    /// Answers requests, once hellos have been exchanged.
    async fn hold_session(
        &mut self,
        mut channel: Channel,
    ) -> Result<std::convert::Infallible, Closed> {
        let mut session = Session::new(Arc::clone(&self.shared.identity));
        loop {
            let (message, heard) = self.read_message(&mut channel).await?;
            let step = session.receive(message, || self.shared.around.random());
            session = self.carry_out(step, heard, &mut channel).await?;
            if self.story.member.is_none()
                && let Some(member) = session.member()
            {
                self.story.member = Some(Arc::clone(member));
                self.shared.pool.proven(self.from);
            }
        }
    }

    /// Does what a request that was heard leads to, and sends the reply.
    async fn carry_out(
        &mut self,
        mut step: Step,
        heard: Heard,
        channel: &mut Channel,
    ) -> Result<Session, Closed> {
        self.pace().await?;
        loop {
            step = match step {
                Step::Reply(session, reply) => {
                    self.send(&reply, channel).await?;
                    return Ok(session);
                }
                Step::End(reply, end) => {
                    self.stream.expect_close();
                    self.send(&reply, channel).await?;
                    return Err(Closed::Ended(end));
                }
                Step::Silence(end) => {
                    return Err(self.stay_silent(heard, Closed::Ended(end)).await);
                }
                Step::Apply(applying, command) => {
                    let result = match self.count_registration(&command).await? {
                        Ok(()) => {
                            let applied = self.shared.engine.apply(*command);
                            refusal_only(self.in_time(applied).await?)?
                        }
                        Err(refusal) => Err(refusal),
                    };
                    self.note(&result);
                    applying.applied(result)
                }
                Step::Show(showing) => {
                    let found = self.find(&showing).await?;
                    let segment = self.stream.segment_bytes().unwrap_or(MESSAGE_BYTES_MAX);
                    let plain_len = |sealed| channel.sealer.plain_len_max(sealed);
                    let found = found.as_deref().map_err(|refusal| *refusal);
                    showing.shown(found, plain_len(segment), plain_len(MESSAGE_BYTES_MAX))
                }
            };
        }
    }

    /// Holds up whoever asks faster than it may: the old wire has no words for it.
    async fn pace(&self) -> Result<(), Closed> {
        while let Err(wait) = self.shared.request_rates.check(&self.from) {
            if Instant::now() >= self.end {
                break;
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Closed::Stopping),
                () = sleep_until((Instant::now() + wait).min(self.end)) => {}
            }
        }
        Ok(())
    }

    /// Counts an ID that its key has not registered before, if that is what a command brings.
    async fn count_registration(&self, command: &Command) -> Result<Result<(), Refusal>, Closed> {
        let Command::Register { claimed, sig_key, .. } = command else { return Ok(Ok(())) };
        let node = self.in_time(self.shared.engine.node(sig_key)).await?;
        Ok(refusal_only(node)?.and_then(|node| {
            let known = claimed.map_or(!node.ids.is_empty(), |id| node.ids.contains(&id));
            if known || self.shared.registration_rates.check(&self.from).is_ok() {
                Ok(())
            } else {
                Err(Refusal::TooManyRegistrations)
            }
        }))
    }

    /// Waits for the engine, but not for longer than the session may last. What it does goes on.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Closed> {
        let by = self.deadline("answer from the store", self.shared.bounds.session);
        timeout_at(by.at, answer).await.map_err(|late| by.missed(late))
    }

    /// Remembers for the log what has changed.
    fn note(&mut self, result: &Result<Outcome, Refusal>) {
        match result {
            Ok(Outcome::Joined { cluster, rank, .. }) => {
                self.story.cluster = Some(Arc::clone(cluster));
                self.story.rank = Some(*rank);
            }
            Ok(Outcome::Created { cluster, .. }) => self.story.cluster = Some(Arc::clone(cluster)),
            _ => {}
        }
    }

    /// The cluster a lookup asks for: now, or held until there is news, the bound has passed, or
    /// the server stops.
    async fn find(&self, showing: &Showing) -> Result<Result<Arc<Cluster>, Refusal>, Closed> {
        let found = self.shared.engine.find(showing.cluster());
        let found = refusal_only(self.in_time(found).await?)?;
        let hold = self.shared.bounds.hold;
        let cluster = match found {
            Ok(cluster) if !hold.is_zero() && !showing.is_ready(&cluster) => cluster,
            found => return Ok(found),
        };
        let Some(mut news) = self.shared.engine.watch(&cluster.id) else {
            return Ok(Ok(cluster));
        };
        let until = (Instant::now() + hold).min(self.end);
        tokio::select! {
            biased;
            _ = timeout_at(until, news.wait_for(|cluster| showing.is_ready(cluster))) => {}
            () = self.shared.stop.cancelled() => {}
        }
        let latest = Arc::clone(&news.borrow());
        // It may have come to its end meanwhile.
        Ok(if latest.gone.is_some() {
            Err(Refusal::unknown(showing.cluster()))
        } else {
            Ok(latest)
        })
    }

    /// Exactly one block. Whoever sends more does not wait for the answer, as every client must, and
    /// may know at once that it is none.
    async fn read_hello(&mut self, by: &Deadline) -> Result<Vec<u8>, Closed> {
        let wanted = self.shared.hello_bytes;
        let mut packet = std::mem::take(&mut self.start);
        while packet.len() < wanted {
            // Room for one byte too many shows whether there is one.
            let room = wanted + 1 - packet.len();
            packet.reserve_exact(room);
            if self.read_at_most(room, &mut packet, by).await? == 0 {
                return Err(hung_up(packet.is_empty()));
            }
        }
        if packet.len() == wanted { Ok(packet) } else { Err(HelloError.into()) }
    }

    /// Has a hello opened when it is its turn. Who hangs up meanwhile, or sends more, gives it up.
    async fn open_hello(
        &mut self,
        packet: Vec<u8>,
        by: &Deadline,
    ) -> Result<Result<Hello, HelloError>, Closed> {
        let shared = Arc::clone(&self.shared);
        let mut more = Vec::new();
        tokio::select! {
            biased;
            opened = shared.pool.open(self.from, packet) => Ok(opened),
            read = self.read_at_most(1, &mut more, by) => match read? {
                0 => Err(hung_up(false)),
                _ => Ok(Err(HelloError)),
            },
        }
    }

    /// The next message, whole, and what has been heard until then.
    async fn read_message(&mut self, channel: &mut Channel) -> Result<(XlRegMsg, Heard), Closed> {
        let opener = &mut channel.opener;
        let by = self.deadline("request", self.shared.bounds.idle);
        let mut heard = Heard { bytes: opener.partial_bytes(), by };
        let mut buffer = Vec::new();
        let mut begun = false;
        loop {
            if heard.bytes > 0 && !begun {
                begun = true;
                heard.by = self.deadline("whole message", self.shared.bounds.message);
            }
            match opener.next_message() {
                Ok(Some(message)) => return Ok((message, heard)),
                Ok(None) => {}
                Err(too_long) => return Err(self.stay_silent(heard, too_long.into()).await),
            }
            match self.hear(&mut buffer, &mut heard).await? {
                0 if begun => return Err(self.stay_silent(heard, hung_up(false)).await),
                0 => return Err(hung_up(true)),
                _ => opener.push(&buffer),
            }
        }
    }

    /// What comes next of a message, in place of what is in the buffer; 0 if nothing ever will.
    async fn hear(&mut self, buffer: &mut Vec<u8>, heard: &mut Heard) -> Result<usize, Closed> {
        let room = READ_BYTES.min(HEARD_BYTES_MAX.saturating_sub(heard.bytes));
        buffer.clear();
        buffer.reserve_exact(room);
        let read = self.read_at_most(room, buffer, &heard.by).await?;
        heard.bytes += read;
        Ok(read)
    }

    /// Hears what still comes and says nothing, until there is no more, or the time is over.
    async fn hear_out(&mut self, heard: &mut Heard) -> Result<(), Closed> {
        let mut unheeded = Vec::new();
        while heard.bytes < HEARD_BYTES_MAX {
            if self.hear(&mut unheeded, heard).await? == 0 {
                return Ok(());
            }
        }
        self.wait_out(heard).await;
        Ok(())
    }

    /// Ends a session in which a message can't be answered so that it does not show what was wrong
    /// with it, nor when that was found: at the message's deadline, with as much of it unread, even
    /// if the client has hung up meanwhile.
    async fn stay_silent(&mut self, mut heard: Heard, closed: Closed) -> Closed {
        if self.hear_out(&mut heard).await.is_ok() {
            self.wait_out(&heard).await;
        }
        closed
    }

    async fn wait_out(&self, heard: &Heard) {
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => {}
            () = sleep_until(heard.by.at) => {}
        }
    }

    /// Appends what has come, at most `room` bytes; 0 if nothing ever will.
    async fn read_at_most(
        &mut self,
        room: usize,
        buffer: &mut Vec<u8>,
        by: &Deadline,
    ) -> Result<usize, Closed> {
        let mut stream = (&mut self.stream).take(room as u64);
        tokio::select! {
            biased;
            // Between requests, and amid one that has not been understood, nothing is lost.
            () = self.shared.stop.cancelled() => Err(Closed::Stopping),
            read = timeout_at(by.at, stream.read_buf(buffer)) => {
                read.map_err(|late| by.missed(late))?.map_err(Closed::Broken)
            }
        }
    }

    async fn send(&mut self, reply: &Reply, channel: &mut Channel) -> Result<(), Closed> {
        let sealed = channel.sealer.seal(&reply.encode(), random);
        self.write(&sealed).await?;
        self.story.requests += 1;
        Ok(())
    }

    /// In one piece, for clients that take one read as a message.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Closed> {
        let by = self.deadline("taking of an answer", self.shared.bounds.write);
        timeout_at(by.at, self.stream.write_all(bytes))
            .await
            .map_err(|late| by.missed(late))?
            .map_err(Closed::Broken)
    }

    /// From now, and in any case within the session.
    fn deadline(&self, waited_for: &'static str, allowed: Duration) -> Deadline {
        let at = Instant::now() + allowed;
        if at <= self.end {
            Deadline { at, waited_for, allowed }
        } else {
            let allowed = self.shared.bounds.session;
            Deadline { at: self.end, waited_for: "end of the session", allowed }
        }
    }
}

/// What has been heard of a message or hello, and by when all of it must have been.
struct Heard {
    bytes: usize,
    by: Deadline,
}

/// By when something must have happened, and what.
struct Deadline {
    at: Instant,
    waited_for: &'static str,
    allowed: Duration,
}

impl Deadline {
    fn missed(&self, _: Elapsed) -> Closed {
        Closed::Late { waited_for: self.waited_for, allowed: self.allowed }
    }
}

fn hung_up(between_messages: bool) -> Closed {
    if between_messages {
        Closed::HungUp
    } else {
        Closed::Broken(std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// A refusal is an answer; that the store failed is none.
fn refusal_only<T>(result: Result<T, ApplyError>) -> Result<Result<T, Refusal>, Closed> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(ApplyError::Refused(refusal)) => Ok(Err(refusal)),
        Err(failed) => Err(Closed::Store(failed)),
    }
}

#[cfg(test)]
mod tests;
