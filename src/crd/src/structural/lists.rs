//! The promise of `x-kubernetes-list-type`: the items of a set are unique, and so are the keys of a map.

use std::collections::HashMap;

use serde_json::{Map, Value};
use vaquita_api::field::{Errors, FieldError, Path};

use super::{Additional, ListType, Node};

/// Finds items that occur twice, anywhere in `value`.
pub fn validate(node: &Node, value: &Value, at: Option<&Path<'_>>, errors: &mut Errors) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(property) = node.properties.get(name) {
                    validate(property, value, Some(&Path::below(at, name)), errors);
                } else if let (Some(Additional::Of(property)), Some(at)) = (&node.additional, at) {
                    validate(property, value, Some(&at.key(name)), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(at) = at else {
                return;
            };
            list(&node.list, items, at, errors);
            if let Some(item) = &node.items {
                for (index, value) in items.iter().enumerate() {
                    validate(item, value, Some(&at.index(index)), errors);
                }
            }
        }
        _ => {}
    }
}

fn list(ty: &ListType, items: &[Value], at: &Path<'_>, errors: &mut Errors) {
    match ty {
        ListType::Atomic => {}
        ListType::Set => {
            for index in repeated(items.iter().map(canonical)) {
                errors.push(FieldError::duplicate(
                    &at.index(index),
                    items.get(index).cloned().unwrap_or_default(),
                ));
            }
        }
        ListType::Map(keys) => {
            let other = |item: &Value| !item.is_object() && !item.is_null();
            if let Some(index) = items.iter().position(other) {
                const DETAIL: &str = "must be an object for an array of list-type map";
                errors.push(FieldError::invalid(
                    &at.index(index),
                    items.get(index).cloned().unwrap_or_default(),
                    DETAIL,
                ));
                return;
            }
            let found: Vec<Value> = items.iter().map(|item| key(item, keys)).collect();
            for index in repeated(found.iter().map(canonical)) {
                errors.push(FieldError::duplicate(
                    &at.index(index),
                    found.get(index).cloned().unwrap_or_default(),
                ));
            }
        }
    }
}

/// The fields of an item that tell it apart.
pub(crate) fn key(item: &Value, keys: &[String]) -> Value {
    let pairs = keys
        .iter()
        .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// A value as text that is the same for equal values. The maps of `serde_json` are sorted.
pub(crate) fn canonical(value: &Value) -> String {
    value.to_string()
}

/// The places at which something comes for the second time.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut second = Vec::new();
    for (index, text) in texts.enumerate() {
        let times = seen.entry(text).or_default();
        *times = times.saturating_add(1);
        if *times == 2 {
            second.push(index);
        }
    }
    second
}
