//! Requests that guests send: HTTP/1.1 over the pod's network, with TLS if it is asked for, or straight to a handler that
//! is in the same process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, timeout};
use vaquita_net::{NetError, PodNetwork, Reached, ResolveError};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::direct;
use super::tls::Tls;
use crate::budget::Purse;
use crate::capabilities::Capabilities;
use crate::process::Environment;

/// What is kept for a request that is under way: what its connection buffers, a piece of its body.
const UNDER_WAY: u64 = 64 << 10;

/// The most of a body that a guest hands over at once.
const LARGEST_PIECE: usize = 64 << 10;

/// How long a guest waits that set no limit of its own: for a connection, for an answer, and for each further piece of it.
const PATIENCE: Duration = Duration::from_mins(10);

type Sending = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// `wasi:http/outgoing-handler`, in the name of a pod.
#[derive(Clone)]
pub(crate) struct Outgoing {
    network: PodNetwork,
    capabilities: Arc<Capabilities>,
    tls: Arc<Tls>,
    /// Who pays for requests that are under way.
    purse: Arc<Purse>,
}

impl Outgoing {
    pub(crate) fn new(environment: &Environment, purse: Arc<Purse>) -> Self {
        Self {
            purse,
            network: environment.network.clone(),
            capabilities: Arc::clone(&environment.capabilities),
            tls: Arc::clone(&environment.tls),
        }
    }
}

#[cfg(test)]
use crate::budget::Budget;

#[cfg(test)]
impl Outgoing {
    /// All that is granted by default.
    pub(super) fn plain(network: PodNetwork) -> Self {
        Self {
            network,
            capabilities: Arc::default(),
            tls: Arc::default(),
            purse: Purse::new(Budget::new(None)),
        }
    }
}

impl WasiHttpHooks for Outgoing {
    /// There is no TLS inside a cluster's network, so the plain scheme is what a guest means that names none.
    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
    }

    /// The most that a guest may hand over at once of a body that it writes, be it a request's or a response's.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        LARGEST_PIECE
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        LARGEST_PIECE
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        Response<WasiBody>,
                        Box<dyn Future<Output = Result<(), Error>> + Send>,
                    ),
                    Error,
                >,
            > + Send,
    > {
        let host = self.clone();
        Box::new(async move {
            let options = options.unwrap_or_default();
            let (response, sending) = send(&host, request, options).await?;
            let sending: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(sending);
            Ok((response, sending))
        })
    }
}

pub(super) async fn send(
    host: &Outgoing,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, Sending), Error> {
    let is_secure = request.uri().scheme() == Some(&Scheme::HTTPS);
    let authority = request
        .uri()
        .authority()
        .ok_or(Error::HttpRequestUriInvalid)?
        .clone();
    let first = options.first_byte_timeout.unwrap_or(PATIENCE);
    let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
    let port = port_of(&authority, is_secure)?;
    if !host.capabilities.may_call(authority.host(), port) {
        return Err(Error::HttpRequestDenied);
    }
    let kept = host.purse.charge(UNDER_WAY).ok_or_else(out_of_memory)?;
    let connect = connect(&host.network, name_of(&authority), port, is_secure);
    let reached = timeout(options.connect_timeout.unwrap_or(PATIENCE), connect)
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let stream = match reached {
        Reached::Stream(stream) => {
            stream.charge_to(Arc::<Purse>::clone(&host.purse));
            stream
        }
        Reached::Shortcut(shortcut, call) => {
            let handler = shortcut
                .downcast()
                .map_err(|_| Error::DestinationUnavailable)?;
            let answer = direct::send(handler, request, (first, between), (call, kept)).await?;
            return Ok((answer, Box::pin(std::future::ready(Ok(())))));
        }
    };
    *request.uri_mut() = origin_form(request.uri());
    let (mut sender, mut sending) = if is_secure {
        let secured = host.tls.connect(name_of(&authority), stream);
        let secured = timeout(options.connect_timeout.unwrap_or(PATIENCE), secured)
            .await
            .map_err(|_| Error::ConnectionTimeout)??;
        handshake(secured).await?
    } else {
        handshake(stream).await?
    };
    let answer = timeout(first, sender.send_request(request));
    let answer = drive(&mut sending, answer)
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    Ok((
        answer.map(|body| Patient::new(Holding::new(body, kept), between).boxed_unsync()),
        sending,
    ))
}

/// `work`, while its connection is kept going. The connection's own end is told by `work`, which depends on it.
async fn drive<T>(connection: &mut Sending, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut open = true;
    std::future::poll_fn(|context| {
        if open && connection.as_mut().poll(context).is_ready() {
            open = false;
            *connection = Box::pin(std::future::ready(Ok(())));
        }
        work.as_mut().poll(context)
    })
    .await
}

/// What a server is asked for: a path, unlike what a proxy is.
pub(super) fn origin_form(uri: &Uri) -> Uri {
    // An empty path is told as `/`, but would be written as it is.
    let path = uri.path_and_query().filter(|path| path.as_str() != "/");
    let path = path.cloned();
    Uri::from(path.unwrap_or(PathAndQuery::from_static("/")))
}

/// The port that is written, or else that of the scheme. What is written must be one.
fn port_of(authority: &Authority, is_secure: bool) -> Result<u16, Error> {
    match authority.port_u16() {
        Some(port) => Ok(port),
        None if !authority.as_str().ends_with(authority.host()) => {
            Err(Error::HttpRequestUriInvalid)
        }
        None => Ok(if is_secure { 443 } else { 80 }),
    }
}

/// A host's name or address, without the brackets that an address may have.
fn name_of(authority: &Authority) -> &str {
    let name = authority.host();
    name.trim_start_matches('[').trim_end_matches(']')
}

/// Begins HTTP on a connection.
async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(http1::SendRequest<WasiBody>, Sending), Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((sender, Box::pin(async move { Ok(connection.await?) })))
}

/// Tries the name's addresses, one after another. What is to be secured needs a connection.
async fn connect(
    network: &PodNetwork,
    name: &str,
    port: u16,
    is_secure: bool,
) -> Result<Reached, Error> {
    let addresses = network
        .resolve(name)
        .await
        .map_err(|error| of_lookup(&error))?;
    let mut last = Error::DestinationNotFound;
    for ip in addresses {
        let to = SocketAddr::new(ip, port);
        let reached = if is_secure {
            network.connect(to).await.map(Reached::Stream)
        } else {
            network.reach(to).await
        };
        match reached {
            Ok(reached) => return Ok(reached),
            Err(error) => last = of_connect(error),
        }
    }
    Err(last)
}

fn of_lookup(error: &ResolveError) -> Error {
    let code = match error {
        ResolveError::NotFound(_) => "NXDOMAIN",
        ResolveError::Invalid(_) => return Error::HttpRequestUriInvalid,
        ResolveError::Closed => return Error::DestinationUnavailable,
        _ => "SERVFAIL",
    };
    Error::DnsError {
        rcode: Some(code.into()),
        info_code: None,
    }
}

fn of_connect(error: NetError) -> Error {
    match error {
        NetError::ConnectionRefused(_) => Error::ConnectionRefused,
        NetError::HostUnreachable(_) => Error::DestinationUnavailable,
        NetError::NetworkUnreachable(_) => Error::DestinationIpUnroutable,
        NetError::TimedOut(_) => Error::ConnectionTimeout,
        NetError::Denied(_) => Error::DestinationIpProhibited,
        NetError::TooMany { .. } => Error::ConnectionLimitReached,
        other => Error::Connect(other.into()),
    }
}

fn out_of_memory() -> Error {
    Error::InternalError(Some("out of memory".into()))
}

/// A body and what is kept as long as it lives.
pub(super) struct Holding<B, K> {
    body: B,
    _kept: K,
}

impl<B, K> Holding<B, K> {
    pub(super) fn new(body: B, kept: K) -> Self {
        Self { body, _kept: kept }
    }
}

impl<B: Body + Unpin, K: Unpin> Body for Holding<B, K> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that must keep coming.
pub(super) struct Patient<B> {
    body: B,
    patience: Duration,
    /// Armed while a piece is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Patient<B> {
    pub(super) fn new(body: B, patience: Duration) -> Self {
        Self {
            body,
            patience,
            timer: None,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Into<Error>> + Unpin> Body for Patient<B> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| {
            let now = Instant::now();
            Box::pin(tokio::time::sleep_until(
                now.checked_add(patience).unwrap_or(now + PATIENCE),
            ))
        });
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use vaquita_net::{Fabric, FabricConfig, Listener, Stream};

    fn network() -> PodNetwork {
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        fabric.attach(None).expect("an address")
    }

    fn request(uri: &str) -> Request<WasiBody> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request::get(uri)
            .header("host", "named")
            .body(body)
            .expect("a request")
    }

    #[tokio::test]
    async fn hosts_that_are_not_granted_are_not_called() {
        let mut host = Outgoing::plain(network());
        host.capabilities = Arc::new(Capabilities {
            hosts: Some(vec!["localhost:81".into()]),
            ..Capabilities::default()
        });
        let error = async |uri| match send(&host, request(uri), RequestOptions::default()).await {
            Ok(_) => panic!("{uri} was answered"),
            Err(error) => error,
        };
        let granted = error("http://localhost:81/").await;
        assert!(matches!(granted, Error::ConnectionRefused));
        for uri in ["http://localhost/", "http://127.0.0.1:81/"] {
            assert!(
                matches!(error(uri).await, Error::HttpRequestDenied),
                "{uri}"
            );
        }
    }

    #[tokio::test]
    async fn https_is_spoken_to_servers_that_are_trusted() {
        let network = network();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]);
        let certified = certified.expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = certified.signing_key.serialize_der();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key);
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .expect("a server");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let client = |roots| {
            let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let mut host = Outgoing::plain(network.clone());
            host.tls = Arc::new(Tls::new(Some(Arc::new(config))));
            host
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).expect("a root");
        let listener = network
            .listen("0.0.0.0:443".parse().expect("an address"))
            .expect("free");
        let serve = async || {
            let (stream, _) = listener.accept().await.expect("a client");
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0);
            }
            let text = b"HTTP/1.1 204 No Content\r\n\r\n";
            stream.write_all(text).await.expect("room");
            stream.flush().await.expect("room");
        };
        let uri = || request("https://localhost/");
        let trusting = client(roots);
        let options = RequestOptions::default;
        let (answer, ()) = tokio::join!(send(&trusting, uri(), options()), serve());
        assert_eq!(answer.expect("an answer").0.status(), 204);
        let distrusting = client(rustls::RootCertStore::empty());
        let (answer, ()) = tokio::join!(send(&distrusting, uri(), options()), serve());
        assert!(matches!(answer, Err(Error::TlsCertificateError)));
    }

    async fn ask(
        network: &PodNetwork,
        uri: &str,
        options: RequestOptions,
    ) -> Result<(Response<WasiBody>, Sending), Error> {
        send(&Outgoing::plain(network.clone()), request(uri), options).await
    }

    /// Takes one request's head, sends this back, and keeps the connection open.
    async fn answer(listener: &Listener, text: &str) -> (String, Stream) {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0);
        }
        stream.write_all(text.as_bytes()).await.expect("room");
        (String::from_utf8(head).expect("text"), stream)
    }

    #[tokio::test]
    async fn a_request_goes_to_the_named_pod_and_its_answer_comes_back() {
        let network = network();
        let listener = network
            .listen("0.0.0.0:80".parse().expect("an address"))
            .expect("free");
        let text = "HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\nbody";
        for uri in ["http://localhost/a/b?c=d", "http://127.0.0.1:80/a/b?c=d"] {
            let client = async {
                let (answer, mut sending) = ask(&network, uri, RequestOptions::default()).await?;
                let status = answer.status();
                let body = drive(&mut sending, answer.into_body().collect()).await;
                Ok::<_, Error>((status, body?.to_bytes()))
            };
            let server = async {
                let (head, stream) = answer(&listener, text).await;
                drop(stream);
                head
            };
            let (result, head) = tokio::join!(client, server);
            let (status, body) = result.expect("an answer");
            assert_eq!((status.as_u16(), &body[..]), (201, &b"body"[..]));
            assert!(head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("host: named\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn what_can_t_be_reached_is_told_apart() {
        let network = network();
        let error = async |uri| match ask(&network, uri, RequestOptions::default()).await {
            Ok(_) => panic!("{uri} was answered"),
            Err(error) => error,
        };
        assert!(matches!(
            error("http://localhost:81/").await,
            Error::ConnectionRefused
        ));
        let unknown = error("http://nobody/").await;
        assert!(matches!(unknown, Error::DnsError { rcode: Some(code), .. } if code == "NXDOMAIN"));
        assert!(matches!(
            error("http://192.0.2.1/").await,
            Error::DestinationIpUnroutable
        ));
        assert!(matches!(
            error("https://localhost/").await,
            Error::ConnectionRefused
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guests_patience_has_its_limits() {
        let network = network();
        let listener = network
            .listen("0.0.0.0:80".parse().expect("an address"))
            .expect("free");
        let second = Some(Duration::from_secs(1));
        let first = RequestOptions {
            first_byte_timeout: second,
            ..RequestOptions::default()
        };
        let (result, _server) = tokio::join!(
            ask(&network, "http://localhost/", first),
            answer(&listener, "HTTP/1.1 2")
        );
        assert!(matches!(result, Err(Error::ConnectionReadTimeout)));

        let between = RequestOptions {
            between_bytes_timeout: second,
            ..RequestOptions::default()
        };
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbo";
        let (result, _server) = tokio::join!(
            ask(&network, "http://localhost/", between),
            answer(&listener, text)
        );
        let (answer, mut sending) = result.expect("a head");
        let body = drive(&mut sending, answer.into_body().collect()).await;
        assert!(matches!(body, Err(Error::ConnectionReadTimeout)));
    }
}
