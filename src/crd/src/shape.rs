//! A structural schema as the object model sees it: what server-side apply and patches walk along.

use vaquita_api::schema::{self, Builder, Field, Grain, ListKey, Schema, Type};

use crate::structural::{Additional, JsonType, ListType, Node};

/// The schema of a kind.
pub(crate) fn of(kind: &str, node: &Node) -> Schema {
    let mut builder = Builder::new();
    let fields = fields(&mut builder, node);
    let root = builder.resource(kind, fields, node.preserve);
    builder.finish(Builder::granular(root))
}

fn fields(builder: &mut Builder, node: &Node) -> Vec<Field> {
    let properties = node.properties.iter();
    properties
        .map(|(name, property)| Field::new(name.as_str(), ty(builder, name, property)))
        .collect()
}

fn grain(node: &Node) -> Grain {
    if node.atomic_map {
        Grain::Atomic
    } else {
        Grain::Granular
    }
}

fn ty(builder: &mut Builder, name: &str, node: &Node) -> Type {
    if node.int_or_string {
        return Type::IntOrString;
    }
    match node.ty {
        None => Type::Any,
        Some(JsonType::String) => Type::String,
        Some(JsonType::Boolean) => Type::Bool,
        Some(JsonType::Integer) => Type::Int64,
        Some(JsonType::Number) => Type::Float,
        Some(JsonType::Array) => {
            let item = node.items.as_deref();
            let item_ty = item.map_or(Type::Any, |item| ty(builder, name, item));
            Type::List(Box::new(item_ty), list(node, item))
        }
        Some(JsonType::Object) => match &node.additional {
            Some(Additional::Of(value)) => {
                Type::Map(Box::new(ty(builder, name, value)), grain(node))
            }
            Some(Additional::Any) if node.properties.is_empty() => {
                Type::Map(Box::new(Type::Any), grain(node))
            }
            _ if node.embedded => {
                let fields = fields(builder, node);
                Type::Struct(builder.resource(name, fields, node.preserve), grain(node))
            }
            _ if node.properties.is_empty() && node.preserve && node.atomic_map => {
                Type::Map(Box::new(Type::Any), Grain::Atomic)
            }
            _ => {
                let fields = fields(builder, node);
                Type::Struct(builder.structure(name, fields, node.preserve), grain(node))
            }
        },
    }
}

fn list(node: &Node, item: Option<&Node>) -> schema::ListType {
    match &node.list {
        ListType::Atomic => schema::ListType::Atomic,
        ListType::Set => schema::ListType::Set,
        ListType::Map(keys) => Builder::keys(keys.iter().map(|key| {
            let property = item.and_then(|item| item.properties.get(key));
            ListKey {
                name: key.clone(),
                default: property.and_then(|property| property.default.clone()),
            }
        })),
    }
}
