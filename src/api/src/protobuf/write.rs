//! Writes objects as messages.

use k8s_openapi::ByteString;
use serde_json::{Map, Value};

use super::numbers::{Numbers, Target};
use super::wire::Sink;
use crate::schema::{Schema, SchemaOr, Struct, Type};

pub(super) struct Writer<'s> {
    pub(super) schema: &'s Schema,
    pub(super) numbers: Numbers,
}

impl<'s> Writer<'s> {
    /// Writes the fields of `object` that `message` has; see [`Reader::message`](super::Reader::message) for the names.
    /// A value that does not fit its type is left out, and so is a field that has no number.
    pub(super) fn message(
        &self,
        structure: &'s Struct,
        message: &str,
        object: &Map<String, Value>,
        sink: &mut Sink,
    ) {
        for (number, target) in self.numbers.message(message) {
            match target {
                Target::Embedded(inner) => {
                    let start = sink.len();
                    sink.nested(*number, |sink| {
                        self.message(structure, inner, object, sink);
                    });
                    // Nothing in it: nothing said about it.
                    if sink.len() <= start + 2 {
                        sink.truncate(start);
                    }
                }
                Target::Field(name) => {
                    if let Some(value) = object.get(*name)
                        && let Some(field) = structure.field(name)
                    {
                        self.field(*number, &field.ty, value, sink);
                    }
                }
            }
        }
    }

    fn field(&self, number: u32, ty: &'s Type, value: &Value, sink: &mut Sink) {
        match (ty, value) {
            (Type::List(item, _), Value::Array(items)) => {
                for value in items {
                    self.value(number, item, value, sink);
                }
            }
            (Type::Map(entry, _), Value::Object(map)) => {
                for (key, value) in map {
                    sink.nested(number, |sink| {
                        sink.bytes(1, key.as_bytes());
                        self.value(2, entry, value, sink);
                    });
                }
            }
            _ => self.value(number, ty, value, sink),
        }
    }

    fn value(&self, number: u32, ty: &'s Type, value: &Value, sink: &mut Sink) {
        match (ty, value) {
            (Type::Any, value) => sink.nested(number, |sink| {
                sink.bytes(1, value.to_string().as_bytes());
            }),
            (Type::String, Value::String(text)) => sink.bytes(number, text.as_bytes()),
            (Type::Bool, Value::Bool(set)) => sink.integer(number, i64::from(*set)),
            (Type::Int32 | Type::Int64, Value::Number(value)) => {
                sink.integer(number, value.as_i64().unwrap_or_default());
            }
            (Type::Float, Value::Number(value)) => {
                sink.double(number, value.as_f64().unwrap_or_default());
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                if let Ok(time) = text.parse::<jiff::Timestamp>() {
                    sink.nested(number, |sink| {
                        sink.integer(1, time.as_second());
                        sink.integer(2, time.subsec_nanosecond().into());
                    });
                }
            }
            (Type::Quantity | Type::IntOrString, value) => {
                sink.nested(number, |sink| number_or_text(ty, value, sink));
            }
            (Type::Bytes, value) => {
                if let Ok(ByteString(bytes)) = serde_json::from_value(value.clone()) {
                    sink.bytes(number, &bytes);
                }
            }
            // Only as the value of a map: a message that wraps the list.
            (Type::List(item, _), Value::Array(items)) => sink.nested(number, |sink| {
                for value in items {
                    self.value(1, item, value, sink);
                }
            }),
            (Type::Struct(id, _), Value::Object(object)) => {
                let structure = self.schema.get(*id);
                sink.nested(number, |sink| {
                    self.message(structure, &structure.name, object, sink);
                });
            }
            (Type::SchemaOr(or, inner), value) => {
                sink.nested(number, |sink| self.alternative(*or, inner, value, sink));
            }
            _ => {}
        }
    }

    /// A schema in the first or second field, or what stands for it in the other one.
    fn alternative(&self, or: SchemaOr, inner: &'s Type, value: &Value, sink: &mut Sink) {
        match (or, value) {
            // Upstream's decoder takes a schema without this for one that allows nothing.
            (SchemaOr::Bool, Value::Object(_)) => {
                sink.integer(1, 1);
                self.value(2, inner, value, sink);
            }
            (SchemaOr::Bool, value) => {
                sink.integer(1, i64::from(value.as_bool().unwrap_or_default()));
            }
            (_, Value::Object(_)) => self.value(1, inner, value, sink),
            (SchemaOr::List, Value::Array(schemas)) => {
                for schema in schemas {
                    self.value(2, inner, schema, sink);
                }
            }
            (SchemaOr::Names, Value::Array(names)) => {
                for name in names.iter().filter_map(Value::as_str) {
                    sink.bytes(2, name.as_bytes());
                }
            }
            _ => {}
        }
    }
}

/// The inside of the messages for quantities, and for numbers that may have names.
fn number_or_text(ty: &Type, value: &Value, sink: &mut Sink) {
    match (ty, value) {
        (Type::Quantity, Value::String(text)) => sink.bytes(1, text.as_bytes()),
        (_, Value::String(text)) => {
            sink.integer(1, 1);
            sink.bytes(3, text.as_bytes());
        }
        (_, value) => {
            sink.integer(1, 0);
            sink.integer(2, value.as_i64().unwrap_or_default());
        }
    }
}
