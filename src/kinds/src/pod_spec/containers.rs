//! Mistakes in the containers of a pod.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, PodSpec,
};
use serde_json::json;

use super::spec::one_of;
use super::{Surroundings, env, handlers, is_sidecar, mounts, security};
use crate::resource_names::{self, Owner};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESTART_ACTIONS: [&str; 2] = ["Restart", "RestartAllContainers"];
/// How many rules a container may have for its restarts, and how many exit codes each of them.
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

/// All containers of a pod, of all three sorts.
pub(super) fn validate(
    spec: &PodSpec,
    surroundings: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    validate_regular(spec, surroundings, &path.child("containers"), errors);
    validate_inits(spec, surroundings, &path.child("initContainers"), errors);
    validate_ephemerals(
        spec,
        surroundings,
        &path.child("ephemeralContainers"),
        errors,
    );
}

fn validate_regular(
    spec: &PodSpec,
    surroundings: &Surroundings<'_>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    if spec.containers.is_empty() {
        errors.push(FieldError::required(list, ""));
        return;
    }
    let mut names = HashSet::new();
    for (at, container) in spec.containers.iter().enumerate() {
        let path = list.index(at);
        validate_common(container, surroundings, &path, errors);
        if !names.insert(&container.name) {
            let name = container.name.as_str();
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        validate_handlers(container, surroundings, &path, errors);
        validate_restarts(container, &path, errors);
    }
    // They all run at once.
    let mut taken = HashSet::new();
    for (at, container) in spec.containers.iter().enumerate() {
        validate_host_ports(container, &mut taken, &list.index(at), errors);
    }
}

fn validate_inits(
    spec: &PodSpec,
    surroundings: &Surroundings<'_>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    const DETAIL: &str = "may not be set for init containers without restartPolicy=Always";
    let regular = spec.containers.iter();
    let mut names: HashSet<&str> = regular.map(|container| container.name.as_str()).collect();
    for (at, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = list.index(at);
        validate_common(container, surroundings, &path, errors);
        validate_restarts(container, &path, errors);
        let name = container.name.as_str();
        if names.contains(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after the other.
        validate_host_ports(container, &mut HashSet::new(), &list.index(0), errors);
        if is_sidecar(container) {
            validate_handlers(container, surroundings, &path, errors);
            continue;
        }
        // Such a container ends before the others start, so that there is nothing to probe.
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
}

fn validate_ephemerals(
    spec: &PodSpec,
    surroundings: &Surroundings<'_>,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let inits = spec.init_containers.iter().flatten();
    let others: HashSet<&str> = spec
        .containers
        .iter()
        .chain(inits)
        .map(|container| container.name.as_str())
        .collect();
    let mut names = others.clone();
    for (at, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = list.index(at);
        let container = common_of_ephemeral(ephemeral);
        validate_common(&container, surroundings, &path, errors);
        validate_of_pod(&container, &path, errors);
        if !names.insert(&ephemeral.name) {
            let name = ephemeral.name.as_str();
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        let target = ephemeral.target_container_name.as_deref();
        if let Some(target) = target.filter(|target| !target.is_empty() && !others.contains(target))
        {
            errors.push(FieldError::not_found(
                &path.child("targetContainerName"),
                target,
            ));
        }
        validate_only_debugs(&container, &path, errors);
    }
}

/// An ephemeral container is for looking into a pod; nothing may depend on it.
fn validate_only_debugs(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let resources = container.resources.clone().unwrap_or_default();
    let asks = resources != k8s_openapi::api::core::v1::ResourceRequirements::default();
    for (field, given) in [
        ("ports", container.ports.is_some()),
        ("resources", asks),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        (
            "restartPolicyRules",
            container.restart_policy_rules.is_some(),
        ),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), DETAIL));
        }
    }
    let list = path.child("volumeMounts");
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = list.index(at);
        for (field, value) in [
            ("subPath", &mount.sub_path),
            ("subPathExpr", &mount.sub_path_expr),
        ] {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                errors.push(FieldError::forbidden(&path.child(field), DETAIL));
            }
        }
    }
}

/// An ephemeral container as a regular one, without the container that it looks into.
pub fn common_of_ephemeral(ephemeral: &EphemeralContainer) -> Container {
    let ephemeral = ephemeral.clone();
    Container {
        args: ephemeral.args,
        command: ephemeral.command,
        env: ephemeral.env,
        env_from: ephemeral.env_from,
        image: ephemeral.image,
        image_pull_policy: ephemeral.image_pull_policy,
        lifecycle: ephemeral.lifecycle,
        liveness_probe: ephemeral.liveness_probe,
        name: ephemeral.name,
        ports: ephemeral.ports,
        readiness_probe: ephemeral.readiness_probe,
        resize_policy: ephemeral.resize_policy,
        resources: ephemeral.resources,
        restart_policy: ephemeral.restart_policy,
        restart_policy_rules: ephemeral.restart_policy_rules,
        security_context: ephemeral.security_context,
        startup_probe: ephemeral.startup_probe,
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path,
        termination_message_policy: ephemeral.termination_message_policy,
        tty: ephemeral.tty,
        volume_devices: ephemeral.volume_devices,
        volume_mounts: ephemeral.volume_mounts,
        working_dir: ephemeral.working_dir,
    }
}

/// What holds in pods, but not in templates, for the sake of those that were stored before there was the rule.
pub(super) fn validate_of_pod(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.trim() != image {
        errors.push(FieldError::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}

/// What holds for containers of all three sorts.
fn validate_common(
    container: &Container,
    surroundings: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (name, at_name) = (container.name.as_str(), path.child("name"));
    if name.is_empty() {
        errors.push(FieldError::required(&at_name, ""));
    } else {
        invalid(&at_name, name, names::dns1123_label(name), errors);
    }
    if container.image.as_ref().is_none_or(String::is_empty) {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    one_of(
        container.termination_message_policy.as_deref(),
        &["FallbackToLogsOnError", "File"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    validate_ports(container.ports.as_deref(), &path.child("ports"), errors);
    env::validate(container.env.as_deref(), &path.child("env"), errors);
    env::validate_from(
        container.env_from.as_deref(),
        &path.child("envFrom"),
        errors,
    );
    mounts::validate(container, surroundings, path, errors);
    one_of(
        container.image_pull_policy.as_deref(),
        &PULL_POLICIES,
        &path.child("imagePullPolicy"),
        errors,
    );
    if let Some(resources) = &container.resources {
        resource_names::requirements(
            resources,
            Owner::Container,
            &surroundings.claims,
            &path.child("resources"),
            errors,
        );
    }
    validate_resize_policy(
        container.resize_policy.as_deref().unwrap_or_default(),
        surroundings.restart_policy,
        &path.child("resizePolicy"),
        errors,
    );
    if let Some(context) = &container.security_context {
        let path = path.child("securityContext");
        security::validate_container(context, surroundings.host_users, &path, errors);
    }
}

fn validate_handlers(
    container: &Container,
    surroundings: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        handlers::validate_lifecycle(lifecycle, surroundings.grace, &path, errors);
    }
    handlers::validate_probes(container, path, errors);
}

/// A container's own policy, which may differ from the pod's and go by the exit code.
fn validate_restarts(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let rules = container
        .restart_policy_rules
        .as_deref()
        .unwrap_or_default();
    let at = path.child("restartPolicy");
    match container.restart_policy.as_deref() {
        Some(policy) if !RESTART_POLICIES.contains(&policy) => {
            errors.push(FieldError::not_supported(&at, policy, &RESTART_POLICIES));
        }
        None if !rules.is_empty() => {
            const DETAIL: &str = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(&at, DETAIL));
        }
        _ => {}
    }
    let list = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.push(FieldError::too_many(&list, rules.len(), RESTART_RULES_MAX));
        return;
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = list.index(at);
        one_of(
            Some(&rule.action),
            &RESTART_ACTIONS,
            &path.child("action"),
            errors,
        );
        let path = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.push(FieldError::required(&path, "must be specified"));
            continue;
        };
        one_of(
            Some(&codes.operator),
            &["In", "NotIn"],
            &path.child("operator"),
            errors,
        );
        let count = codes.values.as_ref().map_or(0, Vec::len);
        if count > EXIT_CODES_MAX {
            let path = path.child("values");
            errors.push(FieldError::too_many(&path, count, EXIT_CODES_MAX));
        }
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

/// No two containers that run at once may claim the same port of the host.
fn validate_host_ports(
    container: &Container,
    taken: &mut HashSet<String>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let path = path.child("ports");
    for (at, port) in container.ports.iter().flatten().enumerate() {
        let Some(host) = port.host_port.filter(|port| *port != 0) else {
            continue;
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let claim = format!("{}/{}/{host}", text(&port.protocol), text(&port.host_ip));
        if taken.contains(&claim) {
            let path = path.index(at);
            errors.push(FieldError::duplicate(&path.child("hostPort"), claim));
        } else {
            taken.insert(claim);
        }
    }
}

/// What becomes of a container whose resources change.
fn validate_resize_policy(
    policies: &[ContainerResizePolicy],
    restart_policy: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut seen = HashSet::new();
    for (at, policy) in policies.iter().enumerate() {
        let resource = policy.resource_name.as_str();
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path.index(at), resource));
        }
        let restart = policy.restart_policy.as_str();
        one_of(Some(resource), &["cpu", "memory"], path, errors);
        one_of(
            Some(restart),
            &["NotRequired", "RestartContainer"],
            path,
            errors,
        );
        if restart_policy == "Never" && restart != "NotRequired" {
            const DETAIL: &str = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, json!(restart), DETAIL));
        }
    }
}
