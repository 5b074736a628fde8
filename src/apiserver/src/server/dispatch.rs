//! The way of a request: who asks, for what, may they, and which handler answers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{Request, StatusCode, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;
use vaquita_api::{
    Object, body,
    protobuf::ProtobufError,
    registry::{Resource, Storage},
    status::Status,
};

use super::{
    Server,
    answer::{self, Answer},
    catalog::Served,
    collection_delete, create, delete, discovery, get, health, list, log, openapi, patch, pod,
    present::Shape,
    scale, update, watch,
};
use crate::{
    authn::User,
    authz,
    cache::entry::Entry,
    negotiation::{self, Accepted, BodyKind},
    query::{BadQuery, ListOptions, Query},
    request::{RequestInfo, Verb},
    serve::Closing,
};

/// How long a body may take to arrive: a request that is worked on takes a place that others wait for.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A request that is about a resource, as its handler sees it.
pub(crate) struct Call<'r> {
    pub(crate) server: &'r Arc<Server>,
    pub(crate) served: &'r Arc<Served>,
    /// That of `served`.
    pub(crate) resource: &'r Resource,
    /// Who asks.
    #[allow(dead_code, reason = "for admission and subresources")]
    pub(crate) user: &'r User,
    /// The request's head.
    #[allow(dead_code, reason = "for upgrades")]
    pub(crate) parts: &'r Parts,
    pub(crate) info: &'r RequestInfo,
    pub(crate) query: Query<'r>,
    pub(crate) accepted: Accepted,
    pub(crate) body_kind: BodyKind,
    /// Locked for nobody but the compiler: a body can be sent to another thread, but not shared with one.
    body: Mutex<Option<Body>>,
    /// Ends endless answers when the listener stops.
    pub(crate) closing: Option<CancellationToken>,
}

/// Answers a request.
pub(crate) async fn dispatch(server: Arc<Server>, request: Request<Body>) -> Response {
    let Ok(user) = server.authenticator.authenticate(&request) else {
        return answer::status(&Status::unauthorized());
    };
    let (parts, body) = request.into_parts();
    match RequestInfo::parse(parts.uri.path()) {
        Some(info) => resource(&server, &user, &info, &parts, body).await,
        None => general(&server, &user, &parts),
    }
}

/// Paths that name no resource: probes, discovery, documents.
fn general(server: &Arc<Server>, user: &User, parts: &Parts) -> Response {
    let path = parts.uri.path();
    if let Err(why) = authz::path(user, path, &parts.method) {
        return answer::status(&Status::forbidden("", "", "", why));
    }
    let found = health::answer(server, parts)
        .or_else(|| discovery::answer(server, parts))
        .or_else(|| openapi::answer(server, parts));
    match found {
        Some(_) if !matches!(parts.method.as_str(), "GET" | "HEAD") => {
            answer::status(&Status::method_not_allowed_here())
        }
        Some(response) => response,
        None => answer::status(&Status::no_such_path()),
    }
}

async fn resource(
    server: &Arc<Server>,
    user: &User,
    info: &RequestInfo,
    parts: &Parts,
    body: Body,
) -> Response {
    let started = Instant::now();
    let query = Query::parse(parts.uri.query());
    let wants_watch = info.subresource.is_none() && query.flag("watch").unwrap_or(false);
    let Some(verb) = Verb::of(&parts.method, info.name.is_some(), wants_watch) else {
        return answer::status(&Status::method_not_allowed_here());
    };
    // Before anything is said about what exists.
    if let Err(why) = authz::resource(user, verb, info) {
        let name = info.name.as_deref().unwrap_or_default();
        return answer::status(&Status::forbidden(&info.group, &info.resource, name, why));
    }
    let Some(target) = server.served(&info.group, &info.version, &info.resource) else {
        return answer::status(&Status::no_such_path());
    };
    let Some(_permit) = permit(server, verb, info) else {
        server.metrics.rejected();
        let message = "too many requests, please try again later";
        return answer::status(&Status::too_many_requests(message, 1));
    };
    let response = call(server, &target, user, info, parts, body, query, verb);
    let response = answer::finish(response.await);
    server.metrics.answered(
        verb,
        &target.label,
        response.status().as_u16(),
        started.elapsed(),
    );
    response
}

/// A place among the requests that are worked on at a time. Watches and logs go on for hours and need none.
enum Permit<'s> {
    Endless,
    Counted(#[allow(dead_code, reason = "held until it is dropped")] SemaphorePermit<'s>),
}

fn permit<'s>(server: &'s Server, verb: Verb, info: &RequestInfo) -> Option<Permit<'s>> {
    if verb == Verb::Watch || info.subresource.as_deref() == Some("log") {
        return Some(Permit::Endless);
    }
    server.in_flight.try_acquire().ok().map(Permit::Counted)
}

#[allow(clippy::too_many_arguments, reason = "they become one here")]
async fn call(
    server: &Arc<Server>,
    target: &Arc<Served>,
    user: &User,
    info: &RequestInfo,
    parts: &Parts,
    body: Body,
    query: Query<'_>,
    verb: Verb,
) -> Answer {
    let resource = &*target.resource;
    let accepted = if info.subresource.as_deref() == Some("log") {
        // A log is text, whatever the client would rather have.
        Accepted {
            form: negotiation::Form::Object,
            encoding: negotiation::Encoding::Json,
        }
    } else {
        negotiation::objects(&parts.headers)
            .map_err(|_| Status::not_acceptable(&negotiation::PRODUCED))?
    };
    if resource.namespaced && info.namespace.is_none() && info.name.is_some()
        || !resource.namespaced && info.namespace.is_some()
    {
        return Err(Status::no_such_path());
    }
    let closing = parts
        .extensions
        .get::<Closing>()
        .map(|closing| closing.0.clone());
    let body_kind = BodyKind::of(&parts.headers);
    let mut call = Call {
        server,
        served: target,
        resource,
        user,
        parts,
        info,
        query,
        accepted,
        body_kind,
        body: Mutex::new(Some(body)),
        closing,
    };
    match info.subresource.as_deref() {
        None => main(&mut call, verb).await,
        Some(name) => subresource(&mut call, name, verb).await,
    }
}

async fn main(call: &mut Call<'_>, verb: Verb) -> Answer {
    let Some(served) = registry_verb(verb) else {
        return Err(call.method_not_allowed(verb));
    };
    if !call.resource.verbs.contains(&served) {
        return Err(call.method_not_allowed(verb));
    }
    if matches!(call.resource.storage, Storage::Nowhere) {
        return passing(call, verb).await;
    }
    match verb {
        Verb::Get => get::get(call).await,
        Verb::List => list::list(call).await,
        Verb::Watch => watch::watch(call).await,
        // An object has a name, a new one is sent to its collection.
        Verb::Create if call.info.name.is_some() => Err(call.method_not_allowed(verb)),
        Verb::Update | Verb::Patch if call.info.name.is_none() => {
            Err(call.method_not_allowed(verb))
        }
        Verb::Create => create::create(call).await,
        Verb::Update => update::update(call, vaquita_api::registry::Part::Main).await,
        Verb::Patch => patch::patch(call, vaquita_api::registry::Part::Main).await,
        Verb::Delete => delete::delete(call).await,
        Verb::DeleteCollection => collection_delete::delete_collection(call).await,
    }
}

/// What is created, answered and forgotten.
async fn passing(call: &mut Call<'_>, verb: Verb) -> Answer {
    match (call.resource.group.as_str(), call.resource.plural.as_str()) {
        ("", "bindings") => pod::bind_by_body(call).await,
        _ => Err(call.method_not_allowed(verb)),
    }
}

async fn subresource(call: &mut Call<'_>, name: &str, verb: Verb) -> Answer {
    use vaquita_api::registry::Part;
    let Some(subresource) = call.resource.subresource(name) else {
        return Err(Status::no_such_path());
    };
    if !call.info.rest.is_empty() {
        return Err(Status::no_such_path());
    }
    if !registry_verb(verb).is_some_and(|verb| subresource.verbs.contains(&verb)) {
        return Err(call.method_not_allowed(verb));
    }
    match (name, verb) {
        ("status", Verb::Get) => get::get(call).await,
        ("status", Verb::Update) => update::update(call, Part::Status).await,
        ("status", Verb::Patch) => patch::patch(call, Part::Status).await,
        ("approval", Verb::Get) => get::get(call).await,
        ("approval", Verb::Update) => update::update(call, Part::Approval).await,
        ("approval", Verb::Patch) => patch::patch(call, Part::Approval).await,
        ("finalize", Verb::Update) => update::update(call, Part::Finalize).await,
        ("scale", Verb::Get) => scale::get(call),
        ("scale", Verb::Update) => scale::update(call).await,
        ("scale", Verb::Patch) => scale::patch(call).await,
        ("binding", Verb::Create) => pod::bind(call).await,
        ("eviction", Verb::Create) => pod::evict(call).await,
        ("log", Verb::Get) => log::log(call).await,
        _ => Err(Status::no_such_path()),
    }
}

/// The verb as the registry names it.
fn registry_verb(verb: Verb) -> Option<vaquita_api::registry::Verb> {
    vaquita_api::registry::Verb::ALL
        .iter()
        .copied()
        .find(|own| own.as_str() == verb.as_str())
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

    fn method_not_allowed(&self, verb: Verb) -> Status {
        Status::method_not_allowed(&self.resource.group, &self.resource.plural, verb.as_str())
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
        let object = self.shape()?.object(self.resource, entry)?;
        Ok(answer::json(code, object, self.accepted.encoding))
    }

    /// The body, read to its end; once.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes, Status> {
        let limit = self.server.config.body_limit;
        let body = self
            .body
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_default();
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

    /// Checks that `object`, which came in the body, is the one that the path names.
    pub(crate) fn check_name(&self, object: &Object) -> Result<(), Status> {
        let name = vaquita_api::meta::name(object);
        if !name.is_empty() && name != self.name() {
            let message = format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name()
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

/// An answer whose handler panicked.
pub(crate) fn panicked() -> Response {
    answer::status(&Status::internal("the request handler failed")).into_response()
}
