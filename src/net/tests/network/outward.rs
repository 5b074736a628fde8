//! Datagrams beyond the pods of the fabric: to the outside, and from pods on the host's network.

use bytes::Bytes;
use tokio::net::UdpSocket as HostSocket;
use vaquita_net::{NetError, Outside, PodIdentity, Protocol, ServicePort};

use crate::tools::*;

const HELLO: Bytes = Bytes::from_static(b"hello");

#[tokio::test]
async fn the_outside_answers_where_it_may_be_reached() {
    let fabric = fabric_with(|config| {
        config.outside = Outside {
            everything: true,
            host_loopback: true,
            ..Outside::default()
        };
    });
    let pod = fabric.attach(None).unwrap();
    let socket = pod.bind_udp(addr("0.0.0.0:0")).unwrap();
    let hosts = [
        HostSocket::bind("127.0.0.1:0").await.unwrap(),
        HostSocket::bind("127.0.0.1:0").await.unwrap(),
    ];
    // By way of a Service, for the pod's own loopback is its own.
    let endpoint = hosts[0].local_addr().unwrap();
    let port = ServicePort {
        protocol: Protocol::Udp,
        ..port(53, &[endpoint])
    };
    let vip = addr("10.96.0.1:53");
    let spec = service("10.96.0.1", vec![port]);
    assert!(fabric.services().set(&key("dns"), &spec).is_empty());
    socket.send_to(HELLO, vip).unwrap();
    let mut buffer = [0; 9];
    let (length, seen) = hosts[0].recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"hello");

    // Who was not asked is not heard.
    hosts[1].send_to(b"guess", seen).await.unwrap();
    hosts[0].send_to(b"answer", seen).await.unwrap();
    let answer = socket.recv_from().await.unwrap();
    assert_eq!((&answer.data[..], answer.from), (&b"answer"[..], vip));
    assert!(socket.try_recv_from().unwrap().is_none());
}

#[tokio::test]
async fn the_outside_is_out_of_reach_by_default() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let socket = pod.bind_udp(addr("0.0.0.0:0")).unwrap();
    assert!(matches!(
        socket.send_to(HELLO, addr("192.0.2.1:53")),
        Err(NetError::NetworkUnreachable(_))
    ));
}

#[tokio::test]
async fn pods_on_the_hosts_network_send_to_pods_and_services() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let server = pod.bind_udp(addr("0.0.0.0:53")).unwrap();
    let port = ServicePort {
        protocol: Protocol::Udp,
        ..port(5353, &[at(&pod, 53)])
    };
    let vip = addr("10.96.0.1:5353");
    let spec = service("10.96.0.1", vec![port]);
    assert!(fabric.services().set(&key("dns"), &spec).is_empty());
    let on_host = fabric.attach_host(PodIdentity::default(), ip("192.0.2.1"));
    let socket = on_host.bind_udp(addr("127.0.0.1:0")).unwrap();
    for to in [vip, at(&pod, 53)] {
        socket.send_to(HELLO, to).unwrap();
        let asked = server.recv_from().await.unwrap();
        assert_eq!(asked.data, HELLO);
        assert_eq!(asked.from.ip(), fabric.node_ip());
        server.send_to(asked.data, asked.from).unwrap();
        let answer = socket.recv_from().await.unwrap();
        assert_eq!((answer.data, answer.from), (HELLO, to));
    }
    // One that is connected hears its peer only, and learns that nobody is there.
    socket.connect(Some(at(&pod, 54)));
    assert!(is_refused(socket.send_to(HELLO, at(&pod, 54))));
    let near = on_host.bind_udp(addr("127.0.0.1:0")).unwrap();
    near.send_to(HELLO, socket.local_addr()).unwrap();
    assert!(socket.try_recv_from().unwrap().is_none());
}
