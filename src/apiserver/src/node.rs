//! The ways from the API server to nodes and pods.
//!
//! A [`NodeTransport`] carries what only a node knows or can do: logs, commands, forwarded ports. A [`Dialer`] reaches what
//! pods serve, for the `proxy` subresources.

use std::{io, net::SocketAddr};

use axum::body::Body;
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Why a node did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such node, or no way to it.
    #[error("no way to that node is known")]
    Unknown,
    /// The node cannot be reached, or hung up.
    #[error("{0}")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How requests reach nodes. In one process that is a function call; over the network it is HTTPS.
#[async_trait::async_trait]
pub trait NodeTransport: Send + Sync + 'static {
    /// Hands `request`, whose URI is a path such as `/containerLogs/{namespace}/{pod}/{container}`, to the node's own
    /// server and gives back what it says, whatever the status.
    ///
    /// A request with an `Upgrade` header may be answered with 101. Such an answer has to carry the connection, as
    /// those of hyper's client do: [`hyper::upgrade::on`] gives it. (`vaquita_streams::inner` makes one in memory.)
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError>;
}

/// A connection, whatever it runs over.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How pods are reached.
#[async_trait::async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `to`, a pod's address.
    async fn dial(&self, to: SocketAddr) -> io::Result<Box<dyn Duplex>>;
}

/// Reaches pods over the host's own network, where that leads to them.
#[derive(Debug, Clone, Copy)]
pub struct HostNetwork;

#[async_trait::async_trait]
impl Dialer for HostNetwork {
    async fn dial(&self, to: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
