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
use vaquita_net::{Affinity, IpNet, Protocol, ServiceHost, ServicePort, ServiceSpec};

/// Endpoints of one Service port at most: upstream's bound for Endpoints objects is 1000, slices have none.
const MAX_ENDPOINTS: usize = 10_000;

/// The annotation by which a Service says that it can be given endpoints when they are needed: which workloads have to
/// be woken for it.
const WAKES: &str = "vaquita.dev/wakes";

/// How long a client stays with an endpoint, unless the Service says otherwise.
const AFFINITY_TIMEOUT: Duration = Duration::from_hours(3);

/// Where the node of the network is, which decides what is local and what is near.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The node's name.
    pub(crate) node: String,
    /// Its zone, if it is known to be in one.
    pub(crate) zone: Option<String>,
}

/// What a Service is to the network of the node at this place. `None` if it is nothing to it: one without an address yet.
pub(crate) fn of(
    service: &Service,
    slices: &[&EndpointSlice],
    place: &Place,
) -> Option<ServiceSpec> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(ServiceSpec {
            external_name: Some(spec.external_name.clone()?),
            ..ServiceSpec::default()
        });
    }
    let own = spec.cluster_ip.as_deref()?;
    let cluster_ips: Vec<IpAddr> = match spec.cluster_ips.as_deref() {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        _ => own.parse().into_iter().collect(),
    };
    if cluster_ips.is_empty() && own != "None" {
        return None;
    }
    let behind = Behind {
        slices,
        place,
        inside_is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        outside_is_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        wakes: service.annotations().contains_key(WAKES),
    };
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| service_port(port, &behind))
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
        external_ips: external_ips(service, spec),
        sources: sources(spec),
        ports,
        wakes: behind.wakes,
        affinity,
        hosts,
        external_name: None,
    })
}

/// The addresses of load balancers and those that were given by hand.
fn external_ips(service: &Service, spec: &core::ServiceSpec) -> Vec<IpAddr> {
    let balancers = service
        .status
        .as_ref()
        .filter(|_| spec.type_.as_deref() == Some("LoadBalancer"))
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let balancers = balancers
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.as_ref());
    let by_hand = spec.external_ips.iter().flatten();
    let mut all: Vec<IpAddr> = by_hand
        .chain(balancers)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn sources(spec: &core::ServiceSpec) -> Vec<IpNet> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    // The API server has checked them; blanks around them are let through there.
    ranges
        .filter_map(|range| range.trim().parse().ok())
        .collect()
}

/// How many endpoints of a Service are on this node and ready: what the health check of load balancers asks.
pub(crate) fn local_endpoints(slices: &[&EndpointSlice], node: &str) -> usize {
    let all = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let local = all.filter(|endpoint| is_ready(endpoint) && is_on(endpoint, node));
    local.filter_map(address).collect::<BTreeSet<_>>().len()
}

/// What is behind a Service's ports, and which part of it is meant.
struct Behind<'a> {
    slices: &'a [&'a EndpointSlice],
    place: &'a Place,
    inside_is_local: bool,
    outside_is_local: bool,
    wakes: bool,
}

fn affinity_timeout(spec: &core::ServiceSpec) -> Duration {
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(AFFINITY_TIMEOUT, Duration::from_secs)
}

fn service_port(port: &core::ServicePort, behind: &Behind<'_>) -> Option<ServicePort> {
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
    let find = |only_local| behind.endpoints(name.as_deref(), protocol, only_local);
    let differs = behind.inside_is_local != behind.outside_is_local;
    Some(ServicePort {
        endpoints: find(behind.inside_is_local),
        outside_endpoints: differs.then(|| find(behind.outside_is_local)),
        name,
        protocol,
        port: u16::try_from(port.port).ok()?,
        node_port,
    })
}

impl Behind<'_> {
    /// The addresses behind a port: those which are ready (of them those which are near, if the Service's traffic is to
    /// stay near), or if there is none, those which still serve while they end; but whoever can be woken is.
    fn endpoints(
        &self,
        name: Option<&str>,
        protocol: Protocol,
        only_local: bool,
    ) -> Vec<SocketAddr> {
        let collect = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
            let all = self.slices.iter().flat_map(|slice| {
                let number = port_number(slice, name, protocol);
                let chosen = slice.endpoints.iter().flatten().filter(move |endpoint| {
                    wanted(endpoint) && (!only_local || is_on(endpoint, &self.place.node))
                });
                chosen
                    .filter_map(move |endpoint| Some(SocketAddr::new(address(endpoint)?, number?)))
            });
            // In order and once each: slices may overlap while they are rearranged.
            let unique: BTreeSet<SocketAddr> = all.take(MAX_ENDPOINTS).collect();
            unique.into_iter().collect()
        };
        let near = self.nearness(name, protocol);
        let ready = if only_local {
            collect(&is_ready)
        } else {
            collect(&|endpoint| is_ready(endpoint) && near.holds(endpoint, self.place))
        };
        if ready.is_empty() && !self.wakes {
            collect(&serves_to_the_end)
        } else {
            ready
        }
    }

    /// How near the endpoints of a port are that this node is to use, by their hints. Hints hold only if every endpoint that
    /// is ready has some, and if they leave anybody for this node: else the slices are on their way to be rewritten, or
    /// the node is nobody's.
    fn nearness(&self, name: Option<&str>, protocol: Protocol) -> Near {
        let slices = self
            .slices
            .iter()
            .filter(|slice| port_number(slice, name, protocol).is_some());
        let ready = slices
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|endpoint| is_ready(endpoint) && address(endpoint).is_some());
        let (mut nodes, mut zones) = (Hinted::default(), Hinted::default());
        for endpoint in ready {
            let hints = endpoint.hints.as_ref();
            let for_nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
            nodes.note(
                for_nodes.map(Vec::len),
                Near::Node.holds(endpoint, self.place),
            );
            let for_zones = hints.and_then(|hints| hints.for_zones.as_ref());
            zones.note(
                for_zones.map(Vec::len),
                Near::Zone.holds(endpoint, self.place),
            );
        }
        if nodes.hold() {
            Near::Node
        } else if zones.hold() {
            Near::Zone
        } else {
            Near::Anywhere
        }
    }
}

/// How near endpoints have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    /// Meant for the node.
    Node,
    /// Meant for its zone.
    Zone,
    /// It does not matter.
    Anywhere,
}

impl Near {
    fn holds(self, endpoint: &Endpoint, place: &Place) -> bool {
        let hints = endpoint.hints.as_ref();
        match self {
            Self::Node => {
                let mut nodes = hints
                    .iter()
                    .flat_map(|hints| hints.for_nodes.iter().flatten());
                nodes.any(|node| node.name == place.node)
            }
            Self::Zone => {
                let mut zones = hints
                    .iter()
                    .flat_map(|hints| hints.for_zones.iter().flatten());
                zones.any(|zone| Some(&zone.name) == place.zone.as_ref())
            }
            Self::Anywhere => true,
        }
    }
}

/// Whether hints of one kind can be gone by.
#[derive(Default)]
struct Hinted {
    anybody: bool,
    somebody_without: bool,
}

impl Hinted {
    fn note(&mut self, hints: Option<usize>, is_for_us: bool) {
        self.somebody_without |= hints.is_none_or(|hints| hints == 0);
        self.anybody |= is_for_us;
    }

    fn hold(&self) -> bool {
        self.anybody && !self.somebody_without
    }
}

fn is_on(endpoint: &Endpoint, node: &str) -> bool {
    endpoint.node_name.as_deref() == Some(node)
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
mod laws;

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

    fn here() -> Place {
        Place {
            node: "here".to_owned(),
            zone: Some("z1".to_owned()),
        }
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
        let spec = of(&service, &[&slices[0], &slices[1]], &here()).unwrap();
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
        let spec = of(&service, &[&leaving], &here()).unwrap();
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
        let spec = of(&service, &[&slice], &here()).unwrap();
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
    fn traffic_policies_keep_to_the_node() {
        let endpoints = slice(
            &json!([{"port": 8080}]),
            &json!([{"addresses": ["10.244.0.2"], "nodeName": "here"}, {"addresses": ["10.244.1.2"], "nodeName": "there"}]),
        );
        let get = |inside: &str, outside: &str| {
            let service = service(&json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}],
                "internalTrafficPolicy": inside, "externalTrafficPolicy": outside}));
            let spec = of(&service, &[&endpoints], &here()).unwrap();
            let port = spec.ports[0].clone();
            (port.endpoints, port.outside_endpoints)
        };
        let (all, local) = (
            addresses(&["10.244.0.2:8080", "10.244.1.2:8080"]),
            addresses(&["10.244.0.2:8080"]),
        );
        assert_eq!(get("Cluster", "Cluster"), (all.clone(), None));
        assert_eq!(get("Cluster", "Local"), (all.clone(), Some(local.clone())));
        assert_eq!(get("Local", "Cluster"), (local.clone(), Some(all)));
        assert_eq!(get("Local", "Local"), (local, None));
        assert_eq!(local_endpoints(&[&endpoints], "here"), 1);
        assert_eq!(local_endpoints(&[&endpoints], "nowhere"), 0);
    }

    #[test]
    fn hints_keep_traffic_near_while_they_hold() {
        let service = service(&json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        let get = |endpoints: &Value| {
            let slice = slice(&json!([{"port": 80}]), endpoints);
            let spec = of(&service, &[&slice], &here()).unwrap();
            let last = |endpoint: &SocketAddr| {
                endpoint
                    .to_string()
                    .replace("10.0.0.", "")
                    .replace(":80", "")
            };
            spec.ports[0].endpoints.iter().map(last).collect::<String>()
        };
        let one = |number: u8, node: Option<&str>, zone: Option<&str>| {
            let hint = |name: Option<&str>| name.map(|name| json!([{"name": name}]));
            json!({"addresses": [format!("10.0.0.{number}")], "hints": {"forNodes": hint(node), "forZones": hint(zone)}})
        };
        let bare = json!({"addresses": ["10.0.0.9"]});
        let near = one(1, Some("here"), Some("z1"));
        let zone = one(2, Some("there"), Some("z1"));
        let far = one(3, Some("afar"), Some("z2"));
        assert_eq!(get(&json!([near, zone, far])), "1");
        assert_eq!(get(&json!([zone, far])), "2", "nobody for this node");
        assert_eq!(get(&json!([far])), "3", "nor for its zone");
        assert_eq!(
            get(&json!([near, zone, far, bare])),
            "1239",
            "not all have hints"
        );
        assert_eq!(
            get(&json!([one(1, None, Some("z1")), far, zone])),
            "12",
            "nor all of nodes"
        );
        let mut leaving = near.clone();
        leaving["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
        assert_eq!(get(&json!([leaving, zone, far])), "2");
        assert_eq!(get(&json!([leaving])), "1");
    }

    #[test]
    fn addresses_of_load_balancers_and_by_hand_lead_in() {
        let mut service = service(
            &json!({"clusterIP": "10.96.0.1", "type": "LoadBalancer", "ports": [{"port": 80}],
            "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": [" 198.51.100.0/24", "x"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}),
        );
        service.status = serde_json::from_value(
            json!({"loadBalancer": {"ingress": [{"ip": "127.1.0.1"}, {"hostname": "x.example"}]}}),
        )
        .unwrap();
        let spec = of(&service, &[], &here()).unwrap();
        let ips: Vec<String> = spec.external_ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["127.1.0.1", "192.0.2.1"]);
        assert_eq!(spec.sources, ["198.51.100.0/24".parse().unwrap()]);
        let timeout = Duration::from_secs(7);
        assert_eq!(spec.affinity, Affinity::ClientIp { timeout });
        service.spec.as_mut().unwrap().type_ = Some("ClusterIP".to_owned());
        assert_eq!(of(&service, &[], &here()).unwrap().external_ips.len(), 1);
    }

    #[test]
    fn what_is_no_service_of_ours_is_left_out() {
        for spec in [
            json!({"type": "ExternalName"}),
            json!({"ports": [{"port": 80}]}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
        ] {
            assert_eq!(of(&service(&spec), &[], &here()), None, "{spec}");
        }
        let alias = service(&json!({"type": "ExternalName", "externalName": "example.com"}));
        let spec = of(&alias, &[], &here()).unwrap();
        assert_eq!(spec.external_name.as_deref(), Some("example.com"));
    }
}
