//! HTTP/1.1 between members, by hyper: each serves a page that only members see, and gets those of the
//! others.
//!
//! ```text
//! cargo build -p xlreg --example peers_http
//! xlreg run -n 3 --self-join -- target/debug/examples/peers_http
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

mod joining;

use std::convert::Infallible;
use std::error::Error;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use xlreg::PeerStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (registry, cluster) = joining::place()?;
    let (mut membership, mut sockets) = joining::join(&registry, &cluster, 1).await?;
    // Agreed on in the handshake, as any TLS client would.
    let peers = membership.peers().await?.with_protocols(&["http/1.1"]);
    let mut listener = peers.listen(sockets.remove(0));
    tokio::spawn(async move {
        while let Ok(link) = listener.accept().await {
            tokio::spawn(serve(link));
        }
    });

    let own = peers.rank();
    for (rank, _) in peers.roster().iter().filter(|(rank, _)| Some(*rank) != own) {
        let page = get(peers.connect(rank).await?).await?;
        println!("rank {rank} has served: {page}");
    }
    println!("has reached all");
    std::future::pending().await
}

async fn serve(link: PeerStream) -> Result<(), hyper::Error> {
    let page = format!("hello, {}", link.peer());
    let answer = service_fn(move |_: Request<Incoming>| {
        let page = Bytes::from(page.clone());
        async move { Ok::<_, Infallible>(Response::new(Full::new(page))) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(link), answer).await
}

async fn get(link: PeerStream) -> Result<String, Box<dyn Error>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(link)).await?;
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "peer").body(Empty::<Bytes>::new())?;
    let body = sender.send_request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8(body.to_bytes().into())?)
}
