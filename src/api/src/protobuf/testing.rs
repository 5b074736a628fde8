//! The law that nothing is lost in protobuf.

use serde_json::Value;

use super::{Numbers, decode, encode};
use crate::Object;
use crate::registry::Resource;
use crate::schema::{Schema, Type};

/// Fields that are newer than the table. Whoever sends them in protobuf finds them dropped.
const UNKNOWN: [&str; 10] = [
    "CSIDriverSpec.preventPodSchedulingIfMissing",
    "Device.nodeAllocatableResourceMappings",
    "DeviceAttribute.bools",
    "DeviceAttribute.ints",
    "DeviceAttribute.strings",
    "DeviceAttribute.versions",
    "PodSpec.schedulingGroup",
    "PodStatus.nodeAllocatableResourceClaimStatuses",
    "ResourceHealth.message",
    "VolumeMountStatus.volumeStatus",
];

/// Panics if a field of the kind has no number.
pub(crate) fn every_field_has_a_number(resource: &Resource) {
    let numbers = Numbers::of(&resource.api_version());
    let mut left = vec![resource.schema().root().clone()];
    let mut seen = Vec::new();
    while let Some(ty) = left.pop() {
        match ty {
            Type::List(inner, _) | Type::Map(inner, _) | Type::SchemaOr(_, inner) => {
                left.push(*inner);
            }
            Type::Struct(id, _) if !seen.contains(&id) => {
                seen.push(id);
                let structure = resource.schema().get(id);
                let known = numbers.fields(&structure.name);
                // An object inside of another has no type of its own there, and gets it from its place.
                let is_object = structure.field("metadata").is_some() || seen.len() == 1;
                for field in structure.fields() {
                    let path = format!("{}.{}", structure.name, field.name);
                    if is_object && matches!(field.name.as_str(), "apiVersion" | "kind")
                        || UNKNOWN.contains(&path.as_str())
                    {
                        continue;
                    }
                    assert!(known.contains(&field.name.as_str()), "{resource:?}: {path}");
                    left.push(field.ty.clone());
                }
            }
            _ => {}
        }
    }
}

/// The object as it comes back from protobuf; `Err` if it does not.
pub(crate) fn there_and_back(resource: &Resource, object: &Object) -> Result<Value, String> {
    let bytes = encode(object, resource.schema());
    decode(&bytes, resource.schema(), &resource.api_version()).map_err(|error| error.to_string())
}

/// The object without the fields that are newer than the table.
pub(crate) fn without_unknown(schema: &Schema, object: &Object) -> Object {
    let mut value = Value::Object(object.clone());
    prune(schema, schema.root(), &mut value);
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn prune(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::List(inner, _), Value::Array(items)) => {
            for item in items {
                prune(schema, inner, item);
            }
        }
        (Type::Map(inner, _), Value::Object(map)) => {
            for value in map.values_mut() {
                prune(schema, inner, value);
            }
        }
        (Type::Struct(id, _), Value::Object(map)) => {
            let structure = schema.get(*id);
            map.retain(|name, value| {
                if UNKNOWN.contains(&format!("{}.{name}", structure.name).as_str()) {
                    return false;
                }
                if let Some(field) = structure.field(name) {
                    prune(schema, &field.ty, value);
                }
                true
            });
        }
        _ => {}
    }
}
