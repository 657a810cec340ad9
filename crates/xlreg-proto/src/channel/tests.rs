//! Where a message ends, however it arrives, in both dialects.

use proptest::prelude::*;

use super::*;
use crate::wire::Token;

const KEY: [u8; KEY_BYTES] = [9; KEY_BYTES];
const IV: [u8; BLOCK_BYTES] = [3; BLOCK_BYTES];
const DIALECTS: [Dialect; 2] = [Dialect::V1_8, Dialect::V1_9];

fn pair(dialect: Dialect) -> (Sealer, Opener) {
    (Channel::new(dialect, &KEY, IV).sealer, Channel::new(dialect, &KEY, IV).opener)
}

/// Messages of every length up to some blocks, with contents that look like padding.
fn messages() -> Vec<XlRegMsg> {
    let mut messages = vec![XlRegMsg { op: Some(11), ..Default::default() }, XlRegMsg::default()];
    for length in 0..70u8 {
        messages.push(XlRegMsg {
            op: Some(7),
            cluster_id: Some(vec![1; length.into()]),
            which: Some(1),
            ..Default::default()
        });
        let token = Token { sig_key: Some(vec![length % 17; 40]), ..Default::default() };
        messages.push(XlRegMsg {
            op: Some(10),
            tokens: vec![token; usize::from(length) / 8],
            ..Default::default()
        });
    }
    messages
}

#[test]
fn messages_arrive_whole_split_anywhere_and_glued() {
    for dialect in DIALECTS {
        for chunk in [1, 8, 15, 16, 17, usize::MAX] {
            let (mut sealer, mut opener) = pair(dialect);
            let mut wire = Vec::new();
            for (n, message) in messages().iter().enumerate() {
                wire.extend(sealer.seal(message, || [n as u8; BLOCK_BYTES]));
            }
            let mut got = Vec::new();
            for piece in wire.chunks(chunk.min(wire.len())) {
                opener.push(piece);
                // Glued messages may be many; the cap is on one, so take them as they complete.
                while let Ok(Some(message)) = opener.next_message() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages(), "{dialect}, pieces of {chunk}");
            assert!(!opener.is_partial());
        }
    }
}

#[test]
fn no_prefix_of_a_message_passes_for_one() {
    for dialect in DIALECTS {
        for message in messages() {
            let (mut sealer, _) = pair(dialect);
            let wire = sealer.seal(&message, || IV);
            for end in 0..wire.len() {
                let (_, mut opener) = pair(dialect);
                opener.push(&wire[..end]);
                assert_eq!(opener.next_message(), Ok(None), "{message:?} cut at {end}");
                opener.push(&wire[end..]);
                assert_eq!(opener.next_message(), Ok(Some(message.clone())));
            }
        }
    }
}

#[test]
fn rubbish_is_bounded_and_never_a_message_before_that() {
    for dialect in DIALECTS {
        let (_, mut opener) = pair(dialect);
        let mut pushed = 0;
        let error = loop {
            opener.push(&[0xEE; 1000]);
            pushed += 1000;
            if let Err(error) = opener.next_message() {
                break error;
            }
        };
        assert_eq!(error, TooLong);
        assert!(pushed <= MESSAGE_BYTES_MAX + 2000);
    }
}

/// A message that ended within a piece which went beyond the most was once taken, and the same in
/// other pieces was not.
#[test]
fn a_message_is_too_long_or_not_whatever_pieces_it_comes_in() {
    for dialect in DIALECTS {
        for (beyond, fits) in [(0, true), (BLOCK_BYTES, false), (2 * BLOCK_BYTES, false)] {
            let blocks = MESSAGE_BYTES_MAX + beyond;
            let filled =
                |bytes| XlRegMsg { cluster_id: Some(vec![1; bytes]), ..Default::default() };
            // Its last block is one byte short of being full.
            let overhead = filled(MESSAGE_BYTES_MAX).encoded_len() - MESSAGE_BYTES_MAX;
            let message = filled(blocks - 1 - overhead);
            assert_eq!(padded_len(message.encoded_len()), blocks);
            for chunk in [1, 16, 223, 2048, usize::MAX] {
                let (mut sealer, mut opener) = pair(dialect);
                let wire = sealer.seal(&message, || IV);
                let mut got = Ok(None);
                for piece in wire.chunks(chunk.min(wire.len())) {
                    opener.push(piece);
                    got = opener.next_message();
                    if got.is_err() {
                        break;
                    }
                }
                let expected = if fits { Ok(Some(message.clone())) } else { Err(TooLong) };
                assert_eq!(got, expected, "{dialect}, {beyond} bytes beyond, pieces of {chunk}");
            }
        }
    }
}

/// Seals whole blocks as they are, without padding, the way a hostile peer would.
fn seal_raw(blocks: &[u8]) -> Vec<u8> {
    let mut sealed = seal_once(&KEY, IV, blocks);
    sealed.truncate(blocks.len());
    sealed
}

/// What a hostile peer can do so that its bytes look like a message at each block. The work must
/// stay in proportion to the bytes.
#[test]
fn what_looks_like_a_message_at_every_block_is_looked_at_once() {
    let blocks = MESSAGE_BYTES_MAX / BLOCK_BYTES - 1;
    // Valid padding, before which a field is cut short: each field is walked over once.
    let cut_short = [[0xaa, 0x01, 0x00].repeat(4), vec![0x9a, 0x01, 0x01, 0x01]].concat();
    // Whole fields before valid padding, but no UTF-8 in a string: decoding is tried a few times.
    let no_text = [vec![0x72, 0x06], vec![0xff; 6], vec![0x08; 8]].concat();
    for (block, failures) in [(cut_short, 0), (no_text, DECODE_FAILURES_MAX)] {
        let (_, mut opener) = pair(Dialect::V1_8);
        opener.push(&seal_raw(&block.repeat(blocks)));
        assert!(matches!(opener.next_message(), Ok(None)));
        assert_eq!(opener.failures, failures);
        assert!(opener.fields >= (blocks - 1) * BLOCK_BYTES, "walked as far as there are fields");
    }
}

#[test]
fn sealed_length_is_as_told() {
    for dialect in DIALECTS {
        let (mut sealer, _) = pair(dialect);
        for message in messages() {
            let told = sealer.sealed_len(message.encoded_len());
            assert_eq!(sealer.seal(&message, || IV).len(), told);
        }
        for room in 33..200 {
            let most = sealer.plain_len_max(room);
            assert!(sealer.sealed_len(most) <= room && sealer.sealed_len(most + 1) > room);
        }
    }
}

#[test]
fn padding_is_taken_off_only_if_all_of_it_is_right() {
    for count in 0..=255u8 {
        let mut block = [count; BLOCK_BYTES];
        let expected = (1..=16).contains(&count).then(|| 16 - usize::from(count));
        assert_eq!(unpad(&block).map(<[u8]>::len), expected);
        if expected.is_some() && count > 1 {
            block[BLOCK_BYTES - usize::from(count)] ^= 0x40;
            assert_eq!(unpad(&block), None);
        }
    }
    assert_eq!(unpad(&[]), None);
    assert_eq!(unpad(&[1; 15]), None);
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics_and_room_stays_bounded(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..60),
        newer in any::<bool>(),
    ) {
        let (_, mut opener) = pair(DIALECTS[usize::from(newer)]);
        for piece in pieces {
            opener.push(&piece);
            while let Ok(Some(_)) = opener.next_message() {}
            if opener.next_message().is_err() {
                break;
            }
            prop_assert!(opener.sealed.len() <= MESSAGE_BYTES_MAX);
        }
    }
}
