//! Definitions that are accepted, and those that are not.

#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    reason = "tables of cases"
)]

use serde_json::{Value, json};
use vaquita_api::Object;
use vaquita_api::registry::Part;
use vaquita_api::testing::{changed, created, refused, updated};

use super::resource;

fn definition(schema: Value) -> Value {
    json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wi"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn spec(properties: Value) -> Value {
    definition(json!({
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": properties}},
    }))
}

#[track_caller]
fn refuses(value: Value, causes: &[&str]) {
    assert_eq!(refused(&resource(), value), causes);
}

fn stored(value: Value) -> Object {
    created(&resource(), value)
}

#[test]
fn fills_in_names_and_conversion() {
    let stored = stored(spec(json!({"a": {"type": "string"}})));
    let names = &stored["spec"]["names"];
    assert_eq!(names["singular"], "widget");
    assert_eq!(names["listKind"], "WidgetList");
    assert_eq!(stored["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(stored["status"]["storedVersions"], json!(["v1"]));
    vaquita_api::testing::assert_stable(&resource(), &stored);
}

#[test]
fn refuses_bad_names() {
    let mut value = spec(json!({}));
    value["metadata"]["name"] = "widget".into();
    refuses(
        value,
        &[r#"metadata.name: Invalid value: "widget": must be spec.names.plural+"."+spec.group"#],
    );
    let mut value = spec(json!({}));
    value["spec"]["scope"] = "Both".into();
    refuses(
        value,
        &[r#"spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced""#],
    );
    let mut value = spec(json!({}));
    value["spec"]["names"]["listKind"] = "Widget".into();
    refuses(
        value,
        &[r#"spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same"#],
    );
    let mut value = spec(json!({}));
    value["spec"]["group"] = "widgets.k8s.io".into();
    value["metadata"]["name"] = "widgets.widgets.k8s.io".into();
    refuses(
        value,
        &[
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval \
           annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ],
    );
}

#[test]
fn wants_one_storage_version_and_schemas() {
    let mut value = spec(json!({}));
    value["spec"]["versions"][0]["storage"] = false.into();
    let found = refused(&resource(), value);
    assert!(
        found[0].ends_with("must have exactly one version marked as storage version"),
        "{found:?}"
    );
    let mut value = spec(json!({}));
    value["spec"]["versions"][0]["schema"] = Value::Null;
    refuses(
        value,
        &["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"],
    );
}

#[test]
fn wants_structural_schemas() {
    refuses(
        spec(json!({"a": {}})),
        &[
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Required value: must not be empty for \
           specified object fields",
        ],
    );
    refuses(
        spec(json!({"a": {"type": "array"}})),
        &[
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].items: Required value: must be specified",
        ],
    );
    refuses(
        definition(
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
        ),
        &[
            "spec.validation.openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and \
           generateName, but metadata is implicitly specified",
        ],
    );
    refuses(
        definition(
            json!({"type": "object", "anyOf": [{"required": ["spec"], "properties": {"spec": {"type": "object"}}}]}),
        ),
        &[
            "spec.validation.openAPIV3Schema.anyOf[0].properties[spec].type: Forbidden: must be empty to be structural",
            "spec.validation.openAPIV3Schema.properties[spec]: Required value: because it is defined in \
             spec.validation.openAPIV3Schema.anyOf[0].properties[spec]",
        ],
    );
    refuses(
        spec(json!({"a": {"type": "string", "$ref": "#/x"}})),
        &[
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].$ref: Forbidden: $ref is not supported",
        ],
    );
    refuses(
        spec(json!({"a": {"type": "text"}})),
        &[
            "spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Unsupported value: \"text\": supported \
           values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
    stored(spec(json!({
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
        "either": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
    })));
}

#[test]
fn wants_sound_lists() {
    let path = "spec.validation.openAPIV3Schema.properties[spec].properties[a]";
    let items = json!({"type": "object", "properties": {"k": {"type": "string"}}});
    refuses(
        spec(
            json!({"a": {"type": "array", "items": items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}}),
        ),
        &[&format!(
            "{path}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must \
             have a default or be a required property"
        )],
    );
    refuses(
        spec(json!({"a": {"type": "array", "items": items, "x-kubernetes-list-type": "map"}})),
        &[&format!(
            "{path}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
        )],
    );
}

#[test]
fn wants_defaults_that_fit() {
    let path = "spec.validation.openAPIV3Schema.properties[spec].properties[a].default";
    refuses(
        spec(json!({"a": {"type": "integer", "default": "x"}})),
        &[&format!(
            r#"{path}: Invalid value: "string": {path} in body must be of type integer: "string""#
        )],
    );
    refuses(
        spec(json!({"a": {"type": "object", "properties": {}, "default": {"b": 1}}})),
        &[&format!(
            r#"{path}: Invalid value: {{"b":1}}: must be a pruned default value"#
        )],
    );
}

#[test]
fn compiles_rules() {
    let rule = |rule: &str| {
        definition(json!({"type": "object", "properties": {"spec": {
            "type": "object", "properties": {"n": {"type": "integer"}, "list": {"type": "array", "items": {
                "type": "object", "properties": {"m": {"type": "integer"}}}}},
            "x-kubernetes-validations": [{"rule": rule}],
        }}}))
    };
    stored(rule("self.n > 1"));
    let found = refused(&resource(), rule("self.m > 1"));
    assert!(found[0].starts_with(
        "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: "
    ));
    assert!(
        found[0].contains("compilation failed: ERROR: <input>:1:5: undefined field 'm'"),
        "{found:?}"
    );
    let found = refused(&resource(), rule("self.n"));
    assert!(
        found[0].ends_with("cel expression must evaluate to a bool"),
        "{found:?}"
    );
    let found = refused(&resource(), rule(" "));
    assert!(
        found[0].ends_with("Required value: rule is not specified"),
        "{found:?}"
    );
    let inside = definition(
        json!({"type": "object", "properties": {"list": {"type": "array", "items": {
        "type": "object", "properties": {"m": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.m == oldSelf.m"}]}}}}),
    );
    let found = refused(&resource(), inside);
    assert!(
        found[0].ends_with(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within \
                            spec.validation.openAPIV3Schema.properties[list]"
        ),
        "{found:?}"
    );
}

#[test]
fn wants_columns_scales_and_selectable_fields_that_make_sense() {
    let mut value = spec(json!({"color": {"type": "string"}, "o": {"type": "object"}}));
    let version = &mut value["spec"]["versions"][0];
    version["additionalPrinterColumns"] =
        json!([{"name": "C", "type": "text", "jsonPath": "spec.color"}]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.o"}, {"jsonPath": ".spec.nope"}]);
    version["subresources"] =
        json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.x"}});
    let found = refused(&resource(), value);
    for part in [
        "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec.color\": must be a simple json path starting with .",
        "spec.subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec",
        "spec.selectableFields[0].jsonPath: Invalid value: \".spec.o\": must point to a field of type string, boolean or \
         integer. Enum string fields and strings with formats are allowed.",
        "spec.selectableFields[1].jsonPath: Invalid value: \".spec.nope\": is an invalid path: does not refer to a valid field",
    ] {
        assert!(
            found.iter().any(|cause| cause == part),
            "{part}: {found:#?}"
        );
    }
}

#[test]
fn keeps_stored_versions_and_identity() {
    let old = stored(spec(json!({"a": {"type": "string"}})));
    let renamed = changed(&old, |value| {
        value["metadata"]["resourceVersion"] = "1".into();
        value["spec"]["versions"][0]["name"] = "v2".into();
    });
    let found = vaquita_api::testing::causes(updated(&resource(), &old, renamed, Part::Main));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version"));
    let moved = changed(&old, |value| {
        value["metadata"]["resourceVersion"] = "1".into();
        value["spec"]["group"] = "example.org".into();
    });
    let found = vaquita_api::testing::causes(updated(&resource(), &old, moved, Part::Main));
    assert!(
        found
            .iter()
            .any(|cause| cause == "spec.group: Invalid value: \"example.org\": field is immutable"),
        "{found:?}"
    );
}

#[test]
fn checks_webhooks() {
    let mut value = spec(json!({}));
    value["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let found = refused(&resource(), value);
    assert_eq!(
        found,
        [
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.conversion.conversionReviewVersions: Required value",
        ]
    );
    let mut value = spec(json!({}));
    value["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": {"service": {"name": "a", "namespace": "b"}}, "conversionReviewVersions": ["v1"]}});
    let stored = stored(value);
    assert_eq!(
        stored["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"],
        443
    );
}

#[test]
fn a_deletion_waits_for_the_objects() {
    let mut object = stored(spec(json!({})));
    resource()
        .rules
        .begin_deletion(&mut object, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(
        object["metadata"]["finalizers"],
        json!([crate::naming::CLEANUP])
    );
    assert_eq!(
        object["status"]["conditions"][0]["reason"],
        "InstanceDeletionPending"
    );
    crate::naming::terminate(
        &mut object,
        &crate::naming::Termination::Completed,
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(object["metadata"].get("finalizers"), None);
    assert_eq!(object["status"]["conditions"][0]["status"], "False");
}
