//! Where the requests of one connection come in, and what each holds until its answer is taken.
//!
//! An answer that nobody takes is memory, so a request counts until the last byte of its answer has
//! left for the client; hyper and h2 hold the bytes until then, and the bytes hold the count.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Buf, Bytes, Frame, Incoming, SizeHint};
use hyper::service::Service;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use xlreg_api::fault::Fault;
use xlreg_api::v2::ErrorReason;
use xlreg_core::Fingerprint;
use xlreg_tls::Awaiting;

use crate::meter::Credit;
use crate::modern::{Front, Peer, Shared};
use crate::tally::{Place, Tally, fair};

/// Bytes that a request earns a connection: its headers, and what frames and records add.
const REQUEST_EARNS: usize = 2 * 1024;

/// Bytes that each message of an answer earns it: window updates and pings go back for them.
const MESSAGE_EARNS: usize = 256;

/// As how many requests one counts that takes the registry ten times as long as others and more.
const COSTLY: NonZeroU32 = NonZeroU32::new(10).expect("more than none");

/// Streams of health checks and of reflection that may be open: of one sig key, from one IP address,
/// and in all. They have no end, so they must not take the places of calls that have.
const ENDLESS_PER_KEY_MAX: usize = 16;
const ENDLESS_PER_ADDRESS_MAX: usize = 64;
const ENDLESS_MAX: usize = 1024;

/// What sort of call a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// One whose answer is there in a moment, and must be taken.
    Plain,
    /// Such a one that has the registry look through much, or sign.
    Costly,
    /// Such a one, after which the caller's key is known: its later calls wait for that.
    Register,
    /// One that follows a cluster.
    Watch,
    /// One that goes on without an end of its own.
    Endless,
}

impl Call {
    fn of(path: &str) -> Self {
        match path {
            "/xlreg.v2.Registry/WatchCluster" => Self::Watch,
            "/xlreg.v2.Registry/Register" => Self::Register,
            "/xlreg.v2.Registry/ListClusters"
            | "/xlreg.v2.Registry/GetNode"
            | "/xlreg.v2.Registry/GetSignedRoster" => Self::Costly,
            "/grpc.health.v1.Health/Watch"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Endless,
            _ => Self::Plain,
        }
    }

    /// As how many requests it counts.
    fn cost(self) -> NonZeroU32 {
        if self == Self::Costly { COSTLY } else { NonZeroU32::MIN }
    }

    /// Whether it may go on for long.
    fn goes_on(self) -> bool {
        matches!(self, Self::Watch | Self::Endless)
    }
}

/// Where the requests of one connection come in: each is counted, and told whose it is.
pub(crate) struct Entrance {
    pub(crate) front: Front,
    pub(crate) peer: Arc<Peer>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

impl Service<Request<Incoming>> for Entrance {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    /// Called in the order in which the requests came, and by the task that has read them.
    fn call(&self, request: Request<Incoming>) -> Answering {
        let Self { front, peer } = self;
        peer.touch();
        let call = Call::of(request.uri().path());
        let taken = match front.shared.admit(peer, call) {
            Ok(taken) => Arc::new(taken),
            Err(fault) => return Box::pin(ready(Ok(refusal(fault)))),
        };
        // A stream may hold any number of questions, and those of this kind count when they are answered.
        let credit = (call != Call::Endless).then(|| Arc::clone(&peer.credit));
        if let Some(credit) = &credit {
            credit.earn(REQUEST_EARNS);
        }
        // What may go on for long ends with the server.
        let stop = call.goes_on().then(|| front.shared.stop.clone());
        let endless = stop.clone().filter(|_| call == Call::Endless);
        let until = endless.as_ref().map(Until::from);
        let mut request = request.map(|body| Asked { body, credit: credit.clone(), until });
        request.extensions_mut().insert(Arc::clone(peer));
        request.extensions_mut().insert(Arc::clone(&taken.places));
        let (before, registering) = peer.registrations.pass(call == Call::Register);
        let answering = front.answer(request);
        let answering = async move {
            for registration in before {
                registration.cancelled().await;
            }
            let answer = answering.await;
            drop(registering);
            answer
        };
        let following = peer.following.clone();
        let messages = call.goes_on().then(|| Messages {
            shared: Arc::clone(&front.shared),
            peer: Arc::clone(peer),
            call,
        });
        Box::pin(async move {
            let answer = match stop {
                None => answering.await?,
                Some(stop) => tokio::select! {
                    answer = answering => answer?,
                    () = stop.cancelled() => return Ok(refusal(stopping())),
                },
            };
            let until = endless.as_ref().map(Until::from);
            // As many as there are streams.
            let following = endless.and_then(|_| following.take((), usize::MAX));
            let taken = Some(taken);
            Ok(answer.map(|body| Answer {
                body,
                taken,
                messages,
                credit,
                until,
                _following: following,
            }))
        })
    }
}

impl Shared {
    /// Counts what costs as much as so many requests, unless they come too fast.
    fn count(&self, peer: &Peer, requests: NonZeroU32) -> Result<(), Fault> {
        let fast = |wait| limited("requests", wait);
        self.usage.request_rates.check_many(&peer.print(), requests).map_err(fast)?;
        self.usage.address_rates.check_many(&peer.site, requests).map_err(fast)
    }

    /// Counts a request, unless there are too many or they come too fast.
    fn admit(&self, peer: &Arc<Peer>, call: Call) -> Result<Taken, Fault> {
        let Self { bounds, usage, .. } = self;
        self.count(peer, call.cost())?;
        let (what, places) = match call {
            Call::Plain | Call::Costly | Call::Register => {
                let of_key = usage.requests.take(peer.print(), bounds.requests_per_key_max);
                let max = [bounds.requests_per_address_max, bounds.requests_max];
                let places = |key| Places::take(Some(key), &usage.requests_of, peer.site, 1, max);
                ("requests", of_key.and_then(places))
            }
            // Its key's place is taken when the cluster is known.
            Call::Watch => {
                let max = [bounds.watches_per_address_max, bounds.watches_max];
                ("watches", Places::take(None, &usage.watches_of, peer.site, 1, max))
            }
            Call::Endless => {
                let of_key = usage.endless.take(peer.print(), ENDLESS_PER_KEY_MAX);
                let max = [ENDLESS_PER_ADDRESS_MAX, ENDLESS_MAX];
                let places = |key| Places::take(Some(key), &usage.endless_of, peer.site, 1, max);
                ("health checks and reflections", of_key.and_then(places))
            }
        };
        let places = places.ok_or_else(|| crowded(what, bounds.stall))?;
        let due = || ((peer.owed.begin(), Arc::clone(peer)), peer.awaited.one());
        let (owed, _awaited) = (!call.goes_on()).then(due).unzip();
        Ok(Taken { owed, _awaited, places })
    }
}

/// That something came too often.
pub(crate) fn limited(what: &str, wait: Duration) -> Fault {
    let message = format!("too many {what} in too short a time");
    Fault::new(ErrorReason::RateLimited, message).with("what", what).retry_after(wait)
}

/// That there is too much of something at once.
fn crowded(what: &str, wait: Duration) -> Fault {
    let message = format!("too many {what} under way at once");
    let what = format!("{what} under way");
    Fault::new(ErrorReason::RateLimited, message).with("what", what).retry_after(wait)
}

fn stopping() -> Fault {
    Fault::new(ErrorReason::ShuttingDown, "the registry is stopping; try again later")
}

/// An answer that says no.
pub(crate) fn refusal(fault: Fault) -> Response<Answer> {
    Status::from(fault).into_http()
}

/// The registrations of one connection that are under way. A client need not wait for the answer before
/// it asks for more: each call waits here for the registrations before it.
#[derive(Debug, Default)]
pub(crate) struct Registrations(Mutex<Vec<CancellationToken>>);

impl Registrations {
    /// What a call waits for that has come just now, and, if it registers, what lets those after it
    /// go on.
    fn pass(&self, registers: bool) -> (Vec<CancellationToken>, Option<DropGuard>) {
        // Nothing under this lock panics.
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|registration| !registration.is_cancelled());
        let before = under_way.clone();
        let done = registers.then(CancellationToken::new);
        under_way.extend(done.clone());
        (before, done.map(CancellationToken::drop_guard))
    }
}

/// Answers of one connection that have not been taken, and since when.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<(u64, BTreeMap<u64, Instant>)>);

impl Owed {
    fn begin(&self) -> u64 {
        let mut owed = self.lock();
        owed.0 += 1;
        let number = owed.0;
        owed.1.insert(number, Instant::now());
        number
    }

    fn end(&self, number: u64) {
        self.lock().1.remove(&number);
    }

    /// Waits until one has been owed for `limit`.
    pub(crate) async fn too_long(&self, limit: Duration) {
        loop {
            // Numbers rise with time.
            let oldest = self.lock().1.first_key_value().map(|(_, since)| *since);
            match oldest {
                Some(since) if since.elapsed() >= limit => return,
                Some(since) => sleep_until(since + limit).await,
                None => sleep(limit).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Instant>)> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is counted, or news for a watcher.
struct Taken {
    /// Its number among the connection's, if it has to be taken in time.
    owed: Option<(u64, Arc<Peer>)>,
    /// What is written beside the answer waits for it a little.
    _awaited: Option<Awaiting>,
    places: Arc<Places>,
}

/// The places that a request has. What goes on after its answer was due holds them until it is done.
pub(crate) struct Places {
    _of_key: Option<Place<Fingerprint>>,
    _of_address: Place<Option<IpAddr>>,
    _of_all: Place<Option<IpAddr>>,
}

impl Places {
    /// Takes so much room in a tally for an address and in all, unless either would have more than
    /// its `max`, or the address more than is left for all others.
    fn take(
        of_key: Option<Place<Fingerprint>>,
        tally: &Tally<Option<IpAddr>>,
        site: IpAddr,
        room: usize,
        [per_address_max, max]: [usize; 2],
    ) -> Option<Arc<Self>> {
        let may_have = fair(per_address_max, max, tally.of(&None));
        let of_address = tally.take_room(Some(site), room, may_have)?;
        let of_all = tally.take_room(None, room, max)?;
        Some(Arc::new(Self { _of_key: of_key, _of_address: of_address, _of_all: of_all }))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some((number, peer)) = &self.owed {
            peer.owed.end(*number);
        }
    }
}

/// Counts what is told over a stream that goes on.
struct Messages {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    call: Call,
}

impl Messages {
    /// Counts a message of so many bytes: a watcher's until it has been taken, unless too much is
    /// waiting for that already; any other as the request that it is the answer to.
    fn admit(&self, bytes: usize) -> Result<Option<Taken>, Fault> {
        let Self { shared, peer, call } = self;
        let Shared { bounds, usage, .. } = &**shared;
        if *call != Call::Watch {
            return shared.count(peer, call.cost()).map(|()| None);
        }
        let max = [bounds.unread_bytes_per_address_max, bounds.unread_bytes_max];
        let places = Places::take(None, &usage.unread_of, peer.site, bytes, max);
        let places = places.ok_or_else(|| crowded("news", bounds.stall))?;
        let owed = Some((peer.owed.begin(), Arc::clone(peer)));
        Ok(Some(Taken { owed, _awaited: None, places }))
    }
}

/// When a stream ends that has no end of its own: with the server.
struct Until(Pin<Box<WaitForCancellationFutureOwned>>);

impl From<&CancellationToken> for Until {
    fn from(stop: &CancellationToken) -> Self {
        Self(Box::pin(stop.clone().cancelled_owned()))
    }
}

/// Whether it has come to that.
fn is_over(until: &mut Option<Until>, context: &mut Context<'_>) -> bool {
    until.as_mut().is_some_and(|until| until.0.as_mut().poll(context).is_ready())
}

/// A request's message, which earns what it spends when it is read.
struct Asked {
    body: Incoming,
    credit: Option<Arc<Credit>>,
    until: Option<Until>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let over = is_over(&mut self.until, context);
            return if over { Poll::Ready(None) } else { Poll::Pending };
        };
        if let (Some(Ok(frame)), Some(credit)) = (&frame, &self.credit) {
            credit.earn(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer, whose bytes count the request until they have left.
#[derive(Default)]
pub(crate) struct Answer {
    body: Body,
    taken: Option<Arc<Taken>>,
    /// If it goes on.
    messages: Option<Messages>,
    credit: Option<Arc<Credit>>,
    until: Option<Until>,
    _following: Option<Place<()>>,
}

impl Answer {
    /// Ends it before its time.
    fn cut_short(&mut self, fault: Fault) -> Option<Result<Frame<Piece>, Status>> {
        (self.until, self.body) = (None, Body::empty());
        let mut trailers = HeaderMap::new();
        let added = Status::from(fault).add_header(&mut trailers);
        Some(added.map(|()| Frame::trailers(trailers)))
    }
}

/// A piece of an answer.
pub(crate) struct Piece {
    bytes: Bytes,
    _taken: Option<Arc<Taken>>,
    /// Its own place, if it is for a watcher.
    _news: Option<Taken>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl HttpBody for Answer {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            if !is_over(&mut this.until, context) {
                return Poll::Pending;
            }
            return Poll::Ready(this.cut_short(stopping()));
        };
        let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let news = match (&this.messages, bytes) {
            (Some(messages), Some(bytes)) => match messages.admit(bytes.len()) {
                Ok(taken) => taken,
                Err(fault) => return Poll::Ready(this.cut_short(fault)),
            },
            _ => None,
        };
        let piece = |bytes| {
            if let Some(credit) = &this.credit {
                credit.earn(MESSAGE_EARNS);
            }
            Piece { bytes, _taken: this.taken.clone(), _news: news }
        };
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_for_all_registrations_before_it_and_for_none_after() {
        let registrations = Registrations::default();
        let waits = |before: &[CancellationToken]| before.iter().any(|one| !one.is_cancelled());
        let (before, none) = registrations.pass(false);
        assert!(!waits(&before) && none.is_none());
        let (_, first) = registrations.pass(true);
        let (between, _) = registrations.pass(false);
        let (second_before, second) = registrations.pass(true);
        let (last, _) = registrations.pass(false);
        assert!(waits(&between) && waits(&second_before) && waits(&last));
        // It was given up while it waited itself.
        drop(second);
        let (later, _) = registrations.pass(false);
        assert!(waits(&last) && waits(&later));
        drop(first);
        assert!(!waits(&between) && !waits(&second_before) && !waits(&last) && !waits(&later));
        assert!(registrations.pass(false).0.is_empty());
    }
}
