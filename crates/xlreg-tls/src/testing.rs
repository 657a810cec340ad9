//! What the tests of several modules need: a few keys, and a handshake in memory.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use xlreg_core::NodeId;
use xlreg_proto::keys::PrivateKey;

use crate::{ClientTls, Pin, ServerTls};

/// The ID of the tests' registry.
pub(crate) const ID: NodeId = NodeId::from_bytes([0xA5; 20]);

/// No hosts, of a type that can be told.
pub(crate) const NO_HOSTS: &[&str] = &[];

/// The sig key of the tests' registry. Keys take their time, so there are three for all tests.
pub(crate) fn registry_key() -> Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(new_key))
}

/// The sig key of a node.
pub(crate) fn node_key() -> Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(new_key))
}

/// A key that belongs to neither.
pub(crate) fn other_key() -> Arc<PrivateKey> {
    static KEY: OnceLock<Arc<PrivateKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(new_key))
}

fn new_key() -> Arc<PrivateKey> {
    Arc::new(PrivateKey::generate().unwrap())
}

/// The tests' registry, with a leaf issued this long ago.
pub(crate) fn registry(ago: Duration) -> ServerTls {
    ServerTls::new(registry_key(), ID, vec![], SystemTime::now() - ago).unwrap()
}

/// The node, pinning the tests' registry.
pub(crate) fn node() -> ClientTls {
    ClientTls::new(Pin::from(registry_key().public()), &node_key()).unwrap()
}

/// Both ends of a connection over which a word went each way.
pub(crate) struct Connection {
    pub(crate) client: client::TlsStream<DuplexStream>,
    pub(crate) server: server::TlsStream<DuplexStream>,
}

/// How the handshake failed, for each side that noticed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) client: Option<io::Error>,
    pub(crate) server: Option<io::Error>,
}

impl Failed {
    /// What the client says.
    pub(crate) fn client(&self) -> String {
        self.client.as_ref().unwrap().to_string()
    }

    /// What the server says.
    pub(crate) fn server(&self) -> String {
        self.server.as_ref().unwrap().to_string()
    }
}

/// A handshake in memory, and a byte each way: only with the server's has the client read what came
/// after the handshake, its ticket or the refusal of its certificate.
pub(crate) async fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Connection, Failed> {
    connect_as(ClientTls::server_name(), client, server).await
}

/// The same, to a server of this name.
pub(crate) async fn connect_as(
    name: ServerName<'static>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Connection, Failed> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let client = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        io::Result::Ok(stream)
    };
    let server = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    match tokio::join!(client, server) {
        (Ok(client), Ok(server)) => Ok(Connection { client, server }),
        (client, server) => Err(Failed { client: client.err(), server: server.err() }),
    }
}

/// A second byte each way over a connection that has been open for a while.
pub(crate) async fn still_works(connection: &mut Connection) {
    let mut got = [0];
    connection.client.write_all(b"a").await.unwrap();
    connection.client.flush().await.unwrap();
    connection.server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"a");
    connection.server.write_all(b"b").await.unwrap();
    connection.server.flush().await.unwrap();
    connection.client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"b");
}

/// The hello of a client that knows TLS 1.2 at most, written by hand: rustls is built without.
pub(crate) fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    // One suite, ECDHE-ECDSA with AES-128-GCM; no compression.
    hello.extend([0, 2, 0xC0, 0x2B, 1, 0]);
    // supported_groups: P-256; signature_algorithms: ECDSA with it, RSA-PSS; ec_point_formats.
    let extensions =
        [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], &[0, 11, 0, 2, 1, 0]]
            .concat();
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}
