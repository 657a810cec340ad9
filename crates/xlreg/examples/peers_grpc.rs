//! gRPC between members, by tonic: each serves the standard health service to the others, and asks
//! theirs.
//!
//! ```text
//! cargo build -p xlreg --example peers_grpc
//! xlreg run -n 3 --self-join -- target/debug/examples/peers_grpc
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it has found")]

mod joining;

use std::error::Error;

use http::{Request, Uri};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;
use xlreg::PeerStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (registry, cluster) = joining::place()?;
    let (mut membership, mut sockets) = joining::join(&registry, &cluster, 1).await?;
    let peers = membership.peers().await?.with_protocols(&["h2"]);
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("worker", ServingStatus::Serving).await;
    let routes = Routes::new(service).prepare();
    let mut listener = peers.listen(sockets.remove(0));
    tokio::spawn(async move {
        while let Ok(link) = listener.accept().await {
            // Who calls is link.peer(): put it into the requests' extensions for services that care.
            let service = TowerToHyperService::new(routes.clone());
            let serving = server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(link), service);
            tokio::spawn(serving);
        }
    });

    let own = peers.rank();
    for (rank, _) in peers.roster().iter().filter(|(rank, _)| Some(*rank) != own) {
        let status = ask(peers.connect(rank).await?).await?;
        println!("rank {rank} is {status}");
    }
    println!("has reached all");
    std::future::pending().await
}

async fn ask(link: PeerStream) -> Result<String, Box<dyn Error>> {
    let handshake = client::handshake(TokioExecutor::new(), TokioIo::new(link));
    let (sender, connection) = handshake.await?;
    tokio::spawn(connection);
    let channel = service_fn(move |request: Request<Body>| sender.clone().send_request(request));
    let mut client = HealthClient::with_origin(channel, Uri::from_static("https://peer"));
    let question = HealthCheckRequest { service: "worker".to_owned() };
    Ok(client.check(question).await?.into_inner().status().as_str_name().to_owned())
}
