//! Dropping what a schema does not know.

use serde_json::Value;
use vaquita_api::field::Path;

use super::{Additional, Node};

/// How many unknown fields are told apart; what comes after is dropped without being listed.
const LISTED: usize = 100;

/// The fields that every resource has, also one that is embedded into another.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Node {
    /// Drops the fields of a resource that the schema does not know, and gives their paths. `apiVersion`, `kind` and
    /// `metadata` are there in every resource, whatever the schema says.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(self, object, true, None, &mut unknown);
        unknown
    }

    /// Drops the fields of a part of an object.
    pub(crate) fn prune_part(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune(self, value, self.embedded, None, &mut unknown);
        unknown
    }
}

fn prune(
    node: &Node,
    value: &mut Value,
    is_resource: bool,
    at: Option<&Path<'_>>,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            if is_resource && META.contains(&name.as_str()) {
                return true;
            }
            let path = Path::below(at, name);
            match (node.property(name), &node.additional) {
                (Some(property), _) => {
                    prune(property, value, property.embedded, Some(&path), unknown);
                    true
                }
                (None, Some(Additional::Any)) => true,
                _ if node.preserve => true,
                _ => {
                    if unknown.len() < LISTED {
                        unknown.push(path.to_string());
                    }
                    false
                }
            }
        }),
        Value::Array(items) => {
            let Some(item) = &node.items else {
                return;
            };
            for (index, value) in items.iter_mut().enumerate() {
                let path = at.map(|at| at.index(index));
                prune(item, value, item.embedded, path.as_ref(), unknown);
            }
        }
        _ => {}
    }
}
