//! Every captured session of the original servers, byte for byte: what they sent is read, and
//! with the randomness they drew, our side writes the same.

use data_encoding::HEXLOWER;
use prost::Message as _;
use serde_json::Value;
use xlreg_core::Version;
use xlreg_proto::channel::{Channel, Dialect};
use xlreg_proto::hello::{ClientHello, Hello, Secrets};
use xlreg_proto::keys::PrivateKey;
use xlreg_proto::message::{Reply, Request};
use xlreg_proto::wire::XlRegMsg;

struct Capture {
    key: PrivateKey,
    sessions: Vec<Value>,
}

fn captures() -> Vec<Capture> {
    let texts =
        [include_str!("../vectors/session-1.8.json"), include_str!("../vectors/session-1.9.json")];
    let read = |text: &str| {
        let json: Value = serde_json::from_str(text).unwrap();
        let key = bytes(&json["server_comms_private_key_pkcs1_der"]);
        Capture {
            key: PrivateKey::from_pkcs1(&key).unwrap(),
            sessions: json["sessions"].as_array().unwrap().clone(),
        }
    };
    texts.map(read).into()
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn dialect(session: &Value) -> Dialect {
    match session["dialect"].as_str().unwrap() {
        "1.8" => Dialect::V1_8,
        "1.9" => Dialect::V1_9,
        other => panic!("dialect {other}"),
    }
}

/// The IV that a 1.9 packet starts with; 1.8 never reads it.
fn iv(wire: &[u8]) -> [u8; 16] {
    *wire.first_chunk().unwrap()
}

/// What the client drew for its hello.
fn client_secrets(session: &Value) -> Secrets {
    let hello = &session["hello"];
    let iv1 = hello.get("iv1").map_or([0; 16], array);
    Secrets::from_parts(iv1, array(&hello["key1"]), array(&hello["salt1"]))
}

/// What the server drew for its reply.
fn server_secrets(session: &Value) -> Secrets {
    let reply = &session["hello_reply"];
    let clear_iv = || iv(&bytes(&session["wire_hello_reply"]));
    let iv2 = reply.get("iv2").map_or_else(clear_iv, array);
    Secrets::from_parts(iv2, array(&reply["key2"]), array(&reply["salt2"]))
}

fn version(session: &Value) -> Version {
    Version::from_bytes(array(&session["hello_reply"]["version2"]))
}

/// The stream that both ends held after the hello.
fn channel(session: &Value) -> Channel {
    let reply = &session["hello_reply"];
    let iv2 = reply.get("iv2").map_or([0; 16], array);
    Channel::new(dialect(session), &array(&reply["key2"]), iv2)
}

#[test]
fn the_server_opens_each_hello_and_writes_the_very_reply() {
    let mut seen = 0;
    for capture in captures() {
        for session in &capture.sessions {
            let hello = Hello::open(&capture.key, &bytes(&session["wire_hello"])).unwrap();
            assert_eq!(hello.dialect(), dialect(session));
            assert_eq!(hello.version(), Version::from_bytes(array(&session["hello"]["version1"])));
            let (reply, _) = hello.accept(version(session), &server_secrets(session));
            assert_eq!(reply, bytes(&session["wire_hello_reply"]));
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} sessions in the vectors");
}

#[test]
fn the_client_opens_each_reply_and_agrees_on_the_stream() {
    for capture in captures() {
        for session in &capture.sessions {
            let (client, packet) = ClientHello::new(
                dialect(session),
                capture.key.public(),
                Version::from_bytes([0; 4]),
                client_secrets(session),
            )
            .unwrap();
            // OAEP draws a seed of its own, so the block differs; what it says must not.
            let said = capture.key.open(&packet).unwrap();
            let recorded = capture.key.open(&bytes(&session["wire_hello"])).unwrap();
            assert_eq!(*said, *recorded);

            let (mut stream, told) = client.finish(&bytes(&session["wire_hello_reply"])).unwrap();
            assert_eq!(told, version(session));
            for message in session["messages"].as_array().unwrap() {
                if message["from"] == "server" {
                    stream.opener.push(&bytes(&message["wire"]));
                    let got = stream.opener.next_message().unwrap().unwrap();
                    assert_eq!(got.encode_to_vec(), bytes(&message["protobuf"]));
                }
            }
        }
    }
}

#[test]
fn each_message_is_decrypted_decoded_encoded_and_encrypted_to_the_same_bytes() {
    let mut seen = 0;
    for capture in captures() {
        for session in &capture.sessions {
            // One end's view of each direction: what one seals, the other opens.
            let (mut client, mut server) = (channel(session), channel(session));
            for message in session["messages"].as_array().unwrap() {
                let wire = bytes(&message["wire"]);
                let (speaker, hearer) = match message["from"].as_str().unwrap() {
                    "client" => (&mut client, &mut server),
                    _ => (&mut server, &mut client),
                };
                hearer.opener.push(&wire);
                let got = hearer.opener.next_message().unwrap().expect("a whole message");
                assert!(!hearer.opener.is_partial());
                assert_eq!(got.encode_to_vec(), bytes(&message["protobuf"]));
                let meant = encode_anew(&got, message);
                assert_eq!(meant, got);
                assert_eq!(speaker.sealer.seal(&meant, || iv(&wire)), wire);
                seen += 1;
            }
        }
    }
    assert!(seen >= 30, "only {seen} messages in the vectors");
}

/// By way of the registry's own types, so that these lose nothing either.
fn encode_anew(got: &XlRegMsg, recorded: &Value) -> XlRegMsg {
    if recorded["from"] == "client" {
        let request = Request::decode(got.clone()).unwrap();
        if let Request::Member(claim) = &request {
            claim.clone().prove().expect("the original client's signature verifies");
        }
        request.encode()
    } else {
        Reply::decode(got.clone()).unwrap().encode()
    }
}

#[test]
fn a_byte_changed_in_a_claim_breaks_its_signature() {
    for capture in captures() {
        for session in &capture.sessions {
            let member = &session["messages"][0];
            let msg = XlRegMsg::decode(bytes(&member["protobuf"]).as_slice()).unwrap();
            let changes: [fn(&mut XlRegMsg); 4] = [
                |msg| msg.member_specs.as_mut().unwrap().name.as_mut().unwrap().push('x'),
                |msg| *msg.member_specs.as_mut().unwrap().attrs.as_mut().unwrap() ^= 1,
                |msg| msg.member_specs.as_mut().unwrap().my_ends.push("h:1".to_owned()),
                |msg| msg.member_specs.as_mut().unwrap().dig_sig.as_mut().unwrap()[9] ^= 1,
            ];
            for change in changes {
                let mut msg = msg.clone();
                change(&mut msg);
                let Ok(Request::Member(claim)) = Request::decode(msg) else {
                    panic!("a claim still");
                };
                assert!(claim.prove().is_err());
            }
        }
    }
}
