use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn usage(plural: &str, value: Value) -> Value {
    let object = object(value);
    let counted = Counted {
        group: "",
        plural,
        object: &object,
    };
    to_value(&counted.usage(Timestamp::UNIX_EPOCH))
}

#[test]
fn pods_use_what_they_ask_for() {
    let resources =
        |cpu: &str, limit: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": limit}});
    let pod = json!({"spec": {
        "containers": [
            {"name": "a", "resources": resources("1", "2")},
            {"name": "b", "resources": {"requests": {"memory": "1Gi", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"}}},
        ],
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": resources("500m", "500m")},
            {"name": "i", "resources": resources("3", "3")},
        ],
        "overhead": {"cpu": "100m", "memory": "1Mi"},
    }});
    assert_eq!(
        usage("pods", pod),
        json!({
            "count/pods": "1", "pods": "1", "cpu": "3600m", "requests.cpu": "3600m", "limits.cpu": "3600m",
            "memory": "1025Mi", "requests.memory": "1025Mi", "requests.example.com/gpu": "2",
            "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi",
        })
    );
    assert_eq!(
        usage(
            "pods",
            json!({"spec": {
                "resources": {"requests": {"cpu": "4"}}, "containers": [{"name": "a", "resources": resources("1", "2")}],
            }})
        ),
        json!({
            "count/pods": "1", "pods": "1", "cpu": "4", "requests.cpu": "4", "limits.cpu": "2",
        })
    );
}

#[test]
fn pods_that_have_ended_are_merely_there() {
    for ended in [
        json!({"status": {"phase": "Succeeded"}}),
        json!({"metadata": {"deletionTimestamp": "1969-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30}}),
    ] {
        assert_eq!(usage("pods", ended), json!({"count/pods": "1"}));
    }
    let ending = json!({"metadata": {"deletionTimestamp": "1969-12-31T23:59:50Z", "deletionGracePeriodSeconds": 30}});
    assert_eq!(usage("pods", ending)["pods"], "1");
}

#[test]
fn services_and_claims_use_their_own() {
    let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 81}]);
    let service = |kind: &str, allocate: bool| {
        usage(
            "services",
            json!({"spec": {"type": kind, "ports": ports, "allocateLoadBalancerNodePorts": allocate}}),
        )
    };
    assert_eq!(
        service("ClusterIP", true),
        json!({"count/services": "1", "services": "1"})
    );
    assert_eq!(service("NodePort", true)["services.nodeports"], "2");
    assert_eq!(
        service("LoadBalancer", false),
        json!({"count/services": "1", "services": "1", "services.loadbalancers": "1", "services.nodeports": "1"})
    );
    assert_eq!(
        usage(
            "persistentvolumeclaims",
            json!({"spec": {
                "storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}},
            }})
        ),
        json!({
            "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "5Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "fast.storageclass.storage.k8s.io/requests.storage": "5Gi",
        })
    );
    assert_eq!(
        usage("secrets", json!({})),
        json!({"count/secrets": "1", "secrets": "1"})
    );
    assert_eq!(usage("events", json!({})), json!({"count/events": "1"}));
}

#[test]
fn names_tell_what_they_count() {
    assert_eq!(count_name("apps", "deployments"), "count/deployments.apps");
    assert_eq!(
        counted_resource("count/deployments.apps"),
        Some(("deployments", "apps"))
    );
    assert_eq!(
        counted_resource("count/ingresses.networking.k8s.io"),
        Some(("ingresses", "networking.k8s.io"))
    );
    assert_eq!(counted_resource("count/pods"), Some(("pods", "")));
    assert_eq!(counted_resource("secrets"), Some(("secrets", "")));
    assert_eq!(counted_resource("requests.cpu"), None);
}

#[allow(clippy::needless_pass_by_value)] // reads better where it is called
fn counts(quota: Value, plural: &str, value: Value) -> bool {
    let (mut quota, object) = (object(json!({"spec": quota})), object(value));
    meta::object_mut(&mut quota, "spec").insert(
        "hard".to_owned(),
        json!({"pods": "1", "services": "1", "persistentvolumeclaims": "1"}),
    );
    let counted = Counted {
        group: "",
        plural,
        object: &object,
    };
    !counted.usage_of(&quota, Timestamp::UNIX_EPOCH).is_empty()
}

#[test]
fn scopes_narrow_a_quota_down() {
    let pod = |spec: Value| json!({"spec": spec});
    let scope = |name: &str| json!({"scopes": [name]});
    assert!(counts(json!({}), "services", json!({})));
    assert!(!counts(scope("Terminating"), "services", json!({})));
    let bounded = || pod(json!({"activeDeadlineSeconds": 5}));
    assert!(counts(scope("Terminating"), "pods", bounded()));
    assert!(!counts(scope("NotTerminating"), "pods", bounded()));
    assert!(counts(scope("BestEffort"), "pods", bounded()));
    let asking = || pod(json!({"containers": [{"resources": {"limits": {"memory": "1"}}}]}));
    assert!(counts(scope("NotBestEffort"), "pods", asking()));
    assert!(!counts(scope("BestEffort"), "pods", asking()));
    let selector = |scope: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]}});
    let class = |operator: &str, values: Value, class: &str| {
        let quota = selector("PriorityClass", operator, values);
        counts(quota, "pods", pod(json!({"priorityClassName": class})))
    };
    assert!(class("In", json!(["high"]), "high"));
    assert!(!class("In", json!(["high"]), "low"));
    assert!(class("NotIn", json!(["high"]), ""));
    assert!(class("DoesNotExist", json!([]), ""));
    let crossing = |side: &str| {
        let term = json!({"podAffinityTerm": {"namespaceSelector": {}}});
        let affinity = json!({side: {"preferredDuringSchedulingIgnoredDuringExecution": [term]}});
        counts(
            scope("CrossNamespacePodAffinity"),
            "pods",
            pod(json!({"affinity": affinity})),
        )
    };
    assert!(crossing("podAntiAffinity"));
    assert!(!crossing("nodeAffinity"));
    let volume = |class: Value| json!({"spec": {"volumeAttributesClassName": class}});
    let gold = || selector("VolumeAttributesClass", "In", json!(["gold"]));
    assert!(counts(
        gold(),
        "persistentvolumeclaims",
        volume(json!("gold"))
    ));
    assert!(!counts(
        gold(),
        "persistentvolumeclaims",
        volume(json!("tin"))
    ));
}

#[test]
fn tells_who_must_say_more() {
    let pod = object(json!({"spec": {
        "containers": [{"name": "b", "resources": {"requests": {"cpu": "1"}}}, {"name": "a"}],
    }}));
    let missing = must_specify(&pod, ["requests.cpu", "limits.memory", "pods", "memory"]);
    let shown: Vec<String> = missing
        .into_iter()
        .map(|(name, of)| {
            format!(
                "{name} for: {}",
                of.into_iter().collect::<Vec<_>>().join(",")
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "limits.memory for: a,b",
            "memory for: a,b",
            "requests.cpu for: a"
        ]
    );
}
