//! UDP inside the fabric.

use bytes::Bytes;
use vaquita_net::{Fabric, NetError, PodNetwork, Protocol, ServicePort, UdpSocket};

use crate::tools::*;

fn send(socket: &UdpSocket, text: &'static str, to: std::net::SocketAddr) {
    socket
        .send_to(Bytes::from_static(text.as_bytes()), to)
        .unwrap();
}

/// The next datagram, as text, and who sent it.
fn next(socket: &UdpSocket) -> Option<(String, std::net::SocketAddr)> {
    let datagram = socket.try_recv_from().unwrap()?;
    Some((
        String::from_utf8(datagram.data.to_vec()).unwrap(),
        datagram.from,
    ))
}

fn two(fabric: &Fabric) -> [(PodNetwork, UdpSocket); 2] {
    [53, 5353].map(|port| {
        let pod = fabric.attach(None).unwrap();
        let socket = pod
            .bind_udp(std::net::SocketAddr::from(([0, 0, 0, 0], port)))
            .unwrap();
        (pod, socket)
    })
}

#[tokio::test]
async fn there_and_back() {
    let fabric = fabric();
    let [(server, listening), (client, asking)] = two(&fabric);
    let mut waiting = Box::pin(listening.recv_from());
    assert!(futures::poll!(&mut waiting).is_pending());
    send(&asking, "who?", at(&server, 53));
    let question = waiting.await.unwrap();
    assert_eq!(
        (question.data, question.from),
        (Bytes::from_static(b"who?"), at(&client, 5353))
    );
    send(&listening, "me", question.from);
    send(&listening, "", question.from);
    assert_eq!(next(&asking), Some(("me".to_owned(), at(&server, 53))));
    assert_eq!(next(&asking), Some((String::new(), at(&server, 53))));
    assert_eq!(next(&asking), None);
    // The port spaces of TCP and UDP have nothing to do with each other.
    server.listen(addr("0.0.0.0:53")).unwrap();
    assert!(matches!(
        server.bind_udp(addr("127.0.0.1:53")),
        Err(NetError::AddrInUse(_))
    ));
}

#[tokio::test]
async fn loopback_is_the_pods_own() {
    let fabric = fabric();
    let [(_other_pod, other), (pod, asking)] = two(&fabric);
    let own = pod.bind_udp(addr("127.0.0.1:53")).unwrap();
    send(&asking, "hello", addr("127.0.0.1:53"));
    assert_eq!(
        next(&own),
        Some(("hello".to_owned(), addr("127.0.0.1:5353")))
    );
    assert_eq!(next(&other), None);
    let elsewhere = own.send_to(Bytes::new(), other_address(&fabric));
    assert!(matches!(elsewhere, Err(NetError::AddrNotAvailable(_))));
}

fn other_address(fabric: &Fabric) -> std::net::SocketAddr {
    at(&fabric.attach(None).unwrap(), 53)
}

#[tokio::test]
async fn what_does_not_fit_is_lost() {
    let fabric = fabric_with(|config| {
        config.pod_limits.datagrams = 3;
        config.pod_limits.datagram_bytes = 100_000;
    });
    let [(server, listening), (client, asking)] = two(&fabric);
    for text in ["1", "2", "3", "4"] {
        send(&asking, text, at(&server, 53));
    }
    assert_eq!(client.stats().unread, 3);
    for text in ["1", "2", "3"] {
        assert_eq!(next(&listening).unwrap().0, text);
    }
    assert_eq!(next(&listening), None);
    let large = Bytes::from(vec![0; 60_000]);
    asking.send_to(large.clone(), at(&server, 53)).unwrap();
    asking.send_to(large, at(&server, 53)).unwrap();
    assert_eq!(client.stats().unread, 60_000);
    let too_long = asking.send_to(Bytes::from(vec![0; 65_508]), at(&server, 53));
    assert!(matches!(
        too_long,
        Err(NetError::MessageTooLong {
            length: 65_508,
            limit: 65_507
        })
    ));
    drop(listening);
    assert_eq!(client.stats().unread, 0);
}

#[tokio::test]
async fn nobody_there() {
    let fabric = fabric();
    let [(server, listening), (_client, asking)] = two(&fabric);
    drop(listening);
    send(&asking, "lost", at(&server, 53));
    asking.connect(Some(at(&server, 53)));
    assert!(is_refused(asking.send_to(Bytes::new(), at(&server, 53))));
    let kind = |to| asking.send_to(Bytes::new(), addr(to)).unwrap_err().kind();
    assert_eq!(kind("10.244.99.99:53"), std::io::ErrorKind::HostUnreachable);
    assert_eq!(kind("192.0.2.1:53"), std::io::ErrorKind::NetworkUnreachable);
}

#[tokio::test]
async fn a_connected_socket_hears_its_peer_only() {
    let fabric = fabric();
    let [(server, listening), (client, asking)] = two(&fabric);
    let stranger = fabric
        .attach(None)
        .unwrap()
        .bind_udp(addr("0.0.0.0:9"))
        .unwrap();
    let _closed = stranger
        .send_to(Bytes::new(), at(&client, 5353))
        .unwrap_err();
    let third = fabric.attach(None).unwrap();
    let stranger = third.bind_udp(addr("0.0.0.0:9")).unwrap();
    send(&stranger, "before", at(&client, 5353));
    send(&listening, "answer", at(&client, 5353));
    asking.connect(Some(at(&server, 53)));
    send(&stranger, "after", at(&client, 5353));
    assert_eq!(next(&asking).unwrap().0, "answer");
    assert_eq!(next(&asking), None);
    assert_eq!(third.stats().unread, 0);
    asking.connect(None);
    send(&stranger, "again", at(&client, 5353));
    assert_eq!(next(&asking).unwrap().0, "again");
}

#[tokio::test]
async fn a_service_answers_by_its_own_address() {
    let fabric = fabric();
    let client = fabric.attach(None).unwrap();
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let pod = fabric.attach(None).unwrap();
            let socket = pod.bind_udp(addr("0.0.0.0:53")).unwrap();
            (pod, socket)
        })
        .collect();
    let endpoints: Vec<_> = servers.iter().map(|(pod, _)| at(pod, 53)).collect();
    let vip = addr("10.96.0.10:53");
    let set = |endpoints: &[_]| {
        let port = ServicePort {
            protocol: Protocol::Udp,
            ..port(53, endpoints)
        };
        assert!(
            fabric
                .services()
                .set(&key("dns"), &service("10.96.0.10", vec![port]))
                .is_empty()
        );
    };
    set(&endpoints);
    let sockets = [
        client.bind_udp(addr("0.0.0.0:0")).unwrap(),
        client.bind_udp(addr("0.0.0.0:0")).unwrap(),
    ];
    // One socket stays with one endpoint, the next one gets the next.
    for (socket, (pod, server)) in sockets.iter().zip(&servers) {
        socket.connect(Some(vip));
        for _ in 0..3 {
            send(socket, "question", vip);
            let (_, from) = next(server).expect("this server's turn");
            assert_eq!(from.ip(), client.ip());
            send(server, "answer", from);
            assert_eq!(
                next(socket),
                Some(("answer".to_owned(), vip)),
                "from {}",
                pod.ip()
            );
        }
    }
    // An endpoint that goes is replaced, one that is not the Service's any more too.
    let [(_, first), (_, second)] = &servers[..] else {
        unreachable!()
    };
    set(&endpoints[1..]);
    send(&sockets[0], "moved", vip);
    assert_eq!(
        (next(first), next(second).unwrap().0),
        (None, "moved".to_owned())
    );
    set(&[]);
    assert!(is_refused(sockets[0].send_to(Bytes::new(), vip)));
    // The wrong protocol is no port at all.
    assert!(is_refused(client.connect(vip).await));
}

#[tokio::test]
async fn closing_the_network_closes_sockets() {
    let fabric = fabric();
    let [(server, listening), (client, asking)] = two(&fabric);
    send(&asking, "unread", at(&server, 53));
    let mut waiting = Box::pin(asking.recv_from());
    assert!(futures::poll!(&mut waiting).is_pending());
    client.close();
    assert!(matches!(waiting.await, Err(NetError::Closed)));
    assert!(matches!(
        asking.send_to(Bytes::new(), at(&server, 53)),
        Err(NetError::Closed)
    ));
    assert_eq!(next(&listening).unwrap().0, "unread");
    server.close();
    assert!(matches!(listening.try_recv_from(), Err(NetError::Closed)));
}
