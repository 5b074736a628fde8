//! What answers on the ports of a Spin application: it finds, by a request's path, the component that the request is for.

use std::{convert::Infallible, fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use vaquita_net::{Listener, Stream};
use vaquita_runtime::{BodyError, Process};
use vaquita_spin::Routes;

/// Connections of one application at a time; more wait.
const CONNECTIONS: usize = 1024;
/// How long a request's head may take, and how large it may be, in bytes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const LARGEST_HEAD: usize = 64 << 10;
/// Headers of the host's own, which no client may set.
const HEADERS: &str = "spin-";

type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What answers on the pod's ports.
pub(super) struct Entrance {
    processes: Arc<Vec<Process>>,
    routes: Routes<usize>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Entrance {
    pub(super) fn new(
        processes: Arc<Vec<Process>>,
        routes: Routes<usize>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            processes,
            routes,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            stop,
        }
    }

    /// Takes connections until the application stops.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener) {
        let work = async {
            while let Ok(place) = self.places.clone().acquire_owned().await {
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                let entrance = self.clone();
                tokio::spawn(async move {
                    entrance.serve(stream, peer).await;
                    drop(place);
                });
            }
        };
        self.stop.run_until_cancelled(work).await;
    }

    async fn serve(self: Arc<Self>, stream: Stream, peer: SocketAddr) {
        let mut protocol = auto::Builder::new(TokioExecutor::new());
        protocol
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(LARGEST_HEAD)
            .half_close(true);
        protocol
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX));
        let entrance = self.clone();
        let service = service_fn(move |request| {
            let entrance = entrance.clone();
            async move { Ok::<_, Infallible>(entrance.answer(request, peer).await) }
        });
        let connection = protocol.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Clients go away as they please.
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let Some(found) = self.routes.find(&path) else {
            return plain(StatusCode::NOT_FOUND);
        };
        let mut told = vec![
            ("path-info".to_owned(), found.rest.clone()),
            ("raw-component-route".to_owned(), found.route.to_owned()),
            ("component-route".to_owned(), found.base.to_owned()),
            ("matched-route".to_owned(), found.route.to_owned()),
            ("base-path".to_owned(), "/".to_owned()),
            ("full-url".to_owned(), full_url(&request)),
            ("client-addr".to_owned(), peer.to_string()),
        ];
        let segments = found.segments.into_iter();
        told.extend(segments.map(|(name, value)| (format!("path-match-{name}"), value)));
        tell(&mut request, told);
        match self.processes.get(*found.target) {
            Some(process) => match process.request(request).await {
                Ok(answer) => answer,
                Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE),
            },
            None => plain(StatusCode::NOT_FOUND),
        }
    }
}

/// The address that was asked for, as far as it is known here.
fn full_url(request: &Request<Incoming>) -> String {
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let mut url = String::from("http://");
    let path = request.uri().path_and_query();
    // Writing to a string cannot fail.
    let _ = write!(
        url,
        "{}{}",
        authority.or(host).unwrap_or("localhost"),
        path.map_or("/", http::uri::PathAndQuery::as_str)
    );
    url
}

/// Sets the host's own headers, in place of any that a client has sent.
fn tell<B>(request: &mut Request<B>, told: Vec<(String, String)>) {
    let headers = request.headers_mut();
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(HEADERS))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    for (name, value) in told {
        let name = HeaderName::try_from(format!("{HEADERS}{name}"));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let body = Full::from(text).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_tells_a_component_what_the_host_tells() {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        headers.insert("spin-client-addr", HeaderValue::from_static("forged"));
        headers.insert("spin-other", HeaderValue::from_static("forged"));
        headers.insert("accept", HeaderValue::from_static("text/plain"));
        let address = ("client-addr".to_owned(), "10.0.0.1:5".to_owned());
        tell(
            &mut request,
            vec![address, ("path-info".to_owned(), "a\nb".to_owned())],
        );
        let headers = request.headers();
        assert_eq!(headers["spin-client-addr"], "10.0.0.1:5");
        assert_eq!(headers.len(), 2, "{headers:?}");
    }
}
