//! Peers that are refused, each with its reason, while everyone else goes on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use xlreg::peers::PeerRefused;
use xlreg::{Fingerprint, PeerError, Peers, PrivateKey, Roster, Unreached};
use xlreg_tls::{Admission, PeerTls, member_certificate, peer};

use super::support::{Site, accept, altered, link, node, port, private, refusal, sites, talk};
use crate::support::Running;

/// With a link open before, and one made after: a refusal disturbs neither.
async fn amid(server: &Running, refused: impl AsyncFnOnce(&mut Vec<Site>)) {
    let mut sites = sites(server, 3).await;
    let keep = sites[0].peers.clone();
    let (mut one, mut other) = link(&keep, &mut sites[1]).await;
    refused(&mut sites).await;
    talk(&mut one, &mut other).await;
    let (mut one, mut other) = link(&keep, &mut sites[1]).await;
    talk(&mut one, &mut other).await;
}

/// It is registered at the same registry, knows the roster, and is no member.
#[tokio::test]
async fn an_impostor_outside_the_roster_is_refused_by_either_side() {
    let server = Running::in_memory().await;
    amid(&server, async |sites| {
        let impostor = node(3);
        server.registry.register(&impostor).await.unwrap();
        let key = impostor.sig_key().fingerprint();
        let honest = sites[1].peers.roster();
        let (listener, endpoint) = port().await;

        // As one who comes, in its own name and in that of a member.
        for identity in [impostor.clone(), impostor.clone().with_name(node(0).name().clone())] {
            let own = Peers::new(&identity, &honest).await.unwrap();
            let mut refusals = sites[1].listener.refusals();
            let unreached = own.connect_once(1).await.unwrap_err();
            assert!(unreached.to_string().contains("UnknownCA"), "{unreached}");
            let refused = refusal(&mut refusals).await;
            assert_eq!(refused.key(), Some(key));
            assert!(refused.why.to_string().contains("not in the roster"), "{}", refused.why);
        }

        // As one who is come to, in a roster of its own in which it is a member.
        let forged = altered(&honest, |members| {
            members[1].sig_key = impostor.sig_key().clone();
            members[1].endpoints = vec![endpoint.clone()];
        });
        let own = Peers::new(&impostor, &forged).await.unwrap();
        let mut trap = own.listen(listener);
        let mut refusals = trap.refusals();
        let redirected = altered(&honest, |members| members[1].endpoints = vec![endpoint]);
        let victim = Peers::new(&node(0), &redirected).await.unwrap();
        let unreached = victim.connect_once(1).await.unwrap_err();
        assert!(matches!(
            unreached.why,
            PeerError::Refused(PeerRefused::Stranger { key: got }) if got == key
        ));
        refusal(&mut refusals).await;
        assert!(tokio::time::timeout(Duration::ZERO, trap.accept()).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_member_in_anothers_place_is_refused_and_both_are_named() {
    let server = Running::in_memory().await;
    amid(&server, async |sites| {
        let swapped = altered(&sites[0].peers.roster(), |members| {
            let (left, right) = members.split_at_mut(2);
            std::mem::swap(&mut left[1].endpoints, &mut right[0].endpoints);
        });
        let peers = Peers::new(&node(0), &swapped).await.unwrap();
        let unreached = peers.connect_once(1).await.unwrap_err();
        let says = unreached.to_string();
        assert!(says.starts_with("cannot reach n1 (rank 1) at 127.0.0.1:"), "{says}");
        assert!(says.ends_with("1 try in 0.0 s; the last: we refuse it: it is n2, and not n1"));
    })
    .await;
}

/// Takes whoever comes, to show it something.
#[derive(Debug)]
struct Everyone;

impl Admission for Everyone {
    fn admit(&self, _: &Fingerprint, _: Option<&Fingerprint>) -> Result<(), PeerRefused> {
        Ok(())
    }
}

/// A member by its roster, and what it shows, made by hand.
struct Forger {
    roster: Arc<Roster>,
    tls: PeerTls,
}

impl Forger {
    fn new(key: &PrivateKey, certificate: CertificateDer<'static>, roster: &Arc<Roster>) -> Self {
        let tls = PeerTls::new(key, certificate, Arc::new(Everyone)).unwrap();
        Self { roster: Arc::clone(roster), tls }
    }

    /// Comes to n1, and says how that ends.
    async fn come(&self) -> String {
        let n1 = &self.roster.members[1];
        let address = n1.endpoints[0].to_string();
        let name = peer::server_name(&n1.sig_key.fingerprint());
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = TlsConnector::from(self.tls.client()).connect(name, stream).await.unwrap();
        let ended = stream.read(&mut [0]).await;
        ended.err().map_or_else(String::new, |error| error.to_string())
    }

    /// Is come to, as n1, by n0.
    async fn trap(&self) -> Unreached {
        let (listener, endpoint) = port().await;
        let redirected = altered(&self.roster, |members| members[1].endpoints = vec![endpoint]);
        let victim = Peers::new(&node(0), &redirected).await.unwrap();
        let (config, _) = self.tls.server(Arc::new(Everyone), vec![]).unwrap();
        let trap = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(config).accept(stream).await.map(|_| ())
        };
        let (unreached, trapped) = tokio::join!(victim.connect_once(1), trap);
        assert!(trapped.is_err());
        unreached.unwrap_err()
    }
}

#[tokio::test]
async fn dates_that_are_over_or_not_begun_are_refused_by_either_side_and_named() {
    let server = Running::in_memory().await;
    amid(&server, async |sites| {
        let roster = sites[0].peers.roster();
        let day = Duration::from_secs(24 * 3600);
        for (from, says) in [
            (SystemTime::now() - 2 * day, "its certificate expired 86"),
            (SystemTime::now() + 2 * day, "its certificate begins only in 16"),
        ] {
            let key = private(1);
            let certificate = member_certificate(&key, &roster.members[1], from, day).unwrap();
            let forger = Forger::new(&key, certificate, &roster);
            let mut refusals = sites[1].listener.refusals();
            assert!(forger.come().await.contains("CertificateExpired"));
            let why = refusal(&mut refusals).await.why.to_string();
            assert!(why.contains(says), "{why}");
            let unreached = forger.trap().await;
            assert!(unreached.to_string().contains(says), "{unreached}");
            assert!(unreached.to_string().contains("n1 (rank 1) at 127.0.0.1:"), "{unreached}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_shows_a_members_certificate_without_its_key_is_refused_by_either_side() {
    let server = Running::in_memory().await;
    amid(&server, async |sites| {
        let roster = sites[0].peers.roster();
        let stolen = member_certificate(
            &private(1),
            &roster.members[1],
            SystemTime::now(),
            Duration::from_secs(60),
        );
        let forger = Forger::new(&private(3), stolen.unwrap(), &roster);
        let mut refusals = sites[1].listener.refusals();
        assert!(forger.come().await.contains("DecryptError"));
        assert!(matches!(&*refusal(&mut refusals).await.why, PeerError::NotItsKey));
        assert!(matches!(forger.trap().await.why, PeerError::NotItsKey));
    })
    .await;
}

/// By other libraries' listeners it only shows after a while that nobody objects; and what such a one
/// says first is not lost meanwhile.
#[tokio::test]
async fn a_listener_that_sends_no_tickets_is_reached_all_the_same() {
    let server = Running::in_memory().await;
    let sites = sites(&server, 2).await;
    let roster = sites[0].peers.roster();
    let (key, soon) = (private(1), Duration::from_secs(60));
    let certificate = member_certificate(&key, &roster.members[1], SystemTime::now(), soon);
    let other = Forger::new(&key, certificate.unwrap(), &roster);
    for speaks in [false, true] {
        let (listener, endpoint) = port().await;
        let there = altered(&roster, |members| members[1].endpoints = vec![endpoint]);
        let peers = Peers::new(&node(0), &there).await.unwrap();
        let (config, _) = other.tls.server(Arc::new(Everyone), vec![]).unwrap();
        let mut config = (*config).clone();
        config.send_tls13_tickets = 0;
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            if speaks {
                stream.write_all(b"welcome").await.unwrap();
                stream.flush().await.unwrap();
            }
            stream
        };
        let (link, mut stream) = tokio::join!(peers.connect_once(1), serve);
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        link.unwrap().read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, if speaks { "welcome" } else { "" });
    }
}

#[tokio::test]
async fn other_protocols_are_refused_and_the_same_agreed_on() {
    let server = Running::in_memory().await;
    let mut sites = sites(&server, 2).await;
    let (listener, endpoint) = port().await;
    let of_b = altered(&sites[0].peers.roster(), |members| members[1].endpoints = vec![endpoint]);
    let offering = |protocols| sites[1].peers.clone().with_protocols(protocols);
    let mut both = offering(&["b/1", "a/1"]).listen(listener);
    let near = Peers::new(&node(0), &of_b).await.unwrap();

    let agreed = near.clone().with_protocols(&["a/1", "b/1"]).connect(1).await.unwrap();
    assert_eq!(agreed.protocol(), Some(&b"b/1"[..]));
    assert_eq!(accept(&mut both).await.protocol(), Some(&b"b/1"[..]));
    let none = near.connect(1).await.unwrap();
    assert_eq!(none.protocol(), None);
    assert_eq!(accept(&mut both).await.protocol(), None);

    let mut refusals = both.refusals();
    let other = near.clone().with_protocols(&["c/1"]);
    let unreached = other.connect_once(1).await.unwrap_err();
    assert!(matches!(unreached.why, PeerError::OtherProtocol), "{unreached}");
    assert!(matches!(&*refusal(&mut refusals).await.why, PeerError::OtherProtocol));
    // A listener that offers none takes whatever is offered.
    let any = sites[0].peers.clone().with_protocols(&["c/1"]).connect(1).await.unwrap();
    assert_eq!(any.protocol(), None);
    accept(&mut sites[1].listener).await;
}
