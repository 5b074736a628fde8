use vaquita_api::meta;
use vaquita_api::registry::Part;
use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

use super::*;

fn scaler() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut scaler = scaler();
    change(&mut scaler["spec"]);
    refused(&resource(), scaler)
}

#[test]
fn fills_in_and_prints() {
    let object = created(&resource(), scaler());
    let spec = &object["spec"];
    assert_eq!(spec["minReplicas"], 1);
    assert_eq!(
        spec["metrics"],
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80},
        }}])
    );
    assert!(spec.get("behavior").is_none());
    assert_eq!(meta::generation(&object), 0);
    assert_stable(&resource(), &object);
    let row = resource().row(&object, Timestamp::UNIX_EPOCH);
    assert_eq!(
        Value::from(row),
        json!([
            "web",
            "Deployment/web",
            "cpu: <unknown>/80%",
            "1",
            5,
            0,
            "0s"
        ])
    );
}

#[test]
fn fills_in_behavior_once_there_is_some() {
    let mut scaler = scaler();
    scaler["spec"]["behavior"] =
        json!({"scaleDown": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min"}});
    let object = created(&resource(), scaler);
    assert_eq!(
        object["spec"]["behavior"],
        json!({
            "scaleDown": {
                "policies": [{"periodSeconds": 15, "type": "Percent", "value": 100}],
                "selectPolicy": "Min", "stabilizationWindowSeconds": 60,
            },
            "scaleUp": {
                "policies": [
                    {"periodSeconds": 15, "type": "Pods", "value": 4},
                    {"periodSeconds": 15, "type": "Percent", "value": 100},
                ],
                "selectPolicy": "Max", "stabilizationWindowSeconds": 0,
            },
        })
    );
}

#[test]
fn checks_limits_and_target() {
    assert_eq!(
        refused(&resource(), json!({"metadata": {"name": "a"}})),
        [
            "spec.maxReplicas: Required value: must be set and greater than 0",
            "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
            "spec.scaleTargetRef.kind: Required value",
            "spec.scaleTargetRef.name: Required value",
            "spec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group",
        ]
    );
    assert_eq!(
        with(|spec| spec["minReplicas"] = json!(0)),
        [
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
        ]
    );
    assert_eq!(
        with(|spec| spec["scaleTargetRef"] = json!({"kind": "ReplicationController", "name": "a"})),
        [""; 0]
    );
    assert_eq!(
        with(|spec| spec["scaleTargetRef"]["apiVersion"] = json!("a/b/c")),
        [
            "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"
        ]
    );
}

#[test]
fn checks_behavior() {
    let rules = |rules: Value| with(|spec| spec["behavior"] = json!({"scaleUp": rules}));
    assert_eq!(
        rules(json!({
            "stabilizationWindowSeconds": 3601, "selectPolicy": "Most", "tolerance": "-100m",
            "policies": [{"type": "Nodes", "value": 0, "periodSeconds": 1801}],
        })),
        [
            "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"",
            "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
            "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
            "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            "spec.behavior.scaleUp.tolerance: Invalid value: \"-100m\": must be greater than or equal to 0",
        ]
    );
    assert_eq!(rules(json!({"tolerance": "0.05"})), [""; 0]);
}

#[test]
fn checks_metrics() {
    let metric = |metric: Value| with(|spec| spec["metrics"] = json!([metric]));
    let object = json!({
        "describedObject": {"kind": "Service", "name": "web"}, "metric": {"name": "requests"},
        "target": {"type": "Value", "value": "100"},
    });
    for good in [
        json!({"type": "Object", "object": object}),
        json!({"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1k"}}}),
        json!({"type": "External", "external": {"metric": {"name": "x"}, "target": {"type": "Value", "value": "3"}}}),
        json!({"type": "ContainerResource", "containerResource": {
            "name": "memory", "container": "c", "target": {"type": "Utilization", "averageUtilization": 50},
        }}),
    ] {
        assert_eq!(metric(good.clone()), [""; 0], "{good}");
    }
    let at = |field: &str, what: &str| format!("spec.metrics[0].{field}: {what}");
    assert_eq!(
        metric(json!({})),
        [
            at("type", "Required value: must specify a metric source type"),
            at(
                "type",
                "Unsupported value: \"\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\""
            ),
        ]
    );
    assert_eq!(
        metric(
            json!({"type": "Pods", "object": object, "resource": {"name": "cpu", "target": {"type": "Utilization"}}})
        ),
        [
            at(
                "pods",
                "Required value: must populate information for the given metric source"
            ),
            at(
                "object",
                "Forbidden: must populate the given metric source only"
            ),
            at(
                "resource",
                "Forbidden: must populate the given metric source only"
            ),
        ]
    );
    assert_eq!(
        metric(
            json!({"type": "Resource", "resource": {"target": {"averageUtilization": 0, "averageValue": "-1"}}})
        ),
        [
            at(
                "resource.name",
                "Required value: must specify a resource name"
            ),
            at(
                "resource.target.type",
                "Required value: must specify a metric target type"
            ),
            at(
                "resource.target.type",
                "Invalid value: \"\": must be either Utilization, Value, or AverageValue"
            ),
            at(
                "resource.target.averageValue",
                "Invalid value: \"-1\": must be positive"
            ),
            at(
                "resource.target.averageUtilization",
                "Invalid value: 0: must be greater than 0"
            ),
            at(
                "resource.target.averageValue",
                "Forbidden: may not set both a target raw value and a target utilization"
            ),
        ]
    );
    assert_eq!(
        metric(
            json!({"type": "External", "external": {"metric": {"name": "a/b"}, "target": {"type": "Value"}}})
        ),
        [
            at(
                "external.metric.name",
                "Invalid value: \"a/b\": may not contain '/'"
            ),
            at(
                "external.target.averageValue",
                "Required value: must set either a target value for metric or a per-pod target"
            ),
        ]
    );
}

#[test]
fn prints_what_is_measured() {
    let mut scaler = scaler();
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1k"}}});
    scaler["spec"]["metrics"] = json!([cpu, pods, cpu]);
    let object = created(&resource(), scaler);
    let report = changed(&object, |scaler| {
        scaler["status"] = json!({"currentReplicas": 2, "desiredReplicas": 3, "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 93, "averageValue": "93m"}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "current": {"averageValue": "700"}}},
        ]});
    });
    let object = updated(&resource(), &object, report, Part::Status).unwrap();
    let row = resource().row(&object, Timestamp::UNIX_EPOCH);
    assert_eq!(row[2], "cpu: 93%/80%, 700/1k + 1 more...");
    let wrong = changed(&object, |scaler| {
        scaler["status"]["desiredReplicas"] = json!(-1);
    });
    assert_eq!(
        causes(updated(&resource(), &object, wrong, Part::Status)),
        ["status.desiredReplicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}
