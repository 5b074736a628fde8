//! Mistakes in a pod's specification as a whole (`ValidatePodSpec`).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSecurityContext, PodSpec};

use super::{containers, scheduling, volumes};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::{invalid, labels};
use vaquita_api::validate::network;

const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// One of an enumeration, and not empty.
pub(super) fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    match value.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        known if allowed.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path, other, allowed)),
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

/// Finds mistakes in the specification at `path`.
pub fn validate(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    volumes::validate(
        spec.volumes.as_deref().unwrap_or_default(),
        &path.child("volumes"),
        errors,
    );
    containers::validate(spec, path, errors);
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
    validate_dns(spec, &path.child("dnsConfig"), errors);
    let selector = spec.node_selector.iter().flatten();
    labels(
        selector.map(|(key, value)| (key.as_str(), value.as_str())),
        &path.child("nodeSelector"),
        errors,
    );
    if let Some(context) = &spec.security_context {
        validate_security(context, &path.child("securityContext"), errors);
    }
    scheduling::validate(spec, path, errors);
    validate_names(spec, path, errors);
    validate_deadlines(spec, path, errors);
    validate_host_aliases(spec, &path.child("hostAliases"), errors);
}

fn validate_names(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    type Check = fn(&str) -> names::Problems;
    let checked: [(&str, &Option<String>, Check); 6] = [
        (
            "serviceAccountName",
            &spec.service_account_name,
            names::dns1123_subdomain,
        ),
        ("nodeName", &spec.node_name, names::dns1123_subdomain),
        ("hostname", &spec.hostname, names::dns1123_label),
        ("subdomain", &spec.subdomain, names::dns1123_label),
        (
            "priorityClassName",
            &spec.priority_class_name,
            names::dns1123_subdomain,
        ),
        (
            "runtimeClassName",
            &spec.runtime_class_name,
            names::dns1123_subdomain,
        ),
    ];
    for (field, value, check) in checked {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            invalid(&path.child(field), value, check(value), errors);
        }
    }
    if let Some(policy) = &spec.preemption_policy {
        const POLICIES: [&str; 2] = ["Never", "PreemptLowerPriority"];
        one_of(
            Some(policy),
            &POLICIES,
            &path.child("preemptionPolicy"),
            errors,
        );
    }
}

fn validate_deadlines(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    if let Some(seconds) = spec.active_deadline_seconds {
        let longest = i64::from(i32::MAX);
        if !(1..=longest).contains(&seconds) {
            let detail = format!("must be between 1 and {longest}, inclusive");
            errors.push(FieldError::invalid(
                &path.child("activeDeadlineSeconds"),
                seconds,
                detail,
            ));
        }
    }
    not_negative(
        spec.termination_grace_period_seconds,
        &path.child("terminationGracePeriodSeconds"),
        errors,
    );
}

fn validate_dns(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let none = PodDNSConfig::default();
    let config = spec.dns_config.as_ref().unwrap_or(&none);
    let (servers, at_servers) = (
        config.nameservers.as_deref().unwrap_or_default(),
        path.child("nameservers"),
    );
    if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
        const DETAIL: &str = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&at_servers, DETAIL));
    }
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(
            &at_servers,
            serde_json::json!(servers),
            detail,
        ));
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
    let (searches, at_searches) = (
        config.searches.as_deref().unwrap_or_default(),
        path.child("searches"),
    );
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(
            &at_searches,
            serde_json::json!(searches),
            detail,
        ));
    }
    for (at, search) in searches.iter().enumerate() {
        let name = if search == "." {
            "a"
        } else {
            search.strip_suffix('.').unwrap_or(search)
        };
        invalid(
            &at_searches.index(at),
            search,
            names::dns1123_subdomain(&name.replace('_', "-")),
            errors,
        );
    }
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

fn validate_security(context: &PodSecurityContext, path: &Path<'_>, errors: &mut Errors) {
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
        ("fsGroup", context.fs_group),
    ] {
        containers::validate_id(id, &path.child(field), errors);
    }
    let groups = path.child("supplementalGroups");
    for (at, group) in context.supplemental_groups.iter().flatten().enumerate() {
        containers::validate_id(Some(*group), &groups.index(at), errors);
    }
    if let Some(policy) = &context.fs_group_change_policy {
        one_of(
            Some(policy),
            &["Always", "OnRootMismatch"],
            &path.child("fsGroupChangePolicy"),
            errors,
        );
    }
    let sysctls = path.child("sysctls");
    let mut seen = std::collections::HashSet::new();
    for (at, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = sysctls.index(at);
        if sysctl.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else if !seen.insert(&sysctl.name) {
            errors.push(FieldError::duplicate(
                &path.child("name"),
                sysctl.name.as_str(),
            ));
        }
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
        for hostname in alias.hostnames.iter().flatten() {
            invalid(
                &path.child("hostnames"),
                hostname,
                names::dns1123_subdomain(hostname),
                errors,
            );
        }
    }
}
