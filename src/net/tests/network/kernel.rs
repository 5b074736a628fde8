//! What sockets do, on the fabric and on the host's kernel: the same steps, by the same handles, with the same outcome.

use std::{
    io,
    net::{Shutdown, SocketAddr},
};

use bytes::Bytes;
use vaquita_net::{Fabric, Listener, NetError, PodIdentity, PodNetwork, Stream};

use crate::tools::*;

const LOOPBACK: &str = "127.0.0.1:0";

/// What an operation came to, in a word.
fn word<T>(result: Result<T, NetError>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn io_word(result: io::Result<impl std::fmt::Debug>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

async fn connected(pod: &PodNetwork) -> (Listener, Stream, Stream) {
    let listener = pod.listen(addr(LOOPBACK)).unwrap();
    let near = pod.connect(listener.local_addr()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (listener, near, far)
}

async fn read(stream: &Stream) -> String {
    io_word(stream.read_bytes(100).await)
}

async fn write(stream: &Stream, text: &'static str) -> String {
    io_word(
        stream
            .write_bytes(Bytes::from_static(text.as_bytes()))
            .await,
    )
}

/// Writes until that fails: the news of the other end takes a moment over the kernel.
async fn write_on(stream: &Stream) -> &'static str {
    loop {
        if let Err(error) = stream.write_bytes(Bytes::from_static(b"more")).await {
            assert!(matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ));
            return "gone";
        }
        tokio::task::yield_now().await;
    }
}

/// A port that was just free.
fn free(pod: &PodNetwork) -> SocketAddr {
    pod.listen(addr(LOOPBACK)).unwrap().local_addr()
}

async fn binding(pod: &PodNetwork) -> Vec<String> {
    let first = pod.listen(addr(LOOPBACK)).unwrap();
    let port = first.local_addr().port();
    assert_ne!(port, 0);
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    let mut words = vec![
        word(pod.listen(at("127.0.0.1"))),
        word(pod.listen(at("0.0.0.0"))),
        word(pod.bind(at("127.0.0.1"))),
        // UDP has ports of its own.
        word(pod.bind_udp(at("127.0.0.1"))),
        word(pod.bind(addr("203.0.113.9:0"))),
        word(pod.bind_udp(addr("203.0.113.9:0"))),
    ];
    // Connections that were accepted do not hold the port.
    let near = pod.connect(first.local_addr()).await.unwrap();
    let (far, _) = first.accept().await.unwrap();
    drop(first);
    words.push(word(pod.listen(at("127.0.0.1"))));
    words.push(write(&near, "still there").await);
    words.push(read(&far).await);
    words
}

async fn connecting(pod: &PodNetwork) -> Vec<String> {
    let nobody = free(pod);
    let mut words = vec![word(pod.connect(nobody).await)];
    let listener = pod.listen(addr(LOOPBACK)).unwrap();
    let port = pod.bind(addr(LOOPBACK)).unwrap();
    let own = port.local_addr();
    let near = port.connect(listener.local_addr()).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    words.push(format!("{}", peer == own && near.local_addr() == own));
    words.push(format!("{}", near.peer_addr() == far.local_addr()));
    // It is connected before it is accepted, and reset if it never is.
    let waiting = pod.connect(listener.local_addr()).await.unwrap();
    words.push(write(&waiting, "hello").await);
    drop(listener);
    words.push(read(&waiting).await);
    words.push(write_on(&waiting).await.to_owned());
    words
}

async fn ends(pod: &PodNetwork) -> Vec<String> {
    let (_listener, near, far) = connected(pod).await;
    let mut words = vec![io_word(near.try_read(10))];
    // One direction may end before the other.
    words.push(write(&near, "last words").await);
    words.push(io_word(near.shutdown(Shutdown::Write)));
    words.push(io_word(near.shutdown(Shutdown::Write)));
    words.push(io_word(near.try_write_from(b"x")));
    words.push(read(&far).await);
    words.push(read(&far).await);
    words.push(read(&far).await);
    words.push(write(&far, "an answer").await);
    words.push(read(&near).await);
    drop(far);
    words.push(read(&near).await);

    // Who goes with something unread takes the connection along.
    let (_listener, near, far) = connected(pod).await;
    words.push(write(&near, "never read").await);
    far.read_ready().await;
    drop(far);
    words.push(read(&near).await);

    // Who goes in peace ends what it sent; what comes later is refused.
    let (_listener, near, far) = connected(pod).await;
    words.push(write(&far, "bye").await);
    drop(far);
    words.push(read(&near).await);
    words.push(read(&near).await);
    words.push(write_on(&near).await.to_owned());

    let (_listener, near, far) = connected(pod).await;
    near.reset();
    drop(near);
    words.push(read(&far).await);
    words
}

async fn pressure(pod: &PodNetwork) -> Vec<String> {
    let (_listener, near, far) = connected(pod).await;
    let piece = [7; 4096];
    let mut sent = 0;
    let full = loop {
        match near.try_write_from(&piece) {
            Ok(length) => sent += length,
            // The kernel may still be moving bytes from one buffer to the other.
            Err(error) => break error.kind(),
        }
    };
    let mut words = vec![format!("{full:?}"), format!("{}", sent >= piece.len())];
    let mut received = 0;
    while received < sent {
        received += far.read_bytes(1 << 20).await.unwrap().len();
    }
    near.write_ready().await;
    words.push(format!("{}", received == sent));
    words.push(io_word(near.try_write_from(b"goes on")));
    words
}

async fn datagrams(pod: &PodNetwork) -> Vec<String> {
    let sockets = [0, 1, 2].map(|_| pod.bind_udp(addr(LOOPBACK)).unwrap());
    let [near, far, other] = &sockets;
    let to = far.local_addr();
    let mut words = vec![word(
        far.try_recv_from().map(|none| assert!(none.is_none())),
    )];
    // Empty ones arrive, and so does the longest; a longer one does not leave.
    for length in [0, 1, 65_507, 65_508] {
        let sent = near.send_to(vec![1; length].into(), to);
        let is_sent = sent.is_ok();
        words.push(word(sent));
        if is_sent {
            let got = far.recv_from().await.unwrap();
            words.push(format!(
                "{} {}",
                got.data.len(),
                got.from == near.local_addr()
            ));
        }
    }
    // A connected one hears its peer only.
    near.connect(Some(to));
    other
        .send_to(Bytes::from_static(b"x"), near.local_addr())
        .unwrap();
    far.send_to(Bytes::from_static(b"yes"), near.local_addr())
        .unwrap();
    words.push(format!("{:?}", near.recv_from().await.unwrap().data));
    near.connect(None);
    other
        .send_to(Bytes::from_static(b"now"), near.local_addr())
        .unwrap();
    words.push(format!("{:?}", near.recv_from().await.unwrap().data));
    // What goes to nobody is lost without a word.
    let nobody = pod.bind_udp(addr(LOOPBACK)).unwrap().local_addr();
    words.push(word(other.send_to(Bytes::from_static(b"x"), nobody)));
    words.push(word(other.send_to(Bytes::from_static(b"x"), to)));
    words
}

fn networks() -> (Fabric, PodNetwork, PodNetwork) {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let host = fabric.attach_host(PodIdentity::default(), ip("127.0.0.1"));
    (fabric, pod, host)
}

macro_rules! same {
    ($($name:ident: $steps:ident;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let (_fabric, pod, host) = networks();
            assert_eq!($steps(&pod).await, $steps(&host).await);
        }
    )*};
}

same! {
    ports_are_bound_alike: binding;
    connections_are_made_alike: connecting;
    connections_end_alike: ends;
    writers_are_held_back_alike: pressure;
    datagrams_travel_alike: datagrams;
}
