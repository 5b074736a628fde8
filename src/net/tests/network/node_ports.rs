//! Node ports: real sockets of the host.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use vaquita_net::{Fabric, Listener, PodNetwork, Protocol, ServiceSpec};

use crate::tools::*;

/// A port of the host that is free, as far as one can know.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn on_host(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn pods(fabric: &Fabric, count: usize) -> (Vec<PodNetwork>, Vec<Listener>) {
    let pods: Vec<_> = (0..count).map(|_| fabric.attach(None).unwrap()).collect();
    let listeners = pods
        .iter()
        .map(|pod| pod.listen(addr("0.0.0.0:80")).unwrap())
        .collect();
    (pods, listeners)
}

fn spec(node_port: u16, pods: &[PodNetwork]) -> ServiceSpec {
    let endpoints: Vec<_> = pods.iter().map(|pod| at(pod, 80)).collect();
    let mut port = port(8080, &endpoints);
    port.node_port = Some(node_port);
    service("10.96.0.1", vec![port])
}

async fn answer(listener: &Listener, text: &'static str) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = [0; 4];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(&request, b"who?");
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn ask(port: u16) -> String {
    let mut client = TcpStream::connect(on_host(port)).await.unwrap();
    client.write_all(b"who?").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

/// How a connection fails: while it is made, or (as the kernel accepts it first) soon after.
async fn failure(port: u16) -> ErrorKind {
    let failed = match TcpStream::connect(on_host(port)).await {
        Ok(mut client) => client.read(&mut [0; 1]).await.map(|_length| ()),
        Err(error) => Err(error),
    };
    failed.unwrap_err().kind()
}

#[tokio::test]
async fn the_host_reaches_all_pods_in_turn() {
    let fabric = fabric();
    let (pods, listeners) = pods(&fabric, 2);
    let port = free_port().await;
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &pods))
            .is_empty()
    );
    assert_eq!(
        fabric.services().node_ports(),
        [(Protocol::Tcp, on_host(port))]
    );
    for (listener, text) in [
        (&listeners[0], "zero"),
        (&listeners[1], "one"),
        (&listeners[0], "zero"),
    ] {
        let ((), answer) = tokio::join!(answer(listener, text), ask(port));
        assert_eq!(answer, text);
    }
    assert_eq!(fabric.metrics().delivered, 3);
    assert_eq!(fabric.metrics().node_ports, 1);
}

#[tokio::test]
async fn ports_close_with_their_service() {
    let fabric = fabric();
    let (pods, listeners) = pods(&fabric, 1);
    let ports = [free_port().await, free_port().await];
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(ports[0], &pods))
            .is_empty()
    );
    tokio::join!(answer(&listeners[0], "x"), ask(ports[0]));
    // Another number: the old port is closed at once.
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(ports[1], &pods))
            .is_empty()
    );
    assert_eq!(
        TcpStream::connect(on_host(ports[0]))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::ConnectionRefused
    );
    drop(TcpListener::bind(on_host(ports[0])).await.unwrap());
    tokio::join!(answer(&listeners[0], "x"), ask(ports[1]));
    fabric.services().remove(&key("web"));
    assert_eq!(
        TcpStream::connect(on_host(ports[1]))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::ConnectionRefused
    );
    assert!(fabric.services().node_ports().is_empty());
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_tried_again() {
    let fabric = fabric();
    let (pods, listeners) = pods(&fabric, 1);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let failed = fabric.services().set(&key("web"), &spec(port, &pods));
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0].address.port(), &failed[0].service),
        (port, &key("web"))
    );
    assert_eq!(failed[0].source.kind(), ErrorKind::AddrInUse);
    // The rest of the Service works.
    join(
        &fabric.attach(None).unwrap(),
        &listeners[0],
        addr("10.96.0.1:8080"),
    )
    .await;
    drop(taken);
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &pods))
            .is_empty()
    );
    tokio::join!(answer(&listeners[0], "x"), ask(port));

    let other = fabric.services().set(&key("other"), &spec(port, &pods));
    assert!(
        other[0].source.to_string().contains("default/web"),
        "{}",
        other[0].source
    );
}

#[tokio::test]
async fn without_an_endpoint_the_client_is_reset() {
    let fabric = fabric();
    let port = free_port().await;
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &[]))
            .is_empty()
    );
    assert_eq!(failure(port).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_wait_for_a_full_backlog_but_not_too_many() {
    let fabric = fabric_with(|config| (config.backlog, config.node_port_pending) = (1, 2));
    let (pods, listeners) = pods(&fabric, 1);
    let port = free_port().await;
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &pods))
            .is_empty()
    );
    // One in the backlog, two waiting; the fourth is too much.
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(on_host(port)).await.unwrap());
    }
    assert_eq!(failure(port).await, ErrorKind::ConnectionReset);
    let mut accepted = Vec::new();
    for _ in 0..3 {
        accepted.push(listeners[0].accept().await.unwrap().1);
    }
    let clients: Vec<_> = clients
        .iter()
        .map(|client| client.local_addr().unwrap())
        .collect();
    assert_eq!(accepted, clients);
}

#[tokio::test]
async fn an_endpoint_outside_is_relayed() {
    let fabric = fabric_with(|config| {
        config.outside.service_endpoints = true;
        config.outside.host_loopback = true;
    });
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free_port().await;
    let mut spec = spec(port, &[]);
    spec.ports[0].endpoints = vec![outer.local_addr().unwrap()];
    assert!(fabric.services().set(&key("web"), &spec).is_empty());
    let serving = async {
        let (mut stream, _) = outer.accept().await.unwrap();
        let mut request = [0; 4];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(b"outside").await.unwrap();
    };
    let ((), answer) = tokio::join!(serving, ask(port));
    assert_eq!(answer, "outside");
    assert_eq!(fabric.metrics().relayed, 1);
}

#[tokio::test]
async fn node_ports_can_be_left_out() {
    let fabric = fabric_with(|config| config.node_ports = None);
    let port = free_port().await;
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &[]))
            .is_empty()
    );
    assert_eq!(
        TcpStream::connect(on_host(port)).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let fabric = fabric();
    let failed = fabric.services().set(&key("web"), &spec(0, &[]));
    assert_eq!(failed[0].source.kind(), ErrorKind::InvalidInput);
}

#[test]
fn without_a_runtime_it_is_an_error_not_a_panic() {
    let failed = fabric().services().set(&key("web"), &spec(30000, &[]));
    assert_eq!(failed.len(), 1);
}

#[tokio::test]
async fn ports_close_with_the_fabric() {
    let fabric = fabric();
    let port = free_port().await;
    assert!(
        fabric
            .services()
            .set(&key("web"), &spec(port, &[]))
            .is_empty()
    );
    drop(fabric);
    assert_eq!(
        TcpStream::connect(on_host(port)).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}
