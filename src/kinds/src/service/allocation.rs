//! What a service needs to be given from the cluster's ranges, and where it is written.
//!
//! Handing out addresses and ports takes an allocator, which this crate has not. The API server asks here what is
//! missing, and puts in what it has allocated.

use serde_json::{Value, json};

use super::text;
use vaquita_api::{Object, meta};

/// Whether the service is reached at an address of its own, given or not: any type but `ExternalName`, unless headless.
pub fn needs_cluster_ip(service: &Object) -> bool {
    matches!(
        text(service, "type"),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    ) && text(service, "clusterIP") != "None"
}

/// The service's addresses, `None` left out.
pub fn cluster_ips(service: &Object) -> Vec<&str> {
    let list = meta::at(service, &["spec", "clusterIPs"]).and_then(Value::as_array);
    let ips: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let ips = if ips.is_empty() {
        vec![text(service, "clusterIP")]
    } else {
        ips
    };
    ips.into_iter()
        .filter(|ip| !ip.is_empty() && *ip != "None")
        .collect()
}

/// Gives the service its address.
pub fn set_cluster_ip(service: &mut Object, ip: &str) {
    let spec = meta::object_mut(service, "spec");
    spec.insert("clusterIP".to_owned(), ip.into());
    spec.insert("clusterIPs".to_owned(), json!([ip]));
}

/// Whether each of the service's ports has a port of the nodes, given or not.
pub fn needs_node_ports(service: &Object) -> bool {
    match text(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => {
            meta::at(service, &["spec", "allocateLoadBalancerNodePorts"])
                != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// The protocol and the nodes' port of each of the service's ports, 0 where there is none yet.
pub fn node_ports(service: &Object) -> Vec<(&str, u16)> {
    let ports = meta::at(service, &["spec", "ports"]).and_then(Value::as_array);
    let number = |port: &Value| {
        port["nodePort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
    };
    ports
        .into_iter()
        .flatten()
        .map(|port| {
            (
                port["protocol"].as_str().unwrap_or("TCP"),
                number(port).unwrap_or(0),
            )
        })
        .collect()
}

/// Gives the port at `index` a port of the nodes.
pub fn set_node_port(service: &mut Object, index: usize, node_port: u16) {
    let ports = meta::object_mut(service, "spec")
        .get_mut("ports")
        .and_then(Value::as_array_mut);
    if let Some(Value::Object(port)) = ports.and_then(|ports| ports.get_mut(index)) {
        port.insert("nodePort".to_owned(), node_port.into());
    }
}

/// Whether each node tells balancers on a port of its own if it has endpoints of the service, given or not.
pub fn needs_health_check_port(service: &Object) -> bool {
    text(service, "type") == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

/// The port on which nodes tell that, 0 where there is none yet.
pub fn health_check_port(service: &Object) -> u16 {
    meta::at(service, &["spec", "healthCheckNodePort"])
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(0)
}

/// Gives the service the port on which nodes tell that.
pub fn set_health_check_port(service: &mut Object, port: u16) {
    let spec = meta::object_mut(service, "spec");
    spec.insert("healthCheckNodePort".to_owned(), port.into());
}
