//! The objects that are made, as the JSON that is sent.

use bytes::Bytes;
use serde_json::{Value, json};

/// Label and taint of simulated nodes; its value names their set.
pub(super) const HOLLOW: &str = "bench.vaquita.dev/nodes";

/// Characters in a `ConfigMap`'s one key.
const DATA: usize = 1024;

/// A `ConfigMap` with one key of 1,024 characters. With `version`, one that replaces what is at that `resourceVersion`.
pub(super) fn config_map(name: &str, version: Option<u64>) -> Bytes {
    let mut metadata = json!({ "name": name });
    if let Some(version) = version {
        metadata["resourceVersion"] = version.to_string().into();
    }
    // Differs with the version, since a server may take the same again for nothing.
    let fill =
        char::from(b'a' + u8::try_from(version.unwrap_or_default() % 26).unwrap_or_default());
    let data: String = std::iter::repeat_n(fill, DATA).collect();
    body(
        &json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "data": data } }),
    )
}

/// A pod with one container that has requests, for a scheduler that does not exist: it stays as it is.
pub(super) fn idle_pod(name: &str) -> Bytes {
    let mut pod = pod(name, "example.invalid/none:1", 8080);
    pod["spec"]["schedulerName"] = "vaquita-bench-none".into();
    body(&pod)
}

/// A pod that runs `image`.
pub(super) fn running_pod(name: &str, image: &str, port: u16) -> Bytes {
    body(&pod(name, image, port))
}

/// A pod with one container that has requests, for the simulated nodes of `nodes` alone.
pub(super) fn hollow_pod(name: &str, nodes: &str) -> Bytes {
    let mut pod = pod(name, "example.invalid/none:1", 8080);
    pod["metadata"]["labels"] = json!({ "app": "hollow" });
    pod["spec"]["nodeSelector"] = json!({ HOLLOW: nodes });
    pod["spec"]["tolerations"] = json!([{ "key": HOLLOW, "operator": "Exists" }]);
    body(&pod)
}

/// A simulated node of the set `nodes`, which takes only pods that ask for it.
pub(super) fn hollow_node(name: &str, nodes: &str, zone: usize) -> Bytes {
    let amounts = json!({ "cpu": "64", "memory": "256Gi", "pods": "1000" });
    let now = jiff::Timestamp::now().to_string();
    body(&json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                HOLLOW: nodes,
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone-{zone}"),
            },
        },
        "spec": { "taints": [{ "key": HOLLOW, "effect": "NoSchedule" }] },
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
        },
    }))
}

/// The lease by which a simulated node shows that it is alive.
pub(super) fn hollow_lease(name: &str, nodes: &str) -> Bytes {
    body(&json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "labels": { HOLLOW: nodes } },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now_micro() },
    }))
}

/// What renews such a lease, as a merge patch.
pub(super) fn renewal() -> Bytes {
    body(&json!({ "spec": { "renewTime": now_micro() } }))
}

/// What a simulated node says of a pod that it runs, as a merge patch.
pub(super) fn running(number: usize) -> Bytes {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let [_, second, third, fourth] = u32::try_from(number).unwrap_or_default().to_be_bytes();
    let address = format!("10.{second}.{third}.{fourth}");
    let condition =
        |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now });
    body(&json!({ "status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "startTime": now,
        "conditions": [
            condition("PodScheduled"), condition("Initialized"), condition("ContainersReady"), condition("Ready"),
        ],
        "containerStatuses": [{
            "name": "main", "image": "example.invalid/none:1", "imageID": "", "ready": true, "restartCount": 0,
            "started": true, "state": { "running": { "startedAt": now } },
        }],
    } }))
}

fn now_micro() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string()
}

/// A ReplicationController of pods that run `image`.
pub(super) fn replication_controller(name: &str, image: &str, port: u16, replicas: usize) -> Bytes {
    let pod = pod(name, image, port);
    body(&json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "app": name },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod["spec"] },
        },
    }))
}

fn pod(name: &str, image: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "ports": [{ "containerPort": port }],
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" } },
            }],
        },
    })
}

/// A Service of type `NodePort` over the pod of this name.
pub(super) fn node_port_service(name: &str, port: u16) -> Bytes {
    body(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "type": "NodePort",
            "selector": { "app": name },
            "ports": [{ "port": 80, "targetPort": port, "protocol": "TCP" }],
        },
    }))
}

pub(super) fn namespace(name: &str) -> Bytes {
    body(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }))
}

fn body(object: &Value) -> Bytes {
    object.to_string().into()
}

/// The `resourceVersion` of an object, found without parsing the rest of it.
pub(super) fn resource_version(object: &[u8]) -> Option<u64> {
    const FIELD: &[u8] = br#""resourceVersion":"#;
    let at = object
        .windows(FIELD.len())
        .position(|window| window == FIELD)?;
    let value = object[at + FIELD.len()..]
        .trim_ascii_start()
        .strip_prefix(b"\"")?;
    let digits = value
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_has_one_key_of_1024_characters() {
        let object: Value = serde_json::from_slice(&config_map("a", Some(7))).unwrap();
        assert_eq!(object["data"]["data"].as_str().unwrap().len(), 1024);
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        assert_ne!(config_map("a", Some(7)), config_map("a", Some(8)));
    }

    #[test]
    fn the_resource_version_is_found() {
        assert_eq!(
            resource_version(br#"{"metadata":{"name":"a","resourceVersion":"123","uid":"u"}}"#),
            Some(123)
        );
        assert_eq!(resource_version(br#"{"resourceVersion": "5"}"#), Some(5));
        assert_eq!(resource_version(br#"{"resourceVersion":7}"#), None);
        assert_eq!(resource_version(br#"{"resourceVersion":""#), None);
        assert_eq!(resource_version(b"{}"), None);
    }
}
