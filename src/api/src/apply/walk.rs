//! What is common to all walks over an object along its schema: how a value is taken, and which type its parts have.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::schema::{Field, Grain, ListType, Schema, Type};

static ANY: Type = Type::Any;
static NO_OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NO_LIST: Value = Value::Array(Vec::new());

/// How a value (or two, of which one may be absent) is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shape<'t> {
    /// As a whole.
    Leaf,
    /// By fields or entries.
    Object,
    /// By items, which have this type.
    List(&'t Type, &'t ListType),
}

/// How values of a type are taken. `null` stands for an empty object or list.
pub(super) fn shape<'t>(ty: &'t Type, values: [Option<&Value>; 2]) -> Shape<'t> {
    let all = |test: fn(&Value) -> bool| {
        let mut found = values.iter().flatten();
        found.all(|value| value.is_null() || test(value))
    };
    match ty {
        Type::Struct(_, Grain::Granular) | Type::Map(_, Grain::Granular) | Type::Any
            if all(Value::is_object) && !values.iter().flatten().all(|value| is_empty(value)) =>
        {
            Shape::Object
        }
        Type::List(item, list)
            if *list != ListType::Atomic
                && all(Value::is_array)
                && !values.iter().flatten().all(|value| is_empty(value)) =>
        {
            Shape::List(item, list)
        }
        _ => Shape::Leaf,
    }
}

/// Whether a value is `null`, or an object or list with nothing inside.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The field of a struct.
pub(super) fn field<'s>(schema: &'s Schema, ty: &Type, name: &str) -> Option<&'s Field> {
    schema.structure(ty)?.field(name)
}

/// The type of a part of an object. What the schema does not know is free JSON.
pub(super) fn part<'s>(schema: &'s Schema, ty: &'s Type, name: &str) -> &'s Type {
    match ty {
        Type::Map(entry, _) => entry,
        Type::Struct(..) => field(schema, ty, name).map_or(&ANY, |field| &field.ty),
        _ => &ANY,
    }
}

/// What stands for a field that is not there, but counts as there: see [`Field::always`].
pub(super) fn empty(ty: &Type) -> &'static Value {
    match ty {
        Type::List(..) => &NO_LIST,
        _ => &NO_OBJECT,
    }
}
