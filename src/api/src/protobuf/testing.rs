//! The law that nothing is lost in protobuf.

use super::Numbers;
use crate::registry::Resource;
use crate::schema::Type;

/// Fields that are newer than the table. Whoever sends them in protobuf finds them dropped.
const UNKNOWN: [&str; 4] = [
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
            Type::List(inner, _) | Type::Map(inner, _) => left.push(*inner),
            Type::Struct(id, _) if !seen.contains(&id) => {
                seen.push(id);
                let structure = resource.schema().get(id);
                let known = numbers.fields(&structure.name);
                let is_root = seen.len() == 1;
                for field in structure.fields() {
                    let path = format!("{}.{}", structure.name, field.name);
                    if is_root && matches!(field.name.as_str(), "apiVersion" | "kind")
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
