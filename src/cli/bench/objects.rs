//! The objects that are made, as the JSON that is sent.

use bytes::Bytes;
use serde_json::{Value, json};

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
