//! A registry within the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use xlreg_core::Version;
use xlreg_core::limits::Limits;
use xlreg_launch::port::Port;
use xlreg_node::files::{self, Durability, Mode};
use xlreg_server::{Config, Home, LocalServer};
use xlreg_store::{Engine, LocalEngine};

use super::error::TestError;
use super::quiet::quiet;
use super::{background, keys};
use crate::registry::Registry;

/// How long to wait for a registry's end when it is dropped; it needs an instant.
const END: Duration = Duration::from_secs(5);

/// A registry on a free port of 127.0.0.1, with nothing in it. It is gone when this is dropped.
///
/// It serves on a runtime of its own, so it answers whatever the test's does.
#[derive(Debug)]
pub struct TestRegistry {
    host: Arc<Host>,
    registry: Registry,
    credentials_file: PathBuf,
    server: Mutex<Option<LocalServer>>,
    _dir: TempDir,
}

/// What outlives a restart.
#[derive(Debug)]
struct Host {
    home: Home,
    engine: Arc<LocalEngine>,
    /// Keeps the port from others while nobody listens on it.
    port: Port,
}

impl TestRegistry {
    /// Starts a registry.
    ///
    /// # Errors
    /// [`TestError`] if the system grants no port, thread or directory.
    pub async fn start() -> Result<Self, TestError> {
        let (host, credentials_file, dir) = background::run_blocking(Host::make).await??;
        let credentials = host.home.credentials(host.port.address(), None, Version::CURRENT)?;
        let host = Arc::new(host);
        let server = background::run(Arc::clone(&host).serve()).await??;
        Ok(Self {
            host,
            registry: Registry::new(credentials),
            credentials_file,
            server: Mutex::new(Some(server)),
            _dir: dir,
        })
    }

    /// The registry, for programs in this process to talk to.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its credentials, `regCred.dat`, for other processes.
    #[must_use]
    pub fn credentials_file(&self) -> &Path {
        &self.credentials_file
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.host.port.address()
    }

    /// Has it go away, as in a crash: connections are cut off, and new ones refused. Its address
    /// and what it remembers stay with it until [`Self::restart`]. If it is away already, nothing
    /// happens.
    ///
    /// # Errors
    /// [`TestError::Io`] if the system grants no runtime.
    pub async fn stop(&self) -> Result<(), TestError> {
        let server = self.server().take();
        match server {
            Some(server) => background::run(end(server, self.address())).await,
            None => Ok(()),
        }
    }

    /// Has it come back, where it was and with all that it knew; ends it before if it runs.
    ///
    /// # Errors
    /// [`TestError`] if somebody else listens there now, or the system grants no thread.
    pub async fn restart(&self) -> Result<(), TestError> {
        self.stop().await?;
        let server = background::run(Arc::clone(&self.host).serve()).await??;
        *self.server() = Some(server);
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<LocalServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn end(server: LocalServer, address: SocketAddr) {
    server.kill().await;
    quiet(&[address]).await;
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let server = self.server().take();
        if let Some(server) = server {
            background::finish(end(server, self.address()), END);
        }
    }
}

impl Host {
    /// Makes one, and writes its credentials into a directory of their own.
    fn make() -> Result<(Self, PathBuf, TempDir), TestError> {
        let dir = tempfile::Builder::new().prefix("xlreg-test-").tempdir();
        let dir = dir.map_err(|error| TestError::io("making a directory", error))?;
        let identity = keys::registry("xlReg".parse().expect("that is a name"))?;
        let home = Home::ephemeral(dir.path(), identity)?;
        let port = Port::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let port = port.map_err(|error| TestError::io("taking a port for a registry", error))?;
        let credentials = home.credentials(port.address(), None, Version::CURRENT)?;
        let file = dir.path().join("regCred.dat");
        let text = credentials.to_text();
        files::replace_with(&file, text.as_bytes(), Mode::Public, Durability::Fleeting)
            .map_err(|error| TestError::io("writing a registry's credentials", error))?;
        let engine = Arc::new(LocalEngine::in_memory(Limits::default()));
        Ok((Self { home, engine, port }, file, dir))
    }

    async fn serve(self: Arc<Self>) -> Result<LocalServer, TestError> {
        let listener = TcpListener::bind(self.port.address()).await;
        let listener = listener.map_err(|error| TestError::io("starting a registry", error))?;
        let engine: Arc<dyn Engine> = Arc::clone(&self.engine) as _;
        Ok(LocalServer::start_on(listener, &self.home, engine, &Config::default())?)
    }
}
