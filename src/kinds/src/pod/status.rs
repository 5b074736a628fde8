//! A pod's status: what a report of it may not touch, and mistakes in it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::{Value, json};

use crate::pod_spec::{is_sidecar, validate_id};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network;
use vaquita_api::{Object, meta};

/// What a report of the status can't take away: owners, which are nobody's business who reports, the class of service,
/// which is decided for good, and which generation was seen.
pub(super) fn keep(new: &mut Object, old: &Object) {
    let owners = meta::at(old, &["metadata", "ownerReferences"]).cloned();
    let metadata = meta::metadata_mut(new);
    match owners {
        Some(owners) => metadata.insert("ownerReferences".to_owned(), owners),
        None => metadata.remove("ownerReferences"),
    };
    let before = old.get("status").and_then(Value::as_object);
    let status = meta::object_mut(new, "status");
    for field in ["qosClass", "observedGeneration"] {
        if let Some(value) = before.and_then(|before| before.get(field)) {
            status.entry(field).or_insert_with(|| value.clone());
        }
    }
    let conditions = before.and_then(|before| before.get("conditions"));
    keep_observed(status.get_mut("conditions"), conditions);
}

/// A condition that does not say which generation it is about says the same as before.
fn keep_observed(new: Option<&mut Value>, old: Option<&Value>) {
    const FIELD: &str = "observedGeneration";
    let mut before: HashMap<String, Vec<Option<Value>>> = HashMap::new();
    for condition in old.and_then(Value::as_array).into_iter().flatten().rev() {
        let kind = condition["type"].to_string();
        let seen = condition.get(FIELD).cloned();
        before.entry(kind).or_default().push(seen);
    }
    let conditions = new.and_then(Value::as_array_mut).into_iter().flatten();
    for condition in conditions.filter_map(Value::as_object_mut) {
        let kind = condition.get("type").unwrap_or(&Value::Null).to_string();
        let seen = before.get_mut(&kind).and_then(Vec::pop).flatten();
        if let Some(seen) = seen {
            condition.entry(FIELD).or_insert(seen);
        }
    }
}

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = old.spec.as_ref().unwrap_or(&no_spec);
    let status = new.status.as_ref().unwrap_or(&no_status);
    let before = old.status.as_ref().unwrap_or(&no_status);
    // Of the metadata rather than of the status, as upstream has it.
    let path = Path::root("metadata");
    let list = path.child("conditions");
    for (at, condition) in status.conditions.iter().flatten().enumerate() {
        let problems = names::qualified_name(&condition.type_);
        let path = list.index(at);
        invalid(&path.child("Type"), &condition.type_, problems, errors);
    }
    let path = Path::root("status");
    let node = status.nominated_node_name.as_deref().unwrap_or_default();
    if !node.is_empty() && status.nominated_node_name != before.nominated_node_name {
        let problems = names::dns1123_subdomain(node);
        invalid(&path.child("nominatedNodeName"), node, problems, errors);
    }
    if status.qos_class != before.qos_class {
        errors.push(FieldError::invalid(
            &path.child("qosClass"),
            status.qos_class.clone().unwrap_or_default(),
            "field is immutable",
        ));
    }
    validate_transitions(status, before, spec, &path, errors);
    validate_claims(status, spec, &path.child("resourceClaimStatuses"), errors);
    validate_addresses(status, &path, errors);
    for (field, containers) in all_lists(status) {
        let path = path.child(field);
        for (at, container) in containers.iter().enumerate() {
            validate_user(container, spec, &path.index(at), errors);
            validate_allocated(container, spec, field, &path.index(at), errors);
        }
    }
}

fn all_lists(status: &PodStatus) -> [(&'static str, &[ContainerStatus]); 3] {
    [
        (
            "containerStatuses",
            status.container_statuses.as_deref().unwrap_or_default(),
        ),
        (
            "initContainerStatuses",
            status
                .init_container_statuses
                .as_deref()
                .unwrap_or_default(),
        ),
        (
            "ephemeralContainerStatuses",
            status
                .ephemeral_container_statuses
                .as_deref()
                .unwrap_or_default(),
        ),
    ]
}

/// A container that has ended for good stays so.
fn validate_transitions(
    new: &PodStatus,
    old: &PodStatus,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let inits = spec.init_containers.iter().flatten();
    // A container's own policy may bring it back where the pod's does not.
    let restarted: HashSet<&str> = spec
        .containers
        .iter()
        .chain(inits)
        .filter(|container| {
            is_sidecar(container)
                || container.restart_policy.is_some()
                || container.restart_policy_rules.is_some()
        })
        .map(|container| container.name.as_str())
        .collect();
    for ((field, new), (_, old)) in all_lists(new).into_iter().zip(all_lists(old)) {
        let policy = if field == "ephemeralContainerStatuses" {
            "Never"
        } else {
            policy
        };
        if policy == "Always" {
            continue;
        }
        stays_ended((new, old), &restarted, policy, &path.child(field), errors);
    }
}

/// Of the containers of one sort; those that are `restarted` by policies of their own may come back.
fn stays_ended(
    (new, old): (&[ContainerStatus], &[ContainerStatus]),
    restarted: &HashSet<&str>,
    policy: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let exit_code = |state: &Option<ContainerState>| {
        let ended = state.as_ref().and_then(|state| state.terminated.as_ref());
        ended.map(|ended| ended.exit_code)
    };
    let by_name: HashMap<&str, &ContainerStatus> = new
        .iter()
        .map(|container| (container.name.as_str(), container))
        .collect();
    for (at, before) in old.iter().enumerate() {
        if restarted.contains(before.name.as_str()) {
            continue;
        }
        let Some(code) = exit_code(&before.state) else {
            continue;
        };
        if code != 0 && policy == "OnFailure" {
            continue;
        }
        let now = by_name.get(before.name.as_str());
        if now.is_some_and(|now| exit_code(&now.state).is_none()) {
            const DETAIL: &str = "may not be transitioned to non-terminated state";
            let path = path.index(at);
            errors.push(FieldError::forbidden(&path.child("state"), DETAIL));
        }
    }
}

fn validate_claims(status: &PodStatus, spec: &PodSpec, list: &Path<'_>, errors: &mut Errors) {
    let claims = spec.resource_claims.iter().flatten();
    let known: HashSet<&str> = claims.map(|claim| claim.name.as_str()).collect();
    let mut seen = HashSet::new();
    for (at, claim) in status.resource_claim_statuses.iter().flatten().enumerate() {
        let path = list.index(at);
        let path = path.child("name");
        let name = claim.name.as_str();
        if !known.contains(name) {
            const DETAIL: &str = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&path, name, DETAIL));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        if let Some(name) = &claim.resource_claim_name {
            invalid(&path, name, names::dns1123_subdomain(name), errors);
        }
    }
}

fn validate_addresses(status: &PodStatus, path: &Path<'_>, errors: &mut Errors) {
    let pods = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let pods: Vec<&str> = pods.collect();
    validate_ips(&pods, &path.child("podIPs"), errors);
    let hosts = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let hosts: Vec<&str> = hosts.collect();
    let list = path.child("hostIPs");
    if let Some(first) = hosts
        .first()
        .filter(|first| status.host_ip.as_deref() != Some(**first))
    {
        let path = list.index(0);
        errors.push(FieldError::invalid(
            &path.child("ip"),
            *first,
            "must be equal to `hostIP`",
        ));
    }
    validate_ips(&hosts, &list, errors);
}

/// At most one address of each family.
fn validate_ips(ips: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let parsed: Vec<Option<IpAddr>> = ips.iter().map(|ip| ip.parse().ok()).collect();
    for (at, ip) in ips
        .iter()
        .enumerate()
        .filter(|(at, _)| parsed[*at].is_none())
    {
        errors.push(FieldError::invalid(
            &path.index(at),
            *ip,
            network::NOT_AN_IP,
        ));
    }
    if ips.len() < 2 {
        return;
    }
    let of_version = |v4: bool| {
        let family = parsed.iter().flatten().filter(|ip| ip.is_ipv4() == v4);
        family.count()
    };
    if of_version(true) != 1 || of_version(false) != 1 {
        const DETAIL: &str = "may specify no more than one IP for each IP family";
        let shown: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        errors.push(FieldError::invalid(path, Value::from(shown), DETAIL));
    }
    let mut seen = HashSet::new();
    for (at, ip) in ips.iter().enumerate() {
        if !seen.insert(ip) {
            errors.push(FieldError::duplicate(&path.index(at), json!({"ip": ip})));
        }
    }
}

fn validate_user(
    container: &ContainerStatus,
    spec: &PodSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let user = container.user.as_ref().and_then(|user| user.linux.as_ref());
    let Some(user) = user else { return };
    let path = path.child("linux");
    match spec.os.as_ref().map_or("linux", |os| os.name.as_str()) {
        "windows" => errors.push(FieldError::forbidden(
            &path,
            "cannot be set for a windows pod",
        )),
        "linux" => {
            validate_id(Some(user.uid), &path.child("uid"), errors);
            validate_id(Some(user.gid), &path.child("gid"), errors);
            let list = path.child("supplementalGroups");
            for (at, group) in user.supplemental_groups.iter().flatten().enumerate() {
                validate_id(Some(*group), &list.index(at), errors);
            }
        }
        _ => {}
    }
}

/// How the devices are that the container was given: only those that it asked for, each once.
fn validate_allocated(
    container: &ContainerStatus,
    spec: &PodSpec,
    list: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
    let at = path.child("allocatedResourcesStatus");
    let allocated = container
        .allocated_resources_status
        .as_deref()
        .unwrap_or_default();
    let asking = match list {
        "containerStatuses" => &spec.containers[..],
        "initContainerStatuses" => spec.init_containers.as_deref().unwrap_or_default(),
        _ if allocated.is_empty() => return,
        _ => {
            errors.push(FieldError::forbidden(
                &at,
                "must not be specified in container status",
            ));
            return;
        }
    };
    let asking = asking.iter().find(|asking| asking.name == container.name);
    for (index, status) in allocated.iter().enumerate() {
        let path = at.index(index);
        let resources = asking.and_then(|asking| asking.resources.clone());
        if asking.is_some()
            && let Err(detail) = asked_for(&status.name, &resources.unwrap_or_default())
        {
            let name = status.name.as_str();
            errors.push(FieldError::invalid(&path.child("name"), name, detail));
        }
        let list = path.child("resources");
        let mut seen = HashSet::new();
        for (index, device) in status.resources.iter().flatten().enumerate() {
            let path = list.index(index);
            let health = device.health.as_deref().unwrap_or_default();
            if !HEALTH.contains(&health) {
                let path = path.child("health");
                errors.push(FieldError::not_supported(&path, health, &HEALTH));
            }
            if !seen.insert(&device.resource_id) {
                let id = device.resource_id.as_str();
                errors.push(FieldError::duplicate(&path.child("resourceID"), id));
            }
        }
    }
}

/// Whether a container asks for a resource, or a claim that is named as `claim:name/request`.
fn asked_for(
    name: &str,
    resources: &k8s_openapi::api::core::v1::ResourceRequirements,
) -> Result<(), &'static str> {
    const NO_CLAIM: &str = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
        'claim:<claimName>' if request is empty";
    if let Some(wanted) = name.strip_prefix("claim:") {
        let mut claims = resources.claims.iter().flatten();
        let found = claims.any(|claim| match claim.request.as_deref() {
            None | Some("") => claim.name == wanted,
            Some(request) => wanted.split_once('/') == Some((&claim.name, request)),
        });
        return if found { Ok(()) } else { Err(NO_CLAIM) };
    }
    let requests = resources.requests.as_ref();
    if requests.is_some_and(|requests| requests.contains_key(name)) {
        Ok(())
    } else {
        Err("must match one of the container's resource requests")
    }
}
