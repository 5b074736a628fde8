//! [`Call`]: a request that is about a resource, as its handler sees it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{StatusCode, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use vaquita_api::{
    Object, body, meta, protobuf::ProtobufError, registry::Resource, status::Status,
};

use super::{
    Server,
    answer::{self, Answer},
    catalog::Served,
    present::Shape,
    protobuf,
};
use crate::{
    authn::User,
    negotiation::{self, Accepted, BodyKind, Encoding},
    query::{BadQuery, ListOptions, Query, WriteOptions, Writing},
    request::RequestInfo,
};
use vaquita_cache::entry::Entry;

/// How long a body may take to arrive: a request that is worked on takes a place that others wait for.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A request that is about a resource, as its handler sees it.
pub(crate) struct Call<'r> {
    pub(crate) server: &'r Arc<Server>,
    pub(crate) served: &'r Arc<Served>,
    /// That of `served`.
    pub(crate) resource: &'r Resource,
    /// Who asks.
    pub(crate) user: &'r User,
    /// The request's head.
    pub(crate) parts: &'r Parts,
    pub(crate) info: &'r RequestInfo,
    pub(crate) query: Query<'r>,
    pub(crate) accepted: Accepted,
    pub(crate) body_kind: BodyKind,
    /// Locked for nobody but the compiler: a body can be sent to another thread, but not shared with one.
    pub(super) body: Mutex<Option<Body>>,
    /// What the client is to be warned of, whatever comes of the request.
    pub(super) warnings: Mutex<Vec<String>>,
    /// Ends endless answers when the listener stops.
    pub(crate) closing: Option<CancellationToken>,
}

impl Call<'_> {
    /// The namespace of the path, "" for cluster-scoped objects.
    pub(crate) fn namespace(&self) -> &str {
        self.info.namespace.as_deref().unwrap_or_default()
    }

    /// The name of the path, "" for collections.
    pub(crate) fn name(&self) -> &str {
        self.info.name.as_deref().unwrap_or_default()
    }

    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> Bytes {
        self.served
            .collection
            .key(self.info.namespace.as_deref(), self.name())
    }

    /// The object that the path names, as it is now.
    pub(crate) fn entry(&self) -> Result<Arc<Entry>, Status> {
        self.served
            .get(&self.key())?
            .ok_or_else(|| self.not_found())
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.resource.group, &self.resource.plural, self.name())
    }

    /// The name of the path's subresource, "" for the object itself.
    pub(crate) fn subresource(&self) -> &str {
        self.info.subresource.as_deref().unwrap_or_default()
    }

    /// Has the client warned.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let warning = warning.into();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings so far, once.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The options of a write.
    pub(crate) fn write_options(&self, writing: Writing) -> Result<WriteOptions, Status> {
        WriteOptions::read(&self.query, writing)
    }

    /// The shape in which the client wants objects.
    pub(crate) fn shape(&self) -> Result<Shape, Status> {
        Shape::new(self.accepted.form, &self.query)
    }

    /// The options of a list or watch.
    pub(crate) fn list_options(&self) -> Result<ListOptions, Status> {
        ListOptions::from_query(&self.query).map_err(bad_query)
    }

    /// The object `entry` as the answer, in the client's shape and encoding.
    pub(crate) fn object(&self, code: StatusCode, entry: &Entry) -> Answer {
        let shape = self.shape()?;
        if self.accepted.encoding == Encoding::Protobuf {
            let message = protobuf::one(shape, self.resource, entry);
            return Ok(answer::body(code, Body::from(message), Encoding::Protobuf));
        }
        let object = shape.object(self.resource, entry)?;
        Ok(answer::json(code, object, self.accepted.encoding))
    }

    /// The body as it comes; once.
    pub(crate) fn take_body(&mut self) -> Body {
        let body = self.body.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.take().unwrap_or_default()
    }

    /// The body, read to its end; once.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes, Status> {
        let limit = self.server.config.body_limit;
        let body = self.take_body();
        let read = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, limit).collect());
        let Ok(read) = read.await else {
            return Err(Status::timeout(
                "the request's body did not arrive in time",
                0,
            ));
        };
        match read {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Status::too_large(format!("limit is {limit}")))
            }
            Err(error) => Err(Status::bad_request(format!(
                "the request's body cannot be read: {error}"
            ))),
        }
    }

    /// The body as JSON, whether it came as JSON, YAML or protobuf: an object of the resource.
    pub(crate) async fn parse_body(&mut self) -> Result<body::Parsed, Status> {
        let resource = self.resource;
        self.parse_body_as(|bytes| resource.parse_protobuf(bytes))
            .await
    }

    /// The same for a body of another type, of which `protobuf` reads that form.
    pub(crate) async fn parse_body_as(
        &mut self,
        protobuf: impl FnOnce(&[u8]) -> Result<body::Parsed, ProtobufError>,
    ) -> Result<body::Parsed, Status> {
        let kind = self.body_kind;
        if !matches!(kind, BodyKind::Json | BodyKind::Yaml | BodyKind::Protobuf) {
            return Err(Status::unsupported_media_type(&negotiation::CONSUMED));
        }
        let bytes = self.read_body().await?;
        Ok(match kind {
            BodyKind::Protobuf => protobuf(&bytes)?,
            BodyKind::Yaml => body::yaml(&bytes)?,
            _ => body::json(&bytes)?,
        })
    }

    /// Checks that `object`, which came in the body, is the one that the path names, as far as it says.
    pub(crate) fn check_name(&self, object: &Object) -> Result<(), Status> {
        let (name, namespace) = (meta::name(object), meta::namespace(object));
        if !name.is_empty() && name != self.name() {
            let message = format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name()
            );
            return Err(Status::bad_request(message));
        }
        let here = self.namespace();
        if !(here.is_empty() || namespace.is_empty() || namespace == here) {
            let message = format!(
                "the namespace of the object ({namespace}) does not match the namespace on the request ({here})"
            );
            return Err(Status::bad_request(message));
        }
        Ok(())
    }
}

/// A query parameter that makes no sense.
#[allow(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
pub(crate) fn bad_query(error: BadQuery) -> Status {
    Status::bad_request(error.to_string())
}

/// A JSON object of a value that must be one.
pub(crate) fn object_of(value: Value) -> Result<Object, Status> {
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Status::bad_request(
            "the body of the request must be an object",
        )),
    }
}
