//! Filling in what was left out.

use serde_json::Value;

use super::{Additional, Node};

/// How much defaults may add to one object, in bytes of JSON: a small list of empty items and a large default make a
/// large object.
const LIMIT: usize = 8 << 20;

/// Defaults would make an object larger than any object may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the defaults of the schema make the object larger than {LIMIT} bytes")]
pub struct TooLarge;

impl Node {
    /// Drops each `null` for which the schema has no room: it is as good as absent, and a default may take its place.
    pub fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.retain(|name, value| {
                let Some(property) = self.property(name) else {
                    return true;
                };
                property.drop_nulls(value);
                !value.is_null() || property.nullable || property.takes_anything()
            }),
            Value::Array(items) => {
                if let Some(item) = &self.items {
                    for value in items {
                        item.drop_nulls(value);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether nothing at all is said about the type.
    fn takes_anything(&self) -> bool {
        self.ty.is_none() && self.preserve && !self.int_or_string
    }

    /// Fills defaults in. When they would add too much, some are missing.
    pub fn fill_defaults(&self, value: &mut Value) -> Result<(), TooLarge> {
        let mut left = LIMIT;
        fill(self, value, &mut left)
    }
}

fn fill(node: &Node, value: &mut Value, left: &mut usize) -> Result<(), TooLarge> {
    if !node.has_defaults() {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            for (name, property) in &node.properties {
                let absent = map
                    .get(name)
                    .is_none_or(|value| value.is_null() && !property.nullable);
                let Some(default) = property.default.as_ref().filter(|_| absent) else {
                    continue;
                };
                *left = left
                    .checked_sub(name.len() + size(default))
                    .ok_or(TooLarge)?;
                map.insert(name.clone(), default.clone());
            }
            for (name, value) in map.iter_mut() {
                if let Some(property) = node.property(name) {
                    fill_null(node, property, value, left)?;
                    fill(property, value, left)?;
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                for value in items {
                    fill_null(node, item, value, left)?;
                    fill(item, value, left)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// The default of additional properties and of items stands for a `null` only: there is no name to add one under.
fn fill_null(
    parent: &Node,
    node: &Node,
    value: &mut Value,
    left: &mut usize,
) -> Result<(), TooLarge> {
    let nameless = parent.items.is_some() || matches!(parent.additional, Some(Additional::Of(_)));
    if let Some(default) = node
        .default
        .as_ref()
        .filter(|_| nameless && value.is_null() && !node.nullable)
    {
        *left = left.checked_sub(size(default)).ok_or(TooLarge)?;
        *value = default.clone();
    }
    Ok(())
}

/// About how many bytes a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter()
                .map(|(name, value)| name.len() + 4 + size(value))
                .sum::<usize>()
                + 2
        }
        _ => 8,
    }
}
