//! Requests that go from handler to handler, without HTTP's wire form in between.
//!
//! What can be seen of them is what could be seen if they had gone over a connection: the server is found, balanced and
//! permitted in the same way (see [`PodNetwork::reach`](vaquita_net::PodNetwork::reach)), heads have the same bounds and
//! fields, and bodies stream.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::time::timeout;
use wasmtime_wasi_http::{Error, WasiBody};

use super::handler::Handler;
use super::outgoing::{Holding, Patient, origin_form};
use super::server::LARGEST_HEAD;

/// Sends a request to a handler in the same process. Waits so long for the answer, and for each further piece of its body; `kept`
/// is kept until that is over.
pub(super) async fn send<K: Send + Unpin + 'static>(
    handler: Arc<Handler>,
    mut request: Request<WasiBody>,
    (first_byte, between_bytes): (Duration, Duration),
    kept: K,
) -> Result<Response<WasiBody>, Error> {
    *request.uri_mut() = origin_form(request.uri());
    *request.version_mut() = Version::HTTP_11;
    if request.uri().path().len() + size(request.headers()) > LARGEST_HEAD {
        return Err(Error::HttpRequestHeaderSectionSize(None));
    }
    let is_head = request.method() == Method::HEAD;
    measure(&mut request);
    let answer = timeout(first_byte, handler.handle(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)?;
    let (mut head, body) = answer.into_parts();
    if size(&head.headers) > LARGEST_HEAD {
        return Err(Error::HttpResponseHeaderSectionSize(None));
    }
    if let (None, Some(length)) = (head.headers.get(CONTENT_LENGTH), body.size_hint().exact()) {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    if !head.headers.contains_key(DATE) {
        head.headers.insert(DATE, now());
    }
    let has_body = !is_head
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let body = if has_body {
        Patient::new(Holding::new(body, kept), between_bytes).boxed_unsync()
    } else {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    };
    Ok(Response::from_parts(head, body))
}

/// Says how long a request's body is, where that is known and not said.
fn measure(request: &mut Request<WasiBody>) {
    let length = request.body().size_hint().exact();
    let says_nothing = length == Some(0)
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
        );
    if let Some(length) = length
        && !says_nothing
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
}

/// What a head's fields would take on the wire, about.
fn size(fields: &HeaderMap) -> usize {
    fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

fn now() -> HeaderValue {
    let now = httpdate::fmt_http_date(SystemTime::now());
    HeaderValue::try_from(now).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi_http::RequestOptions;

    use super::*;
    use crate::http::{Outgoing, outgoing};
    use crate::{Config, Pod, PodConfig, Process, ProcessConfig, Runtime};
    use vaquita_net::{Fabric, FabricConfig, PodNetwork};

    const HANDLER: &str = include_str!("../../tests/runtime/handler.wat");

    struct Host {
        _runtime: Runtime,
        client: Outgoing,
        network: PodNetwork,
        pod: Pod,
        process: Process,
    }

    async fn host() -> Host {
        let config = Config {
            max_instances: 16,
            ..Config::default()
        };
        let runtime = Runtime::new(config).expect("a runtime");
        let fabric = Fabric::new(FabricConfig::default()).expect("a fabric");
        let wasm = wat::parse_str(HANDLER).expect("correct text");
        let module = runtime.load(wasm.into()).await.expect("a module");
        let network = fabric.attach(None).expect("an address");
        let pod = runtime.pod(PodConfig::new("server", network));
        let process = pod.start(ProcessConfig::new("server", module)).await;
        let network = fabric.attach(None).expect("an address");
        Host {
            network: network.clone(),
            client: Outgoing::plain(network),
            process: process.expect("a process"),
            pod,
            _runtime: runtime,
        }
    }

    impl Host {
        async fn ask(&self, method: &str, path: &str) -> Result<Response<WasiBody>, Error> {
            self.ask_with(method, path, "").await
        }

        async fn ask_with(
            &self,
            method: &str,
            path: &str,
            extra: &str,
        ) -> Result<Response<WasiBody>, Error> {
            let uri = format!("http://{}:8080{path}", self.pod.ip());
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::builder().method(method).uri(uri);
            let request = request
                .header("host", "server")
                .header("x-extra", extra)
                .body(body);
            let options = RequestOptions::default();
            let sent = outgoing::send(&self.client, request.expect("a request"), options).await;
            sent.map(|(answer, _)| answer)
        }
    }

    #[tokio::test]
    async fn a_request_goes_from_handler_to_handler_as_over_a_connection() {
        let host = host().await;
        let answer = host.ask("GET", "/a?b").await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key(DATE));
        assert_eq!(host.network.stats().connections, 0, "there is none");
        let body = answer.into_body().collect().await.expect("a whole body");
        assert_eq!(body.to_bytes(), "/a?b");
        assert_eq!(host.process.usage().requests, 1);

        let answer = host.ask("HEAD", "/a").await.expect("an answer");
        let body = answer.into_body().collect().await.expect("no body");
        assert!(body.to_bytes().is_empty());
        let answer = host.ask("GET", "/trap").await.expect("an answer");
        assert_eq!(answer.status(), 500);
        let half = host.ask("GET", "/half").await.expect("a head");
        assert!(half.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn a_handler_that_has_ended_refuses() {
        let host = host().await;
        host.process.kill();
        host.process.wait().await;
        let refused = host.ask("GET", "/").await;
        assert!(matches!(refused, Err(Error::ConnectionRefused)));
    }

    #[tokio::test]
    async fn heads_have_the_same_bounds() {
        let host = host().await;
        let refused = host.ask_with("GET", "/", &"x".repeat(LARGEST_HEAD)).await;
        assert!(matches!(
            refused,
            Err(Error::HttpRequestHeaderSectionSize(_))
        ));
    }
}
