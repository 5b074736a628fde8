//! The API over real connections: TLS with and without a client certificate, both HTTP versions, plain HTTP, draining.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use vaquita_apiserver::{ApiServer, Authenticator, Config, User};
use vaquita_pki::{Identity, Pki};

const NAMESPACES: &str = "/api/v1/namespaces";

/// A server on a socket.
struct Served {
    pki: Pki,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::load_or_create(dir.path(), &[]).unwrap();
        let admin = User::in_process("admin");
        let authenticator = Authenticator::new().with_token(pki.admin_token(), admin);
        let config = Config {
            authenticator,
            ..Config::default()
        };
        let api = ApiServer::start(Arc::new(vaquita_store::memory()), config)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tls) = (
            listener.local_addr().unwrap(),
            Arc::new(pki.server_config().unwrap()),
        );
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            api.serve_tls(listener, tls, stopped).await;
        });
        Self {
            pki,
            address,
            stop: Some(stop),
            ended,
            _dir: dir,
        }
    }

    /// GET of `path` over a connection of its own.
    async fn get(
        &self,
        identity: Option<&Identity>,
        token: Option<&str>,
        alpn: &[u8],
        path: &str,
    ) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client(&self.pki, identity, alpn)));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let version = if alpn == b"h2" {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        let mut request = Request::get(format!("https://localhost{path}")).version(version);
        if version == Version::HTTP_11 {
            request = Request::get(path).header("host", "localhost");
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        exchange(stream, request.body(Empty::new()).unwrap(), version).await
    }
}

type Answer = Result<(StatusCode, Bytes), String>;

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>, version: Version) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let response = if version == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let response = response.map_err(|error| format!("{error:?}"))?;
    let code = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    Ok((code, body.to_bytes()))
}

fn client(pki: &Pki, identity: Option<&Identity>, alpn: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pki.ca_certificate().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain =
                vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

#[tokio::test]
async fn certificate_token_or_nothing_over_both_http_versions() {
    let served = Served::start().await;
    let token = served.pki.admin_token();
    let node = served
        .pki
        .issue_client("system:node:one", "system:nodes")
        .unwrap();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let admin = served
            .get(Some(&served.pki.admin()), None, alpn, NAMESPACES)
            .await
            .unwrap();
        assert_eq!(admin.0, StatusCode::OK);
        let list: serde_json::Value = serde_json::from_slice(&admin.1).unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 4);
        assert_eq!(
            served
                .get(None, Some(token), alpn, NAMESPACES)
                .await
                .unwrap()
                .0,
            StatusCode::OK
        );
        assert_eq!(
            served.get(None, None, alpn, NAMESPACES).await.unwrap().0,
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            served
                .get(Some(&node), None, alpn, NAMESPACES)
                .await
                .unwrap()
                .0,
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            served
                .get(None, Some("wrong"), alpn, "/version")
                .await
                .unwrap()
                .0,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(
            served.get(None, None, alpn, "/readyz").await.unwrap().0,
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let served = Served::start().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = Pki::load_or_create(other.path(), &[]).unwrap();
    assert!(
        served
            .get(Some(&stranger.admin()), None, b"http/1.1", NAMESPACES)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_open_watch_does_not_hold_the_stop_up() {
    let mut served = Served::start().await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let config = client(&served.pki, Some(&served.pki.admin()), b"http/1.1");
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("{NAMESPACES}?watch=true")).header("host", "localhost");
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    // The watch goes on until the server does not.
    served.stop.take().unwrap().send(()).unwrap();
    let events = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        String::from_utf8(events.to_vec()).unwrap().lines().count(),
        4
    );
    served.ended.await.unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn plain_http_is_for_loopback_alone() {
    let api = ApiServer::start(Arc::new(vaquita_store::memory()), Config::default())
        .await
        .unwrap();
    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert!(api.serve_plain(open, std::future::pending()).await.is_err());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { api.serve_plain(listener, std::future::pending()).await });
    let get = async |host: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        let request = Request::get(NAMESPACES)
            .header("host", host)
            .body(Empty::new())
            .unwrap();
        exchange(stream, request, Version::HTTP_11).await.unwrap().0
    };
    assert_eq!(get("localhost").await, StatusCode::OK);
    assert_eq!(get("rebound.example").await, StatusCode::FORBIDDEN);
}
