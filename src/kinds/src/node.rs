//! `v1` Node.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeSpec, NodeStatus, Taint};
use serde_json::Value;

use super::print;
use crate::{Here, PROXY, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;
use vaquita_api::validate::resources;

const TAINT_EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "PreferNoSchedule"];

pub(super) fn resource() -> Resource {
    stored::<Node>("node", false)
        .short(&["no"])
        .sub("proxy", ("", "v1", "NodeProxyOptions"), &PROXY)
        .with_status()
}

impl Kind<Here> for Node {
    // A node agent creates its node with all that it knows of itself.
    const STATUS_ON_CREATE: bool = true;

    const SELECTABLE: &'static [SelectableField] = &[SelectableField::new(
        "spec.unschedulable",
        &["spec", "unschedulable"],
        "false",
    )];

    const COLUMNS: &'static [Column] = &[
        Column::NAME,
        Column::string("Status", "Whether the node is ready, and takes pods."),
        Column::string("Roles", "What the node is for."),
        Column::AGE,
        Column::string("Version", "The version of the node's agent."),
        Column::string("Internal-IP", "The address inside the cluster.").wide(),
        Column::string("External-IP", "The address outside of the cluster.").wide(),
        Column::string("OS-Image", "The node's operating system.").wide(),
        Column::string("Kernel-Version", "The operating system's kernel.").wide(),
        Column::string(
            "Container-Runtime",
            "What runs the containers, and its version.",
        )
        .wide(),
    ];

    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        default_pod_cidrs(spec);
        let status = self.status.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        let endpoints = status.daemon_endpoints.get_or_insert_default();
        endpoints
            .kubelet_endpoint
            .get_or_insert(DaemonEndpoint { port: 0 });
        status.node_info.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::root("spec");
        if let Some(spec) = &self.spec {
            validate_taints(
                spec.taints.as_deref().unwrap_or_default(),
                &path.child("taints"),
                errors,
            );
            validate_pod_cidrs(spec, &path.child("podCIDRs"), errors);
        }
        self.validate_resources(errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate(errors);
        let path = Path::root("spec");
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else {
            return;
        };
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(before) = set(&old.provider_id)
            && set(&new.provider_id).is_some_and(|now| now != before)
        {
            errors.push(FieldError::forbidden(
                &path.child("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            ));
        }
        if old.pod_cidrs.is_some() && old.pod_cidrs != new.pod_cidrs {
            errors.push(FieldError::forbidden(
                &path.child("podCIDRs"),
                "node updates may not change podCIDR except from \"\" to valid",
            ));
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        self.validate_resources(errors);
        let path = Path::root("status");
        let path = path.child("addresses");
        let mut seen = HashSet::new();
        let addresses = self
            .status
            .as_ref()
            .and_then(|status| status.addresses.as_deref())
            .unwrap_or_default();
        for (at, address) in addresses.iter().enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                let value = serde_json::to_value(address).unwrap_or_default();
                errors.push(FieldError::duplicate(&path.index(at), value));
            }
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.as_ref();
        let info = status.and_then(|status| status.node_info.as_ref());
        let or_unknown = |text: Option<&String>| {
            Value::from(
                text.map(String::as_str)
                    .filter(|text| !text.is_empty())
                    .unwrap_or("<unknown>"),
            )
        };
        vec![
            self.name_cell(),
            self.readiness().into(),
            self.roles(),
            self.age_cell(now),
            info.map(|info| info.kubelet_version.clone())
                .unwrap_or_default()
                .into(),
            print::or_none(status.and_then(|status| address(status, "InternalIP"))),
            print::or_none(status.and_then(|status| address(status, "ExternalIP"))),
            or_unknown(info.map(|info| &info.os_image)),
            or_unknown(info.map(|info| &info.kernel_version)),
            or_unknown(info.map(|info| &info.container_runtime_version)),
        ]
    }
}

/// The first of the two fields mirrors the first item of the second.
fn default_pod_cidrs(spec: &mut NodeSpec) {
    match (&spec.pod_cidr, &spec.pod_cidrs) {
        (Some(cidr), None) => spec.pod_cidrs = Some(vec![cidr.clone()]),
        (None, Some(cidrs)) => spec.pod_cidr = cidrs.first().cloned(),
        _ => {}
    }
}

fn address<'s>(status: &'s NodeStatus, kind: &str) -> Option<&'s str> {
    let address = status
        .addresses
        .iter()
        .flatten()
        .find(|address| address.type_ == kind)?;
    Some(&address.address)
}

trait Details {
    fn readiness(&self) -> String;
    fn roles(&self) -> Value;
    fn validate_resources(&self, errors: &mut Errors);
}

impl Details for Node {
    /// `Ready`, `NotReady,SchedulingDisabled`, ...
    fn readiness(&self) -> String {
        let conditions = self
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready");
        let mut text = match ready {
            Some(condition) if condition.status == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if self.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            text.push_str(",SchedulingDisabled");
        }
        text
    }

    /// Told by labels: `node-role.kubernetes.io/<role>` or `kubernetes.io/role: <role>`.
    fn roles(&self) -> Value {
        let labels = self.metadata.labels.iter().flatten();
        let roles: BTreeSet<&str> = labels
            .filter_map(
                |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                    Some(role) => Some(role),
                    None if key == "kubernetes.io/role" => Some(value),
                    None => None,
                },
            )
            .filter(|role| !role.is_empty())
            .collect();
        print::or_none(Some(&roles.into_iter().collect::<Vec<_>>().join(",")))
    }

    fn validate_resources(&self, errors: &mut Errors) {
        let path = Path::root("status");
        let Some(status) = &self.status else { return };
        for (field, list) in [
            ("capacity", &status.capacity),
            ("allocatable", &status.allocatable),
        ] {
            let path = path.child(field);
            for (name, quantity) in list.iter().flatten() {
                resources::quantity(name, quantity, &path.key(name), errors);
            }
        }
    }
}

fn validate_taints(taints: &[Taint], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, taint) in taints.iter().enumerate() {
        let path = path.index(at);
        invalid(
            &path.child("key"),
            &taint.key,
            names::qualified_name(&taint.key),
            errors,
        );
        if let Some(value) = &taint.value {
            invalid(
                &path.child("value"),
                value,
                names::label_value(value),
                errors,
            );
        }
        match taint.effect.as_str() {
            "" => errors.push(FieldError::required(&path.child("effect"), "")),
            known if TAINT_EFFECTS.contains(&known) => {}
            other => errors.push(FieldError::not_supported(
                &path.child("effect"),
                other,
                &TAINT_EFFECTS,
            )),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            let value = serde_json::to_value(taint).unwrap_or_default();
            errors.push(FieldError::duplicate(&path, value));
        }
    }
}

fn validate_pod_cidrs(spec: &NodeSpec, path: &Path<'_>, errors: &mut Errors) {
    let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
    for (at, cidr) in cidrs.iter().enumerate() {
        if !is_cidr(cidr) {
            const DETAIL: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&path.index(at), cidr.as_str(), DETAIL));
        }
    }
    if cidrs.len() > 2 {
        const DETAIL: &str = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(path, serde_json::json!(cidrs), DETAIL));
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else {
        return false;
    };
    match (ip.parse::<std::net::IpAddr>(), bits.parse::<u8>()) {
        (Ok(ip), Ok(bits)) => bits <= if ip.is_ipv4() { 32 } else { 128 },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use vaquita_api::registry::Part;
    use vaquita_api::testing::{assert_stable, changed, created, refused, updated};

    fn node() -> Value {
        json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {
                "capacity": {"cpu": 4, "memory": "1024Mi"},
                "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1", "osImage": "Linux"},
            },
        })
    }

    #[test]
    fn keeps_its_status_on_creation_and_prints_it() {
        let node = created(&resource(), node());
        assert_eq!(
            node["status"]["allocatable"],
            json!({"cpu": "4", "memory": "1Gi"})
        );
        assert_eq!(node["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
        assert_stable(&resource(), &node);
        assert_eq!(
            Value::from(resource().row(&node, Timestamp::UNIX_EPOCH)),
            json!([
                "n",
                "Ready",
                "a,control-plane",
                "0s",
                "v1",
                "1.2.3.4",
                "<none>",
                "Linux",
                "<unknown>",
                "<unknown>"
            ])
        );
    }

    #[test]
    fn may_be_cordoned_but_not_moved() {
        let old = created(&resource(), node());
        let new = changed(&old, |node| node["spec"]["unschedulable"] = true.into());
        let new = updated(&resource(), &old, new, Part::Main).unwrap();
        assert_eq!(
            resource().row(&new, Timestamp::UNIX_EPOCH)[1],
            "Ready,SchedulingDisabled"
        );
        let moved = changed(&old, |node| {
            node["spec"] = json!({"podCIDR": "10.1.0.0/24"});
        });
        assert!(updated(&resource(), &old, moved, Part::Main).is_err());
    }

    #[test]
    fn refuses_bad_taints() {
        let taints = json!([{"key": "a", "effect": "Never"}, {"key": "b", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]);
        let errors = refused(
            &resource(),
            json!({"metadata": {"name": "n"}, "spec": {"taints": taints}}),
        );
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with(
            "spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\""
        ));
    }
}
