//! One request: looked up, passed on, and its answer passed back.

use std::{error::Error, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
    uri::PathAndQuery,
};
use http_body_util::{Either, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use vaquita_net::{NetError, Stream};

use super::{
    Client, MAX_HEAD, Proxy,
    headers::{for_backend, say_who, strip_hop_by_hop, upgrade},
    idle::Idle,
};
use crate::compile::{Backend, Protocol, Target};

/// What clients are sent: a backend's answer as it comes, or words of our own.
pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

type Outgoing = Request<Limited<Incoming>>;

/// Why a request got no answer from a backend.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    #[error("no Ingress has a rule for {host}{path}")]
    NoRoute { host: String, path: String },
    #[error("no backend: {0}")]
    Broken(String),
    #[error("no endpoint of {0} accepts connections")]
    NoEndpoint(String),
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    #[error("cannot connect to {backend}: {source}")]
    Connect { backend: String, source: NetError },
    #[error("{backend} broke off: {source}")]
    Exchange {
        backend: String,
        source: hyper::Error,
    },
    #[error("{0} changed protocols without being asked to")]
    Unasked(String),
    #[error("{0} did not answer in time")]
    TooSlow(String),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Connect {
                source: NetError::TimedOut(_),
                ..
            }
            | Self::TooSlow(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Broken(_) | Self::NoEndpoint(_) | Self::Connect { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Exchange { .. } | Self::Unasked(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn answer(&self) -> Answer {
        let status = self.status();
        // What was asked for is repeated: it must never be taken for a page.
        let text = format!("{} {self}\n", status.as_str());
        let mut answer = Response::new(Either::Right(Full::from(text)));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(
            "x-content-type-options",
            HeaderValue::from_static("nosniff"),
        );
        answer
    }
}

impl Proxy {
    /// Answers a request, whatever happens.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Client,
        stop: CancellationToken,
    ) -> Answer {
        let start = Instant::now();
        let answer = match self.forward(request, client, stop).await {
            Ok(answer) => answer,
            Err(refusal) => {
                tracing::debug!(peer = %client.peer, error = %refusal, "refused a request");
                refusal.answer()
            }
        };
        self.metrics.answered(answer.status(), start.elapsed());
        answer
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        client: Client,
        stop: CancellationToken,
    ) -> Result<Answer, Refusal> {
        let host = host_of(&request)?;
        check(&request)?;
        let backend = self.backend(&host, request.uri().path())?;
        let limit = self.options.max_request_body;
        if let Some(limit) = limit.filter(|limit| declared_length(&request) > *limit) {
            return Err(Refusal::TooLong(limit));
        }
        let protocol = upgrade(request.headers(), request.version());
        let near = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let outgoing = self.outgoing(request, client, host, protocol)?;
        let exchange = self.exchange(&backend, outgoing, client);
        let mut answer = match tokio::time::timeout(self.options.response_timeout, exchange).await {
            Ok(answer) => answer.map_err(|refusal| self.too_long(refusal))?,
            Err(_) => return Err(Refusal::TooSlow(backend.name.clone())),
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            strip_hop_by_hop(answer.headers_mut(), None);
            return Ok(answer.map(Either::Left));
        }
        let near = near.ok_or_else(|| Refusal::Unasked(backend.name.clone()))?;
        let far = hyper::upgrade::on(&mut answer);
        self.tunnel(near, far, stop);
        let protocol = upgrade(answer.headers(), answer.version());
        strip_hop_by_hop(answer.headers_mut(), protocol);
        Ok(answer.map(|_| Either::Right(Full::default())))
    }

    fn backend(&self, host: &HeaderValue, path: &str) -> Result<Arc<Backend>, Refusal> {
        let name = name_of(host.to_str().unwrap_or_default());
        let table = self.table.load();
        match table.routes.find(&name, path) {
            Some(backend) => Ok(backend.clone()),
            None => Err(Refusal::NoRoute {
                host: name,
                path: path.to_owned(),
            }),
        }
    }

    /// The request as the backend is to see it.
    fn outgoing(
        &self,
        request: Request<Incoming>,
        client: Client,
        host: HeaderValue,
        protocol: Option<HeaderValue>,
    ) -> Result<Outgoing, Refusal> {
        let (mut head, body) = request.into_parts();
        let trusted = &self.options.trusted_proxies;
        let trusted = trusted.iter().any(|net| net.contains(&client.peer.ip()));
        strip_hop_by_hop(&mut head.headers, protocol);
        say_who(&mut head.headers, &client, &host, trusted);
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = head.uri.path_and_query().cloned();
        if uri.path_and_query.is_none() {
            uri.path_and_query = Some(PathAndQuery::from_static("/"));
        }
        head.uri = Uri::from_parts(uri).map_err(|_| Refusal::BadRequest("no path"))?;
        head.version = http::Version::HTTP_11;
        head.extensions = http::Extensions::new();
        for_backend(&mut head.headers, host);
        let limit = self.options.max_request_body.unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Request::from_parts(head, Limited::new(body, limit)))
    }

    /// Connects, sends the request and waits for the head of the answer.
    async fn exchange(
        &self,
        backend: &Backend,
        request: Outgoing,
        client: Client,
    ) -> Result<Response<Incoming>, Refusal> {
        let (service, port, protocol) = match &backend.to {
            Target::Service {
                service,
                port,
                protocol,
            } => (service, port, *protocol),
            Target::Broken(why) => return Err(Refusal::Broken(why.clone())),
        };
        let stream = self
            .fabric
            .dial_service(service, port, Some(client.peer))
            .await
            .map_err(|source| match source {
                NetError::ConnectionRefused(_) => Refusal::NoEndpoint(backend.name.clone()),
                source => Refusal::Connect {
                    backend: backend.name.clone(),
                    source,
                },
            })?;
        let io = TokioIo::new(Idle::new(stream, self.options.idle_timeout));
        let sent = match protocol {
            Protocol::Http1 => send_http1(io, request).await,
            Protocol::Http2 => send_http2(io, request).await,
        };
        sent.map_err(|source| Refusal::Exchange {
            backend: backend.name.clone(),
            source,
        })
    }

    /// A body that turned out too long on its way is the client's fault, not the backend's.
    fn too_long(&self, refusal: Refusal) -> Refusal {
        let Refusal::Exchange { source, .. } = &refusal else {
            return refusal;
        };
        let mut cause: Option<&(dyn Error + 'static)> = source.source();
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Refusal::TooLong(self.options.max_request_body.unwrap_or(u64::MAX));
            }
            cause = error.source();
        }
        refusal
    }

    /// Passes bytes both ways once both sides have changed protocols.
    fn tunnel(
        &self,
        near: hyper::upgrade::OnUpgrade,
        far: hyper::upgrade::OnUpgrade,
        stop: CancellationToken,
    ) {
        let metrics = self.metrics.clone();
        let tunnel = async move {
            let _counted = metrics.tunnels.one();
            let (near, far) = tokio::try_join!(near, far)?;
            let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
            // Whoever broke it off, both sides learn of it by their sockets.
            let _copied = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            Ok::<_, hyper::Error>(())
        };
        self.tunnels.spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(tunnel).await {
                tracing::debug!(%error, "a connection did not change protocols");
            }
        });
    }
}

type Io = TokioIo<Idle<Stream>>;

async fn send_http1(io: Io, request: Outgoing) -> hyper::Result<Response<Incoming>> {
    let mut builder = conn::http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(io).await?;
    // Ends with the body of the answer, or when nobody wants that any more.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}

async fn send_http2(io: Io, mut request: Outgoing) -> hyper::Result<Response<Incoming>> {
    if let Some(host) = request.headers_mut().remove(HOST)
        && let Ok(host) = host.to_str()
    {
        let mut uri = request.uri().clone().into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority = host.parse().ok();
        if let Ok(uri) = Uri::from_parts(uri) {
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = http::Version::HTTP_2;
    let mut builder = conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let (mut sender, connection) = builder.handshake(io).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// The host that the request is for: what HTTP/2 and absolute targets carry themselves, else the one header.
fn host_of(request: &Request<Incoming>) -> Result<HeaderValue, Refusal> {
    if let Some(authority) = request.uri().authority() {
        return HeaderValue::from_str(authority.as_str())
            .map_err(|_| Refusal::BadRequest("the authority is not ASCII"));
    }
    let mut hosts = request.headers().get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => Ok(host.clone()),
        (Some(_), None) => Err(Refusal::BadRequest("the header Host is not a host")),
        (Some(_), Some(_)) => Err(Refusal::BadRequest("more than one header Host")),
        (None, _) if request.version() < http::Version::HTTP_11 => Ok(HeaderValue::from_static("")),
        (None, _) => Err(Refusal::BadRequest("no header Host")),
    }
}

fn is_host(host: &HeaderValue) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]*".contains(byte);
    host.as_bytes().iter().all(allowed)
}

/// A host without its port and the dot at its end, in lower case.
fn name_of(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn check(request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::BadRequest("CONNECT is not for this proxy"));
    }
    // A backend that resolves them would see another path than the one that was routed.
    if has_dot_segments(request.uri().path()) {
        return Err(Refusal::BadRequest("the path has dot segments"));
    }
    Ok(())
}

fn has_dot_segments(path: &str) -> bool {
    path.split('/').any(|segment| {
        let segment = segment.split(';').next().unwrap_or_default();
        let mut rest = segment;
        let mut dots = 0;
        while !rest.is_empty() {
            match rest.strip_prefix('.').or_else(|| {
                let (head, tail) = rest.split_at_checked(3)?;
                head.eq_ignore_ascii_case("%2e").then_some(tail)
            }) {
                Some(tail) => rest = tail,
                None => return false,
            }
            dots += 1;
        }
        (1..=2).contains(&dots)
    })
}

fn declared_length(request: &Request<Incoming>) -> u64 {
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    length.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_port_and_case() {
        for (host, name) in [
            ("A.Example:8080", "a.example"),
            ("a.example.", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(name_of(host), name);
        }
    }

    #[test]
    fn dot_segments_are_found_in_every_spelling() {
        for path in [
            "/..",
            "/a/../b",
            "/./a",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/..;x/a",
        ] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in [
            "/",
            "/...",
            "/.well-known/x",
            "/a..b",
            "/a/%2e%2ex",
            "/%2",
            "//a",
        ] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
