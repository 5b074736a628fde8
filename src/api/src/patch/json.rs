//! JSON Patch, RFC 6902.

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;

use super::PatchError;
use crate::go;

/// The most operations in one patch.
const OPERATIONS_MAX: usize = 10_000;
/// By how much all `copy` operations of one patch may make the object grow, in bytes of JSON.
const GROWTH_MAX: usize = 3 << 20;

/// How many list items all operations of one patch may move to make or fill gaps.
const MOVED_MAX: usize = 20_000_000;

/// Applies the operations in order; the first that fails ends it.
pub(super) fn apply(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []interface {{}}",
            go::json_type(&patch)
        )));
    };
    if operations.len() > OPERATIONS_MAX {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
            operations.len()
        );
        return Err(PatchError::TooLarge(message));
    }
    if let Some(odd) = operations.iter().find(|operation| !operation.is_object()) {
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {} into Go value of type jsonpatch.Operation",
            go::json_type(odd)
        )));
    }
    let mut work = Work::default();
    for operation in operations {
        // Operations that don't exist, or lack something, fail in their turn.
        let operation: PatchOperation = serde_json::from_value(operation)
            .map_err(|error| PatchError::Inapplicable(error.to_string()))?;
        work.add(&operation, target)?;
        // What is not there is null.
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && test.path.resolve(target).is_err()
        {
            continue;
        }
        json_patch::patch_unsafe(target, std::slice::from_ref(&operation))
            .map_err(|error| PatchError::Inapplicable(error.to_string()))?;
    }
    Ok(())
}

/// What the operations of a patch have cost.
#[derive(Default)]
struct Work {
    copied: usize,
    moved: usize,
}

impl Work {
    /// Counts an operation that is about to be applied; fails if it would be too much.
    fn add(&mut self, operation: &PatchOperation, target: &Value) -> Result<(), PatchError> {
        if let PatchOperation::Copy(copy) = operation {
            self.copied += copy.from.resolve(target).map_or(0, size);
        }
        self.moved = self
            .moved
            .saturating_add(length_around(target, operation.path()));
        if let PatchOperation::Move(from) = operation {
            self.moved = self.moved.saturating_add(length_around(target, &from.from));
        }
        if self.copied > GROWTH_MAX {
            let message = "the copies of the JSON patch make the object too large";
            return Err(PatchError::Inapplicable(message.to_owned()));
        }
        if self.moved > MOVED_MAX {
            let message = "the operations of the JSON patch amount to too much work";
            return Err(PatchError::TooLarge(message.to_owned()));
        }
        Ok(())
    }
}

/// The length of the list that the value behind `pointer` is in, or goes to.
fn length_around(target: &Value, pointer: &Pointer) -> usize {
    let list = pointer
        .parent()
        .and_then(|parent| parent.resolve(target).ok());
    list.and_then(Value::as_array).map_or(0, Vec::len)
}

/// About how many bytes of JSON a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter()
                .map(|(key, value)| key.len() + 4 + size(value))
                .sum::<usize>()
                + 2
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn applies_operations_in_order() {
        let mut target = json!({"a": [1, 2], "b": {"c/d": 1}});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "test", "path": "/nothing/here", "value": null},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/b/c~1d", "value": 2},
            {"op": "copy", "from": "/b", "path": "/e"},
            {"op": "move", "from": "/b", "path": "/f"},
        ]);
        apply(&mut target, patch).unwrap();
        assert_eq!(
            target,
            json!({"a": [2, 3], "e": {"c/d": 2}, "f": {"c/d": 2}})
        );
    }

    #[test]
    fn tells_malformed_from_inapplicable() {
        let refused = |patch| apply(&mut json!({"a": 1}), patch).unwrap_err();
        assert_eq!(
            refused(json!({})).to_string(),
            "error decoding patch: json: cannot unmarshal object into Go value of type []interface {}"
        );
        assert!(matches!(refused(json!([1])), PatchError::Malformed(_)));
        assert!(matches!(
            refused(json!([{"op": "eat", "path": "/a"}])),
            PatchError::Inapplicable(_)
        ));
        assert!(matches!(
            refused(json!([{"op": "add", "path": "/a"}])),
            PatchError::Inapplicable(_)
        ));
        assert!(matches!(
            refused(json!([{"op": "test", "path": "/a", "value": 2}])),
            PatchError::Inapplicable(_)
        ));
        assert!(matches!(
            refused(json!([{"op": "remove", "path": "/b"}])),
            PatchError::Inapplicable(_)
        ));
        assert!(matches!(
            refused(json!([{"op": "add", "path": "/b/c", "value": 2}])),
            PatchError::Inapplicable(_)
        ));
    }

    #[test]
    fn bounds_growth() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let patch = Value::Array(vec![double; 64]);
        let mut target = json!({"a": ["0123456789"]});
        assert!(matches!(
            apply(&mut target, patch),
            Err(PatchError::Inapplicable(_))
        ));
        let shift = json!({"op": "add", "path": "/0", "value": 1});
        let mut target = Value::Array(vec![json!(0); 100_000]);
        let patch = Value::Array(vec![shift; 1000]);
        assert!(matches!(
            apply(&mut target, patch),
            Err(PatchError::TooLarge(_))
        ));
        let many = Value::Array(vec![
            json!({"op": "test", "path": "/a", "value": 1});
            OPERATIONS_MAX + 1
        ]);
        assert!(matches!(
            apply(&mut json!({"a": 1}), many),
            Err(PatchError::TooLarge(_))
        ));
    }
}
