//! Services as their users meet them: names by DNS, clients that stay, load balancers' addresses, policies.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    harness::{Vaquita, eventually, http_get},
    pods::{wait_answered_by, web},
};

/// Asks for a name's IPv4 addresses, by UDP. Gives the response code and the addresses.
fn dns(server: &str, name: &str) -> Result<(u8, Vec<String>), String> {
    let mut request = vec![0x2a, 0x2a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        request.push(u8::try_from(label.len()).expect("a label"));
        request.extend_from_slice(label.as_bytes());
    }
    request.extend_from_slice(&[0, 0, 1, 0, 1]);
    let asked = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(&request, server)?;
        let mut answer = vec![0; 1500];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = asked().map_err(|error| error.to_string())?;
    assert_eq!(answer[..2], request[..2]);
    let count = usize::from(u16::from_be_bytes([answer[6], answer[7]]));
    // Each answer: a pointer to the name, type, class, TTL, length, address.
    let records = answer[request.len()..].chunks_exact(16).take(count);
    let address = |record: &[u8]| {
        let octets: [u8; 4] = record[12..].try_into().expect("four bytes");
        std::net::Ipv4Addr::from(octets).to_string()
    };
    Ok((answer[3] & 0xf, records.map(address).collect()))
}

#[test]
fn names_are_answered_by_dns() {
    let mut cluster = Vaquita::up_with(&["--dns-listen", "127.0.0.1:0"]);
    let server = cluster.printed_line("DNS ");
    let kubernetes = cluster.get(&["service", "kubernetes"]);
    let address = kubernetes["spec"]["clusterIP"]
        .as_str()
        .expect("an address");
    eventually("the API server has its name", || {
        let found = dns(&server, "kubernetes.default.svc.cluster.local")?;
        (found == (0, vec![address.to_owned()]))
            .then_some(())
            .ok_or_else(|| format!("{found:?}"))
    });
    eventually("the DNS has its own", || {
        let service = cluster.try_kubectl(&[
            "get",
            "service",
            "kube-dns",
            "-n",
            "kube-system",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ]);
        let found = dns(&server, "kube-dns.kube-system.svc.cluster.local")?;
        (service.stdout == "10.96.0.10" && found == (0, vec![service.stdout.clone()]))
            .then_some(())
            .ok_or_else(|| format!("{found:?} {}{}", service.stdout, service.stderr))
    });
    let nobody = dns(&server, "nobody.default.svc.cluster.local").expect("an answer");
    assert_eq!(nobody, (3, Vec::new()));

    // A headless Service is its ready pods, and each of them has a name.
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(
        "apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: db}}
spec:
  hostname: first
  subdomain: db
  containers:
  - {name: web, image: localhost/hello:v1, ports: [{containerPort: 8080}]}
",
    );
    cluster.wait_ready("app=db", 1);
    let pod = cluster.get(&["pod", "one"]);
    let ip = pod["status"]["podIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let by_address = format!("{}.default.pod.cluster.local", ip.replace('.', "-"));
    for name in [
        "db.default.svc.cluster.local",
        "first.db.default.svc.cluster.local",
        &by_address,
    ] {
        eventually(name, || {
            let found = dns(&server, name)?;
            (found == (0, vec![ip.clone()]))
                .then_some(())
                .ok_or_else(|| format!("{found:?}"))
        });
    }
}

#[test]
fn a_client_stays_with_its_pod_if_the_service_says_so() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 3));
    let pods = cluster.wait_ready("app=hello", 3);
    let port = cluster.node_port("hello");
    wait_answered_by(port, &pods);
    cluster.kubectl(&[
        "patch",
        "service",
        "hello",
        "-p",
        r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
    ]);
    eventually("all answers come from one pod", || {
        let mut answered = BTreeSet::new();
        for _ in 0..9 {
            answered.insert(http_get(port, "/")?.1);
        }
        (answered.len() == 1)
            .then_some(())
            .ok_or_else(|| format!("{answered:?}"))
    });
}

fn get_at(address: &str) -> Result<String, String> {
    let attempt = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    attempt().map_err(|error| error.to_string())
}

#[test]
fn load_balancers_have_addresses_that_answer() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    let manifest = web("hello", 1).replace("type: NodePort", "type: LoadBalancer");
    cluster.apply(&manifest.replace("{port: 80,", "{port: 18080,"));
    cluster.wait_ready("app=hello", 1);
    let address = eventually("an address", || {
        let service = cluster.get(&["service", "hello"]);
        let ip = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        Ok(format!("{}:18080", ip.as_str().ok_or("none yet")?))
    });
    let answers = || {
        let answer = get_at(&address)?;
        answer
            .starts_with("HTTP/1.1 200")
            .then_some(())
            .ok_or(answer)
    };
    eventually("it answers", answers);
    let sources = |ranges: &str| {
        let patch = format!(r#"{{"spec":{{"loadBalancerSourceRanges":[{ranges}]}}}}"#);
        cluster.kubectl(&["patch", "service", "hello", "-p", &patch]);
    };
    sources(r#""192.0.2.0/24""#);
    eventually("strangers are refused", || match answers() {
        Ok(()) => Err("it still answers".to_owned()),
        Err(_) => Ok(()),
    });
    sources(r#""127.0.0.0/8""#);
    eventually("friends are not", answers);
}

#[test]
fn policies_close_and_open_the_way_to_pods() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("hello", 1));
    cluster.apply(&web("other", 1));
    let pods = cluster.wait_ready("app=hello", 1);
    let others = cluster.wait_ready("app=other", 1);
    let (port, other) = (cluster.node_port("hello"), cluster.node_port("other"));
    wait_answered_by(port, &pods);
    wait_answered_by(other, &others);
    let policy = |rules: &str| {
        cluster.apply(&format!(
            "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: guard}}
spec:
  podSelector: {{matchLabels: {{app: hello}}}}
  policyTypes: [Ingress]
  ingress: {rules}
"
        ));
    };
    let closed = || match http_get(port, "/") {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(()),
    };
    let open = || http_get(port, "/").map(|_| ());

    policy("[]");
    eventually("nobody gets in", closed);
    http_get(other, "/").expect("others are not concerned");
    policy("[{from: [{ipBlock: {cidr: 127.0.0.0/8}}], ports: [{port: 8080}]}]");
    eventually("who is on the list gets in", open);
    policy("[{from: [{ipBlock: {cidr: 127.0.0.0/8, except: [127.0.0.1/32]}}]}]");
    eventually("who is left out does not", closed);
    // The node's own probes go on: the pod stays ready.
    assert_eq!(cluster.ready_pods("app=hello"), pods);
    cluster.kubectl(&["delete", "networkpolicy", "guard"]);
    eventually("all is open again", open);
}

#[test]
fn traffic_stays_near_where_a_service_wants_it() {
    let cluster = Vaquita::up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("web", 2));
    cluster.kubectl(&["label", "nodes", "--all", "topology.kubernetes.io/zone=z1"]);
    let patch = r#"{"spec": {"trafficDistribution": "PreferSameNode"}}"#;
    cluster.kubectl(&["patch", "service", "web", "-p", patch]);
    let node = cluster.get(&["nodes"])["items"][0]["metadata"]["name"].clone();
    eventually("the slice has hints", || {
        let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
        let endpoint = &slices["items"][0]["endpoints"][0];
        let hints = &endpoint["hints"];
        let right = endpoint["zone"] == "z1"
            && hints["forNodes"][0]["name"] == node
            && hints["forZones"][0]["name"] == "z1";
        right.then_some(()).ok_or_else(|| slices.to_string())
    });
    let pods = cluster.wait_ready("app=web", 2);
    wait_answered_by(cluster.node_port("web"), &pods);
}
