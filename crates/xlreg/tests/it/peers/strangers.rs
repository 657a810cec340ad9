//! What comes to a listener, or is come to, and is no peer at all.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use xlreg::{PeerError, Peers, Unreached};

use super::support::{Site, accept, altered, link, node, port, refusal, sites, talk};
use crate::support::Running;

/// The hello of a client that knows TLS 1.2 at most.
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session; ECDHE-ECDSA with AES-128-GCM; no compression.
    hello.extend([0, 0, 2, 0xC0, 0x2B, 1, 0]);
    // supported_groups: P-256; signature_algorithms: ECDSA with it, RSA-PSS.
    let extensions = [&[0, 10, 0, 4, 0, 2, 0, 23][..], &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4]].concat();
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

/// Says this to a listener, and returns all that it answers before it hangs up.
async fn say(site: &Site, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(site.listener.local_addr().unwrap()).await.unwrap();
    stream.write_all(words).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// Takes in a hello, which comes in one piece.
async fn hear(stream: &mut TcpStream) {
    let count = stream.read(&mut [0; 4096]).await.unwrap();
    assert!(count > 1000, "{count}");
}

/// Has n0 connect to something that is not n1, where n1 should be; once, or for some time.
async fn meet(
    site: &Site,
    at_most: Option<Duration>,
    impostor: impl AsyncFnOnce(TcpListener),
) -> Unreached {
    let (listener, endpoint) = port().await;
    let redirected = altered(&site.peers.roster(), |members| members[1].endpoints = vec![endpoint]);
    let victim = Peers::new(&node(0), &redirected).await.unwrap();
    let connecting = async {
        match at_most {
            Some(at_most) => victim.connect_within(1, at_most).await,
            None => victim.connect_once(1).await,
        }
    };
    let (met, ()) = tokio::join!(connecting, impostor(listener));
    met.unwrap_err()
}

#[tokio::test]
async fn tls_1_2_is_refused_by_either_side_and_named() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let mut refusals = sites[1].listener.refusals();
    // A fatal alert: protocol_version.
    assert_eq!(say(&sites[1], &old_hello()).await, [21, 3, 3, 0, 2, 2, 70]);
    assert!(matches!(&*refusal(&mut refusals).await.why, PeerError::OldTls(_)));

    let unreached = meet(&sites[0], None, async |listener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await;
        stream.write_all(&[21, 3, 3, 0, 2, 2, 70]).await.unwrap();
    })
    .await;
    assert!(matches!(unreached.why, PeerError::OldTls(_)), "{unreached}");
    // Or it answers our hello with its own, of TLS 1.2.
    let unreached = meet(&sites[0], None, async |listener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await;
        let mut hello = vec![22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
        hello.extend([9; 32]);
        hello.extend([0, 0xC0, 0x2B, 0]);
        stream.write_all(&hello).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    assert!(matches!(unreached.why, PeerError::OldTls(_)), "{unreached:?}");
}

#[tokio::test]
async fn rubbish_is_refused_by_either_side_and_named() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let near = sites[0].peers.clone();
    let (mut one, mut other) = link(&near, &mut sites[1]).await;
    let mut refusals = sites[1].listener.refusals();
    for words in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0xFF; 5000], &[22, 3, 1, 0xFF, 0xFF]]
    {
        say(&sites[1], words).await;
        let refused = refusal(&mut refusals).await;
        assert!(matches!(&*refused.why, PeerError::NotTls(_)), "{refused:?}");
    }
    let unreached = meet(&sites[0], None, async |listener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    assert!(matches!(unreached.why, PeerError::NotTls(_)), "{unreached:?}");
    talk(&mut one, &mut other).await;
    link(&near, &mut sites[1]).await;
}

#[tokio::test]
async fn who_hangs_up_amid_the_handshake_is_named() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let mut refusals = sites[1].listener.refusals();
    for words in [&b""[..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(sites[1].listener.local_addr().unwrap()).await.unwrap();
        stream.write_all(words).await.unwrap();
        drop(stream);
        assert!(matches!(&*refusal(&mut refusals).await.why, PeerError::HungUp(_)));
    }
    let unreached = meet(&sites[0], None, async |listener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        hear(&mut stream).await;
    })
    .await;
    assert!(matches!(unreached.why, PeerError::HungUp(_)), "{unreached:?}");
}

#[tokio::test]
async fn nobody_there_is_named_and_tried_again() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let at_most = Duration::from_millis(300);
    let unreached = meet(&sites[0], Some(at_most), async |listener| drop(listener)).await;
    assert!(matches!(unreached.why, PeerError::Unreachable(_)), "{unreached}");
    // After 50 and 100 ms, and not after 200 more.
    assert_eq!(unreached.tries, 3);
    let says = unreached.to_string();
    assert!(says.contains("n1 (rank 1)") && says.contains("onnection refused"), "{says}");
}

#[tokio::test]
async fn who_is_come_to_and_stalls_is_named() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let at_most = Duration::from_millis(200);
    let unreached = meet(&sites[0], Some(at_most), async |listener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Takes all in, and says nothing until we give up.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    })
    .await;
    assert!(matches!(unreached.why, PeerError::Stalled(_)), "{unreached}");
    assert_eq!(unreached.tries, 1);
}

/// Before a word, amid the hello, and after it, when the server waits for the rest: each has its time, is named
/// then, and disturbs nobody. The clock is ours, and is put forward once nothing else happens.
#[tokio::test]
async fn who_comes_and_stalls_is_hung_up_on_and_named() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    // Without a registry, whose own deadlines would pass, too.
    let roster = sites[0].peers.roster();
    drop((sites, server));
    let (near, far) = (node(0), node(1));
    let (socket, endpoint) = port().await;
    let roster = altered(&roster, |members| members[1].endpoints = vec![endpoint]);
    let near = Peers::new(&near, &roster).await.unwrap();
    let far = Peers::new(&far, &roster).await.unwrap();
    let mut site = Site { listener: far.listen(socket), peers: far };
    let (mut one, mut other) = link(&near, &mut site).await;
    let mut refusals = site.listener.refusals();
    let address = site.listener.local_addr().unwrap();

    // A hello as it is sent, caught by somebody who only listens.
    let hello = {
        let (listener, endpoint) = port().await;
        let there = altered(&roster, |members| members[1].endpoints = vec![endpoint]);
        let caught = Peers::new(&node(0), &there).await.unwrap();
        let catch = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = vec![0; 4096];
            let count = stream.read(&mut hello).await.unwrap();
            hello.truncate(count);
            hello
        };
        tokio::join!(caught.connect_once(1), catch).1
    };
    for words in [&b""[..], &hello[..100], &hello] {
        let mut stalling = TcpStream::connect(address).await.unwrap();
        stalling.write_all(words).await.unwrap();
        tokio::time::pause();
        let refused = refusal(&mut refusals).await;
        tokio::time::resume();
        let why = refused.why.to_string();
        assert!(matches!(&*refused.why, PeerError::Stalled(_)), "{why}");
        assert!(why.contains("no TLS handshake within 5000 ms"), "{why}");
        assert_eq!(refused.address, stalling.local_addr().unwrap());
        // And it is hung up on.
        stalling.read_to_end(&mut Vec::new()).await.unwrap();
        talk(&mut one, &mut other).await;
    }
    link(&near, &mut site).await;
}

/// More than may be under way at once, before a word or amid the hello; whoever means well is through at
/// once, and those who have waited for longest make room.
#[tokio::test]
async fn those_who_stall_keep_nobody_from_being_accepted() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let near = sites[0].peers.clone();
    let (mut one, mut other) = link(&near, &mut sites[1]).await;
    let mut refusals = sites[1].listener.refusals();
    let address = sites[1].listener.local_addr().unwrap();
    let mut stalled = Vec::new();
    for count in 0..150 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if count % 2 == 0 {
            stream.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
        }
        stalled.push(stream);
    }
    let (mut fresh, mut far) = link(&near, &mut sites[1]).await;
    let refused = refusal(&mut refusals).await;
    assert!(matches!(&*refused.why, PeerError::Crowded), "{refused:?}");
    assert_eq!(refused.address, stalled[0].local_addr().unwrap());
    talk(&mut fresh, &mut far).await;
    talk(&mut one, &mut other).await;
}

/// Nobody accepts, and everyone else's link comes about all the same, until the queue is full; then they
/// wait, and none is lost.
#[tokio::test]
async fn links_that_nobody_accepts_wait_and_are_bounded() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let near = sites[0].peers.clone();
    let mut links = tokio::task::JoinSet::new();
    for _ in 0..140 {
        let near = near.clone();
        links.spawn(async move { near.connect_within(1, Duration::from_secs(30)).await });
    }
    // As many as there is room for are through, while none is accepted.
    let mut through = Vec::new();
    while through.len() < 100 {
        through.push(links.join_next().await.unwrap().unwrap().unwrap());
    }
    for _ in 0..140 {
        accept(&mut sites[1].listener).await;
    }
    while let Some(link) = links.join_next().await {
        through.push(link.unwrap().unwrap());
    }
    assert_eq!(through.len(), 140);
}
