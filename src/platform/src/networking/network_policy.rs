//! `NetworkPolicy`: who may talk to whom.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::checks::{cidr, one_of, selector_cell};
use crate::{Here, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::{network, selectors};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 2] = ["Egress", "Ingress"];

pub(super) fn resource() -> Resource {
    stored::<NetworkPolicy>("networkpolicy", true).short(&["netpol"])
}

impl Kind<Here> for NetworkPolicy {
    const GENERATION: bool = true;

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Pod-Selector", "The pods that the policy is about."),
        Column::AGE,
    ];

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
        let ingress = spec.ingress.iter_mut().flatten();
        let ingress = ingress.flat_map(|rule| rule.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten();
        let egress = egress.flat_map(|rule| rule.ports.iter_mut().flatten());
        for port in ingress.chain(egress) {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Path::root("spec"), errors);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        vec![
            self.name_cell(),
            selector_cell(spec.and_then(|spec| spec.pod_selector.as_ref())).into(),
            self.age_cell(now),
        ]
    }
}

fn validate_spec(spec: &NetworkPolicySpec, path: &Path<'_>, errors: &mut Errors) {
    selectors::label_selector(
        spec.pod_selector.as_ref(),
        &path.child("podSelector"),
        errors,
    );
    let at = path.child("ingress");
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let (ports, peers) = (rule.ports.as_deref(), rule.from.as_deref());
        validate_rule(ports, peers, "from", &at.index(index), errors);
    }
    let at = path.child("egress");
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let (ports, peers) = (rule.ports.as_deref(), rule.to.as_deref());
        validate_rule(ports, peers, "to", &at.index(index), errors);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let at = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(&at, json!(types), detail));
        return;
    }
    for (index, ty) in types.iter().enumerate() {
        one_of(ty, &TYPES, &at.index(index), errors);
    }
}

fn validate_rule(
    ports: Option<&[NetworkPolicyPort]>,
    peers: Option<&[NetworkPolicyPeer]>,
    peers_name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let at = path.child("ports");
    for (index, port) in ports.unwrap_or_default().iter().enumerate() {
        validate_port(port, &at.index(index), errors);
    }
    let at = path.child(peers_name);
    for (index, peer) in peers.unwrap_or_default().iter().enumerate() {
        validate_peer(peer, &at.index(index), errors);
    }
}

fn validate_port(port: &NetworkPolicyPort, path: &Path<'_>, errors: &mut Errors) {
    if let Some(protocol) = &port.protocol {
        one_of(protocol, &PROTOCOLS, &path.child("protocol"), errors);
    }
    let (at, at_end) = (path.child("port"), path.child("endPort"));
    let refuse_end = |detail: &str, errors: &mut Errors| {
        if let Some(end) = port.end_port {
            errors.push(FieldError::invalid(&at_end, end, detail));
        }
    };
    match &port.port {
        None => refuse_end("may not be specified when `port` is not specified", errors),
        Some(IntOrString::String(name)) => {
            refuse_end("may not be specified when `port` is non-numeric", errors);
            invalid(&at, name, names::port_name(name), errors);
        }
        Some(IntOrString::Int(number)) => {
            network::port(*number, &at, errors);
            let Some(end) = port.end_port else { return };
            if end < *number {
                refuse_end("must be greater than or equal to `port`", errors);
            }
            network::port(end, &at_end, errors);
        }
    }
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path<'_>, errors: &mut Errors) {
    selectors::label_selector(
        peer.pod_selector.as_ref(),
        &path.child("podSelector"),
        errors,
    );
    selectors::label_selector(
        peer.namespace_selector.as_ref(),
        &path.child("namespaceSelector"),
        errors,
    );
    if let Some(block) = &peer.ip_block {
        validate_block(block, &path.child("ipBlock"), errors);
    }
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (&peer.ip_block, selects) {
        (None, false) => errors.push(FieldError::required(path, "must specify a peer")),
        (Some(_), true) => {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
        _ => {}
    }
}

fn validate_block(block: &IPBlock, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("cidr");
    if block.cidr.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let Some(range) = cidr(&block.cidr, &at, errors) else {
        return;
    };
    let at = path.child("except");
    for (index, except) in block.except.iter().flatten().enumerate() {
        let at = at.index(index);
        let inner = cidr(except, &at, errors);
        if inner.is_some_and(|inner| !range.strictly_contains(inner)) {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(&at, except.as_str(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vaquita_api::meta;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, changed, created, refused, updated};

    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads better where it is called"
    )]
    fn policy(rule: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [rule]}})
    }

    #[test]
    fn is_about_ingress_unless_it_says_more() {
        let old = created(&resource(), policy(json!({"ports": [{"port": 80}]})));
        assert_eq!(old["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(
            old["spec"]["ingress"][0]["ports"][0],
            json!({"port": 80, "protocol": "TCP"})
        );
        assert_stable(&resource(), &old);
        let row = resource().row(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["p", "app=web", "0s"]));
        let both = created(
            &resource(),
            json!({"metadata": {"name": "p"}, "spec": {"egress": [{}]}}),
        );
        assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(both["spec"]["podSelector"], json!({}));
        let row = resource().row(&both, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "<none>");
        let more = changed(&old, |policy| policy["spec"]["ingress"] = json!([]));
        let new = updated(&resource(), &old, more, Part::Main).unwrap();
        assert_eq!(meta::generation(&new), 2);
    }

    #[test]
    fn refuses_peers_and_ports_that_mean_nothing() {
        let with = |rule| refused(&resource(), policy(rule));
        assert_eq!(
            with(json!({"from": [{}]})),
            ["spec.ingress[0].from[0]: Required value: must specify a peer"]
        );
        assert_eq!(
            with(json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]})),
            ["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"]
        );
        assert_eq!(
            with(
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16", "x"]}}]})
            ),
            [
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"x\": must be a valid CIDR value, \
                 (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ]
        );
        assert_eq!(
            with(
                json!({"ports": [{"port": "http", "endPort": 90}, {"port": 80, "endPort": 70}, {"endPort": 1}]})
            ),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[1].endPort: Invalid value: 70: must be greater than or equal to `port`",
                "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is not specified",
            ]
        );
        assert_eq!(
            with(json!({"ports": [{"protocol": "ICMP"}]})),
            [
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\""
            ]
        );
    }
}
