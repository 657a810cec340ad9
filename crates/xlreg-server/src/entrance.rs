//! Where the requests of one connection come in, and what each holds until its answer is taken.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};
use xlreg_api::fault::Fault;
use xlreg_api::v2::ErrorReason;
use xlreg_core::Fingerprint;

use crate::modern::{Front, Peer, Shared};
use crate::tally::Place;

/// Where the requests of one connection come in: each is counted, and told whose it is.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) front: Front,
    pub(crate) peer: Arc<Peer>,
}

impl Service<Request<hyper::body::Incoming>> for Entrance {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<hyper::body::Incoming>) -> Self::Future {
        self.peer.touch();
        if let Err(wait) = self.front.shared.request_rates.check(&self.peer.print()) {
            let status = Status::from(limited("requests", wait));
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let taken = match self.front.take_request(&self.peer, request.uri().path()) {
            Ok(taken) => taken,
            Err(fault) => {
                let status = Status::from(fault);
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let answer = self.front.routes.clone().oneshot(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| match taken {
                Some(taken) => Body::new(Answer { body, _taken: taken }),
                None => body,
            }))
        })
    }
}

/// Calls whose answers are streams without an end, and held to bounds of their own.
const STREAMS: [&str; 4] = [
    "/xlreg.v2.Registry/WatchCluster",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

impl Front {
    /// Counts a request until its answer has been taken: an answer that nobody takes is memory.
    fn take_request(&self, peer: &Arc<Peer>, path: &str) -> Result<Option<Taken>, Fault> {
        if STREAMS.contains(&path) {
            return Ok(None);
        }
        let Shared { bounds, requests, requests_of, .. } = &*self.shared;
        let crowded = || limited("requests under way", bounds.stall);
        let places = (
            requests.take(peer.print(), bounds.requests_per_key_max).ok_or_else(crowded)?,
            requests_of
                .take(Some(peer.address.ip()), bounds.requests_per_address_max)
                .ok_or_else(crowded)?,
            requests_of.take(None, bounds.requests_max).ok_or_else(crowded)?,
        );
        Ok(Some(Taken { number: peer.owed.begin(), peer: Arc::clone(peer), _places: places }))
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

/// A request that is counted.
struct Taken {
    number: u64,
    peer: Arc<Peer>,
    _places: (Place<Fingerprint>, Place<Option<std::net::IpAddr>>, Place<Option<std::net::IpAddr>>),
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.peer.owed.end(self.number);
    }
}

/// An answer that is counted until it has been taken, or given up.
struct Answer {
    body: Body,
    _taken: Taken,
}

impl hyper::body::Body for Answer {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// That something came too often.
pub(crate) fn limited(what: &str, wait: Duration) -> Fault {
    let message = format!("too many {what} in too short a time");
    Fault::new(ErrorReason::RateLimited, message).with("what", what).retry_after(wait)
}
