//! A `kube::Client` whose other end is the API server's router in this same process.
//!
//! No socket, no TLS, no HTTP framing: a request is handed to the router as the value it already is. Everything else
//! is the same code that a remote client reaches, so a controller cannot tell the difference.

use axum::{Router, body::Body};
use http::Request;
use tower::ServiceExt as _;
use vaquita_apiserver::User;

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
