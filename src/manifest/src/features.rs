//! What a manifest can ask for that this node cannot give. A container that asks for it does not start, and says why:
//! better than one that runs without what it needs. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The first thing that cannot be given, in words for its author. What is said of containers that are not modules is for
/// their engine, but for devices.
pub fn unsupported(pod: &Pod, container: &Container, is_native: bool) -> Option<String> {
    if claims_devices(container) {
        return Some("resources.claims: this node has no drivers of devices".to_owned());
    }
    if is_native {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let mut mounts = container.volume_mounts.iter().flatten();
    let propagated = mounts.find(|mount| {
        let mode = mount.mount_propagation.as_deref();
        mode.is_some_and(|mode| mode != "None")
    });
    if let Some(mount) = propagated {
        return Some(format!(
            "volumeMounts: {:?} cannot have mountPropagation: modules mount nothing themselves",
            mount.name
        ));
    }
    let wants = [
        (
            spec.host_pid == Some(true),
            "hostPID: this node's pods do not see the host's processes",
        ),
        (
            spec.host_ipc == Some(true),
            "hostIPC: this node's pods do not see the host's IPC objects",
        ),
        (
            container.volume_devices.iter().flatten().next().is_some(),
            "volumeDevices: modules cannot use block devices",
        ),
        (
            // In the host's own network, each port is one of the host's.
            spec.host_network != Some(true)
                && container
                    .ports
                    .iter()
                    .flatten()
                    .filter(|port| port.protocol.as_deref().unwrap_or("TCP") != "TCP")
                    .any(|port| port.host_port.is_some_and(|port| port != 0)),
            "ports: hostPort is for TCP only",
        ),
    ];
    wants
        .iter()
        .find(|(wanted, _)| *wanted)
        .map(|(_, message)| (*message).to_owned())
}

/// Whether the container uses devices that its pod claims.
fn claims_devices(container: &Container) -> bool {
    let resources = container.resources.as_ref();
    let claims = resources.and_then(|resources| resources.claims.as_deref());
    claims.is_some_and(|claims| !claims.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers pass what they have just made"
    )]
    fn check(spec: Value, container: Value) -> Option<String> {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        pod.spec.as_mut().unwrap().containers = vec![container.clone()];
        unsupported(&pod, &container, false)
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let plain = json!({"containers": []});
        assert_eq!(
            check(
                plain.clone(),
                json!({"name": "c", "ports": [{"containerPort": 80}]})
            ),
            None
        );
        let mounts = json!([{"name": "data", "mountPath": "/data", "mountPropagation": "None"}]);
        assert_eq!(
            check(plain.clone(), json!({"name": "c", "volumeMounts": mounts})),
            None
        );
        for (spec, container, part) in [
            (
                plain.clone(),
                json!({"name": "c", "volumeMounts": [
                    {"name": "data", "mountPath": "/data", "mountPropagation": "Bidirectional"},
                ]}),
                "mountPropagation",
            ),
            (
                plain,
                json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}]}),
                "hostPort",
            ),
            (
                json!({"containers": [], "hostPID": true}),
                json!({"name": "c"}),
                "hostPID",
            ),
        ] {
            let message = check(spec, container).unwrap();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn devices_are_for_nobody() {
        let claims = json!({"name": "c", "resources": {"claims": [{"name": "gpu"}]}});
        let container = serde_json::from_value(claims).unwrap();
        for is_native in [true, false] {
            let message = unsupported(&Pod::default(), &container, is_native).unwrap();
            assert!(message.contains("no drivers of devices"), "{message}");
        }
    }
}
