//! Answers: values, bytes and [`Status`] errors as HTTP responses.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use vaquita_api::{protobuf, status::Status};

use crate::negotiation::Encoding;

/// What a handler gives: an answer, or the `Status` that says why there is none.
pub(crate) type Answer = Result<Response, Status>;

/// The most warnings that one answer carries, and the length of each, so that headers stay within what clients read.
const MAX_WARNINGS: usize = 20;
const WARNING_LENGTH: usize = 256;

/// An object's or document's JSON bytes, in the encoding that the client wants.
pub(crate) fn json(code: StatusCode, json: Bytes, encoding: Encoding) -> Response {
    if encoding != Encoding::Yaml {
        return body(code, Body::from(json), Encoding::Json);
    }
    match to_yaml(&json) {
        Some(yaml) => body(code, Body::from(yaml), Encoding::Yaml),
        None => status(&Status::internal("the object cannot be written as YAML")),
    }
}

/// A body that is in `encoding` already.
pub(crate) fn body(code: StatusCode, body: Body, encoding: Encoding) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, encoding.content_type());
    no_store(response)
}

/// A value, in the encoding that the client wants.
pub(crate) fn value(code: StatusCode, value: &Value, encoding: Encoding) -> Response {
    json(code, value.to_string().into(), encoding)
}

/// Text for people and probes.
pub(crate) fn text(code: StatusCode, text: String) -> Response {
    let mut response = (code, text).into_response();
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    no_store(response)
}

/// A `Status` in JSON.
pub(crate) fn status(status: &Status) -> Response {
    status_as(status, Encoding::Json)
}

/// A `Status` in the encoding that the client wants.
pub(crate) fn status_as(status: &Status, encoding: Encoding) -> Response {
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match encoding {
        Encoding::Protobuf => body(code, Body::from(protobuf::status(status)), encoding),
        Encoding::Json | Encoding::Yaml => json(code, status.to_bytes().into(), encoding),
    };
    let retry_after = status
        .details()
        .map_or(0, |details| details.retry_after_seconds);
    if retry_after > 0 {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, retry_after.into());
    }
    response
}

/// The answer of a handler.
pub(crate) fn finish(answer: Answer, encoding: Encoding) -> Response {
    answer.unwrap_or_else(|error| status_as(&error, encoding))
}

/// Adds `Warning` headers (RFC 7234, code 299), which kubectl prints.
pub(crate) fn warn(response: &mut Response, warnings: impl IntoIterator<Item = String>) {
    for warning in warnings.into_iter().take(MAX_WARNINGS) {
        let text: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .take(WARNING_LENGTH)
            .flat_map(|c| {
                if matches!(c, '"' | '\\') {
                    vec!['\\', c]
                } else {
                    vec![c]
                }
            })
            .collect();
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
}

fn to_yaml(json: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(json).ok()?;
    serde_yaml::to_string(&value).ok()
}

fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}
