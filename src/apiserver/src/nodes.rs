//! The way from the API server to a node's agent.

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};

/// Carries requests to the agents of nodes: what they alone can answer, such as a container's log.
#[async_trait]
pub trait NodeTransport: Send + Sync + 'static {
    /// Sends `request`, whose path is one of the kubelet's own (`/containerLogs/...`), to the node named `node`.
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError>;
}

/// A node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no node of that name, or none that says how to reach it.
    #[error("node {0:?} is not known here")]
    Unknown(String),
    /// The node did not answer.
    #[error("node {node:?} does not answer: {source}")]
    Unreachable {
        /// Which.
        node: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
