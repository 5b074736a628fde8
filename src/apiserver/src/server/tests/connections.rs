//! `exec`, `attach`, `portforward` and `proxy`: what is checked here, what is passed on, and what comes back.

use std::{io, net::SocketAddr};

use axum::response::IntoResponse as _;
use axum::{Router, extract::Request as Incoming, routing::any};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vaquita_streams::inner;

use super::*;
use crate::{Dialer, Duplex, NodeError, NodeTransport};

/// Says what it was asked for; sends back what comes over a connection.
async fn echo(mut request: Incoming) -> Response {
    let asked = format!("{} {}", request.method(), request.uri());
    let headers = request.headers().clone();
    let header = |name| {
        headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    };
    if request.uri().path().ends_with("/sulky") {
        return (StatusCode::BAD_REQUEST, "container is not running\n").into_response();
    }
    if header("upgrade").is_empty() {
        let uri = header("x-forwarded-uri");
        let body = axum::body::to_bytes(request.into_body(), 1 << 20)
            .await
            .unwrap();
        let body = format!("{asked} from {uri} with {}", String::from_utf8_lossy(&body));
        return (
            [
                ("location", "/login"),
                ("connection", "x-own"),
                ("x-own", "1"),
            ],
            body,
        )
            .into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(format!("{asked}\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(io);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", header("upgrade").to_owned())
        .body(Body::empty())
        .unwrap()
}

fn router() -> Router {
    Router::new().fallback(any(echo))
}

/// One node, and pods whose port 8080 is served.
struct Fakes;

#[async_trait::async_trait]
impl NodeTransport for Fakes {
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response, NodeError> {
        if node != "one" {
            return Err(NodeError::Unknown);
        }
        let service = hyper_util::service::TowerToHyperService::new(router());
        let answer = inner::call(service, request).await;
        Ok(answer
            .map_err(|error| NodeError::Unreachable(error.into()))?
            .map(Body::new))
    }
}

#[async_trait::async_trait]
impl Dialer for Fakes {
    async fn dial(&self, to: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        if to.port() != 8080 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = tokio::io::duplex(1024);
        let service = hyper_util::service::TowerToHyperService::new(router());
        let server = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service)
            .with_upgrades();
        tokio::spawn(server);
        Ok(Box::new(near))
    }
}

async fn start() -> Api {
    with(Config::default()).await
}

async fn with(config: Config) -> Api {
    let api = Api::with(config).await;
    api.server.set_nodes(Arc::new(Fakes));
    api.server.set_dialer(Arc::new(Fakes));
    let mut web = pod("web");
    web["spec"]["nodeName"] = "one".into();
    web["spec"]["containers"] = json!([
        {"name": "c", "image": "x", "ports": [{"containerPort": 8080}]}, {"name": "sulky", "image": "x"},
    ]);
    let mut web = api.post(PODS, web).await.ok();
    web["status"] =
        json!({"phase": "Running", "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]});
    api.put(&format!("{PODS}/web/status"), web).await.ok();
    api
}

/// A request over a connection of its own, which may become another.
async fn upgrade(api: &Api, path: &str) -> http::Response<hyper::body::Incoming> {
    let router = api.server.router();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(User::in_process("tester"));
        router.clone().oneshot(request)
    });
    let request = Request::post(path)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .header("authorization", "Bearer secret")
        .body(Body::empty())
        .unwrap();
    inner::call(service, request).await.unwrap()
}

#[tokio::test]
async fn a_connection_reaches_the_node_and_ends_by_halves() {
    let api = start().await;
    let path = format!(
        "{PODS}/web/exec?container=c&command=sh&command=a%20b&stdin=true&stdout=1&stderr=false"
    );
    let mut answer = upgrade(&api, &path).await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let metrics = api.get("/metrics").await.ok();
    let open = r#"apiserver_open_streams{resource="pods/exec"} 1"#;
    assert!(string(&metrics).contains(open), "{metrics}");
    io.write_all(b"hello").await.unwrap();
    io.shutdown().await.unwrap();
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert_eq!(
        all,
        "POST /exec/default/web/c?input=1&output=1&command=sh&command=a%20b\nhello"
    );
    drop(io);
    let closed = r#"apiserver_open_streams{resource="pods/exec"} 0"#;
    let ended = async {
        while !string(&api.get("/metrics").await.ok()).contains(closed) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn ports_and_attached_containers_have_the_kubelets_paths() {
    let api = start().await;
    for (path, expected) in [
        (
            "portforward?ports=80&ports=81",
            "POST /portForward/default/web?port=80&port=81\n",
        ),
        (
            "attach?container=c&stdout=true&tty=true",
            "POST /attach/default/web/c?output=1&tty=1\n",
        ),
    ] {
        let mut answer = upgrade(&api, &format!("{PODS}/web/{path}")).await;
        let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        io.shutdown().await.unwrap();
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, expected);
    }
}

#[tokio::test]
async fn what_cannot_be_connected_is_said_why() {
    let api = start().await;
    let bad = |message: &'static str| (400, "BadRequest", message);
    let exec = format!("{PODS}/web/exec");
    let plain = api.get(&format!("{exec}?container=c")).await;
    assert_eq!(plain.refused(), bad("Upgrade request required"));
    let which = api.get(&exec).await;
    let message = "a container name must be specified for pod web, choose one of: [c sulky]";
    assert_eq!(which.refused(), bad(message));
    let wrong = api.get(&format!("{exec}?container=x")).await;
    assert_eq!(wrong.refused(), bad("container x is not valid for pod web"));
    assert_eq!(api.get(&format!("{PODS}/none/exec")).await.refused().0, 404);
    let put = api.put(&exec, json!({})).await;
    assert_eq!(put.refused().0, 405);
    // The node's own words go to the client as they are.
    let sulky = upgrade(&api, &format!("{exec}?container=sulky")).await;
    assert_eq!(sulky.status(), 400);
    let body = axum::body::to_bytes(Body::new(sulky.into_body()), 1024)
        .await
        .unwrap();
    assert_eq!(body, "container is not running\n");
}

#[tokio::test]
async fn only_so_many_connections_are_open_at_a_time() {
    let api = with(Config {
        max_streams: 1,
        ..Config::default()
    })
    .await;
    let path = format!("{PODS}/web/portforward");
    let first = upgrade(&api, &path).await;
    assert_eq!(first.status(), 101);
    assert_eq!(upgrade(&api, &path).await.status(), 429);
}

#[tokio::test]
async fn silence_and_the_end_of_the_server_end_connections() {
    let api = with(Config {
        stream_idle: Duration::from_millis(50),
        ..Config::default()
    })
    .await;
    let path = format!("{PODS}/web/portforward");
    let mut answer = upgrade(&api, &path).await;
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    let mut all = String::new();
    tokio::time::timeout(PATIENCE, io.read_to_string(&mut all))
        .await
        .unwrap()
        .unwrap();
    let metrics = api.get("/metrics").await.ok();
    assert!(
        string(&metrics).contains("apiserver_idle_streams_total 1"),
        "{metrics}"
    );

    let api = start().await;
    let mut answer = upgrade(&api, &path).await;
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    api.server.shutdown().await;
    tokio::time::timeout(PATIENCE, io.read_to_string(&mut all))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn any_request_goes_through_the_proxy_of_a_pod() {
    let api = start().await;
    let proxy = format!("{PODS}/web/proxy");
    let bare = api.get(&format!("{proxy}?q=1")).await;
    assert_eq!(
        (bare.code, &bare.headers["location"]),
        (301, &format!("{proxy}/?q=1").parse().unwrap())
    );
    for (method, name) in [
        (Method::POST, "web"),
        (Method::PUT, "http:web:8080"),
        (Method::OPTIONS, "web:8080"),
    ] {
        let path = format!("{PODS}/{name}/proxy/a%2Fb/?q=1");
        let reply = api
            .call(method.clone(), &path, &[], Body::from("body"))
            .await;
        assert_eq!(
            reply.headers["location"],
            format!("{PODS}/{name}/proxy/login")
        );
        assert!(reply.headers.get("x-own").is_none());
        let uri = format!("{PODS}/{name}/proxy/a%2Fb/");
        assert_eq!(
            reply.ok(),
            format!("{method} /a%2Fb/?q=1 from {uri} with body")
        );
    }
    let closed = api.get(&format!("{PODS}/web:9/proxy/")).await;
    let message =
        "error trying to reach service: dial tcp 10.244.0.9:9: connect: connection refused";
    assert_eq!(closed.refused(), (503, "ServiceUnavailable", message));
    let bad = api.get(&format!("{PODS}/ftp:web:21/proxy/")).await;
    assert_eq!(
        bad.refused(),
        (400, "BadRequest", "invalid pod request \"ftp:web:21\"")
    );
}

#[tokio::test]
async fn a_service_leads_to_one_of_its_endpoints() {
    let api = start().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    api.post(SERVICES, service).await.ok();
    let none = api.get(&format!("{SERVICES}/web:http/proxy/")).await;
    let message = "no endpoints available for service \"web:http\"";
    assert_eq!(none.refused(), (503, "ServiceUnavailable", message));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": true}}],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.post(slices, slice).await.ok();
    for name in ["web:http", "web:80", "http:web:80"] {
        let reply = api.get(&format!("{SERVICES}/{name}/proxy/x")).await.ok();
        assert!(string(&reply).starts_with("GET /x from"), "{name}: {reply}");
    }
    let wrong = api.get(&format!("{SERVICES}/web:81/proxy/")).await;
    let message = "no service port 81 found for service \"web\"";
    assert_eq!(wrong.refused(), (503, "ServiceUnavailable", message));
}

#[tokio::test]
async fn a_node_answers_for_itself_and_proxies_pass_connections() {
    let api = start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}});
    api.post("/api/v1/nodes", node).await.ok();
    for name in ["one", "one:10250"] {
        let reply = api
            .get(&format!("/api/v1/nodes/{name}/proxy/pods?x=1"))
            .await
            .ok();
        assert!(string(&reply).starts_with("GET /pods?x=1 from"), "{reply}");
    }
    let mut answer = upgrade(&api, &format!("{PODS}/web/proxy/socket")).await;
    assert_eq!(answer.status(), 101);
    let mut io: TokioIo<hyper::upgrade::Upgraded> =
        TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    io.shutdown().await.unwrap();
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "POST /socket\n");
}
