//! `OpenAPI`: the paths that are served and the parameters that they take.
//!
//! `kubectl` looks here before it writes: where the PATCH operation of a kind takes `fieldValidation` and `dryRun`, it
//! leaves validation to the server. The documents say what is true of each path and no more: there are no schemas of
//! the kinds in them yet, so bodies are plain objects. Version 3 has a document for each group and version; version 2
//! has one for all.

use std::{collections::BTreeMap, sync::Arc};

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use vaquita_api::{
    patch::PatchType,
    registry::{Registry, Resource, Verb},
    status::Status,
};

use super::{Server, answer, health::KUBERNETES};
use crate::negotiation::{self, Encoding};

/// All documents, as JSON.
pub(crate) struct Documents {
    /// `/openapi/v3`
    index: Bytes,
    /// By `api/v1` or `apis/{group}/{version}`.
    v3: BTreeMap<String, Bytes>,
    v2: Bytes,
}

/// The answer, if the path is one of these.
pub(crate) fn answer(server: &Arc<Server>, parts: &Parts) -> Option<Response> {
    let path = parts.uri.path().trim_end_matches('/');
    let rest = path.strip_prefix("/openapi/")?;
    let documents = server
        .openapi
        .get_or_init(|| Documents::new(&server.registry()));
    let document = match rest.split_once('/') {
        None if rest == "v2" => &documents.v2,
        None if rest == "v3" => &documents.index,
        Some(("v3", version)) => documents.v3.get(version)?,
        _ => return None,
    };
    Some(match negotiation::objects(&parts.headers) {
        Ok(accepted) if accepted.encoding == Encoding::Json => {
            let mut response = answer::json(StatusCode::OK, document.clone(), Encoding::Json);
            // The addresses in the index carry a digest, so what is behind them never changes.
            if parts
                .uri
                .query()
                .is_some_and(|query| query.contains("hash="))
            {
                let value = HeaderValue::from_static("public, immutable");
                response.headers_mut().insert(header::CACHE_CONTROL, value);
            }
            response
        }
        _ => answer::status(&Status::not_acceptable(&["application/json"])),
    })
}

impl Documents {
    fn new(registry: &Registry) -> Self {
        let mut v3 = BTreeMap::new();
        let mut index = Map::new();
        let mut all = Map::new();
        for (group, versions) in registry.groups() {
            for version in versions {
                let base = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                let resources = || {
                    registry
                        .iter()
                        .filter(|own| own.group == group && own.version == version)
                };
                let paths: Map<String, Value> = resources()
                    .flat_map(|own| paths(&base, own, Dialect::V3))
                    .collect();
                all.extend(resources().flat_map(|own| self::paths(&base, own, Dialect::V2)));
                let document: Bytes =
                    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": {}}})
                        .to_string()
                        .into();
                let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&document));
                index.insert(
                    base.clone(),
                    json!({"serverRelativeURL": format!("/openapi/v3/{base}?hash={digest}")}),
                );
                v3.insert(base, document);
            }
        }
        let v2 = json!({"swagger": "2.0", "info": info(), "paths": all, "definitions": {}});
        Self {
            index: json!({"paths": index}).to_string().into(),
            v3,
            v2: v2.to_string().into(),
        }
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": KUBERNETES.2})
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

/// A kind, as the extension `x-kubernetes-group-version-kind` names it.
#[derive(Clone, Copy)]
struct Gvk<'r> {
    group: &'r str,
    version: &'r str,
    kind: &'r str,
}

/// A path and what can be done there.
struct Place<'r> {
    path: String,
    verbs: Vec<Verb>,
    kind: Gvk<'r>,
}

/// The paths of a resource with their operations.
fn paths(base: &str, resource: &Resource, dialect: Dialect) -> Vec<(String, Value)> {
    places(base, resource)
        .into_iter()
        .map(|place| (place.path.clone(), item(&place, dialect)))
        .collect()
}

fn places<'r>(base: &str, resource: &'r Resource) -> Vec<Place<'r>> {
    const OF_COLLECTION: [Verb; 3] = [Verb::List, Verb::Create, Verb::DeleteCollection];
    const OF_OBJECT: [Verb; 4] = [Verb::Get, Verb::Update, Verb::Patch, Verb::Delete];
    let kind = Gvk {
        group: &resource.group,
        version: &resource.version,
        kind: &resource.kind,
    };
    let place = |path: &str, verbs: &[Verb]| {
        let mut verbs = verbs.to_vec();
        verbs.retain(|verb| resource.verbs.contains(verb));
        Place {
            path: path.to_owned(),
            verbs,
            kind,
        }
    };
    let everywhere = format!("/{base}/{}", resource.plural);
    let within = format!("/{base}/namespaces/{{namespace}}/{}", resource.plural);
    let mut places = Vec::new();
    let collection = if resource.namespaced {
        places.push(place(&everywhere, &[Verb::List]));
        within
    } else {
        everywhere
    };
    let object = format!("{collection}/{{name}}");
    places.push(place(&collection, &OF_COLLECTION));
    places.push(place(&object, &OF_OBJECT));
    places.extend(resource.subresources.iter().map(|subresource| Place {
        path: format!("{object}/{}", subresource.name),
        verbs: subresource.verbs.clone(),
        kind: Gvk {
            group: &subresource.group,
            version: &subresource.version,
            kind: &subresource.kind,
        },
    }));
    places
}

fn item(place: &Place<'_>, dialect: Dialect) -> Value {
    let mut item = Map::new();
    for verb in &place.verbs {
        let method = match verb {
            Verb::Get | Verb::List | Verb::Watch => "get",
            Verb::Create => "post",
            Verb::Update => "put",
            Verb::Patch => "patch",
            Verb::Delete | Verb::DeleteCollection => "delete",
        };
        item.insert(method.to_owned(), operation(place, *verb, dialect));
    }
    let parameters: Vec<Value> = ["name", "namespace"]
        .into_iter()
        .filter(|name| place.path.contains(&format!("{{{name}}}")))
        .map(|name| parameter(name, "path", "string", dialect))
        .collect();
    item.insert("parameters".to_owned(), parameters.into());
    item.into()
}

fn operation(place: &Place<'_>, verb: Verb, dialect: Dialect) -> Value {
    let mut parameters: Vec<Value> = query_of(verb)
        .iter()
        .map(|(name, kind)| parameter(name, "query", kind, dialect))
        .collect();
    let action = match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    };
    let Gvk {
        group,
        version,
        kind,
    } = place.kind;
    let mut operation = json!({
        "operationId": operation_id(action, &place.path),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let bodies = bodies_of(verb);
    let any = json!({"type": "object"});
    let code = if verb == Verb::Create { "201" } else { "200" };
    match dialect {
        Dialect::V3 => {
            if !bodies.is_empty() {
                let content: Map<String, Value> = bodies
                    .iter()
                    .map(|kind| ((*kind).to_owned(), json!({"schema": any})))
                    .collect();
                operation["requestBody"] = json!({"required": true, "content": content});
            }
            let content = json!({"application/json": {"schema": any}});
            operation["responses"] = json!({code: {"description": "OK", "content": content}});
        }
        Dialect::V2 => {
            if !bodies.is_empty() {
                parameters
                    .push(json!({"name": "body", "in": "body", "required": true, "schema": any}));
                operation["consumes"] = json!(bodies);
            }
            operation["produces"] = json!(negotiation::PRODUCED);
            operation["responses"] = json!({code: {"description": "OK", "schema": any}});
        }
    }
    operation["parameters"] = parameters.into();
    operation
}

/// The parameters of the query, each with its type.
fn query_of(verb: Verb) -> &'static [(&'static str, &'static str)] {
    match verb {
        Verb::Get => &[],
        Verb::List | Verb::Watch => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        Verb::Create | Verb::Update | Verb::Patch => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
        ],
        Verb::Delete | Verb::DeleteCollection => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
    }
}

/// The media types that a body may be written in.
fn bodies_of(verb: Verb) -> &'static [&'static str] {
    match verb {
        Verb::Patch => &PatchType::MEDIA_TYPES,
        Verb::Create | Verb::Update => &negotiation::CONSUMED,
        _ => &[],
    }
}

fn operation_id(action: &str, path: &str) -> String {
    let mut id = action.to_owned();
    for word in path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
    {
        id.push_str(&word[..1].to_ascii_uppercase());
        id.push_str(&word[1..]);
    }
    id
}

fn parameter(name: &str, place: &str, kind: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => parameter["type"] = kind.into(),
        Dialect::V3 => parameter["schema"] = json!({"type": kind}),
    }
    parameter
}
