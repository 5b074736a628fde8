//! Documents of the kinds that are built in.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vaquita_api::registry::{Registry, Resource};

use super::{v2, v2_protobuf, v3};

fn registry() -> Registry {
    let kinds = vaquita_kinds::resources().into_iter();
    Registry::new(
        kinds
            .chain(vaquita_workloads::resources())
            .chain(vaquita_platform::resources()),
    )
}

fn document(group: &str, version: &str) -> Value {
    let registry = registry();
    let own = |resource: &&Resource| resource.group == group && resource.version == version;
    v3(registry.iter().map(AsRef::as_ref).filter(own), "v1.36.0")
}

/// Calls `see` with every reference in `value`.
fn references<'v>(value: &'v Value, see: &mut impl FnMut(&'v str)) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(target) if name == "$ref" => see(target),
                    _ => references(value, see),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, see)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let registry = registry();
    for (group, versions) in registry.groups() {
        for version in versions {
            let document = document(group, version);
            references(&document, &mut |target| {
                let name = target.strip_prefix("#/components/schemas/").expect(target);
                assert!(
                    document["components"]["schemas"].get(name).is_some(),
                    "{group}: {target}"
                );
            });
        }
    }
    let document = v2(registry.iter().map(AsRef::as_ref), "v1.36.0");
    references(&document, &mut |target| {
        let name = target.strip_prefix("#/definitions/").expect(target);
        assert!(document["definitions"].get(name).is_some(), "{target}");
    });
}

#[test]
fn operations_have_names_of_their_own() {
    let registry = registry();
    let document = v2(registry.iter().map(AsRef::as_ref), "v1.36.0");
    let mut seen = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                let id = operation["operationId"].as_str().unwrap();
                assert!(
                    seen.insert(id.to_owned()),
                    "{method} {path}: {id} is there already"
                );
            }
        }
    }
    for id in [
        "createCoreV1NamespacedConfigMap",
        "listCoreV1PodForAllNamespaces",
        "readCoreV1NamespacedPodStatus",
        "deleteCoreV1CollectionNamespacedPod",
        "connectCoreV1GetNamespacedPodExec",
        "replaceRbacAuthorizationV1ClusterRole",
    ] {
        assert!(seen.contains(id), "{id}");
    }
}

#[test]
fn says_how_lists_merge() {
    let document = document("", "v1");
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    let selector = &schemas["io.k8s.api.core.v1.ConfigMapKeySelector"];
    assert_eq!(selector["x-kubernetes-map-type"], "atomic");
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    assert_eq!(
        pod["properties"]["spec"]["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}])
    );
    assert!(!pod["description"].as_str().unwrap().is_empty());
}

#[test]
fn protobuf_holds_the_whole_document() {
    let registry = registry();
    let maps = registry.get("", "v1", "configmaps").unwrap();
    let small = v2([maps.as_ref()], "v1.36.0");
    let bytes = v2_protobuf(&small);
    // swagger, field 1
    assert_eq!(bytes[..5], [0x0a, 3, b'2', b'.', b'0']);
    let text = String::from_utf8_lossy(&bytes);
    for part in [
        "x-kubernetes-group-version-kind",
        "createCoreV1NamespacedConfigMap",
        "binaryData",
    ] {
        assert!(text.contains(part), "{part}");
    }
}
