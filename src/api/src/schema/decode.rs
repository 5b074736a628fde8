//! Makes a JSON value fit its schema: checks types, drops what the schema does not know, brings leaves to canonical form.

use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::{Field, Schema, SchemaOr, Struct, Type};
use crate::field::Path;
use crate::quantity::Quantity;

/// What [`Schema::normalise`] noticed besides errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Normalised {
    /// Paths of the fields that the schema does not know, and which were dropped: `spec.template.spec.contianers`.
    /// At most [`Normalised::LIMIT`] of them.
    pub unknown: Vec<String>,
}

impl Normalised {
    /// How many unknown fields are told apart; what comes after is dropped without being listed.
    pub const LIMIT: usize = 100;
}

/// A value whose type is not the schema's. Printed in the words that Go's JSON decoder has for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A JSON type where another one belongs.
    #[error(
        "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}"
    )]
    WrongType {
        /// What was found: `string`, `number 1.5`, `object`, ...
        found: String,
        /// The struct that has the field.
        owner: String,
        /// The field's path from the root, without list indices.
        path: String,
        /// The type it should have.
        expected: String,
    },
    /// The whole is not an object.
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    NotAnObject {
        /// What was found instead.
        found: String,
        /// The kind that was expected.
        expected: String,
    },
    /// A malformed quantity.
    #[error("{path}: {source}")]
    Quantity {
        /// Where.
        path: String,
        /// What is wrong with it.
        source: crate::quantity::ParseError,
    },
    /// A malformed time.
    #[error("parsing time {value:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {value:?}")]
    Time {
        /// The text found.
        value: String,
    },
    /// A malformed base64 string.
    #[error("illegal base64 data at input byte {at}")]
    Base64 {
        /// The first byte that does not belong.
        at: usize,
    },
}

impl Schema {
    /// Brings `value` into the form that this schema describes, in place:
    ///
    /// - unknown fields are dropped and reported;
    /// - `null` is as good as absent, and so are empty lists and maps (though not empty structs, which may mean something),
    ///   and empty scalars where the field says so;
    /// - quantities, times and base64 become canonical.
    ///
    /// Required fields are not its business: absent ones are for validation to find.
    pub fn normalise(&self, value: &mut Value) -> Result<Normalised, DecodeError> {
        if let (Some(root), false) = (self.structure(&self.root), value.is_object()) {
            return Err(DecodeError::NotAnObject {
                found: found(value),
                expected: format!("v1.{}", root.name),
            });
        }
        let mut walk = Walk {
            schema: self,
            owner: "",
            unknown: Vec::new(),
        };
        walk.value(&self.root, value, None)?;
        Ok(Normalised {
            unknown: walk.unknown,
        })
    }
}

struct Walk<'s> {
    schema: &'s Schema,
    /// The struct that has the innermost field.
    owner: &'s str,
    unknown: Vec<String>,
}

impl<'s> Walk<'s> {
    fn value(
        &mut self,
        ty: &'s Type,
        value: &mut Value,
        at: Option<&Path<'_>>,
    ) -> Result<(), DecodeError> {
        let is_int32 = |number: &Number| number.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
        match (ty, &mut *value) {
            (Type::Struct(id, _), Value::Object(map)) => {
                self.structure(self.schema.get(*id), map, at)
            }
            (Type::List(item, _), Value::Array(items)) => self.list(item, items, at),
            (Type::Map(entry, _), Value::Object(map)) => self.map(entry, map, at),
            (Type::Int32 | Type::IntOrString, Value::Number(number)) if is_int32(number) => Ok(()),
            (Type::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
            (Type::String | Type::IntOrString, Value::String(_))
            | (Type::Bool | Type::SchemaOr(SchemaOr::Bool, _), Value::Bool(_))
            | (Type::Float, Value::Number(_))
            | (Type::Any, _) => Ok(()),
            (Type::Quantity, Value::String(_) | Value::Number(_)) => quantity(value, at),
            (Type::Time | Type::MicroTime, Value::String(text)) => time(ty, text),
            (Type::Bytes, Value::String(text)) => base64(text),
            (Type::SchemaOr(_, inner), Value::Object(_)) => self.value(inner, value, at),
            (Type::SchemaOr(SchemaOr::List, inner), Value::Array(items)) => {
                self.list(inner, items, at)
            }
            (Type::SchemaOr(SchemaOr::Names, _), Value::Array(items)) => {
                self.list(&Type::String, items, at)
            }
            _ => Err(self.wrong_type(ty, value, at)),
        }
    }

    fn structure(
        &mut self,
        structure: &'s Struct,
        map: &mut Map<String, Value>,
        at: Option<&Path<'_>>,
    ) -> Result<(), DecodeError> {
        let outer = std::mem::replace(&mut self.owner, &structure.name);
        let mut outcome = Ok(());
        map.retain(|name, value| {
            if outcome.is_err() {
                return true;
            }
            let path = Path::below(at, name);
            let Some(field) = structure.field(name) else {
                if structure.open {
                    return true;
                }
                if self.unknown.len() < Normalised::LIMIT {
                    self.unknown.push(path.bounded());
                }
                return false;
            };
            if value.is_null() && field.ty != Type::Any {
                return false;
            }
            outcome = self.value(&field.ty, value, Some(&path));
            !is_empty(field, value)
        });
        self.owner = outer;
        outcome
    }

    fn list(
        &mut self,
        item: &'s Type,
        items: &mut [Value],
        at: Option<&Path<'_>>,
    ) -> Result<(), DecodeError> {
        for (index, value) in items.iter_mut().enumerate() {
            replace_null(item, value);
            let path = at.map(|at| at.index(index));
            self.value(item, value, path.as_ref())?;
        }
        Ok(())
    }

    fn map(
        &mut self,
        entry: &'s Type,
        map: &mut Map<String, Value>,
        at: Option<&Path<'_>>,
    ) -> Result<(), DecodeError> {
        for (key, value) in map.iter_mut() {
            replace_null(entry, value);
            self.value(entry, value, Some(&Path::below(at, key)))?;
        }
        Ok(())
    }

    fn wrong_type(&self, ty: &Type, value: &Value, at: Option<&Path<'_>>) -> DecodeError {
        DecodeError::WrongType {
            found: found(value),
            owner: self.owner.to_owned(),
            path: at.map(Path::without_indices).unwrap_or_default(),
            expected: self.go_name(ty),
        }
    }

    fn go_name(&self, ty: &Type) -> String {
        match ty {
            Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Quantity => {
                "string".to_owned()
            }
            Type::Bool => "bool".to_owned(),
            Type::Int32 | Type::IntOrString => "int32".to_owned(),
            Type::Int64 => "int64".to_owned(),
            Type::Float => "float64".to_owned(),
            Type::Any => "interface {}".to_owned(),
            Type::List(item, _) => format!("[]{}", self.go_name(item)),
            Type::Map(entry, _) => format!("map[string]{}", self.go_name(entry)),
            Type::Struct(id, _) => format!("v1.{}", self.schema.get(*id).name),
            Type::SchemaOr(SchemaOr::Bool, _) => "v1.JSONSchemaPropsOrBool".to_owned(),
            Type::SchemaOr(SchemaOr::List, _) => "v1.JSONSchemaPropsOrArray".to_owned(),
            Type::SchemaOr(SchemaOr::Names, _) => "v1.JSONSchemaPropsOrStringArray".to_owned(),
        }
    }
}

/// Brings a quantity into its canonical form.
fn quantity(value: &mut Value, at: Option<&Path<'_>>) -> Result<(), DecodeError> {
    let text = match &mut *value {
        Value::String(text) => std::mem::take(text),
        other => other.to_string(),
    };
    let quantity: Quantity = text.parse().map_err(|source| DecodeError::Quantity {
        path: at.map(ToString::to_string).unwrap_or_default(),
        source,
    })?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

/// `null` inside of a list or map stands for the type's empty value.
fn replace_null(ty: &Type, value: &mut Value) {
    if value.is_null() {
        *value = match ty {
            Type::String | Type::IntOrString | Type::Bytes => Value::String(String::new()),
            Type::Bool => Value::Bool(false),
            Type::Int32 | Type::Int64 | Type::Float => Value::from(0),
            Type::Quantity => Value::from("0"),
            Type::List(..) => Value::Array(Vec::new()),
            Type::Map(..) | Type::Struct(..) | Type::SchemaOr(..) => Value::Object(Map::new()),
            Type::Any | Type::Time | Type::MicroTime => return,
        };
    }
}

fn is_empty(field: &Field, value: &Value) -> bool {
    match (&field.ty, value) {
        (Type::List(..), Value::Array(items)) => items.is_empty(),
        (Type::Map(..), Value::Object(map)) => map.is_empty(),
        (_, Value::String(text)) => field.omit_zero && text.is_empty(),
        (_, Value::Bool(set)) => field.omit_zero && !set,
        (_, Value::Number(number)) => field.omit_zero && number.as_i64() == Some(0),
        _ => false,
    }
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number)
            if number.is_i64() && i32::try_from(number.as_i64().unwrap_or(0)).is_ok() =>
        {
            "number".to_owned()
        }
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

fn time(ty: &Type, text: &mut String) -> Result<(), DecodeError> {
    let Ok(time) = text.parse::<Timestamp>() else {
        return Err(DecodeError::Time {
            value: std::mem::take(text),
        });
    };
    *text = if *ty == Type::Time {
        crate::meta::time(time)
    } else {
        crate::meta::micro_time(time)
    };
    Ok(())
}

/// Checks standard base64 with padding; line breaks, which tools like to put in, are dropped.
fn base64(text: &mut String) -> Result<(), DecodeError> {
    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    let bytes = text.as_bytes();
    let padding = bytes
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == b'=')
        .count();
    let digits = &bytes[..bytes.len() - padding];
    let stray = digits
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')));
    match stray {
        Some(at) => Err(DecodeError::Base64 { at }),
        None if !bytes.len().is_multiple_of(4) => Err(DecodeError::Base64 {
            at: bytes.len() - bytes.len() % 4,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ReplicationController, Secret};
    use serde_json::json;

    use super::*;

    fn normalise_rc(value: Value) -> Result<(Value, Vec<String>), DecodeError> {
        let mut value = value;
        let normalised = Schema::of::<ReplicationController>().normalise(&mut value)?;
        Ok((value, normalised.unknown))
    }

    #[test]
    fn reports_unknown_fields_with_their_path() {
        let (value, unknown) = normalise_rc(json!({
            "apiVersion": "v1", "kind": "ReplicationController",
            "spec": {"replica": 3, "template": {"spec": {"containers": [{"name": "a", "imagee": "b"}]}}},
        }))
        .unwrap();
        assert_eq!(
            unknown,
            ["spec.replica", "spec.template.spec.containers[0].imagee"]
        );
        assert_eq!(
            value["spec"],
            json!({"template": {"spec": {"containers": [{"name": "a"}]}}})
        );
    }

    #[test]
    fn words_a_wrong_type_as_clients_know_it() {
        let error = normalise_rc(json!({"spec": {"replicas": "3"}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal string into Go struct field ReplicationControllerSpec.spec.replicas of type int32"
        );
        let error = normalise_rc(json!({"spec": {"replicas": 9_999_999_999_i64}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal number 9999999999 into Go struct field \
             ReplicationControllerSpec.spec.replicas of type int32"
        );
        let error =
            normalise_rc(json!({"spec": {"template": {"spec": {"containers": {}}}}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type \
             []v1.Container"
        );
    }

    #[test]
    fn drops_what_says_nothing_and_keeps_what_does() {
        let (value, _) = normalise_rc(json!({
            "metadata": {"creationTimestamp": null, "labels": {}, "name": ""},
            "spec": {"replicas": 0, "template": {"spec": {
                "hostNetwork": false, "automountServiceAccountToken": false, "securityContext": {},
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "a", "args": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
            }}},
        }))
        .unwrap();
        assert_eq!(
            value,
            json!({"metadata": {}, "spec": {"replicas": 0, "template": {"spec": {
                "automountServiceAccountToken": false, "securityContext": {},
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
            }}}})
        );
    }

    #[test]
    fn checks_base64() {
        let schema = Schema::of::<Secret>();
        let mut secret = json!({"data": {"a": "aGVs\nbG8=", "b": ""}});
        schema.normalise(&mut secret).unwrap();
        assert_eq!(secret, json!({"data": {"a": "aGVsbG8=", "b": ""}}));
        for bad in ["aGVsbG8", "a*==", "====", "a"] {
            assert!(
                schema.normalise(&mut json!({"data": {"a": bad}})).is_err(),
                "{bad}"
            );
        }
    }
}
