//! Mistakes in the containers of a pod.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector, SecurityContext, VolumeMount,
};

use super::spec::one_of;
use super::volumes::{local_path, no_backsteps};
use super::{handlers, is_sidecar};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::{network, resources};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// All containers of a pod, of all three sorts.
pub(super) fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let volumes = spec.volumes.iter().flatten();
    let volumes: HashSet<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let at_containers = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(FieldError::required(&at_containers, ""));
    }
    let mut names = HashSet::new();
    let mut host_ports = HashSet::new();
    for (at, container) in spec.containers.iter().enumerate() {
        let path = at_containers.index(at);
        validate_name(&container.name, &mut names, &path, errors);
        validate_container(container, &volumes, grace, &path, errors);
        validate_host_ports(container, &mut host_ports, &path.child("ports"), errors);
        if let Some(policy) = &container.restart_policy {
            one_of(
                Some(policy),
                &["Always", "Never", "OnFailure"],
                &path.child("restartPolicy"),
                errors,
            );
        }
    }
    let at_inits = path.child("initContainers");
    for (at, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = at_inits.index(at);
        validate_name(&container.name, &mut names, &path, errors);
        validate_container(container, &volumes, grace, &path, errors);
        validate_init(container, &path, errors);
    }
    let at_ephemeral = path.child("ephemeralContainers");
    for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = at_ephemeral.index(at);
        validate_name(&container.name, &mut names, &path, errors);
        if container.image.as_ref().is_none_or(String::is_empty) {
            errors.push(FieldError::required(&path.child("image"), ""));
        }
        validate_env(container.env.as_deref(), &path.child("env"), errors);
    }
}

/// A container's name, unique among those of all three sorts.
fn validate_name<'c>(
    name: &'c str,
    seen: &mut HashSet<&'c str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("name");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    invalid(&path, name, names::dns1123_label(name), errors);
    if !seen.insert(name) {
        errors.push(FieldError::duplicate(&path, name));
    }
}

/// An init container ends before others start, so that there is nothing to probe, unless it is a sidecar.
fn validate_init(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "may not be set for init containers without restartPolicy=Always";
    if let Some(policy) = &container.restart_policy {
        one_of(
            Some(policy),
            &["Always", "Never", "OnFailure"],
            &path.child("restartPolicy"),
            errors,
        );
    }
    if is_sidecar(container) {
        return;
    }
    for (field, given) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
}

fn validate_container(
    container: &Container,
    volumes: &HashSet<&str>,
    grace: i64,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    if let Some(lifecycle) = &container.lifecycle {
        handlers::validate_lifecycle(lifecycle, grace, &path.child("lifecycle"), errors);
    }
    handlers::validate_probes(container, path, errors);
    one_of(
        container.termination_message_policy.as_deref(),
        &["FallbackToLogsOnError", "File"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    validate_ports(container.ports.as_deref(), &path.child("ports"), errors);
    validate_env(container.env.as_deref(), &path.child("env"), errors);
    validate_env_from(
        container.env_from.as_deref(),
        &path.child("envFrom"),
        errors,
    );
    validate_mounts(container, volumes, path, errors);
    one_of(
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
        errors,
    );
    if let Some(requirements) = &container.resources {
        resources::requirements(requirements, &path.child("resources"), errors);
    }
    if let Some(context) = &container.security_context {
        validate_security(context, &path.child("securityContext"), errors);
    }
}

fn validate_ports(ports: Option<&[ContainerPort]>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, port) in ports.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let problems = names::port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            invalid(&path.child("name"), name, problems, errors);
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            network::port(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(host) = port.host_port.filter(|port| *port != 0) {
            network::port(host, &path.child("hostPort"), errors);
        }
        network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    }
}

/// No two containers of a pod may claim the same port of the host.
fn validate_host_ports(
    container: &Container,
    taken: &mut HashSet<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (at, port) in container.ports.iter().flatten().enumerate() {
        let Some(host) = port.host_port.filter(|port| *port != 0) else {
            continue;
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let claim = format!("{}/{}/{host}", text(&port.protocol), text(&port.host_ip));
        if taken.contains(&claim) {
            errors.push(FieldError::duplicate(
                &path.index(at).child("hostPort"),
                claim,
            ));
        } else {
            taken.insert(claim);
        }
    }
}

fn validate_env(env: Option<&[EnvVar]>, path: &Path<'_>, errors: &mut Errors) {
    for (at, variable) in env.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        if variable.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            invalid(
                &path.child("name"),
                &variable.name,
                names::env_var_name(&variable.name),
                errors,
            );
        }
        if let Some(source) = &variable.value_from {
            let has_value = variable
                .value
                .as_ref()
                .is_some_and(|value| !value.is_empty());
            validate_env_source(source, has_value, &path.child("valueFrom"), errors);
        }
    }
}

fn validate_env_source(
    source: &EnvVarSource,
    has_value: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let given = [
        source.field_ref.is_some(),
        source.resource_field_ref.is_some(),
        source.config_map_key_ref.is_some(),
        source.secret_key_ref.is_some(),
        source.file_key_ref.is_some(),
    ];
    match given.iter().filter(|given| **given).count() {
        0 => errors.push(FieldError::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )),
        _ if has_value => {
            errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
        }
        1 => {}
        _ => errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time")),
    }
    if let Some(field) = &source.field_ref {
        validate_field_ref(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        validate_resource_ref(resource, false, &path.child("resourceFieldRef"), errors);
    }
    let maps = source
        .config_map_key_ref
        .as_ref()
        .map(|map| ("configMapKeyRef", &map.name, &map.key));
    let secrets = source
        .secret_key_ref
        .as_ref()
        .map(|secret| ("secretKeyRef", &secret.name, &secret.key));
    for (field, name, key) in maps.into_iter().chain(secrets) {
        let path = path.child(field);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            invalid(
                &path.child("name"),
                name,
                names::dns1123_subdomain(name),
                errors,
            );
        }
        if key.is_empty() {
            errors.push(FieldError::required(&path.child("key"), ""));
        } else {
            invalid(&path.child("key"), key, names::config_map_key(key), errors);
        }
    }
}

/// A field of the pod by its path, with a key for labels and annotations: `metadata.labels['app']`.
pub(super) fn validate_field_ref(
    field: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if field.api_version.as_ref().is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    let text = field.field_path.as_str();
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = text
        .strip_suffix("']")
        .and_then(|text| text.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            invalid(
                path,
                key,
                names::qualified_name(&key.to_lowercase()),
                errors,
            );
        }
        Some(("metadata.labels", key)) => invalid(path, key, names::qualified_name(key), errors),
        Some(_) => {
            errors.push(FieldError::invalid(
                &at,
                text,
                format!(
                    "error converting fieldPath: field label does not support subscript: {text}"
                ),
            ));
        }
        None if supported.contains(&text) => {}
        None => errors.push(FieldError::not_supported(&at, text, supported)),
    }
}

/// A request or limit of a container, by the name of the resource.
pub(super) fn validate_resource_ref(
    resource: &ResourceFieldSelector,
    from_volume: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const SUPPORTED: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let name = resource.resource.as_str();
    if from_volume
        && resource
            .container_name
            .as_ref()
            .is_none_or(String::is_empty)
    {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if name.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !SUPPORTED.contains(&name) && !name.contains(".hugepages-") {
        errors.push(FieldError::not_supported(
            &path.child("resource"),
            name,
            &SUPPORTED,
        ));
    }
}

fn validate_env_from(sources: Option<&[EnvFromSource]>, path: &Path<'_>, errors: &mut Errors) {
    for (at, source) in sources.unwrap_or_default().iter().enumerate() {
        let path = path.index(at);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            invalid(
                &path.child("prefix"),
                prefix,
                names::env_var_name(prefix),
                errors,
            );
        }
        let map = source
            .config_map_ref
            .as_ref()
            .map(|map| ("configMapRef", &map.name));
        let secret = source
            .secret_ref
            .as_ref()
            .map(|secret| ("secretRef", &secret.name));
        match (map, secret) {
            (None, None) => {
                errors.push(FieldError::invalid(
                    &path,
                    "",
                    "must specify one of: `configMapRef` or `secretRef`",
                ));
            }
            (Some(_), Some(_)) => {
                errors.push(FieldError::invalid(
                    &path,
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
            (Some((field, name)), None) | (None, Some((field, name))) => {
                let path = path.child(field);
                if name.is_empty() {
                    errors.push(FieldError::required(&path.child("name"), ""));
                } else {
                    invalid(
                        &path.child("name"),
                        name,
                        names::dns1123_subdomain(name),
                        errors,
                    );
                }
            }
        }
    }
}

fn validate_mounts(
    container: &Container,
    volumes: &HashSet<&str>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut places = HashSet::new();
    let at_mounts = path.child("volumeMounts");
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = at_mounts.index(at);
        validate_volume_name(&mount.name, volumes, &path, errors);
        if mount.mount_path.is_empty() {
            errors.push(FieldError::required(&path.child("mountPath"), ""));
        }
        if !places.insert(mount.mount_path.as_str()) {
            errors.push(FieldError::invalid(
                &path.child("mountPath"),
                mount.mount_path.as_str(),
                "must be unique",
            ));
        }
        validate_mount(mount, &path, errors);
    }
    let at_devices = path.child("volumeDevices");
    for (at, device) in container.volume_devices.iter().flatten().enumerate() {
        let path = at_devices.index(at);
        validate_volume_name(&device.name, volumes, &path, errors);
        let at = path.child("devicePath");
        if device.device_path.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if !places.insert(device.device_path.as_str()) {
            errors.push(FieldError::invalid(
                &at,
                device.device_path.as_str(),
                "must be unique",
            ));
        }
        no_backsteps(&device.device_path, &at, errors);
    }
}

fn validate_volume_name(name: &str, known: &HashSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if !known.contains(name) {
        errors.push(FieldError::not_found(&path.child("name"), name));
    }
}

fn validate_mount(mount: &VolumeMount, path: &Path<'_>, errors: &mut Errors) {
    if let Some(sub) = mount.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
        local_path(sub, &path.child("subPath"), errors);
        if let Some(expression) = mount.sub_path_expr.as_deref().filter(|sub| !sub.is_empty()) {
            const DETAIL: &str = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(
                &path.child("subPathExpr"),
                expression,
                DETAIL,
            ));
        }
    }
    if let Some(sub) = mount.sub_path_expr.as_deref().filter(|sub| !sub.is_empty()) {
        local_path(sub, &path.child("subPathExpr"), errors);
    }
    if let Some(propagation) = &mount.mount_propagation {
        const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
        one_of(
            Some(propagation),
            &MODES,
            &path.child("mountPropagation"),
            errors,
        );
    }
    if let Some(mode) = &mount.recursive_read_only {
        const MODES: [&str; 3] = ["Disabled", "Enabled", "IfPossible"];
        let path = path.child("recursiveReadOnly");
        one_of(Some(mode), &MODES, &path, errors);
        if mode != "Disabled" && mount.read_only != Some(true) {
            errors.push(FieldError::forbidden(
                &path,
                "may only be specified when readOnly is true",
            ));
        }
    }
}

fn validate_security(context: &SecurityContext, path: &Path<'_>, errors: &mut Errors) {
    validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    if context.allow_privilege_escalation == Some(false) {
        let shown = serde_json::to_value(context).unwrap_or_default();
        if context.privileged == Some(true) {
            const DETAIL: &str =
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, shown.clone(), DETAIL));
        }
        let added = context
            .capabilities
            .iter()
            .flat_map(|capabilities| capabilities.add.iter().flatten());
        if added
            .into_iter()
            .any(|capability| capability == "CAP_SYS_ADMIN")
        {
            const DETAIL: &str = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, shown, DETAIL));
        }
    }
    if let Some(mount) = &context.proc_mount {
        one_of(
            Some(mount),
            &["Default", "Unmasked"],
            &path.child("procMount"),
            errors,
        );
    }
}

/// The number of a user or group.
pub(super) fn validate_id(id: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let largest = i64::from(i32::MAX);
    if let Some(id) = id.filter(|id| !(0..=largest).contains(id)) {
        errors.push(FieldError::invalid(
            path,
            id,
            format!("must be between 0 and {largest}, inclusive"),
        ));
    }
}
