//! Pods on the host's own network: real sockets behind the same handles.

use std::{future::poll_fn, net::Shutdown};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use vaquita_net::{Fabric, NetError, PodIdentity, PodNetwork};

use crate::tools::*;

fn on_host(fabric: &Fabric) -> PodNetwork {
    fabric.attach_host(PodIdentity::default(), ip("192.0.2.1"))
}

#[tokio::test]
async fn the_host_reaches_it_as_any_process() {
    let fabric = fabric();
    let pod = on_host(&fabric);
    assert!(pod.is_host() && pod.ip() == ip("192.0.2.1"));
    let listener = pod.listen(addr("127.0.0.1:0")).unwrap();
    assert!(listener.try_accept().unwrap().is_none());
    let taken = pod.listen(listener.local_addr());
    assert!(matches!(taken, Err(NetError::AddrInUse(_))));
    let foreign = pod.listen(addr("203.0.113.1:80"));
    assert!(matches!(foreign, Err(NetError::AddrNotAvailable(_))));

    let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
    poll_fn(|cx| listener.poll_accept_ready(cx)).await;
    assert_eq!(listener.pending(), 1);
    let (stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    client.write_all(b"hello").await.unwrap();
    assert_eq!(stream.read_bytes(100).await.unwrap(), "hello");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);

    // Two tasks may wait at a time, and each gets one.
    let listener = std::sync::Arc::new(listener);
    let tasks = [0, 1].map(|_| {
        let listener = listener.clone();
        tokio::spawn(async move { listener.accept().await.unwrap().1 })
    });
    tokio::task::yield_now().await;
    let clients = [
        TcpStream::connect(listener.local_addr()).await.unwrap(),
        TcpStream::connect(listener.local_addr()).await.unwrap(),
    ];
    let mut peers = Vec::new();
    for task in tasks {
        peers.push(task.await.unwrap());
    }
    for client in &clients {
        assert!(peers.contains(&client.local_addr().unwrap()));
    }
}

#[tokio::test]
async fn it_reaches_the_host_and_the_fabric() {
    let fabric = fabric();
    let pod = on_host(&fabric);
    let outside = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_host = outside.local_addr().unwrap();
    let near = pod.connect(at_host).await.unwrap();
    let (_far, peer) = outside.accept().await.unwrap();
    assert!(near.is_host() && near.local_addr() == peer);
    let bound = pod.bind(addr("127.0.0.1:0")).unwrap();
    let from = bound.local_addr();
    let second = bound.connect(at_host).await.unwrap();
    assert_eq!(outside.accept().await.unwrap().1, from);
    assert_eq!(pod.stats().connections, 2);
    drop((near, second, outside));
    assert!(is_refused(pod.connect(at_host).await));
    assert_eq!(pod.stats().connections, 0);

    let other = fabric.attach(None).unwrap();
    let listener = other.listen(addr("0.0.0.0:80")).unwrap();
    let spec = service("10.96.0.1", vec![port(8080, &[at(&other, 80)])]);
    assert!(fabric.services().set(&key("web"), &spec).is_empty());
    for to in [at(&other, 80), addr("10.96.0.1:8080")] {
        let near = pod.connect(to).await.unwrap();
        let (far, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), pod.ip());
        pass(&near, &far, "by memory").await;
    }
    assert!(is_refused(pod.connect(addr("10.96.0.1:1")).await));
}

#[tokio::test]
async fn datagrams_are_the_hosts() {
    let fabric = fabric();
    let pod = on_host(&fabric);
    let socket = pod.bind_udp(addr("127.0.0.1:0")).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    socket.send_to(Bytes::from_static(b"ping"), to).unwrap();
    let mut buffer = [0; 9];
    let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
    assert_eq!(
        (&buffer[..length], from),
        (&b"ping"[..], socket.local_addr())
    );
    assert!(socket.try_recv_from().unwrap().is_none());

    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(Some(to));
    stranger.send_to(b"psst", from).await.unwrap();
    peer.send_to(b"pong", from).await.unwrap();
    let datagram = socket.recv_from().await.unwrap();
    assert_eq!((&datagram.data[..], datagram.from), (&b"pong"[..], to));
}

#[tokio::test]
async fn closing_closes_its_sockets_and_it_has_its_limits() {
    let fabric = fabric_with(|config| config.pod_limits.ports = 2);
    let pod = on_host(&fabric);
    let listener = pod.listen(addr("127.0.0.1:0")).unwrap();
    let socket = pod.bind_udp(addr("127.0.0.1:0")).unwrap();
    let third = pod.bind(addr("127.0.0.1:0"));
    assert!(matches!(third, Err(NetError::TooMany { limit: 2, .. })));
    let mut client = TcpStream::connect(listener.local_addr()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();

    let address = listener.local_addr();
    let waiting = tokio::spawn(async move { listener.accept().await.is_err() });
    let hearing = tokio::spawn(async move { socket.recv_from().await.is_err() });
    tokio::task::yield_now().await;
    pod.close();
    assert!(waiting.await.unwrap() && hearing.await.unwrap());
    assert!(stream.read_bytes(1).await.is_err());
    drop(stream);
    // An end or a reset, whichever of them is faster.
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0);
    TcpStream::connect(address).await.unwrap_err();
    assert!(matches!(
        pod.listen(addr("127.0.0.1:0")),
        Err(NetError::Closed)
    ));
    assert_eq!(pod.stats().ports, 0);
}
