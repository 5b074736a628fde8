//! The little that the HTTP guests share: a request read whole, a response written whole, over `wasi:http`.
//!
//! A guest has a function from [`Request`] to [`Response`] and hands it to [`serve!`]. Bodies are small here, so
//! both directions are plain bytes; a guest that streams would use the bindings directly.

use wasip2::{
    http::types::{
        Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
    },
    io::streams::{OutputStream, StreamError},
};

#[doc(hidden)]
pub use wasip2;

/// The largest body of a request that is accepted, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// How much of a body is asked for, or written, at once: what one flushed write may carry.
const CHUNK: usize = 4096;

/// A request, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method in upper case, such as `GET`.
    pub method: String,
    /// The path without the query, still percent-encoded. Never empty.
    pub path: String,
    /// Names in lower case, and values as far as they are text.
    pub headers: Vec<(String, String)>,
    /// The body; `None` if it was larger than [`MAX_BODY`] or broke off.
    pub body: Option<Vec<u8>>,
}

/// A response, to be sent whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code, 200 to 599.
    pub status: u16,
    /// Names and values of headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A response of a content type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
        }
    }

    /// A response of plain text.
    pub fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// The same response with one header more.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The pod's name, which Kubernetes makes its hostname.
pub fn hostname() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "an unnamed host".to_owned())
}

/// Exports a `fn(Request) -> Response` as the component's `wasi:http/incoming-handler`.
#[macro_export]
macro_rules! serve {
    ($handler:path) => {
        struct Component;

        impl $crate::wasip2::exports::http::incoming_handler::Guest for Component {
            fn handle(
                request: $crate::wasip2::http::types::IncomingRequest,
                out: $crate::wasip2::http::types::ResponseOutparam,
            ) {
                $crate::answer(&request, out, $handler);
            }
        }

        $crate::wasip2::http::proxy::export!(Component with_types_in $crate::wasip2);
    };
}

/// Reads `request`, calls `handler` and sends what it returns. [`serve!`] calls this.
#[doc(hidden)]
pub fn answer(request: &IncomingRequest, out: ResponseOutparam, handler: fn(Request) -> Response) {
    let target = request.path_with_query().unwrap_or_default();
    let path = target
        .split('?')
        .next()
        .filter(|path| !path.is_empty())
        .unwrap_or("/")
        .to_owned();
    let response = handler(Request {
        method: method(request.method()),
        path,
        headers: headers(request),
        body: read_body(request),
    });
    send(out, &response);
}

fn method(method: Method) -> String {
    match method {
        Method::Get => "GET".to_owned(),
        Method::Head => "HEAD".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Connect => "CONNECT".to_owned(),
        Method::Options => "OPTIONS".to_owned(),
        Method::Trace => "TRACE".to_owned(),
        Method::Patch => "PATCH".to_owned(),
        Method::Other(name) => name.to_ascii_uppercase(),
    }
}

fn headers(request: &IncomingRequest) -> Vec<(String, String)> {
    let entries = request.headers().entries().into_iter();
    let text = |(name, value): (String, Vec<u8>)| {
        Some((name.to_ascii_lowercase(), String::from_utf8(value).ok()?))
    };
    entries.filter_map(text).collect()
}

fn read_body(request: &IncomingRequest) -> Option<Vec<u8>> {
    let incoming = request.consume().ok()?;
    let stream = incoming.stream().ok()?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(CHUNK as u64) {
            Ok(bytes) if body.len() + bytes.len() <= MAX_BODY => body.extend_from_slice(&bytes),
            Err(StreamError::Closed) => return Some(body),
            Ok(_) | Err(StreamError::LastOperationFailed(_)) => return None,
        }
    }
}

/// Sends the response. If the client has gone away, so be it.
fn send(out: ResponseOutparam, response: &Response) {
    let fields = Fields::new();
    for (name, value) in &response.headers {
        // A header that the host does not allow is left out rather than costing the response.
        let _ = fields.append(name, value.as_bytes());
    }
    let _ = fields.append("content-length", response.body.len().to_string().as_bytes());
    let outgoing = OutgoingResponse::new(fields);
    let _ = outgoing.set_status_code(response.status);
    let body = outgoing
        .body()
        .expect("the body of a new response is there to be taken once");
    ResponseOutparam::set(out, Ok(outgoing));
    let written = body
        .write()
        .is_ok_and(|stream| write(&stream, &response.body).is_ok());
    if written {
        let _ = OutgoingBody::finish(body, None);
    }
}

fn write(stream: &OutputStream, bytes: &[u8]) -> Result<(), StreamError> {
    bytes
        .chunks(CHUNK)
        .try_for_each(|chunk| stream.blocking_write_and_flush(chunk))
}
