//! Mistakes in a service (`ValidateService`).

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::{is_externally_accessible, is_headless};
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
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    by_type(spec, kind, headless, path, errors);
    validate_ports(ports, kind, &path.child("ports"), errors);
    let selector = spec.selector.iter().flatten();
    labels(
        selector.map(|(key, value)| (key.as_str(), value.as_str())),
        &path.child("selector"),
        errors,
    );
    validate_affinity(spec, path, errors);
    if kind != "ExternalName" {
        validate_cluster_ips(spec, path, errors);
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
    validate_policies(spec, kind, path, errors);
    if kind != "LoadBalancer" {
        validate_no_balancer(spec, path, errors);
    }
}

fn by_type(spec: &ServiceSpec, kind: &str, headless: bool, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "" => errors.push(FieldError::required(&path.child("type"), "")),
        "ClusterIP" => {}
        "NodePort" | "LoadBalancer" => {
            if headless {
                let detail = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid(
                    &path.child("clusterIPs").index(0),
                    "None",
                    detail,
                ));
            }
        }
        "ExternalName" => {
            for (field, given) in [
                (
                    "clusterIPs",
                    spec.cluster_ips.is_some() || spec.cluster_ip.is_some(),
                ),
                ("ipFamilies", spec.ip_families.is_some()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if given {
                    let detail = "may not be set for ExternalName services";
                    errors.push(FieldError::forbidden(&path.child(field), detail));
                }
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            let at = path.child("externalName");
            if name.is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else {
                let problems = names::dns1123_subdomain(name.strip_suffix('.').unwrap_or(name));
                invalid(&at, name, problems, errors);
            }
        }
        other => errors.push(FieldError::not_supported(
            &path.child("type"),
            other,
            &TYPES,
        )),
    }
}

fn validate_ports(ports: &[ServicePort], kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let (mut names, mut pairs, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = port.name.as_deref().unwrap_or_default();
        let at_name = path.child("name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&at_name, ""));
            }
        } else {
            invalid(&at_name, name, names::dns1123_label(name), errors);
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&at_name, name));
            }
        }
        validate_port(port, &path, errors);
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !pairs.insert((protocol, port.port)) {
            errors.push(FieldError::duplicate(
                &path,
                json!({"port": port.port, "protocol": protocol}),
            ));
        }
        let Some(node_port) = port.node_port.filter(|port| *port != 0) else {
            continue;
        };
        let at_node_port = path.child("nodePort");
        if kind == "ClusterIP" {
            const DETAIL: &str = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&at_node_port, DETAIL));
        }
        if !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(&at_node_port, node_port));
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
            let seconds = client
                .and_then(|client| client.timeout_seconds)
                .unwrap_or_default();
            if !(1..=AFFINITY_MAX).contains(&seconds) {
                let detail = format!("must be greater than 0 and less than {AFFINITY_MAX}");
                let path = config.child("clientIP");
                errors.push(FieldError::invalid(
                    &path.child("timeoutSeconds"),
                    seconds,
                    detail,
                ));
            }
        }
        other => {
            let at = path.child("sessionAffinity");
            errors.push(FieldError::not_supported(&at, other, &["ClientIP", "None"]));
        }
    }
}

fn validate_cluster_ips(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let path = path.child("clusterIPs");
    if let (Some(first), Some(ip)) = (ips.first(), &spec.cluster_ip)
        && first != ip
    {
        errors.push(FieldError::invalid(
            &path,
            json!(ips),
            "first value must match `clusterIP`",
        ));
    }
    for (at, ip) in ips.iter().enumerate() {
        if ip == "None" && ips.len() > 1 {
            const DETAIL: &str = "'None' must be the first and only value";
            errors.push(FieldError::invalid(&path.index(at), ip.as_str(), DETAIL));
        } else if ip != "None" && ip.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(
                &path.index(at),
                ip.as_str(),
                network::NOT_AN_IP,
            ));
        }
    }
}

/// One of `allowed`, if it is there.
fn one_of(value: Option<&str>, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if let Some(value) = value.filter(|value| !allowed.contains(value)) {
        errors.push(FieldError::not_supported(path, value, allowed));
    }
}

fn validate_policies(spec: &ServiceSpec, kind: &str, path: &Path<'_>, errors: &mut Errors) {
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
    if kind == "ExternalName" && spec.internal_traffic_policy.is_some() {
        const DETAIL: &str = "may not be set for ExternalName services";
        errors.push(FieldError::forbidden(&at, DETAIL));
    }
    let at = path.child("trafficDistribution");
    one_of(
        spec.traffic_distribution.as_deref(),
        &DISTRIBUTIONS,
        &at,
        errors,
    );
    if spec.health_check_node_port.is_some_and(|port| port != 0)
        && !(kind == "LoadBalancer" && policy == Some("Local"))
    {
        const DETAIL: &str =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        let port = spec.health_check_node_port.unwrap_or_default();
        errors.push(FieldError::invalid(
            &path.child("healthCheckNodePort"),
            port,
            DETAIL,
        ));
    }
}

fn validate_no_balancer(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, given) in [
        (
            "loadBalancerSourceRanges",
            spec.load_balancer_source_ranges.is_some(),
        ),
        (
            "allocateLoadBalancerNodePorts",
            spec.allocate_load_balancer_node_ports.is_some(),
        ),
        ("loadBalancerClass", spec.load_balancer_class.is_some()),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), BALANCER_ONLY));
        }
    }
}

/// An address stays for as long as the service has one.
pub(super) fn change(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let first = |spec: &ServiceSpec| {
        spec.cluster_ips
            .iter()
            .flatten()
            .next()
            .or(spec.cluster_ip.as_ref())
            .cloned()
            .filter(|ip| !ip.is_empty())
    };
    if let Some(before) = first(old)
        && first(new).as_ref() != Some(&before)
    {
        let ips = json!(new.cluster_ips.clone().unwrap_or_default());
        let path = path.child("clusterIPs");
        errors.push(FieldError::invalid(
            &path.index(0),
            ips,
            "may not change once set",
        ));
    }
}
