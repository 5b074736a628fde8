//! The steps of a path into an object, as `FieldsV1` writes them and as people read them.
//!
//! A step is text with a prefix: `f:replicas` a field or map entry, `k:{"name":"web"}` the item of a list that has these
//! keys, `v:"a"` the item of a set, `i:3` an item by its place. Keys are sorted by name, and the JSON has no blanks, so that
//! equal steps are equal texts.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::schema::ListType;

/// The step to a field or map entry.
pub(super) fn field(name: &str) -> String {
    let mut step = String::with_capacity(name.len() + 2);
    step.push_str("f:");
    step.push_str(name);
    step
}

/// Why an item of a list has no step of its own. In upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoStep {
    #[error("associative list with keys may not have a null element")]
    Null,
    #[error("associative list with keys may not have non-map elements")]
    NoObject,
    #[error(
        "associative list with keys has an element that omits all key fields [{0}] (and doesn't have default values for any key fields)"
    )]
    NoKeys(String),
    #[error("associative list without keys has an element that's a map type")]
    Object,
    #[error("not supported: associative list with lists as elements")]
    List,
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

/// The step to an item of a list that is no atomic one.
pub(super) fn item(list: &ListType, item: &Value) -> Result<String, NoStep> {
    let ListType::Map(keys) = list else {
        return match item {
            Value::Object(_) => Err(NoStep::Object),
            Value::Array(_) => Err(NoStep::List),
            Value::Null => Err(NoStep::NullInSet),
            single => Ok(format!("v:{single}")),
        };
    };
    let object = match item {
        Value::Object(object) => object,
        Value::Null => return Err(NoStep::Null),
        _ => return Err(NoStep::NoObject),
    };
    let mut step = String::with_capacity(32);
    step.push_str("k:{");
    let start = step.len();
    for key in keys.iter() {
        let Some(value) = object.get(&key.name).or(key.default.as_ref()) else {
            continue;
        };
        if step.len() > start {
            step.push(',');
        }
        push_string(&mut step, &key.name);
        step.push(':');
        match value {
            Value::String(text) => push_string(&mut step, text),
            other => drop(write!(step, "{other}")),
        }
    }
    if step.len() == start {
        let names: Vec<String> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
        return Err(NoStep::NoKeys(names.join(" ")));
    }
    step.push('}');
    Ok(step)
}

/// Appends a JSON string. Nearly all need no escapes.
fn push_string(step: &mut String, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        step.push('"');
        step.push_str(text);
        step.push('"');
    } else {
        // Writing to a string has no way to fail.
        let _ = write!(step, "{}", Value::from(text));
    }
}

/// Brings a step that somebody else wrote into its one form; `None` if it makes no sense.
pub(super) fn canonical(step: String) -> Option<String> {
    let (prefix, rest) = step.split_once(':')?;
    match prefix {
        "f" => Some(step),
        "i" => rest.parse::<i64>().ok().map(|index| format!("i:{index}")),
        "v" => {
            let value: Value = serde_json::from_str(rest).ok()?;
            Some(format!("v:{value}"))
        }
        "k" => {
            // The map sorts the keys.
            let keys: Map<String, Value> = serde_json::from_str(rest).ok()?;
            (!keys.is_empty()).then(|| format!("k:{}", Value::Object(sorted(keys))))
        }
        _ => None,
    }
}

fn sorted(keys: Map<String, Value>) -> Map<String, Value> {
    let mut pairs: Vec<_> = keys.into_iter().collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.into_iter().collect()
}

/// Appends the step to a path for people: `.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"]`.
pub(super) fn print(path: &mut String, step: &str) {
    let Some((prefix, rest)) = step.split_once(':') else {
        return;
    };
    // Writing to a string has no way to fail.
    let _ = match prefix {
        "f" => write!(path, ".{rest}"),
        "v" => write!(path, "[={rest}]"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            write!(path, "[{}]", keys.join(","))
        }
        _ => write!(path, "[{rest}]"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::{Builder, ListKey};

    fn keys(keys: &[(&str, Option<Value>)]) -> ListType {
        Builder::keys(keys.iter().map(|(name, default)| ListKey {
            name: (*name).to_owned(),
            default: default.clone(),
        }))
    }

    #[test]
    fn names_items_by_their_keys() {
        let ports = keys(&[("protocol", Some(json!("TCP"))), ("containerPort", None)]);
        let step = |value| item(&ports, &value).unwrap();
        assert_eq!(
            step(json!({"containerPort": 80, "name": "a"})),
            r#"k:{"containerPort":80,"protocol":"TCP"}"#
        );
        assert_eq!(step(json!({})), r#"k:{"protocol":"TCP"}"#);
        let names = keys(&[("name", None)]);
        assert_eq!(
            item(&names, &json!({"name": "a\"\\\n"})).unwrap(),
            r#"k:{"name":"a\"\\\n"}"#
        );
        assert_eq!(
            item(&names, &json!({})).unwrap_err().to_string(),
            "associative list with keys has an element that omits all key fields [\"name\"] \
             (and doesn't have default values for any key fields)"
        );
        assert_eq!(item(&ListType::Set, &json!("a b")).unwrap(), r#"v:"a b""#);
        assert!(item(&ListType::Set, &json!(null)).is_err());
    }

    #[test]
    fn has_one_form_for_each_step() {
        let form = |step: &str| canonical(step.to_owned());
        assert_eq!(
            form(r#"k:{"protocol": "TCP", "port":80}"#).as_deref(),
            Some(r#"k:{"port":80,"protocol":"TCP"}"#)
        );
        assert_eq!(form("v: 1 ").as_deref(), Some("v:1"));
        assert_eq!(form("i:07").as_deref(), Some("i:7"));
        for bad in ["f", "x:1", "k:[]", "k:{}", "v:", "i:a"] {
            assert_eq!(form(bad), None, "{bad}");
        }
    }

    #[test]
    fn prints_paths() {
        let mut path = String::new();
        for step in [
            "f:spec",
            "f:ports",
            r#"k:{"port":80,"protocol":"TCP"}"#,
            r#"v:"x""#,
            "i:1",
        ] {
            print(&mut path, step);
        }
        assert_eq!(path, r#".spec.ports[port=80,protocol="TCP"][="x"][1]"#);
    }
}
