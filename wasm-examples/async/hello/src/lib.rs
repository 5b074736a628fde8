//! An asynchronous HTTP handler: says the method and the path while it goes on reading the request's body, whose length
//! it says last. At `/together`, it answers when three have asked for that.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

/// How many have asked for `/together`.
static IN_COMPANY: AtomicU32 = AtomicU32::new(0);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        assert_ne!(path, "/trap", "as it was told");
        if path == "/together" {
            IN_COMPANY.fetch_add(1, Ordering::Relaxed);
            while IN_COMPANY.load(Ordering::Relaxed) < 3 {
                monotonic_clock::wait_for(1_000_000).await;
            }
        }
        if path == "/error" {
            return Err(ErrorCode::InternalError(Some("as it was told".to_owned())));
        }
        let method = match request.get_method() {
            Method::Get => "GET".to_owned(),
            Method::Post => "POST".to_owned(),
            other => format!("{other:?}"),
        };
        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(contents), no_trailers);
        wit_bindgen::spawn_local(async move {
            let head = format!("{method} {path}\n");
            if !body.write_all(head.into_bytes()).await.is_empty() {
                return;
            }
            let (_done, done) = wit_future::new(|| Ok(()));
            let (contents, _trailers) = Request::consume_body(request, done);
            let length = contents.collect().await.len();
            body.write_all(format!("{length} bytes\n").into_bytes())
                .await;
        });
        Ok(response)
    }
}

wasip3::http::service::export!(Hello);
