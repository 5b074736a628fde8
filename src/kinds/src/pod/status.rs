//! Mistakes in a pod's status.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network;

/// The conditions whose types have no prefix.
const OWN_CONDITIONS: [&str; 10] = [
    "AllContainersRestarting",
    "ContainersReady",
    "DisruptionTarget",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "Ready",
    "Unschedulable",
];

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let empty = PodStatus::default();
    let (status, before) = (
        new.status.as_ref().unwrap_or(&empty),
        old.status.as_ref().unwrap_or(&empty),
    );
    let path = Path::root("status");
    if let Some(node) = status
        .nominated_node_name
        .as_deref()
        .filter(|node| !node.is_empty())
    {
        invalid(
            &path.child("nominatedNodeName"),
            node,
            names::dns1123_subdomain(node),
            errors,
        );
    }
    let at_conditions = path.child("conditions");
    for (at, condition) in status.conditions.iter().flatten().enumerate() {
        if !OWN_CONDITIONS.contains(&condition.type_.as_str()) {
            let problems = names::qualified_name(&condition.type_);
            invalid(
                &at_conditions.index(at).child("Type"),
                &condition.type_,
                problems,
                errors,
            );
        }
    }
    let addresses = path.child("podIPs");
    for (at, address) in status.pod_ips.iter().flatten().enumerate() {
        if address.ip.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(
                &addresses.index(at),
                address.ip.as_str(),
                network::NOT_AN_IP,
            ));
        }
    }
    let policy = old
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        .unwrap_or("Always");
    // A container's own policy may bring it back where the pod's does not.
    let overridden = old
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .any(|container| {
            container.restart_policy.is_some() || container.restart_policy_rules.is_some()
        });
    if policy != "Always" && !overridden {
        let (new, old) = (
            status.container_statuses.as_deref(),
            before.container_statuses.as_deref(),
        );
        stays_ended(new, old, policy, &path.child("containerStatuses"), errors);
    }
}

/// A container that has ended for good stays so.
fn stays_ended(
    new: Option<&[ContainerStatus]>,
    old: Option<&[ContainerStatus]>,
    policy: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let exit_code = |state: &Option<ContainerState>| {
        state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|terminated| terminated.exit_code)
    };
    let by_name = new.unwrap_or_default().iter();
    let by_name: HashMap<&str, &ContainerStatus> = by_name
        .map(|container| (container.name.as_str(), container))
        .collect();
    for (at, before) in old.unwrap_or_default().iter().enumerate() {
        let Some(code) = exit_code(&before.state) else {
            continue;
        };
        if code != 0 && policy == "OnFailure" {
            continue;
        }
        let now = by_name.get(before.name.as_str());
        if now.is_some_and(|now| exit_code(&now.state).is_none()) {
            const DETAIL: &str = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(
                &path.index(at).child("state"),
                DETAIL,
            ));
        }
    }
}
