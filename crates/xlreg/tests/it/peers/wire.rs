//! What goes over the wire between two members.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use xlreg::{PeerStream, Peers};

use super::support::{accept, altered, node, port, sites};
use crate::support::Running;

const SECRET: &[u8] = b"the lamp is green";

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Passes one connection on to `address`, and returns all that went there and back.
async fn tap(listener: TcpListener, address: String) -> [Vec<u8>; 2] {
    let (near, _) = listener.accept().await.unwrap();
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = TcpStream::connect(address).await.unwrap().into_split();
    let (to, from) = tokio::join!(pass_on(near_reads, far_writes), pass_on(far_reads, near_writes));
    [to, from]
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Vec<u8> {
    let (mut recorded, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = from.read(&mut buffer).await.unwrap();
        if count == 0 {
            return recorded;
        }
        recorded.extend_from_slice(&buffer[..count]);
        to.write_all(&buffer[..count]).await.unwrap();
    }
}

/// Says all there is to say.
async fn tell(from: &mut PeerStream, to: &mut PeerStream) {
    from.write_all(SECRET).await.unwrap();
    from.shutdown().await.unwrap();
    let mut heard = Vec::new();
    to.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, SECRET);
}

/// The types of the TLS records that these bytes are, all of them.
fn record_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [kind, 3, 1..=3, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        types.push(*kind);
        bytes = &rest[length..];
    }
    assert_eq!(bytes, b"", "what follows is no TLS record");
    types
}

/// A tap between two members sees TLS records, and neither what they say nor who they are: names, IDs,
/// keys and certificates are encrypted, too. The same tap reads all that plain TCP carries.
#[tokio::test]
async fn a_tap_between_two_members_can_read_nothing() {
    let (listener, endpoint) = port().await;
    let (there, plain_there) = port().await;
    let plain = tokio::spawn(tap(listener, plain_there.to_string()));
    let mut near = TcpStream::connect(endpoint.to_string()).await.unwrap();
    let (mut far, _) = there.accept().await.unwrap();
    near.write_all(SECRET).await.unwrap();
    near.shutdown().await.unwrap();
    far.shutdown().await.unwrap();
    assert!(contains(&plain.await.unwrap()[0], SECRET));

    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let honest = sites[0].peers.roster();
    let (listener, endpoint) = port().await;
    let tapped = tokio::spawn(tap(listener, honest.members[1].endpoints[0].to_string()));
    let redirected = altered(&honest, |members| members[1].endpoints = vec![endpoint]);
    let peers = Peers::new(&node(0), &redirected).await.unwrap();
    let (near, mut far) = tokio::join!(peers.connect(1), accept(&mut sites[1].listener));
    let mut near = near.unwrap();
    tell(&mut near, &mut far).await;
    tell(&mut far, &mut near).await;
    drop((near, far));

    for recorded in tapped.await.unwrap() {
        let types = record_types(&recorded);
        assert!(types.len() > 3 && types[0] == 22, "{types:?}");
        // handshake, change_cipher_spec, application_data.
        assert!(types.iter().all(|kind| [22, 20, 23].contains(kind)), "{types:?}");
        let members = honest.members.iter();
        let names = members.clone().map(|member| member.id.to_string().into_bytes());
        let keys = members.map(|member| member.sig_key.der()[40..72].to_vec());
        for hidden in names.chain(keys).chain([SECRET.to_vec(), b".xlreg".to_vec()]) {
            assert!(!contains(&recorded, &hidden), "{hidden:?} is there to read");
        }
    }
}
