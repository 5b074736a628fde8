//! Requests that guests send: HTTP/1.1 over the pod's network.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, timeout};
use vaquita_net::{NetError, PodNetwork, ResolveError, Stream};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long a guest waits that set no limit of its own: for a connection, for an answer, and for each further piece of it.
const PATIENCE: Duration = Duration::from_mins(10);

type Sending = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// `wasi:http/outgoing-handler`, in the name of a pod.
pub(crate) struct Outgoing {
    network: PodNetwork,
}

impl Outgoing {
    pub(crate) fn new(network: PodNetwork) -> Self {
        Self { network }
    }
}

impl WasiHttpHooks for Outgoing {
    /// There is no TLS inside a cluster's network, so the plain scheme is what a guest means that names none.
    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
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
        let network = self.network.clone();
        Box::new(async move {
            let (response, sending) = send(&network, request, options.unwrap_or_default()).await?;
            let sending: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(sending);
            Ok((response, sending))
        })
    }
}

async fn send(
    network: &PodNetwork,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<(Response<WasiBody>, Sending), Error> {
    if request.uri().scheme() == Some(&Scheme::HTTPS) {
        let reason = "https is not available on the pod's network; use http".to_owned();
        return Err(Error::InternalError(Some(reason)));
    }
    let authority = request
        .uri()
        .authority()
        .ok_or(Error::HttpRequestUriInvalid)?
        .clone();
    let connect = connect(network, &authority);
    let stream = timeout(options.connect_timeout.unwrap_or(PATIENCE), connect)
        .await
        .map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    *request.uri_mut() = origin_form(request.uri());
    let mut sending: Sending = Box::pin(async move { Ok(connection.await?) });
    let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
    let answer = timeout(
        options.first_byte_timeout.unwrap_or(PATIENCE),
        sender.send_request(request),
    );
    let answer = drive(&mut sending, answer)
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    Ok((
        answer.map(|body| Patient::new(body, between).boxed_unsync()),
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
fn origin_form(uri: &Uri) -> Uri {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// Tries the name's addresses, one after another.
async fn connect(network: &PodNetwork, authority: &Authority) -> Result<Stream, Error> {
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let port = authority.port_u16().unwrap_or(80);
    let addresses = network
        .resolve(name)
        .await
        .map_err(|error| of_lookup(&error))?;
    let mut last = Error::DestinationNotFound;
    for ip in addresses {
        match network.connect(SocketAddr::new(ip, port)).await {
            Ok(stream) => return Ok(stream),
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

/// A body that must keep coming.
struct Patient {
    body: Incoming,
    patience: Duration,
    /// Armed while a piece is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            patience,
            timer: None,
        }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.timer = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
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
