//! `metadata`, for every kind (k8s.io/apimachinery `pkg/api/validation/objectmeta.go`).

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{Errors, FieldError, Path};
use crate::names::{self, Problems};
use crate::{Object, meta};

/// The most that all annotations of an object may take, keys and values, in bytes.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// An object that is to be created; it has its name and namespace by now.
pub fn create(
    object: &Object,
    namespaced: bool,
    name_check: fn(&str) -> Problems,
    errors: &mut Errors,
) {
    let metadata = Path::root("metadata");
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(FieldError::required(
            &metadata.child("name"),
            "name or generateName is required",
        ));
    } else {
        invalid(
            &metadata.child("name"),
            name,
            names::path_segment(name),
            errors,
        );
        invalid(&metadata.child("name"), name, name_check(name), errors);
    }
    if let Some(base) = Some(meta::generate_name(object)).filter(|base| !base.is_empty()) {
        // Something that may end a name follows.
        let name = base.strip_suffix('-').map(|start| format!("{start}a"));
        let problems = name_check(name.as_deref().unwrap_or(base));
        invalid(&metadata.child("generateName"), base, problems, errors);
    }
    let namespace = meta::namespace(object);
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required(&metadata.child("namespace"), ""));
        } else {
            invalid(
                &metadata.child("namespace"),
                namespace,
                names::dns1123_label(namespace),
                errors,
            );
        }
    }
    common(object, errors);
}

/// An object that is to replace `old`.
pub fn update(new: &Object, old: &Object, errors: &mut Errors) {
    let metadata = Path::root("metadata");
    for (field, get) in [
        ("name", meta::name as fn(&Object) -> &str),
        ("namespace", meta::namespace),
        ("uid", meta::uid),
    ] {
        if get(new) != get(old) {
            errors.push(FieldError::invalid(
                &metadata.child(field),
                get(new),
                "field is immutable",
            ));
        }
    }
    if meta::deletion_timestamp(old).is_some() {
        let before: HashSet<&str> = meta::finalizers(old).collect();
        let added: Vec<String> = meta::finalizers(new)
            .filter(|finalizer| !before.contains(finalizer))
            .map(|finalizer| format!("{finalizer:?}"))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden(&metadata.child("finalizers"), detail));
        }
    }
    common(new, errors);
}

fn common(object: &Object, errors: &mut Errors) {
    parts(object, &Path::root("metadata"), errors);
}

/// Labels, annotations, finalizers and owners of an object, or of one inside of another whose metadata is at `metadata`.
pub fn parts(object: &Object, metadata: &Path<'_>, errors: &mut Errors) {
    if let Some(Value::Object(map)) = meta::at(object, &["metadata", "labels"]) {
        labels(
            map.iter()
                .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())),
            &metadata.child("labels"),
            errors,
        );
    }
    if let Some(Value::Object(map)) = meta::at(object, &["metadata", "annotations"]) {
        annotations(
            map.iter()
                .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())),
            &metadata.child("annotations"),
            errors,
        );
    }
    finalizers(object, &metadata.child("finalizers"), errors);
    owner_references(
        meta::owner_references(object),
        &metadata.child("ownerReferences"),
        errors,
    );
}

/// The finalizers that have no prefix.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

fn finalizers(object: &Object, path: &Path<'_>, errors: &mut Errors) {
    for finalizer in meta::finalizers(object) {
        finalizer_name(finalizer, path, errors);
    }
    let has = |name| meta::finalizers(object).any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        const DETAIL: &str = "finalizer orphan and foregroundDeletion cannot be both set";
        let all: Vec<&str> = meta::finalizers(object).collect();
        errors.push(FieldError::invalid(path, json!(all), DETAIL));
    }
}

/// A finalizer is one of the standard ones, or has a prefix that says whose it is.
pub fn finalizer_name(finalizer: &str, path: &Path<'_>, errors: &mut Errors) {
    invalid(path, finalizer, names::qualified_name(finalizer), errors);
    if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        const DETAIL: &str = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, finalizer, DETAIL));
    }
}

/// Adds an error for each rule that `value` breaks.
pub fn invalid(path: &Path<'_>, value: &str, problems: Problems, errors: &mut Errors) {
    errors.extend(
        problems
            .into_iter()
            .map(|problem| FieldError::invalid(path, value, problem)),
    );
}

/// Keys and values of labels.
pub fn labels<'l>(
    labels: impl IntoIterator<Item = (&'l str, &'l str)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (key, value) in labels {
        invalid(path, key, names::qualified_name(key), errors);
        invalid(path, value, names::label_value(value), errors);
    }
}

/// Keys of annotations, and the size of the whole.
pub fn annotations<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut size = 0;
    for (key, value) in annotations {
        invalid(
            path,
            key,
            names::qualified_name(&key.to_lowercase()),
            errors,
        );
        size += key.len() + value.len();
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
}

fn owner_references(owners: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<&Value> = None;
    for owner in owners {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let api_version = text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() || api_version.matches('/').count() > 1 {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(
                    &path.child(field),
                    "",
                    "must not be empty",
                ));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if owner["controller"] == true {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first["name"].as_str().unwrap_or_default(),
                    text("name")
                );
                errors.push(FieldError::invalid(
                    path,
                    Value::Array(owners.to_vec()),
                    detail,
                ));
                return;
            }
            controller = Some(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    fn on_create(metadata: &Value) -> Vec<String> {
        let mut errors = Errors::default();
        create(
            &object(json!({"metadata": metadata})),
            true,
            names::dns1123_subdomain,
            &mut errors,
        );
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_bad_names_labels_and_annotations() {
        assert_eq!(
            on_create(&json!({"name": "a", "namespace": "b", "labels": {"x/y": ""}})),
            [""; 0]
        );
        assert_eq!(
            on_create(&json!({"namespace": "b"})),
            ["metadata.name: Required value: name or generateName is required"]
        );
        let errors = on_create(&json!({"name": "A", "namespace": "b", "labels": {"a b": "c d"}}));
        assert_eq!(errors.len(), 3);
        assert!(
            errors[0]
                .starts_with("metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain")
        );
        assert!(
            errors[1]
                .starts_with("metadata.labels: Invalid value: \"a b\": name part must consist of")
        );
        let huge = "x".repeat(ANNOTATIONS_MAX);
        assert_eq!(
            on_create(&json!({"name": "a", "namespace": "b", "annotations": {"x": huge}})),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn allows_one_controller() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        assert_eq!(
            on_create(&json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x")]})),
            [""; 0]
        );
        let errors = on_create(
            &json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x"), owner("y")]}),
        );
        assert!(
            errors[0].ends_with("Found \"true\" in references for x and y"),
            "{errors:?}"
        );
    }

    #[test]
    fn looks_at_the_base_of_generated_names() {
        let generated =
            |base| on_create(&json!({"name": "x", "generateName": base, "namespace": "b"}));
        assert_eq!(generated("web-"), [""; 0]);
        assert_eq!(generated("Web-").len(), 1);
    }

    #[test]
    fn knows_finalizers() {
        let with =
            |list: Value| on_create(&json!({"name": "x", "namespace": "b", "finalizers": list}));
        assert_eq!(with(json!(["example.com/mine", "orphan"])), [""; 0]);
        assert_eq!(with(json!(["mine"])).len(), 1);
        assert_eq!(with(json!(["orphan", "foregroundDeletion"])).len(), 1);
    }

    #[test]
    fn keeps_identity_on_update() {
        let old = object(
            json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["a/b"]}}),
        );
        let new =
            object(json!({"metadata": {"name": "b", "uid": "2", "finalizers": ["a/b", "c/d"]}}));
        let mut errors = Errors::default();
        update(&new, &old, &mut errors);
        let fields: Vec<&str> = errors.iter().map(FieldError::field).collect();
        assert_eq!(
            fields,
            ["metadata.name", "metadata.uid", "metadata.finalizers"]
        );
    }
}
