//! `v1` Node.

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DaemonEndpoint, Node, NodeConfigSource, NodeSpec, NodeStatus};
use serde_json::{Value, json};

use super::{cidr, print, resource_names};
use crate::{Here, PROXY, stored};
use vaquita_api::field::{Errors, FieldError, Path};
use vaquita_api::names;
use vaquita_api::registry::{Kind, Resource, SelectableField};
use vaquita_api::table::Column;
use vaquita_api::validate::metadata::invalid;

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
        if let Some(spec) = &self.spec {
            validate_taints(spec, errors);
        }
        self.validate_resources(errors);
        if let Some(spec) = &self.spec {
            let path = Path::root("spec");
            validate_pod_cidrs(spec, &path.child("podCIDRs"), errors);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate_resources(errors);
        self.validate_addresses(errors);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            validate_change(new, old, &Path::root("spec"), errors);
            validate_taints(new, errors);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut Errors) {
        self.validate_resources(errors);
        self.validate_addresses(errors);
        let config = self
            .status
            .as_ref()
            .and_then(|status| status.config.as_ref());
        let path = Path::root("status");
        let path = path.child("config");
        for (field, source) in config.into_iter().flat_map(|config| {
            [
                ("assigned", &config.assigned),
                ("active", &config.active),
                ("lastKnownGood", &config.last_known_good),
            ]
        }) {
            if let Some(source) = source {
                validate_config(source, ConfigIn::Status, &path.child(field), errors);
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
    fn validate_addresses(&self, errors: &mut Errors);
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
                resource_names::amount(name, quantity, &path.child(name), errors);
            }
        }
    }

    fn validate_addresses(&self, errors: &mut Errors) {
        let path = Path::root("status");
        let path = path.child("addresses");
        let mut seen = HashSet::new();
        let addresses = self
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten());
        for (at, address) in addresses.enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                errors.push(FieldError::duplicate(&path.index(at), json!(address)));
            }
        }
    }
}

/// Nodes keep the addresses of their pods and who provides them, once they know.
fn validate_change(new: &NodeSpec, old: &NodeSpec, path: &Path<'_>, errors: &mut Errors) {
    let ranges = |spec: &NodeSpec| spec.pod_cidrs.clone().unwrap_or_default();
    let (now, before) = (ranges(new), ranges(old));
    if !before.is_empty() && now != before {
        const DETAIL: &str = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("podCIDRs"), DETAIL));
    }
    let provider = |spec: &NodeSpec| spec.provider_id.clone().unwrap_or_default();
    if !provider(old).is_empty() && provider(new) != provider(old) {
        const DETAIL: &str = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("providerID"), DETAIL));
    }
    if let Some(source) = &new.config_source {
        validate_config(source, ConfigIn::Spec, &path.child("configSource"), errors);
    }
    if new.external_id != old.external_id {
        let at = path.child("externalID");
        errors.push(FieldError::forbidden(&at, "may not be updated"));
    }
}

/// Where the configuration of a node agent is named: which version it is, is for the status alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConfigIn {
    Spec,
    Status,
}

/// What a text must look like.
type Check = fn(&str) -> names::Problems;

fn validate_config(
    source: &NodeConfigSource,
    place: ConfigIn,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(map) = &source.config_map else {
        const DETAIL: &str = "exactly one reference subfield must be non-nil";
        errors.push(FieldError::invalid(path, json!(source), DETAIL));
        return;
    };
    let path = path.child("configMap");
    for (field, value) in [
        ("uid", &map.uid),
        ("resourceVersion", &map.resource_version),
    ] {
        let given = value.as_ref().is_some_and(|value| !value.is_empty());
        let at = path.child(field);
        match place {
            ConfigIn::Spec if given => {
                let detail = format!("{field} must not be set in spec");
                errors.push(FieldError::forbidden(&at, detail));
            }
            ConfigIn::Status if !given => {
                let detail = format!("{field} must be set in status");
                errors.push(FieldError::required(&at, detail));
            }
            _ => {}
        }
    }
    let fields: [(&str, &str, Check); 3] = [
        ("namespace", &map.namespace, names::dns1123_label),
        ("name", &map.name, names::dns1123_subdomain),
        (
            "kubeletConfigKey",
            &map.kubelet_config_key,
            names::config_map_key,
        ),
    ];
    for (field, value, check) in fields {
        let at = path.child(field);
        if value.is_empty() {
            errors.push(FieldError::required(&at, format!("{field} must be set")));
        } else {
            invalid(&at, value, check(value), errors);
        }
    }
}

/// Mistakes in taints are reported as if these were metadata, as upstream does.
fn validate_taints(spec: &NodeSpec, errors: &mut Errors) {
    let path = Path::root("metadata");
    let path = path.child("taints");
    let mut seen = HashSet::new();
    for (at, taint) in spec.taints.iter().flatten().enumerate() {
        let path = path.index(at);
        let key = path.child("key");
        invalid(&key, &taint.key, names::qualified_name(&taint.key), errors);
        let value = taint.value.as_deref().unwrap_or_default();
        let problems = names::label_value(value);
        if !problems.is_empty() {
            let detail = problems.join(";");
            errors.push(FieldError::invalid(&path.child("value"), value, detail));
        }
        let effect = path.child("effect");
        match taint.effect.as_str() {
            "" => errors.push(FieldError::required(&effect, "")),
            known if TAINT_EFFECTS.contains(&known) => {}
            other => errors.push(FieldError::not_supported(&effect, other, &TAINT_EFFECTS)),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            const DETAIL: &str = "taints must be unique by key and effect pair";
            let error = FieldError::duplicate(&path, json!(taint));
            errors.push(error.with_detail(DETAIL));
        }
    }
}

fn validate_pod_cidrs(spec: &NodeSpec, path: &Path<'_>, errors: &mut Errors) {
    let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
    let families: Vec<Option<bool>> = cidrs.iter().map(|cidr| cidr::family(cidr)).collect();
    for (at, cidr) in cidrs.iter().enumerate() {
        if families[at].is_none() {
            let path = path.index(at);
            errors.push(FieldError::invalid(&path, cidr.as_str(), cidr::NOT_A_CIDR));
        }
    }
    if cidrs.len() < 2 {
        return;
    }
    let of_version = |v4: bool| {
        families
            .iter()
            .filter(|family| **family == Some(v4))
            .count()
    };
    if of_version(true) != 1 || of_version(false) != 1 {
        const DETAIL: &str = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(path, json!(cidrs), DETAIL));
    }
    for (at, cidr) in cidrs.iter().enumerate() {
        if cidrs[..at].contains(cidr) {
            errors.push(FieldError::duplicate(&path.index(at), cidr.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
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
            "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\""
        ));
        assert!(errors[1].ends_with(": taints must be unique by key and effect pair"));
    }
}
