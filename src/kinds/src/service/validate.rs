//! Mistakes in a service (`ValidateService`).

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::{families, is_externally_accessible, is_headless};
use crate::cidr::{NOT_A_CIDR, is_cidr};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::validate::metadata::{invalid, labels};
use vaquita_api::validate::network;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// A day, in seconds.
const AFFINITY_MAX: i32 = 86_400;
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

pub(super) fn spec(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let headless = is_headless(spec);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let at_ports = path.child("ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&at_ports, ""));
    }
    by_type(spec, kind, headless, path, errors);
    validate_ports(ports, &at_ports, errors);
    let selector = spec.selector.iter().flatten();
    labels(
        selector.map(|(key, value)| (key.as_str(), value.as_str())),
        &path.child("selector"),
        errors,
    );
    validate_affinity(spec, path, errors);
    if kind != "ExternalName" {
        families::validate(spec, headless, path, errors);
    }
    let at_external = path.child("externalIPs");
    for (at, ip) in spec.external_ips.iter().flatten().enumerate() {
        match ip.parse::<IpAddr>() {
            Ok(ip) => network::reachable(ip, &at_external.index(at), errors),
            Err(_) => errors.push(FieldError::invalid(
                &at_external.index(at),
                ip.as_str(),
                network::NOT_AN_IP,
            )),
        }
    }
    let at_type = path.child("type");
    if kind.is_empty() {
        errors.push(FieldError::required(&at_type, ""));
    } else if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&at_type, kind, &TYPES));
    }
    validate_distinct_ports(ports, kind, &at_ports, errors);
    validate_balancer(spec, kind, path, errors);
    validate_policies(spec, path, errors);
}

fn by_type(spec: &ServiceSpec, kind: &str, headless: bool, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "NodePort" | "LoadBalancer" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            let path = path.child("clusterIPs");
            errors.push(FieldError::invalid(&path.index(0), "None", detail));
        }
        "ExternalName" => {
            let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
            for (field, given) in [
                (
                    "clusterIPs",
                    has(&spec.cluster_ips) || spec.cluster_ip.is_some(),
                ),
                ("ipFamilies", has(&spec.ip_families)),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if given {
                    let detail = "may not be set for ExternalName services";
                    errors.push(FieldError::forbidden(&path.child(field), detail));
                }
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            let name = name.strip_suffix('.').unwrap_or(name);
            let at = path.child("externalName");
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                invalid(&at, name, names::dns1123_subdomain(name), errors);
            }
        }
        _ => {}
    }
}

fn validate_ports(ports: &[ServicePort], list: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = list.index(at);
        let name = port.name.as_deref().unwrap_or_default();
        let at_name = path.child("name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&at_name, ""));
            }
        } else {
            invalid(&at_name, name, names::dns1123_label(name), errors);
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at_name, name));
            }
        }
        validate_port(port, &path, errors);
    }
}

/// Ports of one protocol differ, as do the nodes' ports behind them.
fn validate_distinct_ports(
    ports: &[ServicePort],
    kind: &str,
    list: &Path<'_>,
    errors: &mut Errors,
) {
    let node_port = |port: &ServicePort| port.node_port.filter(|port| *port != 0);
    let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_default();
    for (at, _) in ports
        .iter()
        .enumerate()
        .filter(|(_, port)| kind == "ClusterIP" && node_port(port).is_some())
    {
        const DETAIL: &str = "may not be used when `type` is 'ClusterIP'";
        let path = list.index(at);
        errors.push(FieldError::forbidden(&path.child("nodePort"), DETAIL));
    }
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        if let Some(number) = node_port(port)
            && !seen.insert((protocol(port), number))
        {
            let path = list.index(at);
            errors.push(FieldError::duplicate(&path.child("nodePort"), number));
        }
    }
    let mut seen = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let protocol = protocol(port);
        let shown = json!({"port": port.port, "protocol": protocol});
        if !seen.insert((protocol, port.port)) {
            errors.push(FieldError::duplicate(&list.index(at), shown));
        }
    }
}

fn validate_port(port: &ServicePort, path: &Path<'_>, errors: &mut Errors) {
    network::port(port.port, &path.child("port"), errors);
    network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    let target = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => network::port(*number, &target, errors),
        Some(IntOrString::String(name)) => invalid(&target, name, names::port_name(name), errors),
        None => {}
    }
    if let Some(protocol) = &port.app_protocol {
        invalid(
            &path.child("appProtocol"),
            protocol,
            names::qualified_name(protocol),
            errors,
        );
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let config = path.child("sessionAffinityConfig");
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&path.child("sessionAffinity"), "")),
        "None" => {
            if spec.session_affinity_config.is_some() {
                const DETAIL: &str = "must not be set when session affinity is None";
                errors.push(FieldError::forbidden(&config, DETAIL));
            }
        }
        "ClientIP" => {
            let client = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref());
            let seconds = client.and_then(|client| client.timeout_seconds);
            let path = config.child("clientIP");
            if let Some(seconds) = seconds.filter(|seconds| !(1..=AFFINITY_MAX).contains(seconds)) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_MAX}");
                let path = path.child("timeoutSeconds");
                errors.push(FieldError::invalid(&path, seconds, detail));
            }
        }
        other => {
            let at = path.child("sessionAffinity");
            errors.push(FieldError::not_supported(&at, other, &["ClientIP", "None"]));
        }
    }
}

/// One of `allowed`, if it is there.
fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| !allowed.contains(value)) {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
}

fn validate_policies(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    let at = path.child("externalTrafficPolicy");
    let policy = spec
        .external_traffic_policy
        .as_deref()
        .filter(|policy| !policy.is_empty());
    match (policy, is_externally_accessible(spec)) {
        (Some(policy), false) => {
            const DETAIL: &str = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(&at, policy, DETAIL));
        }
        (policy, _) => one_of(policy, &["Cluster", "Local"], &at, errors),
    }
    let at = path.child("internalTrafficPolicy");
    one_of(
        spec.internal_traffic_policy.as_deref(),
        &["Cluster", "Local"],
        &at,
        errors,
    );
    let at = path.child("trafficDistribution");
    one_of(
        spec.traffic_distribution.as_deref(),
        &DISTRIBUTIONS,
        &at,
        errors,
    );
    let port = spec.health_check_node_port.unwrap_or_default();
    let at = path.child("healthCheckNodePort");
    if is_health_checked(spec) {
        // It may still have to be given out.
        if port != 0 {
            network::port(port, &at, errors);
        }
    } else if port != 0 {
        const DETAIL: &str =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&at, port, DETAIL));
    }
}

/// Whether a balancer asks each node for itself if it has any endpoints.
fn is_health_checked(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn validate_balancer(spec: &ServiceSpec, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let balanced = kind == "LoadBalancer";
    // The field is spelt like this in upstream's answers.
    let at = path.child("LoadBalancerSourceRanges");
    let ranges = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    if !ranges.is_empty() && !balanced {
        errors.push(FieldError::forbidden(&at, BALANCER_ONLY));
    }
    for (index, range) in ranges.iter().enumerate() {
        if !is_cidr(range.trim()) {
            errors.push(FieldError::invalid(
                &at.index(index),
                range.trim(),
                NOT_A_CIDR,
            ));
        }
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !balanced {
        let at = path.child("allocateLoadBalancerNodePorts");
        errors.push(FieldError::forbidden(&at, BALANCER_ONLY));
    }
    let at = path.child("loadBalancerClass");
    match spec.load_balancer_class.as_deref() {
        Some(class) if balanced => invalid(&at, class, names::qualified_name(class), errors),
        Some(_) => errors.push(FieldError::forbidden(&at, BALANCER_ONLY)),
        None => {}
    }
}

/// What stays as it is once it is there.
pub(super) fn change(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    families::validate_change(new, old, path, errors);
    let balanced = |spec: &ServiceSpec| spec.type_.as_deref() == Some("LoadBalancer");
    if balanced(new) && balanced(old) && new.load_balancer_class != old.load_balancer_class {
        errors.push(FieldError::invalid(
            &path.child("loadBalancerClass"),
            json!(new.load_balancer_class),
            "may not change once set",
        ));
    }
    if is_health_checked(new)
        && is_health_checked(old)
        && new.health_check_node_port != old.health_check_node_port
    {
        errors.push(FieldError::forbidden(
            &path.child("healthCheckNodePort"),
            "field is immutable",
        ));
    }
}

/// The points at which a balancer takes connections.
pub(super) fn status(
    status: &ServiceStatus,
    spec: &ServiceSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    const MODES: [&str; 2] = ["Proxy", "VIP"];
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let points = status
        .load_balancer
        .iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    if spec.type_.as_deref() != Some("LoadBalancer") {
        if points.count() > 0 {
            const DETAIL: &str = "may only be used when `spec.type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(&path, DETAIL));
        }
        return;
    }
    for (at, point) in points.enumerate() {
        let path = path.index(at);
        let ip = point.ip.as_deref().unwrap_or_default();
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let path = path.child("ip");
            errors.push(FieldError::invalid(&path, ip, network::NOT_AN_IP));
        }
        let at_mode = path.child("ipMode");
        match point.ip_mode.as_deref() {
            None if !ip.is_empty() => {
                const DETAIL: &str = "must be specified when `ip` is set";
                errors.push(FieldError::required(&at_mode, DETAIL));
            }
            Some(_) if ip.is_empty() => {
                const DETAIL: &str = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(&at_mode, DETAIL));
            }
            mode => one_of(mode, &MODES, &at_mode, errors),
        }
        let host = point.hostname.as_deref().unwrap_or_default();
        if host.is_empty() {
            continue;
        }
        let path = path.child("hostname");
        invalid(&path, host, names::dns1123_subdomain(host), errors);
        if host.parse::<IpAddr>().is_ok() {
            const DETAIL: &str = "must be a DNS name, not an IP address";
            errors.push(FieldError::invalid(&path, host, DETAIL));
        }
    }
}
/// Warns of fields that the Service's type makes mean nothing.
pub(super) fn warn_of_ignored(spec: &ServiceSpec, errors: &mut Errors) {
    let has_external_ips = spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty());
    let external = spec.type_.as_deref() == Some("ExternalName");
    if external && has_external_ips {
        errors.remark(r#"spec.externalIPs is ignored when spec.type is "ExternalName""#);
    }
    if !external
        && spec
            .external_name
            .as_ref()
            .is_some_and(|name| !name.is_empty())
    {
        errors.remark(r#"spec.externalName is ignored when spec.type is not "ExternalName""#);
    }
    if spec.cluster_ip.as_deref() != Some("None") {
        return;
    }
    if spec
        .load_balancer_ip
        .as_ref()
        .is_some_and(|ip| !ip.is_empty())
    {
        errors.remark("spec.loadBalancerIP is ignored for headless services");
    }
    if has_external_ips {
        errors.remark("spec.externalIPs is ignored for headless services");
    }
    if spec
        .session_affinity
        .as_deref()
        .is_some_and(|affinity| affinity != "None")
    {
        errors.remark("spec.SessionAffinity is ignored for headless services");
    }
}
