//! Ways in from outside: Ingresses by host, path, TLS and upgrade; addresses of load balancers.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use crate::harness::{PATIENCE, Vaquita, eventually, list};

/// A cluster that serves Ingresses on free ports, and those ports.
fn up() -> (Vaquita, u16, u16) {
    let any = "127.0.0.1:0";
    let options = ["--ingress-listen", any, "--ingress-tls-listen", any];
    let mut cluster = Vaquita::up_with(&options);
    let plain = cluster.printed_line("ingress       http://127.0.0.1:");
    let tls = cluster.printed_line("ingress       https://127.0.0.1:");
    (cluster, plain.parse().unwrap(), tls.parse().unwrap())
}

fn web(name: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - {{name: web, image: '{image}', ports: [{{name: http, containerPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: web, port: 80, targetPort: http}}]
---
"
    )
}

fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// The whole answer.
fn talk(mut stream: impl std::io::Read + std::io::Write, request: &str) -> Result<String, String> {
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    end.map(|_| answer.clone()).or_else(|error| {
        if answer.is_empty() {
            Err(error.to_string())
        } else {
            Ok(answer)
        }
    })
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time limit");
    stream
}

fn get(port: u16, host: &str, path: &str) -> Result<String, String> {
    talk(connect(port), &request(host, path))
}

/// Waits for an answer with this status and these words.
fn wait_for(port: u16, host: &str, path: &str, status: u16, words: &str) -> String {
    eventually(&format!("{status} {words:?} from {host}{path}"), || {
        let answer = get(port, host, path)?;
        let expected = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words);
        if expected { Ok(answer) } else { Err(answer) }
    })
}

#[test]
fn requests_go_where_ingresses_say() {
    let (cluster, plain, _) = up();
    cluster.load_guest("hello", "localhost/hello:v1");
    for name in ["one", "two"] {
        cluster.apply(&web(name, "localhost/hello:v1"));
    }
    cluster.kubectl(&[
        "create",
        "ingress",
        "web",
        "--rule=a.example/*=one:80",
        "--rule=a.example/two*=two:web",
        "--rule=*.wild.example/exact=two:80",
        "--rule=broken.example/=gone:80",
    ]);
    wait_for(plain, "a.example", "/x", 200, "hello from one-");
    wait_for(plain, "A.Example:1234", "/two/x", 200, "hello from two-");
    wait_for(plain, "b.wild.example", "/exact", 200, "hello from two-");
    wait_for(
        plain,
        "b.wild.example",
        "/other",
        404,
        "no Ingress has a rule",
    );
    wait_for(plain, "nobody.example", "/", 404, "no Ingress has a rule");
    wait_for(
        plain,
        "broken.example",
        "/",
        503,
        "Service default/gone not found",
    );
    eventually("an event about the broken reference", || {
        let events = cluster.kubectl(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.kind=Ingress",
        ]);
        let said =
            events.contains("ServiceNotFound") && events.contains("Service default/gone not found");
        said.then_some(()).ok_or(events)
    });
    let ingress = cluster.get(&["ingress", "web"]);
    assert_eq!(ingress["spec"]["ingressClassName"], "vaquita");
    eventually("the address in the status", || {
        let ingress = cluster.get(&["ingress", "web"]);
        let points = list(&ingress["status"]["loadBalancer"]["ingress"]);
        let first = points.first().cloned().unwrap_or_default();
        let right = first["ip"] == "127.0.0.1" && first["ports"][0]["port"] == plain;
        right.then_some(()).ok_or_else(|| ingress.to_string())
    });

    // What fits nothing else goes to a default backend, and changes are followed.
    cluster.kubectl(&["create", "ingress", "all", "--default-backend=two:80"]);
    wait_for(plain, "nobody.example", "/", 200, "hello from two-");
    cluster.kubectl(&["delete", "ingress", "web", "all"]);
    wait_for(plain, "a.example", "/x", 404, "no Ingress has a rule");
}

/// A certificate for a host, and its key.
fn certificate(host: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate"), key)
}

fn secret(cluster: &Vaquita, name: &str, certificate: &rcgen::Certificate, key: &rcgen::KeyPair) {
    let indented = |pem: String| pem.replace('\n', "\n    ");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(certificate.pem()),
        indented(key.serialize_pem()),
    ));
}

/// An answer over TLS by a server that shows this very certificate.
fn get_tls(port: u16, host: &str, trusted: &rcgen::Certificate) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(trusted.der().clone())
        .map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = host
        .to_owned()
        .try_into()
        .map_err(|_| "no name".to_owned())?;
    let session =
        rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    talk(
        rustls::StreamOwned::new(session, connect(port)),
        &request(host, "/"),
    )
}

#[test]
fn tls_is_served_from_secrets_and_follows_them() {
    let (cluster, _, tls) = up();
    cluster.load_guest("hello", "localhost/hello:v1");
    cluster.apply(&web("one", "localhost/hello:v1"));
    let (first, key) = certificate("a.example");
    let (other, other_key) = certificate("*.wild.example");
    secret(&cluster, "first", &first, &key);
    secret(&cluster, "other", &other, &other_key);
    cluster.kubectl(&[
        "create",
        "ingress",
        "web",
        "--rule=a.example/*=one:80,tls=first",
        "--rule=*.wild.example/*=one:80,tls=other",
    ]);
    let served = |host: &str, trusted: &rcgen::Certificate| {
        eventually(&format!("{host} by its certificate"), || {
            let answer = get_tls(tls, host, trusted)?;
            answer
                .contains("hello from one-")
                .then_some(())
                .ok_or(answer)
        });
    };
    served("a.example", &first);
    served("b.wild.example", &other);
    let error = get_tls(tls, "b.wild.example", &first).expect_err("another certificate");
    assert!(error.contains("certificate"), "{error}");

    let (renewed, key) = certificate("a.example");
    secret(&cluster, "first", &renewed, &key);
    served("a.example", &renewed);
    assert!(get_tls(tls, "a.example", &first).is_err());
}

#[test]
fn upgrades_pass_through() {
    let (cluster, plain, _) = up();
    cluster.load_guest("upgrade-echo", "localhost/echo:v1");
    cluster.apply(&web("echo", "localhost/echo:v1"));
    cluster.kubectl(&["create", "ingress", "web", "--rule=ws.example/*=echo:80"]);
    wait_for(plain, "ws.example", "/", 426, "");
    let mut stream = connect(plain);
    let head =
        "GET / HTTP/1.1\r\nHost: ws.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    for said in ["hello", "again"] {
        stream.write_all(said.as_bytes()).unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, said.as_bytes());
    }
}

#[test]
fn load_balancers_have_addresses_of_the_pool() {
    let pool = ["--load-balancer-pool", "127.66.0.1-127.66.0.2"];
    let cluster = Vaquita::up_with(&pool);
    cluster.apply(&web("one", "localhost/hello:v1"));
    for name in ["a", "b"] {
        let name = format!("--name={name}");
        cluster.kubectl(&[
            "expose",
            "deployment",
            "one",
            "--port=8088",
            "--target-port=http",
            "--type=LoadBalancer",
            &name,
        ]);
    }
    let address = |cluster: &Vaquita, name: &str| {
        eventually(&format!("an address for {name}"), || {
            let service = cluster.get(&["service", name]);
            let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
            ip.map(str::to_owned).ok_or_else(|| service.to_string())
        })
    };
    let before = [address(&cluster, "a"), address(&cluster, "b")];
    assert_ne!(before[0], before[1]);
    cluster.kubectl(&[
        "expose",
        "deployment",
        "one",
        "--port=8088",
        "--target-port=http",
        "--type=LoadBalancer",
        "--name=c",
    ]);
    eventually("an event that says that the pool is used up", || {
        let events = cluster.kubectl(&["get", "events"]);
        events
            .contains("no address of the pool")
            .then_some(())
            .ok_or(events)
    });

    // After a restart, each has what it had; what is deleted is given to who waits.
    let cluster = Vaquita::up_again_with(cluster.kill(), &pool);
    cluster.kubectl(&["delete", "service", "b", "--timeout=30s"]);
    assert_eq!(address(&cluster, "c"), before[1]);
    assert_eq!(address(&cluster, "a"), before[0]);
}
