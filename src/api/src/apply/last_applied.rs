//! The way over from `kubectl apply` without `--server-side`, which keeps what it applied last in an annotation.

use serde_json::Value;

use super::compare::compare;
use super::set::Set;
use super::{Attempt, Conflict, Manager, owned};
use crate::{Object, meta};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Only kubectl itself may count on the annotation. Others could not know that it is there.
const KUBECTL: &str = "kubectl";
/// How many bytes all annotations of an object may have together.
const ANNOTATIONS_MAX: usize = 256 << 10;

fn annotation(object: &Object) -> Option<&str> {
    let text = meta::at(object, &["metadata", "annotations", ANNOTATION])?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The conflicts without those about fields that the annotation says were applied by the same person, and which have the
/// value from then.
pub(super) fn without_own(
    attempt: &Attempt<'_>,
    live: Option<&Object>,
    conflicts: Vec<Conflict>,
) -> Vec<Conflict> {
    if attempt.manager.name != KUBECTL {
        return conflicts;
    }
    let Some(unchanged) = live.and_then(|_| unchanged_since(attempt)) else {
        return conflicts;
    };
    let allowed = unchanged.paths();
    conflicts
        .into_iter()
        .filter(|conflict| !allowed.contains(&conflict.path))
        .collect()
}

/// What the annotation speaks of and is still as it says.
fn unchanged_since(attempt: &Attempt<'_>) -> Option<Set> {
    let text = annotation(&attempt.base)?;
    let applied: Object = serde_json::from_str(text).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(&attempt.manager.api_version) {
        return None;
    }
    let mut set = owned::owned(attempt.schema, &applied).ok()?;
    let changes = compare(attempt.schema, &applied, &attempt.base);
    set.subtract(&changes.changed);
    set.subtract(&changes.removed);
    Some(set)
}

/// Keeps the annotation up to date where there is one, so that the old way of applying still works.
pub(super) fn refresh(object: &mut Object, configuration: &Object, manager: &Manager) {
    if manager.name != KUBECTL || annotation(object).is_none() {
        return;
    }
    let mut applied = configuration.clone();
    if let Some(annotations) = applied
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{}\n", Value::Object(applied));
    let Some(annotations) = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), text.into());
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > ANNOTATIONS_MAX {
        annotations.remove(ANNOTATION);
    }
}
