//! The `OpenAPI` documents of whatever is served: version 3 with a document for each group and version, version 2 with one
//! for all, as JSON and in the protobuf form that Go clients ask for.
//!
//! Everything comes from the registry's resources: the paths from their verbs and subresources, the schemas from the types
//! themselves ([`vaquita_api::registry::Resource::describe`]) or from the definition of a custom resource, and what says
//! how lists merge (`x-kubernetes-*`) from the shape that merging itself walks along. So a document can't promise what the
//! server does not do.

mod definitions;
mod dialect;
mod operations;
mod protobuf;

use serde_json::{Map, Value, json};
use vaquita_api::registry::Resource;

use definitions::Definitions;
pub use protobuf::{MEDIA_TYPE_V2, MEDIA_TYPE_V2_ASKED, v2_protobuf};

/// The version 3 document of one group and version, whose resources these are. `version` is the server's: `v1.36.2`.
pub fn v3<'r>(resources: impl IntoIterator<Item = &'r Resource>, version: &str) -> Value {
    let resources: Vec<&Resource> = resources.into_iter().collect();
    let mut definitions = Definitions::of(&resources);
    let paths: Map<String, Value> = resources
        .iter()
        .flat_map(|resource| operations::paths(resource, &mut definitions))
        .map(|(path, item)| (path, dialect::v3_path(item)))
        .collect();
    let schemas: Map<String, Value> = definitions
        .finish()
        .into_iter()
        .map(|(name, schema)| (name, dialect::v3_schema(schema)))
        .collect();
    json!({
        "openapi": "3.0.0",
        "info": info(version),
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// The version 2 document of all resources.
pub fn v2<'r>(resources: impl IntoIterator<Item = &'r Resource>, version: &str) -> Value {
    let resources: Vec<&Resource> = resources.into_iter().collect();
    let mut definitions = Definitions::of(&resources);
    let paths: Map<String, Value> = resources
        .iter()
        .flat_map(|resource| operations::paths(resource, &mut definitions))
        .map(|(path, item)| (path, dialect::v2_path(item)))
        .collect();
    let schemas: Map<String, Value> = definitions
        .finish()
        .into_iter()
        .map(|(name, schema)| (name, dialect::v2_schema(schema)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": info(version),
        "paths": paths,
        "definitions": schemas,
    })
}

fn info(version: &str) -> Value {
    json!({"title": "Kubernetes", "version": version})
}

/// Where the documents of a group and version stand below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
pub fn base(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

#[cfg(test)]
mod tests;
