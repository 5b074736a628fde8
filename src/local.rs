//! Both ways between the API server and the rest of this process, as values instead of bytes.
//!
//! [`client`] is a `kube::Client` whose other end is the API server's router; [`Nodes`] is how that server reaches the node.
//! No socket, no TLS, no HTTP framing: a request is handed to the router as the value it already is. Everything else
//! is the same code that a remote client reaches, so a controller cannot tell the difference.

use axum::{Router, body::Body};
use http::{Request, Response};
use tower::ServiceExt as _;
use vaquita_apiserver::{NodeError, NodeTransport, User};

/// A client that acts as `user`, in namespace `default` unless a call says otherwise.
///
/// The router trusts the user that it finds in a request's extensions; only code in this process can put one there.
pub fn client(router: Router, user: User) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(user.clone());
        router.clone().oneshot(request)
    });
    kube::Client::new(service, "default")
}

/// The one node of this process.
pub struct Nodes {
    name: String,
    router: Router,
}

impl Nodes {
    /// The node named `name`, whose agent answers by `router`.
    pub fn new(name: String, router: Router) -> Self {
        Self { name, router }
    }
}

#[async_trait::async_trait]
impl NodeTransport for Nodes {
    async fn call(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError> {
        if node != self.name {
            return Err(NodeError::Unknown);
        }
        match self.router.clone().oneshot(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}
