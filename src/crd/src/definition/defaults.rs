//! Defaults must be what the schema itself allows.

use serde_json::Value;
use vaquita_api::field::{Errors, FieldError, Path};

use crate::rules::RuleSet;
use crate::structural::{Additional, Node, lists, validate as schema};

/// Finds defaults that the place they are for would not take.
pub(super) fn validate(node: &Node, path: &Path<'_>, errors: &mut Errors) {
    if !node.has_defaults() {
        return;
    }
    if let Some(default) = &node.default {
        one(node, default, &path.child("default"), errors);
    }
    let properties = path.child("properties");
    for (name, property) in &node.properties {
        validate(property, &properties.key(name), errors);
    }
    if let Some(Additional::Of(additional)) = &node.additional {
        validate(additional, &path.child("additionalProperties"), errors);
    }
    if let Some(items) = &node.items {
        validate(items, &path.child("items"), errors);
    }
}

fn one(node: &Node, default: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut pruned = default.clone();
    if !node.prune_part(&mut pruned).is_empty() {
        errors.push(FieldError::invalid(
            path,
            default.clone(),
            "must be a pruned default value",
        ));
        return;
    }
    let mut filled = default.clone();
    node.drop_nulls(&mut filled);
    if node.fill_defaults(&mut filled).is_err() {
        errors.push(FieldError::too_long(path, 0));
        return;
    }
    let before = errors.len();
    schema::validate(node, &filled, None, Some(path), errors);
    lists::validate(node, &filled, Some(path), errors);
    if errors.len() == before && node.has_rules() {
        RuleSet::compile(node, node.embedded).validate(&filled, None, Some(path), errors);
    }
}
