//! Connections in memory, and a peer that does as it likes.

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::Stream;

fn pair() -> (Connection, Connection) {
    let (near, far) = duplex(4 << 10);
    let limits = Limits::default();
    (connect(near, limits.clone()), accept(far, limits))
}

async fn stream(client: &Connection, server: &Connection) -> (Stream, Stream) {
    let near = client.open(Headers::of(&[("streamType", "data")])).unwrap();
    let (far, headers) = server.accept().await.unwrap();
    assert_eq!(
        (headers.get("streamtype"), far.id()),
        (Some("data"), near.id())
    );
    (near, far)
}

async fn text(stream: &mut Stream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn halves_of_streams_end_one_by_one() {
    let (client, server) = pair();
    let (mut near, mut far) = stream(&client, &server).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(text(&mut far).await, "question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(text(&mut near).await, "answer");
    let late = near.write_all(b"late").await.unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_is_reset_and_the_others_go_on() {
    let (client, server) = pair();
    let (mut near, far) = stream(&client, &server).await;
    let (mut other, mut far_other) = stream(&client, &server).await;
    drop(far);
    let reset = near.read_u8().await.unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    assert!(near.write_all(b"x").await.is_err());
    other.write_all(b"still").await.unwrap();
    drop(other);
    let mut still = [0; 5];
    far_other.read_exact(&mut still).await.unwrap();
    assert_eq!(&still, b"still");
}

#[tokio::test(start_paused = true)]
async fn what_was_written_arrives_before_the_end_of_the_connection() {
    let (client, server) = pair();
    let (mut near, mut far) = stream(&client, &server).await;
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.map(|_| all)
    });
    let data = vec![7; 1 << 20];
    far.write_all(&data).await.unwrap();
    far.shutdown().await.unwrap();
    drop((far, server));
    assert_eq!(reading.await.unwrap().unwrap(), data);
    client.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_reader_and_memory_is_bounded() {
    let (client, server) = pair();
    let (mut near, mut far) = stream(&client, &server).await;
    let mut written = 0;
    let chunk = vec![0; 10_000];
    let until_stuck = async {
        loop {
            written += near.write(&chunk).await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), until_stuck)
            .await
            .is_err()
    );
    let limits = Limits::default();
    assert!(
        written <= limits.inbound + limits.outbound + 8 * CHUNK,
        "{written}"
    );
    let mut buffer = vec![0; written];
    far.read_exact(&mut buffer).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), near.write_all(&chunk))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn when_the_peer_is_gone_everything_ends() {
    let (near, far) = duplex(1024);
    let server = accept(far, Limits::default());
    let client = connect(near, Limits::default());
    let (near_stream, mut far_stream) = stream(&client, &server).await;
    drop((near_stream, client));
    assert!(matches!(far_stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    server.closed().await;
    assert!(server.accept().await.is_none());
    assert!(far_stream.write_all(b"x").await.is_err());
    assert!(server.open(Headers::default()).is_err());
}

#[tokio::test(start_paused = true)]
async fn too_many_streams_are_refused() {
    let (near, far) = duplex(64 << 10);
    let limits = Limits {
        streams: 2,
        ..Limits::default()
    };
    let (client, server) = (connect(near, Limits::default()), accept(far, limits));
    let _held = [
        stream(&client, &server).await,
        stream(&client, &server).await,
    ];
    let mut third = client.open(Headers::default()).unwrap();
    let refused = third.read_u8().await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection() {
    let (_near, far) = duplex(1024);
    let server = accept(far, Limits::default());
    let begin = tokio::time::Instant::now();
    assert!(server.accept().await.is_none());
    assert_eq!(begin.elapsed(), Limits::default().idle);
}

/// A peer that speaks in frames.
struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    fn of(io: DuplexStream) -> Self {
        let (encoder, decoder) = (Encoder::new(), Decoder::new(16 << 10));
        let buffer = BytesMut::new();
        Self {
            io,
            encoder,
            decoder,
            buffer,
        }
    }

    async fn say(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, id: u32) {
        let headers = Headers::of(&[("streamtype", "data")]);
        let (associated, priority, fin, unidirectional) = (0, 0, false, false);
        self.say(Frame::SynStream {
            id,
            associated,
            priority,
            fin,
            unidirectional,
            headers,
        })
        .await;
    }

    /// The next frame that is not a window update.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            while let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                if !matches!(frame, Frame::WindowUpdate { .. }) {
                    return Some(frame);
                }
            }
            self.buffer.reserve(CHUNK);
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_and_nonsense_is_reset() {
    let (near, far) = duplex(64 << 10);
    let (mut peer, server) = (Peer::of(near), accept(far, Limits::default()));
    peer.say(Frame::Ping(1)).await;
    assert_eq!(peer.hear().await, Some(Frame::Ping(1)));
    peer.open(3).await;
    assert!(matches!(
        peer.hear().await,
        Some(Frame::SynReply { id: 3, .. })
    ));
    // Numbers go up, and even ones are the server's.
    for id in [1, 3, 4] {
        peer.open(id).await;
        assert_eq!(peer.hear().await, Some(Frame::RstStream { id, code: 1 }));
    }
    let data = bytes::Bytes::from_static(b"x");
    peer.say(Frame::Data {
        id: 99,
        fin: false,
        data,
    })
    .await;
    assert_eq!(
        peer.hear().await,
        Some(Frame::RstStream { id: 99, code: 2 })
    );
    let (mut stream, _) = server.accept().await.unwrap();
    peer.say(Frame::RstStream { id: 3, code: 5 }).await;
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_counts_is_not_sent_more_than_its_window() {
    let (near, far) = duplex(1 << 20);
    let (mut peer, server) = (Peer::of(near), accept(far, Limits::default()));
    peer.say(Frame::Settings(vec![(INITIAL_WINDOW_SIZE, 10)]))
        .await;
    peer.open(1).await;
    let (mut stream, _) = server.accept().await.unwrap();
    let writing = tokio::spawn(async move { stream.write_all(&[1; 25]).await.map(|()| stream) });
    assert!(matches!(peer.hear().await, Some(Frame::SynReply { .. })));
    for (expected, grant) in [(10, 15), (15, 0)] {
        let Some(Frame::Data { data, .. }) = peer.hear().await else {
            panic!("no data");
        };
        assert_eq!(data.len(), expected);
        if grant > 0 {
            assert!(
                tokio::time::timeout(Duration::from_secs(1), peer.hear())
                    .await
                    .is_err()
            );
            peer.say(Frame::WindowUpdate {
                id: 1,
                delta: grant,
            })
            .await;
        }
    }
    writing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_sends_pings_without_reading_is_cut_off() {
    let (near, far) = duplex(256);
    let (mut peer, server) = (Peer::of(near), accept(far, Limits::default()));
    let mut pings = BytesMut::new();
    for id in 0..1000 {
        peer.encoder.encode(&Frame::Ping(id * 2 + 1), &mut pings);
    }
    let _ = peer.io.write_all(&pings).await;
    server.closed().await;
}

proptest! {
    #[test]
    fn no_bytes_panic_a_connection(bytes in proptest::collection::vec(any::<u8>(), 0..300), frame in any::<bool>()) {
        let mut bytes = bytes;
        if frame && bytes.len() > 8 {
            bytes[..3].copy_from_slice(&[0x80, 3, 0]);
            bytes[3] %= 12;
            bytes[5..7].copy_from_slice(&[0, 0]);
        }
        try_bytes(&bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = duplex(64 << 10);
            let server = accept(far, Limits::default());
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            while let Some((stream, _)) = server.accept().await {
                drop(stream);
            }
            server.closed().await;
        });
    }
}
