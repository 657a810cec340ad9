//! A registry within a program: for launchers, which need one for a moment, and for tests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use xlreg_core::Version;
use xlreg_proto::text::Credentials;
use xlreg_store::Engine;

use crate::config::Config;
use crate::home::{Home, HomeError};
use crate::server::{Report, Server, StartError};

/// A registry that serves, on a free port of 127.0.0.1, as long as it is not stopped.
#[derive(Debug)]
pub struct LocalServer {
    credentials: Credentials,
    stop: CancellationToken,
    server: JoinHandle<Report>,
}

/// A registry within a program that can't be started.
#[derive(Debug, Error)]
pub enum LocalServerError {
    /// No port.
    #[error("starting a registry on 127.0.0.1: {0}")]
    Io(#[from] io::Error),
    /// No thread, or no certificate.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It has no credentials.
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl LocalServer {
    /// Starts the registry of `home`, which remembers with `engine`.
    ///
    /// # Errors
    /// [`LocalServerError`] if the system grants no port or thread.
    pub async fn start(home: &Home, engine: Arc<dyn Engine>) -> Result<Self, LocalServerError> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        Self::start_on(listener, home, engine, &Config::default())
    }

    /// The same on a listener that is there already, for one that comes back where it was, or with
    /// limits of its own. Must be
    /// called within a tokio runtime, which it serves on.
    ///
    /// # Errors
    /// [`LocalServerError`] if the system grants no thread.
    pub fn start_on(
        listener: TcpListener,
        home: &Home,
        engine: Arc<dyn Engine>,
        config: &Config,
    ) -> Result<Self, LocalServerError> {
        let credentials = home.credentials(listener.local_addr()?, None, Version::CURRENT)?;
        let identity = home.introduce(&credentials);
        let server = Server::new(listener, engine, &home.keys(), identity, config)?;
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.run(stop.clone()));
        Ok(Self { credentials, stop, server })
    }

    /// What it is known by.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Stops it, as a served registry stops: sessions come to their end first.
    ///
    /// # Errors
    /// If it had ended by a panic.
    pub async fn stop(mut self) -> Result<Report, JoinError> {
        self.stop.cancel();
        (&mut self.server).await
    }

    /// Ends it as a crash would: sessions are cut off, and whatever its engine remembers stays with
    /// the engine. When this returns, nobody listens there any more.
    pub async fn kill(mut self) {
        self.server.abort();
        let _aborted = (&mut self.server).await;
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
