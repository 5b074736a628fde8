//! `flowcontrol.apiserver.k8s.io/v1`: which requests belong together, and how many of them may run at once.

mod flow_schema;
pub mod mandatory;
mod priority_level;
mod rules;

use serde::Serialize;
use serde_json::{Value, json};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::registry::Resource;

pub(super) fn resources() -> [Resource; 2] {
    [flow_schema::resource(), priority_level::resource()]
}

/// The types of a status's conditions: there, and each once.
fn validate_condition_types<'c>(types: impl Iterator<Item = Option<&'c str>>, errors: &mut Errors) {
    let path = Path::root("status");
    let path = path.child("conditions");
    let mut seen = std::collections::HashSet::new();
    for (at, ty) in types.enumerate() {
        let ty = ty.unwrap_or_default();
        let path = path.index(at);
        let path = path.child("type");
        if !seen.insert(ty) {
            errors.push(FieldError::duplicate(&path, ty));
        }
        if ty.is_empty() {
            errors.push(FieldError::required(&path, "must not be empty"));
        }
    }
}

/// Whether two specifications say the same, as JSON without its empty values.
fn same(one: &impl Serialize, other: &Value) -> bool {
    fn bare(value: Value) -> Value {
        match value {
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| (key, bare(value)))
                .filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false)))
                .filter(|(_, value)| value != &json!([]) && value != &json!({}))
                .collect(),
            Value::Array(items) => items.into_iter().map(bare).collect(),
            other => other,
        }
    }
    bare(json!(one)) == bare(other.clone())
}
