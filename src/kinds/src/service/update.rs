//! How a service keeps what it was given, over updates by clients that do not know of it, and loses what its new type has
//! no use for.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{needs_cluster_ip, needs_health_check_port, needs_node_ports, text};
use vaquita_api::{Object, meta};

fn field<'o>(object: &'o Object, name: &str) -> Option<&'o Value> {
    meta::at(object, &["spec", name])
}

fn is_same(new: &Object, old: &Object, name: &str) -> bool {
    field(new, name) == field(old, name)
}

fn remove(object: &mut Object, name: &str) {
    meta::object_mut(object, "spec").remove(name);
}

/// Copies a field from `old` where `new` has none.
fn inherit(new: &mut Object, old: &Object, name: &str) {
    if field(new, name).is_none()
        && let Some(value) = field(old, name)
    {
        let value = value.clone();
        meta::object_mut(new, "spec").insert(name.to_owned(), value);
    }
}

/// Makes `clusterIPs` follow `clusterIP` when a client that knows only the latter has set or changed it.
pub(super) fn normalise_cluster_ips(new: &mut Object, old: Option<&Object>) {
    let ip = text(new, "clusterIP").to_owned();
    let follow = match old {
        None => field(new, "clusterIPs").is_none() && !ip.is_empty(),
        Some(old) => is_same(new, old, "clusterIPs") && !is_same(new, old, "clusterIP"),
    };
    if !follow {
        return;
    }
    if ip.is_empty() {
        remove(new, "clusterIPs");
    } else {
        meta::object_mut(new, "spec").insert("clusterIPs".to_owned(), json!([ip]));
    }
}

/// Keeps addresses and the nodes' ports that the update leaves out.
pub(super) fn keep_allocated(new: &mut Object, old: &Object) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        inherit(new, old, "clusterIP");
        if is_same(new, old, "clusterIP") {
            inherit(new, old, "clusterIPs");
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check_port(old) && needs_health_check_port(new) {
        inherit(new, old, "healthCheckNodePort");
    }
}

fn ports(service: &Object) -> &[Value] {
    field(service, "ports")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn node_port(port: &Value) -> u64 {
    port["nodePort"].as_u64().unwrap_or(0)
}

/// Ports are known by their names.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let mut used: HashSet<u64> = ports(new)
        .iter()
        .map(node_port)
        .filter(|port| *port != 0)
        .collect();
    let known: HashMap<String, u64> = ports(old)
        .iter()
        .map(|port| (name(port), node_port(port)))
        .collect();
    let list = meta::object_mut(new, "spec")
        .get_mut("ports")
        .and_then(Value::as_array_mut);
    for port in list
        .into_iter()
        .flatten()
        .filter(|port| node_port(port) == 0)
    {
        let before = known.get(&name(port)).copied().filter(|port| *port != 0);
        if let (Some(before), Value::Object(port)) = (before, port)
            && used.insert(before)
        {
            port.insert("nodePort".to_owned(), before.into());
        }
    }
}

/// Says which address families the service uses. The cluster has IPv4 alone.
pub(super) fn fill_families(new: &mut Object, old: Option<&Object>) {
    if text(new, "type") == "ExternalName" {
        return;
    }
    if let Some(old) = old {
        inherit(new, old, "ipFamilies");
        inherit(new, old, "ipFamilyPolicy");
    }
    let headless = text(new, "clusterIP") == "None";
    let selects = field(new, "selector")
        .and_then(Value::as_object)
        .is_some_and(|map| !map.is_empty());
    // Nobody knows which families the endpoints of a headless service without selector will have.
    let (families, policy) = if headless && !selects {
        (json!(["IPv4", "IPv6"]), "RequireDualStack")
    } else {
        (json!(["IPv4"]), "SingleStack")
    };
    let spec = meta::object_mut(new, "spec");
    if !spec.contains_key("ipFamilyPolicy") {
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    }
    spec.entry("ipFamilies").or_insert(families);
}

/// Drops what the old type needed and the new one does not, unless the client has changed it, which is then a mistake to
/// be told.
pub(super) fn drop_unneeded(new: &mut Object, old: &Object) {
    let is = |service: &Object, kind: &str| text(service, "type") == kind;
    if !is(old, "ExternalName") && is(new, "ExternalName") {
        for name in ["clusterIPs", "clusterIP", "ipFamilies", "ipFamilyPolicy"] {
            if is_same(new, old, name) {
                remove(new, name);
            }
        }
    }
    let no_node_ports = !matches!(text(new, "type"), "NodePort" | "LoadBalancer");
    let all = |service: &Object| ports(service).iter().map(node_port).collect::<HashSet<_>>();
    if needs_node_ports(old) && no_node_ports && all(new).is_subset(&all(old)) {
        let list = meta::object_mut(new, "spec")
            .get_mut("ports")
            .and_then(Value::as_array_mut);
        for port in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    if is(old, "LoadBalancer") && !is(new, "LoadBalancer") {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if is_same(new, old, name) {
                remove(new, name);
            }
        }
    }
    let unchecked = needs_health_check_port(old) && !needs_health_check_port(new);
    if unchecked && is_same(new, old, "healthCheckNodePort") {
        remove(new, "healthCheckNodePort");
    }
    let external = |service: &Object| {
        let ips = field(service, "externalIPs").and_then(Value::as_array);
        is(service, "NodePort")
            || is(service, "LoadBalancer")
            || ips.is_some_and(|ips| !ips.is_empty())
    };
    if external(old) && !external(new) && is_same(new, old, "externalTrafficPolicy") {
        remove(new, "externalTrafficPolicy");
    }
}
