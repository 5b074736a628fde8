//! Connections: accept, shake hands, find out who is there, serve HTTP/1.1 and HTTP/2, drain.
//!
//! A connection's client certificate is looked at once; each of its requests then carries the [`User`] as an extension.
//! When told to stop, the listener closes, idle connections close, busy ones finish what they do, and whatever is left
//! at the deadline is cut.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse as _};
use http::{Request, StatusCode, header::HOST};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::authn::User;

/// How long a client may take for the TLS handshake, or to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an HTTP/2 connection is checked for life, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
/// How many connections are held at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;
/// Requests at a time in one HTTP/2 connection: client-go keeps all of its watches in one.
const MAX_STREAMS: u32 = 1000;
/// The bytes of a request's head in HTTP/2: as much as HTTP/1.1 takes of a URL, for selectors, and then some.
const MAX_HEADERS: u32 = 128 << 10;
/// A pause after the system could not accept (out of file descriptors), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its address cannot be told.
    #[error("cannot tell the listener's address: {0}")]
    Address(#[source] io::Error),
    /// Without authentication, only this machine is served.
    #[error("plain HTTP is served on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
}

/// Who is on the other side of a connection.
#[derive(Clone)]
pub(crate) enum Trust {
    /// TLS: whom the client certificate names; without one, a request has to bring its own proof.
    Certificate(TlsAcceptor),
    /// Plain HTTP on loopback: everybody is this user.
    Everybody(User),
}

/// Where a request came from, as a request extension.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Cancelled when the listener that a request came in by stops: endless answers (watches, followed logs) end then.
#[derive(Clone)]
pub(crate) struct Closing(pub(crate) CancellationToken);

/// Serves `router` on `listener` until `shutdown` resolves, then drains for at most `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    trust: Trust,
    drain: Duration,
    shutdown: impl Future<Output = ()> + Send,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let closing = Closing(CancellationToken::new());
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer, slot)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = Connection {
            router: router.clone(),
            trust: trust.clone(),
            peer,
            closing: closing.clone(),
            watcher: graceful.watcher(),
        };
        connections.spawn(async move {
            let _slot = slot;
            connection.run(stream).await;
        });
    }
    drop(listener);
    closing.0.cancel();
    // `shutdown` resolves when the last connection has ended; the set is aborted as it is dropped.
    if tokio::time::timeout(drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::debug!("connections were still busy when the drain deadline passed");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

struct Connection {
    router: Router,
    trust: Trust,
    peer: SocketAddr,
    closing: Closing,
    watcher: hyper_util::server::graceful::Watcher,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        // Watch events and small answers must not wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        match self.trust.clone() {
            Trust::Everybody(user) => self.http(stream, Some(user), true).await,
            Trust::Certificate(acceptor) => {
                let Ok(Ok(stream)) =
                    tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await
                else {
                    return;
                };
                let certificate = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(<[_]>::first);
                let user = certificate.and_then(|certificate| User::from_certificate(certificate));
                self.http(stream, user, false).await;
            }
        }
    }

    async fn http<S>(self, stream: S, user: Option<User>, loopback_only: bool)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, peer, closing) = (self.router, Peer(self.peer), self.closing);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            let refused = loopback_only && !names_loopback(&request);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(closing.clone());
            if let Some(user) = &user {
                request.extensions_mut().insert(user.clone());
            }
            let mut router = router.clone();
            async move {
                if refused {
                    let reason = "the insecure port answers to loopback names only";
                    return Ok((StatusCode::FORBIDDEN, reason).into_response());
                }
                router.call(request).await
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS);
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::trace!(%error, peer = %peer.0, "connection ended");
        }
    }
}

/// Whether a request to the insecure port was made under a name that can only mean this machine.
///
/// A web page may make its visitor's browser connect to loopback, under a name of its own that resolves there; such a
/// request names that host, or its origin.
fn names_loopback<B>(request: &Request<B>) -> bool {
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.host()),
        None => request
            .headers()
            .get(HOST)
            .and_then(|value| value.to_str().ok())
            .map(host_without_port),
    };
    let origin = request.headers().get(http::header::ORIGIN);
    host.is_some_and(is_loopback_name) && origin.is_none()
}

fn host_without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback_name(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: &str) -> Request<()> {
        Request::builder()
            .uri("/api")
            .header(HOST, host)
            .body(())
            .unwrap()
    }

    #[test]
    fn the_insecure_port_wants_a_loopback_name() {
        for good in [
            "localhost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "LOCALHOST",
        ] {
            assert!(names_loopback(&request(good)), "{good}");
        }
        for bad in [
            "evil.example:8080",
            "localhost.evil.example",
            "10.0.0.1:8080",
            "",
        ] {
            assert!(!names_loopback(&request(bad)), "{bad}");
        }
    }

    #[test]
    fn the_insecure_port_refuses_browsers_of_other_sites() {
        let mut request = request("localhost:8080");
        request.headers_mut().insert(
            http::header::ORIGIN,
            "https://evil.example".parse().unwrap(),
        );
        assert!(!names_loopback(&request));
    }
}
