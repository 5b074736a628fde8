//! Objects, lists and watches in protobuf, which clients written in Go prefer.
//!
//! Objects are kept as JSON; their messages are made when somebody asks. Those of single objects and of a watch's events
//! are kept with their entries, since many ask for the same ones; those of lists are not, or a long list would double
//! what the cache holds.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value};
use vaquita_api::{
    protobuf::{self, ListMeta},
    registry::Resource,
    schema::Schema,
    table,
};

use super::present::{Shape, object, partial_version};
use crate::negotiation::Form;
use vaquita_cache::entry::Entry;

/// Whether objects of this kind have a form in protobuf: all that are built in do.
pub(super) fn is_spoken(resource: &Resource) -> bool {
    resource.rules.open_api().is_none()
}

/// An object's type and message.
struct Message {
    api_version: String,
    kind: String,
    bytes: Bytes,
}

impl Message {
    /// The message of an entry in `shape`; `keep` says whether others will want it too.
    fn of(shape: Shape, resource: &Resource, entry: &Entry, keep: bool) -> Self {
        let api_version = resource.api_version();
        if let Form::Metadata { beta } = shape.form() {
            let partial = object(entry).map(|object| table::partial(&object));
            let version = partial_version(beta);
            let bytes = match partial {
                Ok(Value::Object(partial)) => {
                    protobuf::message(&partial, protobuf::partial_metadata(), version)
                }
                _ => Vec::new(),
            };
            return Self {
                api_version: version.to_owned(),
                kind: "PartialObjectMetadata".to_owned(),
                bytes: bytes.into(),
            };
        }
        let make = || {
            let object = object(entry).unwrap_or_default();
            protobuf::message(&object, resource.schema(), &api_version).into()
        };
        let bytes = match entry.message() {
            Some(bytes) => bytes.clone(),
            None if keep => entry.keep_message(make),
            None => make(),
        };
        Self {
            bytes,
            kind: resource.kind.clone(),
            api_version,
        }
    }

    fn envelope(&self) -> Vec<u8> {
        protobuf::envelope(&self.api_version, &self.kind, &self.bytes)
    }
}

/// One object.
pub(super) fn one(shape: Shape, resource: &Resource, entry: &Entry) -> Bytes {
    Message::of(shape, resource, entry, true).envelope().into()
}

/// A list, with the metadata that it would have in JSON.
pub(super) fn list<'e>(
    shape: Shape,
    resource: &Resource,
    metadata: &Map<String, Value>,
    entries: impl Iterator<Item = &'e Entry>,
) -> Bytes {
    let text = |field| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let meta = ListMeta {
        resource_version: text("resourceVersion"),
        continue_token: text("continue"),
        remaining: metadata.get("remainingItemCount").and_then(Value::as_i64),
    };
    let messages: Vec<Bytes> = entries
        .map(|entry| Message::of(shape, resource, entry, false).bytes)
        .collect();
    let messages = messages.iter().map(AsRef::as_ref);
    match shape.form() {
        Form::Metadata { beta } => {
            let kind = "PartialObjectMetadataList";
            protobuf::list(partial_version(beta), kind, meta, messages).into()
        }
        Form::Object | Form::Table { .. } => {
            let version = resource.api_version();
            protobuf::list(&version, &resource.list_kind, meta, messages).into()
        }
    }
}

/// An event of a watch; `kind` is such as `ADDED`.
pub(super) fn event(shape: Shape, resource: &Resource, kind: &str, entry: &Entry) -> Vec<u8> {
    protobuf::event(kind, &Message::of(shape, resource, entry, true).envelope())
}

/// An event whose object is all metadata, such as a bookmark.
pub(super) fn bookmark(object: &Value) -> Vec<u8> {
    static METADATA: LazyLock<&Schema> = LazyLock::new(protobuf::partial_metadata);
    let none = Map::new();
    let object = object.as_object().unwrap_or(&none);
    let text = |field| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    // Every kind has its metadata in the same place, so a message that has nothing else is one of any kind.
    let message = protobuf::message(object, &METADATA, "meta.k8s.io/v1");
    let envelope = protobuf::envelope(text("apiVersion"), text("kind"), &message);
    protobuf::event("BOOKMARK", &envelope)
}
