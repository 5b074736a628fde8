//! In which fields two objects differ, for errors that refuse a change.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// The most changed fields that are named.
const NAMED_MAX: usize = 20;

/// The paths of the fields in which `old` and `new` differ, below `root`.
pub(crate) fn changed(old: &impl Serialize, new: &impl Serialize, root: &str) -> Vec<String> {
    let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return Vec::new();
    };
    let mut changed = Vec::new();
    collect(&old, &new, root.to_owned(), &mut changed);
    changed
}

fn collect(old: &Value, new: &Value, path: String, changed: &mut Vec<String>) {
    if old == new || changed.len() >= NAMED_MAX {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let none = Value::Null;
                let (old, new) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
                collect(old, new, format!("{path}.{key}"), changed);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                collect(old, new, format!("{path}[{at}]"), changed);
            }
        }
        _ => changed.push(path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_the_places() {
        let old = json!({"a": {"b": 1, "c": [1, 2]}, "d": [1]});
        let new = json!({"a": {"b": 2, "c": [1, 3]}, "d": [1, 2], "e": 0});
        assert_eq!(
            changed(&old, &new, "spec"),
            ["spec.a.b", "spec.a.c[1]", "spec.d", "spec.e"]
        );
        let many = |value: u8| (0..100).map(|_| value).collect::<Vec<_>>();
        assert_eq!(changed(&many(0), &many(1), "x").len(), NAMED_MAX);
    }
}
