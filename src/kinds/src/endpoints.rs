//! `v1` Endpoints.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use serde_json::Value;

use super::print;
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::network;

pub(super) fn resource() -> Resource {
    stored::<Endpoints>("endpoints", true).short(&["ep"])
}

impl Kind<Here> for Endpoints {
    const DEPRECATION: Option<&'static str> =
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");

    const CREATE_ON_UPDATE: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Endpoints", "Addresses and ports that are ready."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        for port in self
            .subsets
            .iter_mut()
            .flatten()
            .flat_map(|subset| subset.ports.iter_mut().flatten())
        {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("subsets");
        for (at, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &path.index(at), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let subsets = || self.subsets.iter().flatten();
        let total = subsets().map(count_pairs).sum();
        let pairs = subsets().flat_map(pairs);
        vec![
            self.name_cell(),
            print::first_three(pairs, total, print::NONE),
            self.age_cell(now),
        ]
    }
}

/// Each ready address with each port, or alone where there are no ports.
fn pairs(subset: &EndpointSubset) -> impl Iterator<Item = String> {
    let addresses = subset.addresses.as_deref().unwrap_or_default();
    let ports = subset.ports.as_deref().unwrap_or_default();
    let portless = if ports.is_empty() { addresses } else { &[] };
    let alone = portless.iter().map(|address| address.ip.clone());
    let together = ports.iter().flat_map(move |port| {
        addresses
            .iter()
            .map(|address| host_port(&address.ip, port.port))
    });
    alone.chain(together)
}

/// How many [`pairs`] there are, without making them: lists of some thousands make millions of pairs.
fn count_pairs(subset: &EndpointSubset) -> usize {
    let addresses = subset.addresses.as_ref().map_or(0, Vec::len);
    let ports = subset.ports.as_ref().map_or(0, Vec::len);
    addresses.saturating_mul(ports.max(1))
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>, errors: &mut Errors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.push(FieldError::required(
            path,
            "must specify `addresses` or `notReadyAddresses`",
        ));
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        let path = path.child(field);
        for (at, address) in addresses.iter().enumerate() {
            validate_address(address, &path.index(at), errors);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let path = path.child("ports");
    for (at, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.index(at), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>, errors: &mut Errors) {
    match address.ip.parse::<IpAddr>() {
        Err(_) => errors.push(FieldError::invalid(
            &path.child("ip"),
            address.ip.as_str(),
            network::NOT_AN_IP,
        )),
        Ok(ip) => network::reachable(ip, &path.child("ip"), errors),
    }
    if let Some(hostname) = address
        .hostname
        .as_deref()
        .filter(|hostname| !hostname.is_empty())
    {
        invalid(
            &path.child("hostname"),
            hostname,
            names::dns1123_label(hostname),
            errors,
        );
    }
    if let Some(node) = &address.node_name {
        invalid(
            &path.child("nodeName"),
            node,
            names::dns1123_subdomain(node),
            errors,
        );
    }
}

fn validate_port(port: &EndpointPort, named: bool, path: &Path<'_>, errors: &mut Errors) {
    match port.name.as_deref().unwrap_or_default() {
        "" if named => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => invalid(
            &path.child("name"),
            name,
            names::dns1123_label(name),
            errors,
        ),
    }
    network::port(port.port, &path.child("port"), errors);
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
    use vaquita_api::testing::{created, refused};

    #[test]
    fn prints_three_and_counts_the_rest() {
        let addresses: Vec<Value> = (1..6)
            .map(|n| json!({"ip": format!("10.0.0.{n}")}))
            .collect();
        let endpoints = created(
            &resource(),
            json!({"metadata": {"name": "a"}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        );
        let row = resource().row(&endpoints, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        let empty = created(&resource(), json!({"metadata": {"name": "a"}}));
        assert_eq!(resource().row(&empty, Timestamp::UNIX_EPOCH)[1], "<none>");
    }

    #[test]
    fn refuses_addresses_that_lead_nowhere() {
        let subsets =
            json!([{"addresses": [{"ip": "127.0.0.1"}, {"ip": "x"}], "ports": [{"port": 0}]}, {}]);
        assert_eq!(
            refused(
                &resource(),
                json!({"metadata": {"name": "a"}, "subsets": subsets})
            ),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].addresses[1].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
    }
}
