//! Rules for containers: here namespaces behind a bridge.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

use vaquita_kernel_net::{KernelFilter, KernelFilterConfig};
use vaquita_net::{
    FabricConfig, Labels, Peer, Policies, PolicyPod, PolicySpec, PortMatch, PortRange, Protocol,
    Requirement, Rule, Selector, ServiceKey, ServicePort, ServiceSpec, Stream,
};

use crate::tools::{Network, in_namespace, run, serve};

const SERVICE: &str = "10.96.0.80";

/// A bridge with a namespace for each container.
struct Bridge(Vec<String>);

impl Bridge {
    /// Containers have the addresses 10.244.128.2 and so on.
    fn start(containers: usize) -> Self {
        for command in [
            "link add vaquita type bridge",
            "address add 10.244.128.1/17 dev vaquita",
            "link set vaquita up",
        ] {
            run("ip", &command.split(' ').collect::<Vec<_>>());
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let own = (0..containers).map(|index| format!("vaquita-{}-{index}", std::process::id()));
        let own = Self(own.collect());
        for (index, name) in own.0.iter().enumerate() {
            for command in [
                "netns add NAME",
                "link add vethN type veth peer name eth0 netns NAME",
                "link set vethN master vaquita up",
                "-n NAME address add 10.244.128.ADDRESS/17 dev eth0",
                "-n NAME link set eth0 up",
                "-n NAME link set lo up",
                "-n NAME route add default via 10.244.128.1",
            ] {
                let command = command
                    .replace("NAME", name)
                    .replace("vethN", &format!("veth{index}"))
                    .replace("ADDRESS", &(index + 2).to_string());
                run("ip", &command.split(' ').collect::<Vec<_>>());
            }
        }
        own
    }

    fn command(&self, container: usize, code: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &self.0[container], "python3", "-c", code]);
        command.stderr(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Has a container say at port 80 who it is and who asks.
    async fn serve(&self, container: usize) -> tokio::process::Child {
        let code = format!(
            "
import socket
s = socket.create_server(('0.0.0.0', 80))
print('!', end='', flush=True)
while True:
    c, a = s.accept()
    c.sendall(('{container} sees ' + a[0]).encode())
    c.close()
"
        );
        let mut server = self.command(container, &code);
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 1];
        let output = server.stdout.as_mut().unwrap();
        output.read_exact(&mut ready).await.unwrap();
        server
    }

    /// What a container hears at an address; nothing if it does not get there.
    async fn ask(&self, container: usize, ip: &str) -> String {
        let code = format!(
            "import socket; print(socket.create_connection(('{ip}', 80), 5).recv(99).decode(), end='')"
        );
        let output = self.command(container, &code).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for name in &self.0 {
            let _gone = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn network() -> Network {
    Network::of(FabricConfig {
        own_cidr: Some("10.244.0.0/17".parse().unwrap()),
        ..FabricConfig::default()
    })
}

fn set_service(network: &Network, endpoints: &[String]) {
    let key = ServiceKey {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    };
    let spec = ServiceSpec {
        cluster_ips: vec![SERVICE.parse().unwrap()],
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: endpoints
                .iter()
                .map(|ip| format!("{ip}:80").parse().unwrap())
                .collect(),
            outside_endpoints: None,
        }],
        ..ServiceSpec::default()
    };
    assert!(network.fabric.services().set(&key, &spec).is_empty());
}

/// A Service by UDP, at the same address and another port.
fn set_datagram_service(network: &Network, endpoint: &str) {
    let key = ServiceKey {
        namespace: "default".to_owned(),
        name: "datagrams".to_owned(),
    };
    let spec = ServiceSpec {
        cluster_ips: vec![SERVICE.parse().unwrap()],
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Udp,
            port: 53,
            node_port: None,
            endpoints: vec![endpoint.parse().unwrap()],
            outside_endpoints: None,
        }],
        ..ServiceSpec::default()
    };
    assert!(network.fabric.services().set(&key, &spec).is_empty());
}

async fn heeded(network: &Network) {
    tokio::time::timeout(Duration::from_secs(20), network.fabric.followed())
        .await
        .unwrap();
}

/// Has a module say who asks.
async fn tell(stream: Stream, peer: SocketAddr) {
    let said = format!("module sees {}", peer.ip());
    (&stream).write_all(said.as_bytes()).await.unwrap();
}

fn tables() -> String {
    run("nft", &["list", "tables"])
}

#[test]
fn services_lead_from_container_to_container() {
    in_namespace(
        "filter::services_lead_from_container_to_container",
        async || {
            let network = network();
            let bridge = Bridge::start(3);
            // What an earlier process has left.
            run(
                "nft",
                &["add table inet vaquita; add chain inet vaquita stale"],
            );
            let filter = KernelFilter::start(&network.fabric, KernelFilterConfig::default())
                .await
                .unwrap();
            assert!(!run("nft", &["list", "ruleset"]).contains("stale"));
            let _servers = (bridge.serve(1).await, bridge.serve(2).await);

            set_service(
                &network,
                &["10.244.128.3".to_owned(), "10.244.128.4".to_owned()],
            );
            heeded(&network).await;
            let mut heard = [bridge.ask(0, SERVICE).await, bridge.ask(0, SERVICE).await];
            heard.sort();
            assert_eq!(heard, ["1 sees 10.244.128.2", "2 sees 10.244.128.2"]);
            // One that is behind the Service itself gets somewhere, too: by the fabric.
            let own = bridge.ask(1, SERVICE).await;
            assert!(own.contains(" sees 10.244.128.1"), "{own:?}");
            assert_eq!(network.kernel.metrics().accepted, 1);

            // Modules take their turns.
            let pod = network.pod();
            serve(&pod, 80, tell);
            set_service(&network, &["10.244.128.3".to_owned(), pod.ip().to_string()]);
            heeded(&network).await;
            let mut heard = [bridge.ask(0, SERVICE).await, bridge.ask(0, SERVICE).await];
            heard.sort();
            assert_eq!(heard, ["1 sees 10.244.128.2", "module sees 10.244.128.2"]);

            assert_eq!(tables(), "table inet vaquita\n");
            filter.close().await;
            assert_eq!(tables(), "");
            let filter = KernelFilter::start(&network.fabric, KernelFilterConfig::default())
                .await
                .unwrap();
            assert_eq!(tables(), "table inet vaquita\n");
            drop(filter);
            assert_eq!(tables(), "");
        },
    );
}

#[test]
fn datagrams_reach_containers_by_services() {
    in_namespace(
        "filter::datagrams_reach_containers_by_services",
        async || {
            let network = network();
            let bridge = Bridge::start(2);
            let config = KernelFilterConfig::default();
            let filter = KernelFilter::start(&network.fabric, config).await.unwrap();
            let code = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 5353))
print('!', end='', flush=True)
while True:
    d, a = s.recvfrom(99)
    s.sendto(('sees ' + a[0]).encode(), a)
";
            let mut server = bridge.command(1, code);
            let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
            let mut ready = [0; 1];
            let output = server.stdout.as_mut().unwrap();
            output.read_exact(&mut ready).await.unwrap();
            set_datagram_service(&network, "10.244.128.3:5353");
            heeded(&network).await;

            let ask = format!(
                "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5);
s.connect(('{SERVICE}', 53)); s.send(b'?'); print(s.recv(99).decode(), end='')"
            );
            let heard = bridge.command(0, &ask).output().await.unwrap();
            assert_eq!(String::from_utf8_lossy(&heard.stdout), "sees 10.244.128.2");
            let host = UdpSocket::bind("0.0.0.0:0").await.unwrap();
            host.connect((SERVICE, 53)).await.unwrap();
            host.send(b"?").await.unwrap();
            let mut answer = [0; 99];
            let length = host.recv(&mut answer).await.unwrap();
            assert_eq!(&answer[..length], b"sees 10.244.0.1");
            let pod = network.pod();
            let socket = pod.bind_udp("0.0.0.0:0".parse().unwrap()).unwrap();
            socket
                .send_to(
                    Bytes::from_static(b"?"),
                    format!("{SERVICE}:53").parse().unwrap(),
                )
                .unwrap();
            let answer = socket.recv_from().await.unwrap();
            assert_eq!(answer.data, format!("sees {}", pod.ip()));
            filter.close().await;
        },
    );
}

#[test]
fn policies_hold_between_containers() {
    in_namespace("filter::policies_hold_between_containers", async || {
        let network = network();
        let bridge = Bridge::start(2);
        let filter = KernelFilter::start(&network.fabric, KernelFilterConfig::default())
            .await
            .unwrap();
        let _server = bridge.serve(1).await;
        let policies = Policies::new();
        network.fabric.set_policy(Some(Box::new(policies.clone())));
        let labels = |role: &str| Labels::from([("role".to_owned(), role.to_owned())]);
        for (name, ip) in [("client", "10.244.128.2"), ("server", "10.244.128.3")] {
            let ips = vec![ip.parse::<IpAddr>().unwrap()];
            let pod = PolicyPod {
                ips,
                labels: labels(name),
                ports: Vec::new(),
            };
            policies.set_pod("default", name, pod);
        }
        set_service(&network, &["10.244.128.3".to_owned()]);
        let select = |role: &str| {
            Selector(vec![Requirement::In(
                "role".to_owned(),
                vec![role.to_owned()],
            )])
        };
        let set = |ingress: Vec<Rule>| {
            let ingress = Some(ingress);
            policies.set_policy(
                "default",
                "p",
                PolicySpec {
                    pods: select("server"),
                    ingress,
                    egress: None,
                },
            );
        };
        let ask = async |ip: &str| {
            heeded(&network).await;
            bridge.ask(0, ip).await
        };
        let yes = "1 sees 10.244.128.2";

        set(Vec::new());
        for ip in ["10.244.128.3", SERVICE] {
            assert_eq!(ask(ip).await, "", "nobody may connect to {ip}");
        }
        let ports = |ports| {
            Some(vec![PortMatch {
                protocol: Protocol::Tcp,
                ports: PortRange::Numbers(ports),
            }])
        };
        let peer = |role| {
            Some(vec![Peer::Pods {
                namespaces: None,
                pods: select(role),
            }])
        };
        set(vec![Rule {
            peers: peer("client"),
            ports: ports(80..=81),
        }]);
        for ip in ["10.244.128.3", SERVICE] {
            assert_eq!(ask(ip).await, yes, "the client may connect to {ip}");
        }
        set(vec![Rule {
            peers: peer("client"),
            ports: ports(81..=90),
        }]);
        assert_eq!(ask(SERVICE).await, "");
        set(vec![Rule {
            peers: peer("stranger"),
            ports: None,
        }]);
        assert_eq!(ask(SERVICE).await, "");
        policies.remove_policy("default", "p");
        assert_eq!(ask(SERVICE).await, yes);
        let closed = PolicySpec {
            pods: select("client"),
            ingress: None,
            egress: Some(Vec::new()),
        };
        policies.set_policy("default", "q", closed);
        // Neither to containers nor to modules.
        let pod = network.pod();
        serve(&pod, 80, tell);
        let module = pod.ip().to_string();
        for ip in ["10.244.128.3", &module] {
            assert_eq!(ask(ip).await, "");
        }
        policies.remove_policy("default", "q");
        assert_eq!(ask(&module).await, "module sees 10.244.128.2");
        filter.close().await;
    });
}
