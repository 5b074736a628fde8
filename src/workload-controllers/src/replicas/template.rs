//! What makes a pod template another one, and the hash by which its pods are told apart.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label that tells the pods of one replica set from those of another.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// The letters of hashes: none that could spell a word or be mistaken for another.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest name of a replica set.
const NAME_LIMIT: usize = 253;

/// Whether pods of the two templates are the same but for the hash.
pub(crate) fn same(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    canonical(one) == canonical(other)
}

/// The hash of a template; another one for each number of collisions.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut text = canonical(template).to_string();
    if let Some(collisions) = collisions {
        text.push_str(&collisions.to_string());
    }
    // FNV-1a of 32 bits: short, and collisions are dealt with.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let letter = |digit: u8| LETTERS.get(usize::from(digit) % LETTERS.len());
    hash.to_string()
        .bytes()
        .filter_map(letter)
        .copied()
        .map(char::from)
        .collect()
}

/// The name of the replica set of a deployment with this hash.
pub(crate) fn set_name(deployment: &str, hash: &str) -> String {
    let room = NAME_LIMIT.saturating_sub(hash.len() + 1);
    let stem = &deployment[..deployment.floor_char_boundary(room)];
    format!("{stem}-{hash}")
}

/// The template without its hash and without whatever is empty: some clients write empty lists and objects where others
/// write nothing, and mean the same.
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|metadata| metadata.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    let mut value = serde_json::to_value(template).unwrap_or_default();
    prune(&mut value);
    value
}

/// Takes out what is empty, the innermost first. As deep as the type is, which is not recursive.
fn prune(value: &mut Value) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, field| !empty(field));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(image: &str, labels: &Value) -> PodTemplateSpec {
        let value = json!({
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "main", "image": image }] },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn templates_differ_by_what_their_pods_would_be() {
        let one = template("a", &json!({ "app": "x" }));
        let mut loose = template("a", &json!({ "app": "x", HASH_LABEL: "abc" }));
        let spec = loose.spec.as_mut().unwrap();
        spec.volumes = Some(Vec::new());
        spec.containers[0].resources =
            Some(k8s_openapi::api::core::v1::ResourceRequirements::default());
        assert!(same(&one, &loose));
        assert_eq!(hash(&one, None), hash(&loose, None));
        let other = template("b", &json!({ "app": "x" }));
        assert!(!same(&one, &other));
        assert_ne!(hash(&one, None), hash(&other, None));
    }

    #[test]
    fn a_collision_changes_the_hash() {
        let one = template("a", &json!({}));
        assert_ne!(hash(&one, None), hash(&one, Some(1)));
        assert_ne!(hash(&one, Some(1)), hash(&one, Some(2)));
        assert!(hash(&one, None).bytes().all(|byte| LETTERS.contains(&byte)));
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(set_name("web", "abc"), "web-abc");
        assert_eq!(set_name(&"x".repeat(253), "abc").len(), 253);
    }
}
