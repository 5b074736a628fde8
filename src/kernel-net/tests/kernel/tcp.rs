//! Connections.

use std::{io, net::IpAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use vaquita_kernel_net::KernelNetConfig;
use vaquita_net::{Protocol, ServiceKey, ServicePort, ServiceSpec};

use crate::tools::{Network, at, echo, in_namespace, run, serve};

/// More than all buffers together.
const MUCH: usize = 32 * 1024 * 1024;

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 31 + index / 251).to_le_bytes()[0])
        .collect()
}

#[test]
fn the_host_talks_to_a_pod() {
    in_namespace("tcp::the_host_talks_to_a_pod", async || {
        let network = Network::start();
        let pod = network.pod();
        serve(&pod, 80, echo);
        let mut client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut answer).await.unwrap(), 0);
        assert_eq!(network.kernel.metrics().accepted, 1);
        while network.kernel.metrics().connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_pod_sees_who_connects() {
    in_namespace("tcp::a_pod_sees_who_connects", async || {
        let network = Network::start();
        let pod = network.pod();
        run("ip", &["address", "add", "192.0.2.7/32", "dev", "lo"]);
        serve(&pod, 80, async |stream, peer| {
            let said = peer.to_string();
            (&stream).write_all(said.as_bytes()).await.unwrap();
        });
        for own in [
            network.fabric.node_ip(),
            "192.0.2.7".parse::<IpAddr>().unwrap(),
        ] {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(at(own, 0)).unwrap();
            let mut client = socket.connect(at(pod.ip(), 80)).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, client.local_addr().unwrap().to_string());
        }
    });
}

#[test]
fn much_data_goes_through_both_ways() {
    in_namespace("tcp::much_data_goes_through_both_ways", async || {
        let network = Network::start();
        let pod = network.pod();
        serve(&pod, 80, echo);
        let client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        let (mut reader, mut writer) = client.into_split();
        let sent = pattern(MUCH);
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.unwrap();
        writing.await.unwrap();
        assert!(heard == expected, "{} of {MUCH} bytes", heard.len());
    });
}

#[test]
fn short_packets_on_the_way_do_no_harm() {
    in_namespace("tcp::short_packets_on_the_way_do_no_harm", async || {
        let network = Network::start();
        let pod = network.pod();
        let route = format!("{}/32", pod.ip());
        run(
            "ip",
            &["route", "add", &route, "dev", "vaquita0", "advmss", "1400"],
        );
        serve(&pod, 80, echo);
        let client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        let (mut reader, mut writer) = client.into_split();
        let sent = pattern(MUCH);
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).await.unwrap();
        writing.await.unwrap();
        assert!(heard == expected, "{} of {MUCH} bytes", heard.len());
        let metrics = network.kernel.metrics();
        let mean = metrics.bytes_out / metrics.packets_out;
        assert!(
            mean > 1400,
            "segments are given to the kernel whole: {mean}"
        );
    });
}

#[test]
fn who_does_not_read_is_waited_for() {
    in_namespace("tcp::who_does_not_read_is_waited_for", async || {
        let network = Network::start();
        let pod = network.pod();
        let (go, mut wait) = tokio::sync::watch::channel(false);
        let going = go.subscribe();
        serve(&pod, 80, move |stream, _| {
            let mut going = going.clone();
            async move {
                going.wait_for(|go| *go).await.unwrap();
                let mut all = Vec::new();
                (&stream).read_to_end(&mut all).await.unwrap();
                let sum = all.len().to_string();
                (&stream).write_all(sum.as_bytes()).await.unwrap();
            }
        });
        wait.mark_unchanged();
        let mut client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        let block = pattern(1024 * 1024);
        let mut sent = 0;
        // Until nothing goes any more.
        while let Ok(written) = timeout(Duration::from_millis(500), client.write(&block)).await {
            sent += written.unwrap();
            assert!(sent < MUCH, "nobody reads, and yet there is room");
        }
        go.send(true).unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, sent.to_string());
    });
}

#[test]
fn refusals_are_the_kernels_own() {
    in_namespace("tcp::refusals_are_the_kernels_own", async || {
        let network = Network::start();
        let pod = network.pod();
        let refused = TcpStream::connect(at(pod.ip(), 81)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nobody = TcpStream::connect(at("10.244.9.9".parse().unwrap(), 80)).await;
        assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::HostUnreachable);
        assert_eq!(network.kernel.metrics().refused, 2);
        assert_eq!(network.kernel.metrics().connections, 0);
    });
}

#[test]
fn ends_and_resets_cross_over() {
    in_namespace("tcp::ends_and_resets_cross_over", async || {
        let network = Network::start();
        let pod = network.pod();
        let (say, mut said) = tokio::sync::mpsc::channel(1);
        // Reads to the end, however it comes, and says how that was.
        serve(&pod, 80, move |stream, _| {
            let say = say.clone();
            async move {
                let mut all = Vec::new();
                let read = (&stream).read_to_end(&mut all).await;
                say.send(read.map_err(|error| error.kind())).await.unwrap();
            }
        });
        serve(&pod, 81, async |stream, _| stream.reset());
        serve(&pod, 82, async |stream, _| drop(stream));

        let mut client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        client.write_all(b"bye").await.unwrap();
        drop(client);
        assert_eq!(said.recv().await, Some(Ok(3)));

        let client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(said.recv().await, Some(Err(io::ErrorKind::ConnectionReset)));

        let mut buffer = [0; 1];
        // The reset may be here before the connect has been told that it succeeded.
        let reset = match TcpStream::connect(at(pod.ip(), 81)).await {
            Ok(mut client) => client.read(&mut buffer).await.unwrap_err(),
            Err(reset) => reset,
        };
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);

        let mut client = TcpStream::connect(at(pod.ip(), 82)).await.unwrap();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
        drop(client);
        while network.kernel.metrics().connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn services_are_balanced() {
    in_namespace("tcp::services_are_balanced", async || {
        let network = Network::start();
        let pods = [network.pod(), network.pod()];
        for pod in &pods {
            let own = pod.ip().to_string();
            serve(pod, 8080, move |stream, _| {
                let own = own.clone();
                async move { (&stream).write_all(own.as_bytes()).await.unwrap() }
            });
        }
        let key = ServiceKey {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        let ip: IpAddr = "10.96.0.80".parse().unwrap();
        let spec = ServiceSpec {
            cluster_ips: vec![ip],
            ports: vec![ServicePort {
                name: None,
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
                endpoints: pods.iter().map(|pod| at(pod.ip(), 8080)).collect(),
                outside_endpoints: None,
            }],
            ..ServiceSpec::default()
        };
        let failed = network.fabric.services().set(&key, &spec);
        assert!(failed.is_empty());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = TcpStream::connect(at(ip, 80)).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            seen.push(heard);
        }
        seen.sort_unstable();
        let expected: Vec<_> = pods
            .iter()
            .flat_map(|pod| [pod.ip().to_string(), pod.ip().to_string()])
            .collect();
        assert_eq!(seen, expected);
        let refused = TcpStream::connect(at(ip, 81)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn as_many_as_there_may_be() {
    in_namespace("tcp::as_many_as_there_may_be", async || {
        let network = Network::with(KernelNetConfig {
            connections: 100,
            ..KernelNetConfig::default()
        });
        let pod = network.pod();
        serve(&pod, 80, echo);
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(TcpStream::connect(at(pod.ip(), 80)).await.unwrap());
        }
        let more = timeout(
            Duration::from_millis(300),
            TcpStream::connect(at(pod.ip(), 80)),
        )
        .await;
        assert!(more.is_err(), "waits as if the network were slow");
        assert!(network.kernel.metrics().overflowed > 0);
        clients.truncate(50);
        // The client tries again by itself.
        TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
    });
}

#[test]
fn the_device_goes_with_its_owner() {
    in_namespace("tcp::the_device_goes_with_its_owner", async || {
        let network = Network::start();
        let pod = network.pod();
        serve(&pod, 80, echo);
        let mut client = TcpStream::connect(at(pod.ip(), 80)).await.unwrap();
        assert!(run("ip", &["route"]).contains("vaquita0"));
        drop(network);
        let mut buffer = [0; 1];
        let reset = client.read(&mut buffer).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
        while run("ip", &["route"]).contains("vaquita0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
