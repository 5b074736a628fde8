use k8s_openapi::api::core::v1::Binding;
use serde_json::json;

use super::*;
use vaquita_api::quantity::Quantity;
use vaquita_api::testing::{assert_stable, causes, changed, created, object, refused, updated};

fn pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn with_container(field: &str, value: Value) -> Value {
    let mut pod = pod();
    pod["spec"]["containers"][0][field] = value;
    pod
}

#[test]
fn reads_back_like_the_real_one() {
    let pod = created(&resource(), pod());
    assert_eq!(
        Value::Object(pod.clone()),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "default", "uid": "the-uid", "generation": 1,
                "creationTimestamp": "1970-01-01T00:00:00Z",
            },
            "spec": {
                "containers": [{
                    "name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        })
    );
    assert_stable(&resource(), &pod);
}

#[test]
fn refuses_mistakes_with_their_place() {
    let cases = [
        (
            json!({"metadata": {"name": "p"}}),
            "spec.containers: Required value",
        ),
        (
            json!({"metadata": {"name": "p"}, "spec": {"containers": []}}),
            "spec.containers: Required value",
        ),
        (
            with_container("name", json!("C")),
            "spec.containers[0].name: Invalid value: \"C\"",
        ),
        (
            with_container("image", json!("")),
            "spec.containers[0].image: Required value",
        ),
        (
            with_container("ports", json!([{"containerPort": 70000}])),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            with_container("ports", json!([{}])),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            with_container("ports", json!([{"containerPort": 1, "protocol": "X"}])),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            with_container("env", json!([{"name": "a=b"}])),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\"",
        ),
        (
            with_container("volumeMounts", json!([{"name": "v", "mountPath": "/v"}])),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            with_container(
                "resources",
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            ),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            with_container("livenessProbe", json!({"httpGet": {"port": 0}})),
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            with_container("livenessProbe", json!({"periodSeconds": 1})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            with_container("imagePullPolicy", json!("Sometimes")),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\"",
        ),
    ];
    for (value, want) in cases {
        let errors = refused(&resource(), value);
        assert_eq!(errors.len(), 1, "{want}: {errors:?}");
        assert!(errors[0].starts_with(want), "{want}: {errors:?}");
    }
}

#[test]
fn refuses_mistakes_in_the_whole() {
    let refused_spec = |change: fn(&mut Value)| {
        let mut value = pod();
        change(&mut value["spec"]);
        refused(&resource(), value)
    };
    assert_eq!(
        refused_spec(|spec| spec["containers"] =
            json!([{"name": "c", "image": "x"}, {"name": "c", "image": "x"}])),
        ["spec.containers[1].name: Duplicate value: \"c\""]
    );
    assert_eq!(
        refused_spec(|spec| spec["restartPolicy"] = json!("Never ever")),
        [
            "spec.restartPolicy: Unsupported value: \"Never ever\": supported values: \"Always\", \"Never\", \"OnFailure\""
        ]
    );
    assert_eq!(
        refused_spec(|spec| spec["volumes"] =
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}])),
        ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]
    );
    assert_eq!(
        refused_spec(
            |spec| spec["tolerations"] = json!([{"operator": "Exists", "tolerationSeconds": 1}])
        ),
        [
            "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set"
        ]
    );
    assert_eq!(
        refused_spec(|spec| spec["nodeSelector"] = json!({"a b": ""})).len(),
        1
    );
    assert_eq!(
        refused_spec(|spec| spec["activeDeadlineSeconds"] = json!(0)).len(),
        1
    );
    assert_eq!(refused_spec(|spec| spec["initContainers"] = json!([{"name": "i", "image": "x", "readinessProbe": {"exec": {"command": ["x"]}}}])).len(), 1);
}

#[test]
fn may_change_its_image_and_little_else() {
    let old = created(&resource(), pod());
    let image = changed(&old, |pod| {
        pod["spec"]["containers"][0]["image"] = "x:2".into();
    });
    let new = updated(&resource(), &old, image, Part::Main).unwrap();
    assert_eq!(meta::generation(&new), 2);
    let port = changed(&old, |pod| {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    });
    let errors = causes(updated(&resource(), &old, port, Part::Main));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    ));
    assert!(
        errors[0].ends_with("changed: spec.containers[0].ports"),
        "{errors:?}"
    );
    let more = changed(&old, |pod| {
        pod["spec"]["containers"] =
            json!([{"name": "c", "image": "x:1"}, {"name": "d", "image": "x:1"}]);
    });
    assert_eq!(
        causes(updated(&resource(), &old, more, Part::Main)),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let renamed = changed(&old, |pod| {
        pod["spec"]["containers"][0]["name"] = "d".into();
    });
    let errors = causes(updated(&resource(), &old, renamed, Part::Main));
    assert!(
        errors[0].ends_with("changed: spec.containers[0].name"),
        "{errors:?}"
    );
}

#[test]
fn can_be_steered_while_it_waits_at_a_gate() {
    let mut gated = pod();
    gated["spec"]["schedulingGates"] = json!([{"name": "a.b/c"}]);
    gated["spec"]["nodeSelector"] = json!({"a": "b"});
    let old = created(&resource(), gated);
    let with = |change: fn(&mut Value)| {
        let new = changed(&old, |pod| change(&mut pod["spec"]));
        causes(updated(&resource(), &old, new, Part::Main))
    };
    let narrower: fn(&mut Value) = |spec| {
        spec["nodeSelector"] = json!({"a": "b", "c": "d"});
        spec["schedulingGates"] = json!([]);
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}],
        }}});
    };
    assert_eq!(with(narrower), [""; 0]);
    assert_eq!(
        with(|spec| spec["nodeSelector"] = json!({"a": "c"})),
        [
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        ]
    );
    assert_eq!(
        with(|spec| spec["schedulingGates"] = json!([{"name": "other"}])),
        [
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'other'"
        ]
    );
    assert_eq!(
        with(|spec| spec["affinity"] = json!({"podAffinity": {}})).len(),
        1
    );
}

#[test]
fn takes_ephemeral_containers_while_it_runs() {
    let old = created(&resource(), pod());
    let with = |old: &Object, containers: Value| {
        let new = changed(old, |pod| {
            pod["spec"]["ephemeralContainers"] = containers;
            // Whatever else is sent is not taken.
            pod["metadata"]["labels"] = json!({"a": "b"});
            pod["spec"]["nodeName"] = "elsewhere".into();
        });
        updated(&resource(), old, new, Part::EphemeralContainers)
    };
    let debug = json!({"name": "debug", "image": "x:1", "targetContainerName": "c"});
    let new = with(&old, json!([debug])).unwrap();
    assert_eq!(new["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!(meta::generation(&new), 2);
    assert_eq!(meta::at(&new, &["spec", "nodeName"]), None);
    assert_eq!(meta::at(&new, &["metadata", "labels"]), None);
    assert_eq!(
        causes(with(&new, json!([]))),
        [
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed\n"
        ]
    );
    let cases = [
        (
            json!({"name": "c", "image": "x"}),
            "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
        ),
        (
            json!({"name": "d", "image": "x", "targetContainerName": "z"}),
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"z\"",
        ),
        (
            json!({"name": "d", "image": "x", "ports": [{"containerPort": 1}]}),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"name": "d", "image": "x", "resources": {"limits": {"cpu": "1"}}}),
            "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ];
    for (container, want) in cases {
        assert_eq!(causes(with(&old, json!([container]))), [want]);
    }
}

#[test]
fn is_resized_within_its_class_of_service() {
    let sized = |requests: Value, limits: Value| {
        with_container("resources", json!({"requests": requests, "limits": limits}))
    };
    let old = created(
        &resource(),
        sized(json!({"cpu": "1"}), json!({"cpu": "2", "memory": "1Gi"})),
    );
    let with = |resources: Value| {
        let new = changed(&old, |pod| {
            pod["spec"]["containers"][0]["resources"] = resources;
            pod["spec"]["containers"][0]["image"] = "x:2".into();
        });
        updated(&resource(), &old, new, Part::Resize)
    };
    let limits = json!({"cpu": "3", "memory": "512Mi"});
    let new = with(json!({"requests": {"cpu": "1500m", "memory": "1Mi"}, "limits": limits}));
    let container = &new.as_ref().unwrap()["spec"]["containers"][0];
    assert_eq!(container["image"], "x:1");
    assert_eq!(container["resources"]["limits"], limits);
    assert_eq!(meta::generation(&new.unwrap()), 2);
    assert_eq!(
        causes(with(json!({"requests": {"cpu": "1"}}))),
        [
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            "spec: Forbidden: only cpu and memory resources are mutable",
        ][..2]
    );
    let class =
        json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
    assert_eq!(
        causes(with(class)),
        [
            "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
        ]
    );
    let disk = json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
    assert_eq!(
        causes(with(disk)),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    let mut windows = sized(json!({}), json!({}));
    windows["spec"]["os"] = json!({"name": "windows"});
    let old = created(&resource(), windows);
    let same = updated(&resource(), &old, Value::Object(old.clone()), Part::Resize);
    assert_eq!(
        causes(same),
        [": Forbidden: windows pods cannot be resized"]
    );
}

/// A change and the mistake that it is.
type Case = (fn(&mut Value), &'static str);

#[test]
fn reports_of_its_status_keep_to_their_bounds() {
    let mut once = pod();
    once["spec"]["restartPolicy"] = "Never".into();
    let base = created(&resource(), once);
    let ended = |state: Value| json!([{"name": "c", "state": state, "image": "", "imageID": ""}]);
    let old = object(changed(&base, |pod| {
        pod["status"]["containerStatuses"] = ended(json!({"terminated": {"exitCode": 1}}));
        pod["status"]["observedGeneration"] = 1.into();
        pod["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "observedGeneration": 1}]);
    }));
    let with = |change: fn(&mut Value)| {
        let new = changed(&old, |pod| change(&mut pod["status"]));
        updated(&resource(), &old, new, Part::Status)
    };
    let new = with(|status| {
        *status = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    });
    let status = &new.unwrap()["status"];
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(status["conditions"][0]["observedGeneration"], 1);
    assert_eq!(status["qosClass"], "BestEffort");
    let cases: [Case; 5] = [
        (
            |status| status["qosClass"] = "Guaranteed".into(),
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
        ),
        (
            |status| status["containerStatuses"][0]["state"] = json!({"running": {}}),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ),
        (
            |status| status["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]),
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
        ),
        (
            |status| status["hostIPs"] = json!([{"ip": "10.0.0.1"}]),
            "status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`",
        ),
        (
            |status| status["resourceClaimStatuses"] = json!([{"name": "x"}]),
            "status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
        ),
    ];
    for (change, want) in cases {
        assert_eq!(causes(with(change)), [want]);
    }
}

#[test]
fn may_not_pretend_to_be_a_mirror() {
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(
        refused(&resource(), mirror),
        [
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set"
        ]
    );
    let mut costly = pod();
    costly["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "+1"});
    assert_eq!(
        refused(&resource(), costly),
        [
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer"
        ]
    );
}

#[test]
fn keeps_specification_and_status_apart() {
    let old = created(&resource(), pod());
    let both = changed(&old, |pod| {
        pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
        pod["metadata"]["labels"] = json!({"a": "b"});
        pod["spec"]["containers"][0]["image"] = "x:2".into();
    });
    let main = updated(&resource(), &old, both.clone(), Part::Main).unwrap();
    assert_eq!(main["status"], old["status"]);
    assert_eq!(main["spec"]["containers"][0]["image"], "x:2");
    let status = updated(&resource(), &old, both, Part::Status).unwrap();
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(
        status["status"],
        json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "BestEffort"})
    );
    assert_eq!(meta::generation(&status), 1);
}

#[test]
fn is_bound_once() {
    let mut pod = created(&resource(), pod());
    let binding: Binding = serde_json::from_value(json!({
        "metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"},
    }))
    .unwrap();
    bind(&mut pod, &binding, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(pod["spec"]["nodeName"], "n");
    assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let error = bind(&mut pod, &binding, Timestamp::UNIX_EPOCH).unwrap_err();
    assert_eq!(
        error.into_status("p").message(),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
    );
    assert!(bind(&mut pod, &Binding::default(), Timestamp::UNIX_EPOCH).is_err());
}

#[test]
fn gets_time_to_end_only_where_it_runs() {
    let pending = created(&resource(), pod());
    assert_eq!(resource().grace_period(&pending, Some(5)), 0);
    let running = object(changed(&pending, |pod| {
        pod["spec"]["nodeName"] = "n".into();
    }));
    assert_eq!(resource().grace_period(&running, None), 30);
    assert_eq!(resource().grace_period(&running, Some(5)), 5);
    assert_eq!(resource().grace_period(&running, Some(0)), 0);
    let ended = object(changed(&Object::clone(&running), |pod| {
        pod["status"]["phase"] = "Failed".into();
    }));
    assert_eq!(resource().grace_period(&ended, None), 0);
}

/// The cells of a pod with this status; the pod is an hour old.
fn cells(status: Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let base = created(&resource(), pod());
    let value = changed(&base, |pod| {
        pod["status"] = status;
        change(pod);
    });
    let pod = resource().decode(value).unwrap().object;
    let row = resource().row(&pod, Timestamp::from_second(3600).unwrap());
    row.iter()
        .map(|cell| cell.as_str().unwrap_or_default().to_owned())
        .collect()
}

fn status_of(status: Value) -> String {
    cells(status, |_| {})[2].clone()
}

fn container(state: &Value) -> Value {
    json!({"name": "c", "state": state, "ready": state.get("running").is_some()})
}

#[test]
fn summarises_its_containers() {
    let running = |state| json!({"phase": "Running", "containerStatuses": [container(&state)]});
    assert_eq!(status_of(json!({"phase": "Pending"})), "Pending");
    assert_eq!(
        status_of(json!({"phase": "Failed", "reason": "Evicted"})),
        "Evicted"
    );
    assert_eq!(status_of(running(json!({"running": {}}))), "Running");
    assert_eq!(
        status_of(running(json!({"waiting": {"reason": "CrashLoopBackOff"}}))),
        "CrashLoopBackOff"
    );
    assert_eq!(
        status_of(running(
            json!({"terminated": {"exitCode": 1, "reason": "Error"}})
        )),
        "Error"
    );
    assert_eq!(
        status_of(running(json!({"terminated": {"exitCode": 3}}))),
        "ExitCode:3"
    );
    assert_eq!(
        status_of(running(json!({"terminated": {"exitCode": 3, "signal": 9}}))),
        "Signal:9"
    );
    assert_eq!(
        status_of(running(
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}})
        )),
        "Completed"
    );
    let two = json!({"phase": "Running", "containerStatuses": [
        container(&json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), container(&json!({"running": {}})),
    ]});
    assert_eq!(status_of(two), "NotReady");
}

#[test]
fn summarises_its_init_containers() {
    let with = |state: Value| {
        let status =
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}]});
        cells(status, |pod| {
            pod["spec"]["initContainers"] =
                json!([{"name": "i", "image": "x"}, {"name": "j", "image": "x"}]);
        })[2]
            .clone()
    };
    assert_eq!(with(json!({"running": {}})), "Init:0/2");
    assert_eq!(
        with(json!({"waiting": {"reason": "PodInitializing"}})),
        "Init:0/2"
    );
    assert_eq!(
        with(json!({"waiting": {"reason": "ImagePullBackOff"}})),
        "Init:ImagePullBackOff"
    );
    assert_eq!(
        with(json!({"terminated": {"exitCode": 1}})),
        "Init:ExitCode:1"
    );
    assert_eq!(
        with(json!({"terminated": {"exitCode": 1, "reason": "Error"}})),
        "Init:Error"
    );
    assert_eq!(with(json!({"terminated": {"exitCode": 0}})), "Pending");
}

#[test]
fn shows_deletion_restarts_and_addresses() {
    let status = json!({
        "phase": "Running", "podIP": "10.0.0.9",
        "containerStatuses": [{
            "name": "c", "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:55:00Z"}},
        }],
    });
    let row = cells(status.clone(), |pod| pod["spec"]["nodeName"] = "n".into());
    assert_eq!(
        row,
        [
            "p",
            "1/1",
            "Running",
            "2 (5m ago)",
            "60m",
            "10.0.0.9",
            "n",
            "<none>",
            "<none>"
        ]
    );
    let row = cells(status, |pod| {
        pod["metadata"]["deletionTimestamp"] = "1970-01-01T00:59:00Z".into();
    });
    assert_eq!(row[2], "Terminating");
}

#[test]
fn keeps_quantities_canonical() {
    let pod = created(
        &resource(),
        with_container(
            "resources",
            json!({"limits": {"cpu": 0.5, "memory": "2048Mi"}}),
        ),
    );
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["limits"], json!({"cpu": "500m", "memory": "2Gi"}));
    assert_eq!(resources["requests"], resources["limits"]);
    assert_eq!(
        resources["limits"]["cpu"].as_str().unwrap().parse(),
        Ok(Quantity::milli(500))
    );
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
}
