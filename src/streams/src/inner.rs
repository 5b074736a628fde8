//! An HTTP/1.1 connection that never leaves the process.
//!
//! Most requests within the process are handed over as values. One that is to become something else needs a connection
//! that both ends can take over: [`call`] makes one in memory, and its answer can be upgraded as any other.

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;

/// Bytes that the connection holds for each direction.
const BUFFER: usize = 64 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request` to `service` over a connection of its own, which lasts as long as one of the two holds it. Needs a
/// tokio runtime.
pub async fn call<S, B, R>(service: S, request: Request<B>) -> hyper::Result<Response<Incoming>>
where
    S: hyper::service::HttpService<Incoming, ResBody = R> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (near, far) = tokio::io::duplex(BUFFER);
    let server = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), service)
        .with_upgrades();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::debug!(%error, "a connection within the process ended");
        }
    });
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await
}
