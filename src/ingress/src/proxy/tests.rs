//! The proxy between real sockets of clients and backends in the pods' network.

use std::{convert::Infallible, fmt::Write as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use vaquita_net::{
    FabricConfig, Listener, PodNetwork, PortRef, Protocol as Transport, ServiceKey, ServicePort,
    ServiceSpec,
};

use super::*;
use crate::{
    certificates::{KeyCache, make_default, tests::secret},
    compile::{Backend, Protocol, Table, Target},
    routes::PathMatch,
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A proxy, and a pod behind the Service `shop/web`.
struct World {
    proxy: Arc<Proxy>,
    pod: PodNetwork,
    stop: CancellationToken,
    tasks: tokio::task::JoinSet<()>,
}

fn key() -> ServiceKey {
    ServiceKey {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
    }
}

fn backend(protocol: Protocol) -> Arc<Backend> {
    Arc::new(Backend {
        name: "shop/web:80".to_owned(),
        to: Target::Service {
            service: key(),
            port: PortRef::Number(80),
            protocol,
        },
    })
}

impl World {
    fn new(options: Options) -> Self {
        let fabric = Fabric::new(FabricConfig::default()).unwrap();
        let pod = fabric.attach(None).unwrap();
        let port = ServicePort {
            name: None,
            protocol: Transport::Tcp,
            port: 80,
            endpoints: vec![SocketAddr::new(pod.ip(), 8080)],
            node_port: None,
            outside_endpoints: None,
        };
        let spec = ServiceSpec {
            cluster_ips: vec!["10.96.0.7".parse().unwrap()],
            ports: vec![port],
            ..ServiceSpec::default()
        };
        assert!(fabric.services().set(&key(), &spec).is_empty());
        let mut table = Table::default();
        let broken = Backend {
            name: "shop/gone:80".to_owned(),
            to: Target::Broken("Service shop/gone not found".to_owned()),
        };
        for (host, path, to) in [
            ("web.example", "/", backend(Protocol::Http1)),
            ("web.example", "/h2", backend(Protocol::Http2)),
            ("web.example", "/gone", Arc::new(broken)),
        ] {
            table.routes.add(Some(host), path, PathMatch::Prefix, to);
        }
        let own = KeyCache::default()
            .get(&secret("cert", 1, &["web.example"]))
            .unwrap();
        table.certificates.add(&[], &own);
        let table = Arc::new(arc_swap::ArcSwap::from_pointee(table));
        Self {
            proxy: Arc::new(Proxy::new(fabric, table, options)),
            pod,
            stop: CancellationToken::new(),
            tasks: tokio::task::JoinSet::new(),
        }
    }

    async fn listen(&mut self, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (proxy, stop) = (self.proxy.clone(), self.stop.clone());
        self.tasks
            .spawn(async move { proxy.serve(Some(listener), tls, &stop).await });
        address
    }

    fn backend(&self) -> Listener {
        self.pod.listen("0.0.0.0:8080".parse().unwrap()).unwrap()
    }

    /// Serves HTTP in the pod.
    fn serve<F, R>(&mut self, answer: F)
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = self.backend();
        self.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let io = TokioIo::new(stream);
                    let _ = builder().serve_connection_with_upgrades(io, service).await;
                });
            }
        });
    }
}

fn text(text: impl Into<String>) -> Response<Body> {
    Response::new(Full::from(text.into()).boxed_unsync())
}

/// Says what it was asked.
async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_or_else(
        |error| error.to_string(),
        |body| String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    );
    let mut said = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        let _ = writeln!(said, "{name}: {}", value.to_str().unwrap());
    }
    let mut answer = text(format!("{said}\n{body}"));
    let headers = answer.headers_mut();
    headers.insert("x-from-backend", "1".parse().unwrap());
    headers.insert("proxy-connection", "x".parse().unwrap());
    answer
}

/// What comes back for these bytes, until the proxy closes the connection.
async fn raw(to: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end like any other.
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(to: SocketAddr, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    raw(to, &request).await
}

#[tokio::test]
async fn requests_pass_with_who_sent_them() {
    let mut world = World::new(Options::default());
    world.serve(echo);
    let to = world.listen(None).await;
    let request = "POST /a?b=c HTTP/1.1\r\nHost: WEB.example:80\r\nX-Forwarded-For: 1.2.3.4\r\nX-Hop: 1\r\n\
                   Connection: close, x-hop\r\nContent-Length: 4\r\n\r\nbody";
    let answer = raw(to, request).await;
    for line in [
        "HTTP/1.1 200 OK\r",
        "x-from-backend: 1\r",
        "POST /a?b=c HTTP/1.1",
        "host: WEB.example:80",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "content-length: 4",
        "body",
    ] {
        assert!(
            answer.lines().any(|other| other == line.trim_end()),
            "{line}\n{answer}"
        );
    }
    assert!(
        !answer.contains("x-hop") && !answer.contains("proxy-connection"),
        "{answer}"
    );
    assert_eq!(world.proxy.metrics.requests(), 1);
}

#[tokio::test]
async fn http2_is_spoken_with_backends_that_want_it() {
    let mut world = World::new(Options::default());
    world.serve(echo);
    let to = world.listen(None).await;
    let answer = get(to, "web.example", "/h2/x").await;
    assert!(
        answer.contains("GET http://web.example/h2/x HTTP/2.0"),
        "{answer}"
    );
}

#[tokio::test]
async fn refusals_are_plain_text_and_say_why() {
    let mut world = World::new(Options {
        max_request_body: Some(5),
        ..Options::default()
    });
    let to = world.listen(None).await;
    for (host, path, said) in [
        (
            "other.example",
            "/x",
            "404 no Ingress has a rule for other.example/x",
        ),
        (
            "web.example",
            "/gone",
            "503 no backend: Service shop/gone not found",
        ),
        (
            "web.example",
            "/",
            "503 no endpoint of shop/web:80 accepts connections",
        ),
        (
            "web.example",
            "/a/%2e./b",
            "400 bad request: the path has dot segments",
        ),
        (
            "web.example\r\nHost: b",
            "/",
            "400 bad request: more than one header Host",
        ),
        (
            "web example",
            "/",
            "400 bad request: the header Host is not a host",
        ),
    ] {
        let answer = get(to, host, path).await;
        assert!(answer.contains(said), "{said}\n{answer}");
        assert!(answer.contains("text/plain; charset=utf-8"), "{answer}");
    }
    world.serve(echo);
    let head = "POST / HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n";
    let declared = raw(to, &format!("{head}Content-Length: 6\r\n\r\n123456")).await;
    assert!(
        declared.contains("413 the request body is longer than 5 bytes"),
        "{declared}"
    );
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n0\r\n\r\n");
    let chunked = raw(to, &chunked).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
}

#[tokio::test]
async fn a_request_cannot_hide_another() {
    let mut world = World::new(Options::default());
    world.serve(echo);
    let to = world.listen(None).await;
    let hidden = "POST / HTTP/1.1\r\nHost: web.example\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n\
                  0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n";
    let answer = raw(to, hidden).await;
    // Either refused, or two requests by the chunks; never one whose body is the other.
    let first = answer.split("HTTP/1.1 ").nth(1).unwrap();
    assert!(
        first.starts_with("400") || !first.contains("hidden"),
        "{answer}"
    );
    assert!(!first.contains("content-length: 100"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_a_bad_gateway() {
    let mut world = World::new(Options::default());
    let listener = world.backend();
    world.tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let to = world.listen(None).await;
    let answer = get(to, "web.example", "/").await;
    assert!(answer.contains("502 shop/web:80 broke off"), "{answer}");
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_a_timeout() {
    let mut world = World::new(Options {
        response_timeout: Duration::from_millis(20),
        ..Options::default()
    });
    let _listener = world.backend();
    let to = world.listen(None).await;
    let answer = get(to, "web.example", "/").await;
    assert!(
        answer.contains("504 shop/web:80 did not answer in time"),
        "{answer}"
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let mut world = World::new(Options::default());
    // Sends back each piece as it comes.
    world.serve(|request| async move {
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(1);
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    let _ = pieces.send(data).await;
                }
            }
        });
        let stream = futures::stream::poll_fn(move |cx| arriving.poll_recv(cx));
        let stream = futures::StreamExt::map(stream, |data| Ok(Frame::data(data)));
        Response::new(StreamBody::new(stream).boxed_unsync())
    });
    let to = world.listen(None).await;
    let mut socket = TcpStream::connect(to).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    for piece in ["one", "two", "three"] {
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        socket.write_all(chunk.as_bytes()).await.unwrap();
        // The next piece is sent only when this one is back.
        while !seen.contains(piece) {
            let length = socket.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{seen}");
            seen += std::str::from_utf8(&buffer[..length]).unwrap();
        }
    }
}

#[tokio::test]
async fn upgraded_connections_pass_bytes_until_stopped() {
    let mut world = World::new(Options::default());
    world.serve(|mut request| async move {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = io.read(&mut buffer).await {
                io.write_all(&buffer[..length]).await.unwrap();
            }
        });
        let mut answer = text("");
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for name in ["connection", "upgrade"] {
            let value = request.headers()[name].clone();
            answer.headers_mut().insert(name, value);
        }
        answer
    });
    let to = world.listen(None).await;
    let mut socket = TcpStream::connect(to).await.unwrap();
    let head =
        "GET / HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    for said in ["hello", "again"] {
        socket.write_all(said.as_bytes()).await.unwrap();
        let mut back = [0; 5];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(back, said.as_bytes());
    }
    assert!(
        world
            .proxy
            .metrics
            .render()
            .contains("upgraded_connections 1")
    );
    world.stop.cancel();
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
    world.tasks.abort_all();
}

#[tokio::test]
async fn tls_shows_the_certificate_of_the_name_and_speaks_http2() {
    let mut world = World::new(Options::default());
    world.serve(echo);
    let resolver = Resolver {
        table: world.proxy.table.clone(),
        default: make_default().unwrap(),
    };
    let default = resolver.default.clone();
    let own = world
        .proxy
        .table
        .load()
        .certificates
        .find("web.example")
        .unwrap()
        .clone();
    let to = world.listen(Some(acceptor(Arc::new(resolver)))).await;
    for (name, expected, alpn) in [
        ("web.example", &own, &b"h2"[..]),
        ("other.example", &default, &b"http/1.1"[..]),
    ] {
        let stream = connect_tls(to, name, alpn).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, expected.cert[0], "{name}");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        if alpn == b"h2" {
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://web.example/x")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Full::<Bytes>::default())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8_lossy(&body);
            for line in [
                "GET /x HTTP/1.1",
                "host: web.example",
                "cookie: a=1; b=2",
                "x-forwarded-proto: https",
            ] {
                assert!(body.lines().any(|other| other == line), "{line}\n{body}");
            }
        }
    }
}

async fn connect_tls(
    to: SocketAddr,
    name: &str,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let socket = TcpStream::connect(to).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap()
}

/// Believes everybody: the test looks at the certificate itself.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _name: &rustls::pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &rustls::pki_types::CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
