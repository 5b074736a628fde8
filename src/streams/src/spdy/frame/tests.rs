use proptest::prelude::*;

use super::*;

fn headers() -> impl Strategy<Value = Headers> {
    proptest::collection::vec(("[a-z]{1,10}", "[ -~]{0,40}"), 0..5).prop_map(Headers)
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1..=NUMBER;
    let data = proptest::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from);
    prop_oneof![
        (
            id.clone(),
            id.clone(),
            0..8_u8,
            any::<bool>(),
            any::<bool>(),
            headers()
        )
            .prop_map(|(id, associated, priority, fin, unidirectional, headers)| {
                Frame::SynStream {
                    id,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers,
                }
            }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, code)| Frame::RstStream { id, code }),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), any::<u32>()).prop_map(|(last, code)| Frame::GoAway { last, code }),
        (id.clone(), id.clone()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        proptest::collection::vec((0..=LENGTH, any::<u32>()), 0..5).prop_map(Frame::Settings),
        (id, any::<bool>(), data).prop_map(|(id, fin, data)| Frame::Data { id, fin, data }),
    ]
}

/// Data frames in pieces become one again.
fn join(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        match (joined.last_mut(), frame) {
            (
                Some(Frame::Data { id, fin, data }),
                Frame::Data {
                    id: next,
                    fin: end,
                    data: more,
                },
            ) if open && *id == next => {
                *data = [&data[..], &more[..]].concat().into();
                *fin = end;
            }
            (_, frame) => joined.push(frame),
        }
        open = true;
    }
    joined
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(frames in proptest::collection::vec(frame(), 1..12), cut in 1..64_usize) {
        // Two data frames of one stream in a row could not be told from one in pieces.
        let mut frames = frames;
        frames.dedup_by(|a, b| matches!((&a, &b), (Frame::Data { .. }, Frame::Data { .. })));
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(16 << 10));
        let mut wire = BytesMut::new();
        for frame in &frames {
            encoder.encode(frame, &mut wire);
        }
        let (mut pending, mut decoded) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(cut) {
            pending.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut pending).unwrap() {
                decoded.push(frame);
            }
        }
        prop_assert!(pending.is_empty());
        prop_assert_eq!(join(decoded), frames);
    }

    #[test]
    fn no_bytes_panic_and_none_are_hoarded(bytes in proptest::collection::vec(any::<u8>(), 0..400), control in any::<bool>()) {
        let mut wire = BytesMut::from(&bytes[..]);
        if control && wire.len() > 8 {
            wire[..3].copy_from_slice(&[0x80, 3, 0]);
            wire[3] %= 12;
            wire[5..7].copy_from_slice(&[0, 0]);
        }
        let mut decoder = Decoder::new(1024);
        while let Ok(Some(_)) = decoder.decode(&mut wire) {}
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_there() {
    let mut wire = BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..]);
    assert_eq!(
        Decoder::new(1024).decode(&mut wire),
        Err(FrameError::TooLarge)
    );
    let mut wire = BytesMut::from(&[0x80, 2, 0, 1, 0, 0, 0, 0][..]);
    assert_eq!(
        Decoder::new(1024).decode(&mut wire),
        Err(FrameError::Version)
    );
}

#[test]
fn unknown_kinds_are_skipped_whatever_their_size() {
    let mut decoder = Decoder::new(1024);
    let mut wire = BytesMut::from(&[0x80, 3, 0, 99, 0, 1, 0, 0][..]);
    wire.extend_from_slice(&vec![7; 1 << 16]);
    Encoder::new().encode(&Frame::Ping(5), &mut wire);
    assert_eq!(decoder.decode(&mut wire), Ok(Some(Frame::Ping(5))));
}

#[test]
fn an_empty_last_frame_is_seen() {
    let mut wire = BytesMut::from(&[0, 0, 0, 9, 1, 0, 0, 0][..]);
    let (id, fin, data) = (9, true, Bytes::new());
    let frame = Frame::Data { id, fin, data };
    assert_eq!(Decoder::new(1024).decode(&mut wire), Ok(Some(frame)));
}
