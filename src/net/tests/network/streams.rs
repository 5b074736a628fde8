//! Streams as tasks use them: tokio's traits, half close, sockets of the host, the node's own dials.

use std::{
    io::ErrorKind,
    net::{Shutdown, SocketAddr},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use vaquita_net::{Fabric, Listener, NetError, PodNetwork, Stream};

use crate::tools::*;

fn server(fabric: &Fabric) -> (PodNetwork, Listener) {
    let pod = fabric.attach(None).unwrap();
    let listener = pod.listen(addr("0.0.0.0:80")).unwrap();
    (pod, listener)
}

/// A client of the host, and the stream that the pod gets for it.
async fn from_host(fabric: &Fabric, pod: &PodNetwork, listener: &Listener) -> (TcpStream, Stream) {
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(outer.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = outer.accept().await.unwrap();
    fabric.deliver(at(pod, 80), socket, peer).await.unwrap();
    let (stream, seen) = listener.accept().await.unwrap();
    assert_eq!(seen, peer);
    assert_eq!(stream.local_addr(), at(pod, 80));
    assert!(stream.is_host());
    (client, stream)
}

#[tokio::test]
async fn tokio_can_read_and_write_them() {
    let fabric = fabric_with(|config| config.buffer = 100);
    let (pod, listener) = server(&fabric);
    let client = fabric.attach(None).unwrap();
    let (mut near, far) = join(&client, &listener, at(&pod, 80)).await;
    let data: Vec<u8> = (0..10_000u32).map(|at| (at % 251) as u8).collect();
    let echo = tokio::spawn(async move {
        let (mut reader, mut writer) = (&far, &far);
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        far.shutdown(Shutdown::Write).unwrap();
    });
    let (mut reader, mut writer) = tokio::io::split(&mut near);
    let writing = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut read = Vec::new();
    let ((), length) = tokio::join!(writing, reader.read_to_end(&mut read));
    assert_eq!(length.unwrap(), data.len());
    assert_eq!(read, data);
    echo.await.unwrap();
}

#[tokio::test]
async fn vectored_writes_keep_their_order() {
    let fabric = fabric_with(|config| config.buffer = 10);
    let (pod, listener) = server(&fabric);
    let client = fabric.attach(None).unwrap();
    let (near, far) = join(&client, &listener, at(&pod, 80)).await;
    let slices = [b"abcdef".as_slice(), b"", b"ghijklm", b"nop"].map(std::io::IoSlice::new);
    assert_eq!((&near).write_vectored(&slices).await.unwrap(), 10);
    assert_eq!(far.read_bytes(100).await.unwrap(), "abcdefghij");
}

#[tokio::test]
async fn bytes_wait_for_room() {
    let fabric = fabric_with(|config| config.buffer = 10);
    let (pod, listener) = server(&fabric);
    let client = fabric.attach(None).unwrap();
    let (near, far) = join(&client, &listener, at(&pod, 80)).await;
    assert_eq!(near.write_room().unwrap(), 10);
    let mut data = Bytes::from_static(b"0123456789abcdef");
    assert_eq!(near.try_write(&mut data).unwrap(), 10);
    assert_eq!(data, "abcdef");
    assert_eq!(near.write_room().unwrap(), 0);
    let mut writing = Box::pin(near.write_bytes(data));
    assert!(futures::poll!(&mut writing).is_pending());
    assert_eq!(far.try_read(100).unwrap(), "0123456789");
    writing.await.unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    assert_eq!(far.try_read(100).unwrap(), "abcdef");
    assert_eq!(far.try_read(100).unwrap(), "");
}

#[tokio::test]
async fn the_node_dials_pods_and_services() {
    let fabric = fabric();
    let (pod, listener) = server(&fabric);
    assert!(
        fabric
            .services()
            .set(
                &key("web"),
                &service("10.96.0.1", vec![port(8080, &[at(&pod, 80)])])
            )
            .is_empty()
    );
    for to in [at(&pod, 80), addr("10.96.0.1:8080")] {
        let near = fabric.dial(to).await.unwrap();
        let (far, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, near.local_addr());
        assert_eq!(peer.ip(), fabric.node_ip());
        assert_eq!(near.peer_addr(), to);
        pass(&near, &far, "probe").await;
        pass(&far, &near, "fine").await;
    }
    assert!(is_refused(fabric.dial(at(&pod, 81)).await));
    assert!(matches!(
        fabric.dial(addr("192.0.2.1:80")).await,
        Err(NetError::NetworkUnreachable(_))
    ));
}

#[tokio::test]
async fn a_socket_of_the_host_is_a_stream_like_any_other() {
    let fabric = fabric();
    let (pod, listener) = server(&fabric);
    let (mut client, stream) = from_host(&fabric, &pod, &listener).await;
    assert_eq!(
        stream.try_read(10).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    client.write_all(b"hello").await.unwrap();
    stream.read_ready().await;
    assert_eq!(stream.try_read(3).unwrap(), "hel");
    assert_eq!(stream.read_bytes(100).await.unwrap(), "lo");
    assert!(stream.write_room().unwrap() > 0);
    stream
        .write_bytes(Bytes::from_static(b"good day"))
        .await
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "good day");
    client.shutdown().await.unwrap();
    assert_eq!(stream.read_bytes(10).await.unwrap(), "");
    let stats = pod.stats();
    assert_eq!((stats.connections, stats.sent, stats.received), (1, 8, 5));
    drop(stream);
    assert_eq!(pod.stats().connections, 0);
    assert_eq!(fabric.metrics().delivered, 1);
}

#[tokio::test]
async fn several_tasks_wait_for_one_socket_of_the_host() {
    let fabric = fabric();
    let (pod, listener) = server(&fabric);
    let (mut client, stream) = from_host(&fabric, &pod, &listener).await;
    let stream = std::sync::Arc::new(stream);
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let stream = stream.clone();
            tokio::spawn(async move { stream.read_ready().await })
        })
        .collect();
    tokio::task::yield_now().await;
    client.write_all(b"!").await.unwrap();
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[tokio::test]
async fn closing_a_network_resets_sockets_of_the_host_too() {
    let fabric = fabric();
    let (pod, listener) = server(&fabric);
    let (mut client, stream) = from_host(&fabric, &pod, &listener).await;
    let reading = tokio::spawn(async move {
        let error = stream.read_bytes(10).await.unwrap_err();
        let written = stream
            .write_bytes(Bytes::from_static(b"x"))
            .await
            .unwrap_err();
        (error.kind(), written.kind())
    });
    tokio::task::yield_now().await;
    pod.close();
    assert_eq!(
        reading.await.unwrap(),
        (ErrorKind::ConnectionReset, ErrorKind::ConnectionReset)
    );
    let ended = client.read(&mut [0; 10]).await;
    assert!(matches!(&ended, Ok(0)) || ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn what_can_not_be_delivered_is_reset() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(outer.local_addr().unwrap())
        .await
        .unwrap();
    let (socket, peer) = outer.accept().await.unwrap();
    assert!(is_refused(fabric.deliver(at(&pod, 80), socket, peer).await));
    assert_eq!(
        client.read(&mut [0; 1]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(fabric.metrics().undelivered, 1);
}

#[tokio::test]
async fn outside_is_reached_if_allowed() {
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = outer.local_addr().unwrap();
    let set = |fabric: &Fabric| {
        assert!(
            fabric
                .services()
                .set(
                    &key("outer"),
                    &service("10.96.0.1", vec![port(80, &[endpoint])])
                )
                .is_empty()
        );
        fabric.attach(None).unwrap()
    };
    let vip = addr("10.96.0.1:80");

    let denied = fabric();
    assert!(is_refused(set(&denied).connect(vip).await));

    // A host's own loopback needs a word of its own.
    let halfway = fabric_with(|config| config.outside.service_endpoints = true);
    assert!(is_refused(set(&halfway).connect(vip).await));

    let allowed = fabric_with(|config| {
        config.outside.service_endpoints = true;
        config.outside.host_loopback = true;
    });
    let pod = set(&allowed);
    let near = pod.connect(vip).await.unwrap();
    let far = Stream::from_host(outer.accept().await.unwrap().0).unwrap();
    assert!(near.is_host());
    assert_eq!(near.peer_addr(), vip);
    assert_eq!(near.local_addr().ip(), pod.ip());
    pass(&near, &far, "out").await;
    pass(&far, &near, "in").await;
    assert!(matches!(
        pod.connect(addr("192.0.2.1:1")).await,
        Err(NetError::NetworkUnreachable(_))
    ));
    // To a pod, its own loopback is its own.
    assert!(is_refused(pod.connect(endpoint).await));
    let node = allowed.dial(vip).await.unwrap();
    outer.accept().await.unwrap();
    drop(node);

    let gone: SocketAddr = endpoint;
    drop(outer);
    assert!(
        is_refused(pod.connect(vip).await),
        "{gone} has nobody who listens"
    );
}
