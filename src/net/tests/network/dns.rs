//! The cluster's names on the wire: from the host, and from pods that speak DNS themselves.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};
use vaquita_net::{
    DnsSockets, Fabric, NetError, PodIdentity, Protocol, ServiceHost, ServiceKey, ServiceSpec,
    fuzz_answer,
};

use crate::tools::*;

fn cluster() -> Fabric {
    let fabric = fabric();
    let set = |name: &str, spec: &ServiceSpec| {
        assert!(fabric.services().set(&key(name), spec).is_empty());
    };
    let mut web = service("10.96.0.7", vec![port(80, &[addr("10.244.0.2:8080")])]);
    web.ports[0].name = Some("http".to_owned());
    web.cluster_ips.push(ip("fd00::7"));
    set("web", &web);
    let host = |last: &str, hostname: Option<&str>| ServiceHost {
        ip: ip(last),
        hostname: hostname.map(str::to_owned),
    };
    let mut client = port(5432, &[addr("10.244.0.5:5432"), addr("10.244.0.6:5432")]);
    client.name = Some("client".to_owned());
    set(
        "db",
        &ServiceSpec {
            ports: vec![client],
            hosts: vec![host("10.244.0.5", Some("db-0")), host("10.244.0.6", None)],
            ..ServiceSpec::default()
        },
    );
    let alias = |name: &str| ServiceSpec {
        external_name: Some(name.to_owned()),
        ..ServiceSpec::default()
    };
    set("near", &alias("web.default.svc.cluster.local"));
    set("far", &alias("example.com"));
    set("loop", &alias("loop.default.svc.cluster.local"));
    fabric
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut request = Message::new(7, MessageType::Query, OpCode::Query);
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    request
}

fn answer(fabric: &Fabric, request: &Message) -> Message {
    let bytes = fuzz_answer(fabric, &request.to_vec().unwrap(), true).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// The records of an answer, in words.
fn asked(fabric: &Fabric, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = answer(fabric, &question(name, kind));
    assert_eq!(answer.metadata.id, 7);
    let mut records: Vec<_> = answer
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    records.sort();
    (answer.metadata.response_code, records)
}

#[test]
fn every_kind_of_name_has_its_records() {
    use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
    let fabric = cluster();
    let ok = |name: &str, kind, expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(
            asked(&fabric, name, kind),
            (ResponseCode::NoError, expected),
            "{name} {kind}"
        );
    };
    let full = "web.default.svc.cluster.local.";
    ok(full, A, &["10.96.0.7"]);
    ok("WEB.default.SVC.cluster.local.", A, &["10.96.0.7"]);
    ok(full, AAAA, &["fd00::7"]);
    ok(full, TXT, &[]);
    let srv = format!("0 100 80 {full}");
    ok(full, SRV, &[&srv]);
    ok(&format!("_http._tcp.{full}"), SRV, &[&srv]);
    ok("7.0.96.10.in-addr.arpa.", PTR, &[full]);
    ok(
        "db.default.svc.cluster.local.",
        A,
        &["10.244.0.5", "10.244.0.6"],
    );
    ok("db-0.db.default.svc.cluster.local.", A, &["10.244.0.5"]);
    ok(
        "10-244-0-6.db.default.svc.cluster.local.",
        A,
        &["10.244.0.6"],
    );
    ok(
        "_client._tcp.db.default.svc.cluster.local.",
        SRV,
        &[
            "0 100 5432 10-244-0-6.db.default.svc.cluster.local.",
            "0 100 5432 db-0.db.default.svc.cluster.local.",
        ],
    );
    ok(
        "5.0.244.10.in-addr.arpa.",
        PTR,
        &["db-0.db.default.svc.cluster.local."],
    );
    ok("10-244-0-9.default.pod.cluster.local.", A, &["10.244.0.9"]);
    ok("near.default.svc.cluster.local.", A, &["10.96.0.7", full]);
    ok("far.default.svc.cluster.local.", A, &["example.com."]);
    ok("far.default.svc.cluster.local.", CNAME, &["example.com."]);
    ok("dns-version.cluster.local.", TXT, &["1.1.0"]);
    ok("default.svc.cluster.local.", A, &[]);
    ok("cluster.local.", A, &[]);

    for nobody in [
        "x.default.svc.cluster.local.",
        "web.other.svc.cluster.local.",
        "other.svc.cluster.local.",
        "x.web.default.svc.cluster.local.",
        "_http._udp.web.default.svc.cluster.local.",
        "a.b.c.web.default.svc.cluster.local.",
        "x.default.pod.cluster.local.",
        "8.0.244.10.in-addr.arpa.",
    ] {
        let answer = answer(&fabric, &question(nobody, A));
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NXDomain,
            "{nobody}"
        );
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)));
        assert_eq!(answer.authorities[0].ttl, 5);
    }
    let foreign = asked(&fabric, "example.com.", A);
    assert_eq!(foreign, (ResponseCode::Refused, Vec::new()));
    asked(&fabric, "loop.default.svc.cluster.local.", A);
}

#[test]
fn odd_requests_get_the_answers_of_the_book() {
    let fabric = cluster();
    let name = "web.default.svc.cluster.local.";
    let code = |request: &Message| answer(&fabric, request).metadata.response_code;
    let mut request = question(name, RecordType::A);
    request.metadata.op_code = OpCode::Update;
    assert_eq!(code(&request), ResponseCode::NotImp);
    let mut request = question(name, RecordType::A);
    request.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(code(&request), ResponseCode::FormErr);
    let mut request = question(name, RecordType::A);
    request.metadata.message_type = MessageType::Response;
    let bytes = request.to_vec().unwrap();
    assert_eq!(
        fuzz_answer(&fabric, &bytes, true),
        None,
        "answers get no answers"
    );
    for short in [&bytes[..11], &[]] {
        assert_eq!(fuzz_answer(&fabric, short, true), None);
    }
}

/// A headless Service with so many pods that their addresses do not fit into a datagram.
fn crowd(fabric: &Fabric) {
    let hosts = (0..200).map(|last| ServiceHost {
        ip: IpAddr::from([10, 244, 9, last]),
        hostname: None,
    });
    let spec = ServiceSpec {
        hosts: hosts.collect(),
        ..ServiceSpec::default()
    };
    assert!(fabric.services().set(&key("crowd"), &spec).is_empty());
}

#[tokio::test]
async fn what_is_too_long_for_a_datagram_comes_by_tcp() {
    let fabric = cluster();
    crowd(&fabric);
    let sockets = DnsSockets::bind(addr("127.0.0.1:0")).await.unwrap();
    let address = sockets.local_addr();
    let _serving = fabric.serve_dns_on(sockets);
    let mut request = question("crowd.default.svc.cluster.local.", RecordType::A);
    for with_edns in [false, true] {
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            request.set_edns(edns);
        }
        let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        asker
            .send_to(&request.to_vec().unwrap(), address)
            .await
            .unwrap();
        let mut buffer = [0; 4096];
        let length = asker.recv(&mut buffer).await.unwrap();
        assert!(length <= if with_edns { 1232 } else { 512 });
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert!(answer.metadata.truncation && answer.answers.is_empty());
    }
    let mut asker = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        let bytes = request.to_vec().unwrap();
        asker
            .write_u16(u16::try_from(bytes.len()).unwrap())
            .await
            .unwrap();
        asker.write_all(&bytes).await.unwrap();
        let mut bytes = vec![0; usize::from(asker.read_u16().await.unwrap())];
        asker.read_exact(&mut bytes).await.unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(
            (answer.metadata.truncation, answer.answers.len()),
            (false, 200)
        );
    }
}

#[tokio::test]
async fn pods_ask_by_the_service_of_the_cluster() {
    let fabric = cluster();
    let _serving = fabric.serve_dns(PodIdentity::default()).unwrap();
    let again = fabric.serve_dns(PodIdentity::default());
    assert!(matches!(again, Err(NetError::AddrInUse(_))));
    let server = SocketAddr::new(fabric.node_ip(), 53);
    let mut dns = service("10.96.0.10", vec![port(53, &[server]), port(53, &[server])]);
    dns.ports[0].protocol = Protocol::Udp;
    let kube_dns = ServiceKey {
        namespace: "kube-system".to_owned(),
        name: "kube-dns".to_owned(),
    };
    assert!(fabric.services().set(&kube_dns, &dns).is_empty());

    let pod = fabric.attach(None).unwrap();
    let request = question("web.default.svc.cluster.local.", RecordType::A);
    let bytes = request.to_vec().unwrap();
    let socket = pod.bind_udp(addr("0.0.0.0:0")).unwrap();
    socket
        .send_to(bytes.clone().into(), addr("10.96.0.10:53"))
        .unwrap();
    let datagram = socket.recv_from().await.unwrap();
    assert_eq!(datagram.from, addr("10.96.0.10:53"));
    let answer = Message::from_vec(&datagram.data).unwrap();
    assert_eq!(answer.answers[0].data.to_string(), "10.96.0.7");

    let stream = pod.connect(addr("10.96.0.10:53")).await.unwrap();
    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(&bytes);
    stream.write_bytes(Bytes::from(framed)).await.unwrap();
    let mut stream = stream;
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!(answer.answers[0].data.to_string(), "10.96.0.7");
    assert_eq!(fabric.metrics().pods, 1);
}

#[tokio::test]
async fn aliases_lead_on_in_memory_too() {
    let fabric = cluster();
    let pod = fabric
        .attach_as(
            PodIdentity {
                namespace: "default".to_owned(),
                ..PodIdentity::default()
            },
            None,
        )
        .unwrap();
    let found = pod.resolve("near").await.unwrap();
    assert_eq!(found, [ip("10.96.0.7"), ip("fd00::7")]);
    pod.resolve("far").await.unwrap_err();
    pod.resolve("loop").await.unwrap_err();
    let found = pod.resolve("10-244-0-9.default.pod.cluster.local").await;
    assert_eq!(found.unwrap(), [ip("10.244.0.9")]);
}

proptest! {
    /// Whatever is asked about, the answer is one: to this question, with this number, in few enough bytes, and what the
    /// tables say in memory is what they say on the wire.
    #[test]
    fn names_come_round(labels in prop::collection::vec("[a-z0-9]{1,12}|web|db|db-0|default|svc|cluster|local", 1..7),
                        suffix in prop_oneof![Just(""), Just(".svc.cluster.local"), Just(".default.svc.cluster.local"), Just(".pod.cluster.local")],
                        kind in prop_oneof![Just(RecordType::A), Just(RecordType::SRV), Just(RecordType::ANY)]) {
        let fabric = cluster();
        let name = format!("{}{suffix}.", labels.join("."));
        let request = question(&name, kind);
        let answer = answer(&fabric, &request);
        prop_assert_eq!(answer.metadata.id, 7);
        prop_assert_eq!(&answer.queries, &request.queries);
        if kind == RecordType::A {
            let mut on_wire: Vec<String> = answer.answers.iter().filter(|record| record.record_type() == RecordType::A).map(|record| record.data.to_string()).collect();
            on_wire.sort();
            let in_memory = fabric.names().lookup(&name).unwrap_or_default();
            let mut in_memory: Vec<String> = in_memory.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect();
            in_memory.sort();
            prop_assert_eq!(on_wire, in_memory);
        }
    }

    /// Bytes of any kind are answered briefly or not at all.
    #[test]
    fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600), flags in any::<u8>()) {
        let fabric = cluster();
        let mut bytes = bytes;
        if let Some(byte) = bytes.get_mut(2) {
            *byte = flags & 0x7f;
        }
        if let Some(answer) = fuzz_answer(&fabric, &bytes, true) {
            prop_assert!(answer.len() <= 1232);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }
}
