//! Addresses of a service inside the cluster and the families they are of: mistakes in them, and what may change.

use std::collections::HashSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::json;

use super::is_headless;
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::validate::network;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const FIXED: &str = "may not change once set";

fn list(list: Option<&Vec<String>>) -> &[String] {
    list.map_or(&[], Vec::as_slice)
}

pub(super) fn validate(spec: &ServiceSpec, headless: bool, path: &Path<'_>, errors: &mut Errors) {
    let ips = list(spec.cluster_ips.as_ref());
    let at_ips = path.child("clusterIPs");
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let mut refuse = |detail| errors.push(FieldError::invalid(&at_ips, json!(ips), detail));
    match ips.first() {
        Some(_) if ip.is_empty() => refuse("must be empty when `clusterIP` is not specified"),
        Some(first) if first != ip => refuse("first value must match `clusterIP`"),
        None if !ip.is_empty() => errors.push(FieldError::required(&at_ips, "")),
        _ => {}
    }
    let families = list(spec.ip_families.as_ref());
    let at_families = path.child("ipFamilies");
    let mut seen = HashSet::new();
    for (at, family) in families.iter().enumerate() {
        let path = at_families.index(at);
        if !FAMILIES.contains(&family.as_str()) {
            errors.push(FieldError::not_supported(&path, family.as_str(), &FAMILIES));
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(&path, family.as_str()));
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref() {
        validate_policy(policy, headless, families, path, errors);
    }
    validate_addresses(ips, families, headless, &at_ips, errors);
}

/// The cluster has IPv4 alone. Only a service that has no addresses itself may speak of both families: those of the
/// endpoints that somebody gives it.
fn validate_policy(
    policy: &str,
    headless: bool,
    families: &[String],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("ipFamilyPolicy");
    if !POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(&at, policy, &POLICIES));
    } else if headless {
        return;
    }
    if policy == "RequireDualStack" {
        const DETAIL: &str = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&at, policy, DETAIL));
    }
    let at = path.child("ipFamilies");
    if policy == "SingleStack" && families.len() > 1 {
        const DETAIL: &str = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        let at = path.child("ipFamilyPolicy");
        errors.push(FieldError::invalid(&at, policy, DETAIL));
    }
    for (index, family) in families
        .iter()
        .enumerate()
        .filter(|(_, name)| *name == "IPv6")
    {
        const DETAIL: &str = "not configured on this cluster";
        errors.push(FieldError::invalid(
            &at.index(index),
            family.as_str(),
            DETAIL,
        ));
    }
}

fn validate_addresses(
    ips: &[String],
    families: &[String],
    headless: bool,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut broken = false;
    for (at, ip) in ips.iter().enumerate() {
        if at == 0 && ip == "None" {
            if ips.len() > 1 {
                const DETAIL: &str = "'None' must be the first and only value";
                errors.push(FieldError::invalid(path, json!(ips), DETAIL));
                broken = true;
            }
        } else if ip.parse::<IpAddr>().is_err() {
            let path = path.index(at);
            errors.push(FieldError::invalid(&path, ip.as_str(), network::NOT_AN_IP));
            broken = true;
        }
    }
    if ips.len() > 2 {
        const DETAIL: &str = "may only hold up to 2 values";
        errors.push(FieldError::invalid(path, json!(ips), DETAIL));
    }
    if broken {
        return;
    }
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if let [first, rest @ ..] = &parsed[..]
        && rest.iter().any(|ip| ip.is_ipv4() == first.is_ipv4())
    {
        const DETAIL: &str = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, json!(ips), DETAIL));
    }
    if headless {
        return;
    }
    for (at, (ip, family)) in parsed.iter().zip(families).enumerate() {
        if FAMILIES.contains(&family.as_str()) && ip.is_ipv4() != (family == "IPv4") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            errors.push(FieldError::invalid(&path.index(at), ip.to_string(), detail));
        }
    }
}

/// The first address and the first family stay for as long as the service has any; the second may come and go.
pub(super) fn validate_change(
    new: &ServiceSpec,
    old: &ServiceSpec,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let external = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    if external(new) || external(old) {
        return;
    }
    let (headless, was_headless) = (is_headless(new), is_headless(old));
    let policy = new.ip_family_policy.as_deref();
    let (now, before) = (
        list(new.cluster_ips.as_ref()),
        list(old.cluster_ips.as_ref()),
    );
    if !(headless && was_headless) {
        let change = Change {
            field: "clusterIPs",
            unset: "primary clusterIP can not be unset",
            released: "must be set to 'SingleStack' when releasing the secondary clusterIP",
        };
        change.validate((now, before), policy, path, errors);
    }
    let (now, before) = (
        list(new.ip_families.as_ref()),
        list(old.ip_families.as_ref()),
    );
    if headless == was_headless && !headless {
        let change = Change {
            field: "ipFamilies",
            unset: "primary ipFamily can not be unset",
            released: "must be set to 'SingleStack' when releasing the secondary ipFamily",
        };
        change.validate((now, before), policy, path, errors);
    }
}

/// What is said of changes to one of the two lists.
struct Change {
    field: &'static str,
    unset: &'static str,
    released: &'static str,
}

impl Change {
    fn validate(
        &self,
        (now, before): (&[String], &[String]),
        policy: Option<&str>,
        path: &Path<'_>,
        errors: &mut Errors,
    ) {
        let at = path.child(self.field);
        let mut refuse = |index, detail| {
            errors.push(FieldError::invalid(&at.index(index), json!(now), detail));
        };
        if now.len() == before.len() {
            for index in (0..now.len()).filter(|index| now[*index] != before[*index]) {
                refuse(index, FIXED);
            }
            return;
        }
        match (now.first(), before.first()) {
            (None, Some(_)) => refuse(0, self.unset),
            (Some(now), Some(before)) if now != before => refuse(0, FIXED),
            _ => {}
        }
        if before.len() > now.len() && now.len() == 1 && policy != Some("SingleStack") {
            let at = path.child("ipFamilyPolicy");
            errors.push(FieldError::invalid(&at, json!(policy), self.released));
        }
    }
}
