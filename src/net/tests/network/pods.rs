//! Addresses, ports, listeners, connects, and how a pod's network ends.

use std::{io::ErrorKind, net::SocketAddr};

use bytes::Bytes;
use vaquita_net::{AttachError, NetError};

use crate::tools::*;

#[tokio::test]
async fn pods_talk_by_their_addresses() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    assert_ne!(server.ip(), client.ip());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    assert_eq!(listener.local_addr(), addr("0.0.0.0:80"));
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    assert_eq!(near.peer_addr(), at(&server, 80));
    assert_eq!(far.local_addr(), at(&server, 80));
    assert_eq!(far.peer_addr(), near.local_addr());
    assert_eq!(near.local_addr().ip(), client.ip());
    assert!((32768..=60999).contains(&near.local_addr().port()));
    assert!(!near.is_host() && !far.is_host());
    pass(&near, &far, "ping").await;
    pass(&far, &near, "pong").await;
}

#[tokio::test]
async fn two_pods_use_the_same_port_on_their_loopbacks() {
    let fabric = fabric();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let listeners = pods
        .each_ref()
        .map(|pod| pod.listen(addr("127.0.0.1:6379")).unwrap());
    for (pod, listener) in pods.iter().zip(&listeners) {
        let (near, far) = join(pod, listener, addr("127.0.0.1:6379")).await;
        assert_eq!(near.local_addr().ip(), ip("127.0.0.1"));
        pass(&near, &far, "mine").await;
    }
    // What listens on loopback is not there for others, nor by the pod's own address.
    assert!(is_refused(pods[1].connect(at(&pods[0], 6379)).await));
    assert!(is_refused(pods[0].connect(at(&pods[0], 6379)).await));
    assert!(is_refused(fabric.dial(at(&pods[0], 6379)).await));
}

#[tokio::test]
async fn a_pod_reaches_itself_by_all_its_addresses() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let any = pod.listen(addr("0.0.0.0:80")).unwrap();
    let own = at(&pod, 80).to_string();
    for to in ["127.0.0.1:80", "127.1.2.3:80", "0.0.0.0:80", &own] {
        let (near, far) = join(&pod, &any, addr(to)).await;
        assert_eq!(near.local_addr(), far.peer_addr());
        pass(&near, &far, "me").await;
    }
    // `::1` is another loopback, and IPv4 listeners don't hear it.
    assert!(is_refused(pod.connect(addr("[::1]:80")).await));
    let v6 = pod.listen(addr("[::1]:80")).unwrap();
    for to in ["[::1]:80", "[::]:80"] {
        let (near, far) = join(&pod, &v6, addr(to)).await;
        assert_eq!(far.local_addr(), addr("[::1]:80"));
        pass(&near, &far, "six").await;
    }
}

#[tokio::test]
async fn a_listener_on_all_of_ipv6_hears_ipv4_too() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("[::]:80")).unwrap();
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    assert_eq!(near.peer_addr(), at(&server, 80));
    assert_eq!(
        far.peer_addr().ip().to_string(),
        format!("::ffff:{}", client.ip())
    );
    assert_eq!(
        far.local_addr().ip().to_string(),
        format!("::ffff:{}", server.ip())
    );
    let mapped = addr(&format!("[::ffff:{}]:80", server.ip()));
    let (near, _far) = join(&client, &listener, mapped).await;
    assert_eq!(near.peer_addr(), mapped);
    assert!(near.local_addr().is_ipv6());
    let (_near, far) = join(&server, &listener, addr("[::1]:80")).await;
    assert_eq!(far.peer_addr().ip(), ip("::1"));
}

#[tokio::test]
async fn errors_are_the_kernels() {
    let fabric = fabric();
    let (pod, other) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    assert!(is_refused(pod.connect(at(&other, 80)).await));
    assert!(is_refused(pod.connect(at(&other, 0)).await));
    assert!(is_refused(
        pod.connect(SocketAddr::new(fabric.node_ip(), 80)).await
    ));
    let kind =
        |result: Result<_, NetError>| result.map(|_: vaquita_net::Stream| ()).unwrap_err().kind();
    assert_eq!(
        kind(pod.connect(addr("10.244.77.77:80")).await),
        ErrorKind::HostUnreachable
    );
    assert_eq!(
        kind(pod.connect(addr("192.0.2.1:80")).await),
        ErrorKind::NetworkUnreachable
    );
    assert_eq!(
        kind(pod.connect(addr("[2001:db8::1]:80")).await),
        ErrorKind::NetworkUnreachable
    );

    assert!(matches!(
        pod.listen(at(&other, 80)),
        Err(NetError::AddrNotAvailable(_))
    ));
    assert!(matches!(
        pod.listen(addr("192.0.2.1:80")),
        Err(NetError::AddrNotAvailable(_))
    ));
    let _listener = pod.listen(at(&pod, 80)).unwrap();
    assert!(matches!(
        pod.listen(addr("0.0.0.0:80")),
        Err(NetError::AddrInUse(_))
    ));
    let metrics = fabric.metrics();
    assert_eq!(
        (
            metrics.connects,
            metrics.connects_failed,
            metrics.connects_refused
        ),
        (0, 6, 3)
    );
}

#[tokio::test]
async fn a_port_is_free_when_its_listener_is_gone() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    let unaccepted = client.connect(at(&server, 80)).await.unwrap();
    drop(listener);
    // Who was accepted stays, who was not is reset, and who comes now is refused.
    pass(&near, &far, "still here").await;
    assert_eq!(
        unaccepted.read_bytes(10).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(is_refused(client.connect(at(&server, 80)).await));
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    join(&client, &listener, at(&server, 80)).await;
}

#[tokio::test]
async fn port_0_picks_one() {
    let fabric = fabric_with(|config| config.ephemeral_ports = 5000..=5001);
    let pod = fabric.attach(None).unwrap();
    let bound = pod.bind(addr("0.0.0.0:0")).unwrap();
    let first = bound.local_addr().port();
    let listener = bound.listen(None).unwrap();
    assert_eq!(listener.local_addr().port(), first);
    let second = pod.listen(addr("127.0.0.1:0")).unwrap();
    let mut ports = [first, second.local_addr().port()];
    ports.sort_unstable();
    assert_eq!(ports, [5000, 5001]);
    assert!(matches!(
        pod.listen(addr("0.0.0.0:0")),
        Err(NetError::AddrInUse(_))
    ));
    assert!(matches!(
        pod.connect(addr("127.0.0.1:5000")).await,
        Err(NetError::AddrInUse(_))
    ));
    drop(second);
    pod.connect(SocketAddr::new(ip("127.0.0.1"), first))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_may_come_from_a_bound_port() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let bound = client.bind(addr("0.0.0.0:4242")).unwrap();
    let near = bound.connect(at(&server, 80)).await.unwrap();
    assert_eq!(near.local_addr(), at(&client, 4242));
    assert_eq!(listener.accept().await.unwrap().1, at(&client, 4242));
    assert!(matches!(
        client.bind(addr("0.0.0.0:4242")),
        Err(NetError::AddrInUse(_))
    ));
    drop(near);
    client.bind(addr("0.0.0.0:4242")).unwrap();
    let loopback = client.bind(addr("127.0.0.1:0")).unwrap();
    assert!(matches!(
        loopback.connect(at(&server, 80)).await,
        Err(NetError::AddrNotAvailable(_))
    ));
}

#[tokio::test]
async fn a_full_backlog_is_waited_for_in_turn() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server
        .bind(addr("0.0.0.0:80"))
        .unwrap()
        .listen(Some(2))
        .unwrap();
    let queued = [
        client.connect(at(&server, 80)).await.unwrap(),
        client.connect(at(&server, 80)).await.unwrap(),
    ];
    let mut waiting = Box::pin(client.connect(at(&server, 80)));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(listener.pending(), 2);
    for near in &queued {
        assert_eq!(listener.accept().await.unwrap().1, near.local_addr());
    }
    let near = waiting.await.unwrap();
    assert_eq!(listener.accept().await.unwrap().1, near.local_addr());
}

#[tokio::test]
async fn waiting_has_its_bounds() {
    let fabric = impatient(|config| (config.backlog, config.waiting_connects) = (1, 2));
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server
        .bind(addr("0.0.0.0:80"))
        .unwrap()
        .listen(Some(1000))
        .unwrap();
    let _queued = client.connect(at(&server, 80)).await.unwrap();
    let mut waiting = [
        Box::pin(client.connect(at(&server, 80))),
        Box::pin(client.connect(at(&server, 80))),
    ];
    for waiting in &mut waiting {
        assert!(futures::poll!(waiting).is_pending());
    }
    assert!(is_refused(client.connect(at(&server, 80)).await));
    for waiting in waiting {
        assert!(matches!(waiting.await, Err(NetError::TimedOut(_))));
    }
    assert_eq!(fabric.metrics().connects_timed_out, 2);
    // Those who gave up left no trace.
    let mut waiting = Box::pin(client.connect(at(&server, 80)));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(listener);
    assert!(is_refused(waiting.await));
    assert_eq!(client.stats().connections, 1);
}

#[tokio::test]
async fn a_pod_has_only_so_many_sockets() {
    let fabric =
        fabric_with(|config| (config.pod_limits.connections, config.pod_limits.ports) = (3, 2));
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let bound = server.bind(addr("0.0.0.0:81")).unwrap();
    assert!(matches!(
        server.bind(addr("0.0.0.0:0")),
        Err(NetError::TooMany {
            what: "ports",
            limit: 2
        })
    ));
    drop(bound);
    server.bind(addr("0.0.0.0:0")).unwrap();

    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(join(&client, &listener, at(&server, 80)).await);
    }
    assert!(matches!(
        client.connect(at(&server, 80)).await,
        Err(NetError::TooMany { limit: 3, .. })
    ));
    // To others, a pod that can have no more just refuses.
    let third = fabric.attach(None).unwrap();
    assert!(is_refused(third.connect(at(&server, 80)).await));
    open.pop();
    third.connect(at(&server, 80)).await.unwrap();
}

#[tokio::test]
async fn closing_a_network_resets_and_frees() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    let waiting = client.connect(at(&server, 80)).await.unwrap();
    let address = at(&server, 80);
    let (twin, ip) = (server.clone(), server.ip());
    assert_eq!(server.stats().connections, 2);
    server.close();
    server.close();
    for stream in [near, far, waiting] {
        assert_eq!(
            stream.read_bytes(10).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert_eq!(
            stream
                .write_bytes(Bytes::from_static(b"x"))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::ConnectionReset
        );
    }
    assert!(matches!(listener.accept().await, Err(NetError::Closed)));
    assert!(matches!(
        twin.listen(addr("0.0.0.0:81")),
        Err(NetError::Closed)
    ));
    assert!(matches!(
        twin.connect(at(&client, 80)).await,
        Err(NetError::Closed)
    ));
    assert!(matches!(
        client.connect(address).await,
        Err(NetError::HostUnreachable(_))
    ));
    // The address can be had again; the old handle, dropped late, does no harm to its new owner.
    let next = fabric.attach(Some(ip)).unwrap();
    let next_listener = next.listen(addr("0.0.0.0:80")).unwrap();
    drop((twin, server, listener));
    join(&client, &next_listener, address).await;
}

#[tokio::test]
async fn the_last_handle_closes() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let listener = server.listen(addr("0.0.0.0:80")).unwrap();
    let (near, far) = join(&client, &listener, at(&server, 80)).await;
    let twin = server.clone();
    drop(server);
    pass(&near, &far, "open").await;
    drop(twin);
    assert_eq!(
        near.read_bytes(1).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(fabric.metrics().pods, 1);
    assert_eq!(fabric.metrics().addresses_used, 1);
}

#[tokio::test]
async fn addresses_run_out_and_can_be_asked_for() {
    let fabric = fabric_with(|config| config.pod_cidr = "10.9.8.0/29".parse().unwrap());
    assert_eq!(fabric.node_ip(), ip("10.9.8.1"));
    let wanted = fabric.attach(Some(ip("10.9.8.3"))).unwrap();
    assert_eq!(wanted.ip(), ip("10.9.8.3"));
    assert_eq!(
        fabric.attach(Some(wanted.ip())).unwrap_err(),
        AttachError::InUse(wanted.ip())
    );
    assert!(matches!(
        fabric.attach(Some(ip("10.9.8.1"))),
        Err(AttachError::NotAvailable(..))
    ));
    let _rest: Vec<_> = (0..4).map(|_| fabric.attach(None).unwrap()).collect();
    assert!(matches!(
        fabric.attach(None),
        Err(AttachError::Exhausted { capacity: 5, .. })
    ));
    assert_eq!(fabric.metrics().addresses, 5);
    drop(wanted);
    assert_eq!(fabric.attach(None).unwrap().ip(), ip("10.9.8.3"));
}

#[tokio::test]
async fn closing_the_fabric_closes_all() {
    let fabric = fabric();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let listener = pods[0].listen(addr("0.0.0.0:80")).unwrap();
    let (near, _far) = join(&pods[1], &listener, at(&pods[0], 80)).await;
    fabric.close();
    assert!(near.read_bytes(1).await.is_err());
    assert!(matches!(listener.accept().await, Err(NetError::Closed)));
    assert_eq!(fabric.metrics().pods, 0);
}

/// Pods that come and go under connects from many tasks: nothing hangs, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn churn_leaves_nothing_behind() {
    let fabric = fabric_with(|config| config.backlog = 4);
    let client = fabric.attach(None).unwrap();
    let target = ip("10.244.0.99");
    let connects: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut passed = 0;
                while passed < 50 {
                    if let Ok(stream) = client.connect(SocketAddr::new(target, 80)).await {
                        let echoed = stream.write_bytes(Bytes::from_static(b"x")).await;
                        passed += usize::from(
                            echoed.is_ok() && stream.read_bytes(1).await.is_ok_and(|x| x == "x"),
                        );
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let server = tokio::spawn({
        let fabric = fabric.clone();
        async move {
            loop {
                let pod = fabric.attach(Some(target)).unwrap();
                let listener = pod.listen(addr("0.0.0.0:80")).unwrap();
                for _ in 0..20 {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(async move {
                        let Ok(data) = stream.read_bytes(10).await else {
                            return;
                        };
                        // The pod may be gone by now.
                        let _cut = stream.write_bytes(data).await;
                    });
                }
            }
        }
    });
    for connects in connects {
        connects.await.unwrap();
    }
    server.abort();
    server.await.unwrap_err();
    assert_eq!(client.stats().connections, 0);
    assert_eq!(client.stats().unread, 0);
    assert_eq!(fabric.metrics().pods, 1);
}

#[tokio::test]
async fn a_pod_that_withdraws_serves_those_it_has() {
    let fabric = fabric();
    let (server, client) = (fabric.attach(None).unwrap(), fabric.attach(None).unwrap());
    let other = fabric.attach(None).unwrap();
    let listeners = [&server, &other].map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap());
    let endpoints = [at(&server, 80), at(&other, 80)];
    let spec = service("10.96.0.1", vec![port(80, &endpoints)]);
    assert!(fabric.services().set(&key("web"), &spec).is_empty());
    let (near, far) = join(&client, &listeners[0], endpoints[0]).await;
    let waiting = client.connect(endpoints[0]).await.unwrap();

    server.withdraw();
    assert!(is_refused(client.connect(endpoints[0]).await));
    assert!(is_refused(fabric.dial(endpoints[0]).await));
    // By the Service, it is passed over.
    for _ in 0..2 {
        client.connect(addr("10.96.0.1:80")).await.unwrap();
        assert!(listeners[1].try_accept().unwrap().is_some());
    }
    pass(&near, &far, "goes on").await;
    let (late, _) = listeners[0].accept().await.unwrap();
    pass(&waiting, &late, "is heard").await;
    // The node looks whether it is still well.
    fabric.probe(endpoints[0]).await.unwrap();
    listeners[0].accept().await.unwrap();
    for own in [endpoints[0], addr("127.0.0.1:80")] {
        join(&server, &listeners[0], own).await;
    }
}
