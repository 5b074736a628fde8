//! Sessions in memory, from both ends: SPDY by our own client, WebSocket by a client of the library's.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{exec::*, forward::*};
use crate::{Connection, Headers, Limits, Stream, handshake, handshake::Accepted, spdy};

fn head(upgrade: &'static str, header: &'static str, protocol: &'static str) -> HeaderMap {
    let pairs = [
        ("connection", "Upgrade"),
        ("upgrade", upgrade),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        (header, protocol),
    ];
    pairs
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .into_iter()
        .collect()
}

fn over_spdy(protocol: &'static str) -> HeaderMap {
    head("SPDY/3.1", handshake::STREAM_PROTOCOL, protocol)
}

fn over_websocket(protocol: &'static str) -> HeaderMap {
    head("websocket", "sec-websocket-protocol", protocol)
}

async fn socket(io: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// What came on each channel until the end.
async fn channels(socket: &mut WebSocketStream<DuplexStream>) -> Vec<(u8, Vec<u8>)> {
    let mut channels: Vec<(u8, Vec<u8>)> = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else {
            continue;
        };
        let (id, data) = bytes.split_first().unwrap();
        match channels.iter_mut().find(|(own, _)| own == id) {
            Some((_, all)) => all.extend_from_slice(data),
            None => channels.push((*id, data.to_vec())),
        }
    }
    channels
}

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

/// Sends back what it reads, and how much it was.
async fn echo(mut session: ExecSession, outcome: Outcome) {
    let (mut stdin, mut stdout) = (
        session.stdin.take().unwrap(),
        session.stdout.take().unwrap(),
    );
    let count = tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    session.stdout = Some(stdout);
    if let Some(stderr) = &mut session.stderr {
        stderr
            .write_all(count.to_string().as_bytes())
            .await
            .unwrap();
    }
    session.finish(&outcome).await;
}

async fn serve_exec(io: DuplexStream, accepted: Accepted, wanted: Wanted, outcome: Outcome) {
    let session = ExecSession::open(io, &accepted, wanted, Limits::default()).await;
    echo(session.unwrap(), outcome).await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_client_of_v5_ends_its_input_and_learns_the_exit_code() {
    let (near, far) = duplex(1024);
    let accepted = handshake::exec(&over_websocket("v5.channel.k8s.io")).unwrap();
    let serving = tokio::spawn(serve_exec(far, accepted, ALL, Outcome::Exit(3)));
    let mut client = socket(near).await;
    let ready = client.next().await.unwrap().unwrap();
    assert_eq!(ready, Message::binary(vec![1]));
    for message in [
        &b"\0hello "[..],
        b"\x01ignored",
        b"\0world",
        b"\x09ignored",
        b"",
        &[255, 0],
    ] {
        client
            .send(Message::binary(message.to_vec()))
            .await
            .unwrap();
    }
    let channels = channels(&mut client).await;
    assert_eq!(channels[0], (1, b"hello world".to_vec()));
    assert_eq!(channels[1], (2, b"11".to_vec()));
    let status: Value = serde_json::from_slice(&channels[2].1).unwrap();
    assert_eq!(channels[2].0, 3);
    assert_eq!(
        (&status["reason"], &status["details"]["causes"]),
        (
            &json!("NonZeroExitCode"),
            &json!([{"reason": "ExitCode", "message": "3"}])
        )
    );
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn base64_clients_read_text() {
    let (near, far) = duplex(1024);
    let accepted = handshake::exec(&over_websocket("base64.channel.k8s.io")).unwrap();
    let wanted = Wanted {
        stdin: false,
        ..ALL
    };
    let session = ExecSession::open(far, &accepted, wanted, Limits::default()).await;
    let mut session = session.unwrap();
    session
        .stderr
        .as_mut()
        .unwrap()
        .write_all(b"oops")
        .await
        .unwrap();
    tokio::spawn(async move {
        session
            .finish(&Outcome::Failed("no such file".to_owned()))
            .await;
    });
    let mut client = socket(near).await;
    let mut texts = Vec::new();
    while let Some(Ok(Message::Text(text))) = client.next().await {
        texts.push(text.to_string());
    }
    assert_eq!(texts, ["1", "2b29wcw==", "3bm8gc3VjaCBmaWxl"]);
}

fn open(client: &Connection, kind: &str) -> Stream {
    client.open(Headers::of(&[("streamType", kind)])).unwrap()
}

async fn read(mut stream: Stream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

#[tokio::test(start_paused = true)]
async fn a_spdy_client_streams_much_and_learns_of_success() {
    let (near, far) = duplex(64 << 10);
    let accepted = handshake::exec(&over_spdy("v4.channel.k8s.io")).unwrap();
    tokio::spawn(serve_exec(far, accepted, ALL, Outcome::Success));
    let client = spdy::connect(near, Limits::default());
    let error = open(&client, "error");
    let mut stdin = open(&client, "stdin");
    let (stdout, stderr) = (open(&client, "stdout"), open(&client, "stderr"));
    let size = 8 << 20;
    tokio::spawn(async move {
        let chunk = vec![9; 1 << 20];
        for _ in 0..8 {
            stdin.write_all(&chunk).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
        // Held until the end, as clients do.
        let _ = stdin.read_u8().await;
    });
    let (stdout, stderr, error) = tokio::join!(read(stdout), read(stderr), read(error));
    assert!(stdout.len() == size && stdout.iter().all(|byte| *byte == 9));
    assert_eq!(stderr, size.to_string().as_bytes());
    assert_eq!(
        serde_json::from_slice::<Value>(&error).unwrap(),
        json!({"metadata": {}, "status": "Success"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_terminal_has_sizes_and_no_stderr() {
    let (near, far) = duplex(1024);
    let accepted = handshake::exec(&over_spdy("v3.channel.k8s.io")).unwrap();
    let wanted = Wanted { tty: true, ..ALL };
    let client = spdy::connect(near, Limits::default());
    let mut streams = Vec::new();
    for kind in ["error", "stdin", "stdout", "resize"] {
        streams.push(open(&client, kind));
    }
    let session = ExecSession::open(far, &accepted, wanted, Limits::default()).await;
    let mut session = session.unwrap();
    assert!(session.stderr.is_none());
    let resize = streams.last_mut().unwrap();
    resize
        .write_all(b"{\"Width\":80,\"Height\":24}\n{\"Width\":1")
        .await
        .unwrap();
    let resizes = session.resizes.as_mut().unwrap();
    let (width, height) = (80, 24);
    assert_eq!(resizes.next().await, Some(TerminalSize { width, height }));
    resize.write_all(b"32,\"Height\":50}").await.unwrap();
    let (width, height) = (132, 50);
    assert_eq!(resizes.next().await, Some(TerminalSize { width, height }));
    resize.write_all(b"nonsense").await.unwrap();
    assert_eq!(resizes.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_little_or_leaves_is_given_up() {
    let accepted = handshake::exec(&over_spdy("v4.channel.k8s.io")).unwrap();
    let (near, far) = duplex(1024);
    let client = spdy::connect(near, Limits::default());
    let _error = open(&client, "error");
    let begun = ExecSession::open(far, &accepted, ALL, Limits::default()).await;
    assert_eq!(begun.unwrap_err(), SessionError::TooSlow);
    let (near, far) = duplex(1024);
    drop(near);
    let begun = ExecSession::open(far, &accepted, ALL, Limits::default()).await;
    assert_eq!(begun.unwrap_err(), SessionError::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_is_noticed() {
    let (near, far) = duplex(1024);
    let accepted = handshake::exec(&over_websocket("v4.channel.k8s.io")).unwrap();
    let session = ExecSession::open(far, &accepted, ALL, Limits::default()).await;
    let mut session = session.unwrap();
    let gone = session.gone();
    drop(near);
    gone.await;
    assert!(session.stdin.as_mut().unwrap().read_u8().await.is_err());
    assert!(
        session
            .stdout
            .as_mut()
            .unwrap()
            .write_all(b"x")
            .await
            .is_err()
    );
    session.finish(&Outcome::Success).await;
}

/// Port 80 sends back what it gets; nothing listens elsewhere.
async fn dial(port: u16) -> Result<DuplexStream, String> {
    if port != 80 {
        return Err(format!(
            "error forwarding port {port} to pod p: connection refused"
        ));
    }
    let (near, far) = duplex(1024);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(far);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    Ok(near)
}

async fn serve_forward(io: DuplexStream, accepted: Accepted, ports: &[u16]) {
    let session = ForwardSession::open(io, &accepted, ports, Limits::default()).await;
    tokio::spawn(serve(session, dial));
}

fn pair(client: &Connection, port: &str, id: &str) -> (Stream, Stream) {
    let open = |kind| {
        let headers = [("streamType", kind), ("port", port), ("requestID", id)];
        client.open(Headers::of(&headers)).unwrap()
    };
    (open("error"), open("data"))
}

async fn forwards_pairs(client: Connection) {
    let (error, mut data) = pair(&client, "80", "0");
    let (refused, _data) = pair(&client, "81", "1");
    let (second_error, mut second) = pair(&client, "80", "2");
    second.write_all(b"two").await.unwrap();
    data.write_all(b"one").await.unwrap();
    second.shutdown().await.unwrap();
    assert_eq!(read(second).await, b"two");
    let mut one = [0; 3];
    data.read_exact(&mut one).await.unwrap();
    assert_eq!(&one, b"one");
    data.shutdown().await.unwrap();
    assert_eq!(read(data).await, b"");
    assert_eq!(read(error).await, b"");
    assert_eq!(read(second_error).await, b"");
    let why = String::from_utf8(read(refused).await).unwrap();
    assert_eq!(why, "error forwarding port 81 to pod p: connection refused");
}

#[tokio::test(start_paused = true)]
async fn ports_are_forwarded_over_spdy() {
    let (near, far) = duplex(64 << 10);
    let accepted = handshake::port_forward(&over_spdy("portforward.k8s.io")).unwrap();
    serve_forward(far, accepted, &[]).await;
    forwards_pairs(spdy::connect(near, Limits::default())).await;
}

#[tokio::test(start_paused = true)]
async fn ports_are_forwarded_through_a_tunnel() {
    let (near, far) = duplex(64 << 10);
    let accepted = handshake::port_forward(&over_websocket("SPDY/3.1+portforward.k8s.io")).unwrap();
    serve_forward(far, accepted, &[]).await;
    // The client's end of the tunnel, as messages.
    let (inside, outside) = duplex(64 << 10);
    tokio::spawn(async move {
        let (mut sink, mut stream) = socket(near).await.split();
        let (mut read, mut write) = tokio::io::split(outside);
        let up = async {
            let mut buffer = vec![0; 999];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                sink.send(Message::binary(buffer[..count].to_vec()))
                    .await
                    .unwrap();
            }
        };
        let down = async {
            while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
                write.write_all(&bytes).await.unwrap();
            }
        };
        tokio::join!(up, down);
    });
    forwards_pairs(spdy::connect(inside, Limits::default())).await;
}

#[tokio::test(start_paused = true)]
async fn ports_are_forwarded_over_channels() {
    let (near, far) = duplex(1024);
    let accepted = handshake::port_forward(&over_websocket("v4.channel.k8s.io")).unwrap();
    serve_forward(far, accepted, &[80, 0x1234]).await;
    let mut client = socket(near).await;
    for expected in [[0, 80, 0], [1, 80, 0], [2, 0x34, 0x12], [3, 0x34, 0x12]] {
        let begin = client.next().await.unwrap().unwrap();
        assert_eq!(begin, Message::binary(expected.to_vec()));
    }
    client
        .send(Message::binary(b"\0ping".to_vec()))
        .await
        .unwrap();
    let mut seen = [
        client.next().await.unwrap().unwrap(),
        client.next().await.unwrap().unwrap(),
    ];
    seen.sort_by_key(|message| message.clone().into_data()[0]);
    assert_eq!(seen[0], Message::binary(b"\0ping".to_vec()));
    let why = b"\x03error forwarding port 4660 to pod p: connection refused".to_vec();
    assert_eq!(seen[1], Message::Binary(Bytes::from(why)));
}

#[tokio::test(start_paused = true)]
async fn half_a_pair_is_not_kept_for_ever() {
    let (near, far) = duplex(64 << 10);
    let accepted = handshake::port_forward(&over_spdy("portforward.k8s.io")).unwrap();
    serve_forward(far, accepted, &[]).await;
    let client = spdy::connect(near, Limits::default());
    let open = |port: &str| {
        let headers = [("streamType", "data"), ("port", port), ("requestID", "7")];
        client.open(Headers::of(&headers)).unwrap()
    };
    let begin = tokio::time::Instant::now();
    let (mut half, mut bad) = (open("80"), open("0"));
    assert!(bad.read_u8().await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(half.read_u8().await.is_err());
    assert!(begin.elapsed() >= Limits::default().creation);
}
