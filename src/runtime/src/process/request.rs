//! Requests that embedders make of a handler directly.

use std::fmt;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use thiserror::Error;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// What a handler answers with, as it comes.
pub type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The process is a program, or has ended.
    #[error("the process is no HTTP handler that runs")]
    NoHandler,
}

/// Why a response's body ends early.
#[derive(Debug, Error)]
#[error("the response was cut: {0}")]
pub struct BodyError(String);

impl BodyError {
    pub(super) fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

pub(super) fn incoming<B>(request: Request<B>) -> Request<WasiBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    request.map(|body| {
        body.map_err(|error| HttpError::InternalError(Some(error.to_string())))
            .boxed_unsync()
    })
}
