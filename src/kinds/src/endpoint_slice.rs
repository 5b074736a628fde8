//! `discovery.k8s.io/v1` EndpointSlice.

use std::collections::HashSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointPort, EndpointSlice};
use serde_json::Value;

use super::print;
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::{invalid, labels};
use vaquita_api::validate::network;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_MAX: usize = 16;
/// How many zones or nodes an endpoint may be meant for.
const HINTS_MAX: usize = 8;
/// The label of topology that has a field of its own, which counts.
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn resource() -> Resource {
    stored::<EndpointSlice>("endpointslice", true)
}

impl Kind<Here> for EndpointSlice {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("AddressType", "What sort of addresses the slice holds."),
        Column::string("Ports", "The ports of every endpoint."),
        Column::string("Endpoints", "The endpoints' addresses."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        for endpoint in self.endpoints.get_or_insert_default() {
            if let Some(topology) = &mut endpoint.deprecated_topology {
                topology.remove(ZONE);
            }
            endpoint
                .deprecated_topology
                .take_if(|topology| topology.is_empty());
        }
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_address_type(&self.address_type, errors);
        let path = Path::root("endpoints");
        let endpoints = self.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
            return;
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &self.address_type, &path.index(at), errors);
        }
        let ports = self.ports.as_deref().unwrap_or_default();
        let path = Path::root("ports");
        if ports.len() > PORTS_MAX {
            errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
            return;
        }
        let mut seen = HashSet::new();
        for (at, port) in ports.iter().enumerate() {
            let path = path.index(at);
            let name = port.name.as_deref().unwrap_or_default();
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            validate_port(port, &path, errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        if self.address_type != old.address_type {
            let path = Path::root("addressType");
            errors.push(FieldError::invalid(
                &path,
                self.address_type.as_str(),
                "field is immutable",
            ));
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        const UNSET: &str = "<unset>";
        let port = |port: &EndpointPort| {
            port.port
                .map_or_else(|| "*".to_owned(), |port| port.to_string())
        };
        let count = self.ports.as_ref().map_or(0, Vec::len);
        let endpoints = || self.endpoints.iter().flatten();
        let total = endpoints().map(|endpoint| endpoint.addresses.len()).sum();
        let ports = self.ports.iter().flatten().map(port);
        let addresses = self
            .endpoints
            .iter()
            .flatten()
            .flat_map(|endpoint| endpoint.addresses.iter().cloned());
        vec![
            self.name_cell(),
            self.address_type.clone().into(),
            print::first_three(ports, count, UNSET),
            print::first_three(addresses, total, UNSET),
            self.age_cell(now),
        ]
    }
}

fn validate_address_type(address_type: &str, errors: &mut Errors) {
    let path = Path::root("addressType");
    match address_type {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.push(FieldError::required(&path, "")),
        other => errors.push(FieldError::not_supported(
            &path,
            other,
            &["FQDN", "IPv4", "IPv6"],
        )),
    }
}

fn validate_endpoint(
    endpoint: &Endpoint,
    address_type: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let addresses = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.push(FieldError::required(
            &addresses,
            "must contain at least 1 address",
        ));
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(
            &addresses,
            endpoint.addresses.len(),
            ADDRESSES_MAX,
        ));
    }
    for (at, address) in endpoint.addresses.iter().take(ADDRESSES_MAX).enumerate() {
        validate_address(address, address_type, &addresses.index(at), errors);
    }
    if let Some(node) = &endpoint.node_name {
        let problems = names::dns1123_subdomain(node);
        invalid(&path.child("nodeName"), node, problems, errors);
    }
    if let Some(topology) = &endpoint.deprecated_topology {
        let path = path.child("deprecatedTopology");
        if topology.len() > TOPOLOGY_MAX {
            errors.push(FieldError::too_many(&path, topology.len(), TOPOLOGY_MAX));
        }
        labels(
            topology
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
            &path,
            errors,
        );
    }
    if let Some(hostname) = &endpoint.hostname {
        let problems = names::dns1123_label(hostname);
        invalid(&path.child("hostname"), hostname, problems, errors);
    }
    if let Some(hints) = &endpoint.hints {
        validate_hints(hints, &path.child("hints"), errors);
    }
}

/// For whom an endpoint is meant, as a hint: some zones, or some nodes, each once.
fn validate_hints(hints: &EndpointHints, path: &Path<'_>, errors: &mut Errors) {
    let zones = hints.for_zones.iter().flatten().map(|zone| &zone.name);
    let nodes = hints.for_nodes.iter().flatten().map(|node| &node.name);
    let lists: [(&str, Vec<&String>, Check); 2] = [
        ("forZones", zones.collect(), names::label_value),
        ("forNodes", nodes.collect(), names::dns1123_subdomain),
    ];
    for (field, targets, check) in lists {
        let list = path.child(field);
        if targets.len() > HINTS_MAX {
            errors.push(FieldError::too_many(&list, targets.len(), HINTS_MAX));
            return;
        }
        let mut seen = HashSet::new();
        for (at, name) in targets.into_iter().enumerate() {
            let path = list.index(at);
            let path = path.child("name");
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&path, name.as_str()));
            } else if name.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                invalid(&path, name, check(name), errors);
            }
        }
    }
}

/// What a text must look like.
type Check = fn(&str) -> names::Problems;

fn validate_address(address: &str, address_type: &str, path: &Path<'_>, errors: &mut Errors) {
    match (address_type, address.parse::<IpAddr>()) {
        ("IPv4", Ok(ip @ IpAddr::V4(_))) | ("IPv6", Ok(ip @ IpAddr::V6(_))) => {
            network::reachable(ip, path, errors);
        }
        ("IPv4", Ok(_)) => errors.push(FieldError::invalid(
            path,
            address,
            "must be an IPv4 address",
        )),
        ("IPv6", Ok(_)) => errors.push(FieldError::invalid(
            path,
            address,
            "must be an IPv6 address",
        )),
        ("IPv4" | "IPv6", Err(_)) => {
            errors.push(FieldError::invalid(path, address, network::NOT_AN_IP));
        }
        ("FQDN", _) => {
            let name = address.strip_suffix('.').unwrap_or(address);
            let problems = names::dns1123_subdomain(name);
            if problems.is_empty() && !name.contains('.') {
                const DETAIL: &str =
                    "should be a domain with at least two segments separated by dots";
                errors.push(FieldError::invalid(path, name, DETAIL));
            }
            invalid(path, name, problems, errors);
        }
        // The type itself has been complained about.
        _ => {}
    }
}

fn validate_port(port: &EndpointPort, path: &Path<'_>, errors: &mut Errors) {
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        invalid(
            &path.child("name"),
            name,
            names::dns1123_label(name),
            errors,
        );
    }
    if let Some(number) = port.port {
        network::port(number, &path.child("port"), errors);
    }
    network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    if let Some(protocol) = &port.app_protocol {
        invalid(
            &path.child("appProtocol"),
            protocol,
            names::qualified_name(protocol),
            errors,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{changed, created, refused, updated};

    fn slice() -> Value {
        json!({
            "metadata": {"name": "a"}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}],
        })
    }

    #[test]
    fn fills_in_and_prints() {
        let slice = created(&resource(), slice());
        assert_eq!(
            slice["ports"],
            json!([{"name": "", "port": 80, "protocol": "TCP"}])
        );
        let row = resource().row(&slice, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row,
            [
                json!("a"),
                json!("IPv4"),
                json!("80"),
                json!("10.0.0.1"),
                json!("0s")
            ]
        );
    }

    #[test]
    fn counts_its_generations() {
        let old = created(&resource(), slice());
        let new = updated(
            &resource(),
            &old,
            changed(&old, |new| new["ports"][0]["port"] = 81.into()),
            Part::Main,
        );
        assert_eq!(meta::generation(&new.unwrap()), 2);
        let new = updated(
            &resource(),
            &old,
            changed(&old, |new| new["metadata"]["labels"] = json!({"a": "b"})),
            Part::Main,
        );
        assert_eq!(meta::generation(&new.unwrap()), 1);
        let new = updated(
            &resource(),
            &old,
            changed(&old, |new| new["addressType"] = "FQDN".into()),
            Part::Main,
        );
        assert!(new.is_err());
    }

    #[test]
    fn refuses_hints_and_topology_that_say_too_much() {
        let with = |field: &str, value: Value| {
            let mut slice = slice();
            slice["endpoints"][0][field] = value;
            refused(&resource(), slice)
        };
        let zones = json!({"forZones": [{"name": "a"}, {"name": "a"}]});
        assert_eq!(
            with("hints", zones),
            ["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""]
        );
        let many: Vec<Value> = (0..9).map(|n| json!({"name": format!("n{n}")})).collect();
        assert_eq!(
            with("hints", json!({"forNodes": many})),
            ["endpoints[0].hints.forNodes: Too many: 9: must have at most 8 items"]
        );
        let mut old = slice();
        old["endpoints"][0]["deprecatedTopology"] = json!({ZONE: "a", "b": "c"});
        let stored = created(&resource(), old);
        assert_eq!(
            stored["endpoints"][0]["deprecatedTopology"],
            json!({"b": "c"})
        );
        let mut named = slice();
        named["addressType"] = "FQDN".into();
        named["endpoints"][0]["addresses"] = json!(["localhost"]);
        assert_eq!(
            refused(&resource(), named),
            [
                "endpoints[0].addresses[0]: Invalid value: \"localhost\": should be a domain with at least two segments separated by dots"
            ]
        );
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let errors = refused(
            &resource(),
            json!({
                "metadata": {"name": "a"}, "addressType": "IPv6",
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": []}],
                "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 70000}],
            }),
        );
        assert_eq!(errors.len(), 4, "{errors:?}");
    }
}
