//! The server to measure, and connections to it.

use std::{
    future::{self, Ready},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use kube::{
    Config,
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Layer, Service, ServiceExt as _};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MERGE_PATCH: HeaderValue = HeaderValue::from_static("application/merge-patch+json");

/// Which server, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// Kubeconfig file of the cluster [default: $KUBECONFIG, or ~/.kube/config].
    #[arg(long, value_name = "FILE", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// URL of the API server, instead of the kubeconfig's. Without --kubeconfig no kubeconfig is read.
    #[arg(long, value_name = "URL", global = true)]
    server: Option<Uri>,
    /// Bearer token, instead of the kubeconfig's credentials.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "VAQUITA_BENCH_TOKEN",
        hide_env_values = true,
        global = true
    )]
    token: Option<String>,
    /// Do not verify the server's certificate.
    #[arg(long, global = true)]
    insecure_skip_tls_verify: bool,
}

impl TargetArgs {
    async fn resolve(self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions {
            context: self.context,
            ..KubeConfigOptions::default()
        };
        let mut config = match (self.kubeconfig, &self.server) {
            (Some(path), _) => {
                // Its message tells its cause already.
                let file = Kubeconfig::read_from(&path).map_err(|error| anyhow!("{error}"))?;
                let config = Config::from_custom_kubeconfig(file, &options).await;
                config.with_context(|| format!("cannot use {}", path.display()))?
            }
            (None, Some(server)) => Config::new(server.clone()),
            (None, None) => Config::from_kubeconfig(&options)
                .await
                .context("no cluster is known: say --kubeconfig FILE or --server URL")?,
        };
        if let Some(server) = self.server {
            config.cluster_url = server;
        }
        if let Some(token) = self.token {
            config.auth_info = kube::config::AuthInfo::default();
            config.auth_info.token = Some(token.into());
        }
        config.accept_invalid_certs |= self.insecure_skip_tls_verify;
        Ok(config)
    }
}

/// A server. Clones are cheap.
#[derive(Debug, Clone)]
pub(super) struct Target(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: Uri,
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// What every request carries.
    headers: HeaderMap,
    /// What every path begins with; no slash at the end.
    base_path: String,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Target {
    pub(super) async fn resolve(args: TargetArgs) -> anyhow::Result<Self> {
        // Fails if the process has one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = args.resolve().await?;
        let url = config.cluster_url.clone();
        let host = url
            .host()
            .ok_or_else(|| anyhow!("the server's URL {url} has no host"))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let (tls, default_port) = match url.scheme_str() {
            Some("https") => {
                let name = config
                    .tls_server_name
                    .clone()
                    .unwrap_or_else(|| host.clone());
                let mut client = config.rustls_client_config().context("cannot set up TLS")?;
                client.alpn_protocols = vec![b"http/1.1".to_vec()];
                let name =
                    ServerName::try_from(name).context("the server's name cannot be verified")?;
                (
                    Some(Tls {
                        connector: TlsConnector::from(Arc::new(client)),
                        name,
                    }),
                    443,
                )
            }
            Some("http") => (None, 80),
            Some(_) | None => {
                bail!("the server's URL {url} begins with neither https:// nor http://")
            }
        };
        let inner = Inner {
            port: url.port_u16().unwrap_or(default_port),
            headers: headers(&config, &url).await?,
            base_path: url.path().trim_end_matches('/').to_owned(),
            url,
            host,
            tls,
        };
        Ok(Self(Arc::new(inner)))
    }

    pub(super) fn url(&self) -> String {
        self.0.url.to_string()
    }

    /// The server's host, where its node ports may be found too.
    pub(super) fn host(&self) -> &str {
        &self.0.host
    }

    /// The URI to request for `path`, which begins with a slash and may have a query.
    pub(super) fn uri(&self, path: &str) -> anyhow::Result<Uri> {
        Ok(format!("{}{path}", self.0.base_path).parse()?)
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let Inner {
            host, port, tls, ..
        } = &*self.0;
        let context = || format!("cannot connect to {}", self.0.url);
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .with_context(context)?;
        tcp.set_nodelay(true)?;
        let sender = match tls {
            Some(tls) => {
                let stream = tls.connector.connect(tls.name.clone(), tcp).await;
                handshake(stream.with_context(context)?).await?
            }
            None => handshake(tcp).await?,
        };
        Ok(Connection {
            target: self.clone(),
            sender,
        })
    }

    pub(super) async fn connect_many(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        futures::future::try_join_all((0..count).map(|_| self.connect())).await
    }

    /// What the server calls its version.
    pub(super) async fn version(&self) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let (_, body) = self
            .connect()
            .await?
            .call(Method::GET, self.uri("/version")?, Bytes::new())
            .await?;
        let version: Version =
            serde_json::from_slice(&body).context("the server does not tell its version")?;
        Ok(version.git_version)
    }
}

/// The headers that authenticate, and those that every request has.
async fn headers(config: &Config, url: &Uri) -> anyhow::Result<HeaderMap> {
    let mut headers = added_by(config.extra_headers_layer()?).await?;
    if let Some(layer) = config.auth_layer().context("cannot use the credentials")? {
        headers.extend(added_by(layer).await?);
    }
    if let Some(authorization) = headers.get_mut(AUTHORIZATION) {
        authorization.set_sensitive(true);
    }
    let authority = url.authority().map_or("", |authority| authority.as_str());
    headers.insert(HOST, authority.parse()?);
    headers.insert(USER_AGENT, HeaderValue::from_static("vaquita-bench"));
    headers.insert(ACCEPT, JSON);
    Ok(headers)
}

type NoBody = http_body_util::Empty<Bytes>;

/// A service that answers a request with its headers.
type Echo =
    tower::util::ServiceFn<fn(Request<NoBody>) -> Ready<Result<Response<HeaderMap>, BoxError>>>;

/// The headers that `layer` adds to a request. Tokens are got once and hold as long as a measurement does.
async fn added_by<L>(layer: L) -> anyhow::Result<HeaderMap>
where
    L: Layer<Echo>,
    L::Service: Service<Request<NoBody>, Response = Response<HeaderMap>, Error = BoxError>,
{
    let echo: fn(Request<NoBody>) -> _ =
        |request| future::ready(Ok(Response::new(request.into_parts().0.headers)));
    let service = layer.layer(tower::service_fn(echo));
    match service.oneshot(Request::new(NoBody::new())).await {
        Ok(response) => Ok(response.into_body()),
        Err(error) => Err(anyhow!(error).context("cannot use the credentials")),
    }
}

async fn handshake<S>(stream: S) -> anyhow::Result<http1::SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its errors are told to whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection, which serves one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    target: Target,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request; the answer's body is still to be read.
    pub(super) async fn send(
        &mut self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        if self.sender.ready().await.is_err() {
            // The server has closed it since the last request.
            self.sender = self.target.connect().await?.sender;
        }
        let has_body = !body.is_empty();
        let kind = if method == Method::PATCH {
            MERGE_PATCH
        } else {
            JSON
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().clone_from(&self.target.0.headers);
        if has_body {
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads the answer, whatever its status.
    pub(super) async fn exchange(
        &mut self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.send(method, uri, body).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends a request and reads the answer, which must be a success.
    pub(super) async fn call(
        &mut self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (status, body) = self
            .exchange(method.clone(), uri.clone(), body)
            .await
            .with_context(|| format!("{method} {uri}"))?;
        ensure!(
            status.is_success(),
            "{method} {uri}: {status}: {}",
            message(&body)
        );
        Ok((status, body))
    }
}

/// What a `Status` says, or the body itself if it is none.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| String::from_utf8_lossy(body).into_owned(),
        |status: Status| status.message,
    )
}
