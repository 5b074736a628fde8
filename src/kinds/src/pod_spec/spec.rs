//! Mistakes in a pod's specification as a whole (`ValidatePodSpec`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig, PodResourceClaim, PodSpec};
use serde_json::json;

use super::{
    Holder, Surroundings, containers, os, scheduling, security, totals, volumes, warnings,
};
use crate::resource_names;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::{invalid, labels};
use vaquita_api::validate::network;

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// The longest search list, with the spaces between its names, in bytes.
const SEARCH_LIST_MAX: usize = 2048;
/// The longest hostname that a kernel takes, in bytes.
const HOSTNAME_MAX: usize = 64;

/// One of an enumeration, and not empty.
pub(super) fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    match value.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        known if allowed.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path, other, allowed)),
    }
}

/// One of an enumeration, if it is there at all. Nothing is said of why the empty one is wrong too.
pub(super) fn one_of_if(
    value: Option<&str>,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(value) = value.filter(|value| !allowed.contains(value)) {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
}

/// A number that may not be less than 0.
pub(super) fn not_negative(value: Option<impl Into<i64>>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.map(Into::into).filter(|value| *value < 0) {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be greater than or equal to 0",
        ));
    }
}

/// Finds mistakes in a template's specification at `path`.
pub fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    validate_in(Holder::Template, spec, path, errors);
}

/// Finds mistakes in a pod's specification at `path`.
pub fn validate_pod(pod: &Pod, path: &Path<'_>, errors: &mut Errors) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    validate_in(Holder::Pod(name), spec, path, errors);
    if spec
        .service_account_name
        .as_ref()
        .is_none_or(String::is_empty)
    {
        refuse_tokens(spec, path, errors);
    }
    for (field, list) in [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ] {
        let path = path.child(field);
        for (at, container) in list.into_iter().flatten().enumerate() {
            containers::validate_of_pod(container, &path.index(at), errors);
        }
    }
}

/// Tokens are those of an account.
fn refuse_tokens(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("volumes");
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = at.index(index);
        let path = path.child("projected");
        let path = path.child("sources");
        let sources = volume
            .projected
            .iter()
            .flat_map(|projected| projected.sources.iter().flatten());
        for (index, source) in sources.enumerate() {
            if source.service_account_token.is_some() {
                const DETAIL: &str = "must not be specified when serviceAccountName is not set";
                let path = path.index(index);
                errors.push(FieldError::forbidden(
                    &path.child("serviceAccountToken"),
                    DETAIL,
                ));
            }
        }
    }
}

fn validate_in(holder: Holder<'_>, spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let grace = spec.termination_grace_period_seconds;
    if grace.is_none() {
        errors.push(FieldError::required(
            &path.child("terminationGracePeriodSeconds"),
            "",
        ));
    }
    let given = spec.volumes.as_deref().unwrap_or_default();
    let volumes = volumes::validate(given, holder, &path.child("volumes"), errors);
    let claims = spec.resource_claims.as_deref().unwrap_or_default();
    validate_claims(claims, &path.child("resourceClaims"), errors);
    let surroundings = Surroundings {
        volumes,
        claims: claims.iter().map(|claim| claim.name.as_str()).collect(),
        grace,
        restart_policy: spec.restart_policy.as_deref().unwrap_or_default(),
        host_users: spec.host_users.unwrap_or(true),
    };
    containers::validate(spec, &surroundings, path, errors);
    totals::validate(spec, &surroundings.claims, &path.child("resources"), errors);
    validate_host_ports(spec, holder, &path.child("containers"), errors);
    one_of(
        spec.restart_policy.as_deref(),
        &RESTART_POLICIES,
        &path.child("restartPolicy"),
        errors,
    );
    one_of(
        spec.dns_policy.as_deref(),
        &DNS_POLICIES,
        &path.child("dnsPolicy"),
        errors,
    );
    let selector = spec.node_selector.iter().flatten();
    labels(
        selector.map(|(key, value)| (key.as_str(), value.as_str())),
        &path.child("nodeSelector"),
        errors,
    );
    security::validate_pod(spec, &path.child("securityContext"), errors);
    scheduling::validate_affinities(spec, path, errors);
    validate_dns(spec, &path.child("dnsConfig"), errors);
    scheduling::validate(spec, path, errors);
    os::validate_host_process(spec, path, errors);
    security::validate_host_users(spec, path, errors);
    validate_names(spec, path, errors);
    validate_overhead(spec, &path.child("overhead"), errors);
    os::validate(spec, path, errors);
    warnings::of_spec(spec, path, errors);
}

fn validate_claims(claims: &[PodResourceClaim], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (at, claim) in claims.iter().enumerate() {
        let path = path.index(at);
        let name = claim.name.as_str();
        let at_name = path.child("name");
        if name.is_empty() {
            errors.push(FieldError::required(&at_name, ""));
        } else if seen.insert(name) {
            invalid(&at_name, name, names::dns1123_label(name), errors);
        } else {
            errors.push(FieldError::duplicate(&at_name, name));
        }
        let (by_name, by_template) = (
            &claim.resource_claim_name,
            &claim.resource_claim_template_name,
        );
        let detail = match (by_name, by_template) {
            (Some(_), Some(_)) => Some(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (None, None) => {
                Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
            }
            _ => None,
        };
        if let Some(detail) = detail {
            errors.push(FieldError::invalid(&path, json!(claim), detail));
        }
        for (field, value) in [
            ("resourceClaimName", by_name),
            ("resourceClaimTemplateName", by_template),
        ] {
            if let Some(value) = value {
                let problems = names::dns1123_subdomain(value);
                invalid(&path.child(field), value, problems, errors);
            }
        }
    }
}

/// In the host's network, a port of the container is a port of the host.
fn validate_host_ports(spec: &PodSpec, holder: Holder<'_>, path: &Path<'_>, errors: &mut Errors) {
    if spec.host_network != Some(true) {
        return;
    }
    for (at, container) in spec.containers.iter().enumerate() {
        let path = path.index(at);
        let path = path.child("ports");
        for (at, port) in container.ports.iter().flatten().enumerate() {
            let host = port.host_port.unwrap_or_default();
            // A template may leave it out; the pods made of it get it filled in.
            let matters = holder != Holder::Template || host != 0;
            if matters && host != port.container_port {
                const DETAIL: &str = "must match `containerPort` when `hostNetwork` is true";
                let path = path.index(at);
                errors.push(FieldError::invalid(&path.child("hostPort"), host, DETAIL));
            }
        }
    }
}

fn validate_names(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    type Check = fn(&str) -> names::Problems;
    let check = |field: &str, value: &Option<String>, check: Check, errors: &mut Errors| {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            invalid(&path.child(field), value, check(value), errors);
        }
    };
    check(
        "serviceAccountName",
        &spec.service_account_name,
        names::dns1123_subdomain,
        errors,
    );
    check(
        "nodeName",
        &spec.node_name,
        names::dns1123_subdomain,
        errors,
    );
    if let Some(seconds) = spec.active_deadline_seconds {
        let longest = i64::from(i32::MAX);
        if !(1..=longest).contains(&seconds) {
            let detail = format!("must be between 1 and {longest}, inclusive");
            let path = path.child("activeDeadlineSeconds");
            errors.push(FieldError::invalid(&path, seconds, detail));
        }
    }
    check("hostname", &spec.hostname, names::dns1123_label, errors);
    check("subdomain", &spec.subdomain, names::dns1123_label, errors);
    validate_hostname_override(spec, path, errors);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::validate_tolerations(tolerations, &path.child("tolerations"), errors);
    validate_host_aliases(spec, &path.child("hostAliases"), errors);
    check(
        "priorityClassName",
        &spec.priority_class_name,
        names::dns1123_subdomain,
        errors,
    );
    if let Some(name) = &spec.runtime_class_name {
        let problems = names::dns1123_subdomain(name);
        invalid(&path.child("runtimeClassName"), name, problems, errors);
    }
    if let Some(policy) = &spec.preemption_policy {
        const POLICIES: [&str; 2] = ["Never", "PreemptLowerPriority"];
        let path = path.child("preemptionPolicy");
        one_of(Some(policy), &POLICIES, &path, errors);
    }
}

fn validate_hostname_override(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(name) = spec.hostname_override.as_deref() else {
        return;
    };
    let at = path.child("hostnameOverride");
    if name.len() > HOSTNAME_MAX {
        errors.push(FieldError::too_long(&at, HOSTNAME_MAX));
    }
    invalid(&at, name, names::dns1123_subdomain(name), errors);
    if spec.set_hostname_as_fqdn == Some(true) {
        const DETAIL: &str = "may not be set when `setHostnameAsFQDN` is true";
        errors.push(FieldError::forbidden(&at, DETAIL));
    }
    if spec.host_network == Some(true) {
        const DETAIL: &str = "may not be set when `hostNetwork` is true";
        errors.push(FieldError::forbidden(&at, DETAIL));
    }
}

fn validate_overhead(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let limits = spec.overhead.clone().unwrap_or_default();
    let path = path.child("limits");
    for (name, quantity) in &limits {
        let path = path.key(name);
        resource_names::of_container(name, &path, errors);
        resource_names::amount(name, quantity, &path, errors);
    }
}

fn validate_dns(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let at_servers = path.child("nameservers");
    let own_servers = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if own_servers {
            const DETAIL: &str = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, DETAIL));
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if own_servers && servers.is_empty() {
        const DETAIL: &str = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&at_servers, DETAIL));
        return;
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(&at_servers, json!(servers), detail));
    }
    for (at, server) in servers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(
                &at_servers.index(at),
                server.as_str(),
                network::NOT_AN_IP,
            ));
        }
    }
    validate_searches(config, &path.child("searches"), errors);
    let options = path.child("options");
    for (at, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_ref().is_none_or(String::is_empty) {
            errors.push(FieldError::required(
                &options.index(at),
                "must not be empty",
            ));
        }
    }
}

fn validate_searches(config: &PodDNSConfig, path: &Path<'_>, errors: &mut Errors) {
    let searches = config.searches.as_deref().unwrap_or_default();
    let mut refuse = |detail| errors.push(FieldError::invalid(path, json!(searches), detail));
    if searches.len() > SEARCHES_MAX {
        refuse(format!(
            "must not have more than {SEARCHES_MAX} search paths"
        ));
    }
    if searches.join(" ").len() > SEARCH_LIST_MAX {
        refuse(format!(
            "must not have more than {SEARCH_LIST_MAX} characters (including spaces) in the search list"
        ));
    }
    for (at, search) in searches.iter().enumerate().filter(|(_, name)| *name != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        // Names of services start with an underscore, which is otherwise no letter.
        let problems = names::dns1123_subdomain(&name.replace('_', "a"));
        invalid(&path.index(at), name, problems, errors);
    }
}

fn validate_host_aliases(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (at, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(at);
        if alias.ip.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(
                &path.child("ip"),
                alias.ip.as_str(),
                network::NOT_AN_IP,
            ));
        }
        let path = path.child("hostnames");
        for (at, hostname) in alias.hostnames.iter().flatten().enumerate() {
            let problems = names::dns1123_subdomain(hostname);
            invalid(&path.index(at), hostname, problems, errors);
        }
    }
}

/// The volumes by their names.
pub(super) type Known<'v> = BTreeMap<&'v str, &'v k8s_openapi::api::core::v1::Volume>;
