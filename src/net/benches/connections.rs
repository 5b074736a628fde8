//! How fast connections are: round trips, bulk transfer, and how quickly they are made, inside the fabric and (for
//! comparison) over the host's loopback. Prints figures; asserts nothing. Run it with
//! `cargo bench -p vaquita-net --bench connections`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};
use vaquita_net::{
    Attempt, ConnectPolicy as _, Fabric, FabricConfig, Labels, Listener, Origin, Peer, PodIdentity,
    PodNetwork, Policies, PolicyPod, PolicySpec, Requirement, Rule, Selector, ServiceKey,
    ServicePort, ServiceSpec, Stream,
};

const ROUND_TRIPS: u32 = 200_000;
const HOST_ROUND_TRIPS: u32 = 20_000;
const BULK: usize = 8 << 30;
const COPIED: usize = 4 << 30;
const CHUNK: usize = 64 * 1024;
const CONNECTS: u32 = 100_000;
const PODS: u32 = 50_000;

fn main() {
    // `cargo test --benches` runs it too, to see that it works.
    let scale = if std::env::args().any(|argument| argument == "--bench") {
        1
    } else {
        1000
    };
    let one = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let two = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    pods(scale);
    policies(scale);
    for (name, runtime) in [("one thread", &one), ("two threads", &two)] {
        println!("{name}:");
        round_trips(runtime, scale);
        bulk(runtime, scale);
        connects(runtime, scale);
    }
}

fn pods(scale: u32) {
    let fabric = Fabric::new(FabricConfig::default()).expect("the defaults");
    let start = Instant::now();
    let pods: Vec<_> = (0..PODS / scale).map(|_| attach(&fabric)).collect();
    println!(
        "attach a pod, {} of them: {:.2} µs",
        pods.len(),
        each(start.elapsed(), PODS / scale)
    );
    let start = Instant::now();
    drop(pods);
    println!("close a pod: {:.2} µs", each(start.elapsed(), PODS / scale));
}

/// What a decision costs where there are many policies and many pods: each policy selects a tenth of the pods, and lets
/// another tenth in.
fn policies(scale: u32) {
    const POLICIES: u32 = 300;
    let policies = Policies::new();
    let ip = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + number));
    let having = |number: u32| {
        let value = (number % 10).to_string();
        Selector(vec![Requirement::In("part".to_owned(), vec![value])])
    };
    let count = 5000 / scale.min(100);
    for number in 0..count {
        let labels = Labels::from([("part".to_owned(), (number % 10).to_string())]);
        let pod = PolicyPod {
            ips: vec![ip(number)],
            labels,
            ports: Vec::new(),
        };
        policies.set_pod("default", &format!("pod-{number}"), pod);
    }
    let start = Instant::now();
    for number in 0..POLICIES {
        let peer = Peer::Pods {
            namespaces: None,
            pods: having(number + 1),
        };
        let rule = Rule {
            peers: Some(vec![peer]),
            ports: None,
        };
        let spec = PolicySpec {
            pods: having(number),
            ingress: Some(vec![rule]),
            egress: None,
        };
        policies.set_policy("default", &format!("policy-{number}"), spec);
    }
    println!(
        "set a policy, {POLICIES} of them over {count} pods: {:.0} µs",
        each(start.elapsed(), POLICIES)
    );
    let decide = |what: &str, from: u32| {
        let decisions = 1_000_000 / scale;
        let attempt = Attempt {
            from: Origin::Pod(ip(from)),
            to: SocketAddr::new(ip(10), 80),
            protocol: vaquita_net::Protocol::Tcp,
        };
        let start = Instant::now();
        for _ in 0..decisions {
            std::hint::black_box(policies.allows(std::hint::black_box(&attempt)));
        }
        println!("  {what}: {:.3} µs", each(start.elapsed(), decisions));
    };
    decide("allow a connect by the first of 30 rules", 1);
    decide("deny a connect after all 30", 2);
}

/// Two pods, one of which listens.
struct Pair {
    fabric: Fabric,
    client: PodNetwork,
    server: PodNetwork,
    listener: Listener,
    to: SocketAddr,
    by_service: SocketAddr,
}

impl Pair {
    fn new() -> Self {
        let fabric = Fabric::new(FabricConfig::default()).expect("the defaults");
        let (client, server) = (named(&fabric, "client"), named(&fabric, "server"));
        let to = SocketAddr::new(server.ip(), 80);
        let by_service = SocketAddr::from(([10, 96, 0, 1], 80));
        let port = ServicePort {
            name: None,
            protocol: vaquita_net::Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: vec![to],
            outside_endpoints: None,
        };
        let spec = ServiceSpec {
            cluster_ips: vec![by_service.ip()],
            ports: vec![port],
            ..ServiceSpec::default()
        };
        let key = ServiceKey {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        };
        assert!(fabric.services().set(&key, &spec).is_empty());
        let listener = server
            .listen(SocketAddr::from(([0, 0, 0, 0], 80)))
            .expect("a free port");
        Self {
            fabric,
            client,
            server,
            listener,
            to,
            by_service,
        }
    }

    /// Has 100 policies for all pods, of which the last lets the client in.
    fn police(&self) {
        let policies = Policies::new();
        let stranger = IpAddr::from([10, 244, 200, 1]);
        for (name, ip) in [
            ("client", self.client.ip()),
            ("server", self.server.ip()),
            ("stranger", stranger),
        ] {
            let pod = PolicyPod {
                ips: vec![ip],
                labels: Labels::from([("app".to_owned(), name.to_owned())]),
                ports: Vec::new(),
            };
            policies.set_pod("default", name, pod);
        }
        for number in 0..100 {
            let wanted = if number == 99 { "client" } else { "stranger" };
            let from = Selector(vec![Requirement::In(
                "app".to_owned(),
                vec![wanted.to_owned()],
            )]);
            let rule = Rule {
                peers: Some(vec![Peer::Pods {
                    namespaces: None,
                    pods: from,
                }]),
                ports: None,
            };
            let spec = PolicySpec {
                pods: Selector(Vec::new()),
                ingress: Some(vec![rule]),
                egress: None,
            };
            policies.set_policy("default", &format!("policy-{number:02}"), spec);
        }
        let attempt = |from| Attempt {
            from: Origin::Pod(from),
            to: self.to,
            protocol: vaquita_net::Protocol::Tcp,
        };
        assert!(policies.allows(&attempt(self.client.ip())));
        assert!(!policies.allows(&attempt(self.server.ip())));
        self.fabric.set_policy(Some(Box::new(policies)));
    }

    async fn connect(&self) -> (Stream, Stream) {
        let near = self.client.connect(self.to).await.expect("a listener");
        let (far, _) = self.listener.accept().await.expect("a connection");
        (near, far)
    }
}

fn named(fabric: &Fabric, name: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        ..PodIdentity::default()
    };
    fabric.attach_as(identity, None).expect("a free address")
}

fn attach(fabric: &Fabric) -> PodNetwork {
    fabric.attach(None).expect("a free address")
}

fn each(took: Duration, count: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(count)
}

#[allow(clippy::cast_precision_loss)] // Figures to read.
fn print_rate(what: &str, bytes: usize, took: Duration) {
    println!(
        "  {what}: {:.1} GiB/s",
        bytes as f64 / took.as_secs_f64() / f64::from(1 << 30)
    );
}

fn round_trips(runtime: &Runtime, scale: u32) {
    let pair = Pair::new();
    let took = runtime.block_on(async {
        let (near, far) = pair.connect().await;
        tokio::spawn(async move {
            loop {
                let data = far.read_bytes(CHUNK).await.expect("the other end");
                if data.is_empty() {
                    return;
                }
                far.write_bytes(data).await.expect("the other end");
            }
        });
        // The client is a task too: `block_on` itself is woken differently.
        let client = tokio::spawn(async move {
            let start = Instant::now();
            for _ in 0..ROUND_TRIPS / scale {
                near.write_bytes(Bytes::from_static(b"ping"))
                    .await
                    .expect("the other end");
                near.read_bytes(CHUNK).await.expect("the other end");
            }
            start.elapsed()
        });
        client.await.expect("no panic")
    });
    println!(
        "  round trip, memory: {:.2} µs",
        each(took, ROUND_TRIPS / scale)
    );
    let took = runtime.block_on(host_round_trips(HOST_ROUND_TRIPS / scale));
    println!(
        "  round trip, host loopback: {:.2} µs",
        each(took, HOST_ROUND_TRIPS / scale)
    );
}

async fn host_round_trips(count: u32) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut near = TcpStream::connect(listener.local_addr().expect("bound"))
        .await
        .expect("a listener");
    let (mut far, _) = listener.accept().await.expect("a connection");
    near.set_nodelay(true)
        .and_then(|()| far.set_nodelay(true))
        .expect("a socket");
    let client = tokio::spawn(async move {
        let start = Instant::now();
        let mut buffer = [0; 4];
        for _ in 0..count {
            near.write_all(b"ping").await.expect("the other end");
            near.read_exact(&mut buffer).await.expect("the other end");
        }
        start.elapsed()
    });
    tokio::spawn(async move {
        let mut buffer = [0; 4];
        while far.read_exact(&mut buffer).await.is_ok() {
            far.write_all(&buffer).await.expect("the other end");
        }
    });
    client.await.expect("no panic")
}

fn bulk(runtime: &Runtime, scale: u32) {
    let pair = Pair::new();
    let total = BULK / scale as usize;
    let took = runtime.block_on(async {
        let (near, far) = pair.connect().await;
        let chunk = Bytes::from(vec![7; CHUNK]);
        let start = Instant::now();
        tokio::spawn(async move {
            for _ in 0..total / CHUNK {
                near.write_bytes(chunk.clone())
                    .await
                    .expect("the other end");
            }
        });
        let reader =
            tokio::spawn(
                async move { while !far.read_bytes(CHUNK).await.expect("data").is_empty() {} },
            );
        reader.await.expect("no panic");
        start.elapsed()
    });
    print_rate("bulk, by reference", total, took);
    let total = COPIED / scale as usize;
    let took = runtime.block_on(async {
        let (mut near, mut far) = pair.connect().await;
        let start = Instant::now();
        tokio::spawn(async move {
            let chunk = vec![7; CHUNK];
            for _ in 0..total / CHUNK {
                near.write_all(&chunk).await.expect("the other end");
            }
        });
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while far.read(&mut buffer).await.expect("data") > 0 {}
        });
        reader.await.expect("no panic");
        start.elapsed()
    });
    print_rate("bulk, copied in and out", total, took);
}

fn connects(runtime: &Runtime, scale: u32) {
    let pair = Pair::new();
    let policed = Pair::new();
    policed.police();
    for (what, pair, to) in [
        ("pod", &pair, pair.to),
        ("Service", &pair, pair.by_service),
        ("pod with 100 policies", &policed, policed.to),
    ] {
        let took = runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..CONNECTS / scale {
                pair.client.connect(to).await.expect("a listener");
                pair.listener.accept().await.expect("a connection");
            }
            start.elapsed()
        });
        println!(
            "  connect, accept and close, by the address of a {what}: {:.2} µs",
            each(took, CONNECTS / scale)
        );
    }
}
