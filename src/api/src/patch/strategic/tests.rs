use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod(mut target: Value, patch: Value) -> Value {
    apply(&mut target, patch, &Schema::of::<Pod>()).unwrap();
    target
}

fn refused(mut target: Value, patch: Value) -> String {
    apply(&mut target, patch, &Schema::of::<Pod>())
        .unwrap_err()
        .to_string()
}

#[allow(clippy::needless_pass_by_value)] // reads better where it is called
fn containers(items: Value) -> Value {
    json!({"spec": {"containers": items}})
}

#[test]
fn merges_keyed_lists_by_their_key() {
    let target = containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]));
    let patch = containers(json!([{"name": "b", "image": "z"}]));
    assert_eq!(
        pod(target, patch),
        containers(json!([{"name": "a", "image": "x"}, {"name": "b", "image": "z"}]))
    );
    let target =
        containers(json!([{"name": "a", "env": [{"name": "E", "value": "1"}], "args": ["1"]}]));
    let patch =
        containers(json!([{"name": "a", "env": [{"name": "F", "value": "2"}], "args": ["2"]}]));
    assert_eq!(
        pod(target, patch),
        containers(json!([
            {"name": "a", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "1"}], "args": ["2"]}
        ]))
    );
}

#[test]
fn adds_new_items_before_those_which_only_the_server_knows() {
    let target = containers(json!([{"name": "a"}, {"name": "b"}]));
    let patch = containers(json!([{"name": "new"}, {"name": "b", "image": "x"}]));
    assert_eq!(
        pod(target, patch),
        containers(json!([{"name": "new"}, {"name": "a"}, {"name": "b", "image": "x"}]))
    );
}

#[test]
fn replaces_lists_without_a_key() {
    let target = json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "c"}]}});
    assert_eq!(
        pod(target, patch),
        json!({"spec": {"tolerations": [{"key": "c"}]}})
    );
}

#[test]
fn removes_by_null_and_by_directive() {
    let target = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    assert_eq!(
        pod(target, json!({"metadata": {"labels": {"a": null}}})),
        json!({"metadata": {"labels": {"b": "2"}}})
    );
    let target = containers(json!([{"name": "a"}, {"name": "b"}]));
    let patch = containers(json!([{"name": "a", "$patch": "delete"}]));
    assert_eq!(pod(target, patch), containers(json!([{"name": "b"}])));
    let target = containers(json!([{"name": "a"}, {"name": "b"}]));
    let patch = containers(json!([{"$patch": "replace"}, {"name": "c"}]));
    assert_eq!(pod(target, patch), containers(json!([{"name": "c"}])));
    let target = json!({"metadata": {"labels": {"a": "1"}}});
    let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
    assert_eq!(
        pod(target, patch),
        json!({"metadata": {"labels": {"b": "2"}}})
    );
    let target = json!({"metadata": {"labels": {"a": "1"}}});
    assert_eq!(
        pod(target, json!({"metadata": {"$patch": "delete"}})),
        json!({"metadata": {}})
    );
}

#[test]
fn keeps_directives_out_of_new_values() {
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "a"}],
        "containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}], "image": null}],
        "volumes": [{"$retainKeys": ["name", "emptyDir"], "name": "v", "emptyDir": {}}],
    }});
    assert_eq!(
        pod(json!({}), patch),
        json!({"spec": {"containers": [{"name": "a", "env": []}], "volumes": [{"name": "v", "emptyDir": {}}]}})
    );
}

#[test]
fn retains_keys() {
    let mut target =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    apply(&mut target, patch, &Schema::of::<Deployment>()).unwrap();
    assert_eq!(target, json!({"spec": {"strategy": {"type": "Recreate"}}}));

    let target = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}, "$retainKeys": ["name", "hostPath"]}]}});
    assert_eq!(
        pod(target, patch),
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}})
    );

    let target = json!({"spec": {"volumes": [{"name": "v"}]}});
    let patch =
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "$retainKeys": ["name"]}]}});
    assert_eq!(refused(target, patch), "invalid patch format of retainKeys");
}

#[test]
fn merges_sets() {
    let target = json!({"metadata": {"finalizers": ["a/a", "b/b"]}});
    let patch = json!({"metadata": {"finalizers": ["c/c", "b/b"]}});
    assert_eq!(
        pod(target, patch),
        json!({"metadata": {"finalizers": ["c/c", "a/a", "b/b"]}})
    );
    let target = json!({"metadata": {"finalizers": ["a/a", "b/b"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["a/a"],
        "$setElementOrder/finalizers": ["c/c", "b/b"],
        "finalizers": ["c/c"],
    }});
    assert_eq!(
        pod(target, patch),
        json!({"metadata": {"finalizers": ["c/c", "b/b"]}})
    );
}

#[test]
fn sets_the_order() {
    let target = containers(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new"}],
    }});
    assert_eq!(
        pod(target, patch),
        containers(json!([{"name": "server"}, {"name": "b"}, {"name": "new"}, {"name": "a"}]))
    );
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "c"}]}});
    assert_eq!(
        refused(json!({"spec": {}}), patch),
        "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n"
    );
}

#[test]
fn pairs_numbers_as_well() {
    let mut target = json!({"spec": {"ports": [{"port": 80, "targetPort": 1}, {"port": 81}]}});
    let patch = json!({"spec": {
        "$setElementOrder/ports": [{"port": 80}],
        "ports": [{"port": 80, "targetPort": 2}, {"port": 81, "$patch": "delete"}],
    }});
    apply(&mut target, patch, &Schema::of::<Service>()).unwrap();
    assert_eq!(
        target,
        json!({"spec": {"ports": [{"port": 80, "targetPort": 2}]}})
    );
}

#[test]
fn refuses_what_is_malformed() {
    let target = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    let refused = |patch| refused(target.clone(), patch);
    assert_eq!(
        refused(containers(json!([{"image": "x", "args": ["a", "b"]}]))),
        "map: map[args:[a b] image:x] does not contain declared merge key: name"
    );
    assert_eq!(
        refused(containers(json!(["x"]))),
        "expected a map[string]interface {}, but received a string"
    );
    assert_eq!(
        refused(json!({"$patch": "eat", "a": 1})),
        "unknown patch type: eat in map: map[$patch:eat a:1]"
    );
    assert_eq!(
        refused(containers(json!([{"name": "a", "$patch": "merge"}]))),
        "merging lists cannot yet be specified in the patch"
    );
    assert_eq!(
        refused(json!({"spec": {"$setElementOrder/containers": 1}})),
        "expected a []interface {}, but received a int64"
    );
    assert_eq!(
        refused(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}})),
        "invalid patch format of primitive list"
    );
    assert_eq!(
        refused(json!([])),
        "json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
}

/// The walk-through "Update API Objects in Place Using kubectl patch" of the documentation, and what kubectl makes of
/// such changes.
#[test]
fn follows_the_documentation() {
    let deployment = |mut target: Value, patch: Value| {
        apply(&mut target, patch, &Schema::of::<Deployment>()).unwrap();
        target
    };
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let start = pod(json!({
        "containers": [{"name": "patch-demo-ctr", "image": "nginx"}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}],
    }));
    let two = deployment(
        start,
        pod(json!({"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}]})),
    );
    assert_eq!(
        two["spec"]["template"]["spec"]["containers"],
        json!([{"name": "patch-demo-ctr-2", "image": "redis"}, {"name": "patch-demo-ctr", "image": "nginx"}])
    );
    let tolerant = json!([{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]);
    let patched = deployment(two, pod(json!({"tolerations": tolerant.clone()})));
    assert_eq!(patched["spec"]["template"]["spec"]["tolerations"], tolerant);

    let rolling = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "30%"}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(
        deployment(rolling, patch),
        json!({"spec": {"strategy": {"type": "Recreate"}}})
    );

    // A change of one item of several, one removed and one added, as `kubectl apply` sends it.
    let start = pod(json!({"containers": [{"name": "c", "env": [
        {"name": "KEEP", "value": "1"}, {"name": "OTHERS", "value": "1"}, {"name": "GO", "value": "1"},
    ]}]}));
    let patch = pod(json!({
        "$setElementOrder/containers": [{"name": "c"}],
        "containers": [{
            "name": "c", "$setElementOrder/env": [{"name": "NEW"}, {"name": "KEEP"}],
            "env": [{"name": "NEW", "value": "2"}, {"name": "KEEP", "value": "2"}, {"$patch": "delete", "name": "GO"}],
        }],
    }));
    assert_eq!(
        deployment(start, patch),
        pod(json!({"containers": [{"name": "c", "env": [
            {"name": "NEW", "value": "2"}, {"name": "KEEP", "value": "2"}, {"name": "OTHERS", "value": "1"},
        ]}]}))
    );
    // A container goes as a whole; a map is emptied, and is replaced.
    let start = pod(json!({
        "containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}, "securityContext": {"runAsUser": 1},
    }));
    let patch = pod(json!({
        "containers": [{"$patch": "delete", "name": "a"}], "nodeSelector": {"$patch": "delete"},
        "securityContext": {"$patch": "replace", "runAsGroup": 2},
    }));
    assert_eq!(
        deployment(start, patch),
        pod(
            json!({"containers": [{"name": "b"}], "nodeSelector": {}, "securityContext": {"runAsGroup": 2}})
        )
    );
}

#[test]
fn costs_no_more_than_its_length() {
    let many = |value: &str| -> Vec<Value> {
        (0..20_000)
            .map(|n| json!({"name": format!("e{n}"), "value": value}))
            .collect()
    };
    let target = containers(json!([{"name": "a", "env": many("1")}]));
    let merged = pod(target, containers(json!([{"name": "a", "env": many("2")}])));
    assert_eq!(merged, containers(json!([{"name": "a", "env": many("2")}])));
}

fn env() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::btree_map("[a-f]", "[0-9]", 0..6).prop_map(|map| {
        map.into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect()
    })
}

proptest! {
    /// Merging keyed lists is the union of their keys, the patch winning; the same patch again changes nothing.
    #[test]
    fn is_idempotent_and_complete(old in env().prop_shuffle(), new in env().prop_shuffle()) {
        let target = containers(json!([{"name": "c", "env": old}]));
        let patch = containers(json!([{"name": "c", "env": new}]));
        let once = pod(target, patch.clone());
        prop_assert_eq!(&pod(once.clone(), patch), &once);
        let merged = once["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        for item in &new {
            prop_assert!(merged.contains(item));
        }
        for item in &old {
            let overridden = new.iter().any(|other| other["name"] == item["name"]);
            prop_assert_eq!(merged.contains(item), !overridden || new.contains(item));
        }
        let names: std::collections::HashSet<String> = merged.iter().map(|item| item["name"].to_string()).collect();
        prop_assert_eq!(names.len(), merged.len());
    }

    /// An order that names all items is the order of the result.
    #[test]
    fn order_is_obeyed(names in prop::collection::vec("[a-h]", 1..8).prop_map(|mut v| { v.sort(); v.dedup(); v }).prop_shuffle()) {
        let mut sorted = names.clone();
        sorted.sort();
        let keyed = |names: &[String]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
        let target = containers(json!(keyed(&sorted)));
        let patch = json!({"spec": {"$setElementOrder/containers": keyed(&names)}});
        prop_assert_eq!(pod(target, patch), containers(json!(keyed(&names))));
    }
}
