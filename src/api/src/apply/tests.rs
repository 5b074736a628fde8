use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use serde_json::json;

use super::*;
use crate::schema::{Builder, Field, Grain, ListKey, ListType, Type};

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A cluster of one object.
struct Play {
    schema: Schema,
    api_version: &'static str,
    live: Option<Object>,
    second: i64,
}

impl Play {
    fn of<T: serde::de::DeserializeOwned>(api_version: &'static str) -> Self {
        Self::with(Schema::of::<T>(), api_version)
    }

    fn with(schema: Schema, api_version: &'static str) -> Self {
        Self {
            schema,
            api_version,
            live: None,
            second: 0,
        }
    }

    fn manager(&mut self, name: &str) -> Manager {
        self.second += 1;
        let (name, subresource) = name.split_once('/').unwrap_or((name, ""));
        Manager {
            name: name.to_owned(),
            api_version: self.api_version.to_owned(),
            subresource: subresource.to_owned(),
            time: at(self.second),
            reset: Reset::of(subresource, true),
        }
    }

    /// Writes the object in any other way than by applying it.
    fn update(&mut self, name: &str, new: Value) {
        let manager = self.manager(name);
        let mut new = object(new);
        track(&self.schema, self.live.as_ref(), &mut new, &manager);
        self.live = Some(new);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut new = Value::Object(self.live.clone().unwrap());
        change(&mut new);
        self.update(name, new);
    }

    fn try_apply(&mut self, name: &str, wanted: Value, force: bool) -> Result<(), ApplyError> {
        let manager = self.manager(name);
        let wanted = object(wanted);
        let new = apply(&self.schema, self.live.as_ref(), &wanted, &manager, force)?;
        self.live = Some(new);
        Ok(())
    }

    fn apply(&mut self, name: &str, wanted: Value) {
        self.try_apply(name, wanted, false).unwrap();
    }

    fn conflicts(&mut self, name: &str, wanted: Value) -> Vec<String> {
        match self.try_apply(name, wanted, false) {
            Err(ApplyError::Conflicts(conflicts)) => conflicts
                .into_iter()
                .map(|conflict| format!("{} {}", conflict.manager, conflict.path))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    fn mistakes(&mut self, wanted: Value) -> String {
        match self.try_apply("a", wanted, false) {
            Err(ApplyError::Configuration { mistakes, .. }) => mistakes,
            other => panic!("{other:?}"),
        }
    }

    fn entries(&self) -> Vec<Value> {
        let list = meta::at(self.live.as_ref().unwrap(), &["metadata", "managedFields"]);
        list.and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// Who manages the object, in the order of the list.
    fn managers(&self) -> Vec<String> {
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("").to_owned();
        self.entries()
            .iter()
            .map(|entry| format!("{} {}", text(entry, "operation"), text(entry, "manager")))
            .collect()
    }

    /// The fields of a manager's first entry.
    fn fields(&self, name: &str) -> Value {
        let entry = self
            .entries()
            .into_iter()
            .find(|entry| entry["manager"] == name)
            .unwrap_or_else(|| panic!("{name} owns nothing: {:?}", self.managers()));
        entry["fieldsV1"].clone()
    }

    fn at(&self, pointer: &str) -> Value {
        let live = Value::Object(self.live.clone().unwrap());
        live.pointer(pointer).cloned().unwrap_or(Value::Null)
    }
}

fn config_map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn deployment(spec: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

#[test]
fn records_a_creation_as_upstream_does() {
    let mut play = Play::of::<Deployment>("apps/v1");
    play.update(
        "console",
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default", "labels": {"app": "a"}, "uid": "u", "generation": 1},
            "spec": {
                "replicas": 1, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "a"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
                    "containers": [{
                        "name": "c", "image": "i", "resources": {}, "args": ["x"],
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    }],
                    "restartPolicy": "Always", "securityContext": {},
                }},
            },
            "status": {"replicas": 1},
        }),
    );
    assert_eq!(
        play.entries(),
        [json!({
            "manager": "console", "operation": "Update", "apiVersion": "apps/v1", "time": "1970-01-12T13:46:41Z",
            "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
                    "f:strategy": {
                        "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {},
                    },
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {
                            "f:containers": {"k:{\"name\":\"c\"}": {
                                ".": {}, "f:args": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                                "f:ports": {
                                    ".": {},
                                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                        ".": {}, "f:containerPort": {}, "f:protocol": {},
                                    },
                                },
                            }},
                            "f:restartPolicy": {}, "f:securityContext": {},
                        },
                    },
                },
            },
        })]
    );
}

#[test]
fn a_status_belongs_to_whoever_writes_it_below_the_object() {
    let mut play = Play::of::<Deployment>("apps/v1");
    play.update("kubectl-create", deployment(&json!({"replicas": 1})));
    play.change("controller/status", |new| {
        new["status"] =
            json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
        // What a subresource says about managers is not heard.
        new["metadata"]["managedFields"] = json!([{}]);
    });
    let entries = play.entries();
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(
        entries[1]["fieldsV1"],
        json!({"f:status": {
            "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}},
            "f:replicas": {},
        }})
    );
}

#[test]
fn ownership_moves_with_updates() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.update("a", config_map(&json!({"x": "1", "y": "1"})));
    play.change("b", |new| new["data"]["x"] = "2".into());
    assert_eq!(play.fields("a"), json!({"f:data": {".": {}, "f:y": {}}}));
    assert_eq!(play.fields("b"), json!({"f:data": {"f:x": {}}}));
    // A change of nothing changes nothing, not even times.
    let before = play.live.clone();
    play.change("c", |_| {});
    play.change("c", |new| new["metadata"]["managedFields"] = json!([]));
    assert_eq!(play.live, before);
    play.change("c", |new| {
        drop(new["data"].as_object_mut().unwrap().remove("y"));
    });
    assert_eq!(play.managers(), ["Update a", "Update b"]);
    assert_eq!(play.fields("a"), json!({"f:data": {}}));
}

#[test]
fn many_updaters_become_ancient() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.update("m0", config_map(&json!({"x": "0"})));
    for n in 1..20 {
        play.change(&format!("m{n}"), |new| {
            new["data"][format!("k{n}")] = "1".into();
        });
    }
    let managers = play.managers();
    assert_eq!(managers.len(), 10, "{managers:?}");
    assert_eq!(managers[0], "Update ancient-changes");
    assert_eq!(managers[9], "Update m19");
    assert_eq!(play.fields("ancient-changes")["f:data"]["f:k10"], json!({}));
}

#[test]
fn a_list_of_one_empty_entry_resets() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.update("a", config_map(&json!({"x": "1"})));
    play.change("b", |new| {
        new["metadata"]["managedFields"] = json!([{}]);
        new["data"]["x"] = "2".into();
    });
    assert_eq!(play.entries(), [json!(null); 0]);
    play.change("b", |new| new["data"]["x"] = "3".into());
    assert_eq!(play.entries(), [json!(null); 0]);
    play.apply("c", config_map(&json!({"z": "1"})));
    assert_eq!(play.managers(), ["Apply c", "Update before-first-apply"]);
    assert_eq!(
        play.fields("before-first-apply"),
        json!({"f:data": {".": {}, "f:x": {}}})
    );
}

#[test]
fn a_client_may_edit_the_list() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.update("a", config_map(&json!({"x": "1"})));
    play.change("b", |new| {
        new["metadata"]["managedFields"][0]["manager"] = "z".into();
    });
    assert_eq!(play.managers(), ["Update z"]);
    play.change("b", |new| {
        new["metadata"]["managedFields"][0]["fieldsV1"] = 1.into();
    });
    assert_eq!(play.managers(), ["Update z"]);
}

#[test]
fn applying_merges_and_conflicts() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.apply("a", config_map(&json!({"key": "some value"})));
    assert_eq!(play.fields("a"), json!({"f:data": {"f:key": {}}}));
    assert_eq!(play.entries()[0]["operation"], "Apply");
    play.change("kube-controller-manager", |new| {
        new["data"]["key"] = "new value".into();
    });
    assert_eq!(play.managers(), ["Update kube-controller-manager"]);
    assert_eq!(
        play.conflicts("a", config_map(&json!({"key": "some value"}))),
        [r#""kube-controller-manager" using v1 .data.key"#]
    );
    // The same value is no conflict, and both own it then.
    play.apply("a", config_map(&json!({"key": "new value"})));
    assert_eq!(
        play.managers(),
        ["Apply a", "Update kube-controller-manager"]
    );
    play.try_apply("b", config_map(&json!({"key": "forced"})), true)
        .unwrap();
    assert_eq!(play.managers(), ["Apply b"]);
    assert_eq!(play.at("/data/key"), "forced");
}

#[test]
fn tells_conflicts_in_upstreams_words() {
    let mut play = Play::of::<Deployment>("apps/v1");
    play.apply("a", deployment(&json!({"replicas": 1, "paused": true})));
    let refused = play.try_apply("b", deployment(&json!({"replicas": 2})), false);
    let status = Status::from(refused.unwrap_err()).to_value();
    assert_eq!(status["code"], 409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["message"],
        r#"Apply failed with 1 conflict: conflict with "a": .spec.replicas"#
    );
    assert_eq!(
        status["details"],
        json!({"causes": [{
            "reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".spec.replicas",
        }]})
    );
    play.change("x/scale", |new| new["spec"]["replicas"] = 5.into());
    let refused = play.try_apply(
        "b",
        deployment(&json!({"replicas": 2, "paused": false})),
        false,
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.paused\n\
         conflicts with \"x\" with subresource \"scale\" using apps/v1:\n- .spec.replicas"
    );
}

#[test]
fn what_is_not_applied_any_more_goes_unless_others_own_it() {
    let mut play = Play::of::<ConfigMap>("v1");
    play.apply("a", config_map(&json!({"mine": "1", "ours": "1"})));
    play.apply("b", config_map(&json!({"ours": "1"})));
    play.change("c", |new| new["data"]["theirs"] = "1".into());
    play.apply(
        "a",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
    );
    assert_eq!(play.at("/data"), json!({"ours": "1", "theirs": "1"}));
    assert_eq!(play.managers(), ["Apply b", "Update c"]);
    // Nobody else's: the whole map goes.
    let mut play = Play::of::<ConfigMap>("v1");
    play.apply("a", config_map(&json!({"x": "1"})));
    play.apply(
        "a",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}),
    );
    assert_eq!(play.at("/data"), Value::Null);
    assert_eq!(play.at("/metadata/name"), "c");
}

#[test]
fn items_of_keyed_lists_have_owners() {
    let mut play = Play::of::<Service>("v1");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    play.apply(
        "a",
        service(json!([{"port": 80, "name": "http"}, {"port": 443, "name": "https"}])),
    );
    play.apply("b", service(json!([{"port": 80, "protocol": "UDP"}])));
    assert_eq!(
        play.at("/spec/ports"),
        json!([
            {"port": 80, "name": "http"}, {"port": 443, "name": "https"}, {"port": 80, "protocol": "UDP"},
        ])
    );
    assert_eq!(
        play.fields("b")["f:spec"]["f:ports"],
        json!({"k:{\"port\":80,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}}})
    );
    // The default of a key is as good as the key.
    assert_eq!(
        play.conflicts(
            "b",
            service(json!([{"port": 80, "protocol": "TCP", "name": "web"}]))
        ),
        [r#""a" .spec.ports[port=80,protocol="TCP"].name"#]
    );
    // Items left out go, whatever others put into them.
    play.change("c", |new| {
        new["spec"]["ports"][1]["nodePort"] = 30443.into();
    });
    play.apply("a", service(json!([])));
    assert_eq!(
        play.at("/spec/ports"),
        json!([{"port": 80, "protocol": "UDP"}])
    );
}

#[test]
fn sets_merge_and_atomic_lists_do_not() {
    let mut play = Play::of::<Pod>("v1");
    let pod = |finalizers: Value, args: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": finalizers},
            "spec": {"containers": [{"name": "c", "args": args}]},
        })
    };
    play.apply("a", pod(json!(["x/a", "x/b"]), json!(["1", "2"])));
    assert_eq!(
        play.conflicts("b", pod(json!(["x/c"]), json!(["3"]))),
        [r#""a" .spec.containers[name="c"].args"#]
    );
    play.apply("b", json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["x/c", "x/b"]}}));
    assert_eq!(
        play.at("/metadata/finalizers"),
        json!(["x/a", "x/c", "x/b"])
    );
    assert_eq!(
        play.fields("b"),
        json!({"f:metadata": {"f:finalizers": {"v:\"x/b\"": {}, "v:\"x/c\"": {}}}})
    );
    play.apply("a", pod(json!([]), json!(["1"])));
    assert_eq!(play.at("/metadata/finalizers"), json!(["x/c", "x/b"]));
}

#[test]
fn order_follows_the_configuration() {
    let mut play = Play::of::<Pod>("v1");
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    let mut order = |live: &[&str], wanted: &[&str]| -> String {
        play.live = None;
        play.update("u", pod(live));
        play.apply("a", pod(wanted));
        let containers = play.at("/spec/containers");
        let names = containers.as_array().unwrap().iter();
        names.map(|item| item["name"].as_str().unwrap()).collect()
    };
    assert_eq!(order(&["a", "b"], &["n", "a"]), "nab");
    assert_eq!(order(&["a", "b", "c"], &["c", "a"]), "bca");
    assert_eq!(order(&["x", "a", "y", "b", "z"], &["a", "b"]), "xaybz");
    assert_eq!(order(&["x"], &["a", "b"]), "xab");
    assert_eq!(order(&[], &["b", "a"]), "ba");
}

#[test]
fn refuses_what_does_not_fit() {
    let mut play = Play::of::<Deployment>("apps/v1");
    assert_eq!(
        play.mistakes(deployment(&json!({"replica": 1}))),
        ".spec.replica: field not declared in schema"
    );
    assert_eq!(
        play.mistakes(deployment(
            &json!({"replicas": "1", "paused": "x", "template": []})
        )),
        "errors:\n  .spec.paused: expected boolean, got &value.valueUnstructured{Value:\"x\"}\n  \
         .spec.replicas: expected numeric (int or float), got string\n  .spec.template: expected map, got &{[]}"
    );
    let twice = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
    assert_eq!(
        play.mistakes(deployment(&twice)),
        ".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"
    );
    let env = json!({"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "P", "value": 3306}]}]}}});
    let refused = play.try_apply("a", deployment(&env), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers[name=\"a\"].env[name=\"P\"].value: \
         expected string, got &value.valueUnstructured{Value:3306}"
    );
    assert_eq!(Status::from(refused).code(), 500);
    let mut managed = deployment(&json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    let refused = play.try_apply("a", managed, false).unwrap_err();
    assert_eq!(refused, ApplyError::ManagedFields);
    let refused = play
        .try_apply("a", config_map(&json!({})), false)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Incorrect version specified in apply patch. Specified patch version: v1, expected: apps/v1"
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut play = Play::of::<Deployment>("apps/v1");
    let wanted = deployment(&json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}));
    play.apply("a", wanted.clone());
    let before = play.live.clone();
    play.apply("a", wanted.clone());
    assert_eq!(play.live, before);
    // Seen from outside, a write of nothing but times is idle.
    let mut touched = play.live.clone().unwrap();
    touched["metadata"]["managedFields"][0]["time"] = "2020-01-01T00:00:00Z".into();
    assert!(is_idle(before.as_ref().unwrap(), &touched));
    touched["metadata"]["managedFields"][0]["manager"] = "z".into();
    assert!(!is_idle(before.as_ref().unwrap(), &touched));
}

#[test]
fn applies_a_status_apart_from_the_rest() {
    let mut play = Play::of::<Node>("v1");
    let node = |spec: Value, status: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec, "status": status});
    play.apply(
        "a",
        node(json!({"unschedulable": true}), json!({"phase": "x"})),
    );
    assert_eq!(play.fields("a"), json!({"f:spec": {"f:unschedulable": {}}}));
    play.apply(
        "b/status",
        node(json!({"providerID": "p"}), json!({"phase": "y"})),
    );
    assert_eq!(play.fields("b"), json!({"f:status": {"f:phase": {}}}));
}

#[test]
fn takes_over_from_client_side_apply() {
    let annotated = |replicas: i64| {
        let last = deployment(&json!({"replicas": replicas}));
        let mut new = last.clone();
        new["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
        new
    };
    let mut play = Play::of::<Deployment>("apps/v1");
    play.update("kubectl-client-side-apply", annotated(1));
    // Nobody changed it since, so that kubectl may.
    play.apply("kubectl", deployment(&json!({"replicas": 3})));
    assert_eq!(play.at("/spec/replicas"), 3);
    let last = play.at("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration");
    assert!(last.as_str().unwrap().contains("\"replicas\":3"), "{last}");

    let mut play = Play::of::<Deployment>("apps/v1");
    play.update("kubectl-client-side-apply", annotated(1));
    play.change("hpa", |new| new["spec"]["replicas"] = 2.into());
    assert_eq!(
        play.conflicts("kubectl", deployment(&json!({"replicas": 3}))),
        [r#""hpa" using apps/v1 .spec.replicas"#]
    );
    assert!(matches!(
        play.try_apply("somebody", deployment(&json!({"replicas": 3})), false),
        Err(ApplyError::Conflicts(_))
    ));
}

/// A custom kind with all that a structural schema may say.
fn custom() -> Schema {
    let mut builder = Builder::new();
    let item = builder.structure(
        "item",
        vec![
            Field::new("a", Type::String),
            Field::new("b", Type::Int64),
            Field::new("value", Type::Int64),
        ],
        false,
    );
    let keys = Builder::keys(["b", "a"].map(|name| ListKey {
        name: name.to_owned(),
        default: None,
    }));
    let spec = builder.structure(
        "spec",
        vec![
            Field::new("items", Type::List(Box::new(Builder::granular(item)), keys)),
            Field::new("set", Type::List(Box::new(Type::Int64), ListType::Set)),
            Field::new("free", Type::Any),
            Field::new("whole", Type::Map(Box::new(Type::Any), Grain::Atomic)),
        ],
        true,
    );
    let fields = vec![Field::new("spec", Builder::granular(spec))];
    let root = builder.resource("Web", fields, false);
    builder.finish(Builder::granular(root))
}

#[test]
fn custom_kinds_are_owned_by_their_schema() {
    let web = |spec: Value| json!({"apiVersion": "x/v1", "kind": "Web", "metadata": {"name": "w"}, "spec": spec});
    let mut play = Play::with(custom(), "x/v1");
    play.apply(
        "a",
        web(json!({
            "items": [{"a": "x", "b": 1, "value": 1}, {"a": "x", "b": 2}], "set": [1, 2],
            "free": {"deep": {"er": 1}, "list": [1]}, "whole": {"k": 1}, "unknown": {"x": 1},
        })),
    );
    assert_eq!(
        play.fields("a")["f:spec"],
        json!({
            "f:items": {
                "k:{\"a\":\"x\",\"b\":1}": {".": {}, "f:a": {}, "f:b": {}, "f:value": {}},
                "k:{\"a\":\"x\",\"b\":2}": {".": {}, "f:a": {}, "f:b": {}},
            },
            "f:set": {"v:1": {}, "v:2": {}},
            "f:free": {"f:deep": {".": {}, "f:er": {}}, "f:list": {}},
            "f:whole": {},
            "f:unknown": {".": {}, "f:x": {}},
        })
    );
    play.apply(
        "b",
        web(json!({"free": {"deep": {"other": 1}}, "set": [3]})),
    );
    assert_eq!(
        play.conflicts(
            "b",
            web(json!({"whole": {"j": 1}, "items": [{"a": "x", "b": 1, "value": 2}]}))
        ),
        [r#""a" .spec.items[a="x",b=1].value"#, r#""a" .spec.whole"#,]
    );
    play.apply("a", web(json!({"items": [{"a": "x", "b": 2}]})));
    assert_eq!(
        play.at("/spec"),
        json!({"items": [{"a": "x", "b": 2}], "set": [3], "free": {"deep": {"other": 1}}})
    );
    assert_eq!(
        play.mistakes(web(json!({"items": [{"value": 1}]}))),
        ".spec.items: element 0: associative list with keys has an element that omits all key fields [\"a\" \"b\"] \
         (and doesn't have default values for any key fields)"
    );
}

#[test]
fn follows_a_schema_that_changes() {
    let of = |list: ListType, grain: Grain| {
        let mut builder = Builder::new();
        let list = Type::List(Box::new(Type::String), list);
        let map = Type::Map(Box::new(Type::String), grain);
        let fields = vec![Field::new("list", list), Field::new("map", map)];
        let root = builder.resource("Web", fields, false);
        builder.finish(Builder::granular(root))
    };
    let web = |list: &[&str], map: Value| json!({"apiVersion": "x/v1", "kind": "Web", "list": list, "map": map});
    let mut play = Play::with(of(ListType::Set, Grain::Granular), "x/v1");
    play.apply("a", web(&["a"], json!({"a": "1"})));
    play.schema = of(ListType::Atomic, Grain::Atomic);
    assert_eq!(
        play.conflicts("b", web(&["b"], json!({"b": "1"}))),
        [r#""a" .list"#, r#""a" .map"#]
    );
    play.try_apply("b", web(&["b"], json!({"b": "1"})), true)
        .unwrap();
    assert_eq!(play.fields("b"), json!({"f:list": {}, "f:map": {}}));
    play.schema = of(ListType::Set, Grain::Granular);
    play.apply("c", web(&["c"], json!({"c": "1"})));
    assert_eq!(
        play.conflicts("c", web(&["c"], json!({"b": "2"}))),
        [r#""b" .map.b"#]
    );
    assert_eq!(play.at("/list"), json!(["b", "c"]));
}

/// The walk-through of the documentation: an autoscaler takes over what a person applied.
#[test]
fn hands_a_field_over() {
    let mut play = Play::of::<Deployment>("apps/v1");
    let wanted = |replicas: Option<i64>| {
        let template =
            json!({"spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.2"}]}});
        let mut spec = json!({"selector": {"matchLabels": {"app": "nginx"}}, "template": template});
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        deployment(&spec)
    };
    play.apply("kubectl", wanted(Some(3)));
    play.change("autoscaler/scale", |new| new["spec"]["replicas"] = 5.into());
    // Leaving the field out does not take it away from its new owner, nor back to what it was.
    play.apply("kubectl", wanted(None));
    assert_eq!(play.at("/spec/replicas"), 5);
    assert_eq!(
        play.fields("autoscaler"),
        json!({"f:spec": {"f:replicas": {}}})
    );
    // Somebody may own it for the time between.
    let mut play = Play::of::<Deployment>("apps/v1");
    play.apply("kubectl", wanted(Some(3)));
    play.apply("handover-to-hpa", deployment(&json!({"replicas": 3})));
    play.apply("kubectl", wanted(None));
    assert_eq!(play.at("/spec/replicas"), 3);
    assert_eq!(play.managers(), ["Apply handover-to-hpa", "Apply kubectl"]);
}

#[test]
fn costs_no_more_than_the_length() {
    let data = |odd: usize| -> Map<String, Value> {
        (0..20_000)
            .map(|n| (format!("k{}", 2 * n + odd), json!("")))
            .collect()
    };
    let mut play = Play::of::<ConfigMap>("v1");
    play.apply("a", config_map(&Value::Object(data(0))));
    play.change("b", |new| {
        let Some(Value::Object(all)) = new.get_mut("data") else {
            unreachable!()
        };
        all.extend(data(1));
    });
    play.apply("a", config_map(&Value::Object(data(1))));
    assert_eq!(play.at("/data").as_object().unwrap().len(), 20_000);
    let entry = |n: usize| json!({"manager": format!("m{n}"), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {format!("f:{n}"): {}}}});
    play.change("c", |new| {
        new["metadata"]["managedFields"] = (0..5_000).map(entry).collect();
        new["data"]["x"] = "1".into();
    });
    assert_eq!(play.managers().len(), 10);
}

#[test]
fn names_managers() {
    assert_eq!(manager_name("me", "kubectl/v1"), "me");
    assert_eq!(manager_name("", "kubectl/v1.36.0 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("", "a\u{7}b c/1"), "ab c");
    assert_eq!(manager_name("", &"é".repeat(100)).len(), MANAGER_MAX);
    assert_eq!(manager_name("", ""), "");
}
