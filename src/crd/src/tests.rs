//! Declared kinds, from their definition to their objects.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::registry::{Part, Resource, Storage};
use vaquita_api::testing::{assert_stable, causes, changed, created, laws, refused, updated};

use crate::naming::{Taken, decide};

fn definition(versions: &Value) -> CustomResourceDefinition {
    let stored = created(
        &crate::definition::resource(),
        json!({
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"}, "versions": versions,
            },
        }),
    );
    serde_json::from_value(Value::Object(stored)).unwrap()
}

fn schema() -> Value {
    json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "size": {"type": "string", "default": "small"},
            "count": {"type": "integer"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "when": {"type": "string", "format": "date-time"},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"],
                "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
                "x-kubernetes-validations": [
                    {"rule": "self.n >= oldSelf.n", "messageExpression": "'%s may not shrink'.format([self.name])",
                        "reason": "FieldValueForbidden"}],
            }},
        }, "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() || oldSelf.value().size == self.size", "optionalOldSelf": true}]},
    }}})
}

fn resource() -> Resource {
    let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema(),
        "subresources": {"status": {}}}]);
    let compiled = crate::compile(&definition(&versions), None).unwrap();
    compiled.resources.into_iter().next().unwrap()
}

fn widget(spec: &Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn laws_hold() {
    laws::hold(vec![crate::definition::resource()]);
}

#[test]
fn objects_stay_as_they_are_once_stored() {
    let object = created(
        &resource(),
        widget(&json!({"count": 1, "free": {"a": [1, null]}, "pod": {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2020-01-01T00:00:00.5Z"}}})),
    );
    assert_eq!(object["spec"]["size"], "small");
    assert_eq!(
        object["spec"]["pod"]["metadata"]["creationTimestamp"],
        "2020-01-01T00:00:00Z"
    );
    assert_stable(&resource(), &object);
}

#[test]
fn metadata_is_checked_as_for_any_kind() {
    let resource = resource();
    let refuse = |value: Value| resource.decode(value).unwrap_err().message().to_owned();
    let bad = refuse(json!({"metadata": {"name": "a", "labels": {"a": 1}}}));
    assert!(
        bad.contains("json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string"),
        "{bad}"
    );
    let decoded = resource
        .decode(json!({"metadata": {"name": "a", "other": 1}, "more": 1}))
        .unwrap();
    assert_eq!(decoded.unknown, ["metadata.other", "more"]);
    assert_eq!(
        refused(&resource, widget(&json!({"pod": {"metadata": {}}}))),
        [
            "spec.pod.apiVersion: Required value: must not be empty",
            "spec.pod.kind: Required value: must not be empty",
            "<nil>: Invalid value: \"null\": some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
        ]
    );
}

#[test]
fn transitions_are_checked_item_by_item() {
    let resource = resource();
    let old = created(
        &resource,
        widget(&json!({"items": [{"name": "x", "n": 2}, {"name": "y", "n": 5}]})),
    );
    let write = |change: fn(&mut Value)| {
        let mut value = changed(&old, change);
        value["metadata"]["resourceVersion"] = "1".into();
        causes(updated(&resource, &old, value, Part::Main))
    };
    let grown = write(|value| {
        value["spec"]["items"] =
            json!([{"name": "y", "n": 6}, {"name": "z", "n": 0}, {"name": "x", "n": 2}]);
    });
    assert_eq!(grown, [""; 0]);
    let shrunk = write(|value| value["spec"]["items"] = json!([{"name": "y", "n": 4}]));
    assert_eq!(shrunk, ["spec.items[0]: Forbidden: y may not shrink"]);
    let other = write(|value| value["spec"]["size"] = "large".into());
    assert_eq!(
        other,
        [
            "spec: Invalid value: \"object\": failed rule: !oldSelf.hasValue() || oldSelf.value().size == self.size"
        ]
    );
}

#[test]
fn a_write_of_the_status_changes_nothing_else() {
    let resource = resource();
    let old = created(&resource, widget(&json!({"count": 1})));
    let value = changed(&old, |value| {
        value["metadata"]["labels"] = json!({"a": "b"});
        value["metadata"]["resourceVersion"] = "1".into();
        value["spec"]["count"] = 2.into();
    });
    let new = updated(&resource, &old, value, Part::Status).unwrap();
    assert_eq!(new["spec"], old["spec"]);
    assert_eq!(new["metadata"].get("labels"), None);
}

#[test]
fn versions_become_each_other() {
    let versions = json!([
        {"name": "v1", "served": true, "storage": true, "schema": schema()},
        {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": schema()},
        {"name": "v1alpha1", "served": false, "storage": false, "schema": schema()},
    ]);
    let compiled = crate::compile(&definition(&versions), None).unwrap();
    let names: Vec<&str> = compiled
        .resources
        .iter()
        .map(|resource| resource.version.as_str())
        .collect();
    assert_eq!(names, ["v1", "v1beta1"]);
    let old = &compiled.resources[1];
    assert_eq!(
        old.deprecation(),
        Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget")
    );
    let Storage::Versions { stored, convert } = &old.storage else {
        panic!("{:?}", old.storage)
    };
    assert!(!stored);
    let object = |value: Value| -> Object { value.as_object().cloned().unwrap() };
    let stored = object(json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {}}));
    let shown = convert.from_stored(stored).unwrap();
    assert_eq!(
        Value::Object(shown.clone()),
        json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "spec": {"size": "small"}})
    );
    let back = convert.to_stored(shown).unwrap();
    assert_eq!(back["apiVersion"], "example.com/v1");
}

#[test]
fn names_are_given_to_who_comes_first() {
    let versions = json!([{"name": "v1", "served": true, "storage": true, "schema": schema()}]);
    let first = definition(&versions);
    let decision = decide(&first, &Taken::default());
    assert!(decision.established);
    let mut object = Object::new();
    assert!(decision.write(&mut object, Timestamp::UNIX_EPOCH));
    assert!(!decision.write(&mut object, Timestamp::UNIX_EPOCH));
    let status = serde_json::from_value(object["status"].clone()).unwrap();
    let mut taken = Taken::default();
    taken.add(&status);
    let second = decide(&first, &taken);
    assert!(!second.established);
    // Whoever has the names keeps them.
    let mut holder = first;
    holder.status = Some(status);
    assert!(decide(&holder, &taken).established);
}
