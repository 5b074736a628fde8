//! Callers of the host that speak for others, and clients outside that come by external addresses or by datagrams.

use std::net::SocketAddr;

use tokio::net::{TcpStream, UdpSocket};
use vaquita_net::{Fabric, PortRef, Protocol, ServiceSpec};

use crate::tools::*;

fn set(fabric: &Fabric, spec: &ServiceSpec) {
    assert!(fabric.services().set(&key("web"), spec).is_empty());
}

#[tokio::test]
async fn the_host_may_speak_for_a_client() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let listener = pod.listen(addr("0.0.0.0:8080")).unwrap();
    let mut spec = service("10.96.0.1", vec![port(80, &[at(&pod, 8080)])]);
    spec.ports[0].name = Some("http".to_owned());
    set(&fabric, &spec);
    let client = addr("203.0.113.7:4711");
    for port in [PortRef::Number(80), PortRef::Name("http".to_owned())] {
        let near = fabric
            .dial_service(&key("web"), &port, Some(client))
            .await
            .unwrap();
        let (far, peer) = listener.accept().await.unwrap();
        assert_eq!((peer, near.local_addr()), (client, client));
        assert_eq!(near.peer_addr(), addr("10.96.0.1:80"));
        pass(&near, &far, "hello").await;
    }
    let near = fabric
        .dial_from(client, addr("10.96.0.1:80"))
        .await
        .unwrap();
    assert_eq!(listener.accept().await.unwrap().1, client);
    drop(near);
    fabric
        .dial_service(&key("web"), &PortRef::Number(80), None)
        .await
        .unwrap();
    assert_eq!(listener.accept().await.unwrap().1.ip(), fabric.node_ip());
    for (name, port) in [("web", PortRef::Number(81)), ("other", PortRef::Number(80))] {
        assert!(is_refused(
            fabric.dial_service(&key(name), &port, None).await
        ));
    }
}

/// An address of the host's loopback that is free, as far as one can know.
fn free(protocol: Protocol, ip: &str) -> SocketAddr {
    let any = format!("{ip}:0");
    match protocol {
        Protocol::Tcp => std::net::TcpListener::bind(any)
            .unwrap()
            .local_addr()
            .unwrap(),
        Protocol::Udp => std::net::UdpSocket::bind(any)
            .unwrap()
            .local_addr()
            .unwrap(),
    }
}

#[tokio::test]
async fn external_addresses_lead_in() {
    let fabric = fabric();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let listeners = pods
        .each_ref()
        .map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap());
    let at_host = free(Protocol::Tcp, "127.9.9.9");
    let mut spec = service("10.96.0.1", vec![port(at_host.port(), &[at(&pods[0], 80)])]);
    spec.ports[0].outside_endpoints = Some(vec![at(&pods[1], 80)]);
    spec.external_ips = vec![at_host.ip(), ip("198.51.100.1")];
    spec.sources = vec!["127.0.0.0/8".parse().unwrap()];
    set(&fabric, &spec);
    assert_eq!(
        fabric.services().external_ports(),
        [(Protocol::Tcp, at_host)]
    );

    // From outside to the endpoints for those outside; from pods, by any address, to the others.
    let _client = TcpStream::connect(at_host).await.unwrap();
    listeners[1].accept().await.unwrap();
    let within = fabric.attach(None).unwrap();
    let external = SocketAddr::new(ip("198.51.100.1"), at_host.port());
    within.connect(external).await.unwrap();
    listeners[0].accept().await.unwrap();

    spec.sources = vec!["192.0.2.0/24".parse().unwrap()];
    set(&fabric, &spec);
    let stranger = TcpStream::connect(at_host).await.unwrap();
    let mut rest = Vec::new();
    let mut stranger = stranger;
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stranger, &mut rest).await;
    assert_eq!(
        read.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    spec.external_ips.clear();
    set(&fabric, &spec);
    assert!(fabric.services().external_ports().is_empty());
    TcpStream::connect(at_host).await.unwrap_err();
}

#[tokio::test]
async fn an_address_that_is_not_the_hosts_is_an_error() {
    let fabric =
        fabric_with(|config| config.host_addresses = vec![ip("0.0.0.0")..=ip("255.255.255.255")]);
    let mut spec = service("10.96.0.1", vec![port(80, &[])]);
    spec.external_ips = vec![ip("198.51.100.1"), ip("0.0.0.0"), ip("224.0.0.1")];
    let failed = fabric.services().set(&key("web"), &spec);
    assert_eq!(failed.len(), 1);
    assert_eq!(
        failed[0].source.kind(),
        std::io::ErrorKind::AddrNotAvailable
    );
}

#[tokio::test]
async fn datagrams_come_in_and_go_back() {
    let fabric = fabric();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let sockets = pods
        .each_ref()
        .map(|pod| pod.bind_udp(addr("0.0.0.0:53")).unwrap());
    let node_port = free(Protocol::Udp, "127.0.0.1");
    let mut spec = service(
        "10.96.0.1",
        vec![port(5353, &[at(&pods[0], 53), at(&pods[1], 53)])],
    );
    spec.ports[0].protocol = Protocol::Udp;
    spec.ports[0].node_port = Some(node_port.port());
    set(&fabric, &spec);

    let mut answered = Vec::new();
    for _ in 0..2 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(node_port).await.unwrap();
        let mut first = None;
        for text in [b"one", b"two"] {
            client.send(text).await.unwrap();
            let (index, asked) = tokio::select! {
                asked = sockets[0].recv_from() => (0, asked.unwrap()),
                asked = sockets[1].recv_from() => (1, asked.unwrap()),
            };
            assert_eq!(&asked.data[..], text);
            assert!(!asked.from.ip().is_loopback(), "{}", asked.from);
            assert_eq!(*first.get_or_insert(index), index, "a client stays");
            sockets[index].send_to(asked.data, asked.from).unwrap();
            let mut buffer = [0; 16];
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], text);
        }
        answered.extend(first);
    }
    answered.sort_unstable();
    assert_eq!(answered, [0, 1]);
    // Whom nobody has heard of stays out of reach.
    let stranger = addr("203.0.113.1:99");
    assert!(sockets[0].send_to(bytes::Bytes::new(), stranger).is_err());
    fabric.services().remove(&key("web"));
    std::net::UdpSocket::bind(node_port).unwrap();
}
