use std::error::Error;

use proptest::prelude::*;
use xlreg_core::ClusterId;

use super::*;

/// The fingerprint is 32 times 0xFB, which has both of base64url's own characters.
const KEY_TEXT: &str = "-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s";
const TOKEN_TEXT: &str = "xlt_32v353yaaebagbafaydqqcikbmga2dqp";

fn full() -> String {
    format!("xlreg://reg.example.org:7000,[::1]:7000/alpha?key={KEY_TEXT}&token={TOKEN_TEXT}")
}

/// The error with what caused it, as a user would see it.
fn chain(error: &InvitationError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn refusal(text: &str) -> InvitationError {
    text.parse::<Invitation>().expect_err(text)
}

#[test]
fn an_invitation_says_where_who_what_and_what_with() {
    let invitation: Invitation = full().parse().unwrap();
    let endpoints: Vec<_> = invitation.endpoints().iter().map(Endpoint::as_str).collect();
    assert_eq!(endpoints, ["reg.example.org:7000", "[::1]:7000"]);
    assert_eq!(invitation.endpoints()[1].host(), "::1");
    assert_eq!(invitation.sig_key(), Fingerprint::from_bytes([0xFB; 32]));
    assert_eq!(invitation.cluster(), &ClusterKey::Name("alpha".parse().unwrap()));
    assert_eq!(invitation.token().unwrap().as_str(), TOKEN_TEXT);
    assert_eq!(*invitation.to_text(), full());
}

#[test]
fn a_cluster_may_be_named_by_its_id_and_need_no_token() {
    let text = format!("xlreg://127.0.0.1:1/{}?key={KEY_TEXT}", "a5".repeat(20));
    let invitation: Invitation = text.parse().unwrap();
    assert_eq!(invitation.cluster(), &ClusterKey::Id(ClusterId::from_bytes([0xA5; 20])));
    assert!(invitation.token().is_none());
    assert_eq!(*invitation.to_text(), text);
}

#[test]
fn what_later_versions_add_is_skipped() {
    let text = full().replace("?key", "?new_thing=a=b/c?d,e&empty=&key");
    assert_eq!(*text.parse::<Invitation>().unwrap().to_text(), full());
}

#[test]
fn debug_hides_the_token() {
    let shown = format!("{:?}", full().parse::<Invitation>().unwrap());
    assert!(shown.contains("***") && !shown.contains(&TOKEN_TEXT[4..]), "{shown}");
}

#[test]
fn what_is_missing_is_named() {
    for (text, what) in [
        ("xlreg://", "the registry's address"),
        ("xlreg:///alpha?key=x", "the registry's address"),
        ("xlreg://h:1", "the cluster"),
        ("xlreg://h:1/", "the cluster"),
        ("xlreg://h:1?key=x", "the cluster"),
        ("xlreg://h:1/alpha", "the registry's key"),
        (&format!("xlreg://h:1/alpha?token={TOKEN_TEXT}"), "the registry's key"),
    ] {
        assert_eq!(refusal(text), InvitationError::Missing { what }, "{text}");
    }
}

#[test]
fn near_misses_are_refused_and_the_place_is_told() {
    let nine = ["h:1"; 9].join(",");
    let endless = format!("{}&x={}", full(), "y".repeat(INVITATION_BYTES_MAX));
    for (from, to, told) in [
        ("xlreg://", "", "begins otherwise"),
        ("xlreg://", "XLREG://", "begins otherwise"),
        ("xlreg://", "xlreg:/", "begins otherwise"),
        ("xlreg://", "https://", "begins otherwise"),
        ("xlreg://", " xlreg://", "byte 0 is a blank"),
        ("/alpha", "/al pha", "byte 42 is a blank"),
        ("/alpha", "/älpha", "byte 40 is a blank"),
        ("[::1]:7000", "::1:7000", "address 2 in the invitation: an endpoint is HOST:PORT"),
        ("[::1]:7000", "", "address 2"),
        ("[::1]:7000", "[::1]", "address 2"),
        ("[::1]:7000", "[::1]:0", "address 2"),
        ("reg.example.org", "me@reg.example.org", "address 1"),
        ("[::1]:7000", &nine, "at most 8 addresses, got 10"),
        ("/alpha", "/7up", "the cluster in the invitation: a name is"),
        ("/alpha", "/alpha/", "the cluster"),
        ("/alpha", "//alpha", "the cluster"),
        ("/alpha", "/al%70ha", "the cluster"),
        ("?key=-", "?key=", "\"key\" in the invitation must be 32 bytes"),
        ("?key=-_v7", "?key=-_v", "\"key\""),
        ("?key=-_v7", "?key=", "\"key\""),
        ("?key=-_v7", "?key=+/v7", "\"key\""),
        ("-_s&", "-_s=&", "\"key\""),
        ("-_s&", "-_t&", "\"key\""),
        ("-_s&", "-_s#", "\"key\""),
        ("?key=", "?Key=", "parameter 1 in the invitation is not WORD=VALUE"),
        ("?key=", "??key=", "parameter 1"),
        ("?key=", "?&key=", "parameter 1"),
        ("&token=", "&=", "parameter 2"),
        ("&token=", "&TOKEN=", "parameter 2"),
        ("&token=", "&&token=", "parameter 2"),
        ("&token=", "&token&token=", "parameter 2"),
        ("&token=", "&key=x&token=", "parameter 2 in the invitation repeats"),
        ("&token=", "&x=1&x=1&token=", "parameter 3 in the invitation repeats"),
        (TOKEN_TEXT, "", "\"token\" in the invitation: a join token begins with"),
        ("dqp", "dq", "a join token has 36 characters, got 35"),
        ("dqp", "dqP", "a join token has only"),
        ("dqp", "dqp&", "parameter 3"),
        ("dqp", "dqp\n", "is a blank"),
        (&full(), &endless, "at most 4096 bytes"),
        (&full(), "", "begins otherwise"),
    ] {
        let text = full().replacen(from, to, 1);
        let error = chain(&refusal(&text));
        assert!(error.contains(told), "{text}: {error}");
        assert!(!error.contains(&TOKEN_TEXT[4..20]), "{error}");
    }
}

#[test]
fn an_invitation_that_could_not_be_read_back_is_not_made() {
    let endpoint: Endpoint = "h:1".parse().unwrap();
    let key = Fingerprint::from_bytes([1; 32]);
    let alpha = ClusterKey::Name("alpha".parse().unwrap());
    let like_id = ClusterKey::Name("aB".repeat(20).parse().unwrap());
    let new = |count, cluster: &ClusterKey| {
        Invitation::new(vec![endpoint.clone(); count], key, cluster.clone(), None)
    };
    assert!(matches!(new(0, &alpha), Err(InvitationError::Missing { .. })));
    assert!(matches!(new(9, &alpha), Err(InvitationError::TooManyEndpoints { got: 9 })));
    assert!(matches!(new(1, &like_id), Err(InvitationError::NameLikeId)));
    assert!(new(8, &alpha).is_ok());
}

#[test]
fn the_longest_invitation_fits() {
    let label = "a".repeat(63);
    let host = format!("{label}.{label}.{label}.{}", "a".repeat(62));
    let endpoint: Endpoint = format!("{host}:65535").parse().unwrap();
    let cluster = ClusterKey::Name("n".repeat(128).parse().unwrap());
    let token = TokenSecret::from_random([7; 4], [8; 16]);
    let key = Fingerprint::from_bytes([1; 32]);
    let longest = Invitation::new(vec![endpoint; 8], key, cluster, Some(token)).unwrap();
    assert!(longest.to_text().len() < INVITATION_BYTES_MAX);
    assert!(Invitation::parse(&longest.to_text()).is_ok());
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        "[a-z][a-zA-Z0-9_]{0,20}(\\.[a-z0-9]{1,8}){0,3}",
    ];
    (host, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}").parse().unwrap())
}

fn any_cluster() -> impl Strategy<Value = ClusterKey> {
    prop_oneof![
        any::<[u8; 20]>().prop_map(|id| ClusterKey::Id(ClusterId::from_bytes(id))),
        "[A-Za-z_][A-Za-z0-9_]{0,38}".prop_map(|name| ClusterKey::Name(name.parse().unwrap())),
    ]
}

fn any_invitation() -> impl Strategy<Value = Invitation> {
    let token =
        any::<([u8; 4], [u8; 16])>().prop_map(|(id, random)| TokenSecret::from_random(id, random));
    let endpoints = prop::collection::vec(any_endpoint(), 1..=INVITATION_ENDPOINTS_MAX);
    (endpoints, any::<[u8; 32]>(), any_cluster(), prop::option::of(token)).prop_map(
        |(endpoints, key, cluster, token)| {
            Invitation::new(endpoints, Fingerprint::from_bytes(key), cluster, token).unwrap()
        },
    )
}

proptest! {
    #[test]
    fn an_invitation_survives_its_text(invitation in any_invitation()) {
        let text = invitation.to_text();
        let again = Invitation::parse(&text).unwrap();
        prop_assert_eq!(again.endpoints(), invitation.endpoints());
        prop_assert_eq!(again.sig_key(), invitation.sig_key());
        prop_assert_eq!(again.cluster(), invitation.cluster());
        let secret = |of: &Invitation| of.token().map(|token| token.as_str().to_owned());
        prop_assert_eq!(secret(&again), secret(&invitation));
        prop_assert_eq!(again.to_text(), text);
    }

    #[test]
    fn no_text_at_all_makes_it_panic(text in any::<String>()) {
        let _ = Invitation::parse(&text);
        let _ = Invitation::parse(&format!("xlreg://{text}"));
    }

    #[test]
    fn no_mixture_of_parts_makes_it_panic(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "xlreg://", "/", "?", "&", "=", ",", "key=", "token=", "xlt_", "h:1", "[::1]:1",
                "alpha", KEY_TEXT, TOKEN_TEXT, "[", "]", ":", "%", "#", "é", "\0", "x",
            ]),
            0..20,
        ),
    ) {
        let text = parts.concat();
        if let Ok(invitation) = Invitation::parse(&text) {
            prop_assert!(Invitation::parse(&invitation.to_text()).is_ok());
        }
    }

    #[test]
    fn no_damage_makes_it_panic_or_say_the_secret(
        at in any::<prop::sample::Index>(),
        removed in 0..4_usize,
        added in "\\PC{0,4}",
    ) {
        let mut text = full();
        let at = at.index(text.len());
        text.replace_range(at..(at + removed).min(full().len()), &added);
        if let Err(error) = Invitation::parse(&text) {
            prop_assert!(!chain(&error).contains(&TOKEN_TEXT[8..20]));
        }
    }
}
