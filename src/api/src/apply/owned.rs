//! What a configuration that is applied speaks about: checks it against the schema and collects its paths.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::element;
use super::set::Set;
use super::walk;
use crate::Object;
use crate::go::{self, Printed, Source};
use crate::schema::{Grain, ListType, Schema, Type};

/// How many mistakes of a configuration are told.
const ERRORS_MAX: usize = 100;
/// How many bytes are told of each: paths and values come from outside, and may be as long as a body.
const ERROR_MAX: usize = 4 << 10;

/// The paths of a configuration: its leaves, items of lists, entries of maps, and whatever is empty.
///
/// Fails with all mistakes in upstream's words.
pub(super) fn owned(schema: &Schema, configuration: &Object) -> Result<Set, String> {
    let mut walk = Walk {
        schema,
        at: String::new(),
        errors: Vec::new(),
    };
    let mut set = walk.object(schema.root(), configuration);
    set.here = false;
    match walk.errors.as_slice() {
        [] => Ok(set),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// The paths of an object that need not be flawless, such as a live one.
pub(super) fn paths(schema: &Schema, object: &Object) -> Set {
    let mut walk = Walk {
        schema,
        at: String::new(),
        errors: Vec::new(),
    };
    let mut set = walk.object(schema.root(), object);
    set.here = false;
    set
}

struct Walk<'s> {
    schema: &'s Schema,
    /// The path of the value, for errors.
    at: String,
    errors: Vec<String>,
}

impl<'s> Walk<'s> {
    fn error(&mut self, message: impl std::fmt::Display) {
        if self.errors.len() >= ERRORS_MAX {
            return;
        }
        let mut text = if self.at.is_empty() {
            message.to_string()
        } else {
            format!("{}: {message}", self.at)
        };
        if text.len() > ERROR_MAX {
            text.truncate(text.floor_char_boundary(ERROR_MAX));
            text.push_str("...");
        }
        self.errors.push(text);
    }

    fn below<T>(&mut self, step: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        element::print(&mut self.at, step);
        let outcome = run(self);
        self.at.truncate(length);
        outcome
    }

    fn value(&mut self, ty: &'s Type, value: &Value) -> Set {
        match (ty, value) {
            (Type::Struct(..) | Type::Map(..) | Type::List(..), Value::Null) => {
                return match ty {
                    Type::Struct(_, Grain::Atomic)
                    | Type::Map(_, Grain::Atomic)
                    | Type::List(_, ListType::Atomic) => Set::HERE,
                    _ => Set::default(),
                };
            }
            (Type::Struct(..) | Type::Map(..), Value::Object(map)) => {
                let set = self.object(ty, map);
                return match ty {
                    Type::Struct(_, Grain::Atomic) | Type::Map(_, Grain::Atomic) => Set::HERE,
                    _ => set,
                };
            }
            (Type::Any, Value::Object(map)) => return self.object(ty, map),
            (Type::List(item, list), Value::Array(items)) => return self.list(item, list, items),
            (Type::Struct(..) | Type::Map(..), other) => {
                self.error(format_args!("expected map, got &{{{}}}", Printed(other)));
            }
            (Type::List(..), other) => {
                self.error(format_args!("expected list, got &{{{}}}", Printed(other)));
            }
            (scalar, value) => self.scalar(scalar, value),
        }
        Set::HERE
    }

    fn scalar(&mut self, ty: &Type, value: &Value) {
        let whole = matches!(value, Value::Array(_) | Value::Object(_));
        let got = || format!("&value.valueUnstructured{{Value:{}}}", Source(value));
        match ty {
            _ if value.is_null() => {}
            Type::String | Type::Bytes | Type::Time | Type::MicroTime if !value.is_string() => {
                self.error(format_args!("expected string, got {}", got()));
            }
            Type::Bool if !value.is_boolean() => {
                self.error(format_args!("expected boolean, got {}", got()));
            }
            Type::Int32 | Type::Int64 | Type::Float if !value.is_number() => {
                let got = go::type_name(value);
                self.error(format_args!("expected numeric (int or float), got {got}"));
            }
            Type::IntOrString | Type::Quantity if whole => {
                self.error(format_args!("expected any scalar, got {}", got()));
            }
            _ => {}
        }
    }

    fn object(&mut self, ty: &'s Type, map: &Map<String, Value>) -> Set {
        let mut set = Set::default();
        for (name, value) in map {
            let step = element::field(name);
            let declared = match ty {
                Type::Struct(id, _) => {
                    let structure = self.schema.get(*id);
                    let known = structure.field(name).is_some();
                    if !known && !structure.open {
                        self.below(&step, |walk| walk.error("field not declared in schema"));
                        continue;
                    }
                    known
                }
                _ => false,
            };
            let part = walk::part(self.schema, ty, name);
            let mut inner = self.below(&step, |walk| walk.value(part, value));
            // An empty list says nothing unless it is atomic.
            let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            inner.here |= !declared || empty;
            set.push(step, inner);
        }
        set.sort();
        set
    }

    fn list(&mut self, item: &'s Type, list: &ListType, items: &[Value]) -> Set {
        let mut set = Set::default();
        let mut seen = HashSet::with_capacity(items.len());
        for (index, value) in items.iter().enumerate() {
            let step = if *list == ListType::Atomic {
                format!("i:{index}")
            } else {
                match element::item(list, value) {
                    Ok(step) => step,
                    Err(error) => {
                        self.error(format_args!("element {index}: {error}"));
                        break;
                    }
                }
            };
            if !seen.insert(step.clone()) {
                let mut key = String::new();
                element::print(&mut key, &step);
                self.error(format_args!("duplicate entries for key {key}"));
                continue;
            }
            let mut inner = self.below(&step, |walk| walk.value(item, value));
            inner.here = true;
            set.push(step, inner);
        }
        set.sort();
        if *list == ListType::Atomic {
            Set::HERE
        } else {
            set
        }
    }
}
