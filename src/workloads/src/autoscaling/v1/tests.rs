use vaquita_api::testing::{assert_stable, causes, changed, created, refused, updated};

use super::*;

fn scaler() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "maxReplicas": 5, "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        },
    })
}

/// What is stored of a v2 object.
fn stored_v2() -> Object {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}});
    let mut object = created(
        &v2::resource(),
        json!({
            "metadata": {"name": "web", "annotations": {"mine": "kept"}},
            "spec": {
                "maxReplicas": 5,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "behavior": {"scaleUp": {"tolerance": "50m"}},
                "metrics": [
                    {"type": "Object", "object": {
                        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"},
                        "metric": {"name": "requests", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "100"},
                    }},
                    {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "ContainerResource", "containerResource": {
                        "name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 50},
                    }},
                    {"type": "External", "external": {"metric": {"name": "y"}, "target": {"type": "Value", "value": "3"}}},
                    cpu,
                ],
            },
        }),
    );
    object["status"] = json!({
        "currentReplicas": 2, "desiredReplicas": 3, "lastScaleTime": "2020-01-01T00:00:00Z",
        "conditions": [{
            "type": "AbleToScale", "status": "True", "reason": "Ready", "message": "so it is",
            "lastTransitionTime": "2020-01-01T00:00:00Z",
        }],
        "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 93, "averageValue": "93m"}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "current": {"averageValue": "700"}}},
            {"type": "External", "external": {"metric": {"name": "y"}, "current": {"value": "2"}}},
        ],
    });
    object
}

#[test]
fn says_the_same_either_way() {
    let stored = stored_v2();
    let shown = View.from_stored(stored.clone()).unwrap();
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 93);
    let annotation = |name: &str| {
        let text = shown["metadata"]["annotations"][name].as_str().unwrap();
        serde_json::from_str::<Value>(text).unwrap()
    };
    assert_eq!(shown["metadata"]["annotations"]["mine"], "kept");
    assert_eq!(
        annotation(forms::METRICS)[0],
        json!({"type": "Object", "object": {
            "target": {"kind": "Service", "name": "web", "apiVersion": "v1"}, "metricName": "requests",
            "targetValue": "0", "selector": {"matchLabels": {"a": "b"}}, "averageValue": "100",
        }})
    );
    assert_eq!(annotation(forms::METRICS).as_array().unwrap().len(), 5);
    assert_eq!(
        annotation(forms::BEHAVIOR)["ScaleUp"],
        json!({
            "StabilizationWindowSeconds": 0, "SelectPolicy": "Max", "Tolerance": "50m",
            "Policies": [
                {"Type": "Pods", "Value": 4, "PeriodSeconds": 15},
                {"Type": "Percent", "Value": 100, "PeriodSeconds": 15},
            ],
        })
    );
    assert_eq!(annotation(forms::CONDITIONS)[0]["type"], "AbleToScale");
    assert_eq!(
        annotation(forms::CURRENT_METRICS)[0]["resource"],
        json!({"name": "cpu", "currentAverageUtilization": 93, "currentAverageValue": "93m"})
    );
    let again = View.to_stored(shown.clone()).unwrap();
    assert_eq!(Value::from(again), Value::from(stored.clone()));
    let row = |resource: &Resource, object| resource.row(object, Timestamp::UNIX_EPOCH);
    assert_eq!(row(&resource(), &shown), row(&v2::resource(), &stored));
}

#[test]
fn a_plain_object_of_v1_has_one_metric() {
    let object = created(&resource(), scaler());
    assert_stable(&resource(), &object);
    assert_eq!(object["spec"]["minReplicas"], 1);
    let stored = View.to_stored(object.clone()).unwrap();
    assert_eq!(stored["apiVersion"], "autoscaling/v2");
    assert_eq!(
        stored["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60},
        }}])
    );
    assert_stable(&v2::resource(), &stored);
    assert_eq!(View.from_stored(stored).unwrap(), object);
    let row = resource().row(&object, Timestamp::UNIX_EPOCH);
    assert_eq!(
        Value::from(row),
        json!([
            "web",
            "Deployment/web",
            "cpu: <unknown>/60%",
            "1",
            5,
            0,
            "0s"
        ])
    );
}

#[test]
fn drops_annotations_that_make_no_sense() {
    let mut value = scaler();
    value["metadata"]["annotations"] = json!({
        forms::METRICS: "[{\"type\": \"Pods\", \"pods\": {\"targetAverageValue\": \"lots\"}}]",
        forms::BEHAVIOR: "{}", forms::CONDITIONS: "7", "mine": "kept",
    });
    let stored = View
        .to_stored(resource().decode(value).unwrap().object)
        .unwrap();
    assert_eq!(stored["metadata"]["annotations"], json!({"mine": "kept"}));
    assert_eq!(stored["spec"]["metrics"].as_array().unwrap().len(), 1);
    assert!(stored["spec"].get("behavior").is_none());
}

#[test]
fn is_checked_as_v2_is() {
    let mut value = scaler();
    value["spec"]["targetCPUUtilizationPercentage"] = json!(0);
    value["spec"]["maxReplicas"] = json!(-1);
    assert_eq!(
        refused(&resource(), value),
        [
            "spec.maxReplicas: Invalid value: -1: must be greater than 0",
            "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
            "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
        ]
    );
}

#[test]
fn each_part_keeps_its_annotations() {
    let old = View.from_stored(stored_v2()).unwrap();
    let bare = changed(&old, |scaler| scaler["metadata"]["annotations"] = json!({}));
    let names = |object: &Object| -> Vec<String> {
        let annotations = object["metadata"]["annotations"].as_object().unwrap();
        annotations.keys().cloned().collect()
    };
    let new = updated(&resource(), &old, bare.clone(), Part::Status).unwrap();
    assert_eq!(names(&new), [forms::BEHAVIOR, forms::METRICS]);
    let new = updated(&resource(), &old, bare, Part::Main).unwrap();
    assert_eq!(names(&new), [forms::CONDITIONS, forms::CURRENT_METRICS]);
    let mut fresh = Value::Object(old);
    fresh["metadata"]["resourceVersion"] = Value::Null;
    let fresh = created(&resource(), fresh);
    assert!(
        fresh["metadata"]["annotations"]
            .get(forms::CONDITIONS)
            .is_none()
    );
    assert!(
        fresh["metadata"]["annotations"]
            .get(forms::METRICS)
            .is_some()
    );
    let wrong = changed(&fresh, |scaler| {
        scaler["status"]["desiredReplicas"] = json!(-1);
    });
    assert_eq!(
        causes(updated(&resource(), &fresh, wrong, Part::Status)).len(),
        1
    );
}
