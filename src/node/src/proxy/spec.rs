//! From a Service and its slices to what the network is told. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{self as core, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::ResourceExt as _;
use vaquita_net::{Affinity, Protocol, ServiceHost, ServicePort, ServiceSpec};

/// Endpoints of one Service port at most: upstream's bound for Endpoints objects is 1000, slices have none.
const MAX_ENDPOINTS: usize = 10_000;

/// The annotation by which a Service says that it can be given endpoints when they are needed: which workloads have to
/// be woken for it.
const WAKES: &str = "vaquita.dev/wakes";

/// How long a client stays with an endpoint, unless the Service says otherwise.
const AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

/// What a Service is to the network. `None` if it is nothing to it: a name for something outside, or one without an
/// address yet.
pub(super) fn of(service: &Service, slices: &[&EndpointSlice]) -> Option<ServiceSpec> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let own = spec.cluster_ip.as_deref()?;
    let cluster_ips: Vec<IpAddr> = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => own.parse().into_iter().collect(),
    };
    if cluster_ips.is_empty() && own != "None" {
        return None;
    }
    let wakes = service.annotations().contains_key(WAKES);
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| service_port(port, slices, wakes))
        .collect();
    let affinity = match spec.session_affinity.as_deref() {
        Some("ClientIP") => Affinity::ClientIp {
            timeout: affinity_timeout(spec),
        },
        _ => Affinity::None,
    };
    let hosts = if own == "None" {
        hosts(slices)
    } else {
        Vec::new()
    };
    Some(ServiceSpec {
        cluster_ips,
        ports,
        wakes,
        affinity,
        hosts,
        ..ServiceSpec::default()
    })
}

fn affinity_timeout(spec: &core::ServiceSpec) -> Duration {
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(AFFINITY_TIMEOUT, Duration::from_secs)
}

fn service_port(
    port: &core::ServicePort,
    slices: &[&EndpointSlice],
    wakes: bool,
) -> Option<ServicePort> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        // SCTP, or something newer.
        Some(_) => return None,
    };
    let name = port.name.clone().filter(|name| !name.is_empty());
    let node_port = port
        .node_port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0);
    Some(ServicePort {
        endpoints: endpoints(name.as_deref(), protocol, slices, wakes),
        name,
        protocol,
        port: u16::try_from(port.port).ok()?,
        node_port,
        outside_endpoints: None,
    })
}

/// The addresses behind a port: those which are ready, or if there is none, those which still serve while they end; but
/// whoever can be woken is.
fn endpoints(
    name: Option<&str>,
    protocol: Protocol,
    slices: &[&EndpointSlice],
    wakes: bool,
) -> Vec<SocketAddr> {
    let collect = |wanted: fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
        let all = slices.iter().flat_map(|slice| {
            let number = port_number(slice, name, protocol);
            let chosen = slice
                .endpoints
                .iter()
                .flatten()
                .filter(move |endpoint| wanted(endpoint));
            chosen.filter_map(move |endpoint| Some(SocketAddr::new(address(endpoint)?, number?)))
        });
        // In order and once each: slices may overlap while they are rearranged.
        let unique: BTreeSet<SocketAddr> = all.take(MAX_ENDPOINTS).collect();
        unique.into_iter().collect()
    };
    let ready = collect(is_ready);
    if ready.is_empty() && !wakes {
        collect(serves_to_the_end)
    } else {
        ready
    }
}

fn port_number(slice: &EndpointSlice, name: Option<&str>, protocol: Protocol) -> Option<u16> {
    let port = slice.ports.iter().flatten().find(|port| {
        let same_name = port.name.as_deref().unwrap_or_default() == name.unwrap_or_default();
        same_name && port.protocol.as_deref().unwrap_or("TCP") == protocol.to_string()
    })?;
    u16::try_from(port.port?).ok()
}

/// Which of an endpoint's addresses does not matter, says the API: they are all the same pod. A host name (of a slice of
/// type FQDN) is none.
fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

/// Not known counts as ready, says the API.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

fn serves_to_the_end(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.is_some_and(|conditions| {
        conditions.serving == Some(true) && conditions.terminating == Some(true)
    })
}

fn hosts(slices: &[&EndpointSlice]) -> Vec<ServiceHost> {
    let ready = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| is_ready(endpoint));
    let host = |endpoint: &Endpoint| {
        Some(ServiceHost {
            ip: address(endpoint)?,
            hostname: endpoint.hostname.clone(),
        })
    };
    ready.filter_map(host).take(MAX_ENDPOINTS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    fn slice(ports: &Value, endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(
            json!({"metadata": {}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}),
        )
        .unwrap()
    }

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn ports_find_their_endpoints_by_name() {
        let service = service(&json!({"clusterIP": "10.96.0.1", "ports": [
            {"name": "http", "port": 80, "nodePort": 30080}, {"name": "admin", "port": 81, "protocol": "TCP"},
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "odd", "port": 1, "protocol": "SCTP"},
        ]}));
        let slices = [
            slice(
                &json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
                &json!([{"addresses": ["10.244.0.3"]}, {"addresses": ["10.244.0.2"], "conditions": {"ready": true}},
                        {"addresses": ["10.244.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}}]),
            ),
            slice(
                &json!([{"name": "http", "port": 9090}]),
                &json!([{"addresses": ["10.244.0.3"]}, {"addresses": ["x"]}]),
            ),
        ];
        let spec = of(&service, &[&slices[0], &slices[1]]).unwrap();
        assert_eq!(spec.ports.len(), 3);
        assert_eq!(spec.ports[0].node_port, Some(30080));
        assert_eq!(
            spec.ports[0].endpoints,
            addresses(&["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.3:9090"])
        );
        assert!(spec.ports[1].endpoints.is_empty());
        assert_eq!(
            spec.ports[2].endpoints,
            addresses(&["10.244.0.2:5353", "10.244.0.3:5353"])
        );
        assert!(spec.hosts.is_empty());
    }

    #[test]
    fn when_nobody_is_ready_the_leaving_ones_serve() {
        let service = service(&json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        let leaving = slice(
            &json!([{"port": 8080}]),
            &json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                    {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": false}}]),
        );
        let spec = of(&service, &[&leaving]).unwrap();
        assert_eq!(spec.ports[0].endpoints, addresses(&["10.244.0.2:8080"]));
    }

    #[test]
    fn headless_services_are_names_of_their_endpoints() {
        let service =
            service(&json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
        let slice = slice(
            &json!([{"port": 80}]),
            &json!([{"addresses": ["10.244.0.2"], "hostname": "web-0"}, {"addresses": ["10.244.0.3"], "conditions": {"ready": false}}]),
        );
        let spec = of(&service, &[&slice]).unwrap();
        assert!(spec.cluster_ips.is_empty());
        assert_eq!(
            spec.hosts,
            [ServiceHost {
                ip: "10.244.0.2".parse().unwrap(),
                hostname: Some("web-0".to_owned())
            }]
        );
    }

    #[test]
    fn what_is_no_service_of_ours_is_left_out() {
        for spec in [
            json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.1"}),
            json!({"ports": [{"port": 80}]}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
        ] {
            assert_eq!(of(&service(&spec), &[]), None, "{spec}");
        }
    }
}
