//! The way from the API server to a node, for what only the node knows: the logs of its containers.

use axum::body::Body;
use http::{Request, Response};

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
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError>;
}
