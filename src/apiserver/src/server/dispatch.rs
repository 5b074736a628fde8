//! The way of a request: who asks, for what, may they, and which handler answers.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{Method, Request, request::Parts};
use tokio::sync::SemaphorePermit;
use vaquita_api::{
    registry::{Part, Storage},
    status::Status,
};

use super::{
    Server,
    admission::Admission,
    answer::{self, Answer},
    call::Call,
    catalog::Served,
    collection_delete, compress, connect, create, delete, discovery, eviction, get, health, list,
    log, openapi, patch, pod, protobuf, resource_metrics, reviews, scale, token, update, watch,
};
use crate::{
    authn::{User, impersonate::impersonate},
    authz,
    negotiation::{self, Accepted, BodyKind},
    query::Query,
    request::{self, RequestInfo, Verb},
    serve::Closing,
};

/// Answers a request.
pub(crate) async fn dispatch(server: Arc<Server>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(user) = server.authenticate(&parts) else {
        return answer::status(&Status::unauthorized());
    };
    let user = match impersonate(&server, user, &parts.headers) {
        Ok(user) => user,
        Err(status) => return answer::status(&status),
    };
    if parts.uri.path().len() > request::MAX_PATH {
        return answer::status(&Status::uri_too_long());
    }
    match RequestInfo::parse(parts.uri.path()) {
        Some(info) => resource(&server, &user, &info, &parts, body).await,
        None => general(&server, &user, &parts),
    }
}

/// Paths that name no resource: probes, discovery, documents.
fn general(server: &Arc<Server>, user: &User, parts: &Parts) -> Response {
    let path = parts.uri.path();
    if let Err(status) = authz::path(server, user, path, &parts.method) {
        return answer::status(&status);
    }
    let found = health::answer(server, parts)
        .or_else(|| token::documents(server, parts))
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
    let lists = parts.method == Method::GET && info.name.is_none();
    let watch = info.watch || lists && query.flag("watch").unwrap_or(false);
    let verb = Verb::of(&parts.method, info.name.is_some(), watch)
        .or_else(|| connect::verb(&parts.method, info));
    let Some(verb) = verb else {
        return answer::status(&Status::method_not_allowed_here());
    };
    // Before anything is said about what exists.
    let creates = connect::needs_create(&parts.method, &parts.headers, info);
    let allowed = authz::resource(server, user, verb, info, &query).and_then(|()| {
        if creates {
            authz::resource(server, user, Verb::Create, info, &query)
        } else {
            Ok(())
        }
    });
    if let Err(status) = allowed {
        return answer::status(&status);
    }
    let Some(served) = server.served(&info.group, &info.version, &info.resource) else {
        return answer::status(&Status::no_such_path());
    };
    let Some(_permit) = permit(server, verb, info) else {
        server.metrics.rejected();
        let message = "Too many requests, please try again later.";
        return answer::status(&Status::too_many_requests(message, 1));
    };
    let accepted = match accepted(&served, info, parts) {
        Ok(accepted) => accepted,
        Err(status) => return answer::status(&status),
    };
    let closing = parts.extensions.get::<Closing>();
    let mut call = Call {
        server,
        served: &served,
        resource: &served.resource,
        user,
        parts,
        info,
        query,
        accepted,
        body_kind: BodyKind::of(&parts.headers),
        body: Mutex::new(Some(body)),
        warnings: Mutex::default(),
        closing: closing.map(|closing| closing.0.clone()),
    };
    if let Some(warning) = served.resource.rules.deprecation() {
        call.warn(warning);
    }
    let mut response = answer::finish(route(&mut call, verb).await, accepted.encoding);
    answer::warn(&mut response, call.take_warnings());
    if matches!(verb, Verb::Get | Verb::List) && negotiation::accepts_gzip(&parts.headers) {
        response = compress::compress(response);
    }
    let (code, took) = (response.status().as_u16(), started.elapsed());
    server.metrics.answered(verb, &served.label, code, took);
    response
}

/// Subresources whose answer is a stream of their own, which goes on for as long as both sides like.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

fn is_stream(info: &RequestInfo) -> bool {
    let name = info.subresource.as_deref();
    name.is_some_and(|name| STREAMS.contains(&name))
}

/// The form of the answer. A stream has its own, whatever the client would rather have.
fn accepted(served: &Served, info: &RequestInfo, parts: &Parts) -> Result<Accepted, Status> {
    if is_stream(info) {
        return Ok(Accepted::PLAIN);
    }
    let headers = &parts.headers;
    let (accepted, produced) = if protobuf::is_spoken(&served.resource) {
        let accepted = negotiation::objects_or_protobuf(headers);
        (accepted, &negotiation::PRODUCED[..])
    } else {
        (negotiation::objects(headers), &negotiation::PRODUCED[..2])
    };
    accepted.map_err(|_| Status::not_acceptable(produced))
}

/// A place among the requests that are worked on at a time. Watches and streams go on for hours and need none.
enum Permit<'s> {
    Endless,
    Counted(#[allow(dead_code, reason = "held until it is dropped")] SemaphorePermit<'s>),
}

fn permit<'s>(server: &'s Server, verb: Verb, info: &RequestInfo) -> Option<Permit<'s>> {
    if verb == Verb::Watch || is_stream(info) {
        return Some(Permit::Endless);
    }
    let places = if matches!(verb, Verb::Get | Verb::List) {
        &server.reading
    } else {
        &server.writing
    };
    places.try_acquire().ok().map(Permit::Counted)
}

async fn route(call: &mut Call<'_>, verb: Verb) -> Answer {
    let (namespaced, info) = (call.resource.namespaced, call.info);
    if namespaced && info.namespace.is_none() && info.name.is_some()
        || !namespaced && info.namespace.is_some()
    {
        return Err(Status::no_such_path());
    }
    match call.info.subresource.as_deref() {
        None => main(call, verb).await,
        Some(name) => subresource(call, name, verb).await,
    }
}

async fn main(call: &mut Call<'_>, verb: Verb) -> Answer {
    if !call.resource.verbs.contains(&verb.registered()) {
        return Err(Status::method_not_allowed_here());
    }
    if matches!(call.resource.storage, Storage::Nowhere) {
        return passing(call).await;
    }
    let named = call.info.name.is_some();
    let everywhere = call.resource.namespaced && call.info.namespace.is_none();
    match verb {
        Verb::Get => get::get(call).await,
        Verb::List => list::list(call).await,
        Verb::Watch => watch::watch(call).await,
        // An object has a name, a new one is sent to its collection.
        Verb::Create if named => Err(Status::method_not_allowed_here()),
        Verb::Update | Verb::Patch if !named => Err(Status::method_not_allowed_here()),
        // Across namespaces there is only reading.
        Verb::Create | Verb::DeleteCollection if everywhere => {
            Err(Status::method_not_allowed_here())
        }
        Verb::Create => create::create(call).await,
        Verb::Update => update::update(call, Part::Main).await,
        Verb::Patch => patch::patch(call, Part::Main).await,
        Verb::Delete => delete::delete(call).await,
        Verb::DeleteCollection => collection_delete::delete_collection(call).await,
    }
}

/// What is answered without being stored.
async fn passing(call: &mut Call<'_>) -> Answer {
    match (call.resource.group.as_str(), call.resource.plural.as_str()) {
        ("", "bindings") => pod::bind_by_body(call).await,
        ("authentication.k8s.io" | "authorization.k8s.io", _) => reviews::create(call).await,
        (resource_metrics::GROUP, _) => resource_metrics::read(call).await,
        _ => Err(Status::no_such_path()),
    }
}

async fn subresource(call: &mut Call<'_>, name: &str, verb: Verb) -> Answer {
    let Some(subresource) = call.resource.subresource(name) else {
        return Err(Status::no_such_path());
    };
    if !call.info.rest.is_empty() && name != "proxy" {
        return Err(Status::no_such_path());
    }
    if !subresource.verbs.contains(&verb.registered()) {
        return Err(Status::method_not_allowed_here());
    }
    match (name, verb) {
        ("log", Verb::Get) => log::log(call).await,
        ("token", Verb::Create) => token::create(call).await,
        _ if connect::is_connection(call.info) => {
            Admission::connection(call).ask(call).await?;
            connect::connect(call, name).await
        }
        ("binding", Verb::Create) => pod::bind(call).await,
        ("eviction", Verb::Create) => eviction::evict(call).await,
        ("scale", Verb::Get) => scale::get(call),
        ("scale", Verb::Update) => scale::update(call).await,
        ("scale", Verb::Patch) => scale::patch(call).await,
        _ => {
            let Some(part) = part(name) else {
                return Err(Status::no_such_path());
            };
            match verb {
                Verb::Get => get::get(call).await,
                Verb::Update => update::update(call, part).await,
                Verb::Patch => patch::patch(call, part).await,
                _ => Err(Status::method_not_allowed_here()),
            }
        }
    }
}

/// The part of an object that a subresource is.
fn part(subresource: &str) -> Option<Part> {
    Some(match subresource {
        "status" => Part::Status,
        "finalize" => Part::Finalize,
        "approval" => Part::Approval,
        "ephemeralcontainers" => Part::EphemeralContainers,
        "resize" => Part::Resize,
        _ => return None,
    })
}

/// An answer whose handler panicked.
pub(crate) fn panicked() -> Response {
    answer::status(&Status::internal("the request handler failed")).into_response()
}
