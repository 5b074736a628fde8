//! What is filled in where a pod's specification is silent (`pkg/apis/core/v1/defaults.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, PodSpec, Probe, ProjectedVolumeSource,
    ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The permissions of files that come from the API: `0644`.
const FILE_MODE: i32 = 0o644;
/// How long a projected token is valid, in seconds.
const TOKEN_SECONDS: i64 = 3600;

fn fill(field: &mut Option<String>, value: &str) {
    field.get_or_insert_with(|| value.to_owned());
}

/// Defaults of pods and templates alike.
pub fn apply(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(30);
    // The old name of the field is kept in step with the new one.
    if spec.service_account_name.is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for volume in spec.volumes.iter_mut().flatten() {
        apply_volume(volume);
    }
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        apply_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        apply_ephemeral(container);
    }
}

/// Defaults of pods alone: whatever is limited is requested, up to the limit, by each container and by the pod.
pub fn apply_requests(spec: &mut PodSpec) {
    let containers = spec.init_containers.iter_mut().flatten();
    let limited = containers.chain(&mut spec.containers);
    limited
        .filter_map(|container| container.resources.as_mut())
        .for_each(request_limits);
    super::totals::apply_defaults(spec);
    spec.enable_service_links.get_or_insert(true);
    let host_network = spec.host_network == Some(true);
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        for port in container
            .ports
            .iter_mut()
            .flatten()
            .filter(|_| host_network)
        {
            if port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
    }
}

fn request_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = &resources.limits else {
        return;
    };
    let missing: BTreeMap<String, Quantity> = limits
        .iter()
        .filter(|(name, _)| {
            resources
                .requests
                .as_ref()
                .is_none_or(|requests| !requests.contains_key(*name))
        })
        .map(|(name, limit)| (name.clone(), limit.clone()))
        .collect();
    if !missing.is_empty() {
        resources.requests.get_or_insert_default().extend(missing);
    }
}

fn apply_container(container: &mut Container) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    fill(&mut container.image_pull_policy, policy);
    fill(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    fill(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    apply_ports(container.ports.as_deref_mut());
    apply_env(container.env.as_deref_mut());
    apply_lifecycle(container.lifecycle.as_mut());
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ]
    .into_iter()
    .flatten()
    {
        apply_probe(probe);
    }
}

fn apply_ephemeral(container: &mut EphemeralContainer) {
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    fill(&mut container.image_pull_policy, policy);
    fill(
        &mut container.termination_message_path,
        "/dev/termination-log",
    );
    fill(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    apply_ports(container.ports.as_deref_mut());
    apply_env(container.env.as_deref_mut());
    apply_lifecycle(container.lifecycle.as_mut());
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    probes.into_iter().flatten().for_each(apply_probe);
}

/// An image whose tag moves is looked for each time; one that is named for good is not.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let moves = match (name.contains('@'), name.split_once(':')) {
        (true, _) => name
            .split('@')
            .next()
            .is_some_and(|tagged| tagged.ends_with(":latest")),
        (false, None) => true,
        (false, Some((_, tag))) => tag == "latest",
    };
    if moves { "Always" } else { "IfNotPresent" }
}

fn apply_ports(ports: Option<&mut [ContainerPort]>) {
    for port in ports.into_iter().flatten() {
        fill(&mut port.protocol, "TCP");
    }
}

fn apply_env(env: Option<&mut [EnvVar]>) {
    for source in env
        .into_iter()
        .flatten()
        .filter_map(|variable| variable.value_from.as_mut())
    {
        apply_field_ref(source.field_ref.as_mut());
        if let Some(file) = &mut source.file_key_ref {
            file.optional.get_or_insert(false);
        }
    }
}

fn apply_field_ref(field: Option<&mut ObjectFieldSelector>) {
    if let Some(field) = field {
        fill(&mut field.api_version, "v1");
    }
}

fn apply_lifecycle(lifecycle: Option<&mut Lifecycle>) {
    let handlers =
        lifecycle.map(|lifecycle| [lifecycle.post_start.as_mut(), lifecycle.pre_stop.as_mut()]);
    for handler in handlers.into_iter().flatten().flatten() {
        let LifecycleHandler { http_get, .. } = handler;
        apply_http_get(http_get.as_mut());
    }
}

fn apply_http_get(action: Option<&mut HTTPGetAction>) {
    if let Some(action) = action {
        fill(&mut action.path, "/");
        fill(&mut action.scheme, "HTTP");
    }
}

fn apply_probe(probe: &mut Probe) {
    for (field, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        // Zero is how a number that was left out looks after a way through other software.
        field.take_if(|number| *number == 0);
        field.get_or_insert(value);
    }
    apply_http_get(probe.http_get.as_mut());
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn apply_volume(volume: &mut Volume) {
    let named = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == named {
        volume.empty_dir = Some(k8s_openapi::api::core::v1::EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        for item in source.items.iter_mut().flatten() {
            apply_field_ref(item.field_ref.as_mut());
        }
    }
    if let Some(source) = &mut volume.projected {
        apply_projected(source);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(source.reference.as_deref().unwrap_or_default());
        fill(&mut source.pull_policy, policy);
    }
    if let Some(template) = volume
        .ephemeral
        .as_mut()
        .and_then(|source| source.volume_claim_template.as_mut())
    {
        crate::persistent_volume::claim::apply_defaults(&mut template.spec);
    }
    apply_remote(volume);
}

/// Sources that only drivers know.
fn apply_remote(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        fill(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        fill(&mut source.pool, "rbd");
        fill(&mut source.user, "admin");
        fill(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.scale_io {
        fill(&mut source.storage_mode, "ThinProvisioned");
        fill(&mut source.fs_type, "xfs");
    }
    if let Some(source) = &mut volume.azure_disk {
        fill(&mut source.caching_mode, "ReadWrite");
        fill(&mut source.kind, "Shared");
        fill(&mut source.fs_type, "ext4");
        source.read_only.get_or_insert(false);
    }
}

fn apply_projected(source: &mut ProjectedVolumeSource) {
    source.default_mode.get_or_insert(FILE_MODE);
    for source in source.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        for item in source
            .downward_api
            .iter_mut()
            .flat_map(|source| source.items.iter_mut().flatten())
        {
            apply_field_ref(item.field_ref.as_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
        apply(&mut spec);
        serde_json::to_value(spec).unwrap()
    }

    #[test]
    fn fills_in_what_a_plain_pod_leaves_out() {
        assert_eq!(
            defaulted(
                json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}]})
            ),
            json!({
                "containers": [{
                    "name": "a", "image": "x", "imagePullPolicy": "Always", "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
            })
        );
    }

    #[test]
    fn fills_in_probes_and_volumes() {
        let spec = defaulted(json!({
            "serviceAccount": "robot",
            "containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5}}],
            "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}, {"name": "h", "hostPath": {"path": "/"}}],
        }));
        assert_eq!(spec["serviceAccountName"], "robot");
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({
                "failureThreshold": 3, "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                "periodSeconds": 5, "successThreshold": 1, "timeoutSeconds": 1,
            })
        );
        assert_eq!(
            spec["volumes"],
            json!([
                {"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}},
            ])
        );
    }

    #[test]
    fn pulls_moving_tags_always() {
        for image in [
            "x",
            "x:latest",
            "r.io:5000/x",
            "r.io/x:latest",
            "x:latest@sha256:00",
        ] {
            assert_eq!(pull_policy(image), "Always", "{image}");
        }
        for image in ["x:1", "r.io:5000/a/x:1", "x@sha256:00", "x:1@sha256:00"] {
            assert_eq!(pull_policy(image), "IfNotPresent", "{image}");
        }
    }

    #[test]
    fn requests_what_is_limited() {
        let mut spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}},
        ]}))
        .unwrap();
        apply_requests(&mut spec);
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({"cpu": "100m", "memory": "1Gi"})
        );
        assert_eq!(spec["enableServiceLinks"], true);
    }
}
