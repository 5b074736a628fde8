//! The proxy: connections of clients, and what becomes of them.
//!
//! HTTP/1.1 and HTTP/2 come in, by ALPN with TLS and by the first bytes without. Each request is looked up in the table
//! of the moment and goes over a connection of its own into the pods' network, which balances and
//! retries it: there a connection is a value, not a handshake, so none is kept for the next request. Bodies are
//! passed on as they come.

mod forward;
mod headers;
mod idle;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vaquita_net::Fabric;

use crate::{Metrics, Options, Shared, certificates::Resolver};

/// How long a client may take for the TLS handshake, or to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an HTTP/2 connection is checked for life, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
/// Requests at a time in one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// A pause after the system could not accept (out of file descriptors), instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
pub(crate) struct Proxy {
    pub(crate) fabric: Fabric,
    pub(crate) table: Shared,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    /// Upgraded connections, which outlive the requests that made them.
    tunnels: TaskTracker,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    /// Where it connected to.
    pub(crate) local: SocketAddr,
    pub(crate) secure: bool,
}

/// TLS with the certificates of the table.
pub(crate) fn acceptor(resolver: Arc<Resolver>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap_or_else(|_| unreachable!("the provider does both versions of TLS"))
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

impl Proxy {
    pub(crate) fn new(fabric: Fabric, table: Shared, options: Options) -> Self {
        let connections = options.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            fabric,
            table,
            slots: Arc::new(Semaphore::new(connections)),
            options,
            metrics: Arc::default(),
            tunnels: TaskTracker::new(),
        }
    }

    /// Serves a listener, if there is one, until told to stop; then lets requests that are under way end.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: Option<TcpListener>,
        tls: Option<TlsAcceptor>,
        stop: &CancellationToken,
    ) {
        let Some(listener) = listener else { return };
        let graceful = GracefulShutdown::new();
        // Aborted when dropped, if this is cut short.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.accept(&listener) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, client, slot)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let connection = Connection {
                proxy: self.clone(),
                client: Client {
                    secure: tls.is_some(),
                    ..client
                },
                watcher: graceful.watcher(),
                stop: stop.clone(),
            };
            let tls = tls.clone();
            connections.spawn(async move {
                let _slot = slot;
                connection.run(stream, tls).await;
            });
        }
        drop(listener);
        graceful.shutdown().await;
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, Client, OwnedSemaphorePermit)> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(io::Error::other)?;
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = Client {
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            local: stream.local_addr()?,
            secure: false,
        };
        Ok((stream, client, slot))
    }
}

/// A client's connection.
struct Connection {
    proxy: Arc<Proxy>,
    client: Client,
    watcher: hyper_util::server::graceful::Watcher,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let metrics = self.proxy.metrics.clone();
        let _counted = metrics.connections.one();
        let Some(tls) = tls else {
            return self.http(stream).await;
        };
        match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.http(stream).await,
            // Port scans and clients that do not trust the certificate end here.
            Ok(Err(_)) | Err(_) => {
                metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn http<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (proxy, client, stop) = (self.proxy, self.client, self.stop);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (proxy, stop) = (proxy.clone(), stop.clone());
            async move { Ok::<_, std::convert::Infallible>(proxy.answer(request, client, stop).await) }
        });
        let connection = builder()
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .into_owned();
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::trace!(%error, peer = %client.peer, "connection ended");
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    builder
}
