//! The object model: resource registry, metadata, selectors, patches, defaults, validation and Status.
//!
//! Nothing here does I/O. The working representation of an object is its JSON, [`Object`]; each kind's rules read it
//! through the types of `k8s-openapi`. Enter at [`registry::Registry`]: it holds a [`registry::Resource`] for each kind that
//! is served, and a request's way through the object model is the order of that type's methods. The kinds themselves live
//! in crates of their own, one for each family.

pub mod apply;
pub mod body;
pub mod continuation;
pub mod field;
pub mod go;
pub mod meta;
pub mod names;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validate;

/// An API object, or any part of one, as JSON.
pub type Object = serde_json::Map<String, serde_json::Value>;
