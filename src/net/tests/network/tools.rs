//! What the tests share.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use vaquita_net::{
    Fabric, FabricConfig, Listener, NetError, PodNetwork, Protocol, ServiceKey, ServicePort,
    ServiceSpec, Stream,
};

pub(crate) fn fabric() -> Fabric {
    fabric_with(|_| {})
}

pub(crate) fn fabric_with(change: impl FnOnce(&mut FabricConfig)) -> Fabric {
    let mut config = FabricConfig::default();
    change(&mut config);
    Fabric::new(config).unwrap()
}

/// A fabric in which a full backlog is found full soon.
pub(crate) fn impatient(change: impl FnOnce(&mut FabricConfig)) -> Fabric {
    fabric_with(|config| {
        config.connect_timeout = Duration::from_millis(5);
        change(config);
    })
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(pod: &PodNetwork, port: u16) -> SocketAddr {
    SocketAddr::new(pod.ip(), port)
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

pub(crate) fn port(port: u16, endpoints: &[SocketAddr]) -> ServicePort {
    ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port,
        node_port: None,
        endpoints: endpoints.to_vec(),
        outside_endpoints: None,
    }
}

pub(crate) fn service(cluster_ip: &str, ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec {
        cluster_ips: vec![ip(cluster_ip)],
        ports,
        ..ServiceSpec::default()
    }
}

/// Both ends of a connection.
pub(crate) async fn join(
    client: &PodNetwork,
    listener: &Listener,
    to: SocketAddr,
) -> (Stream, Stream) {
    let near = client.connect(to).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, far.peer_addr());
    (near, far)
}

/// Sends from one end to the other, and compares.
pub(crate) async fn pass(from: &Stream, to: &Stream, text: &'static str) {
    from.write_bytes(Bytes::from_static(text.as_bytes()))
        .await
        .unwrap();
    let mut read = Vec::new();
    while read.len() < text.len() {
        let chunk = to.read_bytes(text.len() - read.len()).await.unwrap();
        assert!(!chunk.is_empty(), "the connection ended");
        read.extend_from_slice(&chunk);
    }
    assert_eq!(read, text.as_bytes());
}

/// Which of the listeners got the one connection that is on its way.
pub(crate) fn reached(listeners: &[Listener]) -> usize {
    let mut pending = listeners
        .iter()
        .map(|listener| listener.try_accept().unwrap().is_some());
    let found = pending
        .position(|found| found)
        .expect("a connection at one of the listeners");
    assert!(!pending.any(|found| found));
    found
}

pub(crate) fn is_refused<T>(result: Result<T, NetError>) -> bool {
    result.is_err_and(|error| matches!(error, NetError::ConnectionRefused(_)))
}
