//! Datagrams, and whether an address is alive.

use std::{io, net::IpAddr};

use tokio::net::UdpSocket;
use vaquita_net::{PodIdentity, Protocol, ServiceKey, ServicePort, ServiceSpec};

use crate::tools::{Network, at, in_namespace, run};

#[test]
fn datagrams_go_both_ways() {
    in_namespace("udp::datagrams_go_both_ways", async || {
        let network = Network::start();
        let pod = network.pod();
        let server = pod.bind_udp("0.0.0.0:53".parse().unwrap()).unwrap();
        let client = UdpSocket::bind(at(network.fabric.node_ip(), 0))
            .await
            .unwrap();
        // The longest there is, too.
        for length in [0, 1, 1400, 9000, 65_507] {
            let data = vec![7; length];
            client.send_to(&data, at(pod.ip(), 53)).await.unwrap();
            let heard = server.recv_from().await.unwrap();
            assert_eq!(heard.data, data);
            assert_eq!(heard.from, client.local_addr().unwrap());
            server.send_to(heard.data, heard.from).unwrap();
            let mut buffer = vec![0; 65_536];
            let (got, from) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((got, from), (length, at(pod.ip(), 53)));
        }
    });
}

#[test]
fn who_takes_no_datagrams_says_so() {
    in_namespace("udp::who_takes_no_datagrams_says_so", async || {
        let network = Network::start();
        let pod = network.pod();
        let client = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        client.connect(at(pod.ip(), 53)).await.unwrap();
        client.send(b"anybody").await.unwrap();
        let refused = client.recv(&mut [0; 8]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn names_are_answered_at_a_service() {
    in_namespace("udp::names_are_answered_at_a_service", async || {
        let network = Network::start();
        let _dns = network.fabric.serve_dns(PodIdentity::default()).unwrap();
        let key = |name: &str| ServiceKey {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
        };
        let ip: IpAddr = "10.96.0.10".parse().unwrap();
        let spec = ServiceSpec {
            cluster_ips: vec![ip],
            ports: vec![ServicePort {
                name: None,
                protocol: Protocol::Udp,
                port: 53,
                node_port: None,
                endpoints: vec![at(network.fabric.node_ip(), 53)],
                outside_endpoints: None,
            }],
            ..ServiceSpec::default()
        };
        assert!(
            network
                .fabric
                .services()
                .set(&key("kube-dns"), &spec)
                .is_empty()
        );
        let client = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        client.connect(at(ip, 53)).await.unwrap();
        let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["kube-dns", "kube-system", "svc", "cluster", "local"] {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        client.send(&question).await.unwrap();
        let mut answer = [0; 512];
        // Connected: an answer from elsewhere than the Service would not get here.
        let length = client.recv(&mut answer).await.unwrap();
        let IpAddr::V4(expected) = ip else {
            unreachable!()
        };
        assert!(answer[..length].ends_with(&expected.octets()));
    });
}

#[test]
fn who_is_alive_answers() {
    in_namespace("udp::who_is_alive_answers", async || {
        let network = Network::start();
        let pod = network.pod();
        let ping =
            |ip: IpAddr| async move { tokio::task::spawn_blocking(move || ask(ip)).await.unwrap() };
        assert_eq!(ping(pod.ip()).await, ECHO_REPLY);
        let nobody = ping("10.244.200.200".parse().unwrap()).await;
        assert_eq!(nobody, UNREACHABLE);
        run("ip", &["link", "show", network.kernel.device()]);
    });
}

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;

/// Asks whether an address is alive, as ping does, and says of which type the answer is.
fn ask(ip: IpAddr) -> u8 {
    use socket2::{Domain, Protocol, Socket, Type};
    use std::io::Read as _;

    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    let mut request = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
    // The ones' complement of the sum of the words.
    let sum = !(0x0800_u16 + 0x1234 + 1);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send_to(&request, &at(ip, 0).into()).unwrap();
    let mut answer = [0; 512];
    let length = socket.read(&mut answer).unwrap();
    assert!(length >= 28, "a header of IP and one of ICMP");
    answer[20]
}
