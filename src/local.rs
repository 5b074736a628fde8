//! The ways between the API server and the rest of this process, as values instead of bytes.
//!
//! [`client`] is a `kube::Client` whose other end is the API server's router; [`Nodes`] is how that server reaches the node,
//! [`PodNetwork`] how it reaches pods. No socket, no TLS, no HTTP framing: a request is handed to the router as the value it
//! already is. Only one that is to become a connection of another protocol gets a connection, in memory. Everything
//! else is the same code that a remote client reaches, so a controller cannot tell the difference.

use std::{io, net::SocketAddr};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt as _;
use vaquita_apiserver::{Dialer, Duplex, HostNetwork, NodeError, NodeTransport, User};
use vaquita_net::Fabric;
use vaquita_streams::{handshake, inner};

/// A client that acts as `user`, in namespace `default` unless a call says otherwise.
///
/// The router trusts the user that it finds in a request's extensions; only code in this process can put one there.
pub fn client(router: Router, user: User) -> kube::Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (router, user) = (router.clone(), user.clone());
        hand_over(router, Some(user), request.map(Body::new))
    });
    kube::Client::new(service, "default")
}

/// Hands a request to `router`, on behalf of `user`.
async fn hand_over(
    router: Router,
    user: Option<User>,
    mut request: Request<Body>,
) -> hyper::Result<Response<Body>> {
    if handshake::upgrade(request.headers()).is_none() {
        request
            .extensions_mut()
            .extend(user.map(extension).unwrap_or_default());
        return Ok(match router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        });
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        let user = user.clone().map(extension).unwrap_or_default();
        request.extensions_mut().extend(user);
        router.clone().oneshot(request)
    });
    Ok(inner::call(service, request).await?.map(Body::new))
}

fn extension(user: User) -> http::Extensions {
    let mut extensions = http::Extensions::new();
    extensions.insert(user);
    extensions
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
        hand_over(self.router.clone(), None, request)
            .await
            .map_err(|error| NodeError::Unreachable(error.into()))
    }
}

/// Reaches this process's pods by its virtual network, and everything else by the host's.
pub struct PodNetwork(pub Fabric);

#[async_trait::async_trait]
impl Dialer for PodNetwork {
    async fn dial(&self, to: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        if self.0.has(to.ip()) {
            Ok(Box::new(self.0.dial(to).await?))
        } else {
            HostNetwork.dial(to).await
        }
    }
}
