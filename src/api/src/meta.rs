//! Object metadata: reading it from JSON, timestamps, names and their generation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::Object;

/// The string at `metadata.<field>`, or "".
fn text<'o>(object: &'o Object, field: &str) -> &'o str {
    at(object, &["metadata", field])
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The value behind a chain of field names.
pub fn at<'o>(object: &'o Object, path: &[&str]) -> Option<&'o Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(object.get(*first)?, |value, field| value.get(field))
}

/// `metadata.name`, or "".
pub fn name(object: &Object) -> &str {
    text(object, "name")
}

/// `metadata.generateName`, or "".
pub fn generate_name(object: &Object) -> &str {
    text(object, "generateName")
}

/// `metadata.namespace`, or "" for cluster-scoped objects.
pub fn namespace(object: &Object) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or "".
pub fn uid(object: &Object) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or "".
pub fn resource_version(object: &Object) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Object) -> i64 {
    at(object, &["metadata", "generation"])
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Object) -> Option<Timestamp> {
    text(object, "creationTimestamp").parse().ok()
}

/// `metadata.deletionTimestamp`: set once the object is being deleted.
pub fn deletion_timestamp(object: &Object) -> Option<Timestamp> {
    text(object, "deletionTimestamp").parse().ok()
}

/// `metadata.labels`, for a [`LabelSelector`](crate::selector::LabelSelector) to match or to keep.
pub fn labels(object: &Object) -> BTreeMap<String, String> {
    strings(object, "labels")
}

/// `metadata.annotations`.
pub fn annotations(object: &Object) -> BTreeMap<String, String> {
    strings(object, "annotations")
}

fn strings(object: &Object, field: &str) -> BTreeMap<String, String> {
    let Some(Value::Object(map)) = at(object, &["metadata", field]) else {
        return BTreeMap::new();
    };
    map.iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Object) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`, each as JSON.
pub fn owner_references(object: &Object) -> &[Value] {
    list(object, "ownerReferences")
}

fn list<'o>(object: &'o Object, field: &str) -> &'o [Value] {
    at(object, &["metadata", field])
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The reference with `controller: true`, of which there is at most one.
pub fn controller_of(object: &Object) -> Option<&Value> {
    owner_references(object)
        .iter()
        .find(|owner| owner["controller"] == true)
}

/// `metadata` for writing; made if it is absent, and replaced if it is not an object.
pub fn metadata_mut(object: &mut Object) -> &mut Object {
    object_mut(object, "metadata")
}

/// The object at `field` for writing; made if it is absent, and replaced if it is something else.
pub fn object_mut<'o>(object: &'o mut Object, field: &str) -> &'o mut Object {
    if !object.get(field).is_some_and(Value::is_object) {
        object.insert(field.to_owned(), Value::Object(Object::new()));
    }
    match object.get_mut(field) {
        Some(Value::Object(map)) => map,
        _ => unreachable!("inserted just above"),
    }
}

/// A `metav1.Time`: `2006-01-02T15:04:05Z`.
pub fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A `metav1.MicroTime`: `2006-01-02T15:04:05.000000Z`.
pub fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The longest base of a generated name; what follows it must fit into a DNS label.
const GENERATED_BASE: usize = 58;
/// Letters and digits without vowels and look-alikes, so that no words come out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Makes a name from `metadata.generateName`: at most 58 bytes of it and five random characters.
///
/// `entropy` is a random number; all its values are equally welcome, and equal ones give equal names.
pub fn generated_name(base: &str, entropy: u64) -> String {
    let mut end = base.len().min(GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut rest = entropy;
    for _ in 0..5 {
        let radix = ALPHABET.len() as u64;
        let digit = usize::try_from(rest % radix).unwrap_or_default();
        name.push(char::from(ALPHABET[digit]));
        rest /= radix;
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_is_there_and_survives_what_is_not() {
        let Value::Object(object) =
            json!({"metadata": {"name": "a", "labels": {"x": "y", "n": 1}, "generation": "2"}})
        else {
            unreachable!()
        };
        assert_eq!(name(&object), "a");
        assert_eq!(
            labels(&object),
            BTreeMap::from([("x".to_owned(), "y".to_owned())])
        );
        assert_eq!(generation(&object), 0);
        assert_eq!(namespace(&Object::new()), "");
        assert!(controller_of(&object).is_none());
    }

    #[test]
    fn prints_times_with_their_fixed_precision() {
        let moment: Timestamp = "2020-02-03T04:05:06.7Z".parse().unwrap();
        assert_eq!(time(moment), "2020-02-03T04:05:06Z");
        assert_eq!(micro_time(moment), "2020-02-03T04:05:06.700000Z");
    }

    proptest! {
        #[test]
        fn generated_names_keep_to_their_length(base in ".{0,80}", entropy in any::<u64>()) {
            let name = generated_name(&base, entropy);
            prop_assert!(name.len() <= 63);
            prop_assert_eq!(&name, &generated_name(&base, entropy));
        }
    }
}
