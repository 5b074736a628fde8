//! `OpenAPI`: what `vaquita-openapi` says about what is served now.
//!
//! `kubectl` looks here before it writes (does the server validate fields?), when it explains a kind, and when it validates by
//! itself. Documents are made when somebody asks for them, and kept until what they describe is served in another way: a
//! new custom resource costs the documents of its own group and version.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::response::{IntoResponse as _, Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use vaquita_api::{
    registry::{Registry, Resource},
    status::Status,
};

use vaquita_openapi::{MEDIA_TYPE_V2, MEDIA_TYPE_V2_ASKED};

use super::{Server, answer, health::KUBERNETES};
use crate::{
    negotiation::{self, Encoding},
    query::Query,
};

const JSON: &str = "application/json";

/// The answer, if the path is one of these.
pub(crate) fn answer(server: &Arc<Server>, parts: &Parts) -> Option<Response> {
    let path = parts.uri.path().trim_end_matches('/');
    let rest = path.strip_prefix("/openapi/")?;
    let registry = server.registry();
    let documents = &server.openapi;
    let headers = &parts.headers;
    Some(match rest.split_once('/') {
        None if rest == "v2" => version_2(documents, &registry, headers),
        None if rest == "v3" && !accepts_json(headers) => {
            answer::status(&Status::not_acceptable(&[JSON]))
        }
        None if rest == "v3" => {
            answer::json(StatusCode::OK, documents.index(&registry), Encoding::Json)
        }
        Some(("v3", base)) => {
            let document = documents.v3(&registry, base)?;
            version_3(&document, base, parts)
        }
        _ => return None,
    })
}

fn accepts_json(headers: &HeaderMap) -> bool {
    negotiation::objects(headers).is_ok_and(|accepted| accepted.encoding == Encoding::Json)
}

fn version_2(documents: &Documents, registry: &Arc<Registry>, headers: &HeaderMap) -> Response {
    const KINDS: [&str; 3] = [JSON, MEDIA_TYPE_V2_ASKED, MEDIA_TYPE_V2];
    let kind = match negotiation::prefers(headers, &KINDS) {
        Some(JSON) => JSON,
        Some(_) => MEDIA_TYPE_V2,
        None => return answer::status(&Status::not_acceptable(&KINDS)),
    };
    let document = documents.v2(registry, kind != JSON);
    whole(&document, kind, headers)
}

fn version_3(document: &Document, base: &str, parts: &Parts) -> Response {
    if !accepts_json(&parts.headers) {
        return answer::status(&Status::not_acceptable(&[JSON]));
    }
    let Some(digest) = Query::parse(parts.uri.query())
        .get("hash")
        .map(str::to_owned)
    else {
        return whole(document, JSON, &parts.headers);
    };
    if digest != document.digest {
        let now = format!("/openapi/v3/{base}?hash={}", document.digest);
        let Ok(location) = HeaderValue::from_str(&now) else {
            return whole(document, JSON, &parts.headers);
        };
        return (
            StatusCode::MOVED_PERMANENTLY,
            [(header::LOCATION, location)],
        )
            .into_response();
    }
    // The address carries the digest, so what is behind it never changes.
    let mut response = whole(document, JSON, &parts.headers);
    let value = HeaderValue::from_static("public, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

/// A document with its tag; or only the word that the client has it already.
fn whole(document: &Document, kind: &'static str, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", document.digest);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == tag.as_str());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = answer::json(StatusCode::OK, document.bytes.clone(), Encoding::Json);
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A document as it is sent.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    /// Of the bytes, for addresses and tags.
    digest: String,
}

impl Document {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&bytes));
        Self { bytes, digest }
    }
}

/// The documents that have been asked for.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Made>);

#[derive(Default)]
struct Made {
    /// What the documents below describe.
    registry: Option<Arc<Registry>>,
    v2: Option<Document>,
    v2_protobuf: Option<Document>,
    index: Option<Bytes>,
    /// By `api/v1` or `apis/{group}/{version}`, each with the resources that it describes.
    v3: BTreeMap<String, (Vec<Arc<Resource>>, Document)>,
}

impl Documents {
    fn with<T>(&self, registry: &Arc<Registry>, work: impl FnOnce(&mut Made) -> T) -> T {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = made
            .registry
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, registry));
        if !same {
            made.serve(registry);
        }
        work(&mut made)
    }

    fn v2(&self, registry: &Arc<Registry>, protobuf: bool) -> Document {
        self.with(registry, |made| {
            let Made {
                v2, v2_protobuf, ..
            } = made;
            let slot = if protobuf { v2_protobuf } else { v2 };
            let make = || {
                let value = vaquita_openapi::v2(registry.iter().map(AsRef::as_ref), KUBERNETES.2);
                if protobuf {
                    Document::new(vaquita_openapi::v2_protobuf(&value))
                } else {
                    Document::new(value.to_string())
                }
            };
            slot.get_or_insert_with(make).clone()
        })
    }

    fn v3(&self, registry: &Arc<Registry>, base: &str) -> Option<Document> {
        self.with(registry, |made| {
            let (group, version) = places(registry)
                .find(|(group, version)| vaquita_openapi::base(group, version) == base)?;
            Some(made.document(registry, group, version))
        })
    }

    /// Where each document is.
    fn index(&self, registry: &Arc<Registry>) -> Bytes {
        self.with(registry, |made| {
            if let Some(index) = &made.index {
                return index.clone();
            }
            let paths: Map<String, Value> = places(registry)
                .map(|(group, version)| {
                    let base = vaquita_openapi::base(group, version);
                    let digest = made.document(registry, group, version).digest;
                    let url = format!("/openapi/v3/{base}?hash={digest}");
                    (base, json!({"serverRelativeURL": url}))
                })
                .collect();
            let index = Bytes::from(json!({"paths": paths}).to_string());
            made.index.insert(index).clone()
        })
    }
}

/// Each group and version.
fn places(registry: &Registry) -> impl Iterator<Item = (&str, &str)> {
    let groups = registry.groups().into_iter();
    groups.flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)))
}

fn resources_of(registry: &Registry, group: &str, version: &str) -> Vec<Arc<Resource>> {
    let own = |resource: &&Arc<Resource>| resource.group == group && resource.version == version;
    registry.iter().filter(own).cloned().collect()
}

impl Made {
    /// Forgets whatever is different in `registry`.
    fn serve(&mut self, registry: &Arc<Registry>) {
        (self.v2, self.v2_protobuf, self.index) = (None, None, None);
        self.v3.retain(|_, (described, _)| {
            let Some(one) = described.first() else {
                return false;
            };
            let now = resources_of(registry, &one.group, &one.version);
            now.len() == described.len()
                && now.iter().zip(&*described).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        self.registry = Some(registry.clone());
    }

    fn document(&mut self, registry: &Registry, group: &str, version: &str) -> Document {
        let base = vaquita_openapi::base(group, version);
        let (_, document) = self.v3.entry(base).or_insert_with(|| {
            let resources = resources_of(registry, group, version);
            let value = vaquita_openapi::v3(resources.iter().map(AsRef::as_ref), KUBERNETES.2);
            (resources, Document::new(value.to_string()))
        });
        document.clone()
    }
}
