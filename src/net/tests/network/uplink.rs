//! Pods beside the fabric: the way to them, and their way in.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::net::TcpListener;
use vaquita_net::{
    AttachError, Attempt, ConfigError, ConnectPolicy, Connecting, Established, Fabric,
    FabricConfig, NetError, Origin, PodIdentity, Protocol, ServicePort, Stream, Uplink,
};

use crate::tools::*;

/// The network beside: notes what it is handed. Port 81 is refused there.
#[derive(Clone, Default)]
struct Beside {
    connected: Arc<Mutex<Vec<(SocketAddr, SocketAddr, Stream)>>>,
    sent: Arc<Mutex<Vec<(Bytes, SocketAddr, SocketAddr)>>>,
}

impl Uplink for Beside {
    fn leads_to(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == [10, 244, 128])
    }

    fn connect(&self, from: SocketAddr, to: SocketAddr) -> Connecting {
        let connected = self.connected.clone();
        Box::pin(async move {
            if to.port() == 81 {
                return Err(NetError::ConnectionRefused(to));
            }
            let established: Established = Box::new(move |stream| {
                connected.lock().unwrap().push((from, to, stream));
            });
            Ok(established)
        })
    }

    fn send(&self, data: Bytes, from: SocketAddr, to: SocketAddr) {
        self.sent.lock().unwrap().push((data, from, to));
    }
}

const NEIGHBOUR: &str = "10.244.128.7";

fn beside() -> (Fabric, Beside) {
    let fabric = fabric_with(|config| config.own_cidr = Some("10.244.0.0/17".parse().unwrap()));
    let beside = Beside::default();
    fabric.set_uplink(Some(Box::new(beside.clone())));
    (fabric, beside)
}

fn neighbour(port: u16) -> SocketAddr {
    SocketAddr::new(ip(NEIGHBOUR), port)
}

#[tokio::test]
async fn the_fabric_gives_addresses_of_its_own_part_only() {
    let config = FabricConfig {
        pod_cidr: "10.1.0.0/28".parse().unwrap(),
        own_cidr: Some("10.1.0.0/29".parse().unwrap()),
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).unwrap();
    assert_eq!(fabric.node_ip(), ip("10.1.0.1"));
    let pods: Vec<_> = (0..5).map(|_| fabric.attach(None).unwrap()).collect();
    assert_eq!(pods[4].ip(), ip("10.1.0.6"));
    assert!(matches!(
        fabric.attach(None),
        Err(AttachError::Exhausted { .. })
    ));
    assert!(fabric.attach(Some(ip("10.1.0.9"))).is_err());

    let _known = fabric
        .neighbour(PodIdentity::default(), ip("10.1.0.9"))
        .unwrap();
    assert!(matches!(
        fabric.neighbour(PodIdentity::default(), ip("10.1.0.9")),
        Err(AttachError::InUse(_))
    ));
    assert!(matches!(
        fabric.neighbour(PodIdentity::default(), ip("10.1.0.3")),
        Err(AttachError::NotAvailable(..))
    ));
    let elsewhere = FabricConfig {
        own_cidr: Some("10.2.0.0/24".parse().unwrap()),
        ..FabricConfig::default()
    };
    assert!(matches!(
        Fabric::new(elsewhere),
        Err(ConfigError::OwnCidr(..))
    ));
}

#[tokio::test]
async fn pods_connect_to_neighbours_with_their_own_address() {
    let (fabric, beside) = beside();
    let pod = fabric.attach(None).unwrap();
    let near = pod.connect(neighbour(80)).await.unwrap();
    assert_eq!(near.peer_addr(), neighbour(80));
    let (from, to, far) = beside.connected.lock().unwrap().pop().unwrap();
    assert_eq!((from, to), (near.local_addr(), neighbour(80)));
    assert_eq!(far.peer_addr(), near.local_addr());
    pass(&near, &far, "there").await;
    pass(&far, &near, "and back").await;
    assert!(is_refused(pod.connect(neighbour(81)).await));

    // By a Service: a dead endpoint is passed over there too.
    let endpoints = [neighbour(81), neighbour(82)];
    let spec = service("10.96.0.1", vec![port(80, &endpoints)]);
    assert!(fabric.services().set(&key("web"), &spec).is_empty());
    for _ in 0..2 {
        pod.connect(addr("10.96.0.1:80")).await.unwrap();
        assert_eq!(
            beside.connected.lock().unwrap().pop().unwrap().1,
            neighbour(82)
        );
    }
    // When the pod goes, so do its connections.
    drop(pod);
    assert!(far.read_bytes(1).await.is_err());
}

#[tokio::test]
async fn neighbours_enter_as_pods_do() {
    let (fabric, _beside) = beside();
    let pods = [fabric.attach(None).unwrap(), fabric.attach(None).unwrap()];
    let listeners = pods
        .each_ref()
        .map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap());
    let endpoints = pods.each_ref().map(|pod| at(pod, 80));
    let spec = service("10.96.0.1", vec![port(80, &endpoints)]);
    assert!(fabric.services().set(&key("web"), &spec).is_empty());
    let origins = Arc::new(Mutex::new(Vec::new()));
    fabric.set_policy(Some(Box::new(Notes(origins.clone()))));

    for to in [endpoints[0], addr("10.96.0.1:80")] {
        let near = fabric.enter(neighbour(999), to).await.unwrap();
        let (far, peer) = listeners[0].accept().await.unwrap();
        assert_eq!(peer, neighbour(999));
        pass(&near, &far, "hello").await;
    }
    assert!(is_refused(
        fabric.enter(neighbour(999), at(&pods[0], 81)).await
    ));
    let node = SocketAddr::new(fabric.node_ip(), 5);
    fabric.enter(node, endpoints[0]).await.unwrap();
    fabric
        .enter(addr("192.0.2.1:5"), endpoints[0])
        .await
        .unwrap();
    let wanted = [
        Origin::Pod(ip(NEIGHBOUR)),
        Origin::Pod(ip(NEIGHBOUR)),
        Origin::Pod(ip(NEIGHBOUR)),
        Origin::Node,
        Origin::Outside(ip("192.0.2.1")),
    ];
    assert_eq!(*origins.lock().unwrap(), wanted);
}

/// Notes who is asked about, and allows all but UDP from neighbours.
struct Notes(Arc<Mutex<Vec<Origin>>>);

impl ConnectPolicy for Notes {
    fn allows(&self, attempt: &Attempt) -> bool {
        self.0.lock().unwrap().push(attempt.from);
        attempt.protocol == Protocol::Tcp || attempt.from != Origin::Pod(ip(NEIGHBOUR))
    }
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    let (fabric, beside) = beside();
    let pod = fabric.attach(None).unwrap();
    let socket = pod.bind_udp(addr("0.0.0.0:53")).unwrap();
    let own = at(&pod, 53);
    let dns = ServicePort {
        protocol: Protocol::Udp,
        ..port(53, &[own])
    };
    let far = ServicePort {
        protocol: Protocol::Udp,
        ..port(54, &[neighbour(54)])
    };
    let vip = addr("10.96.0.10:53");
    let spec = service("10.96.0.10", vec![dns, far]);
    assert!(fabric.services().set(&key("dns"), &spec).is_empty());
    let hello = Bytes::from_static(b"hello");
    let last = || beside.sent.lock().unwrap().pop();

    // To the pod, and to the Service before it: what answers comes from where the question went.
    for (from, to) in [
        (neighbour(7), own),
        (neighbour(8), vip),
        (addr("192.0.2.1:9"), vip),
        (addr("192.0.2.1:9"), own),
    ] {
        fabric.enter_datagram(hello.clone(), from, to).unwrap();
        let got = socket.recv_from().await.unwrap();
        assert_eq!(got.data, hello);
        socket.send_to(hello.clone(), got.from).unwrap();
        assert_eq!(last(), Some((hello.clone(), to, from)), "{from} to {to}");
    }
    assert!(is_refused(fabric.enter_datagram(
        hello.clone(),
        neighbour(7),
        at(&pod, 99)
    )));

    // From the pod to a Service of a neighbour; its answer is the Service's.
    let asked = addr("10.96.0.10:54");
    socket.send_to(hello.clone(), asked).unwrap();
    assert_eq!(last(), Some((hello.clone(), own, neighbour(54))));
    fabric
        .enter_datagram(hello.clone(), neighbour(54), own)
        .unwrap();
    assert_eq!(socket.recv_from().await.unwrap().from, asked);
}

#[tokio::test]
async fn what_was_asked_for_may_come_in() {
    let (fabric, beside) = beside();
    fabric.set_policy(Some(Box::new(Notes(Arc::default()))));
    let pod = fabric.attach(None).unwrap();
    let socket = pod.bind_udp(addr("0.0.0.0:53")).unwrap();
    let hello = Bytes::from_static(b"hello");
    let enter = |from| fabric.enter_datagram(hello.clone(), from, at(&pod, 53));
    assert!(matches!(enter(neighbour(7)), Err(NetError::Denied(_))));
    socket.send_to(hello.clone(), neighbour(7)).unwrap();
    assert_eq!(beside.sent.lock().unwrap().len(), 1);
    enter(neighbour(7)).unwrap();
    assert!(matches!(enter(neighbour(8)), Err(NetError::Denied(_))));
    assert_eq!(socket.recv_from().await.unwrap().from, neighbour(7));
}

#[tokio::test]
async fn a_port_of_the_node_leads_to_a_socket_of_the_host() {
    let fabric = fabric();
    let pod = fabric.attach(None).unwrap();
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = SocketAddr::new(fabric.node_ip(), 6443);
    assert!(is_refused(pod.connect(node).await));
    fabric.publish(6443, Some(host.local_addr().unwrap()));
    let spec = service("10.96.0.1", vec![port(443, &[node])]);
    assert!(fabric.services().set(&key("api"), &spec).is_empty());
    for to in [node, addr("10.96.0.1:443")] {
        let near = pod.connect(to).await.unwrap();
        assert!(near.is_host());
        let (far, _) = host.accept().await.unwrap();
        pass(&near, &Stream::from_host(far).unwrap(), "hello").await;
    }
    fabric.publish(6443, None);
    assert!(is_refused(pod.connect(addr("10.96.0.1:443")).await));
}
